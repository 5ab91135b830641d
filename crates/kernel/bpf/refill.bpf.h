/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * Rows that user space works out: what is kept for a policy that is coming, and what lookups over TCP have told. Never
 * attached: run by the loader through BPF_PROG_RUN, a struct bs_refill behind an Ethernet header, so that rows which
 * the other programs write meanwhile are changed as these change them, under the same lock or by the same atomic adds.
 */
#ifndef BLACKSTART_REFILL_H
#define BLACKSTART_REFILL_H

/* The row of a lookup, as bs_query_record keeps it for those in packets. Its name is kept by user space. */
static __always_inline void bs_query_put(struct bs_refill *n)
{
	struct bs_query_key key = {};

	key.name = n->name;
	key.subject = n->subject;
	key.rule = n->bits;
	key.qtype = n->bits >> 32;
	key.verdict = n->bits >> 48;
	bs_query_add(&key, 0);
}

/* A resolver that came or went. */
static __always_inline void bs_known_put(struct bs_refill *n)
{
	struct bs_address at = {};
	struct bs_lease *lease;

	__builtin_memcpy(at.addr, n->addr, sizeof(at.addr));
	bpf_map_update_elem(&bs_leases, &at, (void *)no_lease, BPF_NOEXIST);
	lease = bpf_map_lookup_elem(&bs_leases, &at);
	if (lease)
		lease->known = n->bits;
	else
		BS_COUNT(leases_lost, 1);
}

SEC("cgroup_skb/egress")
int bs_refill_one(struct __sk_buff *skb)
{
	struct bs_refill n = {};
	struct bs_subject *row;

	if (bpf_skb_load_bytes(skb, 0, &n, sizeof(n)))
		return 0;
	if (n.kind == BS_REFILL_LEASE || n.kind == BS_REFILL_LEASE_FOR) {
		if (n.kind == BS_REFILL_LEASE_FOR)
			n.until = bs_moment_after(n.until);
		bs_lease_put(&n);
	} else if (n.kind == BS_REFILL_SELECTORS) {
		row = bpf_map_lookup_elem(&bs_subjects, &n.subject);
		if (row)
			row->selectors[n.generation & 1] = n.bits;
	} else if (n.kind == BS_REFILL_KNOWN) {
		bs_known_put(&n);
	} else if (n.kind == BS_REFILL_QUERY) {
		bs_query_put(&n);
	} else if (n.kind == BS_REFILL_QUERY_MALFORMED) {
		BS_COUNT(queries_malformed, 1);
	} else if (n.kind == BS_REFILL_ANSWER_MALFORMED) {
		BS_COUNT(answers_malformed, 1);
	} else if (n.kind == BS_REFILL_ANSWER_UNASKED) {
		BS_COUNT(answers_unasked, 1);
	} else if (n.kind == BS_REFILL_LEASE_LOST) {
		BS_COUNT(leases_lost, 1);
	}
	return 1;
}

#endif
