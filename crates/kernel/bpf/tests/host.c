/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * The parsers of DNS messages, TLS hellos and HTTP requests on the host, with sanitizers: never loaded, and no part of the product. A fault of theirs that
 * the verifier cannot see (it knows of memory, not of meaning) is seen here, some hundred thousand messages a second.
 *
 * Each message is read twice, over memory that holds something else before: what was read must be the same, or
 * it depends on what an earlier message has left behind.
 *
 * As a program: exchanges on stdin, and what was read of each on stdout; struct host_ask and struct host_told say how. With
 * the argument `heads`: what connections send first, each behind its length in 16 bits; struct host_head is told of it.
 * With BS_FUZZ_QUERY, BS_FUZZ_ANSWER or BS_FUZZ_HEAD: a target for libFuzzer, whose input is one message.
 */
#include "host.h"

enum { IPPROTO_TCP = 6, IPPROTO_UDP = 17, IPPROTO_UDPLITE = 136, SOCK_STREAM = 1, ECONNREFUSED = 111 };

#include "abi.h"
#include "verifier.bpf.h"
#include "tables.bpf.h"
#include "name.bpf.h"
#include "attempt.bpf.h"
#include "path.bpf.h"
#include "subject.bpf.h"
#include "forward.bpf.h"
#include "socket.bpf.h"
#include "header.bpf.h"
#include "query.bpf.h"
#include "packet.bpf.h"
#include "wire.bpf.h"
#include "lease.bpf.h"
#include "answer.bpf.h"
#include "head.bpf.h"
#include "hello.bpf.h"
#include "request.bpf.h"

/* Where a DNS message stands in a packet over IPv4. */
enum { HOST_PAYLOAD = 28, HOST_MESSAGE_MAX = 0xffff };

/* In front of a query and an answer, of as many octets. Numbers in the order of this machine. */
struct host_ask {
	__u16 query;  /* 0: the question that the answer repeats, whatever that is */
	__u16 answer; /* 0: none came */
};

enum host_answer { HOST_NONE, HOST_MALFORMED, HOST_UNASKED, HOST_READ };

/* In front of the name as it was read, in wire form, and of the addresses that were leased, 16 octets each. */
struct host_told {
	__s8 query;   /* what bs_query_read says: 0 read, 1 none, -1 not to be judged; then all but `answer` is 0 */
	__u8 answer;  /* enum host_answer */
	__u16 id;
	__u16 qtype;
	__u16 qclass;
	__u16 name;
	__u16 leases;
};
_Static_assert(sizeof(struct host_told) == 12, "as session/tests/host.rs reads it");

struct host_seen {
	struct host_told told;
	__u8 name[BS_NAME_MAX];
	__u32 leases[HOST_ROWS][4];
};

static __u8 host_buffer[HOST_PAYLOAD + HOST_MESSAGE_MAX];

static void host_expect(int holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "host: %s\n", what);
	abort();
}

static struct __sk_buff host_skb(const __u8 *message, __u32 len)
{
	if (len)
		memcpy(host_buffer + HOST_PAYLOAD, message, len);
	host_packet = host_buffer;
	host_packet_len = HOST_PAYLOAD + len;
	return (struct __sk_buff){ .len = host_packet_len, .data_end = host_packet_len };
}

/* Read a query and note it as asked, where it is one. */
static int host_query(const __u8 *message, __u32 len, __u8 before, struct host_seen *seen)
{
	struct __sk_buff skb = host_skb(message, len);
	struct bs_header h = { .payload = HOST_PAYLOAD, .protocol = IPPROTO_UDP };
	struct bs_pending pending = { .leases = 1 };
	__u32 zero = 0;
	struct bs_question *q = bpf_map_lookup_elem(&bs_questions, &zero);
	int read;

	memset(q, before, sizeof(*q));
	q->generation = 0;
	q->wire_differs = 0;
	memset(q->server, 0, sizeof(q->server));
	read = bs_query_read(&skb, &h, q);
	seen->told.query = read;
	if (read)
		return read;
	seen->told.id = q->id;
	seen->told.qtype = q->qtype;
	seen->told.qclass = q->qclass;
	seen->told.name = q->read.name.len;
	host_expect(q->read.name.len >= 1 && q->read.name.len <= 255, "a name's length is out of bounds");
	memcpy(seen->name, q->read.name.wire, q->read.name.len);
	host_expect(!bs_query_note(&skb, &h, 0, q, &pending), "the query could not be noted");
	return 0;
}

static void host_answer(const __u8 *message, __u32 len, __u8 before, struct host_seen *seen)
{
	struct __sk_buff skb = host_skb(message, len);
	struct bs_header h = { .payload = HOST_PAYLOAD, .protocol = IPPROTO_UDP };
	__u32 zero = 0;
	struct bs_counters *counted = bpf_map_lookup_elem(&bs_counters, &zero);
	struct bs_answer_scratch *s = bs_answer_scratch_get();
	struct host_table *answers = HOST_TABLE(&bs_answers), *leases = HOST_TABLE(&bs_leases);

	memset(counted, 0, sizeof(*counted));
	memset(s, before, sizeof(*s));
	host_expect(bs_answer_read(&skb, &h, 1, 0) == BS_PASS, "an answer was dropped in observe mode");
	host_expect(!counted->leases_lost, "a lease was lost");
	seen->told.answer = counted->answers_malformed ? HOST_MALFORMED : counted->answers_unasked ? HOST_UNASKED : HOST_READ;
	host_expect(seen->told.answer == HOST_READ || !answers->used, "what could not be read gave a lease");
	host_expect(answers->used == leases->used, "the record and the leases differ");
	seen->told.leases = answers->used;
	for (__u32 i = 0; i < answers->used; i++) {
		struct bs_answer_key *key = (struct bs_answer_key *)answers->keys + i;
		struct bs_address at = {};

		memcpy(at.addr, key->addr, sizeof(at.addr));
		host_expect(host_lookup(leases, &at) != 0, "an address in the record is not leased");
		memcpy(seen->leases[i], key->addr, sizeof(key->addr));
	}
}

/* A query for the question that an answer repeats: as much of it as a query is read of. */
static __u32 host_question_of(const __u8 *answer, __u32 len, __u8 *query)
{
	static const __u8 header[12] = { [2] = 1, [5] = 1 };
	__u32 rest = len < 12 ? 0 : len - 12;

	memcpy(query, header, sizeof(header));
	if (rest > 300)
		rest = 300;
	if (len >= 2)
		memcpy(query, answer, 2);
	if (rest)
		memcpy(query + sizeof(header), answer + 12, rest);
	return sizeof(header) + rest;
}

static void host_exchange(const __u8 *query, __u32 query_len, const __u8 *answer, __u32 answer_len, __u8 before,
			  struct host_seen *seen)
{
	__u8 made[12 + 300];
	int repeated = !query_len && answer_len, read;

	memset(seen, 0, sizeof(*seen));
	host_forget();
	if (repeated) {
		query_len = host_question_of(answer, answer_len, made);
		query = made;
	}
	read = host_query(query, query_len, before, seen);
	if (answer_len)
		host_answer(answer, answer_len, before, seen);
	/* The two read a question by code of their own. */
	if (repeated && seen->told.answer == HOST_UNASKED)
		host_expect(0, "an answer's question is not what a query for it asks");
	if (repeated && seen->told.answer == HOST_READ && seen->told.leases)
		host_expect(!read, "an answer leases for a question that cannot be asked");
}

__attribute__((unused))
static void host_twice(const __u8 *query, __u32 query_len, const __u8 *answer, __u32 answer_len, struct host_seen *seen)
{
	static struct host_seen again;

	host_exchange(query, query_len, answer, answer_len, 0x01, seen);
	host_exchange(query, query_len, answer, answer_len, 0xc0, &again);
	host_expect(!memcmp(seen, &again, sizeof(again)), "what was read depends on what was there before");
}

/* In front of the name as it was read, in wire form. */
struct host_head {
	__u64 length;
	__u32 addr[4];
	__u32 wanted;
	__u32 tail;
	__u16 port;
	__u16 name;
	__u8 found; /* enum bs_head_found; all but `wanted` is 0 unless it was read */
	__u8 names; /* enum bs_head_names */
	__u8 tls;
	__u8 elsewhere;
	__u8 tunnel;
	__u8 hidden;
	__u8 endless;
	__u8 pad;
};
_Static_assert(sizeof(struct host_head) == 48, "as session/tests/host.rs reads it");

struct host_head_seen {
	struct host_head head;
	__u8 name[BS_NAME_MAX];
};

static void host_head(const __u8 *octets, __u32 size, int again, __u8 before, struct host_head_seen *seen)
{
	static struct bs_head h;

	memset(&h, before, sizeof(h));
	memset(seen, 0, sizeof(*seen));
	h.base = (__u64)(uintptr_t)octets;
	h.size = size;
	seen->head.found = bs_head_read(&h, again);
	host_expect(seen->head.found <= BS_HEAD_READ, "a head was found to be nothing that there is");
	if (seen->head.found == BS_HEAD_MORE) {
		seen->head.wanted = h.wanted;
		host_expect(h.wanted > size && h.wanted <= BS_HEAD_MOST, "more is wanted than there may be");
	}
	if (seen->head.found != BS_HEAD_READ)
		return;
	host_expect(h.tail <= size, "a head ends behind its end");
	seen->head.length = h.length;
	seen->head.tail = h.tail;
	seen->head.port = h.port;
	seen->head.names = h.names;
	seen->head.tls = h.tls;
	seen->head.elsewhere = h.elsewhere;
	seen->head.tunnel = h.tunnel;
	seen->head.hidden = h.hidden;
	seen->head.endless = h.endless;
	if (h.names == BS_NAMES_ADDRESS)
		memcpy(seen->head.addr, h.addr, sizeof(h.addr));
	if (h.names != BS_NAMES_NAME)
		return;
	seen->head.name = h.read.name.len;
	host_expect(h.read.name.len >= 1 && h.read.name.len <= 255, "a name's length is out of bounds");
	memcpy(seen->name, h.read.name.wire, h.read.name.len);
}

/* From a copy of its own, so that an octet behind the last one is seen to be read. */
__attribute__((unused))
static void host_head_twice(const __u8 *octets, __u32 size, int again, struct host_head_seen *seen)
{
	static struct host_head_seen other;
	__u8 *copy = malloc(size ? size : 1);

	if (!copy)
		abort();
	if (size)
		memcpy(copy, octets, size);
	host_head(copy, size, again, 'a', seen);
	host_head(copy, size, again, 0xc0, &other);
	free(copy);
	host_expect(!memcmp(seen, &other, sizeof(other)), "what was read depends on what was there before");
}

/* Of no parser that is run here. */
static int bs_claim_leaves(struct __sk_buff *skb, struct bs_socket *st)
{
	return 0;
}

int bs_claim_later(struct __sk_buff *skb, struct bs_socket *st)
{
	return 0;
}

/* Each target uses some of these. */
static struct host_seen host_seen __attribute__((unused));
static struct host_head_seen host_head_seen __attribute__((unused));

#if defined(BS_FUZZ_HEAD)

int LLVMFuzzerTestOneInput(const __u8 *octets, size_t size)
{
	if (size > BS_HEAD_MOST)
		return -1;
	host_head_twice(octets, size, 0, &host_head_seen);
	host_head_twice(octets, size, 1, &host_head_seen);
	return 0;
}

#elif defined(BS_FUZZ_QUERY) || defined(BS_FUZZ_ANSWER)

int LLVMFuzzerTestOneInput(const __u8 *message, size_t len)
{
	if (len > HOST_MESSAGE_MAX)
		return -1;
#ifdef BS_FUZZ_QUERY
	host_twice(message, len, 0, 0, &host_seen);
#else
	host_twice(0, 0, message, len, &host_seen);
#endif
	return 0;
}

#else

static int host_heads(void)
{
	static __u8 octets[HOST_MESSAGE_MAX];
	__u16 size;

	while (fread(&size, sizeof(size), 1, stdin) == 1) {
		struct host_head_seen *seen = &host_head_seen;

		host_expect(fread(octets, 1, size, stdin) == size, "a head was cut off");
		host_head_twice(octets, size, 0, seen);
		fwrite(&seen->head, sizeof(seen->head), 1, stdout);
		fwrite(seen->name, 1, seen->head.name, stdout);
	}
	return fflush(stdout) ? 1 : 0;
}

int main(int argc, char **argv)
{
	static __u8 query[HOST_MESSAGE_MAX], answer[HOST_MESSAGE_MAX];
	struct host_ask ask;

	if (argc == 2 && !strcmp(argv[1], "heads"))
		return host_heads();
	while (fread(&ask, sizeof(ask), 1, stdin) == 1) {
		struct host_seen *seen = &host_seen;

		host_expect(fread(query, 1, ask.query, stdin) == ask.query &&
				    fread(answer, 1, ask.answer, stdin) == ask.answer,
			    "an exchange was cut off");
		host_twice(query, ask.query, answer, ask.answer, seen);
		fwrite(&seen->told, sizeof(seen->told), 1, stdout);
		fwrite(seen->name, 1, seen->told.name, stdout);
		fwrite(seen->leases, sizeof(seen->leases[0]), seen->told.leases, stdout);
	}
	return fflush(stdout) ? 1 : 0;
}

#endif
