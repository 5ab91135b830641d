/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * Every map of a run, in one place: what it holds, who writes it, what happens when it is full.
 *
 * Maps that grow with the run are hashes without preallocation: an idle run costs little memory. Policy
 * maps are sized by the loader. Nothing here is an LRU except `pending`, where the newest query is worth
 * more than one that nobody answered: everywhere else an LRU would lose the record in silence.
 */
#ifndef BLACKSTART_TABLES_H
#define BLACKSTART_TABLES_H

/* What the loader writes here before a run; on the host, tests/host.h says it. */
#ifndef BS_CONFIG
#define BS_CONFIG {}
#endif
const volatile struct bs_config config = BS_CONFIG;
const volatile struct bs_spared spared = {};
const volatile struct bs_shared shared = {};

/* .bss, mapped into the supervisor. */
struct bs_live live = {};
struct bs_policy policies[2] = {};
/* Kind of an octet in the automata over paths, by place of the policy, automaton, octet. */
__u8 kinds_of_octets[2][2][256] = {};

/* Numbers subjects. */
__u64 subject_count = 0;

/*
 * Which subject a process is that has acted lately: its tgid in the upper half, the subject in the lower, in one word,
 * so that what is read belongs together. Saves the probe of bs_processes, which stays what counts: whatever writes that
 * empties the place here.
 */
enum { BS_ACTING = 64 };
__u64 acting[BS_ACTING] = {};

/* ---- policy: written by the loader, read by every program; room for two, see struct bs_policy ---- */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bs_state);
} bs_states SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bs_edge);
} bs_edges SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bs_class);
} bs_classes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bs_choice);
} bs_choices SEC(".maps");

/* Transitions of the automata over paths. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} bs_steps SEC(".maps");

/* What a path that ends in a state matches: selectors as bits, or the class of a socket. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} bs_ends SEC(".maps");

/* One for each place: the key of an address is the same in both policies. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct bs_prefix_key);
	__type(value, __u32);
} bs_prefixes_even SEC(".maps"), bs_prefixes_odd SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct bs_port_key);
	__type(value, __u64);
} bs_ports SEC(".maps");

/* ---- names and leases: written by the packet programs; the loader adds room for /etc/hosts and for addresses that
 * are known without a lookup (enum bs_known), and a table has a
 * bucket for the next power of two, hence no round numbers ---- */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 30000);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct bs_name);
} bs_names SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 2048);
	__type(key, struct bs_pending_key);
	__type(value, struct bs_pending);
} bs_pending SEC(".maps");

/* Full: counted in leases_lost. The address is then without a name: it passes under `default: allow`
 * and is refused under `default: deny`. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 30000);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct bs_address);
	__type(value, struct bs_lease);
} bs_leases SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 30000);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct bs_answer_key);
	__type(value, struct bs_answer);
} bs_answers SEC(".maps");

/* ---- the record ---- */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct bs_query_key);
	__type(value, struct bs_query);
} bs_queries SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct bs_flow_key);
	__type(value, struct bs_flow);
} bs_flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct bs_overflow_key);
	__type(value, __u64);
} bs_overflow SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct bs_subject);
} bs_subjects SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct bs_argv_rest);
} bs_argv_rest SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct bs_process);
} bs_processes SEC(".maps");

/* The tracer's, where it is shared; else absent. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u32);
} bs_homes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct bs_leaver_key);
	__type(value, __u64);
} bs_leavers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct bs_delegate_key);
	__type(value, __u64);
} bs_delegates SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct bs_made_key);
	__type(value, __u64);
} bs_made SEC(".maps");

/* One row; atomic adds, since a program may be preempted by another on the same CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bs_counters);
} bs_counters SEC(".maps");

/*
 * What is remembered of a socket, until it is closed. Few are open at a time, and their rows lie here: no hash, no
 * lock, and memory that stays warm. A hash table costs 600 ns in the life of a socket that asks one question, most
 * of it for buckets that nobody has touched lately; socket storage costs 900 to make on 6.18.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BS_SEATS);
	__type(key, __u32);
	__type(value, struct bs_seat);
} bs_seats SEC(".maps");

/*
 * The rows of sockets whose seat is taken, by cookie. Preallocated, so that the row of the next socket is the warm
 * one of the last.
 * Full: datagrams are judged packet by packet, without a subject; TCP loses its outcome and its bytes.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 6400);
	__type(key, __u64);
	__type(value, struct bs_socket);
} bs_sockets SEC(".maps");

/* What a head is looked for in: a TLS record of the largest size, or a request's lines. Of what leaves, as much is looked at
 * at a time. */
enum { BS_HEAD_MOST = 16384 + 256, BS_SENT_MOST = 4096 };

struct bs_part {
	__u8 octets[BS_HEAD_MOST + BS_SENT_MOST];
};

/* What a connection has sent of a head that is not whole yet, by cookie (message.bpf.h). Full: counted in claims_full, and
 * nothing more is read. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct bs_part);
} bs_parts SEC(".maps");

/* The live view. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 17);
} bs_events SEC(".maps");

/* ---- what every program does ---- */

/* A heartbeat older than this is that of a supervisor which is gone. */
#define BS_HEARTBEAT_MAX_NS 3000000000ULL

/* Of the policy that judges; to be read once. */
static __always_inline __u32 bs_generation(void)
{
	return spared.reload ? 0 : live.generation;
}

/* Is another policy about to judge? */
static __always_inline int bs_is_coming(__u32 generation)
{
	return !spared.reload && live.coming == generation + 1;
}

#define BS_COUNT(field, n)                                                              \
	do {                                                                            \
		__u32 bs_zero = 0;                                                      \
		struct bs_counters *bs_c = bpf_map_lookup_elem(&bs_counters, &bs_zero); \
		if (bs_c)                                                               \
			__sync_fetch_and_add(&bs_c->field, (n));                        \
	} while (0)

/*
 * The last time of a row that is there already, by the clock that is a load and not a reading of the hardware: it is up to
 * some milliseconds behind, hence the comparison. It knows of no suspension; how long those took, the supervisor says.
 */
static __always_inline void bs_now_at(__u64 *last_ns)
{
	__u64 now = bpf_ktime_get_coarse_ns() + live.suspended_ns;

	if (now > *last_ns)
		*last_ns = now;
}

/* A moment, in steps of 2^20 ns of a clock of which only differences mean something, by the clock that is a load. Never
 * 0; wraps around after some weeks, so differences are taken modulo 2^32. */
static __always_inline __u32 bs_moment(void)
{
	return (__u32)(bpf_ktime_get_coarse_ns() >> 20) | 1;
}

/* Is the first of two moments the later one? They are less than half of what there is apart. */
static __always_inline int bs_later(__u32 moment, __u32 other)
{
	return (__s32)(moment - other) > 0;
}

/* A lease lasts for the time that its answer gives it: at least this long, since whoever looked a name up must be able to
 * use an address that is not to be kept at all; and no longer than half of what moments can tell apart. */
enum { BS_TTL_LEAST = 5, BS_TTL_MOST = 7 * 24 * 3600 };

static __always_inline __u32 bs_moment_after(__u32 seconds)
{
	__u64 length = seconds < BS_TTL_LEAST ? BS_TTL_LEAST : seconds > BS_TTL_MOST ? BS_TTL_MOST : seconds;

	return (bs_moment() + (__u32)(length * 1000000000 >> 20)) | 1;
}

/* A load that those behind it do not overtake, and a store that does not overtake those before it. Where every one is
 * such, as on x86, the atomic instructions that they are elsewhere would be the dearest on their way. */
#ifdef __TARGET_ARCH_x86
#define BS_LOAD_ACQUIRE(p)                                    \
	({                                                    \
		typeof(*(p)) bs_v = *(volatile typeof(p))(p); \
		barrier();                                    \
		bs_v;                                         \
	})
#define BS_STORE_RELEASE(p, v)                  \
	do {                                    \
		barrier();                      \
		*(volatile typeof(p))(p) = (v); \
	} while (0)
#else
#define BS_LOAD_ACQUIRE(p) __sync_fetch_and_add((p), 0)
#define BS_STORE_RELEASE(p, v) ((void)__sync_lock_test_and_set((p), (v)))
#endif

static __always_inline __u32 bs_known_as(const __u32 *addr)
{
	struct bs_address key = { .addr = { addr[0], addr[1], addr[2], addr[3] } };
	struct bs_lease *lease = bpf_map_lookup_elem(&bs_leases, &key);

	return lease ? lease->known : 0;
}

/* 1 if a number of 32 bits is 0, else 0. */
static __always_inline __u64 bs_is_zero(__u32 x)
{
	return bs_sign((__u64)x - 1);
}

/* The record of one process image starts from this. Read-only data instead of per-CPU scratch: nobody can
 * overwrite it between two instructions. */
const volatile struct bs_subject no_subject = {};
const volatile struct bs_argv_rest no_argv = {};
const volatile struct bs_socket no_socket = {};
const volatile struct bs_part no_part = {};
/* A struct bs_lease of zeros; as octets, since a lock may not lie in read-only data. */
const volatile __u8 no_lease[sizeof(struct bs_lease)] = {};

/* Stands for the cookie while a seat is swept. */
#define BS_LEAVING (~0ULL)

static __always_inline struct bs_seat *bs_seat_of(__u64 cookie)
{
	__u32 at = cookie & (BS_SEATS - 1);

	return bpf_map_lookup_elem(&bs_seats, &at);
}

static __always_inline struct bs_socket *bs_socket_find(__u64 cookie)
{
	struct bs_seat *seat = bs_seat_of(cookie);

	if (!seat)
		return 0;
	if (seat->cookie == cookie)
		return &seat->socket;
	return seat->elsewhere ? bpf_map_lookup_elem(&bs_sockets, &cookie) : 0;
}

/* A row of zeros for a socket that has none; 0 where there is no room. Should another thread have been first, its
 * row. */
static __always_inline struct bs_socket *bs_socket_new(__u64 cookie)
{
	struct bs_seat *seat = bs_seat_of(cookie);
	__u64 sits;

	if (!seat)
		return 0;
	sits = __sync_val_compare_and_swap(&seat->cookie, 0, cookie);
	if (!sits || sits == cookie)
		return &seat->socket;
	/* Counted first: who finds a row must have been sent to look for it. */
	__sync_fetch_and_add(&seat->elsewhere, 1);
	if (bpf_map_update_elem(&bs_sockets, &cookie, (void *)&no_socket, BPF_NOEXIST))
		__sync_fetch_and_sub(&seat->elsewhere, 1);
	return bpf_map_lookup_elem(&bs_sockets, &cookie);
}

#endif
