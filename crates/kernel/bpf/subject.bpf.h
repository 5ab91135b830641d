/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * Subjects: which process image did it. Kept from fork, exec and exit, never looked up in /proc after the
 * fact. The tracepoints fire for every process of the host; one that is not ours costs a hash probe that
 * misses and one comparison of its cgroup.
 */
#ifndef BLACKSTART_SUBJECT_H
#define BLACKSTART_SUBJECT_H

/* Another image, or none: what was known of who acts as this process holds no more. No thread of it can be in the
 * middle of acting, since exec and the last exit come when there is one thread left. */
static __always_inline void bs_acts_no_more(__u32 tgid)
{
	__u64 *place = &acting[tgid & (BS_ACTING - 1)];

	if (*(volatile __u64 *)place >> 32 == tgid)
		*(volatile __u64 *)place = 0;
}

/* Have the shared tracer tell this guard what becomes of a process, wherever that lives: without it, only while it lives in
 * the guard's cgroup. Who knew it first is told on, unless it lives elsewhere and acts here: then its home is likely where it
 * lives. */
static __always_inline void bs_at_home(__u32 tgid, int acts)
{
	/* In the constants' memory, for want of stack. */
	if (shared.tracing && bpf_map_update_elem(&bs_homes, &tgid, (void *)&shared.guard, acts ? BPF_ANY : BPF_NOEXIST) &&
	    !bpf_map_lookup_elem(&bs_homes, &tgid))
		BS_COUNT(subjects_lost, 1);
}

static __always_inline void bs_not_at_home(__u32 tgid)
{
	if (shared.tracing)
		bpf_map_delete_elem(&bs_homes, &tgid);
}

/* A row of its own for a process image; its number. Where there is no room for it, 0: the process is then one that is not
 * known, whatever it was before, and counted once; what it starts may have a row again. */
static __always_inline __u64 bs_subject_new(__u32 tgid, __u64 parent, __u8 forked, __u8 late)
{
	__u64 id = __sync_fetch_and_add(&subject_count, 1) + 1;
	struct bs_process process = { .subject = id };
	struct bs_subject *row, *from;

	if (bpf_map_update_elem(&bs_subjects, &id, (void *)&no_subject, BPF_NOEXIST) ||
	    !(row = bpf_map_lookup_elem(&bs_subjects, &id))) {
		BS_COUNT(subjects_lost, 1);
		process.subject = 0;
	} else {
		row->parent = parent;
		row->tgid = tgid;
		row->forked = forked;
		row->late = late;
		row->started_ns = bpf_ktime_get_boot_ns();
		/* The same program until it executes another: what holds for who forked it holds for it. */
		if (parent && (from = bpf_map_lookup_elem(&bs_subjects, &parent))) {
			row->selectors[0] = from->selectors[0];
			row->selectors[1] = from->selectors[1];
		}
	}
	bs_acts_no_more(tgid);
	if (bpf_map_update_elem(&bs_processes, &tgid, &process, BPF_ANY)) {
		/* Not to be found again: as long as nobody else has its place among those that acted lately, it is counted once. */
		if (process.subject) {
			BS_COUNT(subjects_lost, 1);
			bpf_map_delete_elem(&bs_subjects, &id);
		}
		bpf_map_delete_elem(&bs_processes, &tgid);
		*(volatile __u64 *)&acting[tgid & (BS_ACTING - 1)] = (__u64)tgid << 32;
		return 0;
	}
	bs_at_home(tgid, forked && late);
	return process.subject;
}

/* The subject that acts now; one seen for the first time when it acts gets its row here. */
static __always_inline __u64 bs_subject_now(void)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	__u64 *place = &acting[tgid & (BS_ACTING - 1)], known = *(volatile __u64 *)place;
	struct bs_process *p;

	if (known >> 32 == tgid)
		return (__u32)known;
	p = bpf_map_lookup_elem(&bs_processes, &tgid);
	if (p) {
		if (!p->active)
			p->active = 1;
		if (!(p->subject >> 32))
			*(volatile __u64 *)place = (__u64)tgid << 32 | p->subject;
		return p->subject;
	}
	/* It may have the socket from one of the run, and be none itself. */
	live.strays = 1;
	return bs_subject_new(tgid, 0, 1, 1);
}

#endif
