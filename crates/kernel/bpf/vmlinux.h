/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * The few kernel types that our programs touch, cut down to the fields that they touch.
 *
 * Every access is relocated against the running kernel's BTF when the program is loaded
 * (preserve_access_index), so offsets here mean nothing; names and types do. A field that some kernel lacks
 * is guarded by bpf_core_field_exists() where it is used. Why not bpftool's full dump: 130,000 lines that
 * nobody reviews, of one kernel among many. Why not <linux/bpf.h>: under -target bpf it pulls in the host's
 * asm headers, which not every distribution can resolve.
 */
#ifndef BLACKSTART_VMLINUX_H
#define BLACKSTART_VMLINUX_H

typedef unsigned char __u8;
typedef signed char __s8;
typedef unsigned short __u16;
typedef short __s16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u16 __sum16;
typedef __u32 __wsum;
typedef unsigned long size_t;
typedef _Bool bool;

/* enum bpf_map_type, BPF_ANY.., helper flags: values of the kernel's stable interface. */
enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PROG_ARRAY = 3,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_LPM_TRIE = 11,
	BPF_MAP_TYPE_SOCKHASH = 18,
	BPF_MAP_TYPE_RINGBUF = 27,
};
enum { BPF_ANY = 0, BPF_NOEXIST = 1, BPF_EXIST = 2 };
enum { BPF_F_NO_PREALLOC = 1 };
enum {
	BPF_SOCK_OPS_TCP_CONNECT_CB = 3,
	BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB = 4,
	BPF_SOCK_OPS_RTO_CB = 8,
	BPF_SOCK_OPS_STATE_CB = 10,
	BPF_SOCK_OPS_RTT_CB = 12,
	BPF_SOCK_OPS_HDR_OPT_LEN_CB = 14,
	BPF_SOCK_OPS_RTO_CB_FLAG = 1,
	BPF_SOCK_OPS_STATE_CB_FLAG = 4,
	BPF_SOCK_OPS_RTT_CB_FLAG = 8,
	BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG = 64,
};
enum { BPF_TCP_SYN_SENT = 2, BPF_TCP_CLOSE = 7, BPF_TCP_LISTEN = 10 };

struct bpf_spin_lock {
	__u32 val;
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct bpf_sock {
	__u32 bound_dev_if;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__be16 dst_port;
	__u32 dst_ip4;
	__u32 dst_ip6[4];
	__u32 state;
};

struct bpf_sock_addr {
	__u32 user_family;
	__u32 user_ip4;
	__u32 user_ip6[4];
	__u32 user_port;
	__u32 family;
	__u32 type;
	__u32 protocol;
	struct bpf_sock *sk;
};

struct __sk_buff {
	__u32 len;
	__u32 protocol;
	__u32 data;
	__u32 data_end;
	__u32 gso_segs;
	struct bpf_sock *sk;
};

struct bpf_sock_ops {
	__u32 op;
	__u32 args[4];
	__u32 remote_port; /* in network order */
	__u32 bpf_sock_ops_cb_flags;
};

struct sk_msg_md {
	void *data;
	void *data_end;
	__u32 size;
};

typedef struct {
	int counter;
} atomic_t;

typedef struct {
	__s64 counter;
} atomic64_t;

struct sock_common {
	atomic64_t skc_cookie;
};

struct sock {
	struct sock_common __sk_common;
};

/* What the contexts of sk_msg and sock_ops programs are behind their stable form. */
struct sk_msg {
	struct sock *sk;
};

struct bpf_sock_ops_kern {
	struct sock *sk;
};

struct inet_connection_sock {
	const void *icsk_ulp_ops;
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	void *fastopen_req;
	__u32 write_seq;
	__u32 snd_nxt;
	__u64 bytes_sent;
};

struct kernfs_node {
	__u64 id;
};

struct cgroup_root {
	int hierarchy_id;
};

struct cgroup {
	int level;
	struct kernfs_node *kn;
	struct cgroup_root *root;
	struct cgroup *ancestors[];
};

struct css_set {
	struct cgroup *dfl_cgrp;
};

struct signal_struct {
	atomic_t live;
};

struct mm_struct {
	unsigned long arg_start;
	unsigned long arg_end;
};

struct qstr {
	__u32 len;
	const unsigned char *name;
};

struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
};

struct vfsmount {
	struct dentry *mnt_root;
};

struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
};

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

struct fs_struct {
	struct path root;
	struct path pwd;
};

struct task_struct {
	int pid;
	int tgid;
	int exit_code;
	struct mm_struct *mm;
	struct signal_struct *signal;
	struct css_set *cgroups;
	struct fs_struct *fs;
};

struct linux_binprm {
	const char *filename;
};

struct sockaddr_un {
	unsigned short sun_family;
	char sun_path[108];
};

struct unix_address {
	int len;
	struct sockaddr_un name[];
};

struct unix_sock {
	struct unix_address *addr;
	struct path path;
	struct sock *peer;
};

struct socket {
	struct sock *sk;
};

struct sockaddr {
	unsigned short sa_family;
};

struct msghdr {
	void *msg_name;
	int msg_namelen;
};

/* As a system call found them. */
struct pt_regs {
#ifdef __TARGET_ARCH_x86
	unsigned long si;
	unsigned long dx;
	unsigned long r8;
	unsigned long r9;
#else
	__u64 regs[31];
#endif
};

struct bpf_sock_addr_kern {
	void *uaddr;
	__u32 uaddrlen;
};

#pragma clang attribute pop

#endif
