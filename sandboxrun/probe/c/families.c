/* Families of sockets that are to be refused. */
#include "probe.h"

#define SIZE(of) (sizeof of / sizeof *of)
#define RAW 3
#define DATAGRAM 2
#define STREAM 1
#define SEQUENCED 5

struct kind {
    const char *name;
    int family, type, protocol;
};

static long open_socket(const void *with)
{
    const struct kind *kind = with;

    return CALL(__NR_socket, kind->family, kind->type, kind->protocol);
}

static long pair(const void *with)
{
    const struct kind *kind = with;
    int ends[2];

    return CALL(__NR_socketpair, kind->family, kind->type, kind->protocol, ends);
}

void probe_families(void)
{
    static const struct kind kinds[] = {
        {"vsock", 40, STREAM, 0}, {"alg", 38, SEQUENCED, 0}, {"packet", 17, RAW, 0x0300}, {"key", 15, RAW, 2},
        {"xdp", 44, RAW, 0}, {"raw", 2, RAW, 1}, {"raw6", 10, RAW, 58}, {"netlink.diag", 16, RAW, 4},
        {"netlink.xfrm", 16, RAW, 6}, {"netlink.audit", 16, RAW, 9}, {"netlink.connector", 16, RAW, 11},
        {"netlink.netfilter", 16, RAW, 12}, {"netlink.uevent", 16, RAW, 15}, {"netlink.generic", 16, RAW, 16},
        {"netlink.crypto", 16, RAW, 21}, {"netlink.route", 16, RAW, 0}, {"mptcp", 2, STREAM, 262},
        {"ping", 2, DATAGRAM, 1}, {"inet", 2, STREAM, 0},
        {"inet6", 10, STREAM, 0}, {"unix", 1, STREAM, 0},
    };
    static const struct kind pairs = {"unix", 1, STREAM, 0};

    say("families");
    for (size_t i = 0; i < SIZE(kinds); i++)
        field_result(kinds[i].name, attempt(open_socket, &kinds[i], 1000));
    field_result("unix.pair", attempt(pair, &pairs, 1000));
    done();
}
