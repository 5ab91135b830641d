/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * sockops: which connections message.bpf.h reads, and how long bs_message does.
 *
 * A socket in a sockhash sends and receives by other ways, which are slower and have their faults: a read that waits there may be
 * woken by room to write, or by a signal, and fail with EAGAIN (tcp_bpf_recvmsg, net/ipv4/tcp_bpf.c). So it is there for its first head only,
 * and leaves while that is being sent: a sk_msg program may not take a socket out, but TCP asks for the options of each
 * packet, and that is before the call that sends comes back. A sockops program may put one in only when the connection is made, so
 * it does not come back for later heads.
 */
#ifndef BLACKSTART_ESTABLISHED_H
#define BLACKSTART_ESTABLISHED_H

enum { TCP_USER_TIMEOUT = 18 };

/* What state it comes to, and each packet that it sends. */
#define BS_CLAIM_CALLS (BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG)

/* The socket leaves the table. */
static __always_inline void bs_claim_out(__u64 cookie, struct bs_socket *st)
{
	if (!(st->claim_marks & BS_MARK_HELD))
		return;
	st->claim_marks &= ~BS_MARK_HELD;
	bpf_map_delete_elem(&bs_claimants, &cookie);
}

/* A connection of the run was made: is what it sends first to be read? */
static __always_inline void bs_claim_begin(struct bpf_sock_ops *ops)
{
	struct bpf_sock_ops_kern *kernel = (struct bpf_sock_ops_kern *)ops;
	__u64 cookie = bpf_get_socket_cookie(ops);
	struct bs_socket *st = bs_socket_find(cookie);
	struct tcp_sock *tcp;
	long failed;

	if (!st || !st->hooked) {
		/* Not the socket that was connected, but one that the kernel made for it; or there was no room for its
		 * row. */
		if (bs_is_inspected(bpf_ntohl(ops->remote_port), bs_generation()))
			BS_COUNT(claims_unseen, 1);
		return;
	}
	if (st->forwarded || st->verdict == BS_DENY || !bs_is_inspected(st->port, bs_generation())) {
		/* It was connected to another port before. */
		bs_claim_out(cookie, st);
		return;
	}
	/* Else it is read already, with the SYN. */
	if (st->claim == BS_CLAIM_NONE) {
		tcp = (struct tcp_sock *)BPF_CORE_READ(kernel, sk);
		/* By way of another protocol (MPTCP). */
		if (BPF_CORE_READ(tcp, inet_conn.icsk_ulp_ops)) {
			BS_COUNT(claims_unseen, 1);
			return;
		}
		st->claim = BS_CLAIM_FIRST;
		/* Where there is no room, or another program has it, the first head is read as later ones are. */
		failed = bpf_sock_hash_update(ops, &bs_claimants, &cookie, BPF_NOEXIST);
		if (!failed || failed == -EEXIST) {
			st->claim_marks |= BS_MARK_HELD;
		} else if (failed == -EBUSY) {
			/* Until something is seen to leave it: that program may send it another way. */
			st->claim_marks |= BS_MARK_BUSY;
			BS_COUNT(claims_busy, 1);
		}
	}
	if (!(ops->bpf_sock_ops_cb_flags & BS_CLAIM_CALLS))
		st->claim_marks |= BS_MARK_ALONE;
	bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BS_CLAIM_CALLS);
}

/*
 * A packet is about to be sent, perhaps once more, or a first one was not answered in time.
 *
 * A connection of which the first head was read leaves the table; and if there is nothing more to read, it goes its own way
 * again. What is lost because it is refused is not to be waited for as long as TCP would by itself (two minutes for a first packet, and
 * some eight seconds for what is lost on this host): whoever sent it gets an error when TCP looks at its clock next, after about
 * a second at most.
 */
static __always_inline void bs_claim_sends(struct bpf_sock_ops *ops)
{
	__u64 cookie = bpf_get_socket_cookie(ops);
	struct bs_socket *st = bs_socket_find(cookie);
	__u32 least = 1;

	if (!st)
		return;
	/* A run within this one, which is called first, may have given them back. */
	if ((st->claim == BS_CLAIM_FIRST || bs_claim_waits(st)) &&
	    (ops->bpf_sock_ops_cb_flags & BS_CLAIM_CALLS) != BS_CLAIM_CALLS)
		bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BS_CLAIM_CALLS);
	if (st->claim == BS_CLAIM_FIRST || st->claim == BS_CLAIM_REFUSED)
		return;
	bs_claim_out(cookie, st);
	if (st->claim == BS_CLAIM_CUT)
		bpf_setsockopt(ops, IPPROTO_TCP, TCP_USER_TIMEOUT, &least, sizeof(least));
	if (bs_claim_waits(st) || !(st->claim_marks & BS_MARK_ALONE))
		return;
	st->claim_marks &= ~BS_MARK_ALONE;
	bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags & ~BS_CLAIM_CALLS);
}

/* A connection has ended, perhaps long after its socket was closed, or before it is used for another one. */
static __always_inline void bs_claim_over(struct bpf_sock_ops *ops)
{
	__u64 cookie = bpf_get_socket_cookie(ops);
	struct bs_socket *st = bs_socket_find(cookie);

	if (!st || st->claim == BS_CLAIM_NONE)
		return;
	bs_claim_out(cookie, st);
	bs_leave(cookie, 0);
}

/* A first packet is about to be sent, and has data with it: nobody is told of its fate before the connection is made. */
static __always_inline void bs_claim_early(struct bpf_sock_ops *ops)
{
	struct bpf_sock_ops_kern *kernel = (struct bpf_sock_ops_kern *)ops;
	struct tcp_sock *tcp = (struct tcp_sock *)BPF_CORE_READ(kernel, sk);

	if (BPF_CORE_READ(tcp, fastopen_req))
		bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_RTO_CB_FLAG);
}

/* When: several times in the life of each TCP connection of the run. Writes: claimants, sockets, counters. Refuses
 * nothing; fails open, counted. */
SEC("sockops")
int bs_established(struct bpf_sock_ops *ops)
{
	__u32 op = ops->op;

	if (op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		bs_claim_early(ops);
	else if (op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB)
		bs_claim_begin(ops);
	else if (op == BPF_SOCK_OPS_RTO_CB || op == BPF_SOCK_OPS_HDR_OPT_LEN_CB)
		bs_claim_sends(ops);
	else if (op == BPF_SOCK_OPS_STATE_CB && ops->args[1] == BPF_TCP_CLOSE)
		bs_claim_over(ops);
	return 1;
}

#endif
