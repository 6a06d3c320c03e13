/* Prints every address that c-ares finds for the name in argv[1], one per line; exit 2 when there is none. */
#include <ares.h>
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/select.h>

static int status = ARES_ENODATA;

static void found(void *argument, int result, int timeouts, struct ares_addrinfo *answer)
{
	char text[INET6_ADDRSTRLEN];

	(void)argument;
	(void)timeouts;
	status = result;
	if (result != ARES_SUCCESS)
		return;
	for (struct ares_addrinfo_node *node = answer->nodes; node; node = node->ai_next) {
		const void *address = node->ai_family == AF_INET6
			? (const void *)&((struct sockaddr_in6 *)node->ai_addr)->sin6_addr
			: (const void *)&((struct sockaddr_in *)node->ai_addr)->sin_addr;
		if (inet_ntop(node->ai_family, address, text, sizeof(text)))
			puts(text);
	}
	ares_freeaddrinfo(answer);
}

int main(int argc, char **argv)
{
	struct ares_addrinfo_hints hints = { .ai_family = AF_UNSPEC };
	ares_channel channel;

	if (argc != 2 || ares_library_init(ARES_LIB_INIT_ALL) || ares_init(&channel))
		return 1;
	ares_getaddrinfo(channel, argv[1], NULL, &hints, found, NULL);
	for (;;) {
		fd_set readers, writers;
		struct timeval wait;

		FD_ZERO(&readers);
		FD_ZERO(&writers);
		int count = ares_fds(channel, &readers, &writers);
		if (count == 0)
			break;
		select(count, &readers, &writers, NULL, ares_timeout(channel, NULL, &wait));
		ares_process(channel, &readers, &writers);
	}
	ares_destroy(channel);
	ares_library_cleanup();
	if (status != ARES_SUCCESS) {
		fprintf(stderr, "%s: %s\n", argv[1], ares_strerror(status));
		return 2;
	}
	return 0;
}
