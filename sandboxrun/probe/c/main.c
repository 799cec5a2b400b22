/* What begins first, what is told, and the order in which the probes run. */
#include "probe.h"

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n xor %ebp,%ebp\n mov %rsp,%rdi\n and $-16,%rsp\n call begin\n");
#else
__asm__(".globl _start\n_start:\n mov x29,#0\n mov x30,#0\n mov x0,sp\n bl begin\n");
#endif

static long count;
static char **arguments;

const char *told_next(const char *key, int *at)
{
    size_t length = length_of(key);

    for (int i = *at + 1; i < count; i++)
        if (begins(arguments[i], key) && arguments[i][length] == '=') {
            *at = i;
            return arguments[i] + length + 1;
        }
    return NULL;
}

const char *told(const char *key)
{
    int at = 1;

    return told_next(key, &at);
}

int is_weak(void)
{
    const char *weak = told("weak");

    return weak != NULL && same(weak, "1");
}

char **environment(void)
{
    return arguments + count + 1;
}

void make_directory(const char *path)
{
    char so_far[256];

    copy(so_far, sizeof so_far, path);
    for (char *at = so_far + 1; *at; at++)
        if (*at == '/') {
            *at = 0;
            CALL(__NR_mkdirat, AT_HERE, so_far, 0755);
            *at = '/';
        }
    CALL(__NR_mkdirat, AT_HERE, so_far, 01777);
}

/* It takes masks off and fills what it finds: in a sandbox only, which has processes of its own. */
static void refuse_the_host(void)
{
    char target[32] = {0};

    CALL(__NR_readlinkat, AT_HERE, "/proc/self/ns/pid", target, sizeof target - 1);
    if (same(target, "pid:[4026531836]"))
        leave(3);
}

static void battery(void)
{
    static void (*const probes[])(void) = {
        probe_identity, probe_setuid, probe_namespaces, probe_secrets, probe_descriptors, probe_limits,
        probe_open_files, probe_groups_of_control, probe_root, probe_execution, probe_sizes, probe_devices,
        probe_sockets_of_engines, probe_git, probe_mounts, probe_masks, probe_calls, probe_families,
        ask_names, probe_processors, probe_reach, probe_routes, probe_names, probe_gateway,
    };

    refuse_the_host();
    for (size_t i = 0; i < sizeof probes / sizeof *probes; i++)
        probes[i]();
}

static void identify_only(void)
{
    say("raised");
    field_number("uid", CALL(__NR_geteuid));
    field_number("gid", CALL(__NR_getegid));
    done();
}

__attribute__((used)) _Noreturn void begin(long *stack)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } phases[] = {
        {"battery", battery},       {"processes", fill_processes}, {"memory", fill_memory},
        {"stubborn", be_stubborn}, {"identify", identify_only},
    };

    count = stack[0];
    arguments = (char **)(stack + 1);
    if (count > 1 && same(arguments[1], "exit"))
        leave(42); /* a copy of the program, to show that it ran */
    for (size_t i = 0; count > 1 && i < sizeof phases / sizeof *phases; i++)
        if (same(arguments[1], phases[i].name)) {
            phases[i].run();
            if (!same(arguments[1], "identify")) {
                say("end");
                done();
            }
            leave(0);
        }
    leave(2);
}
