/*
 * Where routes lead. A datagram socket that is connected sends nothing: it tells whether there is a route, and the
 * table tells through which next hop; whether that is there was tried before.
 */
#include "net.h"
#include "probe.h"

#define SIZE(of) (sizeof of / sizeof *of)
#define GET_INDEX 0x8933
#define SET_ADDRESS 0x8916

struct address6 {
    uint16_t family, port;
    uint32_t flow;
    uint8_t address[16];
    uint32_t scope;
};

struct route {
    uint32_t to, hop, mask; /* in network order */
};

static uint32_t hexadecimal(const char *text)
{
    uint32_t value = 0;

    for (; *text; text++)
        value = value << 4 | (uint32_t)(*text <= '9' ? *text - '0' : (*text | 32) - 'a' + 10);
    return value;
}

/* /proc/net/route: interface, destination, gateway, flags, references, uses, metric, mask ... */
static long read_routes(struct route *routes, long most)
{
    static char table[16384];
    char *rest = table, *line;
    long count = 0;

    read_file("/proc/net/route", table, sizeof table);
    cut(&rest, '\n');
    while (count < most && (line = cut(&rest, '\n')) != NULL) {
        char *fields[8];

        for (int i = 0; i < 8; i++)
            fields[i] = cut(&line, '\t');
        if (fields[7] != NULL)
            routes[count++] = (struct route){hexadecimal(fields[1]), hexadecimal(fields[2]), hexadecimal(fields[7])};
    }
    return count;
}

/* The next hop for an address: that of the longest prefix; 0 if it is on a network of the sandbox's own. */
static uint32_t hop_for(uint32_t address)
{
    struct route routes[32], best = {0, 0, 0};
    long count = read_routes(routes, SIZE(routes));
    int found = 0;

    for (long i = 0; i < count; i++)
        if ((address & routes[i].mask) == routes[i].to && (!found || swap32(routes[i].mask) > swap32(best.mask))) {
            best = routes[i];
            found = 1;
        }
    return found ? best.hop : 0;
}

long next_hops(uint32_t *hops, long most)
{
    struct route routes[32];
    long count = read_routes(routes, SIZE(routes)), found = 0;

    for (long i = 0; i < count && found < most; i++)
        if (routes[i].hop != 0)
            hops[found++] = routes[i].hop;
    return found;
}

/* What a packet would meet: no route, a next hop that is not there, or nothing that stops it here. */
static long route4(const char *address)
{
    struct address4 to = {IPV4, swap16(53), 0, {0}};
    long fd = CALL(__NR_socket, IPV4, DATAGRAM | CLOSE_ON_EXEC, 0), result, hop;

    parse_address(address, &to.address);
    result = fd < 0 ? fd : CALL(__NR_connect, fd, &to, sizeof to);
    if (fd >= 0)
        close_fd(fd);
    hop = result == 0 ? hop_result(hop_for(to.address)) : NOT_RUN;
    return hop == -E_HOSTUNREACH ? hop : result;
}

static long route6(const uint8_t *address)
{
    struct address6 to = {IPV6, swap16(53), 0, {0}, 0};
    long fd = CALL(__NR_socket, IPV6, DATAGRAM | CLOSE_ON_EXEC, 0), result;

    memcpy(to.address, address, 16);
    result = fd < 0 ? fd : CALL(__NR_connect, fd, &to, sizeof to);
    if (fd >= 0)
        close_fd(fd);
    return result;
}

/* The weak sandbox gives itself an address of which everything is a neighbour, to show that a route would be seen. */
static void make_route6(void)
{
    struct { uint8_t address[16]; uint32_t prefix; int index; } added = {{0xfd, 0, 0xda, 0x7a, [15] = 1}, 1, 0};
    struct { char name[16]; int index; char rest[20]; } asked = {"lo", 0, {0}};
    long file = open_at("/proc/sys/net/ipv6/conf/lo/disable_ipv6", WRITE_ONLY, 0);
    long fd = CALL(__NR_socket, IPV6, DATAGRAM | CLOSE_ON_EXEC, 0);

    if (file >= 0) {
        CALL(__NR_write, file, "0", 1);
        close_fd(file);
    }
    if (CALL(__NR_ioctl, fd, GET_INDEX, &asked) == 0) {
        added.index = asked.index;
        CALL(__NR_ioctl, fd, SET_ADDRESS, &added);
        added.address[0] = 0x20;
        CALL(__NR_ioctl, fd, SET_ADDRESS, &added);
    }
    close_fd(fd);
}

static void say_routes6(void)
{
    static const struct { const char *name; uint8_t address[16]; } six[] = {
        {"public", {0x26, 0x06, 0x47, 0x00, 0x47, 0x00, [14] = 0x11, [15] = 0x11}},
        {"documentation", {0x20, 0x01, 0x0d, 0xb8, [15] = 1}},
        {"metadata", {0xfd, 0x00, 0x0e, 0xc2, [14] = 0x02, [15] = 0x54}},
        {"private", {0xfd, 0x12, 0x34, 0x56, [15] = 1}},
    };

    if (is_weak())
        make_route6();
    say("routes6");
    for (size_t i = 0; i < SIZE(six); i++)
        field_result(six[i].name, route6(six[i].address));
    done();
}

void probe_routes(void)
{
    static const char *const four[] = {"1.1.1.1", "8.8.8.8", "192.0.2.1", "198.51.100.1", "203.0.113.1"};
    static const char *const inner[] = {"169.254.169.254", "169.254.170.2", "100.100.100.200", "192.0.0.192"};
    static const char *const private[] = {"10.255.255.254", "172.31.255.254", "192.168.255.254", "100.64.0.1"};

    say("routes");
    for (size_t i = 0; i < SIZE(four); i++)
        field_result(four[i], route4(four[i]));
    done();
    say("metadata");
    for (size_t i = 0; i < SIZE(inner); i++)
        field_result(inner[i], route4(inner[i]));
    done();
    say("private");
    for (size_t i = 0; i < SIZE(private); i++)
        field_result(private[i], route4(private[i]));
    done();
    say_routes6();
}
