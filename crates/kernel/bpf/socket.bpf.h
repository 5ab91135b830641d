/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * cgroup/connect4, connect6, sendmsg4, sendmsg6: the verdict, with an errno, in the caller's context.
 */
#ifndef BLACKSTART_SOCKET_H
#define BLACKSTART_SOCKET_H

/* Is what leaves the socket looked at for a head? */
static __always_inline int bs_claim_reads(struct bs_socket *st)
{
	return st->claim >= BS_CLAIM_SENT && st->claim <= BS_CLAIM_TUNNEL;
}

/* Is a callback still to come, to end the reading or the connection? */
static __always_inline int bs_claim_waits(struct bs_socket *st)
{
	return st->claim >= BS_CLAIM_LOST || bs_claim_reads(st);
}

/* Nothing is read of the socket, nor kept of what was. In the table it stays: the kernel takes it out no sooner than it ends. */
static __always_inline void bs_claim_forget(__u64 cookie, struct bs_socket *st)
{
	if (st->claim_marks & BS_MARK_PARTED)
		bpf_map_delete_elem(&bs_parts, &cookie);
	st->claim = BS_CLAIM_NONE;
	st->claim_marks &= BS_MARK_HELD;
	st->claim_kept = 0;
}

/* The first retry of a SYN is after one second. */
#define BS_GIVEN_UP (900000000U >> 20)

/*
 * One decision for both families and both hooks. 1 lets the call go on, 0 refuses it. Where a denied attempt is to
 * end in nothing, the call goes on too, and what the socket sends is dropped (bs_egress).
 *
 * The socket remembers its verdict, so that its packets are not judged again; and apart from that whether its peer's
 * are to be lost, since a send with an address puts another verdict there, and the next one without has no hook. `dns` sticks on a datagram
 * socket once any send asked for port 53: two threads that share a socket could otherwise clear it between
 * the send and the packet.
 */
static __always_inline int bs_reach(struct bpf_sock_addr *ctx, struct bs_attempt *a, int connects)
{
	struct bs_socket *st;
	__u64 cookie;
	int refused;

	a->protocol = ctx->protocol;
	/* A ping has none, whatever its address says. */
	if (a->protocol == IPPROTO_TCP || a->protocol == IPPROTO_UDP || a->protocol == IPPROTO_UDPLITE)
		a->port = bpf_ntohs((__u16)ctx->user_port);
	cookie = bpf_get_socket_cookie(ctx);
	st = bs_socket_find(cookie);
	if (!a->port && a->protocol == IPPROTO_UDP) {
		/* glibc sorts addresses by connecting a datagram socket to each (RFC 6724) and sends nothing. It
		 * reaches for nobody; a packet, should there be one, is judged by itself. */
		if (st)
			st->hooked = 0;
		return 1;
	}
	a->generation = bs_generation();
	a->subject = bs_subject_now();
	a->selectors = bs_selectors_of(a->subject, a->generation);
	if (connects && bs_forward_may(a))
		a->forwarded = bs_forward_takes(ctx, a);
	bs_judge(a);
	refused = a->verdict == BS_DENY && a->failure != BS_BLACKHOLE;
	if (a->verdict == BS_DENY)
		a->forwarded = 0;
	if (refused || (!st && !(st = bs_socket_new(cookie)))) {
		bs_record(a);
		if (!refused)
			return 1;
		bpf_set_retval(-(int)a->failure);
		return 0;
	}
	if (st->kept && bs_is_flow_of(st, a)) {
		bs_record_here(st, a);
		st->verdict = a->verdict;
	} else {
		bs_socket_set(st, a, bs_record(a));
	}
	/* Of ping sockets no hook sees a sendto, and of UDP-Lite none a connect: each of their packets is looked at
	 * (bs_backstop), and passes without another attempt where it goes to the destination that was judged here. */
	st->hooked = a->protocol == IPPROTO_TCP || a->protocol == IPPROTO_UDP;
	st->forwarded = a->forwarded;
	bs_claim_forget(cookie, st);
	st->since = 0;
	if (connects)
		st->peer_lost = a->verdict == BS_DENY;
	if (a->protocol == IPPROTO_TCP)
		st->since = bs_moment();
	else if (a->port == 53 && a->protocol == IPPROTO_UDP)
		st->dns = 1;
	return 1;
}

static __always_inline int bs_reach4(struct bpf_sock_addr *ctx, int connects)
{
	struct bs_attempt a = {};
	int verdict;

	a.addr[2] = bpf_htonl(0xffff);
	a.addr[3] = ctx->user_ip4;
	/* The kernel takes the unspecified address for loopback; a rule on loopback must see it so too. */
	if (!a.addr[3])
		a.addr[3] = bpf_htonl(0x7f000001);
	verdict = bs_reach(ctx, &a, connects);
	if (connects && verdict && a.forwarded)
		bs_forward_turn4(ctx);
	return verdict;
}

static __always_inline int bs_reach6(struct bpf_sock_addr *ctx, int connects)
{
	struct bs_attempt a = {};
	int verdict;

	a.addr[0] = ctx->user_ip6[0];
	a.addr[1] = ctx->user_ip6[1];
	a.addr[2] = ctx->user_ip6[2];
	a.addr[3] = ctx->user_ip6[3];
	if (!a.addr[0] && !a.addr[1] && !a.addr[3]) {
		if (!a.addr[2])
			a.addr[3] = bpf_htonl(1);
		else if (a.addr[2] == bpf_htonl(0xffff))
			a.addr[3] = bpf_htonl(0x7f000001);
	}
	verdict = bs_reach(ctx, &a, connects);
	if (connects && verdict && a.forwarded)
		bs_forward_turn6(ctx, &a);
	return verdict;
}

/* When: connect() on an AF_INET socket (TCP, UDP, ping). Writes: flows, sockets, subjects, counters; for a lookup over
 * TCP the destination (forward.bpf.h). A refused
 * call gets ECONNREFUSED. Fails as the default says: an address without a row meets the default. */
SEC("cgroup/connect4")
int bs_connect4(struct bpf_sock_addr *ctx)
{
	return bs_reach4(ctx, 1);
}

/* The same for AF_INET6, v4-mapped destinations included. */
SEC("cgroup/connect6")
int bs_connect6(struct bpf_sock_addr *ctx)
{
	return bs_reach6(ctx, 1);
}

/* When: sendto/sendmsg with an address on a UDP socket; also a v4-mapped one on AF_INET6. As connect4. */
SEC("cgroup/sendmsg4")
int bs_sendmsg4(struct bpf_sock_addr *ctx)
{
	return bs_reach4(ctx, 0);
}

/* The same for AF_INET6. */
SEC("cgroup/sendmsg6")
int bs_sendmsg6(struct bpf_sock_addr *ctx)
{
	return bs_reach6(ctx, 0);
}

/* The socket is closed: did its connect come to nothing? */
static __always_inline void bs_settle(struct bpf_sock *ctx, struct bs_socket *st)
{
	struct bs_flow *flow;

	/* Closed by the kernel, before the owner: it gave up. In any other state the owner did. */
	if (st->since && st->bytes && ctx->state == BPF_TCP_CLOSE && (flow = bs_flow_of(st))) {
		/* An error by ICMP comes soon, the last retry does not. */
		if (bs_moment() - st->since < BS_GIVEN_UP)
			__sync_fetch_and_add(&flow->refused, 1);
		else
			__sync_fetch_and_add(&flow->timed_out, 1);
	}
}

/* Give the row of a socket back: what it holds for its flow stays on its seat, or goes there. */
static __always_inline void bs_leave(__u64 cookie, struct bpf_sock *closed)
{
	struct bs_seat *seat = bs_seat_of(cookie);
	struct bs_socket *st;

	if (!seat)
		return;
	/* Whoever closes a socket and the end of its connection may both come here at once: one of them sweeps. */
	if (__sync_val_compare_and_swap(&seat->cookie, cookie, BS_LEAVING) == cookie) {
		st = &seat->socket;
		if (closed)
			bs_settle(closed, st);
		st->since = 0;
		st->verdict = st->dns = st->hooked = st->forwarded = st->peer_lost = 0;
		bs_claim_forget(cookie, st);
		st->claim_marks = 0;
		for (__u32 i = 0; i < BS_ASKED; i++)
			st->asked[i].turn = 0;
		/* Last: the next to sit here finds it swept. */
		BS_STORE_RELEASE(&seat->cookie, 0);
	}
	/* Two threads may have begun with one socket, the first while the seat was taken. */
	if (seat->elsewhere && (st = bpf_map_lookup_elem(&bs_sockets, &cookie))) {
		if (closed)
			bs_settle(closed, st);
		if (bs_holds(st))
			bs_flush(st);
		bs_claim_forget(cookie, st);
		if (!bpf_map_delete_elem(&bs_sockets, &cookie))
			__sync_fetch_and_sub(&seat->elsewhere, 1);
	}
}

/* When: a socket is closed. Writes: the outcome of a connect that was never answered, and for a row that is not on a
 * seat what it holds for its flow. On a seat that stays until it is taken for another flow: as a rule the next socket
 * here belongs to the same one, and finding a flow is the dearest part of closing a socket. Only observes. */
SEC("cgroup/sock_release")
int bs_release(struct bpf_sock *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct bs_socket *st = bs_socket_find(cookie);

	/* What was sent goes on being sent for its owner, who is gone: read, or lost, until the connection ends, too
	 * (bs_established). */
	if (st && bs_claim_waits(st) && ctx->state != BPF_TCP_SYN_SENT && ctx->state != BPF_TCP_CLOSE) {
		/* Whatever is still read: that the connection ends must be heard of. */
		st->claim_marks &= ~BS_MARK_ALONE;
		return 1;
	}
	bs_leave(cookie, ctx);
	return 1;
}

/* A segment has come in on a socket that waits for its handshake: what became of the connect. Here and not in
 * a sockops program, which would run six times for each connection. */
static __always_inline void bs_outcome(struct bs_socket *st, __u8 tcp_flags)
{
	struct bs_flow *flow;

	if (!st || !st->since)
		return;
	if (tcp_flags & 0x04) { /* RST */
		flow = bs_flow_of(st);
		if (flow)
			__sync_fetch_and_add(&flow->refused, 1);
	} else if ((tcp_flags & 0x12) == 0x12) { /* SYN, ACK */
		if (st->kept)
			__sync_fetch_and_add(&st->connected, 1);
	} else {
		return;
	}
	st->since = 0;
}

#endif
