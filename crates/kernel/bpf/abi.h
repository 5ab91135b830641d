/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * The one description of everything that the programs and the loader share. The Rust side is generated from
 * this, through the object's BTF; nothing here is written a second time.
 *
 * Conventions
 *  - Plain widths, explicit padding, no implicit holes: keys are hashed as bytes, so a hole would make two
 *    equal keys different. Every size is asserted below.
 *  - Addresses are 16 bytes in network order; IPv4 is ::ffff:a.b.c.d. One table serves both families, and a
 *    v4-mapped destination on an AF_INET6 socket meets the same row as the plain one.
 *  - Ports are in host order, except inside struct bs_port_key.
 *  - Times are nanoseconds of CLOCK_BOOTTIME. 0 means "not yet".
 *  - Names are lower-case wire format including the root label (RFC 1035, 3.1): at most 255 octets.
 *  - A name's or label's hash is keyed with secrets of this run (struct bs_config), so that nobody can craft
 *    two names that share one. 0 never occurs as a name's hash: 0 means "no name".
 *  - Subjects are numbered from 1; 0 means "not known".
 */
#ifndef BLACKSTART_ABI_H
#define BLACKSTART_ABI_H

/* Pins of a run are read by later releases. Raise it when any struct below changes. */
enum bs_layout { BS_LAYOUT = 11 };

enum { BS_NAME_MAX = 256, BS_EXE_MAX = 128, BS_ARGV_HEAD = 256, BS_ARGV_REST = 768 };
enum { BS_LEASE_SLOTS = 16, BS_CHAIN_MAX = 6, BS_PACKET_MAX = 4096, BS_PATH_MAX = 112, BS_ASKED = 2 };
enum { BS_SEATS = 128 };
/* Ports of connections whose first octets are read. */
enum bs_port_list { BS_PORTS = 32 };
enum bs_search_list { BS_SEARCHES = 8, BS_SEARCH_LABELS = 8 };

/* What became of an attempt; core::record::Verdict. */
enum bs_verdict {
	BS_ALLOW = 1,
	BS_DENY = 2,
	BS_WOULD_DENY = 3,
	BS_WAIVED = 4,
	BS_BREAK_GLASS = 5,
};

/* core::tables::Effect. */
enum bs_effect {
	BS_EFFECT_NONE = 0,
	BS_EFFECT_ALLOW = 1,
	BS_EFFECT_DENY = 2,
	BS_EFFECT_SEARCH = 3, /* of a lookup: no lease; of an address: no name permits */
	/* The rule's place holds a row of bs_choices instead: what holds depends on the process. */
	BS_EFFECT_CHOICE = 4,
};

/*
 * A ruling is one word, core::tables::Outcome:
 *
 *   bits  0..31  rule, or row of bs_choices
 *   bits 32..39  enum bs_effect
 *   bits 40..47  enum bs_flags
 *   bits 48..55  for a deny: the errno that an attempt gets, or BS_BLACKHOLE
 *
 * 0 is "no rule".
 */
enum bs_flags {
	BS_RANK = 3, /* mask; core::policy::Rank: 0 plain, 1 waiver, 2 final */
	BS_ENFORCE = 4, /* of a deny: else it is for the record only */
};

enum { BS_RANK_PLAIN = 0, BS_RANK_WAIVER = 1, BS_RANK_FINAL = 2 };

/* Instead of an errno. */
enum bs_failure {
	BS_BLACKHOLE = 255, /* what is sent is lost, and nobody is told */
};

/* core::record::Attribution. */
enum bs_attribution {
	BS_EXACT = 1,
	BS_INHERITED = 2,
	BS_AMBIGUOUS = 3,
	BS_UNNAMED = 4,
	BS_UNKNOWN = 5,
};

/* core::tables: rules that are Blackstart's own. */
enum {
	BS_RULE_DEFAULT = 0,
	BS_RULE_LOCAL = 0xffffff01,
	BS_RULE_RESOLVER = 0xffffff02,
	BS_RULE_MALFORMED = 0xffffff03,
	BS_RULE_SEARCH = 0xffffff04,
	BS_RULE_RESOLVER_SOCKET = 0xffffff05,
	BS_RULE_SOCKET_KIND = 0xffffff06,
	BS_RULE_HIDDEN = 0xffffff09,
};

/* ---- set before the programs are loaded, constant afterwards ---------------------------------------- */

struct bs_config {
	__u64 name_key;   /* start value of a name's hash */
	__u64 label_key;  /* start value of a label's hash */
	__u64 multiplier; /* odd */
};

/*
 * What the programs are loaded without, each field 0 or 1: the verifier takes these for the constants that they are,
 * and neither looks at what they rule out nor keeps it. All zero is everything. core::tables::Uses says what a
 * policy uses; before another one takes over, the programs are replaced by whole ones (session/reload.rs).
 */
struct bs_spared {
	__u32 reload;    /* no policy takes over: generation 0, in the first place */
	__u32 processes; /* no rule speaks of a process */
	__u32 prefixes;  /* no rule names an address */
	__u32 sockets;   /* no rule names a unix socket */
	__u32 refusals;  /* no lookup is denied */
	__u32 expiry;    /* leases last as long as the run */
	__u32 claims;    /* no name that a connection gives is judged */
};

/*
 * Many guards of one process share the programs on the host's forks, execs and exits (tracer.bpf.c). All zero: this one has its
 * own.
 */
struct bs_shared {
	__u32 tracing;
	__u32 guard; /* this one's number among them */
};

/* How many guards may share a tracer. */
enum bs_tracer_room { BS_GUARDS = 2048 };

/* The supervisor's forwarder of lookups over TCP, which listens on loopback. All zero: there is none. */
struct bs_forward {
	__u64 netns;   /* cookie of its network namespace */
	__u16 port_v4; /* on 127.0.0.1; 0: not there */
	__u16 port_v6; /* on ::1; likewise */
	__u32 pad;
};

/* ---- changed while the run is on; writes are single words ------------------------------------------- */

struct bs_live {
	__u64 heartbeat_ns; /* last sign of life of the supervisor; older than 3 s = it answers no lookups */
	__u64 cgroup_id;    /* the run's cgroup, set before anything is attached */
	__u32 cgroup_level; /* its depth below the root; 0: not found out yet */
	__u32 enforce;      /* 0: nothing is refused, whatever the policy says */
	__u32 break_glass;  /* 1: what would be refused is recorded as let through on purpose */
	__u32 generation;   /* of the policy that judges; its lowest bit says which of the two places it has */
	__u32 coming;       /* generation of a policy that is about to judge, in the other place; else 0 */
	__u32 open_families; /* 1: sockets that only packets show may be made under `default: deny`, too */
	__u32 strays;       /* 1: a process of the run may be outside its cgroup; written by the programs */
	__u32 hides;        /* 1: unix sockets that are denied are out of the command's sight */
	__u64 suspended_ns; /* CLOCK_BOOTTIME - CLOCK_MONOTONIC, as of the last heartbeat */
};

/* ---- the policy ------------------------------------------------------------------------------------- */

/* A domain that a resolver tries behind a name. */
struct bs_search {
	__u64 label[BS_SEARCH_LABELS]; /* hashes, from the left */
	__u32 labels; /* 0: no more of them */
	__u32 pad;
};

/*
 * Two policies may be there at once, and one of them judges: a new one is written beside the old, then
 * live.generation is raised. Every program reads that once, when it begins, so that no attempt is judged by
 * half of two. Ids of states, classes and choices are places in shared tables, so those of the two policies
 * never meet. What is kept of names and processes (classes in leases, selectors of subjects) is kept for a
 * generation; while one is coming, for both.
 */
struct bs_policy {
	__u64 tree; /* selectors that hold for what a process starts, too */
	__u32 default_deny;
	__u32 enforce;      /* mode of the default, and of what cannot be judged */
	__u32 has_prefixes; /* 0: no rule names an address, nobody need ask */
	__u32 has_selectors;
	__u32 root;         /* state of the root of the name space */
	__u32 edges;        /* first of its rows in bs_edges, */
	__u32 edge_mask;    /* of which one is the home of each edge */
	/* The automata over paths: [0] of programs, [1] of sockets. Without patterns `kinds` is 0. */
	__u32 kinds[2];
	__u32 steps[2]; /* place in bs_steps of the transitions: state * kinds + kind of the octet */
	__u32 ends[2];  /* place in bs_ends of the states */
	__u32 none;     /* class of what no rule mentions */
	__u32 expiry;   /* 1: a lease ends with the time that its answer gave it, */
	__u32 lease_floor; /* but not before so many seconds */
	__u32 hidden;   /* 1: connections that hide a name are denied */
	__u32 pad;
	__u16 inspect[BS_PORTS]; /* 0: no more of them */
	struct bs_search search[BS_SEARCHES]; /* the host's search list */
};

/* See core::tables::NameState. */
struct bs_state {
	__u32 end;   /* class of a name that ends here */
	__u32 below; /* class of a longer name with no way on */
	__u32 star;  /* state for any label without an edge; 0 none */
	__u32 edges; /* number of edges; 0 saves the probe */
};

/*
 * An edge, with the state that it leads to: what a label costs is one row, which lies within one line of the cache. A
 * policy's edges never change, so their table is an array in which the loader gives each its place: at its home
 *
 *   edges + ((label + from * BS_EDGE_SPREAD) >> 20 & edge_mask)
 *
 * or at one of the next BS_EDGE_REACH - 1 rows, with no free row between.
 */
struct bs_edge {
	__u64 label; /* hash of the lower-case label's octets */
	__u32 from;
	__u32 to;    /* 0: a free row */
	struct bs_state state; /* row `to` of bs_states */
};

enum bs_edge_table { BS_EDGE_REACH = 16 };
#define BS_EDGE_SPREAD 0x9e3779b97f4a7c15ULL

struct bs_class {
	__u64 reach;   /* ruling where by_port is 0 */
	__u64 lookup;  /* ruling of a lookup; default already applied: never NONE */
	__u8 by_port;  /* 1: ask the ports trie */
	__u8 denial;   /* how strongly a rule denies something of it; 0: none does. core::tables::Class */
	__u8 pad[6];
};

/* A question about the process; core::tables::Choice. No walk asks the same twice. */
struct bs_choice {
	__u64 yes; /* rulings */
	__u64 no;
	__u32 selector;
	__u32 pad;
};

enum { BS_SELECTORS = 64 };

struct bs_prefix_key {
	__u32 prefixlen; /* in bits of the 128-bit form: 96 + n for IPv4 */
	__u32 addr[4];
};

/* Longest prefix over class, protocol, port: a port range is a few prefixes. */
struct bs_port_key {
	__u32 prefixlen; /* 40 + leading bits of port */
	__u8 class_be[4];
	__u8 protocol; /* IPPROTO_TCP, IPPROTO_UDP, or 0 for all others */
	__u8 port_be[2];
	__u8 pad;
};

struct bs_address {
	__u32 addr[4];
};

/* Flags of an address that is known without any lookup. */
enum bs_known {
	BS_KNOWN_OWN = 1,      /* the host's own */
	BS_KNOWN_RESOLVER = 2, /* its answers give leases that permit */
	BS_KNOWN_DENIED = 4,   /* while the self-probe runs */
	BS_KNOWN_ALLOWED = 8,  /* likewise */
};

/* ---- names and leases ------------------------------------------------------------------------------- */

struct bs_name {
	__u8 wire[BS_NAME_MAX];
	__u64 hash;
	__u32 class_id;
	__u16 len; /* octets of wire in use, root label included */
	__u16 pad;
};

/*
 * An outstanding query. Most sockets have one or two at a time: those lie with the socket (struct bs_asked).
 * The rest, and those whose server was rewritten on the way, have rows in a map: the server asked for, and a
 * second row with the one on the wire. Answers come from the port that was asked: whoever shares a server's address
 * (loopback) is not the server.
 */
struct bs_pending_key {
	__u64 socket; /* cookie */
	__u64 name;
	__u32 server[4];
	__u16 id;
	__u16 qtype;
	__u32 port; /* of the server; 0 for 53 */
};

struct bs_pending {
	__u64 subject;
	__u32 class_id;
	__u8 denied; /* drop the real answer; ours (NXDOMAIN without records) passes */
	__u8 leases; /* answers give leases */
	__u16 generation; /* that class_id is of; the lowest bits */
};

/*
 * One class of names under which an address was leased. Slots are kept by class, not by name: a verdict
 * depends on nothing else, so ten thousand names below one rule take one slot and can push nobody out.
 */
struct bs_lease_slot {
	__u64 name;    /* the latest name of this class */
	__u64 subject; /* who asked for it */
	__u32 class_id;
	__u32 deny_class; /* class of the CNAME target that is denied most strongly; 0 none */
	__u32 seen;       /* the lease's turn then, for finding the latest and the oldest */
	__u8 several;     /* more than one name has this class here */
	__u8 recorded;    /* bs_answers has a row of the latest name */
	__u16 generation; /* that the classes are of; a slot of another one says nothing, and makes room first */
};

struct bs_lease {
	struct bpf_spin_lock lock;
	__u32 used;
	__u32 turns; /* answers that named the address */
	__u32 known; /* enum bs_known: what needs no lookup, in the same row, so that a verdict asks once */
	/* Of each slot, bs_moment() of its end, should the policy have leases end; 0: none. Apart from the slots, which are
	 * copied to a stack that has no room for more. */
	__u32 until[BS_LEASE_SLOTS];
	struct bs_lease_slot slot[BS_LEASE_SLOTS];
};

struct bs_answer_key {
	__u64 name;
	__u32 addr[4];
};

struct bs_answer {
	__u64 chain[BS_CHAIN_MAX];
	__u32 chain_len;
	__u32 fixed; /* from /etc/hosts */
};

/* ---- the record ------------------------------------------------------------------------------------- */

struct bs_query_key {
	__u64 name;
	__u64 subject;
	__u32 rule;
	__u16 qtype;
	__u8 verdict;
	__u8 pad;
};

struct bs_query {
	__u64 queries;
	__u64 first_ns;
	__u64 last_ns;
};

struct bs_flow_key {
	__u64 subject;
	__u64 name;
	__u32 addr[4];
	__u32 rule;
	__u16 port;
	__u8 protocol;
	__u8 verdict;
};

struct bs_flow {
	__u64 attempts;
	__u64 connected;
	__u64 refused;
	__u64 timed_out;
	__u64 bytes;
	__u64 first_ns;
	__u64 last_ns;
	__u32 attribution;
	__u32 pad;
};

/* Where the flow table is full: sums stay exact, destinations are lost. */
struct bs_overflow_key {
	__u64 subject;
	__u64 verdict;
};

enum bs_late {
	BS_LATE_ACTED = 1, /* first seen when it acted */
	BS_LATE_FOUND = 2, /* there before the programs were; written by the loader from /proc */
};

struct bs_subject {
	__u64 parent;
	__u64 started_ns;
	__u64 ended_ns;
	__u32 tgid;
	__u32 wait_status;
	__u16 exe_len;
	__u16 argv_len; /* octets kept here and in argv_rest */
	__u8 argv_cut;
	__u8 forked; /* no exec seen for this image */
	__u8 late;   /* enum bs_late */
	__u8 replaced;
	__u64 selectors[2]; /* which of the policy's selectors hold for it; by the place of the policy */
	__u8 exe[BS_EXE_MAX];
	__u8 argv[BS_ARGV_HEAD]; /* NUL-separated, as the kernel laid them out */
};

struct bs_argv_rest {
	__u8 text[BS_ARGV_REST];
};

/* Which subject a thread group is now. */
struct bs_process {
	__u64 subject;
	__u32 active; /* it acted under this subject: an exec starts a new one */
	__u32 pad;
};

struct bs_leaver_key {
	__u64 subject;
	__u64 cgroup;
	__u32 tgid;
	__u32 pad;
};

struct bs_delegate_key {
	__u64 subject;
	__u32 rule;
	__u16 path_len;
	__u8 verdict;
	__u8 pad;
	__u8 path[BS_PATH_MAX]; /* abstract names begin with NUL */
};

/* A socket that no connect or sendmsg hook would judge, where the default denies. */
struct bs_made_key {
	__u64 subject;
	__u32 rule;
	__u16 family;
	__u16 protocol;
	__u8 type;
	__u8 verdict;
	__u8 pad[6];
};

struct bs_counters {
	__u64 attempts;
	__u64 overflow;
	__u64 lost;
	__u64 subjects_lost;
	__u64 queries_lost;
	__u64 leases_lost;
	__u64 queries_malformed;
	__u64 answers_malformed;
	__u64 answers_unasked;
	__u64 answers_dropped;
	__u64 dns_over_tcp;
	__u64 events_lost;
	__u64 backstop;
	__u64 delegates_lost;
	__u64 answers_forged;
	__u64 leases_evicted;
	__u64 sockets_lost;
	/* Of connections to ports that are inspected (claim.bpf.h): */
	__u64 claims_busy;    /* another program holds the socket, and nothing was seen to leave it */
	__u64 claims_full;    /* no room for a head that is not whole yet */
	__u64 claims_unseen;  /* what was sent first was sent on a way that is not seen */
	__u64 claims_unread;  /* neither TLS nor HTTP/1, or not to be read */
	__u64 claims_later;   /* a further request came behind one of which nobody knows where it ends */
	__u64 claims_unnamed; /* they named nobody */
	__u64 claims_hidden;  /* they may have named another in what is encrypted */
};

/* ---- per socket ------------------------------------------------------------------------------------- */

/*
 * A query that waits for its answer. Threads may share the socket: `turn` is odd while one of them writes, so
 * that a reader can tell that what it read belongs together; 0 is a slot never used.
 */
struct bs_asked {
	__u64 name;
	__u32 server[4];
	__u32 turn;
	__u32 answered; /* the slot may be used again */
	__u32 class_id;
	__u16 id;
	__u16 qtype;
	__u8 denied; /* as in struct bs_pending */
	__u8 leases;
	__u16 generation;
	__u8 pad[4];
};

/* How far what a connection sends has been read; claim.bpf.h. */
enum bs_claim_state {
	BS_CLAIM_NONE = 0,
	BS_CLAIM_FIRST = 1,   /* nothing was sent yet */
	/* A head is to be read as it leaves, at `claim_next`: */
	BS_CLAIM_SENT = 2,    /* the first one, which was not seen as it was sent */
	BS_CLAIM_REQUEST = 3, /* another request, if there is one */
	BS_CLAIM_TUNNEL = 4,  /* what is sent in a tunnel through a proxy */
	BS_CLAIM_DONE = 5,    /* nothing more is read */
	BS_CLAIM_ASKED = 6,   /* the same, but if there is a further request, that is counted */
	BS_CLAIM_REFUSED = 7, /* nothing more is sent */
	BS_CLAIM_LOST = 8,    /* nothing more arrives, after the socket is closed either */
	BS_CLAIM_CUT = 9,     /* the same, and the connection is to end soon */
};

/* What else is known of the reading. All but BS_MARK_HELD is of one connection. */
enum bs_claim_mark {
	BS_MARK_HELD = 1,   /* the socket is in bs_claimants */
	BS_MARK_BUSY = 2,   /* it is in another program's table, and nothing has left it yet */
	BS_MARK_PARTED = 4, /* there is a row for it in bs_parts */
	BS_MARK_ALONE = 8,  /* nobody but us asked for the callbacks that end the reading */
	BS_MARK_PLAIN = 16, /* its packets were seen as TCP has made them, whatever they are wrapped in then */
};

/* The verdict belongs to the socket: the packet path never asks the tables again for a judged one. */
struct bs_socket {
	__u64 subject;
	__u64 name;
	/* Not yet added to the flow, which subject, name, addr, rule, port, protocol and flow_verdict name. */
	__u64 bytes;
	__u64 last_ns; /* of the attempts */
	__u32 attempts;
	__u32 connected;
	__u32 addr[4];
	__u32 rule;
	__u32 since; /* bs_moment() of a TCP connect whose outcome is not known yet; 0 otherwise */
	__u16 port;
	__u8 protocol;
	__u8 verdict; /* 0: never judged */
	__u8 dns;     /* some send asked for port 53/UDP */
	__u8 hooked;  /* judged by connect or sendmsg: its packets need no second judgement */
	__u8 flow_verdict; /* verdict, as long as the socket is open */
	__u8 kept;         /* the flow has a row: rows of flows are never taken away */
	__u16 source_port; /* of a forwarded socket, once its SYN has left */
	__u8 forwarded;    /* connected to the forwarder in the place of addr and port */
	__u8 claim;        /* enum bs_claim_state */
	__u8 claim_marks;  /* enum bs_claim_mark */
	__u8 peer_lost;    /* connected to what is denied, and not told so: what goes to the peer is dropped */
	__u16 claim_port;  /* that a tunnel was asked for */
	__u32 claim_next;  /* TCP's number of the first octet of what is to be read next */
	__u16 claim_kept;  /* octets of it that have left, and are kept in bs_parts */
	__u8 pad[2];
	struct bs_asked asked[BS_ASKED];
};

/*
 * Where the row of a socket lies as a rule: its cookie picks the seat, and cookies are dealt in order. Whoever
 * finds the seat taken has its row elsewhere, in a hash table. While nobody sits here, the row still names a flow and
 * holds what is to be added to it; all that tells one socket from another is zero.
 */
struct bs_seat {
	__u64 cookie;
	__u32 elsewhere; /* rows in the hash table whose seat this is */
	__u32 pad;
	struct bs_socket socket;
};

/* Where a connection to the forwarder comes from. */
struct bs_forwarded_key {
	__u32 addr[4];
	__u16 port;
	__u16 pad;
};

/* ---- the live view ---------------------------------------------------------------------------------- */

enum bs_event_kind {
	BS_EVENT_ATTEMPT = 1,
	BS_EVENT_LOOKUP = 2,
	BS_EVENT_LEFT = 3,
	BS_EVENT_SOCKET = 4,
	BS_EVENT_CONTACT = 5, /* a new row in bs_delegates, which says more */
};

struct bs_event {
	__u32 kind;
	__u32 tgid;
	__u64 subject;
	__u64 name; /* ATTEMPT: name's hash; LEFT: cgroup id; SOCKET: family << 32 | type << 16 | protocol */
	__u32 addr[4];
	__u32 rule;
	__u16 port;
	__u8 protocol;
	__u8 verdict;
};

/* kind stands first in both records. */
struct bs_lookup_event {
	__u32 kind;
	__u32 tgid;
	__u64 subject;
	__u32 client[4];
	__u32 server[4]; /* on the wire, where the real answer would come from */
	__u32 rule;
	__u16 client_port;
	__u16 server_port;
	__u16 id;
	__u16 flags;
	__u16 qtype;
	__u16 qclass;
	__u16 len; /* of wire */
	__u8 verdict;
	__u8 answer; /* 1: the asker is to be answered */
	__u8 edns;   /* 1: the query has an additional record, taken for OPT */
	__u8 pad[3];
	__u8 wire[BS_NAME_MAX]; /* as sent, upper case kept */
};

/* ---- a new policy while the run is on --------------------------------------------------------------- */

enum bs_refill_kind {
	BS_REFILL_LEASE = 1,
	BS_REFILL_SELECTORS = 2,
	/* By the forwarder: a lookup over TCP, what its answer leases, and what could not be read or kept. */
	BS_REFILL_QUERY = 3,
	BS_REFILL_LEASE_FOR = 8, /* as LEASE, but `until` is in seconds from now */
	BS_REFILL_QUERY_MALFORMED = 4,
	BS_REFILL_ANSWER_MALFORMED = 5,
	BS_REFILL_ANSWER_UNASKED = 6,
	BS_REFILL_LEASE_LOST = 7,
	BS_REFILL_KNOWN = 9, /* what the address is known as, from now on */
};

/* What user space works out, for the policy that is coming or for a lookup that came over TCP, handed to bs_refill_one
 * behind an Ethernet header. */
struct bs_refill {
	__u64 name;    /* LEASE, QUERY: hash of the name asked for */
	__u64 subject; /* who asked; SELECTORS: whose */
	__u64 bits;    /* SELECTORS; QUERY: rule, from bit 32 type, from bit 48 verdict; KNOWN: enum bs_known */
	__u32 addr[4];
	__u32 kind;
	__u32 class_id;
	__u32 deny_class;
	__u32 recorded; /* bs_answers has a row of it */
	__u32 generation;
	__u32 until;    /* LEASE: as in struct bs_lease */
};

#define BS_SIZE(type, size) _Static_assert(sizeof(struct type) == (size), #type)
BS_SIZE(bs_config, 24);
BS_SIZE(bs_spared, 28);
BS_SIZE(bs_shared, 8);
BS_SIZE(bs_forward, 16);
BS_SIZE(bs_live, 56);
BS_SIZE(bs_search, 72);
BS_SIZE(bs_policy, 720);
BS_SIZE(bs_state, 16);
BS_SIZE(bs_edge, 32);
BS_SIZE(bs_class, 24);
BS_SIZE(bs_choice, 24);
BS_SIZE(bs_prefix_key, 20);
BS_SIZE(bs_port_key, 12);
BS_SIZE(bs_name, 272);
BS_SIZE(bs_pending_key, 40);
BS_SIZE(bs_pending, 16);
BS_SIZE(bs_lease_slot, 32);
BS_SIZE(bs_lease, 592);
BS_SIZE(bs_answer_key, 24);
BS_SIZE(bs_answer, 56);
BS_SIZE(bs_query_key, 24);
BS_SIZE(bs_query, 24);
BS_SIZE(bs_flow_key, 40);
BS_SIZE(bs_flow, 64);
BS_SIZE(bs_overflow_key, 16);
BS_SIZE(bs_subject, 440);
BS_SIZE(bs_process, 16);
BS_SIZE(bs_leaver_key, 24);
BS_SIZE(bs_delegate_key, 128);
BS_SIZE(bs_made_key, 24);
BS_SIZE(bs_counters, 192);
BS_SIZE(bs_asked, 48);
BS_SIZE(bs_socket, 184);
BS_SIZE(bs_seat, 200);
BS_SIZE(bs_forwarded_key, 20);
BS_SIZE(bs_event, 48);
BS_SIZE(bs_lookup_event, 328);
BS_SIZE(bs_refill, 64);

#endif
