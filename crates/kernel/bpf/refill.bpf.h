/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * Filling in what is kept for a policy that is coming. Never attached: run by the loader through BPF_PROG_RUN, a
 * struct bs_refill behind an Ethernet header, so that rows which the other programs write meanwhile are changed
 * as these change them, under the same lock.
 */
#ifndef BLACKSTART_REFILL_H
#define BLACKSTART_REFILL_H

SEC("cgroup_skb/egress")
int bs_refill_one(struct __sk_buff *skb)
{
	struct bs_refill n = {};
	struct bs_subject *row;

	if (bpf_skb_load_bytes(skb, 0, &n, sizeof(n)))
		return 0;
	if (n.kind == BS_REFILL_LEASE) {
		bs_lease_put(&n);
	} else if (n.kind == BS_REFILL_SELECTORS) {
		row = bpf_map_lookup_elem(&bs_subjects, &n.subject);
		if (row)
			row->selectors[n.generation & 1] = n.bits;
	}
	return 1;
}

#endif
