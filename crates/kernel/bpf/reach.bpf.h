/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * lsm_cgroup on unix_stream_connect and unix_may_send (6.0, and `bpf` among the kernel's LSMs): which socket was reached,
 * whatever path led there. Optional: refused by the loader, paths are judged as they are given, and where they led is found out
 * when it is over.
 *
 * The socket is judged by the name under which its server bound it, by the same rules as a path, and refused if one denies
 * it. Records refusals alone: everything else has been recorded by its path, and whoever reaches for a denied path is refused
 * by the hook on it before there is a socket. Where there is no such hook (before 6.7), this is what refuses.
 *
 * The kernel runs these for who connects or sends in the run's cgroup; each call of anybody else's costs a look at its cgroup's
 * empty list. As what is in contact.bpf.h they are whole from the start.
 */
#ifndef BLACKSTART_REACH_H
#define BLACKSTART_REACH_H

/* 1: contacts are recorded when they are over (contact.bpf.h), and are to be told of refusals. Set before loading. */
const volatile __u32 reach_noted;

/* Threads that were refused and whose call goes on. Full: the attempt is recorded by its path as well. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u32);
} bs_refused SEC(".maps");

/* Was this thread's call refused here? To be asked once. */
static __always_inline int bs_reach_was_refused(void)
{
	__u64 thread = bpf_get_current_pid_tgid();

	return reach_noted && !bpf_map_delete_elem(&bs_refused, &thread);
}

/* Has it been bound to a name that rules deny to whoever reached it? 0: refused. */
static __always_inline int bs_reached(struct sock *to)
{
	struct unix_sock *other = (void *)to;
	struct unix_address *address = BPF_CORE_READ(other, addr);
	const struct path *bound = (void *)other + bpf_core_field_offset(struct unix_sock, path);
	struct bs_delegate_key key = {};
	__u64 ruling, thread;
	__u32 len, one = 1;

	if (!address)
		return 1; /* unnamed: a socketpair's end, or a client */
	len = BPF_CORE_READ(address, len);
	if (len <= 2)
		return 1;
	bs_contact_path(&key, (void *)address + bpf_core_field_offset(struct unix_address, name) + 2, len - 2, 0);
	ruling = bs_contact_judge(&key, live.generation, bound);
	if (!live.break_glass && bs_contact_resolves(&key)) {
		key.verdict = BS_DENY;
		key.rule = BS_RULE_RESOLVER_SOCKET;
	}
	if (key.verdict != BS_DENY)
		return 1;
	bs_contact_record(&key);
	if (reach_noted) {
		thread = bpf_get_current_pid_tgid();
		bpf_map_update_elem(&bs_refused, &thread, &one, BPF_ANY);
	}
	bpf_set_retval(-(int)bs_contact_failure(ruling));
	return 0;
}

/* When: a unix stream or seqpacket socket has found whom it connects to. Writes: delegates, if refused. Fails open. */
SEC("lsm_cgroup/unix_stream_connect")
int BPF_PROG(bs_reach_stream, struct sock *sock, struct sock *other, struct sock *newsk)
{
	return bs_reached(other);
}

/* When: a unix datagram socket connects, or has something to send. Writes: delegates, if refused. Fails open. */
SEC("lsm_cgroup/unix_may_send")
int BPF_PROG(bs_reach_datagrams, struct socket *sock, struct socket *other)
{
	struct sock *to = BPF_CORE_READ(other, sk);
	struct unix_sock *from = (void *)BPF_CORE_READ(sock, sk);

	/* To its peer: that was judged when it connected, or is the other end of a pair. */
	if (!to || BPF_CORE_READ(from, peer) == to)
		return 1;
	return bs_reached(to);
}

#endif
