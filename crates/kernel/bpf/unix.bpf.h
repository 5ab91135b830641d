/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * cgroup/connect_unix and sendmsg_unix (6.7): daemons that act for the run outside of it.
 *
 * Recorded, and judged by rules about unix sockets, never by the default. The daemons that would resolve names
 * where we cannot see it are refused, in either mode, so that lookups fall back to DNS.
 */
#ifndef BLACKSTART_UNIX_H
#define BLACKSTART_UNIX_H

/* Octets of a path that are walked at a time. */
enum { BS_SOCKET_FEW = 16 };

/* Weak: an older kernel lacks them and loads the rest of the object. */
extern void *bpf_cast_to_kern_ctx(void *ctx) __ksym __weak;
extern void *bpf_rdonly_cast(const void *object, __u32 btf_id) __ksym __weak;

/* Does the path (NUL included) say the same? */
#define BS_PATH_IS(path, len, text) ((len) >= sizeof(text) && !__builtin_memcmp((path), text, sizeof(text)))

/* A few octets of a socket's path further; an abstract name is read with `@` for its NUL, as rules write it. */
__noinline __u32 bs_socket_octets(struct bs_delegate_key *key, __u32 from, __u32 state, __u32 place)
{
	if (!key)
		return 0;
	for (__u32 i = 0; i < BS_SOCKET_FEW; i++) {
		__u64 at = from + i;
		__u32 octet;

		barrier_var(at);
		if (at >= BS_PATH_MAX || at >= key->path_len || !state)
			break;
		octet = key->path[at];
		if (!at && !octet)
			octet = '@';
		state = bs_path_step(state, octet, place, BS_SOCKETS);
	}
	return state;
}

/* The class of a socket's path. */
static __always_inline __u32 bs_socket_class(struct bs_delegate_key *key, __u32 place)
{
	struct bs_policy *p = &policies[place & 1];
	__u32 state = 1, at;
	__u64 *end;

	if (spared.sockets || !p->kinds[BS_SOCKETS])
		return p->none;
	for (__u32 i = 0; i < BS_PATH_MAX / BS_SOCKET_FEW; i++)
		state = bs_socket_octets(key, i * BS_SOCKET_FEW, state, place);
	at = p->ends[BS_SOCKETS] + state;
	end = bpf_map_lookup_elem(&bs_ends, &at);
	return end ? *end : p->none;
}

/* A path in the spelling that is judged and recorded; its class. What cannot be told so, since it is too long, is judged
 * and recorded as it was given. A relative one is that of the file `bound`, where that is known. */
static __always_inline __u32 bs_socket_usual(struct bs_delegate_key *key, __u32 place, const struct path *bound)
{
	struct bs_place *s = bs_place_claim();
	__u32 class_id, len;
	__u64 at;

	if (!s)
		return bs_socket_class(key, place);
	s->len = key->path_len;
	__builtin_memcpy(s->given, key->path, sizeof(key->path));
	if (bound && s->given[0] != '/') {
		s->len = 0;
		s->given[0] = 0;
	}
	if (bs_place_find(s, bound)) {
		bs_place_leave(s);
		return bs_socket_class(key, place);
	}
	at = s->at;
	BS_MASK_BY(at, BS_PLACE_END);
	len = BS_PLACE_END - at;
	if (len < sizeof(key->path)) {
		__builtin_memset(key->path, 0, sizeof(key->path));
		bpf_probe_read_kernel_str(key->path, sizeof(key->path), s->text + at);
		key->path_len = len;
	}
	class_id = policies[place & 1].none;
	if (!spared.sockets && policies[place & 1].kinds[BS_SOCKETS])
		class_id = bs_path_end((const char *)s->text + at, place, BS_SOCKETS);
	bs_place_leave(s);
	return class_id;
}

/* The path of an address that is `len` octets long without its family, at `from` in the memory of the kernel or of the
 * caller. */
static __always_inline void bs_contact_path(struct bs_delegate_key *key, const void *from, __u32 len, int of_caller)
{
	__u32 n = len > 108 ? 108 : len;
	long got;

	if (of_caller)
		bpf_probe_read_user(key->path, 1, from);
	else
		bpf_probe_read_kernel(key->path, 1, from);
	if (key->path[0]) {
		/* A path ends at its NUL, or where the caller said; what lies behind would make two rows of one. */
		got = of_caller ? bpf_probe_read_user_str(key->path, n + 1, from)
				: bpf_probe_read_kernel_str(key->path, n + 1, from);
		n = got > 0 ? got - 1 : 0;
	} else if (of_caller) {
		bpf_probe_read_user(key->path, n, from);
	} else {
		bpf_probe_read_kernel(key->path, n, from);
	}
	key->path_len = n;
}

/* Who reaches for that path, and what rules say of it. */
static __always_inline __u64 bs_contact_judge(struct bs_delegate_key *key, __u32 generation, const struct path *bound)
{
	__u64 ruling;

	__u32 class_id;

	key->subject = bs_subject_now();
	class_id = key->path[0] ? bs_socket_usual(key, generation, bound) : bs_socket_class(key, generation);
	ruling = bs_ruling(class_id, 0, 0, bs_selectors_of(key->subject, generation));
	key->verdict = bs_verdict_of(ruling);
	key->rule = ruling;
	return ruling;
}

/* Is it the socket of a daemon that would resolve names where nobody sees it? */
static __always_inline int bs_contact_resolves(struct bs_delegate_key *key)
{
	return BS_PATH_IS(key->path, sizeof(key->path), "/run/nscd/socket") ||
	       BS_PATH_IS(key->path, sizeof(key->path), "/run/systemd/resolve/io.systemd.Resolve");
}

/* What whoever is refused gets: nothing is lost on its way to a unix socket. */
static __always_inline __u8 bs_contact_failure(__u64 ruling)
{
	__u8 failure = BS_FAILURE(ruling);

	return failure && failure != BS_BLACKHOLE ? failure : ECONNREFUSED;
}

/* There is a new row: whoever listens there can be looked for while it does. */
static __always_inline void bs_contact_tell(struct bs_delegate_key *key)
{
	struct bs_event *e = bpf_ringbuf_reserve(&bs_events, sizeof(*e), 0);

	if (!e) {
		BS_COUNT(events_lost, 1);
		return;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->kind = BS_EVENT_CONTACT;
	e->tgid = bpf_get_current_pid_tgid() >> 32;
	e->subject = key->subject;
	e->rule = key->rule;
	e->verdict = key->verdict;
	bpf_ringbuf_submit(e, 0);
}

/* A row of (subject, path, verdict), and a line in the live view for a new one. */
static __always_inline void bs_contact_record(struct bs_delegate_key *key)
{
	__u64 *count = bpf_map_lookup_elem(&bs_delegates, key), one = 1;

	if (!count) {
		if (!bpf_map_update_elem(&bs_delegates, key, &one, BPF_NOEXIST)) {
			bs_contact_tell(key);
			return;
		}
		/* Another CPU was first, or the table is full. */
		count = bpf_map_lookup_elem(&bs_delegates, key);
	}
	if (count)
		__sync_fetch_and_add(count, 1);
	else
		BS_COUNT(delegates_lost, 1);
}

static __always_inline int bs_reach_unix(struct bpf_sock_addr *ctx)
{
	struct bpf_sock_addr_kern *kernel = bpf_cast_to_kern_ctx(ctx);
	struct sockaddr_un *to = bpf_rdonly_cast(BPF_CORE_READ(kernel, uaddr), bpf_core_type_id_kernel(struct sockaddr_un));
	struct bs_delegate_key key = {};
	__u64 ruling;
	__u32 len = BPF_CORE_READ(kernel, uaddrlen);

	if (len <= 2)
		return 1; /* unnamed: a socketpair's end */
	bs_contact_path(&key, to->sun_path, len - 2, 0);
	ruling = bs_contact_judge(&key, bs_generation(), 0);
	/* With the glass broken, lookups go where they please, too. */
	if (!live.break_glass && bs_contact_resolves(&key)) {
		key.verdict = BS_DENY;
		key.rule = BS_RULE_RESOLVER_SOCKET;
	}
	bs_contact_record(&key);
	if (key.verdict == BS_DENY) {
		bpf_set_retval(-(int)bs_contact_failure(ruling));
		return 0;
	}
	return 1;
}

/* When: connect() on a unix socket. Writes: delegates. Fails open. */
SEC("cgroup/connect_unix")
int bs_connect_unix(struct bpf_sock_addr *ctx)
{
	return bs_reach_unix(ctx);
}

/* When: sendto/sendmsg with an address on a unix datagram socket. As connect. */
SEC("cgroup/sendmsg_unix")
int bs_sendmsg_unix(struct bpf_sock_addr *ctx)
{
	return bs_reach_unix(ctx);
}

#endif
