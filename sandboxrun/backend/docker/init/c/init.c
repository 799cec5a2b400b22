/* PID 1 of a sandbox that has a timeout: starts the command, forwards signals, reaps, and ends everything in time.
 *
 * Nothing inside can stop it: the kernel drops SIGKILL and SIGSTOP that come from its own PID namespace, it can't be
 * traced or read (not dumpable, and its file can't be read), and what it was told is in its arguments, which nobody
 * else can change. It allocates nothing and installs no handler. When it exits, the kernel kills whatever is left. */
#include "../../../../probe/c/sys.h"

#define BOOT_TIME 7 /* CLOCK_BOOTTIME: goes on while the machine sleeps, and nobody sets it */
#define ABSOLUTE 1
#define NON_BLOCKING 04000
#define SET_MASK 2
#define SET_DUMPABLE 4
#define SET_FOREGROUND 0x5410 /* TIOCSPGRP */
#define POLL_IN 1
#define NO_WAIT 1
#define SIG_CONTINUE 18
#define SECOND 1000000000L

/* From outside only: what comes before and after a pause of ours, whose time is not the command's. */
#define SIG_HOLD 62
#define SIG_RELEASE 63

enum { NOT_RUN_CODE = 125, NOT_EXECUTABLE = 126, NOT_FOUND = 127, OVER = 124, SIGNAL_BASE = 128 };
enum { E_NO_ENTRY = 2, E_NO_EXEC = 8, E_NOT_DIRECTORY = 20 };

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n xor %ebp,%ebp\n mov %rsp,%rdi\n and $-16,%rsp\n call begin\n");
#else
__asm__(".globl _start\n_start:\n mov x29,#0\n mov x30,#0\n mov x0,sp\n bl begin\n");
#endif

struct time_spec {
    int64_t seconds, nanoseconds;
};

struct timer_spec {
    struct time_spec every, at;
};

struct poll_fd {
    int fd;
    short events, got;
};

struct signal_seen { /* struct signalfd_siginfo */
    uint32_t number;
    int32_t error, code;
    uint32_t sender;
    uint8_t rest[112];
};

static long signals, timer, command;
static int64_t deadline, grace, held;
static int over;

static size_t length_of(const char *text)
{
    size_t length = 0;

    while (text[length])
        length++;
    return length;
}

static const char *after(const char *text, const char *key)
{
    while (*key)
        if (*text++ != *key++)
            return NULL;
    return text;
}

static int64_t number(const char *text)
{
    uint64_t value = 0;

    if (text == NULL || !*text || length_of(text) > 18)
        return -1;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return -1;
        value = value * 10 + (uint64_t)(*text - '0');
    }
    return (int64_t)value;
}

static _Noreturn void leave_with(int code)
{
    for (;;)
        CALL(__NR_exit_group, code);
}

static _Noreturn void fail(int code, const char *what, const char *why)
{
    const char *parts[] = {"sandboxrun: ", what, ": ", why, "\n"};

    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        CALL(__NR_write, 2, parts[i], length_of(parts[i]));
    leave_with(code);
}

static int64_t now(void)
{
    struct time_spec at = {0, 0};

    CALL(__NR_clock_gettime, BOOT_TIME, &at);
    return at.seconds * SECOND + at.nanoseconds;
}

static long try_path(const char *directory, size_t length, char **arguments, char **environment)
{
    static char path[4096];
    size_t name = length_of(arguments[0]), at = 0;

    if (length + name + 2 > sizeof path)
        return -E_NO_ENTRY;
    for (; at < length; at++)
        path[at] = directory[at];
    if (length)
        path[at++] = '/';
    for (size_t i = 0; i <= name; i++)
        path[at + i] = arguments[0][i];
    long failed = CALL(__NR_execve, path, arguments, environment);

    if (failed == -E_NO_EXEC) { /* a script that names no interpreter */
        arguments[0] = path;
        arguments[-1] = "/bin/sh"; /* where "--" was */
        CALL(__NR_execve, arguments[-1], arguments - 1, environment);
    }
    return failed;
}

/* As execvp does. */
static _Noreturn void execute(char **arguments, char **environment)
{
    const char *path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", *found;
    long failed = -E_NO_ENTRY;
    int slash = 0;

    for (const char *at = arguments[0]; *at; at++)
        slash |= *at == '/';
    for (char **at = environment; *at; at++)
        if ((found = after(*at, "PATH=")) != NULL)
            path = found;
    if (slash) {
        failed = try_path("", 0, arguments, environment);
    } else if (*arguments[0]) {
        while (1) {
            size_t length = 0;

            while (path[length] && path[length] != ':')
                length++;
            long result = length ? try_path(path, length, arguments, environment)
                                 : try_path(".", 1, arguments, environment);

            if (result != -E_NO_ENTRY && result != -E_NOT_DIRECTORY)
                failed = result;
            if (!path[length])
                break;
            path += length + 1;
        }
    }
    if (failed == -E_NO_ENTRY || failed == -E_NOT_DIRECTORY)
        fail(NOT_FOUND, arguments[0], "command not found");
    fail(NOT_EXECUTABLE, arguments[0], "cannot be executed");
}

/* The command is in a group of its own, which has the terminal if there is one. Every signal is blocked meanwhile, so
 * that taking the terminal stops nobody. */
static void start(char **arguments, char **environment, const uint64_t *mask)
{
    command = CALL(__NR_clone, SIG_CHILD);
    if (command < 0)
        fail(NOT_EXECUTABLE, arguments[0], "no process could be made for it");
    if (command == 0) {
        int group;

        CALL(__NR_setpgid, 0, 0);
        group = (int)CALL(__NR_getpid);
        CALL(__NR_ioctl, 0, SET_FOREGROUND, &group);
        CALL(__NR_rt_sigprocmask, SET_MASK, mask, NULL, sizeof *mask);
        execute(arguments, environment);
    }
}

/* Reaps what has ended; does not return once the command has. */
static void reap(void)
{
    int status = 0;
    long pid;

    while ((pid = CALL(__NR_wait4, -1, &status, NO_WAIT)) > 0)
        if (pid == command) {
            int signal = status & 0x7f;

            leave_with(over ? OVER : signal ? SIGNAL_BASE + signal : (status >> 8) & 0xff);
        }
}

/* A signal from another PID namespace has sender 0 and code 0; no process inside can send one like that. */
static void take_signals(void)
{
    struct signal_seen seen;

    for (int most = 64; most > 0; most--) {
        if (CALL(__NR_read, signals, &seen, sizeof seen) != (long)sizeof seen)
            return;
        int outside = seen.code == 0 && seen.sender == 0;

        if (seen.number == SIG_CHILD)
            continue;
        if (outside && seen.number == SIG_HOLD) {
            held = now();
        } else if (outside && seen.number == SIG_RELEASE) {
            if (held)
                deadline += now() - held;
            held = 0;
        } else {
            CALL(__NR_kill, command, seen.number);
        }
    }
}

static void wait_until(int64_t at)
{
    struct timer_spec when = {{0, 0}, {at / SECOND, at % SECOND}};
    struct poll_fd both[] = {{(int)signals, POLL_IN, 0}, {(int)timer, POLL_IN, 0}};
    uint64_t times;

    CALL(__NR_timerfd_settime, timer, ABSOLUTE, &when, NULL);
    CALL(__NR_ppoll, both, 2, NULL);
    CALL(__NR_read, timer, &times, sizeof times);
}

static _Noreturn void watch(void)
{
    for (;;) {
        int64_t at = now(); /* before the signals are read: after a pause the one that ends it is among them */

        take_signals();
        reap();
        if (at >= deadline) {
            if (over)
                leave_with(OVER);
            over = 1;
            deadline = at + grace;
            CALL(__NR_kill, -1, SIG_TERM);
            CALL(__NR_kill, -1, SIG_CONTINUE); /* what has stopped itself has to see the other one */
        }
        wait_until(deadline);
    }
}

/* init timeout=<ns> grace=<ns> -- command ... */
__attribute__((used)) _Noreturn void begin(long *stack)
{
    long count = stack[0];
    char **arguments = (char **)(stack + 1), **environment = arguments + count + 1;
    uint64_t all = ~0UL, mask = 0;

    CALL(__NR_prctl, SET_DUMPABLE, 0);
    if (CALL(__NR_getpid) != 1)
        fail(NOT_RUN_CODE, "init", "it must be PID 1 of a sandbox");
    if (count < 5 || (deadline = number(after(arguments[1], "timeout="))) < 0 ||
        (grace = number(after(arguments[2], "grace="))) < 0 || after(arguments[3], "--") == NULL)
        fail(NOT_RUN_CODE, "init", "usage: init timeout=NS grace=NS -- COMMAND [ARGUMENT ...]");
    deadline += now();
    CALL(__NR_rt_sigprocmask, SET_MASK, &all, &mask, sizeof all);
    signals = CALL(__NR_signalfd4, -1, &all, sizeof all, CLOSE_ON_EXEC | NON_BLOCKING);
    timer = CALL(__NR_timerfd_create, BOOT_TIME, CLOSE_ON_EXEC | NON_BLOCKING);
    if (signals < 0 || timer < 0)
        fail(NOT_RUN_CODE, "init", "the kernel or a seccomp profile refuses signalfd or timerfd");
    start(arguments + 4, environment, &mask);
    watch();
}
