"""The system calls that a sandbox may make, and those that it may not, in groups, each with its reason; and what a row
of the two tables is. A test sees that every call the kernel knows is in one of them. Pure data.

All that are refused give EPERM, as any call gives that no table names; one gives ENOSYS, since C libraries then fall
back. Calls newer than the newest that the engine's runtime knows give ENOSYS too. A 32-bit program (i386), or one of
x32, can't run: only the native entry is open, see docs/profile.md for what happens at the others.
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


EPERM, ENOSYS = 1, 38


class _Calls(Data):
    title: str
    why: str
    calls: str  # names, separated by white space, so that a line can be read

    @property
    def names(self) -> tuple[str, ...]:
        """The calls' names, sorted."""
        return tuple(sorted(self.calls.split()))


class Allowed(_Calls):
    """Calls that may be made: always, or where one of `when` holds.

    `variant` limits the row to the named variant of the profile, `capability` to sandboxes that have it.
    """

    when: tuple[When, ...] = ()
    variant: str | None = None
    capability: str | None = None


class Denied(_Calls):
    """Calls that fail with `errno`. EPERM is what all unlisted calls give; another is written into the profile."""

    errno: int = EPERM


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
        calls="""read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek close close_range
            dup dup2 dup3 fcntl flock ioctl fsync fdatasync sync syncfs sync_file_range fadvise64 readahead
            fallocate ftruncate copy_file_range sendfile splice tee pipe pipe2""",
    ),
    Allowed(
        title="Files by name",
        why="Checkouts, builds and installs. The mounts, the owner and the modes say which files these reach.",
        calls="""open openat openat2 creat stat fstat lstat newfstatat statx statfs fstatfs access faccessat
            faccessat2 truncate rename renameat renameat2 mkdir mkdirat rmdir link linkat unlink unlinkat symlink
            symlinkat readlink readlinkat chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat umask utime
            utimes utimensat futimesat getdents getdents64 getcwd chdir fchdir""",
    ),
    Allowed(
        title="Extended attributes",
        why="cp, tar and git look for access lists; names that mean privilege need a capability.",
        calls="""getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr setxattr lsetxattr fsetxattr
            removexattr lremovexattr fremovexattr getxattrat listxattrat setxattrat removexattrat""",
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
        calls="""poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2
            eventfd eventfd2 signalfd signalfd4 inotify_init inotify_init1 inotify_add_watch inotify_rm_watch
            timerfd_create timerfd_settime timerfd_gettime""",
    ),
    Allowed(
        title="Memory",
        why="Allocators, node's just-in-time compiler (protection keys), shadow stacks, address checks by mincore.",
        calls="""brk mmap munmap mremap mprotect madvise msync mincore mlock mlock2 mlockall munlock munlockall
            membarrier memfd_create pkey_alloc pkey_free pkey_mprotect map_shadow_stack mseal""",
    ),
    Allowed(
        title="Processes",
        why="Starting programs, waiting for them and signalling them; the process limit bounds how many.",
        calls="""fork vfork execve execveat exit exit_group wait4 waitid kill tkill tgkill pidfd_open
            pidfd_send_signal getpid getppid gettid getpgid getpgrp setpgid getsid setsid set_tid_address
            restart_syscall pause arch_prctl prctl rseq rseq_slice_yield""",
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
        calls="""rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait
            rt_sigqueueinfo rt_tgsigqueueinfo sigaltstack""",
    ),
    Allowed(
        title="Clocks and timers",
        why="Reading the time and sleeping. Setting it is another row.",
        calls="""time gettimeofday clock_gettime clock_getres clock_nanosleep nanosleep times alarm getitimer
            setitimer timer_create timer_settime timer_gettime timer_getoverrun timer_delete""",
    ),
    Allowed(
        title="Who it is",
        why="su, git and tar ask and set ids; without capabilities only to ids that the process has anyway.",
        calls="""getuid geteuid getgid getegid getresuid getresgid getgroups setuid setgid setreuid setregid
            setresuid setresgid setgroups setfsuid setfsgid capget capset""",
    ),
    Allowed(
        title="Limits and scheduling",
        why="nice, thread pools that count processors, runtimes that raise their own soft limits. Hard limits hold.",
        calls="""getrlimit setrlimit prlimit64 getrusage getpriority setpriority ioprio_get ioprio_set sched_yield
            sched_getaffinity sched_setaffinity sched_getparam sched_setparam sched_getscheduler sched_setscheduler
            sched_getattr sched_setattr sched_get_priority_max sched_get_priority_min sched_rr_get_interval getcpu""",
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
        calls="""bind connect listen accept accept4 shutdown getsockname getpeername getsockopt setsockopt sendto
            sendmsg sendmmsg recvfrom recvmsg recvmmsg""",
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

# Sockets that the conditions of `socket` leave out, for those who test it: name, family, kind, protocol, reason.
REFUSED_SOCKETS = (
    ("AF_VSOCK", 40, 1, 0, "reaches the hypervisor and its other guests, past every network rule"),
    ("AF_ALG", 38, 5, 0, "the kernel's own ciphers: large, rarely used, with a record of holes"),
    ("AF_PACKET", 17, 3, 0, "frames on the wire; needs NET_RAW as well"),
    ("AF_NETLINK, other than routes", 16, 3, 12, "firewall and generic netlink: a large part of the kernel"),
    ("AF_XDP", 44, 3, 0, "shares the card's queues with the kernel"),
    ("AF_BLUETOOTH", 31, 3, 1, "radios of the host"),
    ("AF_CAN", 29, 3, 1, "buses of the host"),
    ("AF_NFC", 39, 5, 1, "radios of the host"),
    ("AF_TIPC", 30, 1, 0, "a cluster's protocol: a module that opening a socket would load"),
    ("AF_RDS", 21, 5, 0, "a cluster's protocol: a module that opening a socket would load"),
    ("AF_KCM", 41, 5, 0, "message framing in the kernel"),
    ("AF_SMC", 43, 1, 0, "shared memory over networks: a module that opening a socket would load"),
    ("AF_QIPCRTR", 42, 2, 0, "a modem's protocol"),
    ("AF_KEY", 15, 3, 2, "the kernel's keys for IPsec"),
    ("AF_RXRPC", 33, 2, 2, "a network file system's calls"),
    ("AF_PPPOX", 24, 1, 0, "tunnels"),
    ("AF_MCTP", 45, 2, 0, "controllers on the host's board"),
    ("AF_X25", 9, 5, 0, "nobody needs it"),
    ("AF_APPLETALK", 5, 2, 0, "nobody needs it"),
    ("raw IPv4", 2, 3, 255, "packets of one's own making; needs NET_RAW as well"),
    ("ICMP", 2, 2, 1, "the gateway answers no ping"),
    ("SCTP", 2, 1, 132, "a module that opening a socket would load, with a record of holes"),
    ("DCCP", 2, 6, 33, "a module that opening a socket would load, with a record of holes"),
    ("MPTCP", 2, 1, 262, "TCP over several paths; programs fall back to TCP"),
    ("UDP-Lite", 2, 2, 136, "nobody needs it"),
)

REFUSED = (
    Denied(
        title="clone3",
        why="Its flags lie in memory, where no filter reads them. The C library then uses clone, whose flags one can.",
        calls="clone3",
        errno=ENOSYS,
    ),
    Denied(
        title="io_uring",
        why="Its operations run past every other row of this table, and many holes of the last years were in it.",
        calls="io_uring_setup io_uring_enter io_uring_register",
    ),
    Denied(
        title="Asynchronous I/O of old",
        why="Databases fall back without it. Its slots are counted for the whole host: one sandbox could use up all.",
        calls="io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents",
    ),
    Denied(
        title="Other processes' memory and descriptors",
        why="For debuggers, and with a record of holes in their checks; seccomp=debug opens them. Programs of one "
        "user are not apart from each other for that: /proc/PID/mem stays.",
        calls="ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd process_madvise process_mrelease",
    ),
    Denied(
        title="Namespaces",
        why="A namespace of one's own gives back all capabilities inside it, and with them most of the kernel.",
        calls="unshare setns",
    ),
    Denied(
        title="Mounts",
        why="What is mounted is the profile's to say. All need a capability, in this namespace.",
        calls="""mount umount2 pivot_root chroot open_tree open_tree_attr move_mount mount_setattr fsopen fsconfig
            fsmount fspick statmount listmount listns""",
    ),
    Denied(
        title="Files by handle",
        why="A handle names a file of the file system, mounted here or not: this is how a container's root was left.",
        calls="name_to_handle_at open_by_handle_at",
    ),
    Denied(
        title="Page faults in user space",
        why="Lets a program stop the kernel in the middle of an access, which makes races in it easy to win.",
        calls="userfaultfd",
    ),
    Denied(
        title="Pages given to pipes",
        why="Maps a program's pages into a pipe: used to win races in the kernel, and by next to no program.",
        calls="vmsplice",
    ),
    Denied(
        title="Hidden memory",
        why="Memory that even the host's tools can't look into.",
        calls="memfd_secret",
    ),
    Denied(
        title="Programs in the kernel, and its counters",
        why="BPF and perf are the largest interfaces of the kernel, and show what other programs do.",
        calls="bpf perf_event_open lookup_dcookie",
    ),
    Denied(
        title="The kernel's key rings",
        why="They are shared between containers of one uid, whatever namespaces these have.",
        calls="add_key request_key keyctl",
    ),
    Denied(
        title="Semaphores and messages of System V",
        why="Before Linux 5.16 their memory was charged to nobody. Today's programs use POSIX semaphores and sockets; "
        "fakeroot has a variant that does (fakeroot-tcp).",
        calls="semget semop semctl semtimedop msgget msgsnd msgrcv msgctl",
    ),
    Denied(
        title="POSIX message queues",
        why="Their limit is counted by uid over all sandboxes: one could use up the others'.",
        calls="mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr",
    ),
    Denied(
        title="Watching whole file systems",
        why="Reports what happens on every mount of a file system, other containers' included; needs a capability.",
        calls="fanotify_init fanotify_mark",
    ),
    Denied(
        title="Where memory lies",
        why="Placement on the nodes of large machines: numerical libraries do without, moving pages shows addresses.",
        calls="mbind set_mempolicy get_mempolicy set_mempolicy_home_node migrate_pages move_pages",
    ),
    Denied(
        title="The page cache's state",
        why="Tells which files of the host's cache others have read. (mincore shows that for one's own files only.)",
        calls="cachestat",
    ),
    Denied(
        title="Segments, ports and old memory calls of x86",
        why="For 16-bit programs, drivers and one long forgotten trick; each had holes that led into the kernel.",
        calls="modify_ldt iopl ioperm remap_file_pages set_thread_area get_thread_area get_robust_list",
    ),
    Denied(
        title="The clock",
        why="It is the host's.",
        calls="settimeofday clock_settime adjtimex clock_adjtime",
    ),
    Denied(
        title="The machine",
        why="Its kernel, modules, swap, power, names, accounting, quotas and log are the host's.",
        calls="""init_module finit_module delete_module create_module query_module get_kernel_syms kexec_load
            kexec_file_load reboot swapon swapoff acct quotactl quotactl_fd syslog sethostname setdomainname vhangup""",
    ),
    Denied(
        title="Attributes of files beyond their mode",
        why="Immutable, append only, project quotas: they outlive the sandbox on a host's file.",
        calls="file_getattr file_setattr",
    ),
    Denied(
        title="Security modules by call",
        why="Nothing uses them yet.",
        calls="lsm_get_self_attr lsm_set_self_attr lsm_list_modules",
    ),
    Denied(
        title="Without a body",
        why="Numbers that today's kernels answer with ENOSYS, or that only programs of the nineties used.",
        calls="""uselib ustat sysfs _sysctl nfsservctl getpmsg putpmsg afs_syscall tuxcall security vserver
            epoll_ctl_old epoll_wait_old""",
    ),
)
