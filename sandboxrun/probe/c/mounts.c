/* What is mounted, what of it can be written to and run from, how much fits, and what stays hidden. */
#include "probe.h"

#define MS_BIND 4096
#define MS_SHARED (1 << 20)
#define MS_PRIVATE (1 << 18)
#define DETACH 2
#define W_OK 2

static char info[1 << 18];

/* One line of mountinfo: id, parent, device, root, path, options, optional fields, "-", type, source, more options. */
static void say_mount(char *rest, long index)
{
    char *fields[6], *part, *type, *super;
    char shared[16] = "no";

    for (int i = 0; i < 6; i++)
        fields[i] = cut(&rest, ' ');
    while ((part = cut(&rest, ' ')) != NULL && !same(part, "-"))
        if (begins(part, "shared:"))
            copy(shared, sizeof shared, "yes");
    type = cut(&rest, ' ');
    cut(&rest, ' ');
    super = cut(&rest, ' ');
    if (fields[5] == NULL || type == NULL)
        return;
    say_numbered("mount", index);
    field("path", fields[4]);
    field("root", fields[3]);
    field("options", fields[5]);
    field("type", type);
    field("super", super ? super : "");
    field("shared", shared);
    field_result("write", CALL(__NR_faccessat, AT_HERE, fields[4], W_OK));
    done();
}

/* The weak sandbox makes one of its mounts shared, to show that this would be seen. */
void probe_mounts(void)
{
    char *rest = info;
    long index = 0, length;

    if (is_weak())
        CALL(__NR_mount, "none", "/dev/mqueue", NULL, MS_SHARED, NULL);
    length = read_file("/proc/self/mountinfo", info, sizeof info);
    if (is_weak())
        CALL(__NR_mount, "none", "/dev/mqueue", NULL, MS_PRIVATE, NULL);
    while (rest != NULL && *rest)
        say_mount(cut(&rest, '\n'), index++);
    say("mounts");
    field_number("count", length == sizeof info - 1 ? -1 : index); /* more than was read */
    done();
}

static long make_and_remove(const char *directory)
{
    char path[256];
    long fd;

    join(path, sizeof path, directory, "/.sandboxrun-probe");
    fd = open_at(path, WRITE_ONLY | CREATE | EXCLUSIVE, 0600);
    if (fd < 0)
        return fd;
    close_fd(fd);
    CALL(__NR_unlinkat, AT_HERE, path, 0);
    return 0;
}

void probe_root(void)
{
    static const char *const places[] = {"", "/bin", "/etc", "/home", "/lib", "/opt", "/root", "/usr", "/var", "/dev"};

    say("root");
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        field_result(i ? places[i] + 1 : "root", make_and_remove(places[i]));
    done();
}

static long copy_of_itself(const char *path)
{
    static char block[4096];
    long from = open_at("/proc/self/exe", READ_ONLY, 0), to, got;

    if (from < 0)
        return from;
    to = open_at(path, WRITE_ONLY | CREATE | EXCLUSIVE, 0700);
    while (to >= 0 && (got = CALL(__NR_read, from, block, sizeof block)) > 0)
        CALL(__NR_write, to, block, got);
    close_fd(from);
    if (to >= 0)
        close_fd(to);
    return to < 0 ? to : 0;
}

static long run_copy(const void *path)
{
    char *argv[] = {"copy", "exit", NULL};
    char *envp[] = {NULL};

    return CALL(__NR_execve, path, argv, envp) < 0 ? 126 : 0;
}

static long map_executable(const char *path)
{
    long fd = open_at(path, READ_ONLY, 0), at;

    if (fd < 0)
        return fd;
    at = CALL(__NR_mmap, 0, 4096, 1 | 4, 2, fd, 0);
    close_fd(fd);
    if (at < 0 && at > -4096)
        return at;
    CALL(__NR_munmap, at, 4096);
    return 0;
}

/* A copy of the program in every place where nothing may be run. */
void probe_execution(void)
{
    const char *place;
    char path[256];

    for (int at = 1, index = 0; (place = told_next("noexec", &at)) != NULL; index++) {
        long copied, ran = NOT_RUN;

        if (is_weak())
            make_directory(place);
        join(path, sizeof path, place, "/.sandboxrun-probe-copy");
        copied = copy_of_itself(path);
        say_numbered("execution", index);
        field("path", place);
        field_result("copy", copied);
        if (copied == 0) {
            ran = fork_and_wait(run_copy, path);
            field_number("code", ran);
            field_result("map", map_executable(path));
            CALL(__NR_unlinkat, AT_HERE, path, 0);
        }
        done();
    }
}

struct fs_seen {
    long type, block_size;
    uint64_t blocks, free, available, files, files_free;
    int id[2];
    long name_length, fragment_size, flags, spare[4];
};

/* Asks for one page more than the size: nothing is written, and what was given is given back at once. */
static long take(const char *place, long size)
{
    char path[256];
    long fd, taken;

    join(path, sizeof path, place, "/.sandboxrun-probe-size");
    fd = open_at(path, WRITE_ONLY | CREATE | EXCLUSIVE, 0600);
    if (fd < 0)
        return fd;
    taken = CALL(__NR_fallocate, fd, 0, 0, size + 4096);
    close_fd(fd);
    CALL(__NR_unlinkat, AT_HERE, path, 0);
    return taken;
}

void probe_sizes(void)
{
    const char *value, *place;

    for (int at = 1, index = 0; (value = told_next("tmpfs", &at)) != NULL; index++) {
        struct fs_seen fs = {0};
        long size = number(value, &place), failed;

        place++;
        if (is_weak())
            make_directory(place);
        failed = CALL(__NR_statfs, place, &fs);
        say_numbered("size", index);
        field("path", place);
        field_result("look", failed);
        field_number("magic", fs.type);
        field_number("bytes", (long)(fs.blocks * (uint64_t)fs.block_size));
        if (size <= 1L << 30)
            field_result("take", take(place, size));
        done();
    }
}

/* Something of a file or directory that hides what it would show: its size, or how many names it has. */
static long content_of(const char *path)
{
    static char block[4096];
    struct stat_seen seen;
    long fd, got, names = 0;

    if (look_at(path, 1, &seen) < 0 || (fd = open_at(path, READ_ONLY, 0)) < 0)
        return 0;
    if ((seen.mode & IS_TYPE) == IS_DIRECTORY) {
        got = CALL(__NR_getdents64, fd, block, sizeof block);
        for (long at = 0; at < got; at += *(unsigned short *)(block + at + 16))
            names++;
        names = names > 2 ? names - 2 : 0; /* less . and .. */
    } else {
        names = CALL(__NR_pread64, fd, block, 1, 0) > 0;
    }
    close_fd(fd);
    return names;
}

/* Every mask is first taken off, as whoever could would. */
void probe_masks(void)
{
    static const char *const masked[] = {"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
        "/proc/timer_list", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"};
    static const char *const closed[] = {"/proc/sys/kernel/hostname", "/proc/sys/vm/overcommit_memory",
        "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs"};

    say("masks");
    for (size_t i = 0; i < sizeof masked / sizeof *masked; i++) {
        struct stat_seen seen;

        if (look_at(masked[i], 1, &seen) < 0)
            continue;
        CALL(__NR_umount2, masked[i], DETACH);
        field_number(masked[i] + 1, content_of(masked[i]));
    }
    done();
    CALL(__NR_umount2, "/proc/sys", DETACH);
    say("closed");
    for (size_t i = 0; i < sizeof closed / sizeof *closed; i++) {
        struct stat_seen seen;

        if (look_at(closed[i], 1, &seen) < 0)
            continue;
        CALL(__NR_umount2, closed[i], DETACH);
        field_result(closed[i] + 1, CALL(__NR_faccessat, AT_HERE, closed[i], W_OK));
    }
    done();
}

/* Descriptors that somebody left open: a directory of the host's would lead out. */
void probe_descriptors(void)
{
    char path[64], target[200];
    long left = is_weak() ? open_at("/", READ_ONLY, 0) : -1;
    long open = 0, directories = 0;

    say("descriptors");
    for (long fd = 0; fd < 64; fd++) {
        char digits[3] = {(char)('0' + fd / 10), (char)('0' + fd % 10), 0};
        struct stat_seen seen;
        long length;

        join(path, sizeof path, "/proc/self/fd/", fd < 10 ? digits + 1 : digits);
        if (look_at(path, 1, &seen) < 0)
            continue;
        open++;
        if ((seen.mode & IS_TYPE) != IS_DIRECTORY)
            continue;
        length = CALL(__NR_readlinkat, AT_HERE, path, target, sizeof target);
        if (length > 0 && directories++ == 0)
            field_bytes("directory", target, (size_t)length);
    }
    field_number("open", open);
    field_number("directories", directories);
    done();
    if (left >= 0)
        close_fd(left);
}
