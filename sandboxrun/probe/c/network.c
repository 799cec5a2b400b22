/* What the network reaches. A datagram socket that is connected sends nothing: it tells whether there is a route. */
#include "net.h"
#include "probe.h"

#define SIZE(of) (sizeof of / sizeof *of)
#define GET_CONFIGURATION 0x8912
#define GET_MASK 0x891b
#define GET_INDEX 0x8933
#define SET_ADDRESS 0x8916

struct interface {
    char name[16];
    struct address4 address;
    char rest[8];
};

struct address6 {
    uint16_t family, port;
    uint32_t flow;
    uint8_t address[16];
    uint32_t scope;
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

static long route4(const char *address)
{
    struct address4 to = {IPV4, swap16(53), 0, {0}};
    long fd = CALL(__NR_socket, IPV4, DATAGRAM | CLOSE_ON_EXEC, 0), result;

    parse_address(address, &to.address);
    result = fd < 0 ? fd : CALL(__NR_connect, fd, &to, sizeof to);
    if (fd >= 0)
        close_fd(fd);
    return result;
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

static struct target targets[MOST_TARGETS];
static long target_count;

static void add(uint32_t address, uint16_t port)
{
    if (target_count == MOST_TARGETS)
        return;
    for (long i = 0; i < target_count; i++)
        if (targets[i].address == address && targets[i].port == port)
            return;
    targets[target_count] = (struct target){address, port, -1, NOT_RUN};
    begin_connect(&targets[target_count++]);
}

static void add_host(uint32_t address)
{
    static const uint16_t ports[] = {1, 22, 80, 2375};

    for (size_t i = 0; i < SIZE(ports); i++)
        add(address, ports[i]);
}

/* What answers, and be it with a refusal, is there. */
static void say_targets(const char *name)
{
    finish_connects(targets, target_count, now_ms() + 1500);
    say(name);
    for (long i = 0; i < target_count; i++) {
        char key[32];
        struct target *one = &targets[i];

        show_address(one->address, key);
        join(key, sizeof key, key, one->port == 1 ? ".1" : one->port == 22 ? ".22" : one->port == 80 ? ".80" : ".2375");
        field_result(key, one->result);
        if (one->fd >= 0)
            close_fd(one->fd);
    }
    done();
    target_count = 0;
}

static int is_own(uint32_t address, long count)
{
    const char *proxy = gateway_told();
    uint32_t gateway;

    for (long i = 0; i < count; i++)
        if (interfaces[i].address.address == address)
            return 1;
    return proxy != NULL && parse_address(proxy, &gateway) && gateway == address;
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
    say_targets("hosts");
}

static void reach_neighbours(long count)
{
    const char *value;
    uint32_t address;

    for (int at = 1; (value = told_next("neighbour", &at)) != NULL;)
        if (parse_address(value, &address))
            add(address, 1);
    for (long i = 0; i < count; i++) {
        uint32_t own = interfaces[i].address.address, mask = mask_of(&interfaces[i]);

        if ((swap32(own) >> 24) == 127)
            continue;
        for (uint32_t host = 2; host < 15 && (swap32(host) & ~mask) == swap32(host); host++) {
            address = (own & mask) | swap32(host);
            if (!is_own(address, count) && address != ((own & mask) | ~mask))
                add(address, 1);
        }
    }
    say_targets("neighbours");
}

void probe_reach(void)
{
    long count = find_interfaces();

    say("interfaces");
    for (long i = 0; i < count; i++) {
        char shown[16];

        show_address(interfaces[i].address.address, shown);
        field(interfaces[i].name, shown);
    }
    done();
    reach_hosts(count);
    reach_neighbours(count);
}
