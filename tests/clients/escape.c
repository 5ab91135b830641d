/*
 * Ways around a guard that no ordinary tool takes. Each says `done` and exits with 0, or says the name of the error
 * and exits with 1.
 *
 *   escape clone-into CGROUP COMMAND...   clone3(CLONE_INTO_CGROUP), and run the command there
 *   escape bpf-map                        open the first BPF map of the host by its id
 *   escape bpf-pin PATH                   open a pinned BPF map, to write to it
 *   escape ptrace PID                     attach to a process, and let it go
 *   escape packet INTERFACE               send an Ethernet frame past IP
 *   escape vsock                          make a socket to the machine that hosts this one
 *   escape icmp ADDRESS                   a raw ICMP echo, and wait for its answer
 *   escape ping ADDRESS                   the same by a ping socket
 *   escape kind TYPE PROTOCOL             make an AF_INET socket
 *   escape uring ADDRESS PORT             connect by io_uring
 *   escape uring-send ADDRESS PORT        send a datagram by io_uring, and wait for its echo
 *   escape uring-sendmsg ADDRESS PORT     the same as a message
 *   escape uring-zerocopy ADDRESS PORT    the same from memory that is not copied
 *   escape uring-fastopen ADDRESS PORT    connect and send by one call of TCP, by io_uring, and wait for the echo
 *   escape by-handle PATH MOUNT           open a file by its handle, through a mount
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/if_packet.h>
#include <linux/io_uring.h>
#include <linux/sched.h>
#include <linux/vm_sockets.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int fail(int error)
{
	const char *name = strerrorname_np(error);

	puts(name ? name : "?");
	return 1;
}

static int done(int64_t result)
{
	if (result < 0)
		return fail(errno);
	puts("done");
	return 0;
}

static int clone_into(const char *cgroup, char **command)
{
	struct clone_args args = { .flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD };
	int dir = open(cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC), status;
	pid_t child;

	if (dir < 0)
		return fail(errno);
	args.cgroup = dir;
	child = syscall(SYS_clone3, &args, sizeof(args));
	if (child < 0)
		return fail(errno);
	if (!child) {
		execvp(command[0], command);
		_exit(127);
	}
	if (waitpid(child, &status, 0) < 0)
		return fail(errno);
	puts("done");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static int bpf(int command, union bpf_attr *attr)
{
	return syscall(SYS_bpf, command, attr, sizeof(*attr));
}

static int bpf_map(void)
{
	union bpf_attr next, by_id;

	memset(&next, 0, sizeof(next));
	memset(&by_id, 0, sizeof(by_id));
	if (bpf(BPF_MAP_GET_NEXT_ID, &next) < 0)
		return fail(errno);
	by_id.map_id = next.next_id;
	return done(bpf(BPF_MAP_GET_FD_BY_ID, &by_id));
}

static int bpf_pin(const char *path)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.pathname = (uintptr_t)path;
	return done(bpf(BPF_OBJ_GET, &attr));
}

static int trace(pid_t pid)
{
	int status;

	if (ptrace(PTRACE_ATTACH, pid, 0, 0) < 0)
		return fail(errno);
	waitpid(pid, &status, __WALL);
	return done(ptrace(PTRACE_DETACH, pid, 0, 0));
}

static int packet(const char *interface)
{
	struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_halen = 6 };
	unsigned char frame[60] = { 255, 255, 255, 255, 255, 255 };
	int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));

	if (fd < 0)
		return fail(errno);
	/* A local experimental ethertype: nobody takes it up. */
	frame[12] = 0x88;
	frame[13] = 0xb5;
	to.sll_ifindex = if_nametoindex(interface);
	memset(to.sll_addr, 255, 6);
	return done(sendto(fd, frame, sizeof(frame), 0, (struct sockaddr *)&to, sizeof(to)));
}

static uint16_t checksum(const uint16_t *words, size_t count)
{
	uint32_t sum = 0;

	while (count--)
		sum += *words++;
	sum = (sum >> 16) + (sum & 0xffff);
	return ~(sum + (sum >> 16));
}

static int echo(int type, const char *address)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	struct icmphdr ask = { .type = ICMP_ECHO, .un.echo = { .id = htons(4711), .sequence = htons(1) } };
	struct timeval patience = { .tv_sec = 5 };
	unsigned char answer[256];
	int fd = socket(AF_INET, type, IPPROTO_ICMP);
	ssize_t got;

	if (fd < 0)
		return fail(errno);
	inet_pton(AF_INET, address, &to.sin_addr);
	ask.checksum = checksum((uint16_t *)&ask, sizeof(ask) / 2);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (sendto(fd, &ask, sizeof(ask), 0, (struct sockaddr *)&to, sizeof(to)) < 0)
		return fail(errno);
	for (;;) {
		size_t head = type == SOCK_RAW ? sizeof(struct iphdr) : 0;

		got = recv(fd, answer, sizeof(answer), 0);
		if (got < 0)
			return fail(errno);
		/* On loopback a raw socket hears itself, too. */
		if ((size_t)got > head && answer[head] == ICMP_ECHOREPLY)
			return done(0);
	}
}

/* One call, with the rings mapped by hand: no library is needed for that. What it comes to, or the negated error. */
static int by_ring(const struct io_uring_sqe *call)
{
	struct io_uring_params params = { 0 };
	int ring = syscall(SYS_io_uring_setup, 4, &params);
	struct io_uring_sqe *entries;
	struct io_uring_cqe *result;
	char *submit, *complete;

	if (ring < 0)
		return -errno;
	submit = mmap(0, params.sq_off.array + params.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
		      ring, IORING_OFF_SQ_RING);
	complete = mmap(0, params.cq_off.cqes + params.cq_entries * sizeof(*result), PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_CQ_RING);
	entries = mmap(0, params.sq_entries * sizeof(*entries), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring,
		       IORING_OFF_SQES);
	if (submit == MAP_FAILED || complete == MAP_FAILED || entries == MAP_FAILED)
		return -errno;
	*entries = *call;
	((unsigned *)(submit + params.sq_off.array))[0] = 0;
	__atomic_store_n((unsigned *)(submit + params.sq_off.tail), 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, 0, 0) < 0)
		return -errno;
	result = (struct io_uring_cqe *)(complete + params.cq_off.cqes);
	return result->res;
}

static int uring(const char *way, const char *address, int port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct timeval patience = { .tv_sec = 5 };
	char text[] = "ping", back[sizeof(text)];
	struct iovec part = { .iov_base = text, .iov_len = sizeof(text) };
	struct msghdr message = { .msg_name = &to, .msg_namelen = sizeof(to), .msg_iov = &part, .msg_iovlen = 1 };
	struct io_uring_sqe call = { 0 };
	int stream = !strcmp(way, "uring") || !strcmp(way, "uring-fastopen"), got;

	inet_pton(AF_INET, address, &to.sin_addr);
	call.fd = socket(AF_INET, stream ? SOCK_STREAM : SOCK_DGRAM, 0);
	if (!strcmp(way, "uring")) {
		call.opcode = IORING_OP_CONNECT;
		call.addr = (uintptr_t)&to;
		call.off = sizeof(to);
	} else if (!strcmp(way, "uring-sendmsg") || !strcmp(way, "uring-fastopen")) {
		call.opcode = IORING_OP_SENDMSG;
		call.addr = (uintptr_t)&message;
		call.len = 1;
		call.msg_flags = stream ? MSG_FASTOPEN : 0;
	} else {
		call.opcode = !strcmp(way, "uring-zerocopy") ? IORING_OP_SEND_ZC : IORING_OP_SEND;
		call.addr = (uintptr_t)text;
		call.len = sizeof(text);
		call.addr2 = (uintptr_t)&to;
		call.addr_len = sizeof(to);
	}
	got = by_ring(&call);
	/* A ring does not wait; without a cookie there is a handshake first, and nothing was taken. */
	if (got == -EINPROGRESS && call.opcode == IORING_OP_SENDMSG)
		got = send(call.fd, text, sizeof(text), 0) < 0 ? -errno : 0;
	if (got < 0)
		return fail(-got);
	if (call.opcode == IORING_OP_CONNECT)
		return done(0);
	setsockopt(call.fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (recv(call.fd, back, sizeof(back), 0) < 0)
		return fail(errno);
	return done(memcmp(text, back, sizeof(text)) ? -1 : 0);
}

static int by_handle(const char *path, const char *mount)
{
	char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
	struct file_handle *handle = (struct file_handle *)room;
	int id, dir = open(mount, O_RDONLY | O_CLOEXEC);

	handle->handle_bytes = MAX_HANDLE_SZ;
	if (dir < 0 || name_to_handle_at(AT_FDCWD, path, handle, &id, 0) < 0)
		return fail(errno);
	return done(open_by_handle_at(dir, handle, O_RDONLY));
}

int main(int argc, char **argv)
{
	const char *way = argc > 1 ? argv[1] : "";

	setvbuf(stdout, 0, _IOLBF, 0);
	if (!strcmp(way, "clone-into") && argc > 3)
		return clone_into(argv[2], argv + 3);
	if (!strcmp(way, "bpf-map"))
		return bpf_map();
	if (!strcmp(way, "bpf-pin") && argc > 2)
		return bpf_pin(argv[2]);
	if (!strcmp(way, "ptrace") && argc > 2)
		return trace(atoi(argv[2]));
	if (!strcmp(way, "packet") && argc > 2)
		return packet(argv[2]);
	if (!strcmp(way, "vsock"))
		return done(socket(AF_VSOCK, SOCK_STREAM, 0));
	if (!strcmp(way, "icmp") && argc > 2)
		return echo(SOCK_RAW, argv[2]);
	if (!strcmp(way, "ping") && argc > 2)
		return echo(SOCK_DGRAM, argv[2]);
	if (!strcmp(way, "kind") && argc > 3)
		return done(socket(AF_INET, atoi(argv[2]), atoi(argv[3])));
	if (!strncmp(way, "uring", strlen("uring")) && argc > 3)
		return uring(way, argv[2], atoi(argv[3]));
	if (!strcmp(way, "by-handle") && argc > 3)
		return by_handle(argv[2], argv[3]);
	fputs("escape: which way?\n", stderr);
	return 2;
}
