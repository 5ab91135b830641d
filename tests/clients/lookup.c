// Looks a name up with the libc that it is linked with, and prints its addresses: a static musl client.
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found, *each;
	char text[INET6_ADDRSTRLEN];
	int code;

	if (argc != 2)
		return 2;
	code = getaddrinfo(argv[1], NULL, &hints, &found);
	if (code) {
		printf("%s\n", gai_strerror(code));
		return 1;
	}
	for (each = found; each; each = each->ai_next) {
		const void *address = each->ai_family == AF_INET
			? (void *)&((struct sockaddr_in *)each->ai_addr)->sin_addr
			: (void *)&((struct sockaddr_in6 *)each->ai_addr)->sin6_addr;
		printf("%s\n", inet_ntop(each->ai_family, address, text, sizeof text));
	}
	freeaddrinfo(found);
	return 0;
}
