/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * The octets of an answer, and the names in them.
 *
 * The packet is copied once into per-CPU scratch. Datagrams are received with bottom halves off, so no second run can begin
 * on this CPU; but with PREEMPT_RT it can. So the scratch is claimed all the same, and who finds it taken has an
 * answer that cannot be read.
 */
#ifndef BLACKSTART_WIRE_H
#define BLACKSTART_WIRE_H

enum {
	BS_ADDRESSES = 256, /* as many A records as 4096 octets hold */
	BS_FEW = 4,
	BS_LONG = 0x8000,
	BS_CNAMES = 32,     /* resolvers themselves give up at 16 or before */
};

/* What every answer touches stands first and close together. */
struct bs_answer_scratch {
	__u64 claimed;
	struct bs_answer_key key;   /* question's hash, address at hand */
	__u64 head;                 /* hash of the name that the next owner must be */
	__u64 subject;
	__u64 hash;                 /* of the question, while it is read; */
	__u64 hash_label;           /* as in struct bs_reading */
	__u64 bad;
	__u32 head_offset;          /* where that name stands in the packet */
	__u32 len;
	__u32 offset;               /* next record */
	__u32 end;                  /* offset behind the name last taken out */
	__u32 pos;                  /* where the taking stands: next octet, octets left of the label, */
	__u32 start;                /* no pointer may aim at or behind this, */
	__u32 limit;                /* and no octet be taken from there */
	__u32 left;                 /* octets written, the root label seen */
	__u32 out;
	__u32 taken;
	/* Of the policy that judges, and of the one that is coming. */
	__u32 generation;
	__u32 coming;               /* 1: there is one */
	__u32 class_id[2];
	__u32 deny_class[2];
	__u32 denial[2];            /* how strongly that one denies */
	__u32 steps;                /* CNAMEs followed */
	__u32 found;                /* addresses, leased once the whole section was read */
	__u32 leased;
	__u32 until;                /* of its leases */
	__u32 broken;
	__u32 ttl;                  /* the least of the records that count */
	struct bs_answer fresh;
	__u16 address[BS_ADDRESSES]; /* where they stand in the packet; BS_LONG with those of 16 octets */
	__u8 packet[BS_PACKET_MAX]; /* the DNS message */
	struct bs_reading target;   /* a name taken out of it */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bs_answer_scratch);
} bs_scratch SEC(".maps");

/* Looked up anew in each global function, not handed over: 6.1 takes no pointer to plain memory as the key or
 * value of a map helper, which is what a global function's argument is. */
static __always_inline struct bs_answer_scratch *bs_answer_scratch_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&bs_scratch, &zero);
}

static __always_inline __u32 bs_u8(struct bs_answer_scratch *s, __u64 at)
{
	BS_MASK(at, 4095);
	return s->packet[at];
}

static __always_inline __u32 bs_u16(struct bs_answer_scratch *s, __u64 at)
{
	return bs_u8(s, at) << 8 | bs_u8(s, at + 1);
}

/* Four octets of an address, in network order as they stand. */
static __always_inline __u32 bs_word(struct bs_answer_scratch *s, __u64 at)
{
	return bpf_htonl(bs_u16(s, at) << 16 | bs_u16(s, at + 2));
}

/* The next few words of the question, as bs_name_words reads them. */
__noinline int bs_question_words(struct bs_answer_scratch *s)
{
	struct bs_words w;
	__u64 unknown;

	if (!s)
		return -1;
	w.hash = s->hash;
	w.label = s->hash_label;
	w.left = s->left;
	w.bad = s->bad;
	w.at = s->pos;
	w.count = 0;
	unknown = s->head;
	for (__u32 i = 0; i < BS_WORDS_FEW; i++) {
		int done = bs_word_next(s->packet, BS_PACKET_MAX - 1, 12, &w, 0, unknown);

		if (done < 0)
			return -1;
		if (done) {
			s->hash = bs_hash_end(w.hash);
			s->end = w.at;
			return w.bad ? -1 : 1;
		}
	}
	s->hash = w.hash;
	s->hash_label = w.label;
	s->left = w.left;
	s->bad = w.bad;
	s->pos = w.at;
	return 0;
}

/* The hash of the question's name, and where it ends. 0, or -1 as bs_name_scan. Its labels are not asked for, since
 * the class was found when the query went out. */
static __always_inline int bs_question_scan(struct bs_answer_scratch *s)
{
	s->hash = config.name_key;
	s->hash_label = s->left = s->bad = 0;
	s->pos = 12;
	for (__u32 i = 0; i < BS_LABELS / BS_WORDS_FEW + 1; i++) {
		int done = bs_question_words(s);

		if (done)
			return done < 0 ? -1 : 0;
	}
	return -1;
}

/* One octet of the name that is being taken out. 0 go on, 1 stop. */
__noinline int bs_name_octet(struct bs_answer_scratch *s)
{
	__u32 c, to, pos, out;

	if (!s)
		return 1;
	pos = s->pos;
	out = s->out;
	if (pos >= s->limit || out > 254)
		return 1;
	c = bs_u8(s, pos);
	if (!s->left && c >= 0xc0) {
		to = (c & 0x3f) << 8 | bs_u8(s, pos + 1);
		if (to >= s->start)
			return 1;
		/* A prior occurrence ends before what points to it. */
		s->limit = s->start;
		s->start = to;
		if (!s->end)
			s->end = pos + 2;
		s->pos = to;
		return 0;
	}
	s->target.name.wire[out & 255] = c;
	s->out = out + 1;
	s->pos = pos + 1;
	if (s->left) {
		s->left--;
		return 0;
	}
	if (c) {
		s->left = c;
		return 0;
	}
	if (!s->end)
		s->end = pos + 1;
	s->taken = 1;
	return 1;
}

static long bs_name_octet_step(__u32 index, void *unused)
{
	__u32 zero = 0;
	struct bs_answer_scratch *s = bpf_map_lookup_elem(&bs_scratch, &zero);

	if (s && bs_name_octet(s) == 0)
		return 0;
	return 1;
}

/* Take the name at `at` out of the packet into s->target, following pointers backwards only (RFC 1035,
 * 4.1.4); s->end is the offset behind it. -1: not a name. By bpf_loop: few names come this way (owners are
 * mostly pointers to the last target), and it costs the verifier a hundredth of a plain loop. */
static __always_inline int bs_name_take(struct bs_answer_scratch *s, __u32 at)
{
	s->pos = s->start = at;
	s->limit = s->len;
	s->left = s->out = s->end = s->taken = 0;
	bpf_loop(280, bs_name_octet_step, (void *)0, 0);
	return s->taken ? 0 : -1;
}

#endif
