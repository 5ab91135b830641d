/*
 * The client of the benches: takes orders on stdin, one a line, and answers each with one line of numbers.
 * The same program runs bare and guarded, so start-up is in no figure. Times are nanoseconds.
 *
 *   lookup SERVER NAME N       N lookups, a socket each: p50, failures
 *   tcp ADDRESS PORT N         N connections, ended by the server: p50 of connect(), failures
 *   udp ADDRESS PORT N         N sockets: p50 of connect(), mean of a socket's whole life, failures
 *   send ADDRESS PORT MS       one connection, written to for MS: bytes, nanoseconds
 *   post ADDRESS PORT MS       the same, as the body of a request of HTTP
 *   pages ADDRESS PORT NAME N OCTETS
 *                              N requests of HTTP for a page of OCTETS from NAME, fifty on one connection: p50 of one,
 *                              failures
 *   fresh SERVER SUFFIX FROM N PORT
 *                              N times: look nI.SUFFIX up, connect to its address at once:
 *                              connected, refused, other errors, lookups without an address
 *   spread SEED N              N UDP connects to as many addresses of 198.18.0.0/15: connected, failures
 *   swapped STOP ADDRESS:PORT:ONE:OTHER...
 *                              UDP connects to each of these in turn until the file STOP is there; ONE and OTHER are
 *                              the errnos that two policies end them with, 0 for none: nanoseconds, then for each how
 *                              many ended with one, with the other, with neither
 *   spawn FROM N ADDRESS PORT TIMES
 *                              N processes, one after another, each with its own argv and so many connections:
 *                              those that exited with 0
 *   storm STOP RATE SERVER NAME DENIED ADDRESS PORT DENIED_ADDRESS
 *                              RATE lookups and RATE connects a second, spread evenly, until the file STOP is there;
 *                              of each every sixteenth is one that a policy denies. The other connects are of TCP, to
 *                              ADDRESS:PORT. Lookups: sent, of these denied, allowed without an answer, denied with
 *                              an address; connects: made, of these denied, allowed that failed, denied that did not;
 *                              then nanoseconds
 *   forks N                    N processes that end at once: nanoseconds of one
 *   tool OUTPUT WORD...        run a command with its output in a file: time, exit code
 *   twice ORDER...             two processes do it at once, the second from where the first ends: two lines
 *
 * Started with arguments it is the other side, or one short process:
 *
 *   bench close PORT           accept and close
 *   bench sink PORT            accept, read to the end, close
 *   bench pages PORT           serve pages, of as many octets as their name says, until the client goes
 *   bench some ADDRESS PORT TIMES TAG
 *                              connect so often
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { DNS_PORT = 53, WORDS_MAX = 32 };

extern char **environ;

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static struct sockaddr_in at(const char *address, int port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };

	if (inet_pton(AF_INET, address, &to.sin_addr) != 1)
		die(address);
	return to;
}

static int reach(int fd, const struct sockaddr_in *to)
{
	return connect(fd, (const struct sockaddr *)to, sizeof(*to));
}

static int later(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static uint64_t p50(uint64_t *samples, long n)
{
	qsort(samples, n, sizeof(*samples), later);
	return n ? samples[n / 2] : 0;
}

static const struct timeval patient = { .tv_sec = 2 };

enum { ANSWER_MAX = 512 };

/* Ask for the name's address, as glibc does: a connected socket for each question, which is returned. It has -1 for a question
 * that could not be sent. */
static int ask(const struct sockaddr_in *server, const char *name, uint16_t id, int *length)
{
	unsigned char packet[ANSWER_MAX] = { id >> 8, id, 1, 0, 0, 1 };
	const char *label = name;
	int at = 12, fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	while (*label) {
		int n = strcspn(label, ".");

		packet[at++] = n;
		memcpy(packet + at, label, n);
		at += n;
		label += n + (label[n] == '.');
	}
	packet[at++] = 0;
	memcpy(packet + at, "\0\1\0\1", 4); /* A, IN */
	*length = at + 4;
	if (!reach(fd, server) && send(fd, packet, *length, 0) == *length)
		return fd;
	close(fd);
	return -1;
}

/* The answer to what was asked by `fd`. 0 and the first address in host order, 0 if it has none; -1 if there was no answer. */
static int answer(int fd, int flags, uint16_t id, int length, uint32_t *address)
{
	unsigned char packet[ANSWER_MAX];
	int got = fd < 0 ? -1 : recv(fd, packet, sizeof(packet), flags);

	*address = 0;
	close(fd);
	if (got < length || packet[0] != id >> 8 || packet[1] != (id & 255))
		return -1;
	/* One record, its owner a pointer to the question. */
	if (packet[7] && got >= length + 16)
		*address = (uint32_t)packet[length + 12] << 24 | packet[length + 13] << 16 | packet[length + 14] << 8 |
			   packet[length + 15];
	return 0;
}

static int lookup(const struct sockaddr_in *server, const char *name, uint16_t id, uint32_t *address)
{
	int length, fd = ask(server, name, id, &length);

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patient, sizeof(patient));
	return answer(fd, 0, id, length, address);
}

static void do_lookup(char **word)
{
	struct sockaddr_in server = at(word[1], DNS_PORT);
	long n = atol(word[3]), failures = 0;
	uint64_t *samples = calloc(n, sizeof(*samples));

	for (long i = 0; i < n; i++) {
		uint32_t address;
		uint64_t began = now();

		if (lookup(&server, word[2], i, &address) || !address)
			failures++;
		samples[i] = now() - began;
	}
	printf("%lu %ld\n", p50(samples, n), failures);
	free(samples);
}

static void do_tcp(char **word)
{
	struct sockaddr_in to = at(word[1], atoi(word[2]));
	long n = atol(word[3]), failures = 0;
	uint64_t *samples = calloc(n, sizeof(*samples));
	char byte;

	for (long i = 0; i < n; i++) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		uint64_t began = now();

		if (reach(fd, &to))
			failures++;
		samples[i] = now() - began;
		/* The server closes first: TIME_WAIT, and with it the shortage of ports, is on its side. */
		while (read(fd, &byte, 1) > 0)
			;
		close(fd);
	}
	printf("%lu %ld\n", p50(samples, n), failures);
	free(samples);
}

static void do_udp(char **word)
{
	struct sockaddr_in to = at(word[1], atoi(word[2]));
	long n = atol(word[3]), failures = 0;
	uint64_t *samples = calloc(n, sizeof(*samples)), whole = now();

	for (long i = 0; i < n; i++) {
		int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		uint64_t began = now();

		if (reach(fd, &to))
			failures++;
		samples[i] = now() - began;
		close(fd);
	}
	whole = (now() - whole) / n;
	printf("%lu %lu %ld\n", p50(samples, n), whole, failures);
	free(samples);
}

static void written(char **word, const char *head)
{
	static char block[1 << 17];
	struct sockaddr_in to = at(word[1], atoi(word[2]));
	uint64_t bytes = 0, began, until;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (reach(fd, &to))
		die("connect");
	if (head && write(fd, head, strlen(head)) < 0)
		die("write");
	began = now();
	until = began + atol(word[3]) * 1000000ull;
	while (now() < until) {
		ssize_t n = write(fd, block, sizeof(block));

		if (n < 0)
			die("write");
		bytes += n;
	}
	/* Until the other side has all of it. */
	shutdown(fd, SHUT_WR);
	while (read(fd, block, 1) > 0)
		;
	close(fd);
	printf("%lu %lu\n", bytes, now() - began);
}

static void do_send(char **word)
{
	written(word, 0);
}

static void do_post(char **word)
{
	written(word, "POST / HTTP/1.1\r\nHost: docs.example\r\nContent-Length: 2000000000\r\n\r\n");
}

static void do_fresh(char **word)
{
	struct sockaddr_in server = at(word[1], DNS_PORT), to = at("0.0.0.0", atoi(word[5]));
	long from = atol(word[3]), n = atol(word[4]), connected = 0, refused = 0, other = 0, without = 0;
	char name[256], byte;

	for (long i = from; i < from + n; i++) {
		uint32_t address;
		int fd;

		snprintf(name, sizeof(name), "n%ld.%s", i, word[2]);
		if (lookup(&server, name, i, &address) || !address) {
			without++;
			continue;
		}
		fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		to.sin_addr.s_addr = htonl(address);
		if (!reach(fd, &to))
			connected++;
		else if (errno == ECONNREFUSED || errno == EPERM)
			refused++;
		else
			other++;
		while (read(fd, &byte, 1) > 0)
			;
		close(fd);
	}
	printf("%ld %ld %ld %ld\n", connected, refused, other, without);
}

static void do_spread(char **word)
{
	struct sockaddr_in to = at("198.18.0.0", 9);
	uint32_t base = ntohl(to.sin_addr.s_addr), seed = strtoul(word[1], 0, 10);
	long n = atol(word[2]), connected = 0, failures = 0;

	for (long i = 0; i < n; i++) {
		int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

		to.sin_addr.s_addr = htonl(base + (((uint32_t)i + seed) & 0x1ffff));
		/* More than the 131,072 addresses of the range: the next port. */
		to.sin_port = htons(9 + ((i + seed) >> 17));
		if (reach(fd, &to))
			failures++;
		else
			connected++;
		close(fd);
	}
	printf("%ld %ld\n", connected, failures);
}

static void do_swapped(char **word)
{
	/* Looked for so seldom that it is not what is measured. */
	enum { ROUNDS = 256 };
	struct {
		struct sockaddr_in to;
		int one, other;
		long ended[3];
	} aim[WORDS_MAX];
	uint64_t began = now();
	int aims = 0;

	for (; word[2 + aims]; aims++) {
		char address[16];
		int port;

		if (sscanf(word[2 + aims], "%15[0-9.]:%d:%d:%d", address, &port, &aim[aims].one, &aim[aims].other) != 4)
			die(word[2 + aims]);
		aim[aims].to = at(address, port);
		memset(aim[aims].ended, 0, sizeof(aim[aims].ended));
	}
	do {
		for (int i = 0; i < ROUNDS * aims; i++) {
			int n = i % aims, fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
			int error = reach(fd, &aim[n].to) ? errno : 0;

			aim[n].ended[error == aim[n].one ? 0 : error == aim[n].other ? 1 : 2]++;
			close(fd);
		}
	} while (access(word[1], F_OK));
	printf("%lu", now() - began);
	for (int n = 0; n < aims; n++)
		printf(" %ld %ld %ld", aim[n].ended[0], aim[n].ended[1], aim[n].ended[2]);
	printf("\n");
}

static void do_spawn(char **word)
{
	long from = atol(word[1]), n = atol(word[2]), good = 0;
	char self[4096] = "", tag[32], *argv[] = { self, "some", word[3], word[4], word[5], tag, 0 };

	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		die("/proc/self/exe");
	for (long i = from; i < from + n; i++) {
		int status;
		pid_t pid;

		snprintf(tag, sizeof(tag), "short-%ld", i);
		if (!posix_spawn(&pid, self, 0, 0, argv, environ) && waitpid(pid, &status, 0) == pid && !status)
			good++;
	}
	printf("%ld\n", good);
}

static void do_tool(char **word)
{
	posix_spawn_file_actions_t files;
	uint64_t began;
	int status = -1, error;
	pid_t pid;

	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&files, 1, word[1], O_WRONLY | O_CREAT | O_TRUNC, 0644);
	posix_spawn_file_actions_adddup2(&files, 1, 2);
	began = now();
	error = posix_spawnp(&pid, word[2], &files, 0, word + 2, environ);
	if (!error)
		waitpid(pid, &status, 0);
	printf("%lu %d\n", now() - began,
	       error ? 127 : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
	posix_spawn_file_actions_destroy(&files);
}

static void do_forks(char **word)
{
	long n = atol(word[1]);
	uint64_t began = now();

	for (long i = 0; i < n; i++) {
		pid_t pid = fork();

		if (!pid)
			_exit(0);
		if (pid < 0 || waitpid(pid, 0, 0) != pid)
			die("fork");
	}
	printf("%lu\n", (now() - began) / n);
}

enum { HEAD_MAX = 1024, REQUESTS = 50 };

/* A head, up to its empty line, which is its end: nobody sends more than was asked for. */
static int head(int fd, char *text)
{
	size_t got = 0;

	while (got < HEAD_MAX - 1) {
		ssize_t n = read(fd, text + got, 1);

		if (n <= 0)
			return -1;
		text[++got] = 0;
		if (got >= 4 && !strcmp(text + got - 4, "\r\n\r\n"))
			return 0;
	}
	return -1;
}

/* One request and the whole of its answer. */
static int page(int fd, const char *name, long octets)
{
	static char text[HEAD_MAX], block[1 << 16];
	int length = snprintf(text, sizeof(text), "GET /%ld HTTP/1.1\r\nHost: %s\r\n\r\n", octets, name);

	if (write(fd, text, length) != length || head(fd, text) || strncmp(text, "HTTP/1.1 200 ", 13))
		return -1;
	while (octets > 0) {
		ssize_t n = read(fd, block, octets < (long)sizeof(block) ? octets : (long)sizeof(block));

		if (n <= 0)
			return -1;
		octets -= n;
	}
	return 0;
}

static void do_pages(char **word)
{
	struct sockaddr_in to = at(word[1], atoi(word[2]));
	long n = atol(word[4]), octets = atol(word[5]), failures = 0;
	uint64_t *samples = calloc(n, sizeof(*samples));
	int fd = -1;

	for (long i = 0; i < n; i++) {
		uint64_t began;

		if (i % REQUESTS == 0 || fd < 0) {
			close(fd);
			fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
			setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patient, sizeof(patient));
			if (reach(fd, &to)) {
				close(fd);
				fd = -1;
				failures++;
				continue;
			}
		}
		began = now();
		if (page(fd, word[3], octets)) {
			close(fd);
			fd = -1;
			failures++;
		}
		samples[i] = now() - began;
	}
	close(fd);
	printf("%lu %ld\n", p50(samples, n), failures);
	free(samples);
}

/* A process for each connection: they stay. */
static _Noreturn void serve_pages(int port)
{
	static char text[HEAD_MAX], block[1 << 16];
	struct sockaddr_in here = at("0.0.0.0", port);
	int yes = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	signal(SIGCHLD, SIG_IGN);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	if (bind(listener, (struct sockaddr *)&here, sizeof(here)) || listen(listener, 4096))
		die("listen");
	for (;;) {
		int fd = accept(listener, 0, 0);

		if (fd < 0 || fork()) {
			close(fd);
			continue;
		}
		close(listener);
		while (!head(fd, text)) {
			long octets = atol(text + strlen("GET /"));
			int length = snprintf(text, sizeof(text), "HTTP/1.1 200 OK\r\nContent-Length: %ld\r\n\r\n", octets);

			if (write(fd, text, length) != length)
				_exit(0);
			while (octets > 0) {
				ssize_t n = write(fd, block, octets < (long)sizeof(block) ? octets : (long)sizeof(block));

				if (n <= 0)
					_exit(0);
				octets -= n;
			}
		}
		_exit(0);
	}
}

/* One connection, read to its end. 0, or the errno. */
static int connects(const struct sockaddr_in *to)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), failed = reach(fd, to) ? errno : 0;
	char byte;

	while (!failed && read(fd, &byte, 1) > 0)
		;
	close(fd);
	return failed;
}

static void do_storm(char **word)
{
	enum { TRIES = 5 };
	struct sockaddr_in server = at(word[3], DNS_PORT), to = at(word[6], atoi(word[7])), denied = at(word[8], 9);
	uint64_t between = 1000000000ull / strtoul(word[2], 0, 10), began = now();
	long sent = 0, sent_denied = 0, unanswered = 0, leaked = 0;
	long made = 0, made_denied = 0, failed = 0, passed = 0;
	/* A denied lookup has its answer from the supervisor, if that lives, else none: so it is looked for when the next is
	 * asked, and holds up nothing. */
	int open = -1, length = 0;
	uint16_t asked = 0;
	uint32_t address = 0;

	for (long i = 0; i % 64 || access(word[1], F_OK); i++) {
		uint64_t due = began + i * between, early = now();

		/* Behind its time after a wait it makes up for it. */
		if (due > early + 100000)
			nanosleep(&(struct timespec){ .tv_nsec = due - early }, 0);
		made++;
		if (i % 16) {
			int tries = 0;

			do
				sent++;
			while (lookup(&server, word[4], i, &address) && ++tries < TRIES);
			unanswered += !address;
			failed += connects(&to) != 0;
			continue;
		}
		sent++;
		sent_denied++;
		made_denied++;
		leaked += !answer(open, MSG_DONTWAIT, asked, length, &address) && address;
		asked = i;
		open = ask(&server, word[5], asked, &length);
		passed += connects(&denied) != ECONNREFUSED;
	}
	nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, 0);
	leaked += !answer(open, MSG_DONTWAIT, asked, length, &address) && address;
	printf("%ld %ld %ld %ld %ld %ld %ld %ld %lu\n", sent, sent_denied, unanswered, leaked, made, made_denied, failed,
	       passed, now() - began);
}

static int some(char **word)
{
	struct sockaddr_in to = at(word[2], atoi(word[3]));

	for (long n = atol(word[4]); n > 0; n--)
		if (connects(&to))
			return 1;
	return 0;
}

static _Noreturn void serve(int port, int to_the_end)
{
	static char block[1 << 18];
	struct sockaddr_in here = at("0.0.0.0", port);
	int yes = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	if (bind(listener, (struct sockaddr *)&here, sizeof(here)) || listen(listener, 4096))
		die("listen");
	for (;;) {
		int fd = accept(listener, 0, 0);

		while (to_the_end && read(fd, block, sizeof(block)) > 0)
			;
		close(fd);
	}
}

static const struct order {
	const char *name;
	void (*obey)(char **word);
	int words;
	int from; /* the word that says where to begin, followed by how many; 0: there is none */
} orders[] = {
	{ "lookup", do_lookup, 4, 0 }, { "tcp", do_tcp, 4, 0 },       { "udp", do_udp, 4, 0 },
	{ "send", do_send, 4, 0 },     { "fresh", do_fresh, 6, 3 },   { "spread", do_spread, 3, 1 },
	{ "spawn", do_spawn, 6, 1 },   { "tool", do_tool, 3, 0 },     { "swapped", do_swapped, 3, 0 },
	{ "storm", do_storm, 9, 0 },   { "forks", do_forks, 2, 0 },
	{ "pages", do_pages, 6, 0 },   { "post", do_post, 4, 0 },
};

static const struct order *understood(char **word, int n)
{
	for (size_t i = 0; i < sizeof(orders) / sizeof(*orders); i++)
		if (n >= orders[i].words && !strcmp(word[0], orders[i].name))
			return &orders[i];
	return 0;
}

static void do_twice(const struct order *order, char **word)
{
	for (int copy = 0; copy < 2; copy++) {
		char from[32];

		if (fork())
			continue;
		if (order->from && copy) {
			snprintf(from, sizeof(from), "%ld", atol(word[order->from]) + atol(word[order->from + 1]));
			word[order->from] = from;
		}
		order->obey(word);
		fflush(stdout);
		_exit(0);
	}
	while (wait(0) > 0)
		;
}

int main(int argc, char **argv)
{
	char *line = 0;
	size_t size = 0;

	signal(SIGPIPE, SIG_IGN);
	if (argc == 3 && !strcmp(argv[1], "close"))
		serve(atoi(argv[2]), 0);
	if (argc == 3 && !strcmp(argv[1], "sink"))
		serve(atoi(argv[2]), 1);
	if (argc == 3 && !strcmp(argv[1], "pages"))
		serve_pages(atoi(argv[2]));
	if (argc == 6 && !strcmp(argv[1], "some"))
		return some(argv);
	setvbuf(stdout, 0, _IOLBF, 0);
	while (getline(&line, &size, stdin) > 0) {
		char *word[WORDS_MAX + 1] = { 0 };
		const struct order *order;
		int n = 0, twice;

		for (char *next = strtok(line, " \n"); next && n < WORDS_MAX; next = strtok(0, " \n"))
			word[n++] = next;
		twice = n && !strcmp(word[0], "twice");
		order = n ? understood(word + twice, n - twice) : 0;
		if (!order)
			printf("what?\n");
		else if (twice)
			do_twice(order, word + 1);
		else
			order->obey(word);
	}
	return 0;
}
