/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * Leases: for which names a run was given an address.
 */
#ifndef BLACKSTART_LEASE_H
#define BLACKSTART_LEASE_H

/* As long as one of the names of a class has the address, the class does. */
static __always_inline void bs_lease_prolong(__u32 *end, __u32 until)
{
	__u32 known = *end;

	if (known && (!until || bs_later(until, known)))
		*end = until;
}

/* Note a name's class with the address that it was given for: what verdicts ask. Slots of a policy that neither
 * judges, nor did a moment ago, nor comes are free. */
__noinline int bs_lease_put(struct bs_refill *n)
{
	struct bs_address at = {};
	struct bs_lease *lease;
	__u64 name, subject;
	__u64 place = BS_LEASE_SLOTS, oldest = 0, oldest_seen = 1ULL << 62;
	__u64 used;
	__u32 class_id, deny_class, turn, recorded, until, fresh = 0, evicted = 0;
	__u16 generation, current;

	if (!n)
		return 0;
	at.addr[0] = n->addr[0];
	at.addr[1] = n->addr[1];
	at.addr[2] = n->addr[2];
	at.addr[3] = n->addr[3];
	name = n->name;
	subject = n->subject;
	class_id = n->class_id;
	deny_class = n->deny_class;
	recorded = n->recorded;
	until = n->until;
	generation = n->generation;
	current = live.generation;

	lease = bpf_map_lookup_elem(&bs_leases, &at);
	if (!lease) {
		bpf_map_update_elem(&bs_leases, &at, (void *)no_lease, BPF_NOEXIST);
		lease = bpf_map_lookup_elem(&bs_leases, &at);
	}
	if (!lease) {
		BS_COUNT(leases_lost, 1);
		return 0;
	}
	turn = __sync_fetch_and_add(&lease->turns, 1) + 1;
	bpf_spin_lock(&lease->lock);
	used = lease->used;
	/* By sign bits: the branches of sixteen rounds would be two thirds of what there is to verify. */
	for (__u32 i = 0; i < BS_LEASE_SLOTS; i++) {
		struct bs_lease_slot *slot = &lease->slot[i];
		__u32 differs = (slot->class_id ^ class_id) | (slot->deny_class ^ deny_class) |
				(__u16)(slot->generation ^ generation);
		/* Whoever began before the last change may still judge by the policy before it. */
		__u64 free = bs_sign(2 - (__u64)(__u16)(slot->generation - current + 1));
		__u64 same = bs_is_zero(differs) & bs_sign(i - used);
		__u64 age = slot->seen & (free - 1);
		__u64 older = bs_sign(age - oldest_seen);

		place ^= (place ^ i) & -same;
		oldest ^= (oldest ^ i) & -older;
		oldest_seen ^= (oldest_seen ^ age) & -older;
	}
	if (place >= BS_LEASE_SLOTS) {
		/* A slot that says nothing any more, a fresh one, or the one not seen for longest. */
		if (!oldest_seen && oldest < used) {
			place = oldest;
		} else if (used < BS_LEASE_SLOTS) {
			place = used;
			fresh = 1;
		} else {
			place = oldest;
			evicted = 1;
		}
		/* The compiler knows that, and 6.1's verifier does not. */
		BS_MASK_BY(place, BS_LEASE_SLOTS - 1);
		lease->slot[place].several = 0;
		lease->until[place] = until;
	} else {
		/* The compiler knows that, and 6.1's verifier does not. */
		BS_MASK_BY(place, BS_LEASE_SLOTS - 1);
		if (lease->slot[place].name != name)
			lease->slot[place].several = 1;
		bs_lease_prolong(&lease->until[place], until);
	}
	lease->slot[place].name = name;
	lease->slot[place].subject = subject;
	lease->slot[place].class_id = class_id;
	lease->slot[place].deny_class = deny_class;
	lease->slot[place].seen = turn;
	lease->slot[place].recorded = recorded;
	/* With a barrier, and the generation behind it: who looks without the lock, at slots that are in use and of its
	 * own generation, finds them filled. */
	__sync_fetch_and_add(&lease->used, fresh);
	lease->slot[place].generation = generation;
	bpf_spin_unlock(&lease->lock);
	if (evicted)
		BS_COUNT(leases_evicted, 1);
	return 0;
}

/* Slots that are looked at without the lock: few addresses have more classes of names. */
enum { BS_LEASE_LOOK = 3 };

/* Is the same in the record already? Then nothing is to be done, and no lock to be taken. As long as none had to make
 * room, a slot that is in use keeps its classes while its generation judges. */
static __always_inline int bs_lease_stands(struct bs_lease *lease, struct bs_answer_scratch *s, __u32 which)
{
	__u32 class_id = s->class_id[which & 1], deny_class = s->deny_class[which & 1], used;
	__u16 generation = s->generation + which;

	used = BS_LOAD_ACQUIRE(&lease->used);
	if (used >= BS_LEASE_SLOTS)
		return 0;
	for (__u32 i = 0; i < BS_LEASE_LOOK && i < used; i++) {
		struct bs_lease_slot *slot;

		/* Else the compiler counts down from the lesser of the two, and most kernels lose the bound. */
		barrier_var(used);
		slot = &lease->slot[i];
		if (slot->class_id != class_id || slot->deny_class != deny_class || slot->generation != generation)
			continue;
		if (slot->name != s->key.name || slot->subject != s->subject || !slot->recorded)
			return 0;
		slot->seen = __sync_fetch_and_add(&lease->turns, 1) + 1;
		bs_lease_prolong(&lease->until[i], s->until);
		return 1;
	}
	return 0;
}

/* Remember that s->key.addr was given for the question: the lease, and the record. */
static __always_inline int bs_lease_add(struct bs_answer_scratch *s)
{
	struct bs_refill note = {};
	struct bs_address at = {};
	struct bs_lease *lease;

	at.addr[0] = note.addr[0] = s->key.addr[0];
	at.addr[1] = note.addr[1] = s->key.addr[1];
	at.addr[2] = note.addr[2] = s->key.addr[2];
	at.addr[3] = note.addr[3] = s->key.addr[3];
	lease = bpf_map_lookup_elem(&bs_leases, &at);
	if (lease && !s->coming && bs_lease_stands(lease, s, 0))
		return 0;
	note.recorded = bpf_map_lookup_elem(&bs_answers, &s->key) ||
			!bpf_map_update_elem(&bs_answers, &s->key, &s->fresh, BPF_ANY);
	if (!note.recorded)
		BS_COUNT(leases_lost, 1);
	note.name = s->key.name;
	note.subject = s->subject;
	note.until = s->until;
	note.class_id = s->class_id[0];
	note.deny_class = s->deny_class[0];
	note.generation = s->generation;
	bs_lease_put(&note);
	if (s->coming) {
		note.class_id = s->class_id[1];
		note.deny_class = s->deny_class[1];
		note.generation = s->generation + 1;
		bs_lease_put(&note);
	}
	return 0;
}

#endif
