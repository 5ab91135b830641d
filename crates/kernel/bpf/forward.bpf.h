/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * Lookups over TCP: the one way on which user space is asked. A connect to a resolver of the run is turned to the
 * supervisor's forwarder, which reads the stream, judges each message and leases what the answers say.
 *
 * Why not here: a message may lie in any number of segments, and a segment may hold any number of messages. Why by
 * rewriting the destination and not by a rule of the firewall: it holds for this run's sockets only, and ends with it.
 *
 * Only where the forwarder can be reached and lives: in its network namespace, while its heartbeat is fresh and its
 * socket listens. Elsewhere nothing is turned, and the attempt is judged as any other.
 */
#ifndef BLACKSTART_FORWARD_H
#define BLACKSTART_FORWARD_H

enum { BS_DNS_PORT = 53, BPF_F_CURRENT_NETNS_ID = -1 };

/* Of the kernel's stable interface, as far as it is needed. */
struct bpf_sock_tuple {
	union {
		struct {
			__be32 saddr;
			__be32 daddr;
			__be16 sport;
			__be16 dport;
		} ipv4;
		struct {
			__be32 saddr[4];
			__be32 daddr[4];
			__be16 sport;
			__be16 dport;
		} ipv6;
	};
};

/* All zero where there is no forwarder: then nothing of this is verified or kept. */
const volatile struct bs_forward forward = {};

/*
 * Where a turned connection comes from, and the cookie of its socket: by this the forwarder knows whom it has accepted,
 * and a connection without a row is nobody's of this run. Written when the SYN leaves, since the source port is not
 * known before; removed by the forwarder. Full: the forwarder closes the connection.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct bs_forwarded_key);
	__type(value, __u64);
} bs_forwarded SEC(".maps");

static __always_inline int bs_is_v4(const __u32 *addr)
{
	return !addr[0] && !addr[1] && addr[2] == bpf_htonl(0xffff);
}

/* Does the forwarder still listen? A supervisor that was killed leaves a heartbeat that is fresh for some seconds, but
 * no socket. */
static __always_inline int bs_forward_listens(struct bpf_sock_addr *ctx, int v4)
{
	struct bpf_sock_tuple at = {};
	struct bpf_sock *sk;
	__u32 state;

	if (v4) {
		at.ipv4.daddr = bpf_htonl(0x7f000001);
		at.ipv4.dport = bpf_htons(forward.port_v4);
		sk = bpf_sk_lookup_tcp(ctx, &at, sizeof(at.ipv4), BPF_F_CURRENT_NETNS_ID, 0);
	} else {
		at.ipv6.daddr[3] = bpf_htonl(1);
		at.ipv6.dport = bpf_htons(forward.port_v6);
		sk = bpf_sk_lookup_tcp(ctx, &at, sizeof(at.ipv6), BPF_F_CURRENT_NETNS_ID, 0);
	}
	if (!sk)
		return 0;
	state = sk->state;
	bpf_sk_release(sk);
	return state == BPF_TCP_LISTEN;
}

/* Is this connect to be turned, should it be let through? A global function: verified once, for few connects come
 * here. Makes the socket's row, without which the forwarder would not know whose connection it is. */
__noinline int bs_forward_takes(struct bpf_sock_addr *ctx, struct bs_attempt *a)
{
	struct bpf_sock *sk = ctx->sk;
	__u64 cookie;
	int v4;

	if (!a || !sk)
		return 0;
	v4 = bs_is_v4(a->addr);
	if (!(v4 ? forward.port_v4 : forward.port_v6))
		return 0;
	/* Through a certain link: loopback is behind none. Which link a link-local address means is not known here. */
	if (sk->bound_dev_if || (a->addr[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000))
		return 0;
	if (!(bs_known_as(a->addr) & BS_KNOWN_RESOLVER) || bpf_get_netns_cookie(ctx) != forward.netns)
		return 0;
	if (bpf_ktime_get_boot_ns() - live.heartbeat_ns >= BS_HEARTBEAT_MAX_NS || !bs_forward_listens(ctx, v4))
		return 0;
	cookie = bpf_get_socket_cookie(ctx);
	return bs_socket_find(cookie) || bs_socket_new(cookie);
}

/* The cheap questions first. */
static __always_inline int bs_forward_may(struct bs_attempt *a)
{
	return forward.netns && a->protocol == IPPROTO_TCP && a->port == BS_DNS_PORT;
}

/* Turn a connect that was let through. */
static __always_inline void bs_forward_turn4(struct bpf_sock_addr *ctx)
{
	ctx->user_ip4 = bpf_htonl(0x7f000001);
	ctx->user_port = bpf_htons(forward.port_v4);
}

static __always_inline void bs_forward_turn6(struct bpf_sock_addr *ctx, struct bs_attempt *a)
{
	int v4 = bs_is_v4(a->addr);

	ctx->user_ip6[0] = 0;
	ctx->user_ip6[1] = 0;
	ctx->user_ip6[2] = v4 ? bpf_htonl(0xffff) : 0;
	ctx->user_ip6[3] = v4 ? bpf_htonl(0x7f000001) : bpf_htonl(1);
	ctx->user_port = bpf_htons(v4 ? forward.port_v4 : forward.port_v6);
}

/* When: getpeername() on an AF_INET socket. The server that was asked for, not the forwarder: glibc and BIND compare. */
SEC("cgroup/getpeername4")
int bs_getpeername4(struct bpf_sock_addr *ctx)
{
	struct bs_socket *st = bs_socket_find(bpf_get_socket_cookie(ctx));

	if (st && st->hooked && st->forwarded) {
		ctx->user_ip4 = st->addr[3];
		ctx->user_port = bpf_htons(BS_DNS_PORT);
	}
	return 1;
}

/* The same for AF_INET6, v4-mapped peers included. */
SEC("cgroup/getpeername6")
int bs_getpeername6(struct bpf_sock_addr *ctx)
{
	struct bs_socket *st = bs_socket_find(bpf_get_socket_cookie(ctx));

	if (st && st->hooked && st->forwarded) {
		ctx->user_ip6[0] = st->addr[0];
		ctx->user_ip6[1] = st->addr[1];
		ctx->user_ip6[2] = st->addr[2];
		ctx->user_ip6[3] = st->addr[3];
		ctx->user_port = bpf_htons(BS_DNS_PORT);
	}
	return 1;
}

#endif
