/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * A TLS client's hello (RFC 8446, 4.1.2; RFC 6066, 3): the server name in it, wherever it stands, in a hello as large as
 * one record. One that is cut into several records is not read; no client that is known does that unasked.
 */
#ifndef BLACKSTART_HELLO_H
#define BLACKSTART_HELLO_H

enum {
	BS_TLS_HANDSHAKE = 22,
	BS_TLS_CLIENT_HELLO = 1,
	BS_TLS_RECORD = 5,    /* octets of a record's header */
	BS_TLS_LARGEST = 16384,
	BS_TLS_EXTENSIONS = 128,
	BS_TLS_SERVER_NAME = 0,
	BS_TLS_ENCRYPTED_HELLO = 0xfe0d,
};

/* The server names' extension: the one host name in it. */
static __always_inline int bs_hello_names(struct bs_head *h, __u32 end)
{
	__u32 list, kind, len;

	if (bs_take_16(h, &list) || h->at + list != end)
		return -1;
	if (bs_take_8(h, &kind) || bs_take_16(h, &len) || kind || h->at + len != end)
		return -1;
	h->text = h->at;
	h->text_len = len;
	return 0;
}

/* One extension. 0 to go on. */
static long bs_hello_extension(__u32 index, struct bs_head **of)
{
	struct bs_head *h = *of;
	__u32 kind, len, end;

	if (h->at == h->end)
		return 1;
	h->fails = 1;
	if (bs_take_16(h, &kind) || bs_take_16(h, &len) || (end = h->at + len) > h->end)
		return 1;
	if (kind == BS_TLS_SERVER_NAME) {
		if (h->seen || bs_hello_names(h, end))
			return 1;
		h->seen = 1;
	} else if (kind == BS_TLS_ENCRYPTED_HELLO) {
		h->hidden = 1;
	}
	h->at = end;
	h->fails = 0;
	return 0;
}

/* What stands before the extensions. 0, or -1. */
static __always_inline int bs_hello_begin(struct bs_head *h)
{
	__u32 len;

	h->at += 2 + 32; /* version, random */
	if (bs_take_8(h, &len)) /* session */
		return -1;
	h->at += len;
	if (bs_take_16(h, &len)) /* ciphers */
		return -1;
	h->at += len;
	if (bs_take_8(h, &len)) /* compression */
		return -1;
	h->at += len;
	if (h->at == h->end)
		return 0; /* without extensions */
	return bs_take_16(h, &len) || h->at + len != h->end ? -1 : 0;
}

/* enum bs_head_found; to be asked if the first octet is BS_TLS_HANDSHAKE. */
__noinline int bs_hello_read(struct bs_head *h)
{
	__u32 kind, version, record, hello, high;

	if (!h)
		return BS_HEAD_ODD;
	h->end = h->size;
	h->tls = 1;
	if (h->size < BS_TLS_RECORD) {
		h->wanted = BS_TLS_RECORD;
		return h->size < 2 || bs_octet_at(h, 1) == 3 ? BS_HEAD_MORE : BS_HEAD_ODD;
	}
	if (bs_take_8(h, &kind) || bs_take_16(h, &version) || bs_take_16(h, &record))
		return BS_HEAD_ODD;
	if (version >> 8 != 3 || record < 4 || record > BS_TLS_LARGEST)
		return BS_HEAD_ODD;
	if (h->size > BS_TLS_RECORD && bs_octet_at(h, BS_TLS_RECORD) != BS_TLS_CLIENT_HELLO)
		return BS_HEAD_ODD;
	if (h->size < BS_TLS_RECORD + record) {
		h->wanted = BS_TLS_RECORD + record;
		return BS_HEAD_MORE;
	}
	if (bs_take_8(h, &kind) || bs_take_8(h, &high) || bs_take_16(h, &hello))
		return BS_HEAD_ODD;
	if (high || hello + 4 != record)
		return BS_HEAD_ODD;
	h->end = h->at + hello;
	h->seen = h->fails = 0;
	if (bs_hello_begin(h))
		return BS_HEAD_ODD;
	bpf_loop(BS_TLS_EXTENSIONS, bs_hello_extension, &h, 0);
	if (h->fails || h->at != h->end)
		return BS_HEAD_ODD;
	/* An address is no name (RFC 6066, 3): the server takes it for none. */
	if (h->seen && !bs_head_v4(h)) {
		if (bs_head_name(h))
			return BS_HEAD_ODD;
		h->names = BS_NAMES_NAME;
	}
	return BS_HEAD_READ;
}

#endif
