/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * cgroup_skb/ingress: DNS answers become leases before the packet is queued to the socket, so the application
 * cannot hold an address that we do not know.
 *
 * Only an answer to an outstanding query of the same socket counts; of it only the answer section; of that
 * only one chain of CNAMEs from the question, each owner being the last target. What a server adds beside
 * that is ignored: it could name any address.
 *
 * The packet is copied once into per-CPU scratch. That is safe here and only here: datagrams are received
 * with bottom halves off, so no second run can begin on this CPU.
 */
#ifndef BLACKSTART_ANSWER_H
#define BLACKSTART_ANSWER_H

enum {
	BS_ADDRESSES = 256, /* as many A records as 4096 octets hold */
	BS_FEW = 4,
	BS_CNAMES = 32,     /* resolvers themselves give up at 16 or before */
};

struct bs_answer_scratch {
	__u8 packet[BS_PACKET_MAX]; /* the DNS message */
	struct bs_reading target;   /* a name taken out of it */
	struct bs_answer fresh;
	struct bs_answer_key key;   /* question's hash, address at hand */
	__u64 head;                 /* hash of the name that the next owner must be */
	__u64 subject;
	__u32 head_offset;          /* where that name stands in the packet */
	__u32 len;
	__u32 offset;               /* next record */
	__u32 end;                  /* offset behind the name last taken out */
	__u32 pos;                  /* where the taking stands: next octet, octets left of the label, */
	__u32 start;                /* no pointer may aim at or behind this */
	__u32 left;                 /* octets written, the root label seen */
	__u32 out;
	__u32 taken;
	__u32 class_id;
	__u32 deny_class;
	__u32 steps;                /* CNAMEs followed */
	__u32 found;                /* addresses taken out, leased once the whole section was read */
	__u32 leased;
	__u32 broken;
	__u32 address[BS_ADDRESSES][4];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bs_answer_scratch);
} bs_scratch SEC(".maps");

/* Looked up anew in each global function, not handed over: 6.1 takes no pointer to plain memory as the key or
 * value of a map helper, which is what a global function's argument is. */
static __always_inline struct bs_answer_scratch *bs_answer_scratch_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&bs_scratch, &zero);
}

static __always_inline __u32 bs_u8(struct bs_answer_scratch *s, __u64 at)
{
	asm volatile("%0 &= 4095" : "+r"(at));
	return s->packet[at];
}

static __always_inline __u32 bs_u16(struct bs_answer_scratch *s, __u64 at)
{
	return bs_u8(s, at) << 8 | bs_u8(s, at + 1);
}

/* Four octets of an address, in network order as they stand. */
static __always_inline __u32 bs_word(struct bs_answer_scratch *s, __u64 at)
{
	return bpf_htonl(bs_u16(s, at) << 16 | bs_u16(s, at + 2));
}

/* One octet of the name that is being taken out. 0 go on, 1 stop. */
__noinline int bs_name_octet(struct bs_answer_scratch *s)
{
	__u32 c, to, pos, out;

	if (!s)
		return 1;
	pos = s->pos;
	out = s->out;
	if (pos >= s->len || out > 254)
		return 1;
	c = bs_u8(s, pos);
	if (!s->left && c >= 0xc0) {
		to = (c & 0x3f) << 8 | bs_u8(s, pos + 1);
		if (to >= s->start)
			return 1;
		s->start = to;
		if (!s->end)
			s->end = pos + 2;
		s->pos = to;
		return 0;
	}
	s->target.name.wire[out & 255] = c;
	s->out = out + 1;
	s->pos = pos + 1;
	if (s->left) {
		s->left--;
		return 0;
	}
	if (c) {
		s->left = c;
		return 0;
	}
	if (!s->end)
		s->end = pos + 1;
	s->taken = 1;
	return 1;
}

static long bs_name_octet_step(__u32 index, void *unused)
{
	__u32 zero = 0;
	struct bs_answer_scratch *s = bpf_map_lookup_elem(&bs_scratch, &zero);

	if (s && bs_name_octet(s) == 0)
		return 0;
	return 1;
}

/* Take the name at `at` out of the packet into s->target, following pointers backwards only (RFC 1035,
 * 4.1.4); s->end is the offset behind it. -1: not a name. By bpf_loop: few names come this way (owners are
 * mostly pointers to the last target), and it costs the verifier a hundredth of a plain loop. */
static __always_inline int bs_name_take(struct bs_answer_scratch *s, __u32 at)
{
	s->pos = s->start = at;
	s->left = s->out = s->end = s->taken = 0;
	bpf_loop(280, bs_name_octet_step, (void *)0, 0);
	return s->taken ? 0 : -1;
}

/* Remember that s->key.addr was given for the question: the lease that verdicts ask, and the record. */
__noinline int bs_lease_add(void)
{
	struct bs_answer_scratch *s = bs_answer_scratch_get();
	struct bs_address at = {};
	struct bs_lease *lease;
	struct bs_answer *row;
	__u64 now = bpf_ktime_get_boot_ns(), name, subject;
	__u32 class_id, deny_class, place = BS_LEASE_SLOTS, oldest = 0, evicted = 0;

	if (!s)
		return 0;
	at.addr[0] = s->key.addr[0];
	at.addr[1] = s->key.addr[1];
	at.addr[2] = s->key.addr[2];
	at.addr[3] = s->key.addr[3];
	name = s->key.name;
	subject = s->subject;
	class_id = s->class_id;
	deny_class = s->deny_class;

	lease = bpf_map_lookup_elem(&bs_leases, &at);
	if (!lease) {
		bpf_map_update_elem(&bs_leases, &at, (void *)no_lease, BPF_NOEXIST);
		lease = bpf_map_lookup_elem(&bs_leases, &at);
	}
	if (!lease) {
		BS_COUNT(leases_lost, 1);
		return 0;
	}
	bpf_spin_lock(&lease->lock);
	for (__u32 i = 0; i < BS_LEASE_SLOTS; i++) {
		if (i < lease->used && lease->slot[i].class_id == class_id && lease->slot[i].deny_class == deny_class &&
		    place == BS_LEASE_SLOTS)
			place = i;
		if (lease->slot[i].seen < lease->slot[oldest & (BS_LEASE_SLOTS - 1)].seen)
			oldest = i;
	}
	if (place == BS_LEASE_SLOTS) {
		if (lease->used < BS_LEASE_SLOTS) {
			place = lease->used;
			lease->used++;
		} else {
			place = oldest;
			evicted = 1;
		}
		place &= BS_LEASE_SLOTS - 1;
		lease->slot[place].several = 0;
	} else {
		place &= BS_LEASE_SLOTS - 1;
		if (lease->slot[place].name != name)
			lease->slot[place].several = 1;
	}
	lease->slot[place].name = name;
	lease->slot[place].subject = subject;
	lease->slot[place].class_id = class_id;
	lease->slot[place].deny_class = deny_class;
	lease->slot[place].seen = now >> 20;
	bpf_spin_unlock(&lease->lock);
	if (evicted)
		BS_COUNT(leases_evicted, 1);

	row = bpf_map_lookup_elem(&bs_answers, &s->key);
	if (row) {
		row->last_ns = now;
		return 0;
	}
	s->fresh.last_ns = now;
	if (bpf_map_update_elem(&bs_answers, &s->key, &s->fresh, BPF_ANY))
		BS_COUNT(leases_lost, 1);
	return 0;
}

/* One record of the answer section. 0 go on, 1 stop. */
__noinline int bs_answer_one(void)
{
	struct bs_answer_scratch *s = bs_answer_scratch_get();
	__u32 at, type, class, size, mine, i;

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
	size = bs_u16(s, at + 8);
	at += 10;
	if (at + size > s->len)
		goto broken;
	s->offset = at + size;
	if (!mine || class != 1)
		return 0;
	if ((type == 1 && size == 4) || (type == 28 && size == 16)) {
		__u32 *address = s->address[s->found & (BS_ADDRESSES - 1)];

		if (s->found >= BS_ADDRESSES) {
			BS_COUNT(leases_lost, 1);
			return 0;
		}
		s->found++;
		address[0] = address[1] = 0;
		address[2] = bpf_htonl(0xffff);
		if (type == 1) {
			address[3] = bs_word(s, at);
		} else {
			address[0] = bs_word(s, at);
			address[1] = bs_word(s, at + 4);
			address[2] = bs_word(s, at + 8);
			address[3] = bs_word(s, at + 12);
		}
	} else if (type == 5) {
		struct bs_class *c;

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
		bs_name_match(&s->target);
		bs_name_keep(&s->target.name);
		c = bpf_map_lookup_elem(&bs_classes, &s->target.name.class_id);
		if (c && c->may_deny && !s->deny_class)
			s->deny_class = s->target.name.class_id;
	}
	return 0;
broken:
	s->broken = 1;
	return 1;
}

static long bs_answer_step(__u32 index, void *unused)
{
	long stop = bs_answer_one();

	/* 0 or 1: clang 22 sees that by itself and leaves a test for it out; the verifier does not, since the
	 * function is global. */
	asm volatile("%0 &= 1" : "+r"(stop));
	return stop;
}

/* Lease the next address that was taken out. */
__noinline int bs_lease_next(void)
{
	struct bs_answer_scratch *s = bs_answer_scratch_get();
	__u32 *address;

	if (!s)
		return 0;
	address = s->address[s->leased & (BS_ADDRESSES - 1)];
	s->leased++;
	s->key.addr[0] = address[0];
	s->key.addr[1] = address[1];
	s->key.addr[2] = address[2];
	s->key.addr[3] = address[3];
	return bs_lease_add();
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
		__u32 turn = __sync_fetch_and_add(&a->turn, 0);

		if (!turn || turn & 1 || a->name != key->name || a->id != key->id || a->qtype != key->qtype ||
		    a->server[3] != key->server[3] || a->server[2] != key->server[2] ||
		    a->server[1] != key->server[1] || a->server[0] != key->server[0])
			continue;
		found->subject = st->subject;
		found->class_id = a->class_id;
		found->denied = a->denied;
		found->leases = a->leases;
		if (__sync_fetch_and_add(&a->turn, 0) != turn)
			continue;
		/* An answered slot may be somebody else's by now; an unanswered one cannot. A denied query has two
		 * answers, ours and the real one: its slot stays. */
		if (!a->answered && !a->denied)
			a->answered = 1;
		return 1;
	}
	return 0;
}

static __always_inline int bs_answer_malformed(void)
{
	BS_COUNT(answers_malformed, 1);
	return live.enforce ? BS_DROP : BS_PASS;
}

static __always_inline int bs_answer_read(struct __sk_buff *skb, struct bs_header *h, struct bs_socket *st)
{
	struct bs_pending_key key = {};
	struct bs_pending found = {}, *pending = &found;
	struct bs_answer_scratch *s;
	__u32 zero = 0, len, flags, count, n;

	s = bpf_map_lookup_elem(&bs_scratch, &zero);
	if (!s)
		return BS_PASS;
	/* Several datagrams in one buffer (GRO, for sockets that ask for it): we would read the first only. */
	if (h->odd || !h->payload || skb->gso_segs > 1 || skb->len <= h->payload)
		return bs_answer_malformed();
	len = skb->len - h->payload;
	if (len < 12 || len > BS_PACKET_MAX)
		return bs_answer_malformed();
	len -= 1;
	asm volatile("%0 &= 4095" : "+r"(len));
	if (bpf_skb_load_bytes(skb, h->payload, s->packet, len + 1))
		return bs_answer_malformed();
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
		return bs_answer_malformed();
	/* The question stands uncompressed, as it was asked. */
	n = s->len - 12 > 255 ? 254 : s->len - 13;
	asm volatile("%0 &= 255" : "+r"(n));
	if (bpf_skb_load_bytes(skb, h->payload + 12, s->target.name.wire, n + 1) || bs_name_scan(&s->target))
		return bs_answer_malformed();
	s->end = 12 + s->target.name.len;
	if (s->end + 4 > s->len)
		return bs_answer_malformed();

	key.socket = bpf_get_socket_cookie(skb);
	key.name = s->target.name.hash;
	__builtin_memcpy(key.server, h->source, 16);
	key.id = bs_u16(s, 0);
	key.qtype = bs_u16(s, s->end);
	if (!st || !bs_asked_find(st, &key, &found))
		pending = bpf_map_lookup_elem(&bs_pending, &key);
	if (!pending) {
		/* Nobody here waits for it, or it answers a denied query from an address that we do not expect. */
		BS_COUNT(answers_unasked, 1);
		return live.enforce ? BS_DROP : BS_PASS;
	}
	count = bs_u16(s, 6);
	if (pending->denied) {
		/* The supervisor's answer, or one that says the same: name error, no records. */
		if ((flags & 15) == 3 && count == 0)
			return BS_PASS;
		BS_COUNT(answers_dropped, 1);
		return BS_DROP;
	}
	if (!pending->leases || !count)
		return BS_PASS;
	s->key.name = s->head = key.name;
	s->head_offset = 12;
	s->offset = s->end + 4;
	s->subject = pending->subject;
	s->class_id = pending->class_id;
	s->deny_class = 0;
	s->fresh.chain_len = 0;
	s->fresh.fixed = 0;
	s->steps = s->found = 0;
	/* Most answers are short: their records need no indirect call. */
	for (n = 0; n < BS_FEW && n < count; n++)
		if (bs_answer_one())
			break;
	if (n == BS_FEW && count > BS_FEW)
		bpf_loop(count - BS_FEW, bs_answer_step, (void *)0, 0);
	if (s->broken)
		return bs_answer_malformed();
	s->leased = 0;
	for (n = 0; n < BS_FEW && n < s->found; n++)
		bs_lease_next();
	if (s->found > BS_FEW)
		bpf_loop(s->found - BS_FEW, bs_lease_step, (void *)0, 0);
	return BS_PASS;
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
	st = bs_socket_find(bpf_get_socket_cookie(skb));
	if (h.source_port != 53 && (!st || !st->dns))
		return BS_PASS;
	return bs_answer_read(skb, &h, st);
}

#endif
