/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * cgroup_skb/ingress: DNS answers become leases before the packet is queued to the socket, so the application
 * cannot hold an address that we do not know.
 *
 * Only an answer to an outstanding query of the same socket counts; of it only the answer section; of that
 * only one chain of CNAMEs from the question, each owner being the last target. What a server adds beside
 * that is ignored: it could name any address.
 */
#ifndef BLACKSTART_ANSWER_H
#define BLACKSTART_ANSWER_H

/* The class of the name that was taken out last, by the policy of a generation. */
static __always_inline __u32 bs_target_class(struct bs_answer_scratch *s, __u32 generation)
{
	s->target.place = generation & 1;
	bs_name_match(&s->target);
	return s->target.name.class_id;
}

/* Note the class of a CNAME's target if rules of the policy (the one that judges, or the coming one) deny it more
 * strongly than those before it; core::tables::Tables::denying_link. */
static __always_inline void bs_target_denied(struct bs_answer_scratch *s, __u32 which)
{
	__u32 class_id = bs_target_class(s, s->generation + which);
	struct bs_class *c = bpf_map_lookup_elem(&bs_classes, &class_id);

	if (c && c->denial > s->denial[which]) {
		s->denial[which] = c->denial;
		s->deny_class[which] = class_id;
	}
}

/* Parameters of a service binding, and the addresses in them: no more fit into a message. */
enum { BS_HINTS = BS_PACKET_MAX / 4 };

/* The next address of a hint, or the next parameter (RFC 9460, 2.2): s->pos is where it stands, s->left octets are left of a
 * hint of addresses of s->out octets each. */
__noinline int bs_hint_next(void)
{
	struct bs_answer_scratch *s = bs_answer_scratch_get();
	__u32 at, key, size;

	if (!s)
		return 1;
	at = s->pos;
	if (s->left) {
		if (s->found >= BS_ADDRESSES) {
			BS_COUNT(leases_lost, 1);
			return 1;
		}
		s->address[s->found & (BS_ADDRESSES - 1)] = s->out == 16 ? BS_LONG | at : at;
		s->found++;
		s->left -= s->out;
		s->pos = at + s->out;
		return 0;
	}
	if (at + 4 > s->limit) {
		s->taken = at == s->limit;
		return 1;
	}
	key = bs_u16(s, at);
	size = bs_u16(s, at + 2);
	at += 4;
	if (at + size > s->limit || key < s->start)
		return 1;
	/* They stand in order, each once. */
	s->start = key + 1;
	s->pos = at + size;
	if (key != 4 && key != 6)
		return 0;
	s->out = key == 4 ? 4 : 16;
	if (!size || size & (s->out - 1))
		return 1;
	s->left = size;
	s->pos = at;
	return 0;
}

static long bs_hint_step(__u32 index, void *unused)
{
	long stop = bs_hint_next();

	BS_BIT(stop);
	return stop;
}

/* The addresses that a service binding of the name at hand (types SVCB and HTTPS) hints at: clients connect to them
 * without another lookup. Those of another target than the name itself are that one's, and whoever wants them may look
 * it up. A binding that cannot be read hints at nothing. */
static __always_inline void bs_answer_hints(struct bs_answer_scratch *s, __u32 at, __u32 size)
{
	__u32 found = s->found;

	/* An alias (priority 0) has no parameters. */
	if (size < 3 || !bs_u16(s, at) || bs_u8(s, at + 2))
		return;
	s->pos = at + 3;
	s->limit = at + size;
	s->start = s->left = s->taken = 0;
	bpf_loop(BS_HINTS, bs_hint_step, (void *)0, 0);
	if (!s->taken)
		s->found = found;
}

/* One record of the answer section. 0 go on, 1 stop. */
__noinline int bs_answer_one(void)
{
	struct bs_answer_scratch *s = bs_answer_scratch_get();
	__u32 at, type, class, ttl, size, mine, i;

	if (!s)
		return 1;
	at = s->offset;
	if (at >= s->len)
		goto broken;
	if (bs_u16(s, at) == (0xc000 | s->head_offset)) {
		mine = 1;
		at += 2;
	} else {
		if (bs_name_take(s, at) || bs_name_scan(&s->target))
			goto broken;
		mine = s->target.name.hash == s->head;
		at = s->end;
	}
	if (at + 10 > s->len)
		goto broken;
	type = bs_u16(s, at);
	class = bs_u16(s, at + 2);
	ttl = bs_u16(s, at + 4) << 16 | bs_u16(s, at + 6);
	size = bs_u16(s, at + 8);
	at += 10;
	if (at + size > s->len)
		goto broken;
	s->offset = at + size;
	if (!mine || class != 1)
		return 0;
	/* RFC 2181, 8: of 32 bits, and none with the highest one set means more than 0. */
	if (ttl & 0x80000000)
		ttl = 0;
	if (ttl < s->ttl)
		s->ttl = ttl;
	if ((type == 1 && size == 4) || (type == 28 && size == 16)) {
		if (s->found >= BS_ADDRESSES) {
			BS_COUNT(leases_lost, 1);
			return 0;
		}
		s->address[s->found & (BS_ADDRESSES - 1)] = type == 28 ? BS_LONG | at : at;
		s->found++;
	} else if (type == 64 || type == 65) {
		bs_answer_hints(s, at, size);
	} else if (type == 5) {
		if (bs_name_take(s, at) || s->end != at + size || bs_name_scan(&s->target))
			goto broken;
		/* A circle comes back to where it began, or goes on too long. */
		if (s->target.name.hash == s->key.name || s->steps >= BS_CNAMES)
			goto broken;
		s->steps++;
		/* The record keeps the first few, the verdict needs none of them but the one that is denied. */
		for (i = 0; i < BS_CHAIN_MAX; i++)
			if (i < s->fresh.chain_len && s->fresh.chain[i] == s->target.name.hash)
				goto broken;
		i = s->fresh.chain_len;
		if (i < BS_CHAIN_MAX) {
			s->fresh.chain[i] = s->target.name.hash;
			s->fresh.chain_len = i + 1;
		}
		s->head = s->target.name.hash;
		s->head_offset = at;
		bs_name_keep(&s->target.name);
		bs_target_denied(s, 0);
		if (s->coming)
			bs_target_denied(s, 1);
	}
	return 0;
broken:
	s->broken = 1;
	return 1;
}

static long bs_answer_step(__u32 index, void *unused)
{
	long stop = bs_answer_one();

	BS_BIT(stop);
	return stop;
}

/* Lease the next address that was found. */
__noinline int bs_lease_next(void)
{
	struct bs_answer_scratch *s = bs_answer_scratch_get();
	__u32 at;

	if (!s)
		return 0;
	at = s->address[s->leased & (BS_ADDRESSES - 1)];
	s->leased++;
	if (at & BS_LONG) {
		s->key.addr[0] = bs_word(s, at);
		s->key.addr[1] = bs_word(s, at + 4);
		s->key.addr[2] = bs_word(s, at + 8);
		s->key.addr[3] = bs_word(s, at + 12);
	} else {
		s->key.addr[0] = s->key.addr[1] = 0;
		s->key.addr[2] = bpf_htonl(0xffff);
		s->key.addr[3] = bs_word(s, at);
	}
	return bs_lease_add(s);
}

static long bs_lease_step(__u32 index, void *unused)
{
	bs_lease_next();
	return 0;
}

/* The query on its socket that this answers. 1 with its fields in `found`. */
static __always_inline int bs_asked_find(struct bs_socket *st, struct bs_pending_key *key, struct bs_pending *found)
{
	for (__u32 i = 0; i < BS_ASKED; i++) {
		struct bs_asked *a = &st->asked[i];
		__u32 turn = BS_LOAD_ACQUIRE(&a->turn);

		if (!turn || turn & 1 || a->name != key->name || a->id != key->id || a->qtype != key->qtype ||
		    a->server[3] != key->server[3] || a->server[2] != key->server[2] ||
		    a->server[1] != key->server[1] || a->server[0] != key->server[0])
			continue;
		found->subject = st->subject;
		found->class_id = a->class_id;
		found->denied = a->denied;
		found->leases = a->leases;
		found->generation = a->generation;
		barrier();
		if (BS_LOAD_ACQUIRE(&a->turn) != turn)
			continue;
		/* An answered slot may be somebody else's by now; an unanswered one cannot. A denied query has two
		 * answers, ours and the real one: its slot stays. */
		if (!a->answered && !a->denied)
			a->answered = 1;
		return 1;
	}
	return 0;
}

static __always_inline int bs_answer_malformed(__u32 generation)
{
	BS_COUNT(answers_malformed, 1);
	return bs_enforcing(generation) ? BS_DROP : BS_PASS;
}

/* What an answer's name is by the policy that judges now, where another one judged the query or another is about to
 * judge what is reached for by the answer. Whether it gives leases, or -1 for a name that cannot be taken out. */
__noinline int bs_answer_again(struct bs_socket *st, struct bs_pending_key *key, int leases, int stale)
{
	struct bs_answer_scratch *s = bs_answer_scratch_get();
	struct bs_class *c;

	if (!s || !key)
		return -1;
	if (bs_name_take(s, 12) || bs_name_scan(&s->target))
		return -1;
	if (stale) {
		s->class_id[0] = bs_target_class(s, s->generation);
		c = bpf_map_lookup_elem(&bs_classes, &s->class_id[0]);
		leases = c && bs_may_lease(bs_choose(c->lookup, bs_selectors_of(s->subject, s->generation)), st,
					   key->server, &policies[s->generation & 1]);
	}
	/* Leased there whatever it will say of the lookup: who looked it up was allowed to. */
	s->class_id[1] = bs_target_class(s, s->generation + 1);
	return leases;
}

static __always_inline int bs_answer_read(struct __sk_buff *skb, struct bs_header *h, __u64 cookie,
					  struct bs_socket *st)
{
	struct bs_pending_key key = {};
	struct bs_pending found = {}, *pending = &found;
	struct bs_answer_scratch *s;
	__u32 zero = 0, len, flags, count, n, generation = bs_generation();
	int leases, stale;

	s = bpf_map_lookup_elem(&bs_scratch, &zero);
	if (!s)
		return BS_PASS;
	/* Several datagrams in one buffer (GRO, for sockets that ask for it): we would read the first only. */
	if (h->odd || !h->payload || skb->gso_segs > 1 || skb->len <= h->payload)
		return bs_answer_malformed(generation);
	len = skb->len - h->payload;
	if (len < 12 || len > BS_PACKET_MAX)
		return bs_answer_malformed(generation);
	len -= 1;
	BS_MASK(len, 4095);
	if (bpf_skb_load_bytes(skb, h->payload, s->packet, len + 1))
		return bs_answer_malformed(generation);
	s->len = len + 1;
	s->broken = 0;
	s->subject = 0;
	flags = bs_u16(s, 2);
	if (!(flags & 0x8000))
		return BS_PASS; /* a query, to a server that the run runs */
	/* A server that does not understand answers with a bare header and an error. It names nothing. */
	if (s->len == 12 && (flags & 15) && !bs_u16(s, 6))
		return BS_PASS;
	if (s->len < 17 || bs_u16(s, 4) != 1 || (flags & 0x7800))
		return bs_answer_malformed(generation);
	/* The question stands uncompressed, as it was asked. */
	if (bs_question_scan(s))
		return bs_answer_malformed(generation);
	if (s->end + 4 > s->len)
		return bs_answer_malformed(generation);

	key.socket = cookie;
	key.name = s->hash;
	__builtin_memcpy(key.server, h->source, 16);
	key.id = bs_u16(s, 0);
	key.qtype = bs_u16(s, s->end);
	key.port = bs_port_beside_53(h->source_port);
	if (key.port || !st || !bs_asked_find(st, &key, &found))
		pending = bpf_map_lookup_elem(&bs_pending, &key);
	if (!pending) {
		/* Nobody here waits for it, or it answers a denied query from an address that we do not expect. */
		BS_COUNT(answers_unasked, 1);
		return bs_enforcing(generation) ? BS_DROP : BS_PASS;
	}
	count = bs_u16(s, 6);
	if (!spared.refusals && pending->denied) {
		/* The supervisor's answer, or one that says the same: name error, no records. */
		if ((flags & 15) == 3 && count == 0)
			return BS_PASS;
		BS_COUNT(answers_dropped, 1);
		return BS_DROP;
	}
	if (!count)
		return BS_PASS;
	s->generation = generation;
	s->coming = bs_is_coming(generation);
	s->class_id[0] = pending->class_id;
	leases = pending->leases;
	s->subject = pending->subject;
	s->offset = s->end + 4;
	stale = !spared.reload && pending->generation != (__u16)generation;
	if (stale || s->coming) {
		leases = bs_answer_again(st, &key, leases, stale);
		if (leases < 0)
			return bs_answer_malformed(generation);
		/* What is no server of the run's gives no more by another policy. */
		if (key.port && !pending->leases)
			leases = 0;
	}
	if (!leases)
		return BS_PASS;
	s->key.name = s->head = key.name;
	s->head_offset = 12;
	s->deny_class[0] = s->deny_class[1] = 0;
	s->denial[0] = s->denial[1] = 0;
	s->fresh.chain_len = 0;
	s->fresh.fixed = 0;
	s->steps = s->found = 0;
	s->ttl = ~0U;
	/* Most answers are short: their records need no indirect call. */
	for (n = 0; n < BS_FEW && n < count; n++)
		if (bs_answer_one())
			break;
	if (n == BS_FEW && count > BS_FEW)
		bpf_loop(count - BS_FEW, bs_answer_step, (void *)0, 0);
	if (s->broken)
		return bs_answer_malformed(generation);
	s->leased = 0;
	if (s->ttl < policies[generation & 1].lease_floor)
		s->ttl = policies[generation & 1].lease_floor;
	s->until = bs_moment_after(s->ttl);
	for (n = 0; n < BS_FEW && n < s->found; n++)
		bs_lease_next();
	if (s->found > BS_FEW)
		bpf_loop(s->found - BS_FEW, bs_lease_step, (void *)0, 0);
	return BS_PASS;
}

/* As long as nobody else on this CPU is in the middle of one. */
static __always_inline int bs_answer_alone(struct __sk_buff *skb, struct bs_header *h, __u64 cookie,
					   struct bs_socket *st)
{
	struct bs_answer_scratch *s = bs_answer_scratch_get();
	int verdict;

	if (!s)
		return BS_PASS;
	if (__sync_val_compare_and_swap(&s->claimed, 0, 1))
		return bs_answer_malformed(bs_generation());
	verdict = bs_answer_read(skb, h, cookie, st);
	barrier();
	*(volatile __u64 *)&s->claimed = 0;
	return verdict;
}

/* When: any packet is about to be queued to a socket of the run. Writes: leases, answers, names, and for TCP
 * the outcome of a connect. Drops real
 * answers to denied lookups, and in enforce answers that cannot be parsed. All else passes. */
SEC("cgroup_skb/ingress")
int bs_ingress(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct bs_header h = {};
	struct bs_socket *st;
	__u32 protocol;
	__u64 cookie;

	if (!sk || !(sk = bpf_sk_fullsock(sk)))
		return BS_PASS;
	protocol = sk->protocol;
	if (protocol == IPPROTO_TCP) {
		if (sk->state != BPF_TCP_SYN_SENT || bs_header_read(skb, &h))
			return BS_PASS;
		bs_outcome(bs_socket_find(bpf_get_socket_cookie(skb)), h.tcp_flags);
		return BS_PASS;
	}
	if (protocol != IPPROTO_UDP || bs_header_read(skb, &h))
		return BS_PASS;
	cookie = bpf_get_socket_cookie(skb);
	st = bs_socket_find(cookie);
	if (h.source_port != 53 && (!st || !st->dns))
		return BS_PASS;
	return bs_answer_alone(skb, &h, cookie, st);
}

#endif
