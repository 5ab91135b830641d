/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * Walking a path through the automata of the policy's path patterns (core::tables::Paths): one step for each
 * octet, whatever the number of patterns.
 */
#ifndef BLACKSTART_PATH_H
#define BLACKSTART_PATH_H

/* Index into bs_policy's automata. */
enum { BS_PROGRAMS = 0, BS_SOCKETS = 1 };
/* Octets read at a time, the NUL included, each of which is verified; PATH_MAX is 4096. */
enum { BS_PATH_PIECE = 16, BS_PATH_PIECES = 4096 / (BS_PATH_PIECE - 1) + 1 };

struct bs_walk {
	const char *path; /* in kernel memory */
	__u32 at;
	__u32 state;
	__u8 place;
	__u8 automaton;
	__u8 pad[6];
	__u8 piece[BS_PATH_PIECE];
};

/* One octet further. State 0 matches nothing, whatever follows. */
__noinline __u32 bs_path_step(__u32 state, __u32 octet, __u32 place, __u32 automaton)
{
	struct bs_policy *p = &policies[place & 1];
	__u32 at, *next;

	/* A global function's arguments may be anything. */
	BS_MASK(octet, 255);
	at = p->steps[automaton & 1] + state * p->kinds[automaton & 1] +
	     kinds_of_octets[place & 1][automaton & 1][octet];
	next = bpf_map_lookup_elem(&bs_steps, &at);
	return next ? *next : 0;
}

static long bs_path_piece(__u32 index, struct bs_walk *w)
{
	__u32 state = w->state;
	long got = bpf_probe_read_kernel_str(w->piece, sizeof(w->piece), w->path + w->at);

	if (got < 0)
		return 1;
	for (__u32 i = 0; i < BS_PATH_PIECE - 1; i++) {
		__u8 octet = w->piece[i];

		if (!octet || !state) {
			w->state = state;
			return 1;
		}
		state = bs_path_step(state, octet, w->place, w->automaton);
	}
	w->state = state;
	w->at += BS_PATH_PIECE - 1;
	return 0;
}

/* What a path in kernel memory matches: selectors as bits, or the class of a socket. */
static __always_inline __u64 bs_path_end(const char *path, __u32 place, __u32 automaton)
{
	struct bs_walk w = { .path = path, .state = 1, .place = place, .automaton = automaton };
	__u32 at;
	__u64 *end;

	if (!policies[place & 1].kinds[automaton & 1])
		return 0;
	bpf_loop(BS_PATH_PIECES, bs_path_piece, &w, 0);
	at = policies[place & 1].ends[automaton & 1] + w.state;
	end = bpf_map_lookup_elem(&bs_ends, &at);
	return end ? *end : 0;
}

#endif
