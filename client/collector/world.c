/*
 * world: the steps of the processes' half, and the thread that traces. See world.h.
 *
 * Called by the cycle. Data: what is behind a world, of one cycle.
 *
 *                caller's thread                 tracer                              readers
 *   prepare      waits, as long as it goes on                                         sessions, search of /proc,
 *                                                                                    estimate: the first of them
 *   stop         begins the others, waits        seize, catch up, interrupt, wait
 *   meanwhile    copies the heap (heapcopy.c)    asks the readers; registers and
 *                                                signals of each thread              look at processes
 *   copy         waits, for so long                                                  the last: shared files
 *   validate     the session table               waits, awake for a while
 *   resume       asks, waits until it is gone    ends
 *   afterwards                                                                        end; the first closes files
 *
 * While all are stopped, processors are free: so the tracer goes on by itself, and the caller copies the heap
 * meanwhile; and as many readers look at the processes (looker.c) as there are processors, up to READERS_MAX, each at
 * the next one whose registers are known. Who of them is the last to be done looks at the shared files, whose parts are
 * all known then. How they are asked, and answer, is in helper.c.
 *
 * What several of them touch between world_stop() and the end of world_copy() is atomic:
 *
 *   nready     the tracer raises it when it has noted the registers of a process; readers wait for that
 *   next       a reader raises it, and has a process of its own
 *   nreading   a reader lowers it when it has no more; who makes it 0 looks at the shared files
 *   failed     who could not do his part raises it, and so does the caller if there is nobody left to do it for; the
 *              others end at their next buffer, thread or piece of a list
 *   at         a reader's: the process that it looks at; the caller reads it if the reader is late
 *
 * Or it is under the lock of shared.c. All else is one thread's until it has answered (result, trouble and threads are
 * the tracer's, a looker its reader's, and so are the marks of the process that it looks at), or nobody's to change
 * (processes, deadline_ns, sessions). The caller's copy of the heap reads shared memory and writes its own rooms. So
 * the order of the two does not matter; what comes before and after does: all have stopped before either begins, and
 * both are done before world_validate(). Who is late finds that by the clock, as they all have the same deadline.
 * Nobody is let go while somebody still looks, but if the cycle has failed: a success has all answers. And a thread
 * dies with its process only: then the kernel lets all go.
 *
 * Memory may not come. A page may be one that userfaultfd or a file system of somebody's own brings when it is read,
 * and who should bring it is stopped, or does not want to; nor is a process's list of mappings to be had while a thread
 * of it is in a call that changes them; and a shared file may lie on top of another file system than it tells. Then a
 * reader waits in the kernel, where nothing but its death ends that. So neither the caller nor the tracer reads any of
 * it, and when the pause is over, or the cycle has failed, and a reader is not back, all are let go (-ETIMEDOUT, with
 * the process that it was at). That may be what it has waited for; if not, after STUCK_NS, it is left where it is, with
 * all that it may still touch (world_nstuck()): it writes nothing of the world's, only of its state, which stays.
 * Should the tracer, which reads the mappings of new processes, not be back TRACER_MAX_NS after the pause's end, this
 * process ends at once: that lets everybody go, too.
 *
 * The tracer is a thread of its own for one reason: when it has ended, the kernel has let everybody go, those too that
 * could not be stopped or that nobody has heard of. So world_resume() leaves nobody traced, whatever came before, and
 * by the same path as if this process had been killed. (64 threads are let go so in 0.1 ms, and one by one in 0.2.)
 * pthread_join() returns a little before that; helper_join() waits until the thread's number is gone.
 *
 * Time: max_pause_ns counts from the first interrupt. Before anybody is stopped, the pause is estimated from what is
 * there: threads, mappings, descriptors, bytes. Then each step looks at the clock. All of them run before others
 * meanwhile, if they may (SCHED_FIFO): who is let go first must not hold up the letting go of the others. Caller and
 * tracer do before readers: of those there are as many as processors, and one that is beside the caller's copy would
 * otherwise keep it waiting until it is done itself.
 */
#include "client/collector/world.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/collector/bulkread.h"
#include "client/collector/helper.h"
#include "client/collector/looker.h"
#include "client/collector/registers.h"
#include "client/collector/stop.h"

#define SEIZE_MAX_NS UINT64_C(5000000000)  /* nobody is stopped meanwhile */
#define LATE_NS UINT64_C(20000000)         /* that a reader may be late to look at the clock by itself */
#define PATIENCE_NS UINT64_C(11000000000)  /* with one process before the pause: its own bound is lower */
#define STUCK_NS UINT64_C(1000000000)      /* with one that is late, when all go on: then it is left */
#define TRACER_MAX_NS UINT64_C(5000000000) /* with the tracer, beyond what it may take: then all ends */
#define TRACER 0u
#define FIRST_READER 1u
#define READERS_MAX 8u
#define LOOKERS_MAX (FIRST_READER + READERS_MAX)
#define LET_GO_AT_ONCE 256u      /* threads: the kernel holds a lock of all processes meanwhile, 1 us a thread */
#define SPIN_NS UINT64_C(200000) /* that the tracer is awake before it ends: longer than world_validate() takes */

/*
 * What a pause takes, as measured by tests/bench/bench_collector_pause, with some reserve. Two readers look, whether
 * there are more or not; and what the caller adds for the heap is an estimate for all of them.
 */
#define FIXED_NS 200000u
#define THREAD_NS 15000u
#define THREAD_BYTES (UINT64_C(32) << 10) /* of its stack */
#define PROCESS_NS 50000u
#define MAPPING_NS 2000u
#define DESCRIPTOR_NS 2000u
#define TEXT_NS 10u /* a byte of what the kernel tells of epoll entries and timers; measured: 6, and the look */
#define BYTES_EACH_US 3500u

enum { JOB_PREPARE, JOB_LOOK_ONCE_MORE, JOB_STOP, JOB_LOOK, JOB_STAY_AWAKE, JOB_CLOSE, JOB_END };

/* For world.h's fields of these names. A thread that is left may still write here. */
typedef struct estimated {
    uint64_t estimate_ns;
    uint32_t nprocesses;
    uint32_t nthreads;
} estimated;

struct world_state {
    world *w;
    estimated estimated;
    world_options options;
    targets targets;
    shared shared;
    uint64_t *registers;         /* REGISTERS_ROOM bytes */
    helper helpers[LOOKERS_MAX]; /* [TRACER] is the tracer, the others are readers */
    looker lookers[LOOKERS_MAX]; /* theirs */
    uint32_t nlookers;
    uint32_t nprocessors;
    /* Tracer and readers have been asked to look, and the caller has not their answers. The tracer sets it before it
     * tells that all have stopped; from then on it is the caller's. */
    bool looking;
    int result;                /* of all jobs but readers' part of JOB_LOOK */
    world_trouble trouble;     /* the same */
    uint64_t deadline_ns;      /* the world's, for readers */
    uint64_t shared_ns;        /* that shared files took */
    _Atomic uint32_t nready;   /* processes whose registers are known */
    _Atomic uint32_t next;     /* process to be looked at */
    _Atomic uint32_t nreading; /* readers that are not done */
    _Atomic bool failed;       /* somebody could not do his part: the others need not go on */
    bool stuck;                /* a reader is left in the kernel: this stays where it is */
    sigset_t mask;             /* of the caller's thread */
    int policy;
    struct sched_param priority;
};

static uint32_t nstuck; /* readers of this process that were left; the caller's thread writes it */

uint32_t world_nstuck(void)
{
    return nstuck;
}

static int no_memory(world_trouble *ret)
{
    return trouble_is(ret, -ENOMEM, 0, "no memory");
}

static int estimate(struct world_state *s, world_trouble *ret)
{
    estimated *w = &s->estimated;
    uint64_t bytes = 0, all, looks = 0, longest = 0;

    for (uint32_t i = 0; i < s->targets.nprocesses; i++) {
        target_process *process = &s->targets.processes[i];
        /* Each reader's by turns, so that a pause finds its memory touched. */
        looker *l = &s->lookers[FIRST_READER + i % (s->nlookers - FIRST_READER)];
        looker_estimate of = { 0 };
        uint64_t look;
        int r = targets_go_on(&s->targets, process->pid, ret);

        if (r < 0)
            return r;
        r = looker_estimate_of(l, &s->shared, &s->targets, process, s->options.trust_kernel, &of);
        if (r < 0) {
            *ret = l->trouble;
            return r;
        }
        if (process->gone)
            continue;
        of.bytes += of.nthreads * THREAD_BYTES;
        bytes += of.bytes;
        w->nthreads += of.nthreads;
        w->nprocesses++;
        w->estimate_ns += (uint64_t)of.nthreads * THREAD_NS;
        look = PROCESS_NS + (uint64_t)of.nmappings * MAPPING_NS + of.nfds * DESCRIPTOR_NS + of.text_bytes * TEXT_NS +
               of.bytes * 1000 / BYTES_EACH_US;
        looks += look;
        longest = look > longest ? look : longest;
    }
    if (w->nprocesses == 0)
        return 0;
    shared_measure(&s->shared);
    /* Two take the processes by turns; at the end one waits for the other one's last. */
    if (s->nprocessors > 1)
        looks = (looks + longest) / 2;
    w->estimate_ns += FIXED_NS + looks + s->shared.bytes * 1000 / BYTES_EACH_US;
    all = w->estimate_ns + s->options.heap_estimate_ns;
    if (s->options.max_pause_ns != 0 && all > s->options.max_pause_ns && !s->options.no_estimate)
        return trouble_is(ret, -ETIMEDOUT, 0,
                          "the pause would be some %.1f ms (%u processes, %u threads, %.1f MiB of private and shared "
                          "memory), and may be %.1f",
                          (double)all / 1e6, w->nprocesses, w->nthreads, (double)(bytes + s->shared.bytes) / (1 << 20),
                          (double)s->options.max_pause_ns / 1e6);
    return 0;
}

static int lookers_init(struct world_state *s, const shm_map *map)
{
    uint32_t wanted = s->nprocessors = bulkread_nprocessors();
    int r = 0;

    wanted = FIRST_READER + (wanted < READERS_MAX ? wanted : READERS_MAX);
    while (s->nlookers < wanted && r == 0) {
        r = looker_init(&s->lookers[s->nlookers], map->base, map->arena_bytes, s->options.offsets);
        s->lookers[s->nlookers].pages.given_up = &s->failed;
        s->nlookers++;
    }
    return r;
}

static int do_prepare(struct world_state *s)
{
    uint32_t nfound = 0;
    int r = targets_of_sessions(&s->targets, &s->trouble);

    if (r == 0)
        r = targets_search(&s->targets, &nfound, &s->trouble);
    return r == 0 ? estimate(s, &s->trouble) : r;
}

/*
 * Nobody is stopped. But who was there when /proc was listed may have forked, and ended, before it was looked at. If
 * there is nobody now either, then who maps the heap from now on has a session that was not there.
 */
static int do_look_once_more(struct world_state *s)
{
    uint32_t found = 0, late = 0;
    int r = targets_catch_up(&s->targets, proc_now_ns() + SEIZE_MAX_NS, NULL, NULL, &found, &s->trouble);

    if (r == 0)
        r = targets_recheck(&s->targets, &late, &s->trouble);
    if (r == 0 && found + late > 0)
        r = trouble_is(&s->trouble, -EAGAIN, 0, "a process that has the heap mapped was just being forked");
    return r;
}

static int do_stop(struct world_state *s)
{
    world *w = s->w;
    uint64_t began = proc_now_ns();
    int r = stop_seize(&s->targets, s->options.trust_kernel, began + SEIZE_MAX_NS, &s->trouble);

    w->times.seize_ns = proc_now_ns() - began;
    if (r < 0)
        return r;
    w->pause_begin_ns = began + w->times.seize_ns;
    if (s->options.max_pause_ns != 0)
        w->deadline_ns = w->pause_begin_ns + s->options.max_pause_ns;
    s->deadline_ns = w->deadline_ns;
    r = stop_all(&s->targets, s->options.trust_kernel, w->deadline_ns, &w->times.stop, &s->trouble);
    w->times.stop_ns = proc_now_ns() - w->pause_begin_ns;
    return r;
}

/* Who is stopped. */
static void count(struct world_state *s)
{
    world *w = s->w;

    w->nprocesses = 0;
    w->nthreads = 0;
    for (uint32_t i = 0; i < s->targets.nprocesses; i++)
        w->nprocesses += !s->targets.processes[i].gone;
    for (uint32_t i = 0; i < s->targets.nthreads; i++)
        w->nthreads += s->targets.threads[i].state == TARGET_STOPPED;
}

static int look_at_registers(struct world_state *s, words_found *w, const target_process *process)
{
    targets *t = &s->targets;

    for (uint32_t i = process->last_thread; i != TARGET_NO_THREAD; i = t->threads[i].next) {
        target_thread *thread = &t->threads[i];

        if (thread->state != TARGET_STOPPED)
            continue;
        if (registers_look(w, process->pid, thread->tid, s->registers, &thread->leads) < 0)
            return trouble_is(&s->trouble, -EAGAIN, process->pid, "process %d was killed meanwhile", process->pid);
        registers_look_at_signals(w, process->pid, thread->tid, false, thread->signal != 0);
        if (thread->next == TARGET_NO_THREAD)
            registers_look_at_signals(w, process->pid, thread->tid, true, false);
        if (proc_now_ns() > s->w->deadline_ns)
            return trouble_is(&s->trouble, -ETIMEDOUT, process->pid, "the registers of process %d took too long",
                              process->pid);
    }
    return 0;
}

/* The tracer's part: it alone can read them. */
static void look_at_all_registers(struct world_state *s, looker *l)
{
    uint64_t began = proc_now_ns();

    for (uint32_t i = 0; i < s->targets.nprocesses && !atomic_load(&s->failed); i++) {
        if (!s->targets.processes[i].gone)
            s->result = look_at_registers(s, &l->words, &s->targets.processes[i]);
        if (s->result < 0)
            atomic_store(&s->failed, true);
        atomic_store(&s->nready, i + 1);
    }
    s->w->times.registers_ns = proc_now_ns() - began;
}

static void look_at_processes(struct world_state *s, looker *l, _Atomic pid_t *ret_at)
{
    while (!atomic_load(&s->failed)) {
        uint32_t i = atomic_fetch_add(&s->next, 1);

        if (i >= s->targets.nprocesses)
            break;
        while (atomic_load(&s->nready) <= i && !atomic_load(&s->failed))
            (void)sched_yield();
        if (atomic_load(&s->failed) || s->targets.processes[i].gone)
            continue;
        atomic_store(ret_at, s->targets.processes[i].pid);
        l->result =
            looker_look(l, &s->shared, &s->targets, &s->targets.processes[i], s->options.trust_kernel, s->deadline_ns);
        if (l->result < 0)
            atomic_store(&s->failed, true);
    }
}

static int look_at_shared(struct world_state *s, looker *l, _Atomic pid_t *ret_at)
{
    uint64_t began = proc_now_ns();
    int r;

    l->pages.deadline_ns = s->deadline_ns;
    r = shared_look(&s->shared, &l->pages, &l->words, ret_at);
    s->shared_ns = proc_now_ns() - began;
    if (r == -ECANCELED)
        return r;
    if (r == -ETIMEDOUT)
        return trouble_is(&l->trouble, r, 0, "shared memory took too long");
    if (r < 0)
        return trouble_is(&l->trouble, r, 0, "shared memory can't be read: %s", strerror(-r));
    return l->words.full ? no_memory(&l->trouble) : 0;
}

/* A reader's part. */
static void look(struct world_state *s, looker *l, _Atomic pid_t *ret_at)
{
    look_at_processes(s, l, ret_at);
    if (atomic_fetch_sub(&s->nreading, 1) == 1 && !atomic_load(&s->failed)) {
        l->result = look_at_shared(s, l, ret_at);
        if (l->result < 0)
            atomic_store(&s->failed, true);
    }
    atomic_store(ret_at, 0);
}

static void ask_readers(struct world_state *s)
{
    uint32_t n = 0;

    for (uint32_t i = FIRST_READER; i < s->nlookers; i++)
        n += s->helpers[i].runs;
    atomic_store(&s->nreading, n);
    for (uint32_t i = FIRST_READER; i < s->nlookers; i++) {
        if (s->helpers[i].runs)
            helper_ask(&s->helpers[i], JOB_LOOK);
    }
}

/* The tracer's: when all have stopped it tells the caller, who has the heap to copy meanwhile. True: it is to look. */
static bool stop_and_tell(struct world_state *s, helper *h)
{
    bool looks;

    s->result = do_stop(s);
    count(s);
    looks = s->looking = s->result == 0 && !s->options.only_stop;
    helper_answer(h); /* all that the caller has to know stands by now */
    if (looks)
        ask_readers(s);
    return looks;
}

/* What a thread of the world does. */
static void run(helper *h)
{
    struct world_state *s = h->arg;
    looker *l = &s->lookers[h - s->helpers];
    bool traces = h == &s->helpers[TRACER];
    int job = JOB_STOP;

    for (;;) {
        job = helper_next_job(h, job == JOB_STAY_AWAKE ? SPIN_NS : 0);
        if (job == JOB_CLOSE)
            shared_free(&s->shared);
        if (job == JOB_CLOSE || job == JOB_END)
            break;
        if (job == JOB_STAY_AWAKE || (job == JOB_STOP && !stop_and_tell(s, h)))
            continue;
        if (job == JOB_PREPARE)
            s->result = do_prepare(s);
        else if (job == JOB_LOOK_ONCE_MORE)
            s->result = do_look_once_more(s);
        else if (traces)
            look_at_all_registers(s, l);
        else
            look(s, l, &h->at);
        helper_answer(h);
    }
    if (!traces)
        helper_answer(h);
    else if (s->w->nthreads > LET_GO_AT_ONCE)
        stop_let_go(&s->targets);
}

static uint64_t later(uint64_t ns, uint64_t more)
{
    return ns < UINT64_MAX - more ? ns + more : UINT64_MAX;
}

/* The tracer is in the kernel, and there are some who are stopped: nothing else is left. */
static _Noreturn void end_at_once(void)
{
    static const char text[] = "the collector ends: the mappings of a process could not be read in time\n";

    (void)(write(STDERR_FILENO, text, sizeof(text) - 1) < 0);
    _exit(EXIT_FAILURE);
}

static void await_tracer(struct world_state *s, uint64_t until_ns)
{
    if (!helper_await(&s->helpers[TRACER], later(until_ns, TRACER_MAX_NS)))
        end_at_once();
}

static void hurry(pthread_t thread, int priority)
{
    const struct sched_param first = { .sched_priority = priority };

    (void)pthread_setschedparam(thread, SCHED_FIFO, &first);
}

/*
 * A tracer, and more readers than the first; what more of these can't be had is done without. Each stop of a tracee
 * sends the process a SIGCHLD. It must not wake anybody.
 */
static int helpers_begin(struct world_state *s, world_trouble *ret)
{
    sigset_t child;
    int r = helper_begin(&s->helpers[TRACER], run, s);

    if (r < 0)
        return trouble_is(ret, r, 0, "no thread to trace with: %s", strerror(-r));
    for (uint32_t i = FIRST_READER + 1; i < s->nlookers && i < FIRST_READER + s->targets.nprocesses; i++)
        (void)(helper_begin(&s->helpers[i], run, s) < 0);
    for (uint32_t i = TRACER; i < s->nlookers; i++) {
        if (s->helpers[i].runs)
            hurry(s->helpers[i].thread, i == TRACER ? 2 : 1);
    }
    (void)sigemptyset(&child);
    (void)sigaddset(&child, SIGCHLD);
    (void)pthread_sigmask(SIG_BLOCK, &child, &s->mask);
    (void)pthread_getschedparam(pthread_self(), &s->policy, &s->priority);
    hurry(pthread_self(), 2);
    return 0;
}

/*
 * Before the pause: have the first reader do it, as long as it gets on. If it does not, it waits for what may not come,
 * and is told to touch nothing more should that come after all.
 */
static int do_patiently(struct world_state *s, int job, world_trouble *ret)
{
    helper *h = &s->helpers[FIRST_READER];
    targets *t = &s->targets;
    uint64_t nlooked = 0, since_ns = proc_now_ns();

    helper_ask(h, job);
    while (!helper_await(h, proc_now_ns() + PATIENCE_NS / 8)) {
        if (atomic_load(&t->nlooked) != nlooked) {
            nlooked = atomic_load(&t->nlooked);
            since_ns = proc_now_ns();
        } else if (proc_now_ns() - since_ns > PATIENCE_NS) {
            pid_t pid = atomic_load(&t->at);

            h->is_late = true;
            atomic_store(&t->over, true);
            atomic_store(&s->failed, true);
            return trouble_is(ret, -ETIMEDOUT, pid, "process %d can't be looked at: what it has mapped does not come",
                              pid);
        }
    }
    *ret = s->trouble;
    return s->result;
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
    shared_init(&s->shared);
    r = lookers_init(s, map);
    if (r == 0)
        r = targets_init(&s->targets, map);
    s->registers = malloc(REGISTERS_ROOM);
    if (r == -ENOMEM || s->registers == NULL)
        return no_memory(ret_trouble);
    if (r < 0)
        return trouble_is(ret_trouble, r, 0, "the heap is not mapped here, or /proc can't be read");
    memset(s->registers, 0, REGISTERS_ROOM);
    s->targets.waiter = options->waiter;
    s->targets.only_stop = options->only_stop;
    r = helper_begin(&s->helpers[FIRST_READER], run, s);
    if (r < 0)
        return trouble_is(ret_trouble, r, 0, "no thread to look with: %s", strerror(-r));
    r = do_patiently(s, JOB_PREPARE, ret_trouble);
    if (s->helpers[FIRST_READER].is_late) /* it may go on */
        return r;
    w->estimate_ns = s->estimated.estimate_ns;
    w->nprocesses = s->estimated.nprocesses;
    w->nthreads = s->estimated.nthreads;
    return r;
}

int world_stop(world *w, world_trouble *ret_trouble)
{
    struct world_state *s = w->state;
    int r;

    if (w->nprocesses == 0)
        return do_patiently(s, JOB_LOOK_ONCE_MORE, ret_trouble);
    r = helpers_begin(s, ret_trouble);
    if (r < 0)
        return r;
    shared_clear(&s->shared);
    helper_ask(&s->helpers[TRACER], JOB_STOP);
    await_tracer(s, s->options.max_pause_ns == 0 ? UINT64_MAX
                                                 : later(proc_now_ns() + SEIZE_MAX_NS, s->options.max_pause_ns));
    w->times.woken_ns = proc_now_ns() - w->pause_begin_ns - w->times.stop_ns;
    if (s->looking) /* s->result is the tracer's again */
        return 0;
    r = s->result;
    if (r < 0) {
        *ret_trouble = s->trouble;
        world_resume(w);
    }
    return r;
}

/* The tracer's answer, and the readers' until then: those that are late are marked. */
static int await_answers(struct world_state *s, uint64_t until_ns, world_trouble *ret)
{
    int r = 0;

    await_tracer(s, until_ns);
    for (uint32_t i = FIRST_READER; i < s->nlookers; i++) {
        helper *h = &s->helpers[i];
        pid_t pid;

        if (!h->runs || helper_await(h, until_ns))
            continue;
        h->is_late = true;
        pid = atomic_load(&h->at);
        r = pid != 0 ? trouble_is(ret, -ETIMEDOUT, pid, "the memory of process %d did not come when it was read", pid)
                     : trouble_is(ret, -ETIMEDOUT, 0, "the processes' memory was not read in time");
    }
    s->looking = false;
    return r;
}

/* The others are at it since all have stopped, but for who only wanted to stop. What they have found is one then. */
static int look_together(struct world_state *s, world_trouble *ret)
{
    world *w = s->w;
    int r;

    if (!s->looking) {
        ask_readers(s);
        helper_ask(&s->helpers[TRACER], JOB_LOOK);
    }
    r = await_answers(s, later(w->deadline_ns, LATE_NS), ret);
    if (r < 0) { /* what the others have found is theirs until they have ended, too */
        atomic_store(&s->failed, true);
        return r;
    }
    if (s->nprocessors > 1) /* it ends soon */
        helper_ask(&s->helpers[TRACER], JOB_STAY_AWAKE);
    *ret = s->trouble;
    r = s->result;
    for (uint32_t i = 0; i < s->nlookers; i++) {
        looker *l = &s->lookers[i];

        if (l->result == -ECANCELED) /* for another one's sake, who says why */
            continue;
        if (r == 0 && l->result < 0) {
            r = l->result;
            *ret = l->trouble;
        }
        w->times.maps_ns += l->maps_ns;
        w->times.kernel_ns += l->kernel_ns;
        w->times.pages_ns += l->ranges.pages_ns;
        w->times.read_ns += l->ranges.read_ns;
        if (i != TRACER)
            words_join(&s->lookers[TRACER].words, &l->words);
    }
    w->times.shared_ns = s->shared_ns;
    return r == 0 && s->lookers[TRACER].words.full ? no_memory(ret) : r;
}

int world_copy(world *w, world_trouble *ret_trouble)
{
    struct world_state *s = w->state;
    words_found *found = &s->lookers[TRACER].words;
    uint64_t began = proc_now_ns();
    int r = 0;

    if (s->helpers[TRACER].runs)
        r = look_together(s, ret_trouble);
    w->ranges = found->ranges;
    w->nranges = found->nranges;
    w->hits = found->hits;
    w->nhits = found->nhits;
    w->nwords = found->nwords;
    w->times.copy_ns = proc_now_ns() - began;
    if (r < 0)
        world_resume(w);
    return r;
}

int world_validate(world *w, world_trouble *ret_trouble)
{
    struct world_state *s = w->state;
    uint64_t began = proc_now_ns();
    int r = targets_sessions_are_same(&s->targets, ret_trouble);

    if (r == 0) /* who was killed while it was looked at had no memory any more */
        r = stop_check(&s->targets, true, ret_trouble);
    if (r == 0 && proc_now_ns() > w->deadline_ns)
        r = trouble_is(ret_trouble, -ETIMEDOUT, 0, "it took too long in all");
    w->times.validate_ns = proc_now_ns() - began;
    if (r < 0)
        world_resume(w);
    return r;
}

/* All go on, so what a reader has waited for may come now. */
static void reader_end(struct world_state *s, helper *h)
{
    if (helper_join_or_leave(h, PATIENCE_NS, STUCK_NS))
        return;
    s->stuck = true;
    nstuck++;
}

/* The first one last: it closes the shared files, unless another one is still at them. */
static void readers_end(struct world_state *s)
{
    helper *first = &s->helpers[FIRST_READER];

    for (uint32_t i = FIRST_READER + 1; i < s->nlookers; i++) {
        if (s->helpers[i].runs)
            helper_ask(&s->helpers[i], JOB_END);
    }
    for (uint32_t i = FIRST_READER + 1; i < s->nlookers; i++) {
        if (s->helpers[i].runs)
            reader_end(s, &s->helpers[i]);
    }
    if (!first->runs)
        return;
    helper_ask(first, s->stuck ? JOB_END : JOB_CLOSE);
    reader_end(s, first);
}

void world_resume(world *w)
{
    struct world_state *s = w->state;
    uint64_t began = proc_now_ns();

    if (s == NULL || !s->helpers[TRACER].runs)
        return;
    if (s->looking) { /* for nobody: the cycle has failed */
        world_trouble late;

        atomic_store(&s->failed, true);
        (void)(await_answers(s, later(proc_now_ns(), LATE_NS), &late) < 0);
    }
    helper_ask(&s->helpers[TRACER], JOB_END); /* first of all: readers would take the processors */
    helper_join(&s->helpers[TRACER]);
    w->pause_end_ns = w->pause_begin_ns != 0 ? proc_now_ns() : 0;
    w->times.resume_ns = proc_now_ns() - began;
    readers_end(s);
    (void)pthread_setschedparam(pthread_self(), s->policy, &s->priority);
    (void)pthread_sigmask(SIG_SETMASK, &s->mask, NULL);
}

bool world_is_outside(const world *w, uint32_t session)
{
    const targets *t = &w->state->targets;

    for (uint32_t i = 0; i < t->nprocesses; i++) {
        if (t->processes[i].session == session)
            return !t->processes[i].gone && t->processes[i].outside;
    }
    return false;
}

void world_free(world *w)
{
    struct world_state *s = w->state;

    if (s == NULL)
        return;
    world_resume(w);
    readers_end(s);
    if (s->stuck) { /* a thread may go on with it at any time */
        *w = (world){ 0 };
        return;
    }
    for (uint32_t i = 0; i < s->nlookers; i++)
        looker_deinit(&s->lookers[i]);
    targets_deinit(&s->targets);
    free(s->registers);
    free(s);
    *w = (world){ 0 };
}
