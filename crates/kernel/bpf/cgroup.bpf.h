/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * Which cgroups a cgroup lies in.
 */
#ifndef BLACKSTART_CGROUP_H
#define BLACKSTART_CGROUP_H

enum { BS_CGROUP_DEPTH = 24 };

/*
 * Fields of the kernel's structures are read by BPF_CORE_READ also where a plain load would do: for each plain one, the
 * verifier looks through all of the kernel's types by name for what it may trust, which takes it about a millisecond.
 */

static __always_inline __u64 bs_cgroup_ancestor(struct cgroup *cgroup, __u32 level)
{
	struct cgroup *ancestor = 0;

	/* An array of pointers at the structure's end; the offset comes from BTF, the index from us. */
	bpf_probe_read_kernel(&ancestor, sizeof(ancestor),
			      (void *)cgroup + bpf_core_field_offset(struct cgroup, ancestors) + level * sizeof(void *));
	return ancestor ? BPF_CORE_READ(ancestor, kn, id) : 0;
}

#endif
