/* Prints every address that getaddrinfo(3) finds for the name in argv[1], one per line; exit 2 when there is none. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };
	struct addrinfo *found, *entry;
	char text[INET6_ADDRSTRLEN];

	if (argc != 2)
		return 1;
	int error = getaddrinfo(argv[1], NULL, &hints, &found);
	if (error) {
		fprintf(stderr, "%s: %s\n", argv[1], gai_strerror(error));
		return 2;
	}
	for (entry = found; entry; entry = entry->ai_next) {
		const void *address = entry->ai_family == AF_INET6
			? (const void *)&((struct sockaddr_in6 *)entry->ai_addr)->sin6_addr
			: (const void *)&((struct sockaddr_in *)entry->ai_addr)->sin_addr;
		if (inet_ntop(entry->ai_family, address, text, sizeof(text)))
			puts(text);
	}
	freeaddrinfo(found);
	return 0;
}
