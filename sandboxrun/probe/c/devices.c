/* Devices, and the sockets that engines and agents listen on. */
#include "probe.h"

#define MS_BIND 4096
#define DETACH 2

static long device_file(const void *where)
{
    char path[256];
    long made;

    join(path, sizeof path, where, "/.sandboxrun-probe-device");
    made = CALL(__NR_mknodat, AT_HERE, path, IS_CHARACTER | 0600, (1 << 8) | 3); /* /dev/null's number */
    if (made >= 0)
        CALL(__NR_unlinkat, AT_HERE, path, 0);
    return made;
}

static long count_devices(const char *directory)
{
    static char block[8192], path[300];
    long fd = open_at(directory, READ_ONLY, 0), got, found = 0;

    while (fd >= 0 && (got = CALL(__NR_getdents64, fd, block, sizeof block)) > 0)
        for (long at = 0; at < got; at += *(unsigned short *)(block + at + 16)) {
            struct stat_seen seen;

            join(path, sizeof path, directory, "/");
            join(path + length_of(path), sizeof path - length_of(path), block + at + 19, "");
            if (look_at(path, 0, &seen) < 0)
                continue;
            if ((seen.mode & IS_TYPE) == IS_BLOCK || ((seen.mode & IS_TYPE) == IS_CHARACTER && seen.major != 1 &&
                                                      seen.major != 5 && seen.major != 136)) {
                field(block + at + 19, (seen.mode & IS_TYPE) == IS_BLOCK ? "block" : "character");
                found++;
            }
        }
    if (fd >= 0)
        close_fd(fd);
    return found;
}

static void say_null(void)
{
    struct stat_seen seen = {0};
    long looked = look_at("/dev/null", 1, &seen);

    say("null");
    field_result("look", looked);
    field("kind", (seen.mode & IS_TYPE) == IS_CHARACTER ? "character" : "other");
    field_number("major", seen.major);
    field_number("minor", seen.minor);
    done();
}

/* The weak sandbox puts another device over /dev/null and makes a block device, to show that both would be seen. */
void probe_devices(void)
{
    say("mknod");
    field_result("shm", attempt(device_file, "/dev/shm", 1000));
    field_result("tmp", attempt(device_file, "/tmp", 1000));
    field_result("here", attempt(device_file, ".", 1000));
    done();
    if (is_weak()) {
        CALL(__NR_mount, "/dev/zero", "/dev/null", NULL, MS_BIND, NULL);
        CALL(__NR_mknodat, AT_HERE, "/dev/sandboxrun-probe", IS_BLOCK | 0600, (240 << 8) | 240);
    }
    say_null();
    say("devices");
    field_number("count", count_devices("/dev"));
    done();
    if (is_weak()) {
        CALL(__NR_umount2, "/dev/null", DETACH);
        CALL(__NR_unlinkat, AT_HERE, "/dev/sandboxrun-probe", 0);
    }
}

static const char *const sockets[] = {"/run/docker.sock", "/var/run/docker.sock", "/run/podman/podman.sock",
    "/run/containerd/containerd.sock", "/run/crio/crio.sock", "/run/buildkit/buildkitd.sock",
    "/run/dbus/system_bus_socket", "/run/systemd/private", "/run/snapd.socket", "/run/libvirt/libvirt-sock"};

struct unix_address {
    unsigned short family;
    char path[108];
};

/* The weak sandbox listens where an engine would. */
static long stand_in(void)
{
    struct unix_address address = {1, {0}};
    long fd = CALL(__NR_socket, 1, 1, 0);

    make_directory("/run");
    copy(address.path, sizeof address.path, sockets[0]);
    CALL(__NR_bind, fd, &address, sizeof address);
    return fd;
}

static char info[65536];

static long mounted_sockets(void)
{
    char *rest = info, *line;
    long found = 0;

    read_file("/proc/self/mountinfo", info, sizeof info);
    while ((line = cut(&rest, '\n')) != NULL && *line) {
        struct stat_seen seen;
        char *path = NULL;

        for (int i = 0; i < 5; i++)
            path = cut(&line, ' ');
        if (path != NULL && look_at(path, 1, &seen) == 0 && (seen.mode & IS_TYPE) == IS_SOCKET) {
            field(found ? "more" : "mounted", path);
            found++;
        }
    }
    return found;
}

void probe_sockets_of_engines(void)
{
    long fd = is_weak() ? stand_in() : -1, found = 0;

    say("engines");
    for (size_t i = 0; i < sizeof sockets / sizeof *sockets; i++) {
        struct stat_seen seen;

        if (look_at(sockets[i], 1, &seen) == 0 && (seen.mode & IS_TYPE) == IS_SOCKET) {
            field(found ? "another" : "socket", sockets[i]);
            found++;
        }
    }
    found += mounted_sockets();
    field_number("count", found);
    done();
    if (fd >= 0) {
        close_fd(fd);
        CALL(__NR_unlinkat, AT_HERE, sockets[0], 0);
    }
}
