/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * Reading what a connection sends first: the octets where they lie, and the names and addresses in them.
 *
 * The place of the octets is kept as a number and read by a helper that survives any address. So the verifier follows no
 * pointer into them, and every bound is a comparison of two numbers in memory: what is read is told apart at run time, and
 * not along each way through the parser.
 */
#ifndef BLACKSTART_HEAD_H
#define BLACKSTART_HEAD_H

enum { BS_NAME_TEXT = 254 }; /* a name with its last dot */

enum bs_head_found {
	BS_HEAD_ODD = 0,  /* not to be read */
	BS_HEAD_MORE = 1, /* `wanted` octets are needed */
	BS_HEAD_READ = 2,
};

/* Whom it names. */
enum bs_head_names {
	BS_NAMES_NOBODY = 0,
	BS_NAMES_NAME = 1,
	BS_NAMES_ADDRESS = 2,
};

/* A head, and what reading it leaves behind. Too large for the stack: lies in scratch that its user owns. */
struct bs_head {
	__u64 claimed;
	__u64 base; /* of the octets */
	__u64 length; /* of what follows the head and belongs to it */
	__u32 size; /* octets there are */
	__u32 end;  /* of the part that is being read */
	__u32 at;
	__u32 wanted;
	/* out */
	__u32 addr[4];
	__u32 tail;   /* of a request: where it ends */
	__u16 port;   /* that is named with it; 0 none */
	__u8 names;   /* enum bs_head_names */
	__u8 tls;
	__u8 elsewhere; /* a proxy is asked for a destination of its own */
	__u8 tunnel;    /* what follows goes there unread by the proxy */
	__u8 hidden;    /* another name may stand in what is encrypted */
	__u8 endless;   /* how long what follows is, cannot be told */
	/* between the parts */
	__u32 text;     /* where a name's text begins, */
	__u32 text_len; /* and how long it is */
	__u32 host;     /* where the value of Host begins; 0 none */
	__u32 count;
	__u32 value;
	__u32 mark;
	__u8 state;
	__u8 seen;
	__u8 fails;
	__u8 line;
	struct bs_reading read;
};

/* The next `n` octets. 0, or -1 if there are fewer before the end. */
static __always_inline int bs_take(struct bs_head *h, void *to, __u32 n)
{
	__u64 at = h->at;

	if (at + n > h->end || bpf_probe_read_kernel(to, n, (void *)(h->base + at)))
		return -1;
	h->at = at + n;
	return 0;
}

static __always_inline int bs_take_8(struct bs_head *h, __u32 *value)
{
	__u8 octet;

	if (bs_take(h, &octet, 1))
		return -1;
	*value = octet;
	return 0;
}

static __always_inline int bs_take_16(struct bs_head *h, __u32 *value)
{
	__u16 octets;

	if (bs_take(h, &octets, 2))
		return -1;
	*value = bpf_ntohs(octets);
	return 0;
}

/* The octet at a place, or -1. */
static __always_inline int bs_octet_at(struct bs_head *h, __u64 at)
{
	__u8 octet;

	if (at >= h->size || bpf_probe_read_kernel(&octet, 1, (void *)(h->base + at)))
		return -1;
	return octet;
}

/* From the last octet of a name's text to the first: a dot becomes the length of the label behind it. */
static long bs_label_step(__u32 index, struct bs_head **of)
{
	struct bs_head *h = *of;
	__u64 at = h->text_len - index;
	__u32 octet;

	BS_MASK(at, 255);
	octet = h->read.name.wire[at];
	if (octet == '.') {
		h->read.name.wire[at] = h->count;
		h->count = 0;
	} else {
		h->count++;
	}
	return 0;
}

/* The name whose text was found, as lookups have it. 0, or -1 for one that no lookup could have. */
__noinline int bs_head_name(struct bs_head *h)
{
	__u64 n;
	int last;

	if (!h)
		return -1;
	n = h->text_len;
	if (!n || n > BS_NAME_TEXT)
		return -1;
	last = bs_octet_at(h, (__u64)h->text + n - 1);
	if (last == '.')
		n--;
	if (!n || n > BS_NAME_TEXT - 1)
		return -1;
	h->text_len = n;
	n--;
	BS_MASK(n, 255);
	if (n > BS_NAME_TEXT - 2 || bpf_probe_read_kernel(h->read.name.wire + 1, n + 1, (void *)(h->base + h->text)))
		return -1;
	h->count = 0;
	bpf_loop(h->text_len, bs_label_step, &h, 0);
	h->read.name.wire[0] = h->count;
	n = h->text_len + 1;
	BS_MASK(n, 255);
	h->read.name.wire[n] = 0;
	/* An empty label would end the name before its text does. */
	if (bs_name_scan(&h->read) || h->read.name.len != h->text_len + 2)
		return -1;
	return 0;
}

/* One octet further in an IPv4 address: four numbers with dots between. */
static long bs_v4_step(__u32 index, struct bs_head **of)
{
	struct bs_head *h = *of;
	int octet = bs_octet_at(h, (__u64)h->text + index);

	if (octet == '.' && h->seen && h->count < 3) {
		h->mark = h->mark << 8 | h->value;
		h->value = h->seen = 0;
		h->count++;
		return 0;
	}
	/* A number that begins with 0 is octal to some who read it, and decimal to others. */
	if (octet < '0' || octet > '9' || h->seen >= 3 || (h->seen && !h->value)) {
		h->fails = 1;
		return 1;
	}
	h->value = h->value * 10 + octet - '0';
	h->seen++;
	if (h->value > 255)
		h->fails = 1;
	return h->fails != 0;
}

/* Is the text an IPv4 address? 1, with h->addr. */
__noinline int bs_head_v4(struct bs_head *h)
{
	if (!h || h->text_len < 7 || h->text_len > 15)
		return 0;
	h->count = h->value = h->mark = 0;
	h->seen = h->fails = 0;
	bpf_loop(h->text_len, bs_v4_step, &h, 0);
	if (h->fails || h->count != 3 || !h->seen)
		return 0;
	h->addr[0] = h->addr[1] = 0;
	h->addr[2] = bpf_htonl(0xffff);
	h->addr[3] = bpf_htonl(h->mark << 8 | h->value);
	return 1;
}

/* One octet further in an IPv6 address: groups in hexadecimal, once `::` for as many zeros as lack. `count` groups are
 * written, `mark` is one more than how many of them stand before the `::`. */
static long bs_v6_step(__u32 index, struct bs_head **of)
{
	struct bs_head *h = *of;
	int octet = bs_octet_at(h, (__u64)h->text + index), digit;
	__u64 group = h->count;

	if (octet == ':') {
		/* The second of two, or one behind a group. */
		if (h->state == ':') {
			if (h->mark)
				h->fails = 1;
			h->mark = h->count + 1;
			h->state = 'c';
			return h->fails != 0;
		}
		if (!h->seen && index) {
			h->fails = 1;
			return 1;
		}
		if (h->seen)
			h->count++;
		h->value = h->seen = 0;
		h->state = ':';
		return 0;
	}
	digit = octet >= '0' && octet <= '9' ? octet - '0' :
		(octet | 0x20) >= 'a' && (octet | 0x20) <= 'f' ? (octet | 0x20) - 'a' + 10 : -1;
	if (digit < 0 || h->seen >= 4 || group > 7) {
		h->fails = 1;
		return 1;
	}
	h->value = h->value << 4 | digit;
	h->seen++;
	h->state = 'd';
	BS_MASK(group, 7);
	((__u16 *)h->addr)[group] = bpf_htons(h->value);
	return 0;
}

/* Is the text an IPv6 address? 1, with h->addr. One that ends in the form of IPv4 is not read. */
__noinline int bs_head_v6(struct bs_head *h)
{
	__u16 *groups;
	__u32 written, before, behind;

	if (!h || h->text_len < 2 || h->text_len > 39)
		return 0;
	h->addr[0] = h->addr[1] = h->addr[2] = h->addr[3] = 0;
	h->count = h->value = h->mark = 0;
	h->seen = h->fails = h->state = 0;
	bpf_loop(h->text_len, bs_v6_step, &h, 0);
	/* A single colon at the end, or at the beginning. */
	if (h->fails || h->state == ':' || (bs_octet_at(h, h->text) == ':' && bs_octet_at(h, (__u64)h->text + 1) != ':'))
		return 0;
	written = h->count + (h->seen ? 1 : 0);
	if (!h->mark)
		return written == 8;
	if (written > 7)
		return 0;
	/* Those behind the `::` go to the end, from the last one on. */
	groups = (__u16 *)h->addr;
	before = h->mark - 1;
	behind = written - before;
	for (__u32 i = 0; i < 7; i++) {
		__u64 from = written - 1 - i, to = 7 - i;

		if (i >= behind)
			break;
		BS_MASK(from, 7);
		BS_MASK(to, 7);
		groups[to] = groups[from];
		groups[from] = 0;
	}
	return 1;
}

#endif
