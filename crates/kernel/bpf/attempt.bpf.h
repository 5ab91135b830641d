/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * One attempt: who, where, may it, and the row that remembers it. Shared by the socket hooks (v4, v6) and the
 * packet path. The decision is core::decide::decide, line by line; a property test holds the two together.
 */
#ifndef BLACKSTART_ATTEMPT_H
#define BLACKSTART_ATTEMPT_H

struct bs_attempt {
	/* in */
	__u64 subject;
	__u64 selectors; /* which hold for it */
	__u32 addr[4];
	__u16 port;
	__u8 protocol;
	__u8 backstop;     /* judged in the packet path */
	__u32 generation;  /* of the policy that judges */
	/* out */
	__u8 verdict;
	__u8 attribution;
	__u8 ruled_as; /* the protocol as rules tell it apart */
	__u8 failure;  /* of a deny: errno or BS_BLACKHOLE */
	__u32 rule;
	__u64 name;
	/* bs_judge's own. In memory and not in registers, so that the verifier need not tell the paths through the
	 * leases apart. */
	__u64 denied;  /* rulings: the first name that is denied; for the record only goes before enforced */
	__u64 allowed; /* the first name of the highest rank that is allowed */
	__u32 best_seen;
	__u32 best_mine;
	__u8 lowest_denial; /* rank */
	__u8 other;         /* some name is neither */
	__u8 several;
	__u8 forwarded; /* in: 1 for a lookup over TCP that the forwarder will read */
	__u8 kept;      /* bs_backstop's own: a row has it. Here, since its stack is full */
	__u8 elsewhere; /* in: a proxy is to reach there, of whose host nothing is known */
	__u8 asked;     /* in: by a further request of a connection that was made */
	__u8 pad;
};

#define BS_EFFECT(ruling) ((__u8)((ruling) >> 32))
#define BS_FLAGS(ruling) ((__u8)((ruling) >> 40))
#define BS_FAILURE(ruling) ((__u8)((ruling) >> 48))
#define BS_RANK_OF(ruling) (BS_FLAGS(ruling) & BS_RANK)
#define BS_RULING(effect, rule) ((__u64)(effect) << 32 | (rule))

/* A ruling while the questions that it begins with are asked. */
struct bs_asking {
	__u64 ruling;
	__u64 selectors;
};

/* One question. 0 to go on, 1 once it is answered what holds. */
static long bs_choose_step(__u32 index, struct bs_asking *asking)
{
	__u32 row = asking->ruling;
	struct bs_choice *c = bpf_map_lookup_elem(&bs_choices, &row);

	if (!c) {
		asking->ruling = 0;
		return 1;
	}
	asking->ruling = asking->selectors >> (c->selector & 63) & 1 ? c->yes : c->no;
	return BS_EFFECT(asking->ruling) != BS_EFFECT_CHOICE;
}

/* What holds for a process: the end of the questions that a ruling may begin with. */
__noinline __u64 bs_choose(__u64 ruling, __u64 selectors)
{
	struct bs_asking asking = { .ruling = ruling, .selectors = selectors };

	if (spared.processes || BS_EFFECT(ruling) != BS_EFFECT_CHOICE)
		return ruling;
	bpf_loop(BS_SELECTORS, bs_choose_step, &asking, 0);
	return BS_EFFECT(asking.ruling) == BS_EFFECT_CHOICE ? 0 : asking.ruling;
}

/* What a class rules for a protocol, a port and a process. */
__noinline __u64 bs_ruling(__u32 class_id, __u8 protocol, __u16 port, __u64 selectors)
{
	struct bs_class *c = bpf_map_lookup_elem(&bs_classes, &class_id);
	__u64 ruling;

	if (!c)
		return 0;
	ruling = c->reach;
	if (c->by_port) {
		struct bs_port_key key = {
			.prefixlen = 56,
			.class_be = { class_id >> 24, class_id >> 16, class_id >> 8, class_id },
			.protocol = protocol,
			.port_be = { port >> 8, port },
		};
		__u64 *r = bpf_map_lookup_elem(&bs_ports, &key);

		ruling = r ? *r : 0;
	}
	if (BS_EFFECT(ruling) == BS_EFFECT_CHOICE)
		ruling = bs_choose(ruling, selectors);
	return ruling;
}

/* What becomes of an attempt, or of a lookup, that is ruled so. */
static __always_inline __u8 bs_verdict_of(__u64 ruling)
{
	if (BS_EFFECT(ruling) != BS_EFFECT_DENY)
		return BS_RANK_OF(ruling) == BS_RANK_WAIVER ? BS_WAIVED : BS_ALLOW;
	if (!(BS_FLAGS(ruling) & BS_ENFORCE))
		return BS_WOULD_DENY;
	if (live.enforce)
		return BS_DENY;
	return live.break_glass ? BS_BREAK_GLASS : BS_WOULD_DENY;
}

/* Which selectors hold for a subject; 0 where no rule speaks of any. */
static __always_inline __u64 bs_selectors_of(__u64 subject, __u32 generation)
{
	struct bs_subject *row;

	if (spared.processes || !policies[generation & 1].has_selectors)
		return 0;
	row = bpf_map_lookup_elem(&bs_subjects, &subject);
	return row ? row->selectors[generation & 1] : 0;
}

static __always_inline __u64 bs_is_loopback(const __u32 *addr)
{
	__u32 v4 = addr[0] | addr[1] | (addr[2] ^ bpf_htonl(0xffff)) |
		   ((addr[3] & bpf_htonl(0xff000000)) ^ bpf_htonl(0x7f000000));
	__u32 v6 = addr[0] | addr[1] | addr[2] | (addr[3] ^ bpf_htonl(1));

	return bs_is_zero(v4) | bs_is_zero(v6);
}

/* Does what a link of the chain of CNAMEs is denied by stand over what is said of the name itself? core::decide::is_over */
static __always_inline int bs_is_over(__u64 link, __u64 own)
{
	__u32 of_link = BS_RANK_OF(link) << 1, of_own = BS_RANK_OF(own) << 1;

	if (BS_EFFECT(link) != BS_EFFECT_DENY)
		return 0;
	if (BS_EFFECT(own) != BS_EFFECT_DENY)
		return of_link >= of_own;
	return (of_link | !!(BS_FLAGS(link) & BS_ENFORCE)) > (of_own | !!(BS_FLAGS(own) & BS_ENFORCE));
}

/* What one class of names under which the address was leased says of the attempt; core::decide::Weighed. */
__noinline int bs_weigh(struct bs_attempt *a, struct bs_lease_slot *slot)
{
	__u64 ruling, was;
	__u32 mine;
	__u8 rank;

	if (!a || !slot)
		return 0;
	/* Of another policy's classes: kept for that one, or left over from it. */
	if (slot->generation != (__u16)a->generation)
		return 0;
	if (slot->several || a->name)
		a->several = 1;
	/* The likeliest name: the latest that this subject asked for, else the latest. */
	mine = slot->subject == a->subject;
	if (!a->name || mine > a->best_mine || (mine == a->best_mine && slot->seen >= a->best_seen)) {
		a->name = slot->name;
		a->best_seen = slot->seen;
		a->best_mine = mine;
	}
	ruling = bs_ruling(slot->class_id, a->ruled_as, a->port, a->selectors);
	if (slot->deny_class) {
		was = bs_ruling(slot->deny_class, a->ruled_as, a->port, a->selectors);
		if (bs_is_over(was, ruling))
			ruling = was;
	}
	rank = BS_RANK_OF(ruling);
	if (BS_EFFECT(ruling) == BS_EFFECT_DENY) {
		was = a->denied;
		if (!was || rank < a->lowest_denial)
			a->lowest_denial = rank;
		if (!was || (BS_FLAGS(was) & BS_ENFORCE && !(BS_FLAGS(ruling) & BS_ENFORCE)))
			a->denied = ruling;
	} else if (BS_EFFECT(ruling) == BS_EFFECT_ALLOW) {
		was = a->allowed;
		if (!was || BS_RANK_OF(was) < rank)
			a->allowed = ruling;
	} else {
		a->other = 1;
	}
	return 0;
}

/* Whose names are weighed for which attempt. */
struct bs_weighing {
	struct bs_attempt *attempt;
	struct bs_lease *lease;
};

/* A slot of a lease as it is now; 0 if it has ended, or is none. */
static __always_inline int bs_slot_read(struct bs_lease *lease, __u32 i, __u32 generation, struct bs_lease_slot *slot)
{
	__u32 until;

	if (!lease || i >= BS_LEASE_SLOTS)
		return 0;
	bpf_spin_lock(&lease->lock);
	*slot = lease->slot[i];
	until = lease->until[i];
	bpf_spin_unlock(&lease->lock);
	return spared.expiry || !until || !policies[generation & 1].expiry || !bs_later(bs_moment(), until);
}

static __always_inline void bs_slot_weigh(__u32 i, struct bs_weighing *w)
{
	struct bs_lease_slot slot;

	if (bs_slot_read(w->lease, i, w->attempt->generation, &slot))
		bs_weigh(w->attempt, &slot);
}

static long bs_slot_step(__u32 index, struct bs_weighing *w)
{
	bs_slot_weigh(index + 1, w);
	return 0;
}

/* What the address and its names say, by the highest rank of which one speaks; 0 if nothing. A global function: verified
 * once, not for each way that leads to it. */
__noinline __u64 bs_say(__u64 address, __u64 names, __u32 names_rank, __u64 allowed)
{
	for (int rank = BS_RANK_FINAL; rank >= BS_RANK_PLAIN; rank--) {
		__u64 deny_address = 0, deny_names = 0;

		if (BS_EFFECT(address) == BS_EFFECT_DENY && BS_RANK_OF(address) == rank)
			deny_address = address;
		if (names && names_rank == rank)
			deny_names = names;
		/* A deny for the record takes nothing away from one that is enforced. */
		if (BS_FLAGS(deny_address) & BS_ENFORCE)
			return deny_address;
		if (BS_FLAGS(deny_names) & BS_ENFORCE)
			return deny_names;
		if (deny_address)
			return deny_address;
		if (deny_names)
			return deny_names;
		if (BS_EFFECT(address) == BS_EFFECT_ALLOW && BS_RANK_OF(address) == rank)
			return address;
		/* At some addresses no name permits. */
		if (allowed && BS_RANK_OF(allowed) == rank &&
		    (rank != BS_RANK_PLAIN || BS_EFFECT(address) != BS_EFFECT_SEARCH))
			return allowed;
	}
	return 0;
}

/* What rules on the address itself say; 0 if none does. */
static __always_inline __u64 bs_address_ruling(struct bs_attempt *a, __u32 place, __u64 unknown)
{
	struct bs_prefix_key where = { .prefixlen = 128 };
	__u64 address = 0;
	__u32 *prefix;

	if (spared.prefixes || !policies[place].has_prefixes)
		return 0;
	where.addr[0] = a->addr[0];
	where.addr[1] = a->addr[1];
	where.addr[2] = a->addr[2];
	where.addr[3] = a->addr[3];
	prefix = place ? bpf_map_lookup_elem(&bs_prefixes_odd, &where) : bpf_map_lookup_elem(&bs_prefixes_even, &where);
	if (prefix)
		address = bs_ruling(*prefix, a->ruled_as, a->port, a->selectors);
	BS_FORGET(address, unknown);
	return address;
}

/* The end of a judgement: what the address and the names that were weighed say, or else the default. */
static __always_inline __u64 bs_conclude(struct bs_attempt *a, struct bs_policy *p, __u64 address, __u64 local,
					 __u64 listed, __u64 unknown)
{
	__u64 names = a->allowed || a->other ? 0 : a->denied, ruling;

	ruling = address | names | a->allowed ? bs_say(address, names, a->lowest_denial, a->allowed) : 0;
	if (!ruling) {
		if (!p->default_deny)
			ruling = BS_RULING(BS_EFFECT_ALLOW, BS_RULE_DEFAULT);
		else if (local)
			ruling = BS_RULING(BS_EFFECT_ALLOW, BS_RULE_LOCAL);
		else if (listed)
			ruling = BS_RULING(BS_EFFECT_ALLOW, BS_RULE_RESOLVER);
		else
			ruling = BS_RULING(BS_EFFECT_DENY, a->allowed && BS_EFFECT(address) == BS_EFFECT_SEARCH ?
								   (__u32)address : BS_RULE_DEFAULT) |
				 (__u64)(p->enforce ? BS_ENFORCE : 0) << 40 | (__u64)ECONNREFUSED << 48;
	}
	BS_FORGET(ruling, unknown);
	a->rule = ruling;
	a->failure = BS_FAILURE(ruling);
	a->verdict = bs_verdict_of(ruling);
	return ruling;
}

/* Fill a->verdict, rule, failure, name, attribution. Writes no map. Fails closed: an impossible state denies only
 * where the default denies. */
__noinline int bs_judge(struct bs_attempt *a)
{
	struct bs_address at = {};
	__u64 address, ruling, local, listed = 0, unknown;
	__u32 known, place;
	__u32 used;
	struct bs_weighing weighing = { .attempt = a };
	struct bs_policy *p;
	__u16 port;
	__u8 protocol;

	if (!a)
		return 0;
	place = a->generation & 1;
	p = &policies[place];
	unknown = a->subject;
	port = a->port;
	/* What rules can tell apart; the rest has no port. 136 is UDP-Lite, 262 (MPTCP) arrives as TCP. */
	protocol = a->protocol == 136 ? IPPROTO_UDP : a->protocol;
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		protocol = 0;
	a->ruled_as = protocol;
	at.addr[0] = a->addr[0];
	at.addr[1] = a->addr[1];
	at.addr[2] = a->addr[2];
	at.addr[3] = a->addr[3];
	address = bs_address_ruling(a, place, unknown);

	weighing.lease = bpf_map_lookup_elem(&bs_leases, &at);
	if (weighing.lease) {
		used = *(volatile __u32 *)&weighing.lease->used;
		/* Most addresses have one class of names, and need no indirect call. */
		if (used)
			bs_slot_weigh(0, &weighing);
		if (used > 1)
			bpf_loop(used - 1, bs_slot_step, &weighing, 0);
	}

	local = bs_is_loopback(at.addr);
	if (p->default_deny || !a->name) {
		known = weighing.lease ? weighing.lease->known : 0;
		local |= known & BS_KNOWN_OWN;
		/* That a server is ours permits lookups that are seen: datagrams, and what the forwarder reads. */
		listed = bs_is_zero((known & BS_KNOWN_RESOLVER) ^ BS_KNOWN_RESOLVER) & bs_is_zero(port ^ 53) &
			 (bs_is_zero(protocol ^ IPPROTO_UDP) | (a->forwarded & 1));
		if (known & BS_KNOWN_DENIED)
			address = BS_RULING(BS_EFFECT_DENY, BS_RULE_DEFAULT) | (__u64)(BS_RANK_FINAL | BS_ENFORCE) << 40 |
				  (__u64)ECONNREFUSED << 48;
		if (known & BS_KNOWN_ALLOWED)
			address = BS_RULING(BS_EFFECT_ALLOW, BS_RULE_DEFAULT) | (__u64)BS_RANK_FINAL << 40;
	}
	if (a->elsewhere)
		local = 0;
	/* Here all ways meet. */
	BS_FORGET(address, unknown);
	BS_FORGET(local, unknown);
	BS_FORGET(listed, unknown);

	ruling = bs_conclude(a, p, address, local, listed, unknown);
	if (!a->subject)
		a->attribution = BS_UNKNOWN;
	else if (!a->name)
		a->attribution = ((address && BS_EFFECT(address) != BS_EFFECT_SEARCH) || local || listed) ? BS_EXACT : BS_UNNAMED;
	else if ((a->denied && BS_EFFECT(ruling) != BS_EFFECT_DENY) || (a->several && !a->best_mine))
		a->attribution = BS_AMBIGUOUS;
	else
		a->attribution = BS_EXACT;
	return 0;
}

static __always_inline void bs_count_attempt(struct bs_attempt *a)
{
	struct bs_counters *counters;
	__u32 zero = 0;

	counters = bpf_map_lookup_elem(&bs_counters, &zero);
	if (counters) {
		__sync_fetch_and_add(&counters->attempts, 1);
		if (a->backstop)
			__sync_fetch_and_add(&counters->backstop, 1);
		if (a->protocol == IPPROTO_TCP && a->port == 53 && a->verdict != BS_DENY && !a->forwarded)
			__sync_fetch_and_add(&counters->dns_over_tcp, 1);
	}
}

/* Add an attempt that is counted to its row; 1 if there is one. At all times attempts = sum over flows, and what sockets
 * hold for theirs, + overflow + lost. */
static __always_inline int bs_row_add(struct bs_attempt *a)
{
	struct bs_flow_key key = {};
	struct bs_flow fresh = {};
	struct bs_flow *flow;
	__u32 reached = a->asked && a->verdict != BS_DENY;

	key.subject = a->subject;
	key.name = a->name;
	key.addr[0] = a->addr[0];
	key.addr[1] = a->addr[1];
	key.addr[2] = a->addr[2];
	key.addr[3] = a->addr[3];
	key.rule = a->rule;
	key.port = a->port;
	key.protocol = a->protocol;
	key.verdict = a->verdict;
	flow = bpf_map_lookup_elem(&bs_flows, &key);
	if (!flow) {
		struct bs_overflow_key sum = { .subject = key.subject, .verdict = key.verdict };
		__u64 *more;

		fresh.attempts = 1;
		fresh.connected = reached;
		fresh.first_ns = fresh.last_ns = bpf_ktime_get_boot_ns();
		fresh.attribution = a->attribution;
		if (!bpf_map_update_elem(&bs_flows, &key, &fresh, BPF_NOEXIST)) {
			struct bs_event *e;

			/* What passes is not told live. But who listens on loopback can be found out only while it does. */
			if (key.verdict == BS_ALLOW && (key.protocol != IPPROTO_TCP || !bs_is_loopback(key.addr)))
				return 1;
			e = bpf_ringbuf_reserve(&bs_events, sizeof(*e), 0);
			if (!e) {
				BS_COUNT(events_lost, 1);
				return 1;
			}
			e->kind = BS_EVENT_ATTEMPT;
			e->tgid = 0;
			e->subject = key.subject;
			e->name = key.name;
			e->addr[0] = key.addr[0];
			e->addr[1] = key.addr[1];
			e->addr[2] = key.addr[2];
			e->addr[3] = key.addr[3];
			e->rule = key.rule;
			e->port = key.port;
			e->protocol = key.protocol;
			e->verdict = key.verdict;
			bpf_ringbuf_submit(e, 0);
			return 1;
		}
		/* Another CPU was first, or the table is full. */
		flow = bpf_map_lookup_elem(&bs_flows, &key);
		if (!flow) {
			more = bpf_map_lookup_elem(&bs_overflow, &sum);
			if (!more) {
				__u64 none = 0;

				bpf_map_update_elem(&bs_overflow, &sum, &none, BPF_NOEXIST);
				more = bpf_map_lookup_elem(&bs_overflow, &sum);
			}
			if (more) {
				__sync_fetch_and_add(more, 1);
				BS_COUNT(overflow, 1);
			} else {
				BS_COUNT(lost, 1);
			}
			return 0;
		}
	}
	__sync_fetch_and_add(&flow->attempts, 1);
	if (reached)
		__sync_fetch_and_add(&flow->connected, 1);
	bs_now_at(&flow->last_ns);
	return 1;
}

/* Count the attempt and add it to its row; 1 if there is one. */
__noinline int bs_record(struct bs_attempt *a)
{
	if (!a)
		return 0;
	bs_count_attempt(a);
	return bs_row_add(a);
}

/* The same for one that was counted before, and was taken out of the row that it had. */
__noinline int bs_record_again(struct bs_attempt *a)
{
	return a ? bs_row_add(a) : 0;
}

/* The row of a judged socket, for what is learned of it later. */
static __always_inline struct bs_flow *bs_flow_of(struct bs_socket *st)
{
	struct bs_flow_key key = {};

	key.subject = st->subject;
	key.name = st->name;
	key.addr[0] = st->addr[0];
	key.addr[1] = st->addr[1];
	key.addr[2] = st->addr[2];
	key.addr[3] = st->addr[3];
	key.rule = st->rule;
	key.port = st->port;
	key.protocol = st->protocol;
	key.verdict = st->flow_verdict;
	return bpf_map_lookup_elem(&bs_flows, &key);
}

/* Move what the socket's row holds for its flow there. A flow that found no room has no bytes. */
__noinline int bs_flush(struct bs_socket *st)
{
	struct bs_flow *flow;
	__u64 bytes;
	__u32 attempts, connected;

	if (!st)
		return 0;
	/* Taken out: of two that do this at once (packets of a raw socket that threads share), each moves what the other does
	 * not. */
	bytes = __sync_lock_test_and_set(&st->bytes, 0);
	attempts = __sync_lock_test_and_set(&st->attempts, 0);
	connected = __sync_lock_test_and_set(&st->connected, 0);
	flow = bs_flow_of(st);
	if (flow) {
		__sync_fetch_and_add(&flow->bytes, bytes);
		__sync_fetch_and_add(&flow->attempts, attempts);
		__sync_fetch_and_add(&flow->connected, connected);
		if (attempts && st->last_ns > flow->last_ns)
			flow->last_ns = st->last_ns;
	} else if (attempts) {
		BS_COUNT(lost, attempts);
	}
	return 0;
}

static __always_inline int bs_holds(struct bs_socket *st)
{
	return (st->bytes | st->attempts | st->connected) != 0;
}

/* Is the attempt one of the flow that the socket's row names? */
static __always_inline int bs_is_flow_of(struct bs_socket *st, struct bs_attempt *a)
{
	__u64 differs = (st->subject ^ a->subject) | (st->name ^ a->name) | (st->addr[0] ^ a->addr[0]) |
			(st->addr[1] ^ a->addr[1]) | (st->addr[2] ^ a->addr[2]) | (st->addr[3] ^ a->addr[3]) |
			(st->rule ^ a->rule) | (st->port ^ a->port) | (st->protocol ^ a->protocol) |
			(st->flow_verdict ^ a->verdict);

	return !differs;
}

/* An attempt of the flow that the socket's row names, where that has a row: it is kept here until another flow comes.
 * To find a flow is the dearest part of an attempt, and who tries once tries again. */
static __always_inline void bs_record_here(struct bs_socket *st, struct bs_attempt *a)
{
	bs_count_attempt(a);
	__sync_fetch_and_add(&st->attempts, 1);
	bs_now_at(&st->last_ns);
}

/* The socket remembers what was decided for it, and in which row it was recorded. What its row still holds, of another
 * destination or left by the socket that was here before, goes to its flow first. */
static __always_inline void bs_socket_set(struct bs_socket *st, struct bs_attempt *a, int kept)
{
	if (!bs_is_flow_of(st, a)) {
		if (bs_holds(st))
			bs_flush(st);
		st->subject = a->subject;
		st->name = a->name;
		st->addr[0] = a->addr[0];
		st->addr[1] = a->addr[1];
		st->addr[2] = a->addr[2];
		st->addr[3] = a->addr[3];
		st->rule = a->rule;
		st->port = a->port;
		st->protocol = a->protocol;
		st->flow_verdict = a->verdict;
	}
	st->kept = kept;
	st->verdict = a->verdict;
}

#endif
