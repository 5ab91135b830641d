/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * cgroup_skb/egress: what no socket hook has judged is judged by its packets, and what is a DNS query goes to query.bpf.h.
 */
#ifndef BLACKSTART_PACKET_H
#define BLACKSTART_PACKET_H

/* A packet of a socket that no hook has judged: raw and ping sockets, subflows. And one of a socket that a hook has
 * judged, with options in which another way may be written: where it goes next is a destination of its own. */
__noinline int bs_backstop(__u64 cookie, struct bs_header *h, struct bs_socket *st, __u32 generation)
{
	struct bs_attempt a = {};

	if (!h)
		return BS_PASS;
	/* The same destination again: the verdict stands, and is not another attempt. */
	if (st && st->verdict && st->protocol == h->protocol && st->port == h->dest_port &&
	    st->addr[3] == h->dest[3] && st->addr[2] == h->dest[2] && st->addr[1] == h->dest[1] &&
	    st->addr[0] == h->dest[0])
		return st->verdict == BS_DENY ? BS_DROP : BS_PASS;
	a.generation = generation;
	a.subject = st ? st->subject : 0;
	a.selectors = bs_selectors_of(a.subject, generation);
	a.addr[0] = h->dest[0];
	a.addr[1] = h->dest[1];
	a.addr[2] = h->dest[2];
	a.addr[3] = h->dest[3];
	a.port = h->dest_port;
	a.protocol = h->protocol;
	a.backstop = 1;
	bs_judge(&a);
	a.kept = bs_record(&a);
	/* A TCP socket that no hook saw is the kernel's own (a subflow), and no hook will see it closed. */
	if (h->stream && !(st && st->hooked))
		return a.verdict == BS_DENY ? BS_DROP : BS_PASS;
	if (!st)
		st = bs_socket_new(cookie);
	if (st) {
		bs_socket_set(st, &a, 0);
		st->kept = *(volatile __u8 *)&a.kept;
	}
	return a.verdict == BS_DENY ? BS_DROP : BS_PASS;
}

/* A packet of a turned connection: with the first, it is known where that comes from. A global function, for the sake of
 * bs_egress's stack. */
__noinline int bs_forward_leaves(struct __sk_buff *skb, struct bs_socket *st)
{
	struct bs_forwarded_key from = {};
	struct bs_header h = {};
	__u64 cookie;

	if (!st || bs_header_read(skb, &h) || (h.tcp_flags & 0x12) != 0x02)
		return 0;
	__builtin_memcpy(from.addr, h.source, 16);
	from.port = st->source_port = h.source_port;
	cookie = bpf_get_socket_cookie(skb);
	return bpf_map_update_elem(&bs_forwarded, &from, &cookie, BPF_ANY);
}

/* Is a datagram of a socket that a hook has judged to be lost? The last verdict is that of the last send with an address;
 * what goes to the peer has the peer's. What is rewritten on the way may be either, and is lost if one of them is. */
__noinline int bs_is_lost(struct __sk_buff *skb, struct bs_header *h, struct bs_socket *st)
{
	struct bpf_sock *sk = skb->sk;
	__u32 last, peer, port, differs;

	if (!h || !st || !sk || !(sk = bpf_sk_fullsock(sk)))
		return 0;
	last = st->verdict == BS_DENY;
	peer = st->peer_lost;
	port = sk->dst_port;
	if (!port || last == peer)
		return last;
	if (port == bpf_htons(h->dest_port) || h->odd) {
		if (sk->family == BS_AF_INET)
			differs = sk->dst_ip4 ^ h->dest[3];
		else
			differs = (sk->dst_ip6[0] ^ h->dest[0]) | (sk->dst_ip6[1] ^ h->dest[1]) |
				  (sk->dst_ip6[2] ^ h->dest[2]) | (sk->dst_ip6[3] ^ h->dest[3]);
		if (!differs)
			return peer;
	}
	differs = (st->port ^ h->dest_port) | (st->addr[0] ^ h->dest[0]) | (st->addr[1] ^ h->dest[1]) |
		  (st->addr[2] ^ h->dest[2]) | (st->addr[3] ^ h->dest[3]);
	return differs || last;
}

/* Is a datagram to be lost that goes neither where the last send was judged for nor, as far as hooks know, to the peer? It
 * was rewritten on the way; or another send or connect came between the judgement and it, as one can that is held back
 * (UDP_CORK). Everything else that is denied is refused before there is a packet. */
__noinline int bs_is_lost_elsewhere(struct bs_header *h, struct bs_socket *st, __u32 generation)
{
	struct bs_attempt a = {};

	if (!h || !st)
		return 0;
	if (!((st->port ^ h->dest_port) | (st->addr[0] ^ h->dest[0]) | (st->addr[1] ^ h->dest[1]) |
	      (st->addr[2] ^ h->dest[2]) | (st->addr[3] ^ h->dest[3])))
		return 0;
	a.generation = generation;
	a.subject = st->subject;
	a.selectors = bs_selectors_of(a.subject, generation);
	a.addr[0] = h->dest[0];
	a.addr[1] = h->dest[1];
	a.addr[2] = h->dest[2];
	a.addr[3] = h->dest[3];
	a.port = h->dest_port;
	a.protocol = h->protocol;
	bs_judge(&a);
	return a.verdict == BS_DENY && a.failure == BS_BLACKHOLE;
}

/* May another way be written in the packet: options of IPv4, extension headers of IPv6 before the transport header? */
static __always_inline int bs_may_detour(struct __sk_buff *skb)
{
	const __u8 *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 next;

	if (data + 7 > end)
		return 1;
	if (data[0] >> 4 == 4)
		return data[0] != 0x45;
	next = data[6];
	return next != IPPROTO_TCP && next != IPPROTO_UDP;
}

/* A packet of a datagram socket, of a socket that no hook has judged, or one with another way in it. */
static __always_inline int bs_packet(struct __sk_buff *skb, struct bs_socket *st)
{
	struct bpf_sock *sk = skb->sk;
	struct bs_header h = {};
	struct bs_lease *source;
	__u32 protocol, certain, verdict, peer_port, generation = bs_generation();

	if (!sk || !(sk = bpf_sk_fullsock(sk)))
		return BS_PASS;
	protocol = sk->protocol;
	barrier_var(protocol); /* else the compiler moves arithmetic on the pointer, which is refused */
	peer_port = sk->dst_port; /* that a datagram socket is connected to: as asked for, whatever becomes of packets */
	barrier_var(peer_port);
	h.stream = protocol == IPPROTO_TCP && sk->type == SOCK_STREAM;
	if (bs_header_read(skb, &h))
		return bs_enforcing(generation) && policies[generation & 1].default_deny ? BS_DROP : BS_PASS;
	/*
	 * Nobody of the run speaks for its resolvers: who can bind their address, or write raw packets, could
	 * otherwise answer itself into a lease.
	 */
	if (policies[generation & 1].default_deny && h.source_port == 53 && !h.stream &&
	    (source = bpf_map_lookup_elem(&bs_leases, h.source)) && source->known & BS_KNOWN_RESOLVER) {
		BS_COUNT(answers_forged, 1);
		return bs_enforcing(generation) ? BS_DROP : BS_PASS;
	}
	if (st && st->hooked) {
		if (!h.stream && (bs_is_lost(skb, &h, st) || bs_is_lost_elsewhere(&h, st, generation)))
			return BS_LOSE;
		if (h.odd) {
			/* The socket's, since the packet does not show them. */
			h.dest_port = st->port;
			h.protocol = st->protocol;
		}
		/* A peer at port 0 was judged by no hook (bs_reach), and a send to somebody else makes nothing of that. */
		if (h.odd || !h.dest_port)
			if (bs_backstop(bpf_get_socket_cookie(skb), &h, st, generation) == BS_DROP)
				return BS_DROP;
	} else {
		/* Accepted sockets have no verdict and need none: only the packet that opens a connection. */
		if (h.stream && (h.tcp_flags & 0x12) != 0x02)
			return BS_PASS;
		if (bs_backstop(bpf_get_socket_cookie(skb), &h, st, generation) == BS_DROP)
			return BS_DROP;
		st = bs_socket_find(bpf_get_socket_cookie(skb));
	}
	if (st)
		__sync_fetch_and_add(&st->bytes, skb->len);
	/* A v6 extension header hides the protocol: then the socket's own counts. */
	if (h.protocol == IPPROTO_UDP || protocol == IPPROTO_UDP || (h.hidden && !h.stream)) {
		certain = h.dest_port == 53 || (h.odd && (!st || st->dns || protocol != IPPROTO_UDP));
		if (certain || (st && st->dns && st->port == 53)) {
			certain |= peer_port == bpf_htons(53);
			verdict = bs_query(skb, &h, st, certain, generation);
			/* 0 to 3, which the verifier does not see of a global function. */
			BS_MASK(verdict, 3);
			return verdict;
		}
	}
	return BS_PASS;
}

/* message.bpf.h: is a packet to be lost for what a connection says in it? */
static __always_inline int bs_claim_leaves(struct __sk_buff *skb, struct bs_socket *st);
/* Also there: does a further request begin with this packet, that is not read? */
int bs_claim_later(struct __sk_buff *skb, struct bs_socket *st);

/* When: any packet leaves a socket of the run, after routing and DNAT. Writes: queries, names, pending, forwarded, and
 * for unjudged sockets and for heads that bs_message does not see flows and parts. A drop is EPERM for a datagram's sender. Fails closed for DNS in enforce.
 * 96 octets of stack are all it may have: up to 6.7 each call of a chain is rounded up to 32, the deepest one from here comes to 416 more, and 512 are the
 * limit. Newer kernels are less strict, so that only the matrix shows it. */
SEC("cgroup_skb/egress")
int bs_egress(struct __sk_buff *skb)
{
	struct bs_socket *st;
	__u64 cookie;

	if (!skb->sk)
		return BS_PASS;
	cookie = bpf_get_socket_cookie(skb);
	st = bs_socket_find(cookie);
	if (st && st->hooked) {
		/* The socket hooks see no raw socket: this is a connection. */
		if (st->protocol == IPPROTO_TCP) {
			/* Refused, and not to be told so. */
			if (st->verdict == BS_DENY)
				return BS_LOSE;
			if (forward.netns && st->forwarded)
				bs_forward_leaves(skb, st);
			/* What bs_message does not read: what is sent with the SYN or by the call that connects, and later
			 * requests. */
			if (!spared.claims) {
				if ((st->since || st->claim == BS_CLAIM_FIRST || bs_claim_reads(st)) &&
				    bs_claim_leaves(skb, st))
					return BS_LOSE;
				if (st->claim == BS_CLAIM_ASKED)
					bs_claim_later(skb, st);
			}
			if (!bs_may_detour(skb)) {
				__sync_fetch_and_add(&st->bytes, skb->len);
				return BS_PASS;
			}
		}
	}
	return bs_packet(skb, st);
}

#endif
