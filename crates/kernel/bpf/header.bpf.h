/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * What a packet's headers say of it: from where to where, of which protocol, and where what it carries begins.
 */
#ifndef BLACKSTART_HEADER_H
#define BLACKSTART_HEADER_H

/* LOSE: dropped, and the sender does not learn of it. */
enum { BS_PASS = 1, BS_DROP = 0, BS_LOSE = 2 };
enum { ETH_P_IP = 0x0800, ETH_P_IPV6 = 0x86dd, BS_AF_INET = 2 };

/* What the network header says, read once. */
struct bs_header {
	__u32 source[4];
	__u32 dest[4];
	__u16 source_port;
	__u16 dest_port;
	__u16 payload; /* offset behind the UDP header; 0 where it could not be told */
	__u8 protocol;
	__u8 odd;      /* options, extension headers or fragments: ports may lie elsewhere */
	__u8 tcp_flags;
	__u8 hidden; /* the protocol is not known */
	__u8 stream; /* of a TCP socket; not of the header, but kept here for lack of stack */
	__u8 pad;
};

/* As far as TCP's flags. */
enum { BS_TRANSPORT = 14, BS_V4 = 20, BS_V6 = 40 };

/* The network header and what follows it, copied, where the packet does not begin with both in one piece. 1 with the
 * transport header, 0 without, -1 without either. */
static __always_inline int bs_header_load(struct __sk_buff *skb, void *raw, __u32 network)
{
	if (!bpf_skb_load_bytes(skb, 0, raw, network + BS_TRANSPORT))
		return 1;
	if (bpf_skb_load_bytes(skb, 0, raw, network))
		return -1;
	__builtin_memset(raw + network, 0, BS_TRANSPORT);
	return !bpf_skb_load_bytes(skb, network, raw + network, 4);
}

/* The fields of the header at `octets`. 0 if it can be told what the packet is. */
static __always_inline int bs_header_fields(struct bs_header *h, const void *header, __u32 network, int transport)
{
	const __u8 *octets = header;
	const __u32 *words = header;
	const __u16 *ports = header + network;

	if (network == BS_V4) {
		h->source[2] = h->dest[2] = bpf_htonl(0xffff);
		h->source[3] = words[3];
		h->dest[3] = words[4];
		h->protocol = octets[9];
		h->odd = octets[0] != 0x45 || (octets[6] & 0x3f) || octets[7];
	} else {
		__builtin_memcpy(h->source, words + 2, 16);
		__builtin_memcpy(h->dest, words + 6, 16);
		h->protocol = octets[6];
		/* RFC 8200, 4: extension headers; what they carry lies behind them, whatever the socket's type. */
		h->hidden = h->protocol == 0 || h->protocol == 43 || h->protocol == 44 || h->protocol == 51 ||
			    h->protocol == 60 || h->protocol == 135 || h->protocol == 139 || h->protocol == 140;
		h->odd = h->hidden;
	}
	if (!h->odd && (h->protocol == IPPROTO_UDP || h->protocol == IPPROTO_TCP || h->protocol == 136)) {
		if (!transport)
			return -1;
		h->source_port = bpf_ntohs(ports[0]);
		h->dest_port = bpf_ntohs(ports[1]);
		if (h->protocol == IPPROTO_UDP)
			h->payload = network + 8;
		if (h->protocol == IPPROTO_TCP)
			h->tcp_flags = octets[network + 13];
	}
	return 0;
}

static __always_inline int bs_header_of(struct __sk_buff *skb, struct bs_header *h, __u32 network)
{
	const void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 raw[(BS_V6 + BS_TRANSPORT + 3) / 4];
	int loaded;

	/* Where it lies, as nearly always: a copy costs as much again. */
	if (data + network + BS_TRANSPORT <= end)
		return bs_header_fields(h, data, network, 1);
	loaded = bs_header_load(skb, raw, network);
	return loaded < 0 ? -1 : bs_header_fields(h, raw, network, loaded);
}

/* A global function: what it found is unknown to the verifier, so that the many ways to find it are one. */
__noinline int bs_header_read(struct __sk_buff *skb, struct bs_header *h)
{
	if (!h)
		return -1;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return bs_header_of(skb, h, BS_V4);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return bs_header_of(skb, h, BS_V6);
	return -1;
}

#endif
