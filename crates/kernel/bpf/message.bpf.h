/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * Whom a connection says that it is for, where one address serves several names: sk_msg, and what bs_egress asks here.
 *
 * A connection to a port of the policy's `inspect` is put into a sockhash when it is established (established.bpf.h); what is sent
 * first then comes by bs_message before it leaves, and a refused one is an error of the send itself. The name that a client gives
 * is its claim: it may refuse, and permits nothing that connect() did not. What a proxy is asked for is a destination of
 * its own.
 *
 * Everything else is read as it leaves (bs_claim_leaves), out of packets: later requests of the connection, for it does not stay in the table
 * (established.bpf.h says why); what was there before the connection was, with the SYN (Fast Open) or waiting for its answer; and what
 * is sent by a socket that found no place in the table. A refused head is lost there, and the connection cut.
 *
 * Why not all of it: who sends what is lost hears of it only after some 0.2 seconds, and as ETIMEDOUT.
 */
#ifndef BLACKSTART_MESSAGE_H
#define BLACKSTART_MESSAGE_H

enum { SK_DROP = 0, SK_PASS = 1 };

/* Connections of which the first head is to be read, by cookie. The program that reads is attached to it. Full: it is read as it
 * leaves. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u64);
} bs_claimants SEC(".maps");

enum {
	/* As many heads and pieces of heads are read of one packet. With more it is lost, to be sent again by TCP and read on
	 * from there; TCP does so eight times at least, which is enough for the 64 KiB that a packet within this host may have. */
	BS_SENT_HEADS = 512,
	/* A body of more octets may not be told from one that is behind us, since TCP's numbers go round. */
	BS_BODY_MOST = 0x7ff00000,
};

struct bs_message {
	struct bs_head head;
	struct bs_attempt attempt;
	__u64 hash;
	__u32 labels; /* of the name as it was given */
	__u32 found;
	__u8 sent[BS_SENT_MOST]; /* a copy of what a packet carries */
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
	if (st->claim != BS_CLAIM_REQUEST) {
		bs_claim_move(st, a);
	} else if (!bs_is_flow_of(st, a)) {
		a->asked = 1;
		bs_record(a);
	}
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

	a->port = st->claim_port;
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
		if (st->claim < BS_CLAIM_REQUEST)
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

/* Judge it, and record it. 1 if it is refused. In line, for the calls from here are as deep as the kernel follows. */
static __always_inline int bs_claim_judge(struct bs_message *m, struct bs_socket *st)
{
	struct bs_attempt *a = &m->attempt;

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

/* Was something sent by a way that does not lead to bs_message? With the SYN, or while the handshake was under way. */
static __always_inline int bs_claim_is_late(struct sock *sk)
{
	struct tcp_sock *tcp = (struct tcp_sock *)sk;

	return BPF_CORE_READ(tcp, bytes_sent) || BPF_CORE_READ(tcp, write_seq) != BPF_CORE_READ(tcp, snd_nxt);
}

/* Something leaves it, whoever else has it in a table. */
static __always_inline void bs_claim_left(struct bs_socket *st)
{
	if (!(st->claim_marks & BS_MARK_BUSY))
		return;
	st->claim_marks &= ~BS_MARK_BUSY;
	BS_COUNT(claims_busy, -1);
}

/* Nothing more of it can be read. What goes through a tunnel may be anything: where to was judged. */
static __always_inline void bs_claim_unread(struct bs_socket *st)
{
	if (st->claim != BS_CLAIM_TUNNEL)
		BS_COUNT(claims_unread, 1);
	st->claim = BS_CLAIM_DONE;
}

/* A head was read, which began at TCP's number `first`, and was not refused: what is to be read next, and where. */
__noinline int bs_claim_next(struct bs_message *m, struct bs_socket *st, __u32 first)
{
	__u64 whole;

	if (!m || !st || st->claim >= BS_CLAIM_REFUSED)
		return 0;
	if (m->head.tls) {
		st->claim = BS_CLAIM_DONE;
		return 0;
	}
	st->claim_next = first + m->head.tail;
	if (m->head.tunnel) {
		st->claim = BS_CLAIM_TUNNEL;
		st->claim_port = m->head.port;
		return 0;
	}
	whole = m->head.tail + m->head.length;
	if (!m->head.endless && whole <= BS_BODY_MOST) {
		st->claim_next = first + (__u32)whole;
		if (st->claim != BS_CLAIM_TUNNEL)
			st->claim = BS_CLAIM_REQUEST;
	} else if (m->head.elsewhere || policies[m->attempt.generation & 1].default_deny) {
		bs_claim_unread(st);
	} else if (st->claim != BS_CLAIM_TUNNEL) {
		/* It may well be the last one. */
		st->claim = BS_CLAIM_ASKED;
	} else {
		st->claim = BS_CLAIM_DONE;
	}
	return 0;
}

/* Read and judge the first head of a connection. `first`: TCP's number of its first octet. */
static __always_inline int bs_message_judge(struct sk_msg_md *msg, struct bs_message *m, struct bs_socket *st, __u32 first)
{
	__u32 size = msg->size;
	int found = BS_HEAD_ODD;

	if (!size)
		return SK_PASS;
	if (size > BS_HEAD_MOST)
		size = BS_HEAD_MOST;
	if (!bpf_msg_pull_data(msg, 0, size, 0)) {
		*(volatile __u64 *)&m->head.base = (__u64)msg->data;
		m->head.size = size;
		if (msg->data + size <= msg->data_end)
			found = bs_head_read(&m->head, 0);
	}
	if (found == BS_HEAD_MORE && m->head.wanted <= BS_HEAD_MOST) {
		bpf_msg_cork_bytes(msg, m->head.wanted);
		return SK_PASS;
	}
	/* Whatever is written at once with it is read as it leaves. */
	bpf_msg_apply_bytes(msg, 0xffffffff);
	if (found != BS_HEAD_READ) {
		bs_claim_unread(st);
		return SK_PASS;
	}
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
	bs_claim_next(m, st, first);
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

	if (st && st->claim == BS_CLAIM_REFUSED)
		return SK_DROP;
	/* What was sent late comes first, and is read as it leaves, and so is what there is no scratch for. Packets of
	 * which none was seen as TCP has made it will not be. */
	if (!st || st->claim != BS_CLAIM_FIRST || bs_claim_is_late(sk) || !(m = bs_message_claim())) {
		if (st && st->claim == BS_CLAIM_FIRST && !(st->claim_marks & BS_MARK_PLAIN))
			bs_claim_unread(st);
		bpf_msg_apply_bytes(msg, 0xffffffff);
		return SK_PASS;
	}
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

/* Where the header behind that of IP begins in a packet, and in `protocol` which one that is. */
static __always_inline __u32 bs_header_at(struct __sk_buff *skb, __u8 *protocol)
{
	__u8 first = 0;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		bpf_skb_load_bytes(skb, 0, &first, 1);
		bpf_skb_load_bytes(skb, 9, protocol, 1);
		return (first & 15) << 2;
	}
	bpf_skb_load_bytes(skb, 6, protocol, 1);
	return BS_V6;
}

/* A packet in which nothing can be found: of IPsec, or with another header before TCP's. Where there is a device for IPsec, the
 * same packet came here before it was wrapped, and was read. */
static __always_inline void bs_sent_wrapped(struct bs_socket *st, __u8 protocol)
{
	if (st->claim_marks & BS_MARK_PLAIN && (protocol == IPPROTO_ESP || protocol == IPPROTO_AH))
		return;
	if (!bs_claim_reads(st) && (st->claim != BS_CLAIM_FIRST || st->claim_marks & BS_MARK_HELD))
		return;
	bs_claim_left(st);
	BS_COUNT(claims_unread, 1);
	st->claim = BS_CLAIM_DONE;
}

/* TCP's number of the first octet that a packet carries, and in `data` where in the packet that is; -1 if it carries none. */
static __always_inline int bs_sent_first(struct __sk_buff *skb, __u32 tcp, __u32 *data, __u32 *first)
{
	__u8 octets[2];

	if (bpf_skb_load_bytes(skb, tcp + 4, first, 4) || bpf_skb_load_bytes(skb, tcp + 12, octets, 2))
		return -1;
	*data = tcp + (octets[0] >> 4 << 2);
	/* A SYN has a number of its own, before the data that goes with it. */
	*first = bpf_ntohl(*first) + (octets[1] & 0x02 ? 1 : 0);
	return skb->len > *data ? 0 : -1;
}

/* Where in a packet what is to be read begins, or goes on; 0 if it does not. */
__noinline int bs_sent_at(struct __sk_buff *skb, struct bs_socket *st)
{
	__u8 protocol = 0, octet;
	__u32 tcp = bs_header_at(skb, &protocol), at, first, ahead;

	if (!st || st->forwarded)
		return 0;
	if (!bs_claim_reads(st) &&
	    ((st->claim != BS_CLAIM_FIRST && st->claim != BS_CLAIM_NONE) || !bs_is_inspected(st->port, bs_generation())))
		return 0;
	if (protocol != IPPROTO_TCP) {
		bs_sent_wrapped(st, protocol);
		return 0;
	}
	st->claim_marks |= BS_MARK_PLAIN;
	if (bs_sent_first(skb, tcp, &at, &first))
		return 0;
	if (st->claim < BS_CLAIM_SENT) {
		bs_claim_left(st);
		st->claim = BS_CLAIM_SENT;
		st->claim_next = first;
	}
	ahead = st->claim_next + st->claim_kept - first;
	/* TCP sends in order, so what is behind us was read. */
	if (ahead > 0x7fffffff) {
		bs_claim_unread(st);
		return 0;
	}
	if (ahead >= skb->len - at)
		return 0;
	at += ahead;
	/* An empty line before a request is none (RFC 9112, 2.2): some send one behind a body. */
	for (__u32 i = 0; i < 4 && st->claim == BS_CLAIM_REQUEST && !st->claim_kept; i++) {
		if (bpf_skb_load_bytes(skb, at, &octet, 1))
			return 0;
		if (octet != '\r' && octet != '\n')
			break;
		st->claim_next++;
		at++;
	}
	return skb->len > at ? at : 0;
}

/* Read on there, as far as the scratch goes: enum bs_head_found. `part` holds what has left of it before. */
__noinline int bs_sent_read(struct __sk_buff *skb, struct bs_message *m, struct bs_part *part, struct bs_socket *st, __u32 at)
{
	__u64 kept, n;
	int found;

	if (!m || !st || skb->len <= at)
		return BS_HEAD_ODD;
	n = skb->len - at;
	if (n > BS_SENT_MOST)
		n = BS_SENT_MOST;
	n -= 1;
	BS_MASK(n, 4095);
	kept = st->claim_kept;
	if (part) {
		if (kept > BS_HEAD_MOST || bpf_skb_load_bytes(skb, at, part->octets + kept, n + 1))
			return BS_HEAD_ODD;
		*(volatile __u64 *)&m->head.base = (__u64)part->octets;
	} else {
		if (kept || bpf_skb_load_bytes(skb, at, m->sent, n + 1))
			return BS_HEAD_ODD;
		*(volatile __u64 *)&m->head.base = (__u64)m->sent;
	}
	m->head.size = kept + n + 1;
	found = bs_head_read(&m->head, st->claim == BS_CLAIM_REQUEST);
	if (found == BS_HEAD_MORE && m->head.wanted > BS_HEAD_MOST)
		return BS_HEAD_ODD;
	return found;
}

enum { BS_EMPTY_LINE = 0x0a0d };

/* What HTTP/2 begins with (RFC 9113, 3.4). */
#define BS_PREFACE BS_TEXT('P', 'R', 'I', ' ', '*', ' ', 'H', 'T')

/* A packet of a connection of which one request was read, and nobody knows where that ends: does another one begin with it? The
 * same may be sent again. */
__noinline int bs_claim_later(struct __sk_buff *skb, struct bs_socket *st)
{
	__u8 protocol = 0;
	__u32 tcp = bs_header_at(skb, &protocol), at, number;
	__u16 empty;
	__u64 first;

	if (!st || protocol != IPPROTO_TCP || bs_sent_first(skb, tcp, &at, &number) || number - st->claim_next > 0x7fffffff)
		return 0;
	/* However long the body is: what is behind is told from what is ahead by the half of TCP's numbers. */
	st->claim_next = number;
	if (!bpf_skb_load_bytes(skb, at, &empty, sizeof(empty)) && empty == BS_EMPTY_LINE)
		at += sizeof(empty);
	if (bpf_skb_load_bytes(skb, at, &first, sizeof(first)) || (first != BS_PREFACE && !bs_method(first, sizeof(first))))
		return 0;
	st->claim = BS_CLAIM_DONE;
	BS_COUNT(claims_later, 1);
	return 0;
}

/*
 * Read a head in a packet, or a piece of one, and judge it. One that ends in a later packet is kept until then: nobody acts on
 * half of one.
 * A global function, so that it is verified once, and not for each head that a packet may have.
 */
__noinline int bs_sent_judge(struct __sk_buff *skb, struct bs_socket *st, __u32 at)
{
	__u64 cookie = bpf_get_socket_cookie(skb);
	struct bs_message *m;
	struct bs_part *part;
	int found;

	if (!st)
		return 0;
	m = bs_message_claim();
	if (!m) {
		bs_claim_unread(st);
		return 0;
	}
	part = st->claim_marks & BS_MARK_PARTED ? bpf_map_lookup_elem(&bs_parts, &cookie) : 0;
	found = bs_sent_read(skb, m, part, st, at);
	if (found == BS_HEAD_MORE && part) {
		st->claim_kept = m->head.size;
	} else if (found == BS_HEAD_MORE) {
		/* To be read once more, and kept. */
		if (bpf_map_update_elem(&bs_parts, &cookie, (void *)&no_part, BPF_ANY)) {
			BS_COUNT(claims_full, 1);
			st->claim = BS_CLAIM_DONE;
		} else {
			st->claim_marks |= BS_MARK_PARTED;
		}
	} else {
		if (st->claim_marks & BS_MARK_PARTED)
			bpf_map_delete_elem(&bs_parts, &cookie);
		st->claim_marks &= ~BS_MARK_PARTED;
		st->claim_kept = 0;
		if (found != BS_HEAD_READ) {
			bs_claim_unread(st);
		} else {
			if (bs_claim_of(m, st)) {
				if (m->head.names == BS_NAMES_NAME)
					bs_name_keep(&m->head.read.name);
				if (bs_claim_judge(m, st)) {
					st->verdict = BS_DENY;
					st->claim = BS_CLAIM_CUT;
				}
			}
			bs_claim_next(m, st, st->claim_next);
		}
	}
	barrier();
	*(volatile __u64 *)&m->head.claimed = 0;
	return 0;
}

/*
 * A packet of a connection of which something is to be read. With a refused head it is lost, what stands before that there
 * too, and all that follows; TCP is told to give up when it next sends it again (bs_claim_sends), for there is nobody here who could be
 * told. 1 if it is lost.
 */
static __always_inline int bs_claim_leaves(struct __sk_buff *skb, struct bs_socket *st)
{
	int at = 0;

	for (__u32 i = 0; i <= BS_SENT_HEADS; i++) {
		at = bs_sent_at(skb, st);
		if (!at || i == BS_SENT_HEADS)
			break;
		bs_sent_judge(skb, st, at);
	}
	return at || st->verdict == BS_DENY;
}

#endif
