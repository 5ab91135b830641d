/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * sched_process_fork, _exec, _exit and cgroup_attach_task (all tp_btf): the life of subjects. Attached, or, where many guards
 * share one tracer, called by its programs (tracer.bpf.c) for those events that concern this guard.
 */
#ifndef BLACKSTART_PROCESS_H
#define BLACKSTART_PROCESS_H

/* Where the run's cgroup is sought among those that a cgroup lies in. */
struct bs_descent {
	struct cgroup *cgroup;
	__u32 depth;
	__u32 found;
};

static long bs_descent_step(__u32 index, struct bs_descent *d)
{
	__u32 level = index + 1;

	if (level > d->depth)
		return 1;
	if (bs_cgroup_ancestor(d->cgroup, level) != live.cgroup_id)
		return 0;
	live.cgroup_level = level;
	d->found = 1;
	return 1;
}

/* Is this cgroup of the default hierarchy the run's own, or below it? How deep the run's lies cannot be known
 * in a cgroup namespace, so it is learned from the first process inside. */
static __always_inline int bs_cgroup_is_inside(struct cgroup *cgroup)
{
	struct bs_descent descent = { .cgroup = cgroup, .depth = BPF_CORE_READ(cgroup, level) };
	__u32 level = live.cgroup_level;

	if (level)
		return descent.depth >= level && bs_cgroup_ancestor(cgroup, level) == live.cgroup_id;
	bpf_loop(BS_CGROUP_DEPTH - 1, bs_descent_step, &descent, 0);
	return descent.found;
}

static __always_inline int bs_task_is_inside(struct task_struct *task)
{
	return bs_cgroup_is_inside(BPF_CORE_READ(task, cgroups, dfl_cgrp));
}

/* The same of the task that runs, for which the kernel tells it in a few steps. */
static __always_inline int bs_current_is_inside(struct task_struct *current)
{
	__u32 level = live.cgroup_level;

	return level ? bpf_get_current_ancestor_cgroup_id(level) == live.cgroup_id : bs_task_is_inside(current);
}

static __always_inline void bs_left(__u32 tgid, __u64 subject, __u64 cgroup)
{
	struct bs_leaver_key key = { .subject = subject, .cgroup = cgroup, .tgid = tgid };
	__u64 now = bpf_ktime_get_boot_ns();
	struct bs_event *e;

	live.strays = 1;
	/* Told each time: who was moved back may leave again. */
	if (bpf_map_update_elem(&bs_leavers, &key, &now, BPF_NOEXIST) && !bpf_map_lookup_elem(&bs_leavers, &key))
		BS_COUNT(events_lost, 1);
	e = bpf_ringbuf_reserve(&bs_events, sizeof(*e), 0);
	if (!e) {
		BS_COUNT(events_lost, 1);
		return;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->kind = BS_EVENT_LEFT;
	e->tgid = tgid;
	e->subject = subject;
	e->name = cgroup;
	bpf_ringbuf_submit(e, 0);
}

/* Known only for what it did with a socket of the run, which somebody handed to it? Outside of the run's cgroup such a process
 * has left nothing, and neither has what it starts. */
static __always_inline int bs_is_stranger(struct bs_process *p)
{
	struct bs_subject *row = bpf_map_lookup_elem(&bs_subjects, &p->subject);

	return row && row->late == BS_LATE_ACTED;
}

/* When: any fork on the host, in the parent. Writes: subjects, processes, leavers. Fails open (counted). */
SEC("tp_btf/sched_process_fork")
int BPF_PROG(bs_fork, struct task_struct *parent, struct task_struct *child)
{
	__u32 tgid, parent_tgid;
	struct bs_process *p;
	__u64 from = 0, id;
	int inside;

	/* What every fork of the host costs is this far, and a probe of a table would double it. Who is put into the run's
	 * cgroup by a stranger has a row once it executes or reaches for something. */
	if (live.cgroup_level && !live.strays && !bs_current_is_inside(parent))
		return 0;
	tgid = BPF_CORE_READ(child, tgid);
	parent_tgid = BPF_CORE_READ(parent, tgid);
	if (tgid == parent_tgid)
		return 0; /* a thread */
	p = bpf_map_lookup_elem(&bs_processes, &parent_tgid);
	inside = bs_task_is_inside(child);
	if (!inside && (!p || bs_is_stranger(p)))
		return 0;
	if (p)
		from = p->subject;
	id = bs_subject_new(tgid, from, 1, 0);
	/* clone3(CLONE_INTO_CGROUP) to a place outside fires no cgroup_attach_task. */
	if (!inside)
		bs_left(tgid, id, BPF_CORE_READ(child, cgroups, dfl_cgrp, kn, id));
	return 0;
}

/* Which selectors hold for a subject that now executes `path`: those of who it descends from that are for the
 * whole tree, which it has already, and those of the program. */
static __noinline void bs_select(struct bs_subject *row, const char *path, __u32 place)
{
	struct bs_policy *p = &policies[place & 1];

	if (p->has_selectors)
		row->selectors[place & 1] = (row->selectors[place & 1] & p->tree) | bs_path_end(path, place, BS_PROGRAMS);
}

/* When: any successful exec on the host, in the process. Writes: subjects, argv_rest, processes. Fails open (counted).
 * The arguments are read up to arg_end and no further: behind them lies the environment, with its secrets. */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(bs_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32, generation = live.generation;
	struct bs_process *p = bpf_map_lookup_elem(&bs_processes, &tgid);
	struct bs_subject *row;
	struct bs_argv_rest *rest;
	const char *path;
	unsigned long start, end;
	__u64 id, len, n;
	long got;

	if (!p) {
		if (!bs_current_is_inside(task))
			return 0;
		id = bs_subject_new(tgid, 0, 0, 1);
	} else {
		id = p->subject;
		row = bpf_map_lookup_elem(&bs_subjects, &id);
		if (!row || !row->forked || p->active) {
			/* It acted, or ran another program, under the old image: that one stays as it was. */
			if (row) {
				row->ended_ns = bpf_ktime_get_boot_ns();
				row->replaced = 1;
			}
			id = bs_subject_new(tgid, id, 0, 0);
		}
	}
	/* Without a row the new image is not known, and has no right that the old one had. */
	row = bpf_map_lookup_elem(&bs_subjects, &id);
	if (!row)
		return 0;
	row->forked = 0;
	row->late = 0;
	path = BPF_CORE_READ(bprm, filename);
	got = bpf_probe_read_kernel_str(row->exe, sizeof(row->exe), path);
	row->exe_len = got > 0 ? got - 1 : 0;
	bs_select(row, path, generation & 1);
	if (live.coming == generation + 1)
		bs_select(row, path, (generation + 1) & 1);

	start = BPF_CORE_READ(task, mm, arg_start);
	end = BPF_CORE_READ(task, mm, arg_end);
	if (end <= start)
		return 0;
	len = end - start;
	row->argv_cut = len > BS_ARGV_HEAD + BS_ARGV_REST;
	n = len < BS_ARGV_HEAD ? len : BS_ARGV_HEAD;
	if (bpf_probe_read_user(row->argv, n, (void *)start)) {
		row->argv_cut = 1;
		return 0;
	}
	row->argv_len = n;
	if (len <= BS_ARGV_HEAD)
		return 0;
	if (bpf_map_update_elem(&bs_argv_rest, &id, (void *)&no_argv, BPF_ANY) ||
	    !(rest = bpf_map_lookup_elem(&bs_argv_rest, &id))) {
		row->argv_cut = 1;
		return 0;
	}
	n = len - BS_ARGV_HEAD;
	if (n > BS_ARGV_REST)
		n = BS_ARGV_REST;
	if (bpf_probe_read_user(rest->text, n, (void *)(start + BS_ARGV_HEAD)))
		row->argv_cut = 1;
	else
		row->argv_len = BS_ARGV_HEAD + n;
	return 0;
}

/* When: any thread of the host ends, in that thread. Writes: subjects, processes, for the last thread of a process of ours. */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(bs_exit, struct task_struct *task)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct bs_process *p = bpf_map_lookup_elem(&bs_processes, &tgid);
	struct bs_subject *row;

	if (!p || BPF_CORE_READ(task, signal, live.counter) != 0)
		return 0;
	row = bpf_map_lookup_elem(&bs_subjects, &p->subject);
	if (row) {
		row->wait_status = BPF_CORE_READ(task, exit_code);
		row->ended_ns = bpf_ktime_get_boot_ns();
	}
	bpf_map_delete_elem(&bs_processes, &tgid);
	bs_not_at_home(tgid);
	bs_acts_no_more(tgid);
	return 0;
}

/* When: a task is moved between cgroups of any hierarchy. Writes: leavers. Only observes. */
SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(bs_move, struct cgroup *to, const char *path, struct task_struct *task)
{
	__u32 tgid = BPF_CORE_READ(task, tgid);
	struct bs_process *p = bpf_map_lookup_elem(&bs_processes, &tgid);

	/* Hierarchy 0 is cgroup2; moves in a v1 hierarchy take nobody out of the run. */
	if (!p || BPF_CORE_READ(to, root, hierarchy_id) != 0 || bs_cgroup_is_inside(to) || bs_is_stranger(p))
		return 0;
	bs_left(tgid, p->subject, BPF_CORE_READ(to, kn, id));
	return 0;
}

#endif
