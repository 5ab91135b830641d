/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * sockops: which connections message.bpf.h reads, and how long.
 *
 * A socket in a sockhash sends by another way, which is slower and has had its faults. So it leaves as soon as nothing
 * more is to be read: at the first acknowledgement, since a sk_msg program may not take a socket out. Until then what it
 * sends is let through unseen.
 */
#ifndef BLACKSTART_ESTABLISHED_H
#define BLACKSTART_ESTABLISHED_H

enum { TCP_USER_TIMEOUT = 18 };

/* When data is acknowledged, what state it comes to, and each packet until the first acknowledgement. */
#define BS_CLAIM_CALLS                                                                           \
	(BPF_SOCK_OPS_RTT_CB_FLAG | BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG)

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
	if (st->forwarded || st->verdict == BS_DENY || !bs_is_inspected(st->port, bs_generation()))
		return;
	/* Read already, with the SYN. */
	if (st->claim == BS_CLAIM_DONE || st->claim == BS_CLAIM_ASKED)
		return;
	tcp = (struct tcp_sock *)BPF_CORE_READ(kernel, sk);
	/* By way of another protocol (MPTCP). */
	if (BPF_CORE_READ(tcp, inet_conn.icsk_ulp_ops)) {
		BS_COUNT(claims_unseen, 1);
		return;
	}
	st->claim = BS_CLAIM_FIRST;
	failed = bpf_sock_hash_update(ops, &bs_claimants, &cookie, BPF_NOEXIST);
	if (failed) {
		st->claim = BS_CLAIM_NONE;
		if (failed == -EBUSY)
			BS_COUNT(claims_busy, 1);
		else
			BS_COUNT(claims_full, 1);
		return;
	}
	st->claim_alone = !(ops->bpf_sock_ops_cb_flags & BS_CLAIM_CALLS);
	bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BS_CLAIM_CALLS);
}

/* Has any of its data been sent? */
static __always_inline int bs_claim_is_sent(struct bpf_sock_ops_kern *kernel)
{
	struct tcp_sock *tcp = (struct tcp_sock *)BPF_CORE_READ(kernel, sk);

	return BPF_CORE_READ(tcp, bytes_sent) != 0;
}

/* Something was acknowledged: a connection of which nothing more is to be read goes its own way again. */
static __always_inline void bs_claim_end(struct bpf_sock_ops *ops)
{
	struct bpf_sock_ops_kern *kernel = (struct bpf_sock_ops_kern *)ops;
	__u64 cookie = bpf_get_socket_cookie(ops);
	struct bs_socket *st = bs_socket_find(cookie);

	if (!st)
		return;
	/* Sent by a call that had begun before the connection was made, and perhaps all that is ever sent. */
	if (st->claim == BS_CLAIM_FIRST && bs_claim_is_sent(kernel)) {
		BS_COUNT(claims_unseen, 1);
		st->claim = BS_CLAIM_DONE;
	}
	if (st->claim != BS_CLAIM_DONE && st->claim != BS_CLAIM_ASKED) {
		/* The rest comes by bs_message, and need not be looked for among packets. */
		if (st->claim_alone && (st->claim == BS_CLAIM_REQUEST || st->claim == BS_CLAIM_TUNNEL))
			bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags & ~BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
		return;
	}
	if (st->claim == BS_CLAIM_DONE)
		st->claim = BS_CLAIM_NONE;
	bpf_map_delete_elem(&bs_claimants, &cookie);
	if (st->claim_alone)
		bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags & ~BS_CLAIM_CALLS);
}

/* A connection has ended, perhaps long after its socket was closed. */
static __always_inline void bs_claim_over(struct bpf_sock_ops *ops)
{
	__u64 cookie = bpf_get_socket_cookie(ops);
	struct bs_socket *st = bs_socket_find(cookie);

	if (st && st->claim >= BS_CLAIM_LOST)
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

/* A first packet was not answered in time, or another one is about to be sent, perhaps once more. What is lost because it is refused is
 * not to be waited for as long as TCP would by itself (two minutes for a first packet, and some eight seconds for what is lost
 * on this host): whoever sent it gets an error when TCP looks at its clock next, after about a second. */
static __always_inline void bs_claim_cut(struct bpf_sock_ops *ops)
{
	struct bs_socket *st = bs_socket_find(bpf_get_socket_cookie(ops));
	__u32 least = 1;

	if (st && st->claim == BS_CLAIM_CUT)
		bpf_setsockopt(ops, IPPROTO_TCP, TCP_USER_TIMEOUT, &least, sizeof(least));
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
		bs_claim_cut(ops);
	else if (op == BPF_SOCK_OPS_RTT_CB)
		bs_claim_end(ops);
	else if (op == BPF_SOCK_OPS_STATE_CB && ops->args[1] == BPF_TCP_CLOSE)
		bs_claim_over(ops);
	return 1;
}

#endif
