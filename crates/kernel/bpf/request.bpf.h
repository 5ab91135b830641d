/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * The head of an HTTP/1 request (RFC 9112): whom it is for. To a proxy that stands in the request's first line, `CONNECT
 * host:port` or a whole address; to a server in Host, in whatever line. What follows the head is not read, but how long it
 * is: behind it another request may begin.
 */
#ifndef BLACKSTART_REQUEST_H
#define BLACKSTART_REQUEST_H

enum {
	BS_REQUEST_WORDS = BS_HEAD_MOST / 8 + 512, /* of eight octets; a line may begin within one */
	BS_AUTHORITY_MOST = 300,
};

/* Eight octets as a number, as they lie in memory. */
#define BS_TEXT(a, b, c, d, e, f, g, h)                                                                     \
	((__u64)(a) | (__u64)(b) << 8 | (__u64)(c) << 16 | (__u64)(d) << 24 | (__u64)(e) << 32 |            \
	 (__u64)(f) << 40 | (__u64)(g) << 48 | (__u64)(h) << 56)
#define BS_FIRST(n) (-1ULL >> (64 - 8 * (n)))

/* Up to eight octets at a place; the rest is 0. */
static __always_inline __u64 bs_octets_at(struct bs_head *h, __u64 at)
{
	__u64 octets = 0, n;

	if (at >= h->size)
		return 0;
	n = h->size - at;
	if (n > 8)
		n = 8;
	n--;
	BS_MASK(n, 7);
	bpf_probe_read_kernel(&octets, n + 1, (void *)(h->base + at));
	return octets;
}

/* Does it begin with a method, as far as it is there? The length of that with its space, or 0. Only known ones: of others
 * nobody could tell whether more is to come. */
static __always_inline __u32 bs_method(__u64 first, __u32 size)
{
	__u64 there = size < 8 ? -1ULL >> ((64 - 8 * size) & 63) : -1ULL;

#define BS_METHOD(n, text)                                      \
	if (!((first ^ (text)) & BS_FIRST(n) & there))          \
		return (n);
	BS_METHOD(4, BS_TEXT('G', 'E', 'T', ' ', 0, 0, 0, 0))
	BS_METHOD(4, BS_TEXT('P', 'U', 'T', ' ', 0, 0, 0, 0))
	BS_METHOD(5, BS_TEXT('P', 'O', 'S', 'T', ' ', 0, 0, 0))
	BS_METHOD(5, BS_TEXT('H', 'E', 'A', 'D', ' ', 0, 0, 0))
	BS_METHOD(6, BS_TEXT('P', 'A', 'T', 'C', 'H', ' ', 0, 0))
	BS_METHOD(6, BS_TEXT('T', 'R', 'A', 'C', 'E', ' ', 0, 0))
	BS_METHOD(7, BS_TEXT('D', 'E', 'L', 'E', 'T', 'E', ' ', 0))
	BS_METHOD(8, BS_TEXT('O', 'P', 'T', 'I', 'O', 'N', 'S', ' '))
	BS_METHOD(8, BS_TEXT('C', 'O', 'N', 'N', 'E', 'C', 'T', ' '))
#undef BS_METHOD
	return 0;
}

/* One octet further in the digits of a number. */
static long bs_number_step(__u32 index, struct bs_head **of)
{
	struct bs_head *h = *of;
	int octet = bs_octet_at(h, h->at);

	h->at++;
	if (octet >= '0' && octet <= '9' && h->seen < 12 && !h->mark) {
		h->length = h->length * 10 + octet - '0';
		h->seen++;
		return 0;
	}
	if (octet == ' ' || octet == '\t') {
		h->mark = h->seen;
		return 0;
	}
	/* Behind it the line ends, or is blank up to its end; several numbers are none. */
	h->fails = !h->seen || (octet != '\r' && octet != '\n');
	return 1;
}

/* The number at a place, for h->length; 0, or -1. */
static __always_inline int bs_number(struct bs_head *h, __u32 at)
{
	__u32 back = h->at;

	h->at = at;
	h->length = 0;
	h->mark = 0;
	h->seen = 0;
	h->fails = 1;
	bpf_loop(32, bs_number_step, &h, 0);
	h->at = back;
	return h->fails ? -1 : 0;
}

/* A line begins at h->at. 0 to go on, 1 if it is the blank one at the end, or must not be gone on. */
__noinline int bs_request_line(struct bs_head *h)
{
	__u64 first, second, third;
	__u32 at;

	if (!h)
		return 1;
	at = h->at;
	first = bs_octets_at(h, at);
	if (!h->line) {
		/* The end of the first line says what it is. */
		__u64 behind = at >= 11 && bs_octet_at(h, at - 2) == '\r' ? 10 : 9, version;

		h->line = 1; /* 2 once a length was seen */
		version = at >= 13 ? bs_octets_at(h, at - behind) : 0;
		if ((version ^ BS_TEXT('H', 'T', 'T', 'P', '/', '1', '.', 0)) & BS_FIRST(7)) {
			h->state = BS_HEAD_ODD;
			return 1;
		}
	}
	if ((first & 0xff) == '\n' || (first & 0xffff) == BS_TEXT('\r', '\n', 0, 0, 0, 0, 0, 0)) {
		h->tail = at + ((first & 0xff) == '\n' ? 1 : 2);
		h->state = BS_HEAD_READ;
		return 1;
	}
	first = bs_octets_lower(first);
	if (!((first ^ BS_TEXT('h', 'o', 's', 't', ':', 0, 0, 0)) & BS_FIRST(5))) {
		/* Whom a second one would speak to, servers do not agree about. */
		if (h->host) {
			h->state = BS_HEAD_ODD;
			return 1;
		}
		h->host = at + 5;
		return 0;
	}
	if (first == BS_TEXT('c', 'o', 'n', 't', 'e', 'n', 't', '-')) {
		second = bs_octets_lower(bs_octets_at(h, (__u64)at + 8));
		if ((second ^ BS_TEXT('l', 'e', 'n', 'g', 't', 'h', ':', 0)) & BS_FIRST(7))
			return 0;
		/* Said once, and as a number. */
		if (h->line > 1 || bs_number(h, at + 15))
			h->endless = 1;
		h->line = 2;
		return 0;
	}
	if (first == BS_TEXT('t', 'r', 'a', 'n', 's', 'f', 'e', 'r')) {
		second = bs_octets_lower(bs_octets_at(h, (__u64)at + 8));
		third = bs_octets_lower(bs_octets_at(h, (__u64)at + 16));
		if (second == BS_TEXT('-', 'e', 'n', 'c', 'o', 'd', 'i', 'n') &&
		    !((third ^ BS_TEXT('g', ':', 0, 0, 0, 0, 0, 0)) & BS_FIRST(2)))
			h->endless = 1;
		return 0;
	}
	/* What follows is another protocol's. */
	if (first == BS_TEXT('u', 'p', 'g', 'r', 'a', 'd', 'e', ':'))
		h->endless = 1;
	return 0;
}

/* Eight octets further, or to behind the end of a line in them. */
static long bs_request_step(__u32 index, struct bs_head **of)
{
	struct bs_head *h = *of;
	__u64 octets, ends;
	int last;

	if (h->at >= h->size)
		return 1;
	octets = bs_octets_at(h, h->at) ^ BS_EACH('\n');
	ends = (octets - BS_EACH(1)) & ~octets & BS_EACH(0x80);
	if (!ends) {
		h->at += 8;
		return 0;
	}
	/* Behind the first of them: all bits up to its highest, one for each octet, added up. */
	h->at += (((ends ^ (ends - 1)) & BS_EACH(1)) * BS_EACH(1)) >> 56;
	last = bs_request_line(h);
	BS_BIT(last);
	return last;
}

/* One octet further in `user@host:port` or `[address]:port`. */
static long bs_authority_step(__u32 index, struct bs_head **of)
{
	struct bs_head *h = *of;
	int octet = bs_octet_at(h, h->at);

	switch (octet) {
	case ' ':
	case '\t':
		/* Before the value of Host. */
		if (!h->text_len && !h->mark && h->state != '[') {
			h->at++;
			h->text = h->at;
			return 0;
		}
		return 1;
	case -1:
	case '\r':
	case '\n':
	case '/':
	case '?':
	case '#':
	case ',':
		return 1;
	case '@':
		h->text = h->at + 1;
		h->text_len = 0;
		h->mark = 0;
		h->state = 0;
		break;
	case '[':
		h->text = h->at + 1;
		h->state = '[';
		break;
	case ']':
		h->text_len = h->at - h->text;
		h->state = ']';
		break;
	case ':':
		if (h->state != '[')
			h->mark = h->at + 1;
		break;
	default:
		/* The last octet of the host so far. */
		if (!h->mark && h->state != ']')
			h->text_len = h->at + 1 - h->text;
	}
	h->at++;
	return 0;
}

/* One octet further in a port. */
static long bs_port_step(__u32 index, struct bs_head **of)
{
	struct bs_head *h = *of;
	int octet = bs_octet_at(h, (__u64)h->mark + index);

	if (octet < '0' || octet > '9' || h->value > 6553) {
		h->fails = 1;
		return 1;
	}
	h->value = h->value * 10 + octet - '0';
	h->fails = h->value > 65535;
	return h->fails != 0;
}

/* Whom the text at h->at is about; 0, or -1 if that cannot be told. */
__noinline int bs_authority(struct bs_head *h)
{
	__u32 bracket, begins;

	if (!h)
		return -1;
	h->text = begins = h->at;
	h->text_len = 0;
	h->mark = 0;
	h->state = 0;
	bpf_loop(BS_AUTHORITY_MOST, bs_authority_step, &h, 0);
	/* What goes on may make of all this but the user's part, in front of an @. */
	if (h->at - begins >= BS_AUTHORITY_MOST)
		return -1;
	bracket = h->state;
	if (h->mark && h->mark < h->at) {
		h->value = h->fails = 0;
		bpf_loop(h->at - h->mark, bs_port_step, &h, 0);
		if (h->fails || !h->value)
			return -1;
		h->port = h->value;
	}
	h->names = BS_NAMES_ADDRESS;
	if (bracket == '[')
		return -1;
	if (bracket == ']')
		return bs_head_v6(h) ? 0 : -1;
	if (bs_head_v4(h))
		return 0;
	h->names = BS_NAMES_NAME;
	return bs_head_name(h);
}

/* The first line is for a proxy: whom it is to ask. 0, or -1. */
static __always_inline int bs_target(struct bs_head *h, __u32 at, int connects)
{
	__u64 scheme, begin = 0;

	h->elsewhere = 1;
	h->at = at;
	if (connects) {
		h->tunnel = 1;
		return bs_authority(h) || !h->port ? -1 : 0;
	}
	scheme = bs_octets_lower(bs_octets_at(h, at));
	if (!((scheme ^ BS_TEXT('h', 't', 't', 'p', ':', '/', '/', 0)) & BS_FIRST(7))) {
		begin = 7;
		h->port = 80;
	} else if (scheme == BS_TEXT('h', 't', 't', 'p', 's', ':', '/', '/')) {
		begin = 8;
		h->port = 443;
	} else if (!((scheme ^ BS_TEXT('f', 't', 'p', ':', '/', '/', 0, 0)) & BS_FIRST(6))) {
		begin = 6;
		h->port = 21;
	}
	if (!begin)
		return -1;
	h->at = at + begin;
	return bs_authority(h);
}

/* enum bs_head_found. */
__noinline int bs_request_read(struct bs_head *h)
{
	__u64 first;
	__u32 method;
	int octet;

	if (!h || !h->size)
		return BS_HEAD_ODD;
	first = bs_octets_at(h, 0);
	method = bs_method(first, h->size);
	if (!method)
		return BS_HEAD_ODD;
	h->host = h->length = 0;
	h->line = 0;
	h->state = BS_HEAD_MORE;
	bpf_loop(BS_REQUEST_WORDS, bs_request_step, &h, 0);
	if (h->state != BS_HEAD_READ) {
		h->wanted = h->size + 1;
		return h->state == BS_HEAD_MORE && h->size < BS_HEAD_MOST ? BS_HEAD_MORE : BS_HEAD_ODD;
	}
	octet = bs_octet_at(h, method);
	if (octet == '/' || octet == '*') {
		if (!h->host)
			return BS_HEAD_READ;
		h->at = h->host;
		if (bs_authority(h))
			return BS_HEAD_ODD;
		/* An address is no name, and that of the connection is known. */
		if (h->names == BS_NAMES_ADDRESS)
			h->names = BS_NAMES_NOBODY;
		return BS_HEAD_READ;
	}
	return bs_target(h, method, (first & 0xff) == 'C') ? BS_HEAD_ODD : BS_HEAD_READ;
}

/* What a connection sends, from its first octet or from that behind a request: enum bs_head_found. h->base and h->size say
 * where it lies. In line, for the calls from here are as deep as the kernel follows. */
static __always_inline int bs_head_read(struct bs_head *h, int again)
{
	h->at = h->wanted = h->tail = h->port = 0;
	h->names = h->tls = h->elsewhere = h->tunnel = h->hidden = h->endless = 0;
	h->length = 0;
	if (!again && bs_octet_at(h, 0) == BS_TLS_HANDSHAKE)
		return bs_hello_read(h);
	return bs_request_read(h);
}

#endif
