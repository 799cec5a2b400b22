/* Sockets: addresses, and many connections side by side. */
#ifndef NET_H
#define NET_H

#include "text.h"

#define IPV4 2
#define IPV6 10
#define STREAM 1
#define DATAGRAM 2
#define NON_BLOCKING 04000
#define POLL_IN 1
#define POLL_OUT 4
#define MOST_TARGETS 96

struct address4 {
    uint16_t family, port; /* the port in network order */
    uint32_t address;      /* in network order */
    char zero[8];
};

struct poll_fd {
    int fd;
    short events, got;
};

struct target {
    uint32_t address; /* in network order */
    uint16_t port;
    int fd, kind; /* the kind is the caller's */
    long result; /* 0: connected; -errno; TIMED_OUT */
};

uint16_t swap16(uint16_t value);
uint32_t swap32(uint32_t value);
int parse_address(const char *text, uint32_t *address); /* 1 if it is one; what follows it is not looked at */
void show_address(uint32_t address, char *into);        /* 16 bytes */

/* Begins to connect without waiting: fd and result of the target are set. */
void begin_connect(struct target *target);
/* The next hops of the routing table, and what was met at one of them when it was tried. */
long next_hops(uint32_t *hops, long most);
long hop_result(uint32_t address);
/* Waits for all until the deadline of now_ms(). */
void finish_connects(struct target *targets, long count, long deadline);

#endif
