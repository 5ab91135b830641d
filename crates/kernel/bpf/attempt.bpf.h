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
	__u32 addr[4];
	__u16 port;
	__u8 protocol;
	__u8 backstop; /* judged in the packet path */
	/* out */
	__u8 verdict;
	__u8 attribution;
	__u8 ruled_as; /* the protocol as rules tell it apart */
	__u8 pad;
	__u32 rule;
	__u64 name;
	/* bs_judge's own. In memory and not in registers, so that the verifier need not tell the paths through the
	 * leases apart. */
	__u32 best_seen;
	__u32 best_mine;
	__u32 deny_rule;
	__u32 allow_rule;
	__u8 denied;
	__u8 allowed;
	__u8 other;
	__u8 several;
	__u32 pad2;
};

/* effect << 32 | rule of a class for a protocol and a port. */
__noinline __u64 bs_ruling(__u32 class_id, __u8 protocol, __u16 port)
{
	struct bs_class *c = bpf_map_lookup_elem(&bs_classes, &class_id);

	if (!c)
		return 0;
	if (c->by_port) {
		struct bs_port_key key = {
			.prefixlen = 56,
			.class_be = { class_id >> 24, class_id >> 16, class_id >> 8, class_id },
			.protocol = protocol,
			.port_be = { port >> 8, port },
		};
		struct bs_port_ruling *r = bpf_map_lookup_elem(&bs_ports, &key);

		return r ? (__u64)r->effect << 32 | r->rule : 0;
	}
	return (__u64)c->effect << 32 | c->rule;
}

static __always_inline int bs_is_loopback(const __u32 *addr)
{
	if (addr[0] == 0 && addr[1] == 0) {
		if (addr[2] == bpf_htonl(0xffff))
			return (addr[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
		return addr[2] == 0 && addr[3] == bpf_htonl(1);
	}
	return 0;
}

/* What one class of names under which the address was leased says of the attempt. */
__noinline int bs_weigh(struct bs_attempt *a, struct bs_lease_slot *slot)
{
	__u64 ruling;
	__u32 mine;

	if (!a || !slot)
		return 0;
	/* The likeliest name: the latest that this subject asked for, else the latest. */
	mine = slot->subject == a->subject;
	if (!a->name || mine > a->best_mine || (mine == a->best_mine && slot->seen >= a->best_seen)) {
		a->name = slot->name;
		a->best_seen = slot->seen;
		a->best_mine = mine;
	}
	ruling = slot->deny_class ? bs_ruling(slot->deny_class, a->ruled_as, a->port) : 0;
	if (ruling >> 32 != BS_EFFECT_DENY)
		ruling = bs_ruling(slot->class_id, a->ruled_as, a->port);
	if (ruling >> 32 == BS_EFFECT_DENY) {
		if (!a->denied)
			a->deny_rule = ruling;
		a->denied = 1;
	} else if (ruling >> 32 == BS_EFFECT_ALLOW) {
		if (!a->allowed)
			a->allow_rule = ruling;
		a->allowed = 1;
	} else {
		a->other = 1;
	}
	return 0;
}

/* Fill a->verdict, rule, name, attribution. Writes no map. Fails closed: an impossible state denies only
 * where the default denies. */
__noinline int bs_judge(struct bs_attempt *a)
{
	struct bs_address at = {};
	struct bs_prefix_key where = { .prefixlen = 128 };
	__u64 address = 0, subject;
	__u32 used, local, known, listed = 0;
	struct bs_lease *lease;
	__u32 *prefix;
	__u16 port;
	__u8 protocol;
	int deny = 0;

	if (!a)
		return 0;
	port = a->port;
	subject = a->subject;
	/* What rules can tell apart; the rest has no port. 136 is UDP-Lite, 262 (MPTCP) arrives as TCP. */
	protocol = a->protocol == 136 ? IPPROTO_UDP : a->protocol;
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		protocol = 0;
	a->ruled_as = protocol;
	at.addr[0] = where.addr[0] = a->addr[0];
	at.addr[1] = where.addr[1] = a->addr[1];
	at.addr[2] = where.addr[2] = a->addr[2];
	at.addr[3] = where.addr[3] = a->addr[3];

	if (config.has_prefixes) {
		prefix = bpf_map_lookup_elem(&bs_prefixes, &where);
		if (prefix)
			address = bs_ruling(*prefix, protocol, port);
	}

	lease = bpf_map_lookup_elem(&bs_leases, &at);
	if (lease) {
		used = *(volatile __u32 *)&lease->used;
		for (__u32 i = 0; i < BS_LEASE_SLOTS && i < used; i++) {
			struct bs_lease_slot slot;

			bpf_spin_lock(&lease->lock);
			slot = lease->slot[i];
			bpf_spin_unlock(&lease->lock);
			if (i || slot.several)
				a->several = 1;
			bs_weigh(a, &slot);
		}
	}

	local = bs_is_loopback(at.addr);
	if (config.default_deny || !a->name) {
		known = bs_known_as(at.addr);
		local |= known & BS_KNOWN_OWN;
		/* Lookups over TCP are not seen: that a server is ours permits datagrams only. */
		listed = known & BS_KNOWN_RESOLVER && port == 53 && protocol == IPPROTO_UDP;
		if (known & BS_KNOWN_DENIED)
			address = (__u64)BS_EFFECT_DENY << 32 | BS_RULE_DEFAULT;
		if (known & BS_KNOWN_ALLOWED)
			address = (__u64)BS_EFFECT_ALLOW << 32 | BS_RULE_DEFAULT;
	}

	if (address >> 32 == BS_EFFECT_DENY) {
		deny = 1;
		a->rule = address;
	} else if (a->denied && !a->allowed && !a->other) {
		deny = 1;
		a->rule = a->deny_rule;
	} else if (address >> 32 == BS_EFFECT_ALLOW) {
		a->rule = address;
	} else if (a->allowed) {
		a->rule = a->allow_rule;
	} else if (!config.default_deny) {
		a->rule = BS_RULE_DEFAULT;
	} else if (local) {
		a->rule = BS_RULE_LOCAL;
	} else if (listed) {
		a->rule = BS_RULE_RESOLVER;
	} else {
		deny = 1;
		a->rule = BS_RULE_DEFAULT;
	}
	a->verdict = !deny ? BS_ALLOW : live.enforce ? BS_DENY : BS_WOULD_DENY;
	if (!subject)
		a->attribution = BS_UNKNOWN;
	else if (!a->name)
		a->attribution = (address || local || listed) ? BS_EXACT : BS_UNNAMED;
	else if ((a->denied && (a->allowed || a->other)) || (a->several && !a->best_mine))
		a->attribution = BS_AMBIGUOUS;
	else
		a->attribution = BS_EXACT;
	return 0;
}

/* Add the attempt to its row. At all times attempts = sum over flows + overflow + lost. */
__noinline int bs_record(struct bs_attempt *a)
{
	struct bs_flow_key key = {};
	struct bs_flow fresh = {};
	struct bs_counters *counters;
	struct bs_flow *flow;
	__u64 now = bpf_ktime_get_boot_ns();
	__u32 zero = 0;

	if (!a)
		return 0;
	counters = bpf_map_lookup_elem(&bs_counters, &zero);
	if (counters) {
		__sync_fetch_and_add(&counters->attempts, 1);
		if (a->backstop)
			__sync_fetch_and_add(&counters->backstop, 1);
		if (a->protocol == IPPROTO_TCP && a->port == 53 && a->verdict != BS_DENY)
			__sync_fetch_and_add(&counters->dns_over_tcp, 1);
	}
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
		fresh.first_ns = fresh.last_ns = now;
		fresh.attribution = a->attribution;
		if (!bpf_map_update_elem(&bs_flows, &key, &fresh, BPF_NOEXIST)) {
			struct bs_event *e;

			if (key.verdict == BS_ALLOW)
				return 0;
			e = bpf_ringbuf_reserve(&bs_events, sizeof(*e), 0);
			if (!e) {
				BS_COUNT(events_lost, 1);
				return 0;
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
			return 0;
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
	flow->last_ns = now;
	return 0;
}

/* The socket remembers what was decided for it. */
static __always_inline void bs_socket_set(struct bs_socket *st, struct bs_attempt *a)
{
	st->subject = a->subject;
	st->name = a->name;
	st->addr[0] = a->addr[0];
	st->addr[1] = a->addr[1];
	st->addr[2] = a->addr[2];
	st->addr[3] = a->addr[3];
	st->rule = a->rule;
	st->port = a->port;
	st->protocol = a->protocol;
	st->verdict = a->verdict;
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
	key.verdict = st->verdict;
	return bpf_map_lookup_elem(&bs_flows, &key);
}

/* Move what was learned of the socket's last destination to its row. */
static __always_inline void bs_flush(struct bs_socket *st)
{
	__u64 bytes = st->bytes;

	if (bytes) {
		struct bs_flow *flow = bs_flow_of(st);

		if (flow) {
			__sync_fetch_and_add(&flow->bytes, bytes);
			__sync_fetch_and_sub(&st->bytes, bytes);
		}
	}
}

#endif
