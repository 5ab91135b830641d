/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * Reading a name and finding its class.
 *
 * Global functions with a pointer to a struct: the verifier checks each once, with unknown content, instead
 * of once for every path that leads to a call. What a loop carries is forgotten at the end of each round, or
 * lies in memory, so that the paths through it converge.
 */
#ifndef BLACKSTART_NAME_H
#define BLACKSTART_NAME_H

enum { BS_LABELS = 128, BS_LABELS_FEW = 16 }; /* 255 octets hold 127 labels */

/* A name and what reading it leaves behind. Too large for the stack: lies in scratch that its user owns. */
struct bs_reading {
	struct bs_name name;
	__u32 labels;
	__u32 at; /* next label while it is read, then labels not yet walked */
	/* between two labels */
	__u64 hash;
	__u64 bad;  /* not 0: an octet that no label may hold was seen */
	/* where the automaton stands */
	__u32 id;
	struct bs_state state;
	__u32 place; /* of the policy that says which class */
	__u64 label[BS_LABELS]; /* hashes, from the left */
};

/* One octet, eight times. */
#define BS_EACH(octet) ((octet) * 0x0101010101010101ULL)

/* Not 0 if one of eight octets is NUL or a dot. */
static __always_inline __u64 bs_octets_bad(__u64 octets)
{
	__u64 dots = octets ^ BS_EACH('.');

	return (((octets - BS_EACH(1)) & ~octets) | ((dots - BS_EACH(1)) & ~dots)) & BS_EACH(0x80);
}

/* Eight octets, A to Z in lower case. */
static __always_inline __u64 bs_octets_lower(__u64 octets)
{
	__u64 low = octets & BS_EACH(0x7f);
	__u64 upper = (low + BS_EACH(0x80 - 'A')) & ~(low + BS_EACH(0x80 - 'Z' - 1)) & ~octets & BS_EACH(0x80);

	return octets + (upper >> 2);
}

/* One word more. Twice, and turned round between: a multiplication carries to higher bits only, so that two changes
 * to the highest ones would undo each other under any key. */
static __always_inline __u64 bs_hash_step(__u64 hash, __u64 word, __u64 multiplier)
{
	return __builtin_bswap64((hash ^ word) * multiplier) * multiplier;
}

/* The hash of the label of `left` octets (1 to 63) at `at` in `octets`, of which `most` is the last, and 7 more may be
 * read. Eight octets at a time: by single ones this was the dearest part of a lookup, and nine tenths of what the
 * verifier had to look at. With `keep` the label is written back in lower case. */
static __always_inline __u64 bs_label_hash(__u8 *octets, __u64 at, __u64 left, __u32 most, int keep, __u64 *bad,
					   __u64 unknown)
{
	__u64 multiplier = config.multiplier, hash = config.label_key ^ left, found, lower, within;

	for (__u32 i = 0; i < 7 && left > 8; i++) {
		asm volatile("%0 &= %1" : "+r"(at) : "i"(most));
		found = *(__u64 *)(octets + at);
		*bad |= bs_octets_bad(found);
		lower = bs_octets_lower(found);
		if (keep)
			*(__u64 *)(octets + at) = lower;
		hash = bs_hash_step(hash, lower, multiplier);
		at += 8;
		left -= 8;
		BS_FORGET(at, unknown);
		BS_FORGET(left, unknown);
	}
	within = -1ULL >> ((64 - 8 * left) & 63);
	asm volatile("%0 &= %1" : "+r"(at) : "i"(most));
	found = *(__u64 *)(octets + at);
	*bad |= bs_octets_bad((found & within) | (BS_EACH(1) & ~within));
	lower = bs_octets_lower(found) & within;
	if (keep)
		*(__u64 *)(octets + at) = lower | (found & ~within);
	hash = bs_hash_step(hash, lower, multiplier);
	return hash ^ hash >> 32;
}

/* A name's hash, of those of its labels. */
static __always_inline __u64 bs_hash_end(__u64 hash)
{
	hash ^= hash >> 32;
	return hash ? hash : 1;
}

/* The next label of the wire form. 0 to go on, 1 at the end, -1 for a name that cannot be judged. */
__noinline int bs_name_label(struct bs_reading *r)
{
	__u64 at, left, bad, label, count;

	if (!r)
		return -1;
	at = r->at;
	if (at > 254)
		return -1;
	left = r->name.wire[at];
	at++;
	if (!left) {
		r->name.hash = bs_hash_end(r->hash);
		r->name.len = at;
		return r->bad ? -1 : 1;
	}
	if (left > 63 || at + left > 254)
		return -1;
	r->at = at + left;
	bad = r->bad;
	label = bs_label_hash(r->name.wire, at, left, 255, 1, &bad, r->name.hash);
	r->bad = bad;
	r->hash = bs_hash_step(r->hash, label, config.multiplier);
	count = r->labels;
	r->label[count & (BS_LABELS - 1)] = label;
	r->labels = count + 1;
	return 0;
}

/* The next few labels, as bs_name_label: that many rounds of so many are fewer to verify than all in one loop, and
 * most names need one. */
__noinline int bs_name_labels(struct bs_reading *r)
{
	for (__u32 i = 0; i < BS_LABELS_FEW; i++) {
		int done = bs_name_label(r);

		if (done)
			return done;
	}
	return 0;
}

/* Lower-case the wire form in place, find its end, hash it and its labels. 0, or -1 for a name that cannot be
 * judged: compressed, too long, or with a `.` or NUL inside a label (those read like another name once
 * printed). */
__noinline int bs_name_scan(struct bs_reading *r)
{
	if (!r)
		return -1;
	r->hash = config.name_key;
	r->bad = 0;
	r->labels = r->at = 0;
	for (__u32 i = 0; i < BS_LABELS / BS_LABELS_FEW; i++) {
		int done = bs_name_labels(r);

		if (done)
			return done < 0 ? -1 : 0;
	}
	return -1;
}

/* The row of an edge, or 0. */
static __always_inline struct bs_edge *bs_edge_find(__u64 label, __u32 from, struct bs_policy *p)
{
	__u32 at = p->edges + ((label + from * BS_EDGE_SPREAD) >> 20 & p->edge_mask);

	for (__u32 i = 0; i < BS_EDGE_REACH; i++, at++) {
		struct bs_edge *e = bpf_map_lookup_elem(&bs_edges, &at);

		if (!e || !e->to)
			break;
		if (!((e->label ^ label) | (e->from ^ from)))
			return e;
	}
	return 0;
}

/* One label further to the left. 1 once the class is known, 0 to go on. */
__noinline int bs_name_step(struct bs_reading *r)
{
	struct bs_edge *e;
	struct bs_state *s;
	__u32 id;

	if (!r)
		return 1;
	r->at--;
	e = r->state.edges ? bs_edge_find(r->label[r->at & (BS_LABELS - 1)], r->id, &policies[r->place & 1]) : 0;
	if (e) {
		id = e->to;
		s = &e->state;
	} else {
		id = r->state.star;
		/* Without a way on the class of everything below stands. */
		if (!id || !(s = bpf_map_lookup_elem(&bs_states, &id)))
			return 1;
	}
	r->id = id;
	r->state = *s;
	r->name.class_id = r->at ? s->below : s->end;
	return !r->at;
}

/* A few labels further. */
__noinline int bs_name_steps(struct bs_reading *r)
{
	for (__u32 i = 0; i < BS_LABELS_FEW; i++)
		if (bs_name_step(r))
			return 1;
	return 0;
}

/* Walk the automaton from the name's end; leaves the class in name.class_id. Stops at the first label that no
 * rule mentions, so the cost depends on the name, not on the number of rules. */
__noinline int bs_name_match(struct bs_reading *r)
{
	struct bs_state *s;
	__u32 root;

	if (!r)
		return -1;
	root = policies[r->place & 1].root;
	s = bpf_map_lookup_elem(&bs_states, &root);
	if (!s)
		return -1;
	r->at = r->labels;
	r->id = root;
	r->state = *s;
	r->name.class_id = r->at ? s->below : s->end;
	if (!r->at)
		return 0;
	for (__u32 i = 0; i < BS_LABELS / BS_LABELS_FEW; i++)
		if (bs_name_steps(r))
			return 0;
	return -1;
}

/* Keep the name's text for the record. */
static __always_inline void bs_name_keep(struct bs_name *n)
{
	if (bpf_map_lookup_elem(&bs_names, &n->hash))
		return;
	if (bpf_map_update_elem(&bs_names, &n->hash, n, BPF_NOEXIST) && !bpf_map_lookup_elem(&bs_names, &n->hash))
		BS_COUNT(leases_lost, 1);
}

#endif
