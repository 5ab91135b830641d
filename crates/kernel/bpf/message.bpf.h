/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * sk_msg: whom a connection says that it is for, where one address serves several names.
 *
 * A connection to a port of the policy's `inspect` is put into a sockhash when it is established (established.bpf.h); what is sent
 * first then comes by here before it leaves, and a refused one is an error of the send itself. The name that a client gives
 * is its claim: it may refuse, and permits nothing that connect() did not. What a proxy is asked for is a destination of
 * its own.
 *
 * Why not in cgroup_skb, which sees the same octets: a drop there has TCP send them again for minutes.
 *
 * What was there before the connection was, with the SYN (Fast Open) or waiting for its answer, does not come by here. That is
 * read in cgroup_skb all the same, and lost where it is refused.
 */
#ifndef BLACKSTART_MESSAGE_H
#define BLACKSTART_MESSAGE_H

enum { SK_DROP = 0, SK_PASS = 1 };

/* Connections of which something is to be read, by cookie. The program that reads is attached to it. Full: counted in
 * claims_full, and nothing is read. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u64);
} bs_claimants SEC(".maps");

/* Of what leaves by another way, as much is looked at. */
enum { BS_SENT_MOST = 4096 };

struct bs_message {
	struct bs_head head;
	struct bs_attempt attempt;
	__u64 hash;
	__u32 labels; /* of the name as it was given */
	__u32 found;
	__u8 sent[BS_SENT_MOST]; /* a copy of a packet's payload */
};

/* As bs_questions: each CPU has a few, and who reads claims one. sk_msg may sleep between its calls, but not within. */
enum { BS_MESSAGES = 8 };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, BS_MESSAGES);
	__type(key, __u32);
	__type(value, struct bs_message);
} bs_messages SEC(".maps");

static __always_inline struct bs_message *bs_message_claim(void)
{
	for (__u32 i = 0; i < BS_MESSAGES; i++) {
		__u32 key = i;
		struct bs_message *m = bpf_map_lookup_elem(&bs_messages, &key);

		if (m && !__sync_val_compare_and_swap(&m->head.claimed, 0, 1))
			return m;
	}
	return 0;
}

/* Take back an attempt that found no room for a row. */
static __always_inline void bs_overflow_take(struct bs_socket *st)
{
	struct bs_overflow_key sum = { .subject = st->subject, .verdict = st->flow_verdict };
	__u64 *more = bpf_map_lookup_elem(&bs_overflow, &sum);

	if (more && *more) {
		__sync_fetch_and_sub(more, 1);
		BS_COUNT(overflow, -1);
	} else {
		BS_COUNT(lost, -1);
	}
}

/* The connection belongs to another flow than connect() thought: it has another name, or is refused. Its attempt is taken
 * from where it is counted, so that it counts once. */
__noinline int bs_claim_move(struct bs_socket *st, struct bs_attempt *a)
{
	struct bs_flow *flow;
	__u8 verdict, connected = 0;
	int kept;

	if (!st || !a)
		return 0;
	if (bs_is_flow_of(st, a)) {
		flow = bs_flow_of(st);
		if (flow && flow->attribution == BS_AMBIGUOUS)
			flow->attribution = a->attribution;
		return 0;
	}
	if (bs_holds(st))
		bs_flush(st);
	flow = st->kept ? bs_flow_of(st) : 0;
	if (flow) {
		__sync_fetch_and_sub(&flow->attempts, 1);
		if (!st->since) {
			connected = a->verdict != BS_DENY;
			__sync_fetch_and_sub(&flow->connected, 1);
		}
	} else {
		bs_overflow_take(st);
	}
	kept = bs_record_again(a);
	/* What is left to send, a goodbye, is not held back. */
	verdict = st->verdict;
	bs_socket_set(st, a, kept);
	st->verdict = verdict;
	if (connected && st->kept)
		__sync_fetch_and_add(&st->connected, 1);
	return 0;
}

static long bs_hash_label_step(__u32 index, struct bs_message **of)
{
	struct bs_message *m = *of;

	m->hash = bs_hash_step(m->hash, m->head.read.label[index & (BS_LABELS - 1)], config.multiplier);
	return 0;
}

/* Was the name leased at this address with this domain behind it? */
static long bs_search_step(__u32 index, struct bs_message **of)
{
	struct bs_message *m = *of;
	struct bs_search *s = &policies[m->attempt.generation & 1].search[index & (BS_SEARCHES - 1)];
	struct bs_reading *r = &m->head.read;
	struct bs_answer_key key = {};
	__u32 labels = s->labels;

	if (!labels || m->labels + labels > BS_LABELS - 1)
		return !labels;
	for (__u32 i = 0; i < BS_SEARCH_LABELS; i++)
		r->label[(m->labels + i) & (BS_LABELS - 1)] = s->label[i];
	r->labels = m->labels + labels;
	m->hash = bs_hash_step(config.name_key, 0, config.multiplier);
	bpf_loop(r->labels, bs_hash_label_step, of, 0);
	key.name = bs_hash_end(m->hash);
	__builtin_memcpy(key.addr, m->attempt.addr, 16);
	if (!bpf_map_lookup_elem(&bs_answers, &key))
		return 0;
	m->hash = key.name;
	m->found = 1;
	return 1;
}

/* Who writes a name short has it looked up with a domain of the search list behind it, and gives it as it was written. 1
 * if that is so: then it is the whole name that is judged. */
__noinline int bs_claim_whole(struct bs_message *m)
{
	if (!m)
		return 0;
	m->labels = m->head.read.labels;
	m->found = 0;
	bpf_loop(BS_SEARCHES, bs_search_step, &m, 0);
	if (!m->found || bs_name_match(&m->head.read))
		return 0;
	m->head.read.name.hash = m->hash;
	return 1;
}

/* Forget what was weighed. */
static __always_inline void bs_claim_anew(struct bs_attempt *a)
{
	a->name = a->denied = a->allowed = 0;
	a->lowest_denial = a->other = a->several = 0;
}

/* The name that the client gives for the connection itself. */
static __always_inline void bs_claim_here(struct bs_message *m, struct bs_socket *st)
{
	struct bs_attempt *a = &m->attempt;
	struct bs_name *name = &m->head.read.name;

	__builtin_memcpy(a->addr, st->addr, 16);
	a->port = st->port;
	bs_judge_claim(a, name->hash, name->class_id, 1);
	if (a->rule == BS_RULE_DEFAULT && a->verdict != BS_ALLOW && bs_claim_whole(m)) {
		bs_claim_anew(a);
		bs_judge_claim(a, name->hash, name->class_id, 1);
	}
	/* It permits nothing. */
	if (a->verdict == BS_ALLOW || a->verdict == BS_WAIVED) {
		if (st->flow_verdict == BS_WOULD_DENY || st->flow_verdict == BS_BREAK_GLASS) {
			a->verdict = st->flow_verdict;
			a->rule = st->rule;
		}
	}
	/* A later request for another host: an attempt of its own, beside the flow that the connection is. */
	if (st->claim != BS_CLAIM_REQUEST)
		bs_claim_move(st, a);
	else if (!bs_is_flow_of(st, a))
		bs_record(a);
}

/* What a proxy is asked for. */
static __always_inline void bs_claim_elsewhere(struct bs_message *m)
{
	struct bs_attempt *a = &m->attempt;
	struct bs_name *name = &m->head.read.name;

	a->port = m->head.port;
	if (m->head.names == BS_NAMES_ADDRESS) {
		__builtin_memcpy(a->addr, m->head.addr, 16);
		a->elsewhere = 1;
		bs_judge(a);
	} else {
		bs_judge_claim(a, name->hash, name->class_id, 0);
	}
	bs_record(a);
}

/* The name that is given within a tunnel. Where that leads was judged: only a rule can say more. */
static __always_inline void bs_claim_inside(struct bs_message *m, struct bs_socket *st)
{
	struct bs_attempt *a = &m->attempt;
	struct bs_name *name = &m->head.read.name;

	a->port = st->claim_word;
	bs_judge_claim(a, name->hash, name->class_id, 0);
	if (a->rule == BS_RULE_DEFAULT || a->verdict == BS_ALLOW || a->verdict == BS_WAIVED) {
		a->verdict = BS_ALLOW;
		return;
	}
	bs_record(a);
}

/* A name may be hidden, and the policy denies that. */
static __always_inline void bs_claim_hides(struct bs_message *m, struct bs_socket *st)
{
	struct bs_attempt *a = &m->attempt;
	__u64 ruling = BS_RULING(BS_EFFECT_DENY, BS_RULE_HIDDEN) | (__u64)ECONNREFUSED << 48;

	if (policies[a->generation & 1].enforce)
		ruling |= (__u64)BS_ENFORCE << 40;
	a->verdict = bs_verdict_of(ruling);
	a->failure = ECONNREFUSED;
	a->rule = BS_RULE_HIDDEN;
	a->attribution = a->subject ? BS_EXACT : BS_UNKNOWN;
	__builtin_memcpy(a->addr, st->addr, 16);
	a->port = st->port;
	a->name = m->head.names == BS_NAMES_NAME ? m->head.read.name.hash : st->name;
	bs_claim_move(st, a);
}

static __always_inline int bs_hides(struct bs_message *m)
{
	return m->head.hidden && policies[m->attempt.generation & 1].hidden;
}

/* Who says so, and of what class the name is. 1 if there is something to judge. */
__noinline int bs_claim_of(struct bs_message *m, struct bs_socket *st)
{
	struct bs_attempt *a;

	if (!m || !st)
		return 0;
	a = &m->attempt;
	__builtin_memset(a, 0, sizeof(*a));
	a->generation = bs_generation();
	a->protocol = IPPROTO_TCP;
	a->subject = st->subject;
	a->selectors = bs_selectors_of(a->subject, a->generation);
	if (m->head.hidden)
		BS_COUNT(claims_hidden, 1);
	if (m->head.names == BS_NAMES_NOBODY) {
		if (st->claim != BS_CLAIM_TUNNEL)
			BS_COUNT(claims_unnamed, 1);
		return bs_hides(m);
	}
	if (m->head.names == BS_NAMES_NAME) {
		m->head.read.place = a->generation & 1;
		if (bs_name_match(&m->head.read)) {
			BS_COUNT(claims_unread, 1);
			return bs_hides(m);
		}
	}
	return 1;
}

/* Judge it, and record it. 1 if it is refused. */
__noinline int bs_claim_judge(struct bs_message *m, struct bs_socket *st)
{
	struct bs_attempt *a;

	if (!m || !st)
		return 0;
	a = &m->attempt;
	if (bs_hides(m))
		bs_claim_hides(m, st);
	else if (m->head.elsewhere)
		bs_claim_elsewhere(m);
	else if (st->claim == BS_CLAIM_TUNNEL)
		bs_claim_inside(m, st);
	else
		bs_claim_here(m, st);
	if (a->verdict != BS_DENY)
		return 0;
	if (a->failure == BS_BLACKHOLE) {
		/* Lost on the way, in bs_egress. */
		st->verdict = BS_DENY;
		st->claim = BS_CLAIM_LOST;
		return 0;
	}
	return 1;
}

/* Nothing more is to be read. */
static __always_inline int bs_claim_done(struct sk_msg_md *msg, struct bs_socket *st)
{
	if (st && st->claim < BS_CLAIM_LOST && st->claim != BS_CLAIM_ASKED)
		st->claim = BS_CLAIM_DONE;
	bpf_msg_apply_bytes(msg, 0xffffffff);
	return SK_PASS;
}

static __always_inline int bs_claim_unread(struct sk_msg_md *msg, struct bs_socket *st)
{
	/* What goes through a tunnel may be anything: where to was judged. */
	if (st->claim != BS_CLAIM_TUNNEL)
		BS_COUNT(claims_unread, 1);
	return bs_claim_done(msg, st);
}

/* Was something sent by a way that does not lead here? With the SYN, or while the handshake was under way. */
static __always_inline int bs_claim_is_late(struct sock *sk)
{
	struct tcp_sock *tcp = (struct tcp_sock *)sk;

	return BPF_CORE_READ(tcp, bytes_sent) || BPF_CORE_READ(tcp, write_seq) != BPF_CORE_READ(tcp, snd_nxt);
}

/* What was read is a request to a server, and the connection need not stay for a next one. That may be for another host of the
 * same server, or be a proxy's, which was asked for its own pages first: where what is not allowed is denied, each is read. Else
 * it is counted that there were some (bs_claim_later), for a connection that stays in the table may have a read that waits fail with
 * EAGAIN. */
static __always_inline int bs_claim_lets_go(struct bs_message *m)
{
	return !m->head.tls && !m->head.elsewhere && !m->head.tunnel && !policies[m->attempt.generation & 1].default_deny;
}

/* Read, judge, and say for how much that holds. `seq`: TCP's number of the first octet. */
static __always_inline int bs_message_judge(struct sk_msg_md *msg, struct bs_message *m, struct bs_socket *st, __u32 seq)
{
	__u32 size = msg->size, state = st->claim;
	__u64 whole;
	int found;

	if (!size)
		return SK_PASS;
	if (size > BS_HEAD_MOST)
		size = BS_HEAD_MOST;
	if (bpf_msg_pull_data(msg, 0, size, 0))
		return bs_claim_unread(msg, st);
	*(volatile __u64 *)&m->head.base = (__u64)msg->data;
	m->head.size = size;
	if (msg->data + size > msg->data_end)
		return bs_claim_unread(msg, st);
	found = bs_head_read(&m->head, state == BS_CLAIM_REQUEST);
	if (found == BS_HEAD_MORE && m->head.wanted <= BS_HEAD_MOST) {
		bpf_msg_cork_bytes(msg, m->head.wanted);
		return SK_PASS;
	}
	if (found != BS_HEAD_READ)
		return bs_claim_unread(msg, st);
	if (bs_claim_of(m, st)) {
		/* Here, since 6.1 takes no row from what a global function was given; and first, so that whoever hears of a
		 * refusal finds the name. */
		if (m->head.names == BS_NAMES_NAME)
			bs_name_keep(&m->head.read.name);
		if (bs_claim_judge(m, st)) {
			st->claim = BS_CLAIM_REFUSED;
			return SK_DROP;
		}
	}
	if (st->claim >= BS_CLAIM_LOST)
		return bs_claim_done(msg, st);
	if (m->head.tunnel) {
		st->claim = BS_CLAIM_TUNNEL;
		st->claim_word = m->head.port;
		bpf_msg_apply_bytes(msg, m->head.tail);
		return SK_PASS;
	}
	if (m->head.tls)
		return bs_claim_done(msg, st);
	whole = m->head.length + m->head.tail;
	if (bs_claim_lets_go(m)) {
		if (!m->head.endless && msg->size > whole) {
			BS_COUNT(claims_later, 1);
		} else {
			st->claim_word = seq;
			st->claim = BS_CLAIM_ASKED;
		}
		return bs_claim_done(msg, st);
	}
	if (m->head.endless || whole > 0xffffffff)
		return bs_claim_unread(msg, st);
	st->claim = BS_CLAIM_REQUEST;
	bpf_msg_apply_bytes(msg, whole);
	return SK_PASS;
}

/*
 * When: a connection in bs_claimants sends: send, write, sendfile, splice. Writes: flows, names, sockets, counters. A
 * refused send gets EACCES, and so does each one after it. Fails open, counted: what cannot be read was let through by
 * connect().
 */
SEC("sk_msg")
int bs_message(struct sk_msg_md *msg)
{
	struct sk_msg *kernel = (struct sk_msg *)msg;
	struct sock *sk = BPF_CORE_READ(kernel, sk);
	__u64 cookie = BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
	struct bs_socket *st = bs_socket_find(cookie);
	struct bs_message *m;
	int verdict;

	if (!st || st->claim == BS_CLAIM_NONE || st->claim == BS_CLAIM_DONE || st->claim == BS_CLAIM_ASKED ||
	    st->claim >= BS_CLAIM_LOST)
		return bs_claim_done(msg, st);
	if (st->claim == BS_CLAIM_REFUSED)
		return SK_DROP;
	if (st->claim == BS_CLAIM_FIRST && bs_claim_is_late(sk)) {
		/* That comes first, and is read as it leaves. */
		bpf_msg_apply_bytes(msg, 0xffffffff);
		return SK_PASS;
	}
	m = bs_message_claim();
	if (!m)
		return bs_claim_unread(msg, st);
	verdict = bs_message_judge(msg, m, st, BPF_CORE_READ((struct tcp_sock *)sk, write_seq));
	barrier();
	*(volatile __u64 *)&m->head.claimed = 0;
	return verdict;
}

static __always_inline int bs_is_inspected(__u32 port, __u32 generation)
{
	struct bs_policy *p = &policies[generation & 1];

	for (__u32 i = 0; i < BS_PORTS; i++) {
		if (!p->inspect[i])
			return 0;
		if (p->inspect[i] == port)
			return 1;
	}
	return 0;
}

/* Where what a packet of a connection carries begins, if nothing of the connection was read and it is to be; else 0. */
__noinline int bs_sent_at(struct __sk_buff *skb, struct bs_socket *st)
{
	__u32 at = skb->protocol == bpf_htons(ETH_P_IP) ? BS_V4 : BS_V6;
	__u8 octet;

	if (!st || (st->claim != BS_CLAIM_FIRST && st->claim != BS_CLAIM_NONE) || st->forwarded ||
	    !bs_is_inspected(st->port, bs_generation()) || bpf_skb_load_bytes(skb, at + 12, &octet, 1))
		return 0;
	at += octet >> 4 << 2;
	return skb->len > at ? at : 0;
}

/* Read it. 1 if it is a head. */
__noinline int bs_sent_read(struct __sk_buff *skb, struct bs_message *m, __u32 at)
{
	__u32 n = skb->len - at;

	if (!m || skb->len <= at)
		return 0;
	if (n > BS_SENT_MOST)
		n = BS_SENT_MOST;
	n -= 1;
	BS_MASK(n, 4095);
	if (bpf_skb_load_bytes(skb, at, m->sent, n + 1))
		return 0;
	*(volatile __u64 *)&m->head.base = (__u64)m->sent;
	m->head.size = n + 1;
	return bs_head_read(&m->head, 0) == BS_HEAD_READ;
}

/* Of TCP's number of the first octet that a packet carries the lower half. */
__noinline __u32 bs_sent_number(struct __sk_buff *skb)
{
	__u32 tcp = skb->protocol == bpf_htons(ETH_P_IP) ? BS_V4 : BS_V6, seq = 0;
	__u8 flags = 0;

	bpf_skb_load_bytes(skb, tcp + 4, &seq, sizeof(seq));
	bpf_skb_load_bytes(skb, tcp + 13, &flags, 1);
	/* A SYN has a number of its own, before the data that goes with it. */
	return (bpf_ntohl(seq) + (flags & 0x02 ? 1 : 0)) & 0xffff;
}

/* A packet of a connection that was let go after a request: does another one begin with it? The same may be sent again. */
__noinline int bs_claim_later(struct __sk_buff *skb, struct bs_socket *st)
{
	__u32 tcp = skb->protocol == bpf_htons(ETH_P_IP) ? BS_V4 : BS_V6;
	__u64 first;
	__u8 octet;

	if (!st || bpf_skb_load_bytes(skb, tcp + 12, &octet, 1) ||
	    bpf_skb_load_bytes(skb, tcp + (octet >> 4 << 2), &first, sizeof(first)) ||
	    !bs_method(first, sizeof(first)) || bs_sent_number(skb) == st->claim_word)
		return 0;
	st->claim = BS_CLAIM_DONE;
	BS_COUNT(claims_later, 1);
	return 0;
}

/*
 * A packet of a connection of which nothing was read: what it sends first, if it does, was sent by a way that does not lead
 * to bs_message. A refused one is lost, and so is all that follows; TCP is told to give up when it next sends it again
 * (bs_claim_cut), for there is nobody here who could be told. 1 if it is lost.
 * In line, for the calls from here are as deep as the kernel follows.
 */
static __always_inline int bs_claim_leaves(struct __sk_buff *skb, struct bs_socket *st)
{
	int at = bs_sent_at(skb, st);
	struct bs_message *m;

	if (!at)
		return 0;
	st->claim = BS_CLAIM_DONE;
	m = bs_message_claim();
	if (!m) {
		BS_COUNT(claims_unseen, 1);
		return 0;
	}
	if (!bs_sent_read(skb, m, at)) {
		BS_COUNT(claims_unseen, 1);
	} else {
		if (bs_claim_of(m, st)) {
			if (m->head.names == BS_NAMES_NAME)
				bs_name_keep(&m->head.read.name);
			if (bs_claim_judge(m, st)) {
				st->verdict = BS_DENY;
				st->claim = BS_CLAIM_CUT;
			}
		}
		if (st->verdict != BS_DENY && bs_claim_lets_go(m)) {
			st->claim_word = bs_sent_number(skb);
			st->claim = BS_CLAIM_ASKED;
		} else if (st->verdict != BS_DENY && !m->head.tls) {
			/* What is asked for after that is not seen. */
			BS_COUNT(claims_unseen, 1);
		}
	}
	barrier();
	*(volatile __u64 *)&m->head.claimed = 0;
	return st->verdict == BS_DENY;
}

#endif
