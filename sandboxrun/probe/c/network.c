/* Who answers on the networks that the sandbox is on: the host, neighbours, and the next hops of its routes. */
#include "net.h"
#include "probe.h"

#define SIZE(of) (sizeof of / sizeof *of)
#define GET_CONFIGURATION 0x8912
#define GET_MASK 0x891b

struct interface {
    char name[16];
    struct address4 address;
    char rest[8];
};

static struct interface interfaces[16];

static long find_interfaces(void)
{
    struct { int size; struct interface *list; } all = {sizeof interfaces, interfaces};
    long fd = CALL(__NR_socket, IPV4, DATAGRAM | CLOSE_ON_EXEC, 0), failed;

    failed = fd < 0 ? fd : CALL(__NR_ioctl, fd, GET_CONFIGURATION, &all);
    if (fd >= 0)
        close_fd(fd);
    return failed < 0 ? 0 : all.size / (long)sizeof *interfaces;
}

static uint32_t mask_of(const struct interface *one)
{
    struct interface asked = *one;
    long fd = CALL(__NR_socket, IPV4, DATAGRAM | CLOSE_ON_EXEC, 0);
    long failed = CALL(__NR_ioctl, fd, GET_MASK, &asked);

    close_fd(fd);
    return failed < 0 ? 0xffffffff : asked.address.address;
}

enum { HOST, NEIGHBOUR, HOP };

static struct target targets[MOST_TARGETS];
static long target_count;

static void add(int kind, uint32_t address, uint16_t port)
{
    if (target_count == MOST_TARGETS)
        return;
    for (long i = 0; i < target_count; i++)
        if (targets[i].address == address && targets[i].port == port && targets[i].kind == kind)
            return;
    targets[target_count] = (struct target){address, port, -1, kind, NOT_RUN};
    begin_connect(&targets[target_count++]);
}

static void add_host(uint32_t address)
{
    static const uint16_t ports[] = {1, 22, 80, 2375};

    for (size_t i = 0; i < SIZE(ports); i++)
        add(HOST, address, ports[i]);
}

/* What answers, and be it with a refusal, is there. */
static void say_targets(const char *name, int kind)
{
    say(name);
    for (long i = 0; i < target_count; i++) {
        char key[32];
        struct target *one = &targets[i];

        if (one->kind != kind)
            continue;
        show_address(one->address, key);
        join(key, sizeof key, key, one->port == 1 ? ".1" : one->port == 22 ? ".22" : one->port == 80 ? ".80" : ".2375");
        field_result(key, one->result);
    }
    done();
}

static int is_own(uint32_t address, long count)
{
    const char *gateway = told("gateway");
    uint32_t its;

    for (long i = 0; i < count; i++)
        if (interfaces[i].address.address == address)
            return 1;
    return gateway != NULL && parse_address(gateway, &its) && its == address;
}

static void reach_hosts(long count)
{
    const char *value;
    uint32_t address;

    for (int at = 1; (value = told_next("host", &at)) != NULL;)
        if (parse_address(value, &address))
            add_host(address);
    for (long i = 0; i < count; i++) { /* the first address of a subnet is the bridge's, that is the host's */
        uint32_t own = interfaces[i].address.address, first = (own & mask_of(&interfaces[i])) | swap32(1);

        if ((swap32(own) >> 24) != 127 && !is_own(first, count))
            add_host(first);
    }
}

static void reach_neighbours(long count)
{
    const char *value;
    uint32_t address;

    for (int at = 1; (value = told_next("neighbour", &at)) != NULL;)
        if (parse_address(value, &address))
            add(NEIGHBOUR, address, 1);
    for (long i = 0; i < count; i++) {
        uint32_t own = interfaces[i].address.address, mask = mask_of(&interfaces[i]);

        if ((swap32(own) >> 24) == 127)
            continue;
        for (uint32_t host = 2; host < 15 && (swap32(host) & ~mask) == swap32(host); host++) {
            address = (own & mask) | swap32(host);
            if (!is_own(address, count) && address != ((own & mask) | ~mask))
                add(NEIGHBOUR, address, 1);
        }
    }
}

/* The next hops of all routes that have one: where none answers, a route leads nowhere. */
static void reach_hops(void)
{
    uint32_t hops[8];
    long count = next_hops(hops, SIZE(hops));

    for (long i = 0; i < count; i++)
        add(HOP, hops[i], 1);
}

long hop_result(uint32_t address)
{
    for (long i = 0; i < target_count; i++)
        if (targets[i].kind == HOP && targets[i].address == address)
            return targets[i].result;
    return NOT_RUN;
}

/* A line of /proc/net/arp: address, kind (0x1), flags: 0x0 while no hardware's address is known. */
static int is_resolved(const char *line)
{
    const char *kind = find(line, "0x");
    const char *flags = kind == NULL ? NULL : find(kind + 2, "0x");

    return flags != NULL && flags[2] != '0';
}

/* A hop that has not answered: while nobody told its hardware's address, nothing can be sent through it. */
static void settle_hops(long deadline)
{
    static char table[8192];

    read_file("/proc/net/arp", table, sizeof table);
    for (long i = 0; i < target_count; i++) {
        struct target *one = &targets[i];
        char shown[24];
        const char *line;

        if (one->kind != HOP || one->result != TIMED_OUT)
            continue;
        show_address(one->address, shown);
        join(shown, sizeof shown, shown, " ");
        line = find(table, shown);
        if (line == NULL) {
            one->result = -E_INPROGRESS;
            finish_connects(one, 1, deadline);
        } else if (!is_resolved(line)) {
            one->result = -E_HOSTUNREACH;
        }
    }
}

void probe_reach(void)
{
    long count = find_interfaces(), begun = now_ms();

    say("interfaces");
    for (long i = 0; i < count; i++) {
        char shown[16];

        show_address(interfaces[i].address.address, shown);
        field(interfaces[i].name, shown);
    }
    done();
    reach_hosts(count);
    reach_neighbours(count);
    reach_hops();
    finish_connects(targets, target_count, begun + 1500);
    settle_hops(begun + 3600);
    say_targets("hosts", HOST);
    say_targets("neighbours", NEIGHBOUR);
    say_targets("hops", HOP);
    for (long i = 0; i < target_count; i++)
        if (targets[i].fd >= 0)
            close_fd(targets[i].fd);
}
