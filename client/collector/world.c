/*
 * world: the steps of the processes' half, and the thread that traces. See world.h.
 *
 * Called by the cycle. Data: what is behind a world, of one cycle.
 *
 *                caller's thread                              tracer
 *   prepare      targets: sessions, search of /proc
 *                estimate: ranges, kernelheld
 *   stop         begins the tracer, waits                     seize, catch up, interrupt, wait for each
 *   copy         asks, then waits                             registers and signals of each thread
 *                for each process: maps, declaration,
 *                  pages, words, shared files, descriptors
 *   validate     the session table
 *   resume       asks, waits until the tracer is gone         detach, end
 *
 * The tracer is a thread of its own for one reason: when it has ended, the kernel has let everybody go, those too that
 * could not be stopped or that nobody has heard of. So world_resume() leaves nobody traced, whatever came before, and by
 * the same path as if this process had been killed. pthread_join() returns a little before that; world_resume() waits
 * until the thread's number is gone.
 *
 * Time: max_pause_ns counts from the first interrupt. Before anybody is stopped, the pause is estimated from what is
 * there: threads, mappings, descriptors, bytes. Then each step looks at the clock.
 */
#include "client/collector/world.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "client/collector/kernelheld.h"
#include "client/collector/ranges.h"
#include "client/collector/registers.h"
#include "client/collector/stop.h"

#define SEIZE_MAX_NS UINT64_C(5000000000) /* nobody is stopped meanwhile */

/* What a pause takes, as measured by tests/bench/bench_collector_pause, with some reserve. */
#define FIXED_NS       200000u
#define THREAD_NS      20000u
#define THREAD_BYTES   (UINT64_C(32) << 10) /* of its stack */
#define PROCESS_NS     100000u
#define MAPPING_NS     2000u
#define DESCRIPTOR_NS  2000u
#define BYTES_EACH_US  3500u

enum job { JOB_STOP, JOB_REGISTERS, JOB_END };

struct world_state {
    world *w;
    world_options options;
    targets targets;
    words_found words;
    pages pages;
    shared shared;
    kernelheld kernelheld;
    ranges ranges;
    uint64_t *registers; /* REGISTERS_ROOM bytes */
    bool tracing;        /* there is a tracer */
    pthread_t tracer;
    pid_t tracer_tid;
    sem_t asked, answered;
    enum job job;
    int result;
    world_trouble *trouble; /* of the call under way */
    sigset_t mask;          /* of the caller's thread */
};

static int no_memory(world_trouble *ret)
{
    return trouble_is(ret, -ENOMEM, 0, "no memory");
}

/* A thread of the process that has its memory: the first may have ended before the others. */
static pid_t living_thread(struct world_state *s, const target_process *process)
{
    targets *t = &s->targets;
    proc_facts facts;

    for (uint32_t i = 0; i < t->nthreads; i++) {
        if (&t->processes[t->threads[i].process] == process && t->threads[i].state == TARGET_STOPPED)
            return t->threads[i].tid;
    }
    if (proc_facts_of(process->pid, &facts) == 0 && facts.state == 'Z' &&
        proc_list_read(&t->list, process->pid, "task") == 0) {
        for (size_t i = 0; i < t->list.n; i++) {
            if (t->list.at[i] != process->pid)
                return t->list.at[i];
        }
    }
    return process->pid;
}

/* The process may have ended while it was looked at. */
static int ended_or(target_process *process, int r, world_trouble *ret)
{
    proc_facts facts;

    if (r == 0 || r == -ENOMEM || r == -EOPNOTSUPP || r == -ETIMEDOUT)
        return r;
    if (proc_facts_of(process->pid, &facts) < 0 || facts.state == 'Z' || facts.state == 'X' ||
        facts.started != process->started) {
        if (process->session != TARGET_NO_SESSION)
            return trouble_is(ret, -EAGAIN, process->pid, "process %d has just ended", process->pid);
        process->gone = true;
        return 0;
    }
    if (r == -EACCES || r == -EPERM)
        return targets_no_permission(ret, process->pid);
    if (r == -EFAULT)
        return trouble_is(ret, -EOPNOTSUPP, process->pid, "process %d has memory that can't be read", process->pid);
    return trouble_is(ret, r, process->pid, "the memory of process %d can't be looked at: %s", process->pid,
                      strerror(-r));
}

static int estimate_process(struct world_state *s, target_process *process, uint64_t *bytes, world_trouble *ret)
{
    pid_t tid = living_thread(s, process);
    uint32_t nthreads = proc_nthreads(process->pid);
    uint64_t nfds = s->kernelheld.nfds;
    int r = pages_open(&s->pages, tid, UINT64_MAX);

    if (r == 0)
        r = ranges_choose(&s->ranges, &s->pages, &s->shared, &s->targets, process, s->options.trust_kernel, ret);
    if (r == 0)
        r = ranges_measure(&s->ranges, &s->pages);
    if (r == 0)
        r = kernelheld_look(&s->kernelheld, NULL, process->pid, tid, s->options.trust_kernel, UINT64_MAX, ret);
    if (r < 0)
        return ended_or(process, r, ret);
    *bytes += s->ranges.private_bytes + nthreads * THREAD_BYTES;
    s->w->nthreads += nthreads;
    s->w->nprocesses++;
    s->w->estimate_ns += PROCESS_NS + (uint64_t)s->ranges.maps.n * MAPPING_NS +
                         (s->kernelheld.nfds - nfds) * DESCRIPTOR_NS + (uint64_t)nthreads * THREAD_NS;
    return 0;
}

static int estimate(struct world_state *s, world_trouble *ret)
{
    uint64_t bytes = 0, all;
    world *w = s->w;
    int r = 0;

    for (uint32_t i = 0; i < s->targets.nprocesses && r == 0; i++)
        r = estimate_process(s, &s->targets.processes[i], &bytes, ret);
    if (r < 0 || w->nprocesses == 0)
        return r;
    shared_measure(&s->shared);
    w->estimate_ns += FIXED_NS + (bytes + s->shared.bytes) * 1000 / BYTES_EACH_US;
    all = w->estimate_ns + s->options.heap_estimate_ns;
    if (s->options.max_pause_ns != 0 && all > s->options.max_pause_ns && !s->options.no_estimate)
        return trouble_is(ret, -ETIMEDOUT, 0,
                          "the pause would be some %.1f ms (%u processes, %u threads, %.1f MiB of private and shared "
                          "memory), and may be %.1f", (double)all / 1e6, w->nprocesses, w->nthreads,
                          (double)(bytes + s->shared.bytes) / (1 << 20), (double)s->options.max_pause_ns / 1e6);
    return 0;
}

int world_prepare(world *w, const shm_map *map, const world_options *options, world_trouble *ret_trouble)
{
    struct world_state *s = calloc(1, sizeof(*s));
    int r;

    *w = (world){ .deadline_ns = UINT64_MAX, .state = s };
    *ret_trouble = (world_trouble){ 0 };
    if (s == NULL)
        return no_memory(ret_trouble);
    s->w = w;
    s->options = *options;
    r = pages_init(&s->pages);
    if (r == 0)
        r = words_init(&s->words, map->base, map->arena_bytes, options->offsets);
    if (r == 0)
        r = targets_init(&s->targets, map);
    s->registers = malloc(REGISTERS_ROOM);
    if (r == -ENOMEM || s->registers == NULL)
        return no_memory(ret_trouble);
    if (r < 0)
        return trouble_is(ret_trouble, r, 0, "the heap is not mapped here, or /proc can't be read");
    memset(s->registers, 0, REGISTERS_ROOM);
    r = targets_of_sessions(&s->targets, ret_trouble);
    if (r == 0)
        r = targets_search(&s->targets, ret_trouble);
    if (r == 0)
        r = estimate(s, ret_trouble);
    return r;
}

static int do_stop(struct world_state *s)
{
    world *w = s->w;
    uint64_t began = proc_now_ns();
    int r = stop_seize(&s->targets, s->options.trust_kernel, began + SEIZE_MAX_NS, s->trouble);

    w->pause_begin_ns = proc_now_ns();
    w->times.seize_ns = w->pause_begin_ns - began;
    if (s->options.max_pause_ns != 0)
        w->deadline_ns = w->pause_begin_ns + s->options.max_pause_ns;
    if (r == 0)
        r = stop_all(&s->targets, s->options.trust_kernel, w->deadline_ns, s->trouble);
    w->times.stop_ns = proc_now_ns() - w->pause_begin_ns;
    return r;
}

static int do_registers(struct world_state *s)
{
    targets *t = &s->targets;

    for (uint32_t i = 0; i < t->nthreads; i++) {
        target_thread *thread = &t->threads[i];
        target_process *process = &t->processes[thread->process];

        if (thread->state != TARGET_STOPPED || process->gone)
            continue;
        if (registers_look(&s->words, process->pid, thread->tid, s->registers, &thread->stack, &thread->thread) < 0)
            return trouble_is(s->trouble, -EAGAIN, process->pid, "process %d was killed meanwhile", process->pid);
        registers_look_at_signals(&s->words, process->pid, thread->tid, false, thread->signal != 0);
        if (thread->tid == process->pid)
            registers_look_at_signals(&s->words, process->pid, thread->tid, true, false);
        if (proc_now_ns() > s->w->deadline_ns)
            return trouble_is(s->trouble, -ETIMEDOUT, process->pid, "the registers of process %d took too long",
                              process->pid);
    }
    return 0;
}

static void *tracer_run(void *arg)
{
    struct world_state *s = arg;
    const struct sched_param first = { .sched_priority = 1 };

    /* If it may: else who is let go first may hold up the letting go of others. */
    (void)pthread_setschedparam(pthread_self(), SCHED_FIFO, &first);
    s->tracer_tid = (pid_t)syscall(SYS_gettid);
    for (;;) {
        while (sem_wait(&s->asked) < 0)
            continue;
        switch (s->job) {
        case JOB_STOP:
            s->result = do_stop(s);
            break;
        case JOB_REGISTERS:
            s->result = do_registers(s);
            break;
        case JOB_END:
            stop_let_go(&s->targets);
            return NULL;
        }
        (void)sem_post(&s->answered);
    }
}

static int ask(struct world_state *s, enum job job, world_trouble *ret)
{
    s->job = job;
    s->trouble = ret;
    (void)sem_post(&s->asked);
    while (sem_wait(&s->answered) < 0)
        continue;
    return s->result;
}

/* The tracer begins with all signals blocked, and SIGCHLD is kept for it. */
static int tracer_begin(struct world_state *s, world_trouble *ret)
{
    sigset_t all, child, before;
    int r;

    (void)sigfillset(&all);
    (void)sigemptyset(&child);
    (void)sigaddset(&child, SIGCHLD);
    if (sem_init(&s->asked, 0, 0) < 0 || sem_init(&s->answered, 0, 0) < 0)
        return trouble_is(ret, -errno, 0, "no semaphore");
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    r = pthread_create(&s->tracer, NULL, tracer_run, s);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r != 0)
        return trouble_is(ret, -r, 0, "no thread to trace with: %s", strerror(r));
    (void)pthread_sigmask(SIG_BLOCK, &child, &s->mask);
    s->tracing = true;
    return 0;
}

int world_stop(world *w, world_trouble *ret_trouble)
{
    struct world_state *s = w->state;
    int r;

    if (w->nprocesses == 0)
        return 0; /* who maps the heap from now on has a session that was not there */
    r = tracer_begin(s, ret_trouble);
    if (r == 0)
        r = ask(s, JOB_STOP, ret_trouble);
    w->nprocesses = 0;
    w->nthreads = 0;
    for (uint32_t i = 0; i < s->targets.nprocesses; i++)
        w->nprocesses += !s->targets.processes[i].gone;
    for (uint32_t i = 0; i < s->targets.nthreads; i++)
        w->nthreads += s->targets.threads[i].state == TARGET_STOPPED;
    if (r < 0)
        world_resume(w);
    return r;
}

static int look_at_process(struct world_state *s, target_process *process, world_trouble *ret)
{
    world *w = s->w;
    pid_t tid = living_thread(s, process);
    uint64_t began = proc_now_ns(), chosen, looked;
    int r = pages_open(&s->pages, tid, w->deadline_ns);

    if (r == 0)
        r = ranges_choose(&s->ranges, &s->pages, &s->shared, &s->targets, process, s->options.trust_kernel, ret);
    chosen = proc_now_ns();
    if (r == 0) {
        r = ranges_look(&s->ranges, &s->pages, &s->words, process->pid);
        if (r == -ETIMEDOUT)
            (void)trouble_is(ret, r, process->pid, "the memory of process %d took too long", process->pid);
        else if (r == 0 && s->pages.unreadable > 0 && !s->options.trust_kernel)
            r = -EFAULT;
    }
    looked = proc_now_ns();
    if (r == 0)
        r = kernelheld_look(&s->kernelheld, &s->words, process->pid, tid, s->options.trust_kernel, w->deadline_ns, ret);
    w->times.kernel_ns += chosen - began + (proc_now_ns() - looked);
    w->times.pages_ns = s->ranges.pages_ns;
    w->times.read_ns = s->ranges.read_ns;
    return ended_or(process, r, ret);
}

static int copy_all(struct world_state *s, world_trouble *ret)
{
    world *w = s->w;
    uint64_t began = proc_now_ns();
    int r;

    if (!s->tracing)
        return 0;
    r = ask(s, JOB_REGISTERS, ret);
    w->times.registers_ns = proc_now_ns() - began;
    shared_clear(&s->shared);
    for (uint32_t i = 0; i < s->targets.nprocesses && r == 0; i++) {
        if (!s->targets.processes[i].gone)
            r = look_at_process(s, &s->targets.processes[i], ret);
    }
    if (r == 0) {
        began = proc_now_ns();
        r = shared_look(&s->shared, &s->pages, &s->words);
        if (r == -ETIMEDOUT)
            (void)trouble_is(ret, r, 0, "shared memory took too long");
        w->times.read_ns += proc_now_ns() - began;
    }
    if (r == 0 && s->words.full)
        r = no_memory(ret);
    return r;
}

int world_copy(world *w, world_trouble *ret_trouble)
{
    struct world_state *s = w->state;
    int r = copy_all(s, ret_trouble);

    w->ranges = s->words.ranges;
    w->nranges = s->words.nranges;
    w->hits = s->words.hits;
    w->nhits = s->words.nhits;
    w->nwords = s->words.nwords;
    if (r < 0)
        world_resume(w);
    return r;
}

int world_validate(world *w, world_trouble *ret_trouble)
{
    struct world_state *s = w->state;
    int r = targets_sessions_are_same(&s->targets, ret_trouble);

    if (r == 0) /* who was killed while it was looked at had no memory any more */
        r = stop_check(&s->targets, ret_trouble);
    if (r == 0 && proc_now_ns() > w->deadline_ns)
        r = trouble_is(ret_trouble, -ETIMEDOUT, 0, "it took too long in all");
    if (r < 0)
        world_resume(w);
    return r;
}

void world_resume(world *w)
{
    struct world_state *s = w->state;
    uint64_t began = proc_now_ns();

    if (s == NULL || !s->tracing)
        return;
    s->tracing = false;
    s->job = JOB_END;
    (void)sem_post(&s->asked);
    (void)pthread_join(s->tracer, NULL);
    while (syscall(SYS_tgkill, s->targets.self, s->tracer_tid, 0) == 0)
        (void)sched_yield(); /* what is left of the thread lets its tracees go in these microseconds */
    w->pause_end_ns = proc_now_ns();
    w->times.resume_ns = w->pause_end_ns - began;
    (void)sem_destroy(&s->asked);
    (void)sem_destroy(&s->answered);
    (void)pthread_sigmask(SIG_SETMASK, &s->mask, NULL);
}

void world_free(world *w)
{
    struct world_state *s = w->state;

    if (s == NULL)
        return;
    world_resume(w);
    targets_deinit(&s->targets);
    words_deinit(&s->words);
    pages_deinit(&s->pages);
    shared_free(&s->shared);
    kernelheld_free(&s->kernelheld);
    ranges_free(&s->ranges);
    free(s->registers);
    free(s);
    *w = (world){ 0 };
}
