/* Addresses, and many connections side by side. */
#include "net.h"

uint16_t swap16(uint16_t value)
{
    return (uint16_t)(value << 8 | value >> 8);
}

uint32_t swap32(uint32_t value)
{
    return (uint32_t)swap16((uint16_t)value) << 16 | swap16((uint16_t)(value >> 16));
}

int parse_address(const char *text, uint32_t *address)
{
    uint32_t value = 0;

    for (int i = 0; i < 4; i++) {
        const char *rest;
        long part = number(text, &rest);

        if (rest == text || part > 255 || (i < 3 && *rest != '.'))
            return 0;
        value = value << 8 | (uint32_t)part;
        text = rest + 1;
    }
    *address = swap32(value);
    return 1;
}

void show_address(uint32_t address, char *into)
{
    uint32_t value = swap32(address);

    for (int shift = 24; shift >= 0; shift -= 8) {
        unsigned part = value >> shift & 255;

        if (part >= 100)
            *into++ = (char)('0' + part / 100);
        if (part >= 10)
            *into++ = (char)('0' + part / 10 % 10);
        *into++ = (char)('0' + part % 10);
        *into++ = '.';
    }
    into[-1] = 0;
}

void begin_connect(struct target *target)
{
    struct address4 to = {IPV4, swap16(target->port), target->address, {0}};

    target->fd = (int)CALL(__NR_socket, IPV4, STREAM | NON_BLOCKING | CLOSE_ON_EXEC, 0);
    target->result = target->fd < 0 ? target->fd : CALL(__NR_connect, target->fd, &to, sizeof to);
}

static void take_result(struct target *target)
{
    int error = 0, size = sizeof error;

    CALL(__NR_getsockopt, target->fd, 1, 4, &error, &size);
    target->result = -error;
}

static long waiting(struct target *targets, long count, struct poll_fd *fds)
{
    long left = 0;

    for (long i = 0; i < count; i++) {
        int open = targets[i].fd >= 0 && targets[i].result == -E_INPROGRESS;

        fds[i] = (struct poll_fd){open ? targets[i].fd : -1, POLL_OUT, 0};
        left += open;
    }
    return left;
}

void finish_connects(struct target *targets, long count, long deadline)
{
    struct poll_fd fds[MOST_TARGETS];
    long ms;

    while (waiting(targets, count, fds) && (ms = deadline - now_ms()) > 0) {
        int64_t wait[2] = {ms / 1000, (ms % 1000) * 1000000};

        CALL(__NR_ppoll, fds, count, wait);
        for (long i = 0; i < count; i++)
            if (fds[i].got)
                take_result(&targets[i]);
    }
    for (long i = 0; i < count; i++)
        if (targets[i].result == -E_INPROGRESS)
            targets[i].result = TIMED_OUT;
}
