/*
 * What the gateway is sent, as a client that knows how it is caged would, all side by side over TCP. Each argument is
 * `request=<name>|<port>|<bytes in hexadecimal>`; the first bytes of what came back are told.
 */
#include "net.h"
#include "probe.h"

struct request {
    char name[160], bytes[600], answer[64];
    size_t length, got;
    int begun, over;
};

static struct request requests[MOST_TARGETS];
static struct target targets[MOST_TARGETS];

static unsigned digit(char of)
{
    return (unsigned)(of <= '9' ? of - '0' : (of | 32) - 'a' + 10) & 15;
}

/* The port that it is for. */
static uint16_t prepare(struct request *one, const char *value)
{
    static char parts[1400];
    char *rest = parts, *name, *port, *bytes;

    copy(parts, sizeof parts, value);
    name = cut(&rest, '|');
    port = cut(&rest, '|');
    bytes = cut(&rest, '|');
    copy(one->name, sizeof one->name, name);
    for (; bytes && bytes[0] && bytes[1] && one->length < sizeof one->bytes; bytes += 2)
        one->bytes[one->length++] = (char)(digit(bytes[0]) << 4 | digit(bytes[1]));
    return port ? (uint16_t)number(port, NULL) : 0;
}

static void hear(struct request *one, int fd)
{
    long got = CALL(__NR_recvfrom, fd, one->answer + one->got, sizeof one->answer - one->got, 0x40, NULL, NULL);

    if (got == -E_AGAIN || got == -E_INTR)
        return;
    if (got > 0)
        one->got += (size_t)got;
    if (got <= 0 || one->got == sizeof one->answer)
        one->over = 1;
}

static void exchange(long count, long deadline)
{
    struct poll_fd fds[MOST_TARGETS];
    long ms, left = count;

    while (left > 0 && (ms = deadline - now_ms()) > 0) {
        int64_t wait[2] = {ms / 1000, (ms % 1000) * 1000000};

        left = 0;
        for (long i = 0; i < count; i++) {
            int open = targets[i].result == 0 && !requests[i].over;

            fds[i] = (struct poll_fd){open ? targets[i].fd : -1, requests[i].begun ? POLL_IN : POLL_OUT, 0};
            left += open;
        }
        if (left > 0)
            CALL(__NR_ppoll, fds, count, wait);
        for (long i = 0; i < count; i++) {
            if (!fds[i].got || fds[i].fd < 0)
                continue;
            if (requests[i].begun)
                hear(&requests[i], targets[i].fd);
            else
                CALL(__NR_sendto, targets[i].fd, requests[i].bytes, requests[i].length, 0x4000, NULL, 0);
            requests[i].begun = 1;
        }
    }
}

static void say_requests(long count)
{
    for (long i = 0; i < count; i++) {
        static const char digits[] = "0123456789abcdef";
        char shown[2 * sizeof requests->answer];

        for (size_t at = 0; at < requests[i].got; at++) {
            shown[2 * at] = digits[(unsigned char)requests[i].answer[at] >> 4];
            shown[2 * at + 1] = digits[requests[i].answer[at] & 15];
        }
        say_numbered("request", i);
        field("name", requests[i].name);
        field_result("connect", targets[i].result);
        field("over", requests[i].over ? "yes" : "no");
        field_bytes("answer", shown, 2 * requests[i].got);
        done();
    }
}

void probe_gateway(void)
{
    const char *gateway = told("gateway"), *value;
    uint32_t address;
    long count = 0;

    if (told("request") == NULL || gateway == NULL || !parse_address(gateway, &address))
        return;
    for (int at = 1; count < MOST_TARGETS && (value = told_next("request", &at)) != NULL; count++) {
        uint16_t port = prepare(&requests[count], value);

        targets[count] = (struct target){address, port, -1, 0, NOT_RUN};
        begin_connect(&targets[count]);
    }
    finish_connects(targets, count, now_ms() + 2000);
    exchange(count, now_ms() + 6000);
    say_requests(count);
    for (long i = 0; i < count; i++)
        if (targets[i].fd >= 0)
            close_fd(targets[i].fd);
    say("gateway");
    field_number("requests", count);
    done();
}
