/* The limits of the sandbox and of each process in it. */
#include "probe.h"

#define SIZE(of) (sizeof of / sizeof *of)

static const char *const names[] = {"cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile",
    "memlock", "as", "locks", "sigpending", "msgqueue", "nice", "rtprio", "rttime"};

static void say_limits(const char *name)
{
    say(name);
    for (size_t i = 0; i < SIZE(names); i++) {
        uint64_t limit[2] = {0, 0};
        char key[32];

        if (CALL(__NR_prlimit64, 0, i, NULL, limit) < 0)
            continue;
        join(key, sizeof key, names[i], ".soft");
        field_number(key, (long)limit[0]);
        join(key, sizeof key, names[i], ".hard");
        field_number(key, (long)limit[1]);
    }
    done();
}

/* In a child: every limit is raised as far as it goes, and shown again. */
static long raise_all(const void *unused)
{
    (void)unused;
    for (size_t i = 0; i < SIZE(names); i++) {
        uint64_t limit[2] = {~0UL, ~0UL};

        if (CALL(__NR_prlimit64, 0, i, limit) < 0 && i == 7) {
            limit[0] = limit[1] = 1 << 20; /* what the kernel lets anyone have of files */
            CALL(__NR_prlimit64, 0, i, limit);
        }
    }
    say_limits("limits.raised");
    return 0;
}

void probe_limits(void)
{
    say_limits("limits");
    fork_and_wait(raise_all, NULL);
}

/* In a child: files are opened until no more can be, or `most` are open. */
static long open_many(const void *most)
{
    uint64_t limit[2] = {*(const uint64_t *)most, *(const uint64_t *)most};
    long opened = 3, last = 0;

    CALL(__NR_prlimit64, 0, 7, limit);
    for (long fd = 3; fd < 64; fd++)
        close_fd(fd);
    while ((uint64_t)opened < *(const uint64_t *)most && (last = CALL(__NR_dup, 1)) >= 0)
        opened++;
    say("files");
    field_number("open", opened);
    field_result("last", last);
    done();
    return 0;
}

void probe_open_files(void)
{
    const char *limit = told("nofile");
    uint64_t most;

    if (limit == NULL)
        return;
    most = (uint64_t)number(limit, NULL) + 64;
    if (most <= 1 << 17)
        fork_and_wait(open_many, &most);
}

/* What cgroups of either version say of the sandbox; files that are not there are left out. */
void probe_groups_of_control(void)
{
    static const char *const files[][2] = {
        {"v2.memory.max", "memory.max"}, {"v2.memory.swap.max", "memory.swap.max"}, {"v2.pids.max", "pids.max"},
        {"v2.cpu.max", "cpu.max"}, {"v1.memory", "memory/memory.limit_in_bytes"},
        {"v1.memory.swap", "memory/memory.memsw.limit_in_bytes"}, {"v1.pids", "pids/pids.max"},
        {"v1.cpu.quota", "cpu/cpu.cfs_quota_us"}, {"v1.cpu.period", "cpu/cpu.cfs_period_us"},
    };
    char path[128], content[64];

    say("cgroup");
    for (size_t i = 0; i < SIZE(files); i++) {
        long got;

        join(path, sizeof path, "/sys/fs/cgroup/", files[i][1]);
        got = read_file(path, content, sizeof content);
        if (got > 0)
            field_bytes(files[i][0], content, (size_t)got - (content[got - 1] == '\n'));
    }
    done();
}

struct usage {
    int64_t user_s, user_us, system_s, system_us;
    long rest[14];
};

static _Noreturn void burn(long until)
{
    volatile long sum = 0;

    while (now_ms() < until)
        for (int i = 0; i < 20000; i++)
            sum += i;
    leave(0);
}

/* As many processes as could use more than is allowed, for a second. */
void probe_processors(void)
{
    const char *workers = told("burn");
    long most = workers == NULL ? 0 : number(workers, NULL), started = 0, used = 0, begun = now_ms(), wall;
    long pids[64];
    uint64_t mask[16] = {0};
    long bytes = CALL(__NR_sched_getaffinity, 0, sizeof mask, mask), processors = 0;

    for (long i = 0; i < bytes * 8; i++)
        processors += (mask[i / 64] >> (i % 64)) & 1;
    for (; started < most && started < 64; started++) {
        long pid = fork_child();

        if (pid == 0)
            burn(begun + 1000);
        if (pid < 0)
            break;
        pids[started] = pid;
    }
    for (long i = 0; i < started; i++) {
        struct usage one = {0};
        int status;

        while (CALL(__NR_wait4, pids[i], &status, 0, &one) == -E_INTR)
            ;
        used += (one.user_s + one.system_s) * 1000 + (one.user_us + one.system_us) / 1000;
    }
    wall = now_ms() - begun;
    say("processors");
    field_number("count", processors);
    field_number("workers", started);
    field_number("used_ms", used);
    field_number("wall_ms", wall);
    done();
}
