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
/* What most names need is done in one call: words of a name, steps through the automaton. All that it takes for any
 * name is that call in a loop, since each is verified once, and a return is dear on many machines. */
enum { BS_WORDS_FEW = 5, BS_STEPS_FEW = 3 };

/* A name and what reading it leaves behind. Too large for the stack: lies in scratch that its user owns. */
struct bs_reading {
	struct bs_name name;
	__u32 labels;
	__u32 at; /* next octet while it is read, then labels not yet walked */
	/* between two handfuls of words */
	__u64 hash;
	__u64 hash_label;
	__u64 left; /* octets of the label that are to come */
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

/* What is carried from one word of a name to the next. */
struct bs_words {
	__u64 hash;  /* of the labels before this one */
	__u64 label; /* of this one so far */
	__u64 left;  /* octets of it that are to come */
	__u64 bad;
	__u64 at;    /* next octet */
	__u64 count; /* labels that have ended; -1 before the first begins */
};

/*
 * The next word of the name whose octets are `octets`, of which `most` is the last index, and 7 more may be read. 0 to
 * go on, 1 at the end, -1 for a name that cannot be judged. Eight octets at a time: by single ones this was the dearest
 * part of a lookup, and nine tenths of what the verifier had to look at. With `labels` each label's hash is
 * kept there, and the name written back in lower case.
 */
static __always_inline int bs_word_next(__u8 *octets, __u32 most, __u64 first, struct bs_words *w, __u64 *labels,
					__u64 unknown)
{
	__u64 multiplier = config.multiplier, found, lower, within, n;

	BS_MASK_BY(w->at, most);
	if (!w->left) {
		/* One label ends, or what is before the first one, and another begins. */
		w->label ^= w->label >> 32;
		if (labels)
			labels[w->count & (BS_LABELS - 1)] = w->label;
		w->count++;
		w->hash = bs_hash_step(w->hash, w->label, multiplier);
		w->left = octets[w->at];
		w->at++;
		if (!w->left)
			return 1;
		/* The last octet of a name is the root label's. */
		if (w->left > 63 || w->at + w->left > first + 254)
			return -1;
		w->label = config.label_key ^ w->left;
		BS_MASK_BY(w->at, most);
	}
	n = 8 ^ ((8 ^ w->left) & -bs_sign(w->left - 8));
	within = -1ULL >> ((64 - 8 * n) & 63);
	found = *(__u64 *)(octets + w->at);
	w->bad |= bs_octets_bad((found & within) | (BS_EACH(1) & ~within));
	lower = bs_octets_lower(found) & within;
	if (labels)
		*(__u64 *)(octets + w->at) = lower | (found & ~within);
	w->label = bs_hash_step(w->label, lower, multiplier);
	w->at += n;
	w->left -= n;
	BS_FORGET(w->left, unknown);
	BS_FORGET(w->bad, unknown);
	BS_FORGET(w->at, unknown);
	BS_FORGET(w->count, unknown);
	return 0;
}

/* A name's hash, of those of its labels. */
static __always_inline __u64 bs_hash_end(__u64 hash)
{
	hash ^= hash >> 32;
	return hash ? hash : 1;
}

/* The next few words of the wire form. 0 to go on, 1 at the end, -1 for a name that cannot be judged. */
__noinline int bs_name_words(struct bs_reading *r)
{
	struct bs_words w;
	__u64 unknown;

	if (!r)
		return -1;
	w.hash = r->hash;
	w.label = r->hash_label;
	w.left = r->left;
	w.bad = r->bad;
	w.at = r->at;
	w.count = r->labels;
	unknown = r->name.hash;
	for (__u32 i = 0; i < BS_WORDS_FEW; i++) {
		int done = bs_word_next(r->name.wire, 255, 0, &w, r->label, unknown);

		if (done < 0)
			return -1;
		if (done) {
			r->name.hash = bs_hash_end(w.hash);
			r->name.len = w.at;
			r->labels = w.count;
			return w.bad ? -1 : 1;
		}
	}
	r->hash = w.hash;
	r->hash_label = w.label;
	r->left = w.left;
	r->bad = w.bad;
	r->at = w.at;
	r->labels = w.count;
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
	r->hash_label = r->left = r->bad = 0;
	r->labels = -1;
	r->at = 0;
	for (__u32 i = 0; i < BS_LABELS / BS_WORDS_FEW + 1; i++) {
		int done = bs_name_words(r);

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

/* A few labels further to the left. 1 once the class is known, 0 to go on. */
__noinline int bs_name_steps(struct bs_reading *r)
{
	struct bs_policy *p;
	__u32 at, id;

	if (!r)
		return 1;
	p = &policies[r->place & 1];
	at = r->at;
	id = r->id;
	for (__u32 i = 0; i < BS_STEPS_FEW; i++) {
		struct bs_edge *e = 0;
		struct bs_state *s;

		at--;
		if (r->state.edges)
			e = bs_edge_find(r->label[at & (BS_LABELS - 1)], id, p);
		if (e) {
			id = e->to;
			s = &e->state;
		} else {
			id = r->state.star;
			/* Without a way on the class of everything below stands. */
			if (!id || !(s = bpf_map_lookup_elem(&bs_states, &id)))
				return 1;
		}
		if (!at) {
			r->name.class_id = s->end;
			return 1;
		}
		r->name.class_id = s->below;
		r->state = *s;
		BS_FORGET(at, id);
	}
	r->at = at;
	r->id = id;
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
	for (__u32 i = 0; i < BS_LABELS / BS_STEPS_FEW + 1; i++)
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
