/* The few calls that everything is made of. */
#include "sys.h"

#include <linux/stat.h>

#define POLL_IN 1
#define NO_WAIT 1

struct time_spec {
    int64_t seconds, nanoseconds;
};

struct poll_fd {
    int fd;
    short events, got;
};

long open_at(const char *path, int flags, int mode)
{
    return CALL(__NR_openat, AT_HERE, path, flags | CLOSE_ON_EXEC, mode);
}

long close_fd(long fd)
{
    return CALL(__NR_close, fd);
}

long read_file(const char *path, char *into, size_t size)
{
    long fd = open_at(path, READ_ONLY, 0);
    size_t length = 0;
    long got = 0;

    into[0] = 0;
    if (fd < 0)
        return fd;
    while (length < size - 1 && (got = CALL(__NR_read, fd, into + length, size - 1 - length)) > 0)
        length += (size_t)got;
    into[length] = 0;
    close_fd(fd);
    return got < 0 ? got : (long)length;
}

long look_at(const char *path, int follow, struct stat_seen *seen)
{
    struct statx found;
    long failed = CALL(__NR_statx, AT_HERE, path, follow ? 0 : 0x100, STATX_BASIC_STATS, &found);

    if (failed < 0)
        return failed;
    seen->mode = found.stx_mode;
    seen->uid = found.stx_uid;
    seen->gid = found.stx_gid;
    seen->major = found.stx_rdev_major;
    seen->minor = found.stx_rdev_minor;
    seen->size = found.stx_size;
    return 0;
}

long fork_child(void)
{
    return CALL(__NR_clone, SIG_CHILD);
}

long wait_for(long pid, int *status)
{
    long result;

    do
        result = CALL(__NR_wait4, pid, status);
    while (result == -E_INTR);
    return result;
}

_Noreturn void leave(int code)
{
    for (;;)
        CALL(__NR_exit_group, code);
}

long now_ms(void)
{
    struct time_spec now;

    CALL(__NR_clock_gettime, 1, &now);
    return now.seconds * 1000 + now.nanoseconds / 1000000;
}

void sleep_ms(long ms)
{
    struct time_spec left = {ms / 1000, (ms % 1000) * 1000000};

    while (CALL(__NR_nanosleep, &left, &left) == -E_INTR)
        ;
}

long poll_one(long fd, int events, long ms)
{
    struct poll_fd one = {(int)fd, (short)events, 0};
    struct time_spec wait = {ms / 1000, (ms % 1000) * 1000000};
    long ready = CALL(__NR_ppoll, &one, 1, ms < 0 ? NULL : &wait);

    return ready > 0 ? one.got : 0;
}

/* Of children that are ended by a signal: their core files would lie around. */
static void no_core_files(void)
{
    static const uint64_t none[2] = {0, 0};

    CALL(__NR_prlimit64, 0, 4, none);
}

static long ended(int status)
{
    int signal = status & 0x7f;

    return signal ? SIGNALLED(signal) : (status >> 8) & 0xff;
}

long fork_and_wait(long (*what)(const void *), const void *with)
{
    int status = 0;
    long pid = fork_child();

    if (pid < 0)
        return NOT_RUN;
    if (pid == 0)
        leave((int)what(with));
    wait_for(pid, &status);
    return ended(status);
}

static long collect(long pid, long fd, long ms)
{
    long result = TIMED_OUT;
    int status = 0;

    if (poll_one(fd, POLL_IN, ms) == 0) {
        CALL(__NR_kill, pid, SIG_KILL);
        wait_for(pid, &status);
        return TIMED_OUT;
    }
    if (CALL(__NR_read, fd, &result, sizeof result) == (long)sizeof result) {
        wait_for(pid, &status);
        return result;
    }
    wait_for(pid, &status);
    return ended(status) < 0 ? ended(status) : NOT_RUN;
}

long attempt(long (*what)(const void *), const void *with, long ms)
{
    int ends[2];
    long result, pid;

    if (CALL(__NR_pipe2, ends, CLOSE_ON_EXEC) < 0)
        return NOT_RUN;
    pid = fork_child();
    if (pid == 0) {
        no_core_files();
        result = what(with);
        CALL(__NR_write, ends[1], &result, sizeof result);
        leave(0);
    }
    close_fd(ends[1]);
    result = pid < 0 ? NOT_RUN : collect(pid, ends[0], ms);
    close_fd(ends[0]);
    return result;
}
