/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * ktls WAY ADDRESS PORT NAME: say whom a connection is for, where the kernel encrypts what is sent.
 *
 *   ulp         an HTTP request, once the kernel was told that TLS is to be spoken, and not yet with which keys
 *   keys        the same, with keys of its own: what leaves is encrypted
 *   keys-file   the same, sent from a file by sendfile
 *   keys-hello  a hello instead of the request
 *   hello-keys  a hello as it is, and a request behind it with keys
 *
 * Prints `said`, or what failed. The keys are anybody's: whoever is in league with the server has no need of a handshake.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

/* From linux/tcp.h and linux/tls.h. */
enum { SOL_TCP_ = 6, TCP_ULP_ = 31, SOL_TLS_ = 282, TLS_TX_ = 1, TLS_1_3 = 0x0304, AES_GCM_128 = 51 };

struct keys {
	unsigned short version, cipher;
	unsigned char iv[8], key[16], salt[4], sequence[8];
};

static int failed(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	return 1;
}

static int ulp(int sock)
{
	return setsockopt(sock, SOL_TCP_, TCP_ULP_, "tls", sizeof("tls"));
}

static int keys(int sock)
{
	struct keys keys = { .version = TLS_1_3, .cipher = AES_GCM_128, .key = "nobody's secret" };

	return setsockopt(sock, SOL_TLS_, TLS_TX_, &keys, sizeof(keys));
}

static unsigned char text[512];

/* A ClientHello with nothing but a server name (RFC 8446, 4.1.2; RFC 6066, 3). */
static int hello(const char *name)
{
	int n = strlen(name), at = 0;
	unsigned char head[] = { 22, 3, 1, 0, 54 + n, 1, 0, 0, 50 + n, 3, 3 };
	unsigned char middle[] = { 0, 0, 2, 0x13, 1, 1, 0, 0, n + 9, 0, 0, 0, n + 5, 0, n + 3, 0, 0, n };

	memcpy(text, head, sizeof(head));
	at = sizeof(head) + 32;
	memcpy(text + at, middle, sizeof(middle));
	at += sizeof(middle);
	memcpy(text + at, name, n);
	at += n;
	text[4] = at - 5;
	text[8] = at - 9;
	return at;
}

static int request(const char *name)
{
	return snprintf((char *)text, sizeof(text), "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", name);
}

/* From a file, so that the kernel takes it from there. */
static int say_file(int sock, int length)
{
	FILE *file = tmpfile();

	if (!file || fwrite(text, 1, length, file) != (size_t)length || fflush(file))
		return -1;
	return sendfile(sock, fileno(file), &(off_t){ 0 }, length) == length ? 0 : -1;
}

static int say(int sock, int length)
{
	return send(sock, text, length, MSG_NOSIGNAL) == length ? 0 : -1;
}

int main(int argc, char **argv)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	int sock = socket(AF_INET, SOCK_STREAM, 0);
	const char *way, *name;

	if (argc != 5)
		return 2;
	way = argv[1];
	name = argv[4];
	to.sin_port = htons(atoi(argv[3]));
	inet_pton(AF_INET, argv[2], &to.sin_addr);
	if (connect(sock, (struct sockaddr *)&to, sizeof(to)))
		return failed("connect");
	if (!strcmp(way, "hello-keys")) {
		if (say(sock, hello(name)))
			return failed("hello");
	}
	if (ulp(sock)) {
		if (errno == ENOENT) {
			printf("no ULP of that name\n");
			return 1;
		}
		return failed("ULP");
	}
	if (strcmp(way, "ulp") && keys(sock))
		return failed("keys");
	if (!strcmp(way, "keys-file") ? say_file(sock, request(name))
	    : say(sock, strcmp(way, "keys-hello") ? request(name) : hello(name)))
		return failed("request");
	printf("said\n");
	return 0;
}
