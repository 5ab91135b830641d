/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * What the programs' parsers need of a kernel, on the host: in the place of bpf_helpers.h, so that the sanitizers see every
 * load and store of the very code that the kernel runs. Tables are lists without order that are emptied between two
 * messages: the parsers ask of a table only that what was put in is found.
 */
#ifndef BLACKSTART_HOST_H
#define BLACKSTART_HOST_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The declarations of vmlinux.h are good here too; only their offsets are not looked up in a kernel. */
#pragma clang diagnostic ignored "-Wunknown-attributes"
#pragma clang diagnostic ignored "-Wignored-attributes"
#include "vmlinux.h"

#define SEC(name)
#define __uint(name, value) int(*name)[value]
#define __type(name, value) value *name
#undef __always_inline
#undef __noinline
#define __always_inline inline __attribute__((always_inline))
#define __noinline __attribute__((noinline))
#define barrier() asm volatile("" ::: "memory")
#define barrier_var(x) asm volatile("" : "+r"(x))

#define bpf_htons(x) __builtin_bswap16(x)
#define bpf_ntohs(x) __builtin_bswap16(x)
#define bpf_htonl(x) __builtin_bswap32(x)

/* A run draws its keys; here each has the same ones, so that what fails once fails again. */
#define BS_CONFIG { .name_key = 0x6a09e667f3bcc908, .label_key = 0xbb67ae8584caa73b, .multiplier = 0x3c6ef372fe94f82b }

/* ---- tables ---- */

/* As many rows as one message can fill: the addresses of an answer of 4096 octets. */
enum { HOST_ROWS = 256, HOST_TABLES = 16 };

struct host_table {
	const void *map; /* 0: not in use */
	__u32 key, value, type;
	__u32 used;
	__u8 *keys, *values; /* each of its own, so that what runs over the end of a row is seen at the last one */
};
static struct host_table host_tables[HOST_TABLES];

static void *host_new(size_t size)
{
	void *new = calloc(1, size);

	if (!new)
		abort();
	return new;
}

static struct host_table *host_table_of(const void *map, __u32 type, __u32 key, __u32 value, __u32 rows)
{
	struct host_table *t = host_tables;

	while (t->map && t->map != map)
		if (++t == host_tables + HOST_TABLES)
			abort();
	if (!t->map) {
		*t = (struct host_table){ .map = map, .key = key, .value = value, .type = type };
		if (type == BPF_MAP_TYPE_ARRAY || type == BPF_MAP_TYPE_PERCPU_ARRAY)
			t->used = rows < HOST_ROWS ? rows : HOST_ROWS;
		t->keys = host_new((size_t)HOST_ROWS * key);
		t->values = host_new((size_t)(t->used ? t->used : HOST_ROWS) * value);
	}
	return t;
}

static void *host_lookup(struct host_table *t, const void *key)
{
	__u32 at = 0;

	if (t->type == BPF_MAP_TYPE_ARRAY || t->type == BPF_MAP_TYPE_PERCPU_ARRAY)
		memcpy(&at, key, sizeof(at));
	else
		while (at < t->used && memcmp(t->keys + (size_t)at * t->key, key, t->key))
			at++;
	return at < t->used ? t->values + (size_t)at * t->value : 0;
}

static long host_update(struct host_table *t, const void *key, const void *value, __u64 flags)
{
	void *row = host_lookup(t, key);

	if (row && flags == BPF_NOEXIST)
		return -1;
	if (!row) {
		if (t->used == HOST_ROWS)
			return -1;
		memcpy(t->keys + (size_t)t->used * t->key, key, t->key);
		row = t->values + (size_t)t->used++ * t->value;
	}
	memcpy(row, value, t->value);
	return 0;
}

/* Forget what the messages before have left in the tables that grow. */
static void host_forget(void)
{
	for (struct host_table *t = host_tables; t < host_tables + HOST_TABLES && t->map; t++)
		if (t->type != BPF_MAP_TYPE_ARRAY && t->type != BPF_MAP_TYPE_PERCPU_ARRAY)
			t->used = 0;
}

#define HOST_TABLE(m)                                                                                           \
	host_table_of((m), sizeof(*(m)->type) / sizeof(int), sizeof(*(m)->key), sizeof(*(m)->value),             \
		      sizeof(*(m)->max_entries) / sizeof(int))
#define bpf_map_lookup_elem(m, k) host_lookup(HOST_TABLE(m), (k))
#define bpf_map_update_elem(m, k, v, flags) host_update(HOST_TABLE(m), (k), (v), (flags))

/* ---- packets ---- */

static const __u8 *host_packet;
static __u32 host_packet_len;

static long bpf_skb_load_bytes(const void *skb, __u32 at, void *to, __u32 len)
{
	if (at > host_packet_len || len > host_packet_len - at)
		return -1;
	memcpy(to, host_packet + at, len);
	return 0;
}

/* The sanitizer knows which octets there are. */
#define bpf_probe_read_kernel(to, size, from) (memcpy((to), (from), (size)), 0L)

/* ---- the rest ---- */

#define bpf_loop(count, step, with, flags)                                 \
	do {                                                               \
		for (__u32 host_i = 0; host_i < (__u32)(count); host_i++) \
			if (step(host_i, (with)))                          \
				break;                                     \
	} while (0)

/* No event is wanted, no time passes, and nobody else takes a lock. */
#define bpf_ringbuf_reserve(m, size, flags) ((void *)0)
#define bpf_ringbuf_submit(e, flags) ((void)(e))
#define bpf_ktime_get_boot_ns() (1ULL << 40)
#define bpf_ktime_get_coarse_ns() (1ULL << 40)
#define bpf_spin_lock(lock) ((void)(lock))
#define bpf_spin_unlock(lock) ((void)(lock))
#define bpf_get_socket_cookie(skb) ((__u64)1)
#define bpf_sk_fullsock(sk) (sk)

/* Nothing that is driven here comes to these: they belong to the socket hooks, which packets share headers with. */
static void *host_never(void)
{
	abort();
}
#define bpf_map_delete_elem(m, k) ((void)(m), (void)(k), host_never() == 0)
#define bpf_probe_read_kernel_str(to, size, from) ((void)(to), (void)(from), (long)(host_never() == 0))
#define bpf_get_current_pid_tgid() ((__u64)(uintptr_t)host_never())
#define bpf_sk_lookup_tcp(ctx, tuple, size, netns, flags) ((void)(tuple), host_never())
#define bpf_sk_release(sk) ((void)host_never())
#define bpf_get_netns_cookie(ctx) ((__u64)(uintptr_t)host_never())
#define bpf_set_retval(value) ((void)(value), (void)host_never())

#endif
