/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * cgroup/sock_create: internet sockets of a kind that no other hook judges when they reach out.
 *
 * A raw, ping or SCTP socket sends without connect or sendmsg hooks; only its packets are seen, which do not say whose
 * they are. So the socket learns its maker here. Under `default: deny` there is nothing that such a socket could be
 * judged by before it sends, and it is not made at all.
 *
 * Other families than the internet's never come here (BPF_CGROUP_RUN_PROG_INET_SOCK is in inet_create and inet6_create
 * alone): a seccomp filter refuses them where this refuses (spawn/filter.rs).
 */
#ifndef BLACKSTART_KIND_H
#define BLACKSTART_KIND_H

enum { SOCK_DGRAM = 2, IPPROTO_MPTCP = 262 };

/* A row of (subject, kind, verdict), and a line in the live view for a new one. */
static __always_inline void bs_made_record(struct bs_made_key *key)
{
	__u64 *count = bpf_map_lookup_elem(&bs_made, key), one = 1;
	struct bs_event *e;

	if (count) {
		__sync_fetch_and_add(count, 1);
		return;
	}
	if (bpf_map_update_elem(&bs_made, key, &one, BPF_NOEXIST)) {
		count = bpf_map_lookup_elem(&bs_made, key);
		if (count)
			__sync_fetch_and_add(count, 1);
		else
			BS_COUNT(sockets_lost, 1);
		return;
	}
	e = bpf_ringbuf_reserve(&bs_events, sizeof(*e), 0);
	if (!e) {
		BS_COUNT(events_lost, 1);
		return;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->kind = BS_EVENT_SOCKET;
	e->subject = key->subject;
	e->name = (__u64)key->family << 32 | (__u64)key->type << 16 | key->protocol;
	e->rule = key->rule;
	e->verdict = key->verdict;
	bpf_ringbuf_submit(e, 0);
}

/* When: a process of the run makes an AF_INET or AF_INET6 socket. Writes: for a kind that only packets show, the
 * socket's subject; where the default denies, made. Refuses with EPERM. Fails open for what connect and sendmsg
 * judge, and as the default says for the rest. */
SEC("cgroup/sock_create")
int bs_create(struct bpf_sock *ctx)
{
	__u32 type = ctx->type, protocol = ctx->protocol, family = ctx->family, generation;
	struct bs_made_key key = {};
	struct bs_socket *st;
	struct bs_policy *p;
	__u64 cookie;

	if (type == SOCK_STREAM ? protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP
				: type == SOCK_DGRAM && protocol == IPPROTO_UDP)
		return 1;
	generation = bs_generation();
	p = &policies[generation & 1];
	key.subject = bs_subject_now();
	if (p->default_deny && !live.open_families) {
		key.rule = BS_RULE_SOCKET_KIND;
		key.family = family;
		key.type = type;
		key.protocol = protocol;
		key.verdict = bs_verdict_of(BS_RULING(BS_EFFECT_DENY, BS_RULE_SOCKET_KIND) |
					    (__u64)(p->enforce ? BS_ENFORCE : 0) << 40);
		bs_made_record(&key);
		if (key.verdict == BS_DENY)
			return 0;
	}
	cookie = bpf_get_socket_cookie(ctx);
	st = bs_socket_new(cookie);
	if (!st)
		return 1;
	if (st->subject == key.subject)
		return 1;
	/* What the one that sat here before left is its flow's; the flow that the row names from here on may have none. */
	if (bs_holds(st))
		bs_flush(st);
	st->subject = key.subject;
	st->kept = 0;
	return 1;
}

#endif
