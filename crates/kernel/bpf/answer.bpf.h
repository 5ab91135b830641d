/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * cgroup_skb/ingress: DNS answers become leases before the packet is queued to the socket, so the application
 * cannot hold an address that we do not know.
 *
 * Only an answer to an outstanding query of the same socket counts; of it only the answer section; of that
 * only one chain of CNAMEs from the question, each owner being the last target. What a server adds beside
 * that is ignored: it could name any address.
 *
 * The packet is copied once into per-CPU scratch. Datagrams are received with bottom halves off, so no second run can begin
 * on this CPU; but with PREEMPT_RT it can. So the scratch is claimed all the same, and who finds it taken has an
 * answer that cannot be read.
 */
#ifndef BLACKSTART_ANSWER_H
#define BLACKSTART_ANSWER_H

enum {
	BS_ADDRESSES = 256, /* as many A records as 4096 octets hold */
	BS_FEW = 4,
	BS_LONG = 0x8000,
	BS_CNAMES = 32,     /* resolvers themselves give up at 16 or before */
};

/* What every answer touches stands first and close together. */
struct bs_answer_scratch {
	__u64 claimed;
	struct bs_answer_key key;   /* question's hash, address at hand */
	__u64 head;                 /* hash of the name that the next owner must be */
	__u64 subject;
	__u64 hash;                 /* of the question, while it is read; */
	__u64 hash_label;           /* as in struct bs_reading */
	__u64 bad;
	__u32 head_offset;          /* where that name stands in the packet */
	__u32 len;
	__u32 offset;               /* next record */
	__u32 end;                  /* offset behind the name last taken out */
	__u32 pos;                  /* where the taking stands: next octet, octets left of the label, */
	__u32 start;                /* no pointer may aim at or behind this, */
	__u32 limit;                /* and no octet be taken from there */
	__u32 left;                 /* octets written, the root label seen */
	__u32 out;
	__u32 taken;
	/* Of the policy that judges, and of the one that is coming. */
	__u32 generation;
	__u32 coming;               /* 1: there is one */
	__u32 class_id[2];
	__u32 deny_class[2];
	__u32 denial[2];            /* how strongly that one denies */
	__u32 steps;                /* CNAMEs followed */
	__u32 found;                /* addresses, leased once the whole section was read */
	__u32 leased;
	__u32 until;                /* of its leases */
	__u32 broken;
	__u32 ttl;                  /* the least of the records that count */
	struct bs_answer fresh;
	__u16 address[BS_ADDRESSES]; /* where they stand in the packet; BS_LONG with those of 16 octets */
	__u8 packet[BS_PACKET_MAX]; /* the DNS message */
	struct bs_reading target;   /* a name taken out of it */
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
	BS_MASK(at, 4095);
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

/* The next few words of the question, as bs_name_words reads them. */
__noinline int bs_question_words(struct bs_answer_scratch *s)
{
	struct bs_words w;
	__u64 unknown;

	if (!s)
		return -1;
	w.hash = s->hash;
	w.label = s->hash_label;
	w.left = s->left;
	w.bad = s->bad;
	w.at = s->pos;
	w.count = 0;
	unknown = s->head;
	for (__u32 i = 0; i < BS_WORDS_FEW; i++) {
		int done = bs_word_next(s->packet, BS_PACKET_MAX - 1, 12, &w, 0, unknown);

		if (done < 0)
			return -1;
		if (done) {
			s->hash = bs_hash_end(w.hash);
			s->end = w.at;
			return w.bad ? -1 : 1;
		}
	}
	s->hash = w.hash;
	s->hash_label = w.label;
	s->left = w.left;
	s->bad = w.bad;
	s->pos = w.at;
	return 0;
}

/* The hash of the question's name, and where it ends. 0, or -1 as bs_name_scan. Its labels are not asked for, since
 * the class was found when the query went out. */
static __always_inline int bs_question_scan(struct bs_answer_scratch *s)
{
	s->hash = config.name_key;
	s->hash_label = s->left = s->bad = 0;
	s->pos = 12;
	for (__u32 i = 0; i < BS_LABELS / BS_WORDS_FEW + 1; i++) {
		int done = bs_question_words(s);

		if (done)
			return done < 0 ? -1 : 0;
	}
	return -1;
}

/* One octet of the name that is being taken out. 0 go on, 1 stop. */
__noinline int bs_name_octet(struct bs_answer_scratch *s)
{
	__u32 c, to, pos, out;

	if (!s)
		return 1;
	pos = s->pos;
	out = s->out;
	if (pos >= s->limit || out > 254)
		return 1;
	c = bs_u8(s, pos);
	if (!s->left && c >= 0xc0) {
		to = (c & 0x3f) << 8 | bs_u8(s, pos + 1);
		if (to >= s->start)
			return 1;
		/* A prior occurrence ends before what points to it. */
		s->limit = s->start;
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
	s->limit = s->len;
	s->left = s->out = s->end = s->taken = 0;
	bpf_loop(280, bs_name_octet_step, (void *)0, 0);
	return s->taken ? 0 : -1;
}

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
