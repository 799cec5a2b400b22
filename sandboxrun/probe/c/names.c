/* Whether a name server answers for the outside. */
#include "net.h"
#include "probe.h"

static const char query[] = "\x53\x42\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
                            "\x07" "example\x03" "com\x00\x00\x01\x00\x01";

/* The weak sandbox answers itself behind the engine's resolver: to show that an answer would be seen. */
static long listen_here(void)
{
    struct address4 here = {IPV4, swap16(53), 0, {0}};
    long fd = CALL(__NR_socket, IPV4, DATAGRAM, 0);

    parse_address("127.0.0.1", &here.address);
    CALL(__NR_bind, fd, &here, sizeof here);
    return fd;
}

static _Noreturn void answer(long fd)
{
    static const char record[] = "\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x01\x00\x04\xc0\x00\x02\x35"; /* 192.0.2.53 */
    struct address4 from;
    char packet[600];

    CALL(__NR_prctl, 1, SIG_KILL); /* it does not outlive the program */
    for (;;) {
        int size = sizeof from;
        long got = CALL(__NR_recvfrom, fd, packet, 500, 0, &from, &size), end = 12;

        while (end < got && packet[end])
            end += packet[end] + 1;
        end += 5;
        if (got < 17 || end > got)
            continue;
        packet[2] = (char)0x81, packet[3] = (char)0x80, packet[7] = 1;
        packet[8] = packet[9] = packet[10] = packet[11] = 0;
        memcpy(packet + end, record, sizeof record - 1);
        CALL(__NR_sendto, fd, packet, end + (long)sizeof record - 1, 0, &from, sizeof from);
    }
}

static long start_answering(void)
{
    long fd = listen_here(), child = fork_child();

    if (child == 0)
        answer(fd);
    close_fd(fd);
    return child;
}

struct server {
    char name[16], address[16]; /* the one in its answer's last record */
    int fd;
    long sent, got, answers, code;
};

static void ask(struct server *server, const char *address)
{
    struct address4 to = {IPV4, swap16(53), 0, {0}};

    copy(server->name, sizeof server->name, address);
    parse_address(address, &to.address);
    server->got = server->answers = server->code = -1;
    server->fd = (int)CALL(__NR_socket, IPV4, DATAGRAM | CLOSE_ON_EXEC, 0);
    server->sent = CALL(__NR_connect, server->fd, &to, sizeof to);
    if (server->sent == 0)
        server->sent = CALL(__NR_sendto, server->fd, query, sizeof query - 1, 0x4000, NULL, 0);
}

static void hear(struct server *server, long deadline)
{
    char packet[600];
    long left = deadline - now_ms();

    if (server->sent < 0 || !poll_one(server->fd, POLL_IN, left > 0 ? left : 0))
        return;
    server->got = CALL(__NR_recvfrom, server->fd, packet, sizeof packet, 0x40, NULL, NULL);
    if (server->got < 12)
        return;
    server->code = packet[3] & 15;
    server->answers = packet[6] << 8 | (unsigned char)packet[7];
    if (server->answers > 0 && server->got >= 16) {
        uint32_t address;

        memcpy(&address, packet + server->got - 4, 4);
        show_address(address, server->address);
    }
}

static void say_server(const struct server *server, long index)
{
    say_numbered("resolver", index);
    field("server", server->name);
    field_result("sent", server->sent);
    field_result("got", server->got == -1 ? TIMED_OUT : server->got);
    field_number("code", server->code);
    field_number("answers", server->answers);
    field("address", server->address);
    done();
    close_fd(server->fd);
}

static long ask_all(struct server *servers, long most)
{
    static char content[8192];
    char *rest = content, *line;
    long count = 0;

    ask(&servers[count++], "127.0.0.11"); /* the engine's own resolver */
    ask(&servers[count++], "127.0.0.1");
    read_file("/etc/resolv.conf", content, sizeof content);
    while ((line = cut(&rest, '\n')) != NULL && count < most) {
        uint32_t address;

        if (!begins(line, "nameserver"))
            continue;
        for (line += 10; *line == ' ' || *line == '\t'; line++)
            ;
        if (parse_address(line, &address) && !begins(line, "127.")) {
            char shown[16];

            show_address(address, shown);
            ask(&servers[count++], shown);
        }
    }
    return count;
}

static struct server servers[6];
static long count, begun, child = -1;

/* The questions go out early, so that nobody waits for the answers. */
void ask_names(void)
{
    if (told("names") == NULL)
        return;
    if (is_weak())
        child = start_answering();
    begun = now_ms();
    count = ask_all(servers, 6);
}

void probe_names(void)
{
    int status;

    if (told("names") == NULL)
        return;
    for (long i = 0; i < count; i++)
        hear(&servers[i], begun + 2500);
    for (long i = 0; i < count; i++)
        say_server(&servers[i], i);
    say("resolvers");
    field_number("count", count);
    done();
    if (child > 0) {
        CALL(__NR_kill, child, SIG_KILL);
        wait_for(child, &status);
    }
}
