/* What may end the sandbox: each has a start of its own. */
#include "probe.h"

static long pids[65536];

/* Forks until that fails, or `most` are there; they wait to be killed. */
void fill_processes(void)
{
    const char *told_most = told("most");
    long most = told_most == NULL ? 0 : number(told_most, NULL), made = 0, last = 0;
    int status;

    say("processes.begin");
    field_number("most", most);
    done();
    while (made < most && made < (long)(sizeof pids / sizeof *pids) && (last = fork_child()) >= 0) {
        if (last == 0) {
            CALL(__NR_prctl, 1, SIG_KILL); /* none outlives us */
            sleep_ms(20000);
            leave(0);
        }
        pids[made++] = last;
    }
    say("processes");
    field_number("made", made);
    field_result("last", last);
    done();
    for (long i = 0; i < made; i++)
        CALL(__NR_kill, pids[i], SIG_KILL);
    for (long i = 0; i < made; i++)
        wait_for(pids[i], &status);
}

void fill_memory(void)
{
    const char *bytes = told("bytes");
    long size = bytes == NULL ? 0 : number(bytes, NULL), taken = 0;
    long at = CALL(__NR_mmap, 0, size, 3, 0x22, -1, 0);

    say("memory.begin");
    field_number("bytes", size);
    field_result("map", at < 0 && at > -4096 ? at : 0);
    done();
    if (at < 0 && at > -4096)
        return;
    sleep_ms(1000); /* a busy engine of 20.10 listens for the kernel's word only some time after the start */
    for (; taken < size; taken += 4096)
        *(volatile char *)(at + taken) = 1;
    say("memory");
    field_number("taken", taken);
    done();
}

void be_stubborn(void)
{
    static const int signals[] = {1, 2, 3, 13, SIG_TERM, 10, 12};
    const char *told_seconds = told("seconds");
    long seconds = told_seconds == NULL ? 0 : number(told_seconds, NULL);
    struct { void *handler; unsigned long flags; void *restorer; uint64_t mask; } ignore = {(void *)1, 0, NULL, 0};

    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        CALL(__NR_rt_sigaction, signals[i], &ignore, NULL, 8);
    say("stubborn.begin");
    field_number("seconds", seconds);
    done();
    sleep_ms(seconds * 1000);
    say("stubborn");
    field("outlived", "yes");
    done();
}
