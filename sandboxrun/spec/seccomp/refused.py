"""The system calls that a sandbox may not make, in groups, with the reason. Pure data.

All give EPERM, as any call gives that no table names; one gives ENOSYS, since C libraries then fall back. Calls newer
than the newest that the engine's runtime knows give ENOSYS too. A 32-bit program (i386), or one of x32, can't run:
only the native entry is open, see docs/profile.md for what happens at the others.
"""

from __future__ import annotations

from sandboxrun.spec.seccomp.allowed import Denied

EPERM, ENOSYS = 1, 38

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
        errno=EPERM,
    ),
    Denied(
        title="Asynchronous I/O of old",
        why="Databases fall back without it. Its slots are counted for the whole host: one sandbox could use up all.",
        calls="io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents",
        errno=EPERM,
    ),
    Denied(
        title="Other processes' memory and descriptors",
        why="For debuggers, and with a record of holes in their checks; seccomp=debug opens them. Programs of one "
        "user are not apart from each other for that: /proc/PID/mem stays.",
        calls="ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd process_madvise process_mrelease",
        errno=EPERM,
    ),
    Denied(
        title="Namespaces",
        why="A namespace of one's own gives back all capabilities inside it, and with them most of the kernel.",
        calls="unshare setns",
        errno=EPERM,
    ),
    Denied(
        title="Mounts",
        why="What is mounted is the profile's to say. All need a capability, in this namespace.",
        calls="""
            mount umount2 pivot_root chroot open_tree open_tree_attr move_mount mount_setattr fsopen fsconfig
            fsmount fspick statmount listmount listns
        """,
        errno=EPERM,
    ),
    Denied(
        title="Files by handle",
        why="A handle names a file of the file system, mounted here or not: this is how a container's root was left.",
        calls="name_to_handle_at open_by_handle_at",
        errno=EPERM,
    ),
    Denied(
        title="Page faults in user space",
        why="Lets a program stop the kernel in the middle of an access, which makes races in it easy to win.",
        calls="userfaultfd",
        errno=EPERM,
    ),
    Denied(
        title="Pages given to pipes",
        why="Maps a program's pages into a pipe: used to win races in the kernel, and by next to no program.",
        calls="vmsplice",
        errno=EPERM,
    ),
    Denied(
        title="Hidden memory",
        why="Memory that even the host's tools can't look into.",
        calls="memfd_secret",
        errno=EPERM,
    ),
    Denied(
        title="Programs in the kernel, and its counters",
        why="BPF and perf are the largest interfaces of the kernel, and show what other programs do.",
        calls="bpf perf_event_open lookup_dcookie",
        errno=EPERM,
    ),
    Denied(
        title="The kernel's key rings",
        why="They are shared between containers of one uid, whatever namespaces these have.",
        calls="add_key request_key keyctl",
        errno=EPERM,
    ),
    Denied(
        title="Semaphores and messages of System V",
        why="Before Linux 5.16 their memory was charged to nobody. Today's programs use POSIX semaphores and sockets; "
        "fakeroot has a variant that does (fakeroot-tcp).",
        calls="semget semop semctl semtimedop msgget msgsnd msgrcv msgctl",
        errno=EPERM,
    ),
    Denied(
        title="POSIX message queues",
        why="Their limit is counted by uid over all sandboxes: one could use up the others'.",
        calls="mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr",
        errno=EPERM,
    ),
    Denied(
        title="Watching whole file systems",
        why="Reports what happens on every mount of a file system, other containers' included; needs a capability.",
        calls="fanotify_init fanotify_mark",
        errno=EPERM,
    ),
    Denied(
        title="Where memory lies",
        why="Placement on the nodes of large machines: numerical libraries do without, moving pages shows addresses.",
        calls="mbind set_mempolicy get_mempolicy set_mempolicy_home_node migrate_pages move_pages",
        errno=EPERM,
    ),
    Denied(
        title="The page cache's state",
        why="Tells which files of the host's cache others have read. (mincore shows that for one's own files only.)",
        calls="cachestat",
        errno=EPERM,
    ),
    Denied(
        title="Segments, ports and old memory calls of x86",
        why="For 16-bit programs, drivers and one long forgotten trick; each had holes that led into the kernel.",
        calls="modify_ldt iopl ioperm remap_file_pages set_thread_area get_thread_area get_robust_list",
        errno=EPERM,
    ),
    Denied(
        title="The clock",
        why="It is the host's.",
        calls="settimeofday clock_settime adjtimex clock_adjtime",
        errno=EPERM,
    ),
    Denied(
        title="The machine",
        why="Its kernel, modules, swap, power, names, accounting, quotas and log are the host's.",
        calls="""
            init_module finit_module delete_module create_module query_module get_kernel_syms kexec_load
            kexec_file_load reboot swapon swapoff acct quotactl quotactl_fd syslog sethostname setdomainname vhangup
        """,
        errno=EPERM,
    ),
    Denied(
        title="Attributes of files beyond their mode",
        why="Immutable, append only, project quotas: they outlive the sandbox on a host's file.",
        calls="file_getattr file_setattr",
        errno=EPERM,
    ),
    Denied(
        title="Security modules by call",
        why="Nothing uses them yet.",
        calls="lsm_get_self_attr lsm_set_self_attr lsm_list_modules",
        errno=EPERM,
    ),
    Denied(
        title="Without a body",
        why="Numbers that today's kernels answer with ENOSYS, or that only programs of the nineties used.",
        calls="""
            uselib ustat sysfs _sysctl nfsservctl getpmsg putpmsg afs_syscall tuxcall security vserver
            epoll_ctl_old epoll_wait_old
        """,
        errno=EPERM,
    ),
)
