/*
 * System calls that are to be refused, each with arguments that change nothing where it is let through: what is let
 * through fails for another reason than permission, or works on the caller alone, in a child that ends at once.
 */
#include "probe.h"

#define NEW_USER 0x10000000
#define NEW_MOUNT 0x00020000
#define NEW_NET 0x40000000
#define SIZE(of) (sizeof of / sizeof *of)

static long zeros[32];
static char space[256];

static long io_uring(const void *unused) { (void)unused; return CALL(NR_IO_URING_SETUP, 1, zeros); }
static long trace(const void *unused) { (void)unused; return CALL(__NR_ptrace, 0); } /* PTRACE_TRACEME */
static long user_faults(const void *unused) { (void)unused; return CALL(__NR_userfaultfd, 0); }
static long bpf(const void *unused) { (void)unused; return CALL(__NR_bpf, 0, zeros, 0); }
static long perf(const void *unused) { (void)unused; return CALL(__NR_perf_event_open, NULL, 0, -1, -1, 0); }
static long key_control(const void *unused) { (void)unused; return CALL(__NR_keyctl, 0, -2, 0); }
static long key_add(const void *unused) { (void)unused; return CALL(__NR_add_key, NULL, NULL, NULL, 0, -2); }
static long key_request(const void *unused) { (void)unused; return CALL(__NR_request_key, NULL, NULL, NULL, -2); }
static long unshare_user(const void *unused) { (void)unused; return CALL(__NR_unshare, NEW_USER); }
static long unshare_mount(const void *unused) { (void)unused; return CALL(__NR_unshare, NEW_MOUNT); }
static long unshare_net(const void *unused) { (void)unused; return CALL(__NR_unshare, NEW_NET); }
static long set_namespace(const void *unused) { (void)unused; return CALL(__NR_setns, -1, 0); }
static long mount_nothing(const void *unused) { (void)unused; return CALL(__NR_mount, "none", "/", "no-such", 0, NULL); }
static long umount_nothing(const void *unused) { (void)unused; return CALL(__NR_umount2, "/", 0x40000000); }
static long pivot(const void *unused) { (void)unused; return CALL(__NR_pivot_root, NULL, NULL); }
static long change_root(const void *unused) { (void)unused; return CALL(__NR_chroot, "/"); }
static long fs_open(const void *unused) { (void)unused; return CALL(NR_FSOPEN, "no-such", 0); }
static long tree_open(const void *unused) { (void)unused; return CALL(NR_OPEN_TREE, AT_HERE, "/", 1); }
static long mount_move(const void *unused) { (void)unused; return CALL(NR_MOVE_MOUNT, -1, "", -1, "", 0); }
static long mount_attributes(const void *unused) { (void)unused; return CALL(NR_MOUNT_SETATTR, -1, "x", 0, zeros, 32); }
static long handle_open(const void *unused) { (void)unused; return CALL(__NR_open_by_handle_at, -1, zeros, 0); }
static long secret_memory(const void *unused) { (void)unused; return CALL(NR_MEMFD_SECRET, 0); }
static long splice_memory(const void *unused) { (void)unused; return CALL(__NR_vmsplice, -1, NULL, 0, 0); }
static long module_init(const void *unused) { (void)unused; return CALL(__NR_init_module, NULL, 0, ""); }
static long module_file(const void *unused) { (void)unused; return CALL(__NR_finit_module, -1, "", 0); }
static long module_delete(const void *unused) { (void)unused; return CALL(__NR_delete_module, NULL, 0); }
static long kexec(const void *unused) { (void)unused; return CALL(__NR_kexec_load, 0, 0, NULL, 0xffff); }
static long restart(const void *unused) { (void)unused; return CALL(__NR_reboot, 0, 0, 0, NULL); } /* no magic */
static long swap_on(const void *unused) { (void)unused; return CALL(__NR_swapon, NULL, 0); }
static long account(const void *unused) { (void)unused; return CALL(__NR_acct, "/.sandboxrun-no-such-file"); }
static long kernel_log(const void *unused) { (void)unused; return CALL(__NR_syslog, 10, NULL, 0); }
static long file_watch(const void *unused) { (void)unused; return CALL(__NR_fanotify_init, 0, 0); }
static long take_descriptor(const void *unused) { (void)unused; return CALL(NR_PIDFD_GETFD, -1, 0, 0); }
static long advise(const void *unused) { (void)unused; return CALL(NR_PROCESS_MADVISE, -1, NULL, 0, 0, 0); }
static long host_name(const void *unused) { (void)unused; return CALL(__NR_sethostname, NULL, 1000); }
static long set_clock(const void *unused) { (void)unused; return CALL(__NR_clock_settime, 99, zeros); }
static long quota(const void *unused) { (void)unused; return CALL(__NR_quotactl, 0, NULL, 0, NULL); }
static long queue(const void *unused) { (void)unused; return CALL(__NR_mq_open, NULL, 0, 0, NULL); }
static long io_old(const void *unused) { (void)unused; return CALL(__NR_io_setup, 0, NULL); }
static long memory_policy(const void *unused) { (void)unused; return CALL(__NR_get_mempolicy, NULL, NULL, 0, NULL, 0); }
static long persona(const void *unused) { (void)unused; return CALL(__NR_personality, 0x0040000); }

static long compare(const void *unused)
{
    long self = CALL(__NR_getpid);

    (void)unused;
    return CALL(__NR_kcmp, self, self, 0, 0, 0);
}

static long other_memory(long call)
{
    char from[8] = {0}, to[8];
    struct { void *base; size_t size; } one = {to, sizeof to}, two = {from, sizeof from};

    return CALL(call, CALL(__NR_getpid), &one, 1, &two, 1, 0);
}

static long read_memory(const void *unused) { (void)unused; return other_memory(__NR_process_vm_readv); }
static long write_memory(const void *unused) { (void)unused; return other_memory(__NR_process_vm_writev); }

static long clone_into(const void *flags)
{
    int status;
    long pid = CALL(__NR_clone, *(const long *)flags | SIG_CHILD);

    if (pid == 0)
        leave(0);
    if (pid > 0)
        wait_for(pid, &status);
    return pid;
}

static long clone_user(const void *unused) { static const long flags = NEW_USER; (void)unused; return clone_into(&flags); }
static long clone_new(const void *unused) { (void)unused; return CALL(NR_CLONE3, NULL, 0); }

static long handle_name(const void *unused)
{
    int mount;

    (void)unused;
    memset(space, 0, sizeof space);
    return CALL(__NR_name_to_handle_at, AT_HERE, "/", space, &mount, 0);
}

static long semaphores(const void *unused)
{
    long id = CALL(__NR_semget, 0, 1, 0600 | 01000);

    (void)unused;
    if (id >= 0)
        CALL(__NR_semctl, id, 0, 0, 0);
    return id;
}

static long messages(const void *unused)
{
    long id = CALL(__NR_msgget, 0, 0600 | 01000);

    (void)unused;
    if (id >= 0)
        CALL(__NR_msgctl, id, 0, NULL);
    return id;
}

#if defined(__x86_64__)
static long local_table(const void *unused) { (void)unused; return CALL(__NR_modify_ldt, 0, zeros, 0); }
static long port_access(const void *unused) { (void)unused; return CALL(__NR_iopl, 3); }
static long entry_x32(const void *unused) { (void)unused; return CALL(0x40000000 | __NR_getpid); }

static long entry_i386(const void *unused)
{
    long result = 20; /* getpid */

    (void)unused;
    __asm__ volatile("int $0x80" : "+a"(result) : : "memory", "r8", "r9", "r10", "r11");
    return (int)result;
}
#endif

void probe_calls(void)
{
    static const struct {
        const char *name;
        long (*call)(const void *);
    } calls[] = {
        {"io_uring_setup", io_uring}, {"ptrace", trace}, {"process_vm_readv", read_memory},
        {"process_vm_writev", write_memory}, {"process_madvise", advise}, {"pidfd_getfd", take_descriptor},
        {"kcmp", compare}, {"userfaultfd", user_faults}, {"bpf", bpf}, {"perf_event_open", perf},
        {"keyctl", key_control}, {"add_key", key_add}, {"request_key", key_request},
        {"unshare.user", unshare_user}, {"unshare.mount", unshare_mount}, {"unshare.net", unshare_net},
        {"clone.user", clone_user}, {"clone3", clone_new}, {"setns", set_namespace},
        {"mount", mount_nothing}, {"umount2", umount_nothing}, {"pivot_root", pivot}, {"chroot", change_root},
        {"fsopen", fs_open}, {"open_tree", tree_open}, {"move_mount", mount_move},
        {"mount_setattr", mount_attributes}, {"open_by_handle_at", handle_open}, {"name_to_handle_at", handle_name},
        {"memfd_secret", secret_memory}, {"vmsplice", splice_memory}, {"init_module", module_init},
        {"finit_module", module_file}, {"delete_module", module_delete}, {"kexec_load", kexec}, {"reboot", restart},
        {"swapon", swap_on}, {"acct", account}, {"syslog", kernel_log}, {"fanotify_init", file_watch},
        {"sethostname", host_name}, {"clock_settime", set_clock}, {"quotactl", quota}, {"personality", persona},
        {"semget", semaphores}, {"msgget", messages}, {"mq_open", queue}, {"io_setup", io_old},
        {"get_mempolicy", memory_policy},
#if defined(__x86_64__)
        {"modify_ldt", local_table}, {"iopl", port_access}, {"i386", entry_i386}, {"x32", entry_x32},
#endif
    };

    say("calls");
    for (size_t i = 0; i < SIZE(calls); i++)
        field_result(calls[i].name, attempt(calls[i].call, NULL, 1000));
    done();
}
