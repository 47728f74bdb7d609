/*
 * helper: how a thread of the collector is asked, answers, ends, or is left. See helper.h.
 *
 * Called by world.c. Data: a helper, of two threads: the cycle's, which asks, and its own.
 *
 *   asks      job, then asked: what is to be done stands before that it is to be done
 *   answers   nanswers, then answered: what has come of it stands before both. nanswers says the same as answered, for
 *             who checks the order of what threads touch
 *
 * Between the two all that the job is about is the helper's; before and after it is the asker's. The one word that is
 * read meanwhile is `at`, which the helper writes. `runs` and `is_late` are the asker's alone. A job that was not begun
 * is overtaken by the next one, and if that is to end, it ends.
 *
 * A helper that waits in the kernel for what does not come, nothing wakes. Who has asked stops waiting, and marks it as
 * late; what the job is about stays the helper's until it has ended. So if it does not even then, when it may get what
 * it has waited for, it is left with all of that, helper and semaphores too: none of it may be freed.
 *
 * If the process dies at any point, its helpers do, and the kernel lets go of whom they have traced.
 */
#include "client/collector/helper.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "client/collector/proc.h"

static void *run(void *arg)
{
    helper *h = arg;

    h->tid = (pid_t)syscall(SYS_gettid);
    h->run(h);
    return NULL;
}

int helper_begin(helper *h, void (*what)(helper *h), void *arg)
{
    sigset_t all, before;
    int r;

    *h = (helper){ .run = what, .arg = arg };
    if (sem_init(&h->asked, 0, 0) < 0 || sem_init(&h->answered, 0, 0) < 0)
        return -errno;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    r = pthread_create(&h->thread, NULL, run, h);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    h->runs = r == 0;
    return -r;
}

void helper_ask(helper *h, int job)
{
    atomic_store(&h->job, job);
    (void)sem_post(&h->asked);
}

void helper_answer(helper *h)
{
    atomic_fetch_add(&h->nanswers, 1);
    (void)sem_post(&h->answered);
}

int helper_next_job(helper *h, uint64_t spin_ns)
{
    uint64_t until = spin_ns > 0 ? proc_now_ns() + spin_ns : 0;

    while (spin_ns > 0 && proc_now_ns() < until) {
        if (sem_trywait(&h->asked) == 0)
            return atomic_load(&h->job);
        (void)sched_yield();
    }
    while (sem_wait(&h->asked) < 0)
        continue;
    return atomic_load(&h->job);
}

static struct timespec at_ns(uint64_t ns)
{
    return (struct timespec){ (time_t)(ns / 1000000000u), (long)(ns % 1000000000u) };
}

bool helper_await(helper *h, uint64_t until_ns)
{
    struct timespec until = at_ns(until_ns);
    int r;

    do
        r = until_ns == UINT64_MAX ? sem_wait(&h->answered) : sem_clockwait(&h->answered, CLOCK_MONOTONIC, &until);
    while (r < 0 && errno == EINTR);
    return r == 0 && atomic_load(&h->nanswers) > 0;
}

void helper_join(helper *h)
{
    pid_t self = getpid();

    (void)pthread_join(h->thread, NULL);
    while (syscall(SYS_tgkill, self, h->tid, 0) == 0)
        (void)sched_yield(); /* what is left of the thread lets its tracees go in these microseconds */
    h->runs = false;
}

bool helper_join_or_leave(helper *h, uint64_t patience_ns, uint64_t stuck_ns)
{
    uint64_t now = proc_now_ns();
    struct timespec until = at_ns(now + stuck_ns);

    h->runs = false;
    if (h->is_late ? pthread_clockjoin_np(h->thread, NULL, CLOCK_MONOTONIC, &until) == 0
                   : helper_await(h, now + patience_ns) && pthread_join(h->thread, NULL) == 0)
        return true;
    (void)pthread_detach(h->thread);
    return false;
}
