/*
 * BPF programs of somebody else's, on a cgroup of the test's own. Says `ready`, and holds them until it is ended.
 *
 *   foreign message CGROUP              reads what connections from CGROUP send (sock_ops, sockhash, sk_msg), and lets it pass
 *   foreign shortcut CGROUP             the same, and hands what a connection of CGROUP sends to the socket at its other end, past the
 *                                       network, where that is in CGROUP too
 *   foreign rewrite CGROUP FROM TO      turns what goes from CGROUP to the address FROM to TO, and answers from TO back: connect,
 *                                       sendmsg and recvmsg of IPv4
 *
 * The programs are a few instructions each, written out: no compiler for them is needed.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define INSN(c, d, s, o, i) ((struct bpf_insn){ .code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i) })
#define SET(d, i) INSN(BPF_ALU64 | BPF_MOV | BPF_K, d, 0, 0, i)
#define SET32(d, i) INSN(BPF_ALU | BPF_MOV | BPF_K, d, 0, 0, i)
#define COPY(d, s) INSN(BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0)
#define ADD(d, i) INSN(BPF_ALU64 | BPF_ADD | BPF_K, d, 0, 0, i)
#define LOAD(d, s, o) INSN(BPF_LDX | BPF_MEM | BPF_W, d, s, o, 0)
#define TO_BE(d) INSN(BPF_ALU | BPF_END | BPF_TO_BE, d, 0, 0, 32)
#define TABLE(d, m) INSN(BPF_LD | BPF_IMM | BPF_DW, d, BPF_PSEUDO_MAP_FD, 0, m), INSN(0, 0, 0, 0, 0)
#define STORE(d, s, o) INSN(BPF_STX | BPF_MEM | BPF_W, d, s, o, 0)
#define UNLESS_IS(d, i, o) INSN(BPF_JMP32 | BPF_JNE | BPF_K, d, 0, o, i)
#define IF_IS(d, i, o) INSN(BPF_JMP32 | BPF_JEQ | BPF_K, d, 0, o, i)
#define CALL(f) INSN(BPF_JMP | BPF_CALL, 0, 0, 0, f)
#define EXIT INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static int checked(const char *what, long result)
{
	if (result < 0) {
		fprintf(stderr, "foreign: %s: %s\n", what, strerror(errno));
		exit(1);
	}
	return result;
}

static long bpf(int command, union bpf_attr *attr)
{
	return syscall(SYS_bpf, command, attr, sizeof(*attr));
}

static int load(const char *what, int type, int attach, const struct bpf_insn *insns, size_t count)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.prog_type = type;
	attr.expected_attach_type = attach;
	attr.insns = (uintptr_t)insns;
	attr.insn_cnt = count;
	attr.license = (uintptr_t)"GPL";
	return checked(what, bpf(BPF_PROG_LOAD, &attr));
}

/* A link goes with this process. */
static void attach(const char *what, int program, int cgroup, int type)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.link_create.prog_fd = program;
	attr.link_create.target_fd = cgroup;
	attr.link_create.attach_type = type;
	checked(what, bpf(BPF_LINK_CREATE, &attr));
}

static void message(int cgroup, int shortcut)
{
	union bpf_attr attr;
	int map, verdict;
	struct bpf_insn pass[] = { SET(0, SK_PASS), EXIT };

	memset(&attr, 0, sizeof(attr));
	attr.map_type = BPF_MAP_TYPE_SOCKHASH;
	attr.key_size = 4;
	attr.value_size = 4;
	attr.max_entries = 1024;
	map = checked("a sockhash", bpf(BPF_MAP_CREATE, &attr));
	struct bpf_insn hand[] = {
		LOAD(2, 1, offsetof(struct sk_msg_md, remote_port)),
		TO_BE(2),
		STORE(10, 2, -4),
		COPY(3, 10),
		ADD(3, -4),
		TABLE(2, map),
		SET(4, BPF_F_INGRESS),
		CALL(BPF_FUNC_msg_redirect_hash),
		EXIT,
	};
	verdict = load("sk_msg", BPF_PROG_TYPE_SK_MSG, BPF_SK_MSG_VERDICT, shortcut ? hand : pass,
		       shortcut ? COUNT(hand) : COUNT(pass));
	memset(&attr, 0, sizeof(attr));
	attr.target_fd = map;
	attr.attach_bpf_fd = verdict;
	attr.attach_type = BPF_SK_MSG_VERDICT;
	checked("sk_msg on the sockhash", bpf(BPF_PROG_ATTACH, &attr));

	struct bpf_insn watch[] = {
		LOAD(2, 1, offsetof(struct bpf_sock_ops, op)),
		IF_IS(2, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, 1),
		UNLESS_IS(2, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, 8),
		/* By its port: two sockets are not to have one key. */
		LOAD(2, 1, offsetof(struct bpf_sock_ops, local_port)),
		STORE(10, 2, -4),
		COPY(3, 10),
		ADD(3, -4),
		TABLE(2, map),
		SET(4, BPF_ANY),
		CALL(BPF_FUNC_sock_hash_update),
		SET(0, 1),
		EXIT,
	};
	attach("sock_ops on the cgroup",
	       load("sock_ops", BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS, watch, COUNT(watch)), cgroup,
	       BPF_CGROUP_SOCK_OPS);
}

static void turn(const char *what, int cgroup, int type, const char *from, const char *to)
{
	struct in_addr old, new;

	if (inet_pton(AF_INET, from, &old) != 1 || inet_pton(AF_INET, to, &new) != 1) {
		fputs("foreign: an address is none\n", stderr);
		exit(2);
	}
	struct bpf_insn insns[] = {
		LOAD(2, 1, offsetof(struct bpf_sock_addr, user_ip4)),
		UNLESS_IS(2, old.s_addr, 2),
		SET32(2, new.s_addr),
		STORE(1, 2, offsetof(struct bpf_sock_addr, user_ip4)),
		SET(0, 1),
		EXIT,
	};
	attach(what, load(what, BPF_PROG_TYPE_CGROUP_SOCK_ADDR, type, insns, COUNT(insns)), cgroup, type);
}

int main(int argc, char **argv)
{
	int cgroup;

	if (argc < 3)
		return 2;
	cgroup = checked(argv[2], open(argv[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	if (!strcmp(argv[1], "message") || !strcmp(argv[1], "shortcut")) {
		message(cgroup, !strcmp(argv[1], "shortcut"));
	} else if (!strcmp(argv[1], "rewrite") && argc > 4) {
		turn("connect", cgroup, BPF_CGROUP_INET4_CONNECT, argv[3], argv[4]);
		turn("sendmsg", cgroup, BPF_CGROUP_UDP4_SENDMSG, argv[3], argv[4]);
		turn("recvmsg", cgroup, BPF_CGROUP_UDP4_RECVMSG, argv[4], argv[3]);
	} else {
		fputs("foreign: which programs?\n", stderr);
		return 2;
	}
	puts("ready");
	fflush(stdout);
	for (;;)
		pause();
}
