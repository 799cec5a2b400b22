"""The system calls that a sandbox may make, in groups, with what needs each group; and what a row of the table is:
calls, when they may be made, and why, or that they may not, and why.

A call that is in no row here is refused, by `refused.py` with its reason, and a test sees that every call the kernel
knows is in one of the two. Pure data.
"""

from __future__ import annotations

from sandboxrun.data import Data


class Argument(Data, kw_only=False):
    """A condition on one argument of a call, counted from 0.

    The filter compares all 64 bits, where the kernel often reads 32 of them: so conditions only ever say what is
    allowed, and a value with high bits set meets none. `mask` picks the bits that are compared (None: all).
    """

    index: int
    value: int
    mask: int | None = None


When = tuple[Argument, ...]  # all of them must hold


class Allowed(Data):
    """Calls that may be made: always, or where one of `when` holds.

    `variant` limits the row to the named variant of the profile, `capability` to sandboxes that have it.
    """

    title: str
    why: str
    calls: str  # names, separated by white space, so that a line can be read
    when: tuple[When, ...] = ()
    variant: str | None = None
    capability: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The calls' names, sorted."""
        return tuple(sorted(self.calls.split()))


class Denied(Data):
    """Calls that fail with `errno`. EPERM is what all unlisted calls give; another is written into the profile."""

    title: str
    why: str
    calls: str
    errno: int

    @property
    def names(self) -> tuple[str, ...]:
        """The calls' names, sorted."""
        return tuple(sorted(self.calls.split()))


AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET = 1, 2, 10, 16, 17
SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_TYPE = 1, 2, 3, 0xF
IPPROTO_IP, IPPROTO_TCP, IPPROTO_UDP, NETLINK_ROUTE = 0, 6, 17, 0
S_IFMT, S_IFIFO, S_IFREG, S_IFSOCK = 0xF000, 0x1000, 0x8000, 0xC000
# NEWNS NEWCGROUP NEWUTS NEWIPC NEWUSER NEWPID NEWNET; NEWTIME is a bit that clone uses otherwise
CLONE_NEW = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
ADDR_NO_RANDOMIZE, PERSONALITY_ASK = 0x0040000, 0xFFFFFFFF


def _internet(kind: int, protocol: int) -> tuple[tuple[Argument, ...], ...]:
    """Sockets of one kind and protocol, IPv4 and IPv6; the kind's high bits are NONBLOCK and CLOEXEC."""
    rest = (Argument(1, kind, SOCK_TYPE), Argument(2, protocol))
    return ((Argument(0, AF_INET), *rest), (Argument(0, AF_INET6), *rest))


ALLOWED = (
    Allowed(
        title="Files by descriptor",
        why="Every program reads and writes. What a descriptor is good for was decided when it was opened.",
        calls="""
            read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek close close_range
            dup dup2 dup3 fcntl flock ioctl fsync fdatasync sync syncfs sync_file_range fadvise64 readahead
            fallocate ftruncate copy_file_range sendfile splice tee pipe pipe2
        """,
    ),
    Allowed(
        title="Files by name",
        why="Checkouts, builds and installs. The mounts, the owner and the modes say which files these reach.",
        calls="""
            open openat openat2 creat stat fstat lstat newfstatat statx statfs fstatfs access faccessat faccessat2
            truncate rename renameat renameat2 mkdir mkdirat rmdir link linkat unlink unlinkat symlink symlinkat
            readlink readlinkat chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat umask
            utime utimes utimensat futimesat getdents getdents64 getcwd chdir fchdir
        """,
    ),
    Allowed(
        title="Extended attributes",
        why="cp, tar and git look for access lists; names that mean privilege need a capability.",
        calls="""
            getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr setxattr lsetxattr fsetxattr
            removexattr lremovexattr fremovexattr getxattrat listxattrat setxattrat removexattrat
        """,
    ),
    Allowed(
        title="Fifos and plain files by mknod",
        why="mkfifo, and make's job server. A device is refused here already, and by the missing capability.",
        calls="mknod",
        when=tuple((Argument(1, kind, S_IFMT),) for kind in (0, S_IFIFO, S_IFREG, S_IFSOCK)),
    ),
    Allowed(
        title="Fifos and plain files by mknodat",
        why="As mknod, with the mode one argument further.",
        calls="mknodat",
        when=tuple((Argument(2, kind, S_IFMT),) for kind in (0, S_IFIFO, S_IFREG, S_IFSOCK)),
    ),
    Allowed(
        title="Waiting for events",
        why="Event loops: libuv, asyncio, file watchers.",
        calls="""
            poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2
            eventfd eventfd2 signalfd signalfd4 inotify_init inotify_init1 inotify_add_watch inotify_rm_watch
            timerfd_create timerfd_settime timerfd_gettime
        """,
    ),
    Allowed(
        title="Memory",
        why="Allocators, node's just-in-time compiler (protection keys), shadow stacks, address checks by mincore.",
        calls="""
            brk mmap munmap mremap mprotect madvise msync mincore mlock mlock2 mlockall munlock munlockall membarrier
            memfd_create pkey_alloc pkey_free pkey_mprotect map_shadow_stack mseal
        """,
    ),
    Allowed(
        title="Processes",
        why="Starting programs, waiting for them and signalling them; the process limit bounds how many.",
        calls="""
            fork vfork execve execveat exit exit_group wait4 waitid kill tkill tgkill pidfd_open pidfd_send_signal
            getpid getppid gettid getpgid getpgrp setpgid getsid setsid set_tid_address restart_syscall pause
            arch_prctl prctl rseq rseq_slice_yield
        """,
    ),
    Allowed(
        title="The kernel's own trampolines",
        why="Made by the kernel in a program that is traced from the host; recent kernels let no filter see them.",
        calls="uprobe uretprobe",
    ),
    Allowed(
        title="Threads and children that share every namespace",
        why="clone with a flag that makes a namespace is refused: a user namespace gives back all capabilities inside.",
        calls="clone",
        when=((Argument(0, 0, CLONE_NEW),),),
    ),
    Allowed(
        title="Locks between threads",
        why="Every mutex and condition variable.",
        calls="futex futex_wait futex_wake futex_requeue futex_waitv set_robust_list",
    ),
    Allowed(
        title="Signals",
        why="Handlers, masks and stacks for them.",
        calls="""
            rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait rt_sigqueueinfo
            rt_tgsigqueueinfo sigaltstack
        """,
    ),
    Allowed(
        title="Clocks and timers",
        why="Reading the time and sleeping. Setting it is another row.",
        calls="""
            time gettimeofday clock_gettime clock_getres clock_nanosleep nanosleep times alarm getitimer setitimer
            timer_create timer_settime timer_gettime timer_getoverrun timer_delete
        """,
    ),
    Allowed(
        title="Who it is",
        why="su, git and tar ask and set ids; without capabilities only to ids that the process has anyway.",
        calls="""
            getuid geteuid getgid getegid getresuid getresgid getgroups setuid setgid setreuid setregid setresuid
            setresgid setgroups setfsuid setfsgid capget capset
        """,
    ),
    Allowed(
        title="Limits and scheduling",
        why="nice, thread pools that count processors, runtimes that raise their own soft limits. Hard limits hold.",
        calls="""
            getrlimit setrlimit prlimit64 getrusage getpriority setpriority ioprio_get ioprio_set sched_yield
            sched_getaffinity sched_setaffinity sched_getparam sched_setparam sched_getscheduler sched_setscheduler
            sched_getattr sched_setattr sched_get_priority_max sched_get_priority_min sched_rr_get_interval getcpu
        """,
    ),
    Allowed(
        title="About the system",
        why="uname and sysinfo tell what /proc tells too; getrandom is the one good source of random numbers.",
        calls="uname sysinfo getrandom",
    ),
    Allowed(
        title="Closing oneself further",
        why="A program that sandboxes its own parts (browsers, package builders). Both can only ever take away.",
        calls="seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self",
    ),
    Allowed(
        title="Using sockets",
        why="What a socket can reach was decided when it was made, and by the sandbox's network.",
        calls="""
            bind connect listen accept accept4 shutdown getsockname getpeername getsockopt setsockopt
            sendto sendmsg sendmmsg recvfrom recvmsg recvmmsg
        """,
    ),
    Allowed(
        title="Making sockets: local",
        why="Node's and Python's child processes talk over them. Only the sandbox's own paths and names are in reach.",
        calls="socket",
        when=((Argument(0, AF_UNIX),),),
    ),
    Allowed(
        title="Making sockets: TCP and UDP",
        why="The internet, as far as the sandbox's network goes. Other protocols load modules into the host's kernel.",
        calls="socket",
        when=(
            *_internet(SOCK_STREAM, IPPROTO_IP),
            *_internet(SOCK_STREAM, IPPROTO_TCP),
            *_internet(SOCK_DGRAM, IPPROTO_IP),
            *_internet(SOCK_DGRAM, IPPROTO_UDP),
        ),
    ),
    Allowed(
        title="Making sockets: asking for addresses",
        why="The C library resolves names and lists interfaces over netlink's routes; its other protocols stay closed.",
        calls="socket",
        when=((Argument(0, AF_NETLINK), Argument(2, NETLINK_ROUTE)),),
    ),
    Allowed(
        title="Pairs of local sockets",
        why="Pipes in both directions: asyncio, node's child processes.",
        calls="socketpair",
        when=((Argument(0, AF_UNIX),),),
    ),
    Allowed(
        title="Shared memory of System V",
        why="PostgreSQL does not start without one segment. They are charged to the sandbox's memory and end with it.",
        calls="shmget shmat shmdt shmctl",
    ),
    Allowed(
        title="Asking for the personality",
        why="Some runtimes ask at their start. Only the question and the usual Linux are allowed.",
        calls="personality",
        when=((Argument(0, 0),), (Argument(0, PERSONALITY_ASK),)),
    ),
    Allowed(
        title="Debugging",
        why="gdb and strace on the sandbox's own processes. Since Linux 4.8 the filter stands after the debugger, so "
        "that a call that it changes is judged as changed.",
        calls="ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd",
        variant="debug",
    ),
    Allowed(
        title="Debugging at fixed addresses",
        why="gdb starts its program without address randomisation.",
        calls="personality",
        when=((Argument(0, ADDR_NO_RANDOMIZE),),),
        variant="debug",
    ),
    Allowed(
        title="With SYS_PTRACE",
        why="The capability would mean nothing without the calls.",
        calls="ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd process_madvise",
        capability="SYS_PTRACE",
    ),
    Allowed(
        title="With SYS_CHROOT",
        why="The capability would mean nothing without the call.",
        calls="chroot",
        capability="SYS_CHROOT",
    ),
    Allowed(
        title="With SYS_TIME",
        why="The capability would mean nothing without the calls. The clock is the host's.",
        calls="settimeofday clock_settime adjtimex clock_adjtime",
        capability="SYS_TIME",
    ),
    Allowed(
        title="With MKNOD",
        why="The capability would mean nothing without device nodes; the device list still says which can be used.",
        calls="mknod mknodat",
        capability="MKNOD",
    ),
    Allowed(
        title="With NET_RAW",
        why="The capability would mean nothing without raw and packet sockets.",
        calls="socket",
        when=(
            (Argument(0, AF_INET), Argument(1, SOCK_RAW, SOCK_TYPE)),
            (Argument(0, AF_INET6), Argument(1, SOCK_RAW, SOCK_TYPE)),
            (Argument(0, AF_PACKET),),
        ),
        capability="NET_RAW",
    ),
    Allowed(
        title="With NET_ADMIN",
        why="Firewalls and tunnels inside the sandbox's own network are set up over other protocols of netlink.",
        calls="socket",
        when=((Argument(0, AF_NETLINK),),),
        capability="NET_ADMIN",
    ),
)
