/*
 * Requests to the gateway, as a client that knows how it is caged would write them, all side by side. Each argument is
 * `request=<name>|<method>|<target>|<Host>`; the answer's status is what is told.
 */
#include "net.h"
#include "probe.h"

struct request {
    char name[160], text[800], answer[200];
    size_t got;
    int begun, over;
};

static struct request requests[MOST_TARGETS];
static struct target targets[MOST_TARGETS];

static void append(char *into, size_t size, const char *more)
{
    size_t used = length_of(into);

    copy(into + used, size - used, more);
}

static void prepare(struct request *one, const char *value)
{
    static char parts[700];
    char *rest = parts, *name, *method, *target, *host;

    copy(parts, sizeof parts, value);
    name = cut(&rest, '|');
    method = cut(&rest, '|');
    target = cut(&rest, '|');
    host = cut(&rest, '|');
    copy(one->name, sizeof one->name, name);
    one->text[0] = 0;
    append(one->text, sizeof one->text, method ? method : "GET");
    append(one->text, sizeof one->text, " ");
    append(one->text, sizeof one->text, target ? target : "/");
    append(one->text, sizeof one->text, " HTTP/1.1\r\nHost: ");
    append(one->text, sizeof one->text, host ? host : "");
    append(one->text, sizeof one->text, "\r\nConnection: close\r\n\r\n");
}

static void hear(struct request *one, int fd)
{
    long got = CALL(__NR_recvfrom, fd, one->answer + one->got, sizeof one->answer - 1 - one->got, 0x40, NULL, NULL);

    if (got == -E_AGAIN || got == -E_INTR)
        return;
    if (got > 0)
        one->got += (size_t)got;
    one->answer[one->got] = 0;
    if (got <= 0 || one->got >= sizeof one->answer - 1 || find(one->answer, "\r\n") != NULL)
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
                CALL(__NR_sendto, targets[i].fd, requests[i].text, length_of(requests[i].text), 0x4000, NULL, 0);
            requests[i].begun = 1;
        }
    }
}

/* Of `HTTP/1.1 403 Forbidden` the three digits, and the line itself. */
static void say_requests(long count)
{
    for (long i = 0; i < count; i++) {
        const char *line = requests[i].answer;
        size_t length = 0;

        while (line[length] && line[length] != '\r' && line[length] != '\n')
            length++;
        say_numbered("request", i);
        field("name", requests[i].name);
        field_result("connect", targets[i].result);
        field("over", requests[i].over ? "yes" : "no");
        field_number("status", begins(line, "HTTP/1.") ? number(line + 9, NULL) : 0);
        field_bytes("line", line, length);
        done();
    }
}

void probe_gateway(void)
{
    const char *proxy = gateway_told(), *value;
    uint32_t address;
    uint16_t port = 0;
    long count = 0;

    if (told("request") == NULL || proxy == NULL || !parse_address(proxy, &address))
        return;
    for (const char *at = proxy; *at; at++)
        if (*at == ':')
            port = (uint16_t)number(at + 1, NULL);
    for (int at = 1; count < MOST_TARGETS && (value = told_next("request", &at)) != NULL; count++) {
        prepare(&requests[count], value);
        targets[count] = (struct target){address, port, -1, 0, NOT_RUN};
        begin_connect(&targets[count]);
    }
    finish_connects(targets, count, now_ms() + 2000);
    exchange(count, now_ms() + 4000);
    say_requests(count);
    for (long i = 0; i < count; i++)
        if (targets[i].fd >= 0)
            close_fd(targets[i].fd);
    say("gateway");
    field_number("requests", count);
    done();
}
