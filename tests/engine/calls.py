"""A C program that makes system calls with arguments that mean nothing, each in a child, and says what came of it.

Owns its text and the reading of its output. It is compiled inside the sandbox that it looks at.
"""

from __future__ import annotations

from collections.abc import Iterable

# Calls that are younger than the headers of today's distributions; since 424 every architecture counts alike.
NUMBERS = {
    "cachestat": 451,
    "statmount": 457,
    "listmount": 458,
    "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460,
    "lsm_list_modules": 461,
    "open_tree_attr": 467,
    "file_getattr": 468,
    "file_setattr": 469,
    "listns": 470,
}
# With -1 throughout, the kernel itself says ENOSYS or EPERM to these, and nothing would be learned.
ARGUMENTS = {"modify_ldt": (0,), "socket": (1, 1, 0)}
EPERM, ENOSYS, SIGSYS = 1, 38, 31
REFUSED = (str(EPERM), str(ENOSYS))  # a number that the runtime does not know gives ENOSYS

_PROGRAM = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static long int80(long number) {
#ifdef __x86_64__
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number) : "memory");
    return result;
#else
    return number * 0;
#endif
}

static void look(const char *name, int entry, long number, long a, long b, long c) {
    fflush(stdout);
    if (fork() == 0) {
        alarm(5);
        long result = entry == 80 ? int80(number) : syscall(number, a, b, c, -1L, -1L, -1L);
        printf("%s %d\n", name, entry == 80 ? (result < 0 ? (int)-result : 0) : (result == -1 ? errno : 0));
        fflush(stdout);
        _exit(0);
    }
    int status = 0;
    wait(&status);
    if (WIFSIGNALED(status)) printf("%s signal%d\n", name, WTERMSIG(status));
}

int main(void) {
@@LOOKS@@
    return 0;
}
"""


def program(names: Iterable[str], sockets: Iterable[tuple[str, int, int, int]] = ()) -> str:
    """C that makes each call once; a socket is (name, family, kind, protocol). Names are looked up in its headers."""
    looks = []
    for name in names:
        first, second, third = (*ARGUMENTS.get(name, ()), -1, -1, -1)[:3]
        number = str(NUMBERS[name]) if name in NUMBERS else f"SYS_{name}"
        guard = "1" if name in NUMBERS else f"defined(SYS_{name})"
        looks.append(f'#if {guard}\n    look("{name}", 64, {number}, {first}, {second}, {third});\n#endif')
    looks += [f'    look("{name.replace(" ", "-")}", 64, SYS_socket, {f}, {k}, {p});' for name, f, k, p in sockets]
    looks += [
        "#ifdef __x86_64__",
        '    look("entry-x32", 64, 0x40000000 + SYS_getppid, 0, 0, 0);',
        '    look("entry-i386", 80, 64, 0, 0, 0);',  # 64 is getppid there
        "#endif",
        '    look("number-9999", 64, 9999, 0, 0, 0);',
    ]
    return _PROGRAM.replace("@@LOOKS@@", "\n".join(looks))


def read(output: str) -> dict[str, str]:
    """What the program printed: a name to its error number, 0 for none, or `signal31`."""
    lines = (line.partition(" ") for line in output.splitlines())
    return {name: seen for name, _, seen in lines}
