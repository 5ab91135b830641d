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

enum { BS_LABELS = 128 }; /* 255 octets hold 127 labels */
enum { BS_OCTETS = 8 };

/* A name and what reading it leaves behind. Too large for the stack: lies in scratch that its user owns. */
struct bs_reading {
	struct bs_name name;
	__u64 label[BS_LABELS]; /* hashes, from the left */
	__u32 labels;
	__u32 at; /* next octet while it is read, then labels not yet walked */
	/* between two handfuls of octets */
	__u64 hash;
	__u64 hash_label;
	__u64 left; /* octets of the label that are to come */
	__u64 bad;  /* sign bit: an octet that no label may hold was seen */
	/* where the automaton stands */
	__u32 state;
	__u32 star;
	__u32 edges;
	__u32 place; /* of the policy that says which class */
};

/* The next few octets of the wire form. 0 to go on, 1 at the end, -1 for a name that cannot be judged. */
__noinline int bs_name_octets(struct bs_reading *r)
{
	__u64 hash, label, multiplier, unknown, left, bad, count, at;

	if (!r)
		return -1;
	hash = r->hash;
	label = r->hash_label;
	left = r->left;
	bad = r->bad;
	count = r->labels;
	at = r->at;
	multiplier = config.multiplier;
	unknown = r->name.hash;
	for (__u32 i = 0; i < BS_OCTETS; i++) {
		__u64 c;

		if (at > 254)
			return -1;
		c = r->name.wire[at];
		at++;
		if (left == 0) {
			r->label[(count - 1) & (BS_LABELS - 1)] = label ^ label >> 32;
			if (c == 0) {
				hash ^= hash >> 32;
				r->name.hash = hash ? hash : 1;
				r->name.len = at;
				r->labels = count;
				return bad >> 63 ? -1 : 1;
			}
			if (c > 63)
				return -1;
			count++;
			left = c;
			label = config.label_key;
		} else {
			/* By sign bits instead of branches: each branch here doubles what is verified. */
			bad |= ((c ^ '.') - 1) | (c - 1);
			c += ((c - 'Z' - 1) & ~(c - 'A')) >> 63 << 5;
			r->name.wire[(at - 1) & 255] = c;
			label = (label ^ c) * multiplier;
			left--;
		}
		hash = (hash ^ c) * multiplier;
		BS_FORGET(left, unknown);
		BS_FORGET(hash, unknown);
		BS_FORGET(label, unknown);
		BS_FORGET(count, unknown);
		BS_FORGET(bad, unknown);
		BS_FORGET(at, unknown);
	}
	r->hash = hash;
	r->hash_label = label;
	r->left = left;
	r->bad = bad;
	r->labels = count;
	r->at = at;
	return 0;
}

/* Lower-case the wire form in place, find its end, hash it and its labels. 0, or -1 for a name that cannot be
 * judged: compressed, too long, or with a `.` or NUL inside a label (those read like another name once
 * printed). Octets go by the handful, each handful a call that is verified once: as one loop this was nine
 * tenths of what the verifier had to look at. */
static __noinline int bs_name_scan(struct bs_reading *r)
{
	r->hash = config.name_key;
	r->hash_label = config.label_key;
	r->left = r->bad = 0;
	r->labels = r->at = 0;
	for (__u32 i = 0; i < 256 / BS_OCTETS; i++) {
		int done = bs_name_octets(r);

		if (done)
			return done < 0 ? -1 : 0;
	}
	return -1;
}

/* One label further to the left. 1 once the class is known, 0 to go on. */
__noinline int bs_name_step(struct bs_reading *r)
{
	struct bs_edge_key key = {};
	struct bs_state *s;
	__u32 *next, id;

	if (!r)
		return 1;
	r->at--;
	key.label = r->label[r->at & (BS_LABELS - 1)];
	key.state = r->state;
	next = r->edges ? bpf_map_lookup_elem(&bs_edges, &key) : 0;
	if (next)
		id = *next;
	else if (r->star)
		id = r->star;
	else
		return 1; /* no way on: the class of everything below stands */
	s = bpf_map_lookup_elem(&bs_states, &id);
	if (!s)
		return 1;
	r->state = id;
	r->star = s->star;
	r->edges = s->edges;
	r->name.class_id = r->at ? s->below : s->end;
	return !r->at;
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
	r->state = root;
	r->star = s->star;
	r->edges = s->edges;
	r->name.class_id = r->at ? s->below : s->end;
	if (!r->at)
		return 0;
	for (__u32 i = 0; i < BS_LABELS; i++)
		if (bs_name_step(r))
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
