/* System calls without a C library: the program runs in images that hold nothing at all. */
#ifndef SYS_H
#define SYS_H

#include <asm/unistd.h>
#include <stddef.h>
#include <stdint.h>

/* Numbers that older kernel headers lack; they are the same on every architecture. */
#define NR_MEMFD_SECRET 447
#define NR_MOUNT_SETATTR 442
#define NR_PROCESS_MADVISE 440
#define NR_PIDFD_GETFD 438
#define NR_CLONE3 435
#define NR_FSOPEN 430
#define NR_MOVE_MOUNT 429
#define NR_OPEN_TREE 428
#define NR_IO_URING_SETUP 425

#if defined(__x86_64__)
static inline long raw(long n, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
static inline long raw(long n, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = n;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return x0;
}
#else
#error "x86_64 and aarch64 only"
#endif

/* CALL(__NR_close, fd): what is left out is 0. The result is the kernel's: below 0 it is -errno. */
#define CALL_PADDED(n, a, b, c, d, e, f, ...) \
    raw((long)(n), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define CALL(...) CALL_PADDED(__VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)

/* What both architectures have under the same numbers. */
enum {
    AT_HERE = -100, /* AT_FDCWD */
    READ_ONLY = 0, WRITE_ONLY = 1, READ_WRITE = 2,
    CREATE = 0100, EXCLUSIVE = 0200, CLOSE_ON_EXEC = 02000000,
    IS_TYPE = 0170000, IS_SOCKET = 0140000, IS_BLOCK = 0060000, IS_DIRECTORY = 0040000, IS_CHARACTER = 0020000,
    SIG_KILL = 9, SIG_ALARM = 14, SIG_TERM = 15, SIG_CHILD = 17,
    E_PERM = 1, E_INTR = 4, E_AGAIN = 11, E_HOSTUNREACH = 113, E_INPROGRESS = 115,
};

/* What an attempt in a child gave, when it is no result of a call. */
#define SIGNALLED(signal) (-1000000L - (signal))
#define TIMED_OUT (-2000000L)
#define NOT_RUN (-3000000L)

struct stat_seen {
    uint32_t mode, uid, gid, major, minor;
    uint64_t size;
};

long open_at(const char *path, int flags, int mode);
long close_fd(long fd);
long read_file(const char *path, char *into, size_t size); /* ends it with a NUL; bytes read or -errno */
long look_at(const char *path, int follow, struct stat_seen *seen);
long fork_child(void);
long wait_for(long pid, int *status);
long fork_and_wait(long (*what)(const void *), const void *with); /* its exit code, or as attempt() */
_Noreturn void leave(int code);
long now_ms(void);
void sleep_ms(long ms);
long poll_one(long fd, int events, long ms); /* the events that came; 0 for none */

/* Runs `what` in a child of its own for at most `ms`: its result, whatever becomes of the child. */
long attempt(long (*what)(const void *), const void *with, long ms);

#endif
