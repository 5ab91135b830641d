/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * The judgement of a name that a connection gives itself: core::decide::decide_claim, line by line, as bs_judge is
 * core::decide::decide. A property test holds the two together.
 */
#ifndef BLACKSTART_CLAIM_H
#define BLACKSTART_CLAIM_H

/* Whose leases are weighed for which claim. */
struct bs_claim_weighing {
	struct bs_attempt *attempt;
	struct bs_lease *lease;
	__u32 class_id;
};

static long bs_claim_step(__u32 index, struct bs_claim_weighing *w)
{
	struct bs_lease_slot slot;

	if (bs_slot_read(w->lease, index, w->attempt->generation, &slot) && slot.class_id == w->class_id)
		bs_weigh(w->attempt, &slot);
	return 0;
}

/*
 * core::decide::decide_claim: what is said of an attempt that is made for this one name. `somewhere`: at a->addr, with
 * what rules say of that, and with the chains by which the name's class was leased there; else nobody knows where.
 */
__noinline int bs_judge_claim(struct bs_attempt *a, __u64 name, __u32 class_id, int somewhere)
{
	struct bs_claim_weighing weighing = { .attempt = a, .class_id = class_id };
	struct bs_address at = {};
	__u64 address = 0, local = 0, unknown;
	struct bs_policy *p;
	__u32 place;

	if (!a)
		return 0;
	place = a->generation & 1;
	p = &policies[place];
	unknown = a->subject;
	a->ruled_as = IPPROTO_TCP;
	if (somewhere) {
		at.addr[0] = a->addr[0];
		at.addr[1] = a->addr[1];
		at.addr[2] = a->addr[2];
		at.addr[3] = a->addr[3];
		address = bs_address_ruling(a, place, unknown);
		local = bs_is_loopback(at.addr);
		weighing.lease = bpf_map_lookup_elem(&bs_leases, &at);
		if (weighing.lease) {
			local |= weighing.lease->known & BS_KNOWN_OWN;
			bpf_loop(weighing.lease->used, bs_claim_step, &weighing, 0);
		}
	}
	if (!a->name) {
		struct bs_lease_slot slot = {
			.name = name,
			.class_id = class_id,
			.generation = a->generation,
		};

		bs_weigh(a, &slot);
	}
	BS_FORGET(address, unknown);
	BS_FORGET(local, unknown);
	bs_conclude(a, p, address, local, 0, unknown);
	a->name = name;
	a->attribution = a->subject ? BS_EXACT : BS_UNKNOWN;
	return 0;
}

#endif
