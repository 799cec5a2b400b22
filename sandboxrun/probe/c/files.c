/* Secrets and the workspace's .git. A secret's value is compared in here and never printed. */
#include "probe.h"

static char content[4096], held[65536];

static int holds(const char *path, size_t length)
{
    long got = read_file(path, held, sizeof held);

    for (long at = 0; at + (long)length <= got; at++) {
        size_t same_so_far = 0;

        while (same_so_far < length && held[at + (long)same_so_far] == content[same_so_far])
            same_so_far++;
        if (same_so_far == length)
            return 1;
    }
    return 0;
}

static void say_secret(const char *folder, const char *name, long index)
{
    char path[400], shown[400];
    struct stat_seen seen = {0};
    long fs[16] = {0}, length;

    join(path, sizeof path, folder, "/");
    join(shown, sizeof shown, path, name);
    if (look_at(shown, 0, &seen) < 0 || CALL(__NR_statfs, shown, fs) < 0)
        return;
    length = read_file(shown, content, sizeof content);
    while (length > 0 && (content[length - 1] == '\n' || content[length - 1] == '\r'))
        length--;
    say_numbered("secret", index);
    field("name", name);
    field_octal("mode", seen.mode & 07777);
    field_number("uid", seen.uid);
    field_number("gid", seen.gid);
    field_number("magic", fs[0]);
    field_result("read", length);
    if (length >= 4) {
        field("environ", holds("/proc/1/environ", (size_t)length) || holds("/proc/self/environ", (size_t)length)
                             ? "yes" : "no");
        field("arguments", holds("/proc/1/cmdline", (size_t)length) || holds("/proc/self/cmdline", (size_t)length)
                               ? "yes" : "no");
    }
    done();
}

/* The weak sandbox has a file of its own, readable to all and not in memory, with a value that its environment holds. */
static void stand_in(const char *folder)
{
    char path[400];
    const char *value = NULL;
    long fd;

    make_directory(folder);
    join(path, sizeof path, folder, "/stand-in");
    for (char **one = environment(); *one; one++)
        if (begins(*one, "SANDBOXRUN_PROBE="))
            value = *one + 17;
    fd = open_at(path, WRITE_ONLY | CREATE, 0644);
    if (fd >= 0 && value != NULL)
        CALL(__NR_write, fd, value, length_of(value));
    if (fd >= 0)
        close_fd(fd);
}

void probe_secrets(void)
{
    static char block[16384];
    const char *folder = told("secrets");
    long fd, got, index = 0;

    if (folder == NULL)
        return;
    if (is_weak())
        stand_in(folder);
    fd = open_at(folder, READ_ONLY, 0);
    while (fd >= 0 && (got = CALL(__NR_getdents64, fd, block, sizeof block)) > 0)
        for (long at = 0; at < got; at += *(unsigned short *)(block + at + 16))
            if (block[at + 19] != '.' && index < 50)
                say_secret(folder, block + at + 19, index++);
    if (fd >= 0)
        close_fd(fd);
    say("secrets");
    field_result("open", fd);
    field_number("count", index);
    field("readable", holds("/proc/1/environ", 0) ? "yes" : "no");
    done();
}

/*
 * Whether .git can be moved, without moving it: it is renamed onto a directory that is not empty. A file system that
 * would move it refuses for that reason (ENOTEMPTY); the kernel refuses before, where it is a mount of its own (EBUSY).
 */
void probe_git(void)
{
    const char *path = told("git");
    char beside[400], inside[400], config[400];
    long moved;

    if (path == NULL)
        return;
    join(beside, sizeof beside, path, "-sandboxrun-probe");
    join(inside, sizeof inside, beside, "/full");
    join(config, sizeof config, path, "/config");
    if (is_weak())
        make_directory(path);
    if (CALL(__NR_mkdirat, AT_HERE, beside, 0700) == 0)
        CALL(__NR_mkdirat, AT_HERE, inside, 0700);
    moved = CALL(__NR_renameat2, AT_HERE, path, AT_HERE, beside, 0);
    say("git");
    field_result("move", moved);
    field_result("write", CALL(__NR_faccessat, AT_HERE, path, 2));
    field_result("config", CALL(__NR_faccessat, AT_HERE, config, 2));
    done();
    CALL(__NR_unlinkat, AT_HERE, inside, 0x200);
    CALL(__NR_unlinkat, AT_HERE, beside, 0x200);
}
