/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * Reading a name and finding its class.
 *
 * Global functions with a pointer to a struct: the verifier checks each once, with unknown content, instead
 * of once for every path that leads to a call. Loops run over octets with the counter as the only thing that
 * the verifier knows exactly; everything else is forgotten each round.
 */
#ifndef BLACKSTART_NAME_H
#define BLACKSTART_NAME_H

/* Lower-case n->wire in place, find its end, mark its labels, hash it. 0, or -1 for a name that cannot be
 * judged: compressed, too long, or with a `.` or NUL inside a label (those read like another name once
 * printed). Unused octets of wire must be 0. */
__noinline int bs_name_scan(struct bs_name *n)
{
	__u64 hash, multiplier, unknown, left = 0;

	if (!n)
		return -1;
	hash = config.name_key;
	multiplier = config.multiplier;
	unknown = n->hash;
	n->starts[0] = n->starts[1] = n->starts[2] = n->starts[3] = 0;
	for (__u32 i = 0; i < 255; i++) {
		__u64 c = n->wire[i];

		if (left == 0) {
			if (c == 0) {
				hash ^= hash >> 32;
				n->hash = hash ? hash : 1;
				n->len = i + 1;
				return 0;
			}
			if (c > 63)
				return -1;
			n->starts[i >> 6] |= 1ULL << (i & 63);
			left = c;
		} else {
			if (c == '.' || c == 0)
				return -1;
			if (c - 'A' < 26) {
				c += 'a' - 'A';
				n->wire[i] = c;
			}
			left--;
		}
		hash = (hash ^ c) * multiplier;
		BS_FORGET(left, unknown);
		BS_FORGET(hash, unknown);
	}
	return -1;
}

/* Enter the state n->state. `more`: labels are left to the left. 1 if the class is now known, 0 to go on. */
__noinline int bs_name_enter(struct bs_name *n, __u32 more)
{
	struct bs_state *s;
	__u32 id;

	if (!n)
		return 1;
	id = n->state;
	s = bpf_map_lookup_elem(&bs_states, &id);
	if (!s)
		return 1;
	if (!more) {
		n->class_id = s->end;
		return 1;
	}
	n->class_id = s->below;
	n->star = s->star;
	n->edges = s->edges;
	return !s->edges && !s->star;
}

/* Leave the state by the label with this hash. 1: no way on, the class is that of everything below. */
__noinline int bs_name_leave(struct bs_name *n, __u64 label)
{
	struct bs_edge_key key = {};
	__u32 *next;

	if (!n)
		return 1;
	key.label = label ^ label >> 32;
	key.state = n->state;
	next = n->edges ? bpf_map_lookup_elem(&bs_edges, &key) : 0;
	if (next)
		n->state = *next;
	else if (n->star)
		n->state = n->star;
	else
		return 1;
	return 0;
}

/* Walk the automaton from the name's end; leaves the class in n->class_id. Stops at the first label that no
 * rule mentions, so the cost depends on the name, not on the number of rules. */
__noinline int bs_name_match(struct bs_name *n)
{
	__u64 hash, key, multiplier, unknown, at;

	if (!n)
		return -1;
	n->class_id = 0;
	n->state = 0;
	at = n->len;
	if (bs_name_enter(n, at > 1))
		return 0;
	multiplier = config.multiplier;
	hash = key = config.label_key;
	unknown = n->hash;
	at--; /* the root label */
	for (__u32 i = 0; i < 254; i++) {
		__u64 c;

		at = (at - 1) & 255;
		c = n->wire[at];
		if (n->starts[at >> 6] & (1ULL << (at & 63))) {
			if (bs_name_leave(n, hash) || bs_name_enter(n, at != 0))
				return 0;
			hash = key;
		} else {
			hash = (hash ^ c) * multiplier;
		}
		BS_FORGET(at, unknown);
		BS_FORGET(hash, unknown);
	}
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
