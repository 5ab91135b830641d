/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * A DNS query that leaves: it is read, judged, recorded, and its answer expected.
 *
 * A name does not fit the stack beside the rest, and plain per-CPU scratch is unsafe here: egress runs in a
 * process's context and may be preempted by another sender on the same CPU. So each CPU has a few buffers and
 * a query claims one for itself. A program runs to its end on its CPU: a claim is always given back.
 */
#ifndef BLACKSTART_QUERY_H
#define BLACKSTART_QUERY_H

/* A query as read from the packet, and what to do with it. */
struct bs_question {
	__u64 claimed;
	__u64 subject;
	__u32 client[4];
	__u32 server[4]; /* asked for */
	__u32 wire[4];   /* where the packet goes, with server_port */
	__u32 rule;
	__u16 client_port;
	__u16 server_port;
	__u16 id;
	__u16 flags;
	__u16 qtype;
	__u16 qclass;
	__u16 offset; /* of the DNS header in the packet */
	__u8 verdict;
	__u8 edns;
	__u32 generation; /* of the policy that judges */
	__u32 wire_differs; /* the server asked for is not the one on the wire */
	__u16 head[6]; /* the DNS header; what follows it in the packet follows it here */
	struct bs_reading read;
};
_Static_assert(__builtin_offsetof(struct bs_question, read) == __builtin_offsetof(struct bs_question, head) + 12,
	       "the name is read where it is scanned");

/* More would have to preempt each other on one CPU, all within a microsecond; then the query is one that
 * cannot be judged. */
enum { BS_QUESTIONS = 8 };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, BS_QUESTIONS);
	__type(key, __u32);
	__type(value, struct bs_question);
} bs_questions SEC(".maps");

static __always_inline struct bs_question *bs_question_claim(void)
{
	for (__u32 i = 0; i < BS_QUESTIONS; i++) {
		__u32 key = i;
		struct bs_question *q = bpf_map_lookup_elem(&bs_questions, &key);

		if (q && !__sync_val_compare_and_swap(&q->claimed, 0, 1))
			return q;
	}
	return 0;
}

/* Add a lookup to its row. With the first one the name's text is kept, where it is not kept already (`name` 0). */
static __always_inline void bs_query_add(struct bs_query_key *key, struct bs_name *name)
{
	struct bs_query *row, fresh = {};

	row = bpf_map_lookup_elem(&bs_queries, key);
	if (!row) {
		if (name)
			bs_name_keep(name);
		fresh.queries = 1;
		fresh.first_ns = fresh.last_ns = bpf_ktime_get_boot_ns();
		if (!bpf_map_update_elem(&bs_queries, key, &fresh, BPF_NOEXIST))
			return;
		row = bpf_map_lookup_elem(&bs_queries, key);
		if (!row) {
			BS_COUNT(queries_lost, 1);
			return;
		}
	}
	__sync_fetch_and_add(&row->queries, 1);
	bs_now_at(&row->last_ns);
}

/* Row of (name, type, subject, verdict). */
static __always_inline void bs_query_record(struct bs_question *q)
{
	struct bs_query_key key = {};

	key.name = q->read.name.hash;
	key.subject = q->subject;
	key.rule = q->rule;
	key.qtype = q->qtype;
	key.verdict = q->verdict;
	bs_query_add(&key, &q->read.name);
}

/* Tell user space of a denied lookup. 0 if it knows, so that an answer can be hoped for. */
__noinline int bs_query_tell(struct __sk_buff *skb, struct bs_question *q, int answer)
{
	struct bs_lookup_event *e;
	struct bs_subject *row;
	__u64 subject;
	__u32 len;
	int told = -1;

	if (!q)
		return -1;
	e = bpf_ringbuf_reserve(&bs_events, sizeof(*e), 0);
	if (!e) {
		BS_COUNT(events_lost, 1);
		return -1;
	}
	len = q->read.name.len;
	subject = q->subject;
	row = bpf_map_lookup_elem(&bs_subjects, &subject);
	e->kind = BS_EVENT_LOOKUP;
	e->tgid = row ? row->tgid : 0;
	e->subject = q->subject;
	__builtin_memcpy(e->client, q->client, 16);
	/* Where the real answer would come from: a final one from the server asked for would be taken by connection
	 * tracking for another connection, and have its port changed. */
	__builtin_memcpy(e->server, q->wire, 16);
	e->rule = q->rule;
	e->client_port = q->client_port;
	e->server_port = q->server_port;
	e->id = q->id;
	e->flags = q->flags;
	e->qtype = q->qtype;
	e->qclass = q->qclass;
	e->len = len;
	e->verdict = q->verdict;
	e->answer = answer && row;
	e->edns = q->edns;
	__builtin_memset(e->pad, 0, sizeof(e->pad));
	/* From the packet, since the asker may compare the case of what it sent. */
	len = (len - 1) & 255;
	BS_MASK(len, 255);
	if (!bpf_skb_load_bytes(skb, q->offset + 12, e->wire, len + 1))
		told = row ? 0 : -1;
	bpf_ringbuf_submit(e, 0);
	return told;
}

/* Note the query on its socket. 0: every slot waits for an answer. */
static __always_inline int bs_asked_add(struct bs_socket *st, struct bs_question *q, struct bs_pending *pending)
{
	for (__u32 i = 0; i < BS_ASKED; i++) {
		struct bs_asked *a = &st->asked[i];
		__u32 turn = *(volatile __u32 *)&a->turn;

		if ((turn && !a->answered) || turn & 1)
			continue;
		if (__sync_val_compare_and_swap(&a->turn, turn, turn + 1) != turn)
			continue;
		a->name = q->read.name.hash;
		__builtin_memcpy(a->server, q->server, 16);
		a->class_id = pending->class_id;
		a->id = q->id;
		a->qtype = q->qtype;
		a->denied = pending->denied;
		a->leases = pending->leases;
		a->generation = pending->generation;
		a->answered = 0;
		BS_STORE_RELEASE(&a->turn, turn + 2);
		return 1;
	}
	return 0;
}

/* Is what cannot be judged refused? */
static __always_inline int bs_enforcing(__u32 generation)
{
	return live.enforce && policies[generation & 1].enforce;
}

/* And what no rule allows? */
static __always_inline int bs_default_refuses(__u32 generation)
{
	return bs_enforcing(generation) && policies[generation & 1].default_deny;
}

static __always_inline int bs_query_malformed(__u32 generation)
{
	BS_COUNT(queries_malformed, 1);
	return bs_enforcing(generation) ? BS_DROP : BS_PASS;
}

/* Read the query at h->payload into q. -1: it cannot be judged; 1: it is none, and may pass. */
static __always_inline int bs_query_read(struct __sk_buff *skb, struct bs_header *h, struct bs_question *q)
{
	__u32 left, n, at;

	/* One buffer may carry several datagrams (GSO), and pages that are not ours can be rewritten after the
	 * check (zerocopy, splice). */
	if (!h->payload || h->odd || skb->gso_segs > 1 || skb->data_end - skb->data < skb->len)
		return -1;
	/* Behind the header: the name, its type and class, in all but the longest names. */
	left = skb->len - h->payload;
	if (skb->len < h->payload || left < 12)
		return -1;
	n = left > 12 + 256 ? 12 + 256 - 1 : left - 1;
	BS_MASK(n, 511);
	if (bpf_skb_load_bytes(skb, h->payload, q->head, n + 1))
		return -1;
	left -= 12;
	q->flags = bpf_ntohs(q->head[1]);
	/* Updates and notifications are no lookups: under `default: allow` they pass, counted. */
	if ((q->flags & 0xf800) == 0x2000 || (q->flags & 0xf800) == 0x2800)
		return policies[q->generation & 1].default_deny ? -1 : 1;
	/* QR and opcode 0, one question, no answer; an additional record is EDNS. */
	if ((q->flags & 0xf800) || q->head[2] != bpf_htons(1) || q->head[3] || q->head[4])
		return -1;
	q->id = bpf_ntohs(q->head[0]);
	q->edns = q->head[5] != 0;
	q->offset = h->payload;
	if (left < 5 || left > BS_PACKET_MAX)
		return -1;
	/* What the buffer held before is behind a shorter name: the length check below keeps it out. */
	if (bs_name_scan(&q->read) || (__u32)q->read.name.len + 4 > left)
		return -1;
	at = q->read.name.len;
	if (at + 4 <= 256) {
		__u8 *wire = q->read.name.wire;

		q->qtype = wire[at & 255] << 8 | wire[(at + 1) & 255];
		q->qclass = wire[(at + 2) & 255] << 8 | wire[(at + 3) & 255];
	} else {
		__u16 tail[2];

		if (bpf_skb_load_bytes(skb, h->payload + 12 + at, tail, sizeof(tail)))
			return -1;
		q->qtype = bpf_ntohs(tail[0]);
		q->qclass = bpf_ntohs(tail[1]);
	}
	return 0;
}

/* A server's port, as rows of outstanding queries have it. */
static __always_inline __u32 bs_port_beside_53(__u16 port)
{
	return port == 53 ? 0 : port;
}

/* May somebody of the run be the server at this address and port? Not at port 53 of its resolvers (bs_packet). */
static __always_inline int bs_may_be_ours(const __u32 *addr, __u16 port)
{
	__u32 known = bs_known_as(addr);

	return (bs_is_loopback(addr) || known & BS_KNOWN_OWN) && !(known & BS_KNOWN_RESOLVER && port == 53);
}

/* Expect an answer. -1: could not be noted (counted). */
static __always_inline int bs_query_note(struct __sk_buff *skb, struct bs_header *h, struct bs_socket *st,
					 struct bs_question *q, struct bs_pending *pending)
{
	struct bs_pending_key key = {};

	if (!q->wire_differs && st && bs_asked_add(st, q, pending))
		return 0;
	key.socket = bpf_get_socket_cookie(skb);
	key.name = q->read.name.hash;
	__builtin_memcpy(key.server, q->server, 16);
	key.id = q->id;
	key.qtype = q->qtype;
	if (bpf_map_update_elem(&bs_pending, &key, pending, BPF_ANY)) {
		BS_COUNT(leases_lost, 1);
		return -1;
	}
	if (q->wire_differs) {
		__builtin_memcpy(key.server, h->dest, 16);
		key.port = bs_port_beside_53(h->dest_port);
		/* The kernel turns answers back on the way in. One that comes from the wire's server was turned by programs of
		 * other cgroups, or nothing was turned: the query was held back (UDP_CORK) while the socket was connected to
		 * a resolver, and went to a server of the run's own. */
		if (bs_default_refuses(q->generation) && bs_may_be_ours(h->dest, h->dest_port))
			pending->leases = 0;
		bpf_map_update_elem(&bs_pending, &key, pending, BPF_ANY);
	}
	return 0;
}

/* Do answers from this server give leases that permit? Where that is why the socket may reach it, it is known. */
static __always_inline int bs_is_resolver(struct bs_socket *st, const __u32 *server)
{
	if (st && st->rule == BS_RULE_RESOLVER && st->addr[3] == server[3] && st->addr[2] == server[2] &&
	    st->addr[1] == server[1] && st->addr[0] == server[0])
		return 1;
	return (bs_known_as(server) & BS_KNOWN_RESOLVER) != 0;
}

/* Do answers to a query that is ruled so give leases? Under `default: deny` a stranger's permit nothing, and those for
 * a name on the search list neither; what passes for the record only is leased for the record. */
static __always_inline int bs_may_lease(__u64 ruling, struct bs_socket *st, const __u32 *server, struct bs_policy *p)
{
	if (!p->default_deny || !live.enforce || !p->enforce)
		return 1;
	if (BS_EFFECT(ruling) == BS_EFFECT_DENY)
		return !(BS_FLAGS(ruling) & BS_ENFORCE);
	return BS_EFFECT(ruling) == BS_EFFECT_ALLOW && bs_is_resolver(st, server);
}

/* Judge a query that was read, and record it. */
static __always_inline int bs_query_judge(struct __sk_buff *skb, struct bs_header *h, struct bs_socket *st,
					  struct bs_question *q)
{
	struct bs_pending pending = {};
	struct bs_policy *p = &policies[q->generation & 1];
	struct bs_class *c;
	__u64 ruling;
	int denied, noted;

	q->wire_differs = 0;
	__builtin_memcpy(q->client, h->source, 16);
	q->client_port = h->source_port;
	__builtin_memcpy(q->wire, h->dest, 16);
	__builtin_memcpy(q->server, h->dest, 16);
	q->server_port = h->dest_port;
	if (h->dest_port != 53 && st) {
		/* Rewritten on the way (a container's 127.0.0.11, a cluster address): the asker waits for an
		 * answer from the server that it asked. */
		__builtin_memcpy(q->server, st->addr, 16);
		q->wire_differs = 1;
	} else if (st && st->dns && st->port == 53 && st->protocol == IPPROTO_UDP &&
		   (st->addr[3] != h->dest[3] || st->addr[2] != h->dest[2] || st->addr[1] != h->dest[1] ||
		    st->addr[0] != h->dest[0])) {
		__builtin_memcpy(q->server, st->addr, 16);
		q->wire_differs = 1;
	}
	q->subject = st ? st->subject : 0;

	q->read.place = q->generation & 1;
	if (bs_name_match(&q->read) || !(c = bpf_map_lookup_elem(&bs_classes, &q->read.name.class_id)))
		return bs_query_malformed(q->generation);
	ruling = c->lookup;
	if (BS_EFFECT(ruling) == BS_EFFECT_CHOICE)
		ruling = bs_choose(ruling, bs_selectors_of(q->subject, q->generation));
	q->rule = ruling;
	q->verdict = bs_verdict_of(ruling);
	bs_query_record(q);

	pending.subject = q->subject;
	pending.class_id = q->read.name.class_id;
	pending.generation = q->generation;
	pending.leases = bs_may_lease(ruling, st, q->server, p);

	/*
	 * How a denied lookup ends. A drop here is EPERM for the sender, which glibc calls a temporary failure and
	 * others wait out. So, while somebody lives to give the final answer, the query is noted first (the answer
	 * may come before this program ends) and, where names may go out at all, passes: its real answer is dropped
	 * on the way back. Without a supervisor, or if it could not be told, it is dropped here.
	 */
	denied = !spared.refusals && q->verdict == BS_DENY;
	if (denied) {
		if (BS_FAILURE(ruling) == BS_BLACKHOLE) {
			bs_query_tell(skb, q, 0);
			return BS_LOSE;
		}
		if (bpf_ktime_get_boot_ns() - live.heartbeat_ns >= BS_HEARTBEAT_MAX_NS) {
			bs_query_tell(skb, q, 0);
			return BS_DROP;
		}
		pending.denied = 1;
	}
	noted = bs_query_note(skb, h, st, q, &pending);
	if (denied)
		return noted || bs_query_tell(skb, q, 1) || p->default_deny ? BS_DROP : BS_PASS;
	if (!spared.refusals && q->verdict == BS_WOULD_DENY)
		bs_query_tell(skb, q, 0);
	return BS_PASS;
}

/* `certain`: the packet goes to port 53, or went there before it was rewritten, so what cannot be parsed is a query that
 * cannot be judged. Otherwise the last send of an unconnected socket asked for port 53, and a thread that sends elsewhere
 * at the same time would be refused for it: only where what is not known is refused anyway. */
__noinline int bs_query(struct __sk_buff *skb, struct bs_header *h, struct bs_socket *st, int certain, __u32 generation)
{
	struct bs_question *q;
	int verdict, read;

	if (!h || !(q = bs_question_claim()))
		return bs_query_malformed(generation);
	q->generation = generation;
	read = bs_query_read(skb, h, q);
	if (read < 0) {
		verdict = bs_query_malformed(generation);
		if (!certain && !policies[generation & 1].default_deny)
			verdict = BS_PASS;
	} else if (read) {
		BS_COUNT(queries_malformed, 1);
		verdict = BS_PASS;
	} else {
		verdict = bs_query_judge(skb, h, st, q);
	}
	/* Only this CPU claims here: what a program on it sees is in order. */
	barrier();
	*(volatile __u64 *)&q->claimed = 0;
	return verdict;
}

#endif
