/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * Decisions in bulk, for the property test that holds core::decide and the kernel together. Never loaded by a
 * run. Same headers, same tables: the loader puts a session's maps in the place of the ones declared here.
 *
 * The socket hooks cannot be driven by BPF_PROG_RUN (error 524); a packet program can, and is verified under the
 * same rules as the ones that decide in earnest.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_core_read.h>

enum { IPPROTO_TCP = 6, IPPROTO_UDP = 17, ECONNREFUSED = 111 };

#include "abi.h"
#include "verifier.bpf.h"
#include "tables.bpf.h"
#include "name.bpf.h"
#include "attempt.bpf.h"
#include "path.bpf.h"
#include "place.bpf.h"
#include "head.bpf.h"
#include "hello.bpf.h"
#include "request.bpf.h"
#include "claim.bpf.h"

/* A name in, its class and that class's rulings on lookups out. */
struct bs_trial_name {
	struct bs_reading read;
	struct bs_class class;
	__u64 selectors; /* in */
	__u64 lookup;    /* ruling */
	__s32 scan;
	__s32 match;
};

/* A path in, what it matches in each automaton out: as a program's, and as a socket's. */
struct bs_trial_path {
	__u8 path[512]; /* ends with NUL */
	__u64 ends[2];
	__u8 usual[BS_PLACE_END + 1];
};

/* A name that a connection gives in, what becomes of it out. */
struct bs_trial_claim {
	struct bs_attempt attempt;
	__u32 class_id;
	__u32 somewhere;
};

/* What a connection sends in, what was read of it out. */
struct bs_trial_head {
	struct bs_head head;
	__u32 again;
	__s32 found;
	__u8 octets[BS_HEAD_MOST];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bs_trial_path);
} bs_trial_paths SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bs_trial_claim);
} bs_trial_claims SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bs_trial_head);
} bs_trial_heads SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bs_attempt);
} bs_trial_attempts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bs_trial_name);
} bs_trial_names SEC(".maps");

/* Rows in use. */
__u32 trial_attempts = 0;
__u32 trial_names = 0;
__u32 trial_paths = 0;
__u32 trial_claims = 0;
__u32 trial_heads = 0;

static long bs_trial_attempt(__u32 index, void *unused)
{
	struct bs_attempt *a = bpf_map_lookup_elem(&bs_trial_attempts, &index);

	if (!a)
		return 1;
	bs_judge(a);
	return 0;
}

static long bs_trial_name(__u32 index, void *unused)
{
	struct bs_trial_name *t = bpf_map_lookup_elem(&bs_trial_names, &index);
	struct bs_class *c;

	if (!t)
		return 1;
	t->scan = bs_name_scan(&t->read);
	if (t->scan)
		return 0;
	t->read.place = live.generation & 1;
	t->match = bs_name_match(&t->read);
	c = bpf_map_lookup_elem(&bs_classes, &t->read.name.class_id);
	if (c) {
		t->class = *c;
		t->lookup = bs_choose(c->lookup, t->selectors);
	}
	return 0;
}

static long bs_trial_path(__u32 index, void *unused)
{
	struct bs_trial_path *t = bpf_map_lookup_elem(&bs_trial_paths, &index);
	struct bs_place *s;
	long len;

	if (!t)
		return 1;
	t->ends[0] = bs_path_end((const char *)t->path, live.generation & 1, BS_PROGRAMS);
	s = bs_place_claim();
	if (!s)
		return 1;
	len = bpf_probe_read_kernel_str(s->given, sizeof(s->given), t->path);
	s->len = len > 0 ? len - 1 : 0;
	if (!bs_place_find(s, 0)) {
		bpf_probe_read_kernel_str(t->usual, sizeof(t->usual), s->text + (s->at & BS_PLACE_END));
		t->ends[1] = bs_path_end((const char *)t->usual, live.generation & 1, BS_SOCKETS);
	}
	bs_place_leave(s);
	return 0;
}

static long bs_trial_claim(__u32 index, void *unused)
{
	struct bs_trial_claim *t = bpf_map_lookup_elem(&bs_trial_claims, &index);

	if (!t)
		return 1;
	bs_judge_claim(&t->attempt, 1, t->class_id, t->somewhere);
	return 0;
}

static long bs_trial_head(__u32 index, void *unused)
{
	struct bs_trial_head *t = bpf_map_lookup_elem(&bs_trial_heads, &index);

	if (!t)
		return 1;
	*(volatile __u64 *)&t->head.base = (__u64)t->octets;
	t->found = bs_head_read(&t->head, t->again);
	return 0;
}

SEC("cgroup_skb/egress")
int bs_trial(struct __sk_buff *skb)
{
	bpf_loop(trial_attempts, bs_trial_attempt, (void *)0, 0);
	bpf_loop(trial_names, bs_trial_name, (void *)0, 0);
	bpf_loop(trial_paths, bs_trial_path, (void *)0, 0);
	bpf_loop(trial_claims, bs_trial_claim, (void *)0, 0);
	bpf_loop(trial_heads, bs_trial_head, (void *)0, 0);
	return 1;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
