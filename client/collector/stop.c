// clang-format off: it would fill the list's lines up
/*
 * stop: ptrace. See stop.h.
 *
 * Called by world.c in the tracer thread; stop_check() once more in the caller's, when nobody looks any more. Data: the
 * threads and processes of targets, which nobody else writes meanwhile.
 *
 *   seize      PTRACE_SEIZE stops nobody. From then on the kernel traces what a thread clones and forks from its first
 *              instruction on, and reports it. Threads that were cloned meanwhile by one that was not traced yet are
 *              found by listing the process's threads until nothing is new.
 *   meanwhile  a traced thread stops when a signal comes, when it clones, forks or execs, and when its process is
 *              stopped by a signal. pump() sends it on at once: with its signal; or, if a signal has stopped the
 *              process, so that it stays stopped (PTRACE_LISTEN). Who execs has no heap any more, and is let go.
 *   stop       PTRACE_INTERRUPT to all, then wait for each, not longer than the deadline. Now each stop counts,
 *              whatever it is for. A process is stopped if as many of its threads are as the kernel counts; processes
 *              that were being forked when their parent was seized are looked for last.
 *   let go     by the end of the tracer, or, of very many threads, each by PTRACE_DETACH, with the signal that it was
 *              about to take.
 *
 * Signals are not lost, even if this process is killed: no stop that may have one is ever consumed (WNOWAIT), so the
 * kernel still has the signal and delivers it when the tracer is gone. A process that a signal has stopped stays so:
 * the kernel remembers it, and does again what a SIGCONT has undone meanwhile.
 *
 * What can't be stopped: a thread that waits in the kernel for a device or for its vfork() child (it is late), one that
 * another tracer has, threads of the kernel that work for an io_uring (the process is opaque then).
 *
 * If the process dies between any two instructions: the kernel detaches all tracees of a thread that ends, also those
 * that it attached by itself and nobody has heard of yet. PTRACE_O_EXITKILL is never set.
 */
// clang-format on
#include "client/collector/stop.h"

#include <errno.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "shm/crash.h"

#ifndef __WNOTHREAD
#define __WNOTHREAD 0x20000000
#endif
#define SEIZE_TRIES 10u
#define SEIZE_NAP_NS 500000
#define TRACE_OPTIONS (PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC)
#define LOOK (WEXITED | WSTOPPED | WNOHANG | __WALL | __WNOTHREAD)
#define NAP_NS 20000u
#define NAPS_UNTIL_ASKED 50u

static int no_memory(world_trouble *ret)
{
    return trouble_is(ret, -ENOMEM, 0, "no memory");
}

static bool is_stop_signal(int signal)
{
    return signal == SIGSTOP || signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU;
}

/* The process of a thread that the kernel has begun to trace. */
static int64_t process_of(targets *t, pid_t tid)
{
    int64_t pid = proc_status(tid, "Tgid");
    target_process *known;
    proc_facts facts = { 0 };

    if (pid <= 0)
        return -ESRCH;
    known = targets_process(t, (pid_t)pid);
    if (known != NULL)
        return known - t->processes;
    if (proc_facts_of((pid_t)pid, &facts) < 0)
        return -ESRCH;
    return targets_add_process(t, (pid_t)pid, TARGET_NO_SESSION, facts.started);
}

/* A thread that is traced by now, and was not known. NULL: it is gone, or (*ret_r < 0) there is no memory. */
static target_thread *learn(targets *t, pid_t tid, int *ret_r)
{
    target_thread *thread = targets_thread(t, tid);
    int64_t process, index;

    if (thread != NULL)
        return thread;
    process = process_of(t, tid);
    index = process < 0 ? process : targets_add_thread(t, tid, (uint32_t)process);
    if (index < 0) {
        if (index == -ENOMEM)
            *ret_r = -ENOMEM;
        return NULL;
    }
    return &t->threads[index];
}

/* The child that a stop for fork or clone tells of is traced; it stops by itself, soon. */
static int learn_child(targets *t, pid_t tid)
{
    unsigned long child = 0;
    int r = 0;

    if (ptrace(PTRACE_GETEVENTMSG, tid, NULL, &child) == 0 && child != 0)
        (void)learn(t, (pid_t)child, &r);
    return r;
}

/*
 * It runs another program, with one thread, and without a heap. The stop is consumed first, the only one that is: it has
 * no signal that could be lost; and if another thread than the first has called execve(), so that its number has changed,
 * the kernel refuses all requests (ESRCH) until then, and would report the stop for ever.
 */
static void forget_process(targets *t, pid_t tid)
{
    target_process *process = targets_process(t, tid);
    siginfo_t info;

    if (process != NULL) {
        process->gone = true;
        for (uint32_t i = process->last_thread; i != TARGET_NO_THREAD; i = t->threads[i].next)
            t->threads[i].state = TARGET_GONE;
    }
    (void)waitid(P_PID, (id_t)tid, &info, WSTOPPED | WNOHANG | __WALL | __WNOTHREAD);
    (void)ptrace(PTRACE_DETACH, tid, NULL, NULL);
}

static void consume_exit(targets *t, pid_t tid)
{
    target_thread *thread = targets_thread(t, tid);
    siginfo_t info;

    (void)waitid(P_PID, (id_t)tid, &info, WEXITED | WNOHANG | __WALL | __WNOTHREAD);
    if (thread != NULL)
        thread->state = TARGET_GONE;
}

static bool is_exit(const siginfo_t *info)
{
    return info->si_code == CLD_EXITED || info->si_code == CLD_KILLED || info->si_code == CLD_DUMPED;
}

/* Send a thread on that has stopped before all are to. */
static int send_on(targets *t, pid_t tid, int status)
{
    int signal = status & 0x7f, event = status >> 8, r = 0;

    switch (event) {
    case PTRACE_EVENT_EXEC:
        forget_process(t, tid);
        return 0;
    case PTRACE_EVENT_FORK:
    case PTRACE_EVENT_VFORK:
    case PTRACE_EVENT_CLONE:
        r = learn_child(t, tid);
        break;
    default:
        (void)learn(t, tid, &r);
        break;
    }
    if (event == PTRACE_EVENT_STOP && is_stop_signal(signal))
        (void)ptrace(PTRACE_LISTEN, tid, NULL, NULL);
    else
        (void)ptrace(PTRACE_CONT, tid, NULL, (void *)(intptr_t)(event == 0 ? signal : 0));
    return r;
}

/* Whoever of the traced has stopped or ended is sent on, or forgotten. Returns at once. */
static int pump(targets *t)
{
    int r = 0;

    while (r == 0) {
        siginfo_t info = { 0 };

        if (waitid(P_ALL, 0, &info, LOOK | WNOWAIT) < 0 || info.si_pid == 0)
            break; /* nobody traced, or nothing to report */
        if (is_exit(&info))
            consume_exit(t, info.si_pid);
        else
            r = send_on(t, info.si_pid, info.si_status);
    }
    return r;
}

static void pump_between(void *arg)
{
    (void)pump(arg);
}

/* PTRACE_SEIZE was refused. 0: it is gone, or counts as stopped. */
static int refused(targets *t, uint32_t process, pid_t tid, bool trust_kernel, world_trouble *ret)
{
    proc_facts facts = { 0 };
    int64_t index;

    if (proc_facts_of(tid, &facts) < 0 || facts.state == 'Z' || facts.state == 'X')
        return 0;
    if (proc_status(tid, "TracerPid") == syscall(SYS_gettid)) {
        int r = 0;

        return learn(t, tid, &r) == NULL && r < 0 ? no_memory(ret) : 0;
    }
    if ((facts.flags & (PROC_IO_WORKER | PROC_USER_WORKER)) == 0) {
        int r = targets_no_permission(ret, tid);

        ret->pid = t->processes[process].pid;
        return r;
    }
    if (!trust_kernel)
        return trouble_is(ret, -EOPNOTSUPP, t->processes[process].pid,
                          "process %d has an io_uring, where the kernel may keep pointers", t->processes[process].pid);
    index = targets_add_thread(t, tid, process);
    if (index < 0)
        return no_memory(ret);
    t->threads[index].state = TARGET_WORKER;
    return 0;
}

/* True if the thread lives, and nothing of it says why it could not be seized. */
static bool is_unexplained(pid_t tid)
{
    proc_facts facts = { 0 };

    return proc_facts_of(tid, &facts) == 0 && facts.state != 'Z' && facts.state != 'X' &&
           (facts.flags & (PROC_IO_WORKER | PROC_USER_WORKER)) == 0 && proc_status(tid, "TracerPid") == 0;
}

/*
 * 0, or -1 with errno. A thread that is at its end, or whose number another one is just taking by an exec, is refused
 * for a moment as one is that may not be traced: so that is believed when it lasts.
 */
static int seize(pid_t tid)
{
    for (unsigned i = 0;; i++) {
        int error;

        if (ptrace(PTRACE_SEIZE, tid, NULL, (void *)TRACE_OPTIONS) == 0)
            return 0;
        error = errno;
        if (error != EPERM || i == SEIZE_TRIES || !is_unexplained(tid)) {
            errno = error;
            return -1;
        }
        (void)nanosleep(&(struct timespec){ .tv_nsec = SEIZE_NAP_NS }, NULL);
    }
}

/* Seize the process's threads that are not traced yet. *ret_n: how many. */
static int seize_threads(targets *t, uint32_t process, bool trust_kernel, uint32_t *ret_n, world_trouble *ret)
{
    pid_t pid = t->processes[process].pid;
    proc_list list = { 0 };
    int r;

    *ret_n = 0;
    r = proc_list_read(&list, pid, "task");
    if (r < 0) {
        proc_list_free(&list);
        return r == -ENOMEM ? no_memory(ret) : 0; /* it has ended: see stop_check() */
    }
    for (size_t i = 0; i < list.n && r == 0; i++) {
        pid_t tid = list.at[i];

        if (targets_thread(t, tid) != NULL)
            continue;
        if (seize(tid) == 0) {
            (*ret_n)++;
            if (targets_add_thread(t, tid, process) < 0)
                r = no_memory(ret);
        } else if (errno != ESRCH) {
            r = refused(t, process, tid, trust_kernel, ret);
        }
    }
    proc_list_free(&list);
    return r;
}

static int seize_process(targets *t, uint32_t process, bool trust_kernel, world_trouble *ret)
{
    uint32_t n = 1, quiet = 0;
    int r = 0;

    /* Twice nothing new: a list may end early when a thread ends. What it misses is found when all are stopped. */
    while (r == 0 && quiet < 2) {
        r = seize_threads(t, process, trust_kernel, &n, ret);
        quiet = n == 0 ? quiet + 1 : 0;
        if (r == 0 && pump(t) < 0)
            r = no_memory(ret);
    }
    t->processes[process].seized = true;
    return r;
}

static int seize_new(targets *t, bool trust_kernel, world_trouble *ret)
{
    int r = 0;

    for (uint32_t i = 0; i < t->nprocesses && r == 0; i++) {
        if (!t->processes[i].seized && !t->processes[i].gone)
            r = seize_process(t, i, trust_kernel, ret);
    }
    return r;
}

/* A thread of it that has been stopped; 0: none. A signal that kills wakes all of them, at once. */
static pid_t stopped_thread(const targets *t, const target_process *process)
{
    for (uint32_t i = process->last_thread; i != TARGET_NO_THREAD; i = t->threads[i].next) {
        if (t->threads[i].state == TARGET_STOPPED)
            return t->threads[i].tid;
    }
    return 0;
}

static bool is_the_same(const targets *t, const target_process *process, bool stopped)
{
    pid_t tid = stopped ? stopped_thread(t, process) : 0;
    proc_facts facts;

    if (tid != 0 && (proc_facts_of(tid, &facts) < 0 || facts.state != 't'))
        return false;
    if (tid == process->pid)
        return facts.started == process->started;
    return proc_facts_of(process->pid, &facts) == 0 && facts.started == process->started && facts.state != 'X' &&
           (facts.state != 'Z' || proc_nthreads(process->pid) > 1);
}

int stop_check(targets *t, bool stopped, world_trouble *ret)
{
    for (uint32_t i = 0; i < t->nprocesses; i++) {
        target_process *process = &t->processes[i];
        bool same;

        if (process->gone && process->session == TARGET_NO_SESSION)
            continue;
        /* One with a session that runs another program by now may have a request under way, which names an object. */
        same = !process->gone && is_the_same(t, process, stopped);
        if (!same && process->session != TARGET_NO_SESSION)
            return trouble_is(ret, -EAGAIN, process->pid, "process %d has just ended", process->pid);
        process->gone = !same;
    }
    return 0;
}

int stop_seize(targets *t, bool trust_kernel, uint64_t deadline_ns, world_trouble *ret)
{
    uint32_t found = 1;
    int r = seize_new(t, trust_kernel, ret);

    while (r == 0 && found > 0) {
        r = targets_catch_up(t, deadline_ns, pump_between, t, &found, ret);
        if (r == 0)
            r = seize_new(t, trust_kernel, ret);
        if (r == 0 && proc_now_ns() > deadline_ns)
            r = trouble_is(ret, -ETIMEDOUT, 0, "processes begin faster than they can be traced");
    }
    if (r == 0 && pump(t) < 0)
        r = no_memory(ret);
    CRASH_POINT(collector_after_seize);
    return r == 0 ? stop_check(t, false, ret) : r;
}

/* A thread that is to stop. 0; *ret_stopped is raised if it has, or is no more. */
static int look_at_thread(targets *t, uint32_t i, uint32_t *ret_stopped)
{
    pid_t tid = t->threads[i].tid;
    siginfo_t info = { 0 };
    int event, r = 0;

    if (waitid(P_PID, (id_t)tid, &info, LOOK | WNOWAIT) < 0) {
        t->threads[i].state = TARGET_GONE; /* another thread has run another program, or a tracer has let it go */
        (*ret_stopped)++;
        return 0;
    }
    if (info.si_pid == 0)
        return 0;
    (*ret_stopped)++;
    if (is_exit(&info)) {
        consume_exit(t, tid);
        return 0;
    }
    event = info.si_status >> 8;
    if (event == PTRACE_EVENT_EXEC) {
        forget_process(t, tid);
        return 0;
    }
    t->threads[i].state = TARGET_STOPPED;
    t->threads[i].signal = event == 0 ? info.si_status & 0x7f : 0;
    if (event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_VFORK || event == PTRACE_EVENT_CLONE)
        r = learn_child(t, tid);
    return r;
}

/* It has not stopped for a while. A thread that has ended before its process did never does: it counts as gone. */
static void forget_zombie(targets *t, uint32_t i)
{
    proc_facts facts;

    if (proc_facts_of(t->threads[i].tid, &facts) < 0 || facts.state == 'Z' || facts.state == 'X')
        t->threads[i].state = TARGET_GONE;
}

static int late(const targets *t, world_trouble *ret)
{
    for (uint32_t i = 0; i < t->nthreads; i++) {
        const target_thread *thread = &t->threads[i];
        pid_t pid = t->processes[thread->process].pid;
        proc_facts facts;

        if (thread->state != TARGET_RUNS)
            continue;
        if (proc_facts_of(thread->tid, &facts) < 0)
            facts.state = '?';
        return trouble_is(ret, -ETIMEDOUT, pid, "thread %d of process %d did not stop in time (state %c%s)",
                          thread->tid, pid, facts.state,
                          facts.state == 'D' ? ": it waits in the kernel, for a device or its vfork() child" : "");
    }
    return trouble_is(ret, -ETIMEDOUT, 0, "not everybody stopped in time");
}

/* Wait until that thread has stopped, or is no more. */
static int await_thread(targets *t, uint32_t i, uint64_t deadline_ns, world_trouble *ret)
{
    const struct timespec nap = { .tv_nsec = NAP_NS };
    uint32_t naps = 0, nstopped = 0;

    while (t->threads[i].state == TARGET_RUNS) {
        if (look_at_thread(t, i, &nstopped) < 0)
            return no_memory(ret);
        if (nstopped > 0)
            return 0;
        if (proc_now_ns() > deadline_ns)
            return late(t, ret);
        if (++naps % NAPS_UNTIL_ASKED == 0)
            forget_zombie(t, i);
        (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &nap, NULL);
    }
    return 0;
}

/* Wait until all threads that are known have stopped. By turns: when one has, most of the others have, too. */
static int await_all(targets *t, uint64_t deadline_ns, world_trouble *ret)
{
    int r = 0;

    for (uint32_t i = 0; i < t->nthreads && r == 0; i++) /* more may be learnt of meanwhile */
        r = await_thread(t, i, deadline_ns, ret);
    return r;
}

static void interrupt_all(targets *t)
{
    for (uint32_t i = 0; i < t->nthreads; i++) {
        if (t->threads[i].state == TARGET_RUNS)
            (void)ptrace(PTRACE_INTERRUPT, t->threads[i].tid, NULL, NULL);
    }
}

/* True if as many of the process's threads are stopped as it has. Its first thread may have ended before the others. */
static bool is_whole(const targets *t, uint32_t process)
{
    uint32_t n = 0, wanted = proc_nthreads(t->processes[process].pid);
    bool first = false;

    for (uint32_t i = t->processes[process].last_thread; i != TARGET_NO_THREAD; i = t->threads[i].next) {
        if (t->threads[i].state != TARGET_STOPPED && t->threads[i].state != TARGET_WORKER)
            continue;
        n++;
        first = first || t->threads[i].tid == t->processes[process].pid;
    }
    return n > 0 && n + (first ? 0 : 1) == wanted;
}

/* All known threads are stopped: are there others? *ret_new is raised if so; they are seized and interrupted. */
static int find_missing(targets *t, bool trust_kernel, uint32_t *ret_new, world_trouble *ret)
{
    uint32_t found;
    int r = targets_recheck(t, &found, ret);

    *ret_new += found;
    for (uint32_t i = 0; i < t->nprocesses && r == 0; i++) {
        target_process *process = &t->processes[i];

        if (process->gone || (process->seized && is_whole(t, i)))
            continue;
        if (process->session == TARGET_NO_SESSION && proc_nthreads(process->pid) == 0) {
            process->gone = true;
            continue;
        }
        (*ret_new)++;
        r = seize_threads(t, i, trust_kernel, &found, ret);
        process->seized = true;
    }
    return r;
}

int stop_all(targets *t, bool trust_kernel, uint64_t deadline_ns, stop_times *times, world_trouble *ret)
{
    uint32_t missing;
    int r;

    t->deadline_ns = deadline_ns;
    do {
        uint64_t began = proc_now_ns(), interrupted, stopped;

        missing = 0;
        interrupt_all(t);
        interrupted = proc_now_ns();
        r = await_all(t, deadline_ns, ret);
        stopped = proc_now_ns();
        if (r == 0)
            r = stop_check(t, true, ret);
        if (r == 0)
            r = find_missing(t, trust_kernel, &missing, ret);
        if (r == 0 && missing > 0 && proc_now_ns() > deadline_ns)
            r = late(t, ret);
        times->interrupt_ns += interrupted - began;
        times->await_ns += stopped - interrupted;
        times->check_ns += proc_now_ns() - stopped;
    } while (r == 0 && missing > 0);
    return r;
}

void stop_let_go(targets *t)
{
    for (uint32_t i = 0; i < t->nthreads; i++) {
        target_thread *thread = &t->threads[i];

        if (thread->state == TARGET_STOPPED &&
            ptrace(PTRACE_DETACH, thread->tid, NULL, (void *)(intptr_t)thread->signal) == 0)
            thread->state = TARGET_GONE;
    }
}
