/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * The host's forks, execs, exits and moves, once for all guards of a process: whom of them an event concerns is found out
 * here, and that guard's own program (process.bpf.h) called in the place of this one. What is nobody's costs a few probes of a
 * small table, however many guards there are.
 *
 * An event may concern two guards: where the process lives, and who knows it from earlier (it has left, or acts with a socket of
 * theirs). Each has a program of its own here, since a call does not return. The one for who knows it comes first, as it is attached
 * first: what a process is known by ends with its exit, which the other one tells its guard.
 *
 * Nothing here writes; what is written is written by whom it calls. Fails open: an event that is told to nobody.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "abi.h"
#include "cgroup.bpf.h"

/* Guards by the ids of their cgroups. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, BS_GUARDS);
	__type(key, __u64);
	__type(value, __u32);
} bs_guards SEC(".maps");

/* Guards by the processes that they know, written by them (subject.bpf.h). There is one for each process: another one hears of it
 * as long as it lives in its cgroup. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 17);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u32);
} bs_homes SEC(".maps");

/* The guards' programs, by their numbers. One for each tracepoint: what is called must have been loaded for the same. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, BS_GUARDS);
	__type(key, __u32);
	__type(value, __u32);
} bs_forks SEC(".maps"), bs_execs SEC(".maps"), bs_exits SEC(".maps"), bs_moves SEC(".maps");

/* Whose cgroup the task that runs lies in; 0: nobody's. */
static __always_inline __u32 *bs_place(void)
{
	__u32 level, *guard;
	__u64 id;

	for (level = 1; level < BS_CGROUP_DEPTH; level++) {
		id = bpf_get_current_ancestor_cgroup_id(level);
		if (!id)
			break;
		guard = bpf_map_lookup_elem(&bs_guards, &id);
		if (guard)
			return guard;
	}
	return 0;
}

/* The same of a cgroup. */
static __always_inline __u32 *bs_place_of(struct cgroup *cgroup)
{
	__u32 level, depth = BPF_CORE_READ(cgroup, level), *guard;
	__u64 id;

	for (level = 1; level < BS_CGROUP_DEPTH; level++) {
		if (level > depth)
			break;
		id = bs_cgroup_ancestor(cgroup, level);
		guard = bpf_map_lookup_elem(&bs_guards, &id);
		if (guard)
			return guard;
	}
	return 0;
}

/* Who knows this process, and is not whose cgroup the task that runs lies in. */
static __always_inline __u32 *bs_home(__u32 tgid)
{
	__u32 *home = bpf_map_lookup_elem(&bs_homes, &tgid), *place;

	if (!home)
		return 0;
	place = bs_place();
	return place && *place == *home ? 0 : home;
}

/* When: any fork on the host, in the parent. */
SEC("tp_btf/sched_process_fork")
int BPF_PROG(bs_home_fork, struct task_struct *parent, struct task_struct *child)
{
	__u32 *guard = bs_home(bpf_get_current_pid_tgid() >> 32);

	if (guard)
		bpf_tail_call(ctx, &bs_forks, *guard);
	return 0;
}

/* When: as above. A child that is born elsewhere than its parent lives concerns who lives there, if nobody else. */
SEC("tp_btf/sched_process_fork")
int BPF_PROG(bs_place_fork, struct task_struct *parent, struct task_struct *child)
{
	__u32 *guard = bs_place();
	struct cgroup *birthplace;

	if (!guard) {
		birthplace = BPF_CORE_READ(child, cgroups, dfl_cgrp);
		if (birthplace != BPF_CORE_READ(parent, cgroups, dfl_cgrp))
			guard = bs_place_of(birthplace);
	}
	if (guard)
		bpf_tail_call(ctx, &bs_forks, *guard);
	return 0;
}

/* When: any successful exec on the host, in the process. */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(bs_home_exec)
{
	__u32 *guard = bs_home(bpf_get_current_pid_tgid() >> 32);

	if (guard)
		bpf_tail_call(ctx, &bs_execs, *guard);
	return 0;
}

/* When: as above. */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(bs_place_exec)
{
	__u32 *guard = bs_place();

	if (guard)
		bpf_tail_call(ctx, &bs_execs, *guard);
	return 0;
}

/* When: any thread of the host ends, in that thread. */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(bs_home_exit)
{
	__u32 *guard = bs_home(bpf_get_current_pid_tgid() >> 32);

	if (guard)
		bpf_tail_call(ctx, &bs_exits, *guard);
	return 0;
}

/* When: as above. */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(bs_place_exit)
{
	__u32 *guard = bs_place();

	if (guard)
		bpf_tail_call(ctx, &bs_exits, *guard);
	return 0;
}

/* When: a task is moved between cgroups of any hierarchy; it is where it comes to already. Concerns who knows it: only who leaves is
 * looked at. */
SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(bs_home_move, struct cgroup *to, const char *path, struct task_struct *task)
{
	__u32 tgid = BPF_CORE_READ(task, tgid), *guard = bpf_map_lookup_elem(&bs_homes, &tgid);

	if (guard)
		bpf_tail_call(ctx, &bs_moves, *guard);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
