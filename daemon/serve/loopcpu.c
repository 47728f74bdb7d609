/*
 * Loopcpu: the thread of the loop goes to the CPU of its client, and back.
 *
 * Called by requests.c (each request that somebody waits for) and server.c. Calls follow.c, which decides. Data:
 * private; all of it is the loop's thread's, but for `unbound`, which a job writes before the loop reads it.
 *
 *   1. Each request says from which CPU it came: follow.c may want the loop elsewhere from then on.
 *   2. When all that has come in is answered, at the end of the turn (uv_check_t), the thread goes there, by
 *      sched_setaffinity. So no client waits for that; to go takes the kernel some 10 us, to be set free one.
 *   3. While the thread is bound, the ends of turns are looked at: has it had to wait for its CPU? A timer sees
 *      whether anybody still asks.
 *
 * What the loop may use. Only the loop's thread is ever bound. Threads and processes begin with the mask of the thread
 * that makes them, so the thread pool is made before the first time: libuv makes all its threads at its first job, and
 * the first one here does nothing else. For the same reason server.c has the thread set free before a keeper is made.
 * A thread of the pool then tells at any time what the daemon may use: nobody changes its mask but an administrator,
 * and the kernel, when a cpuset changes. That is what the loop gets back when it is set free. A free loop whose mask is
 * another one has been put somewhere by an administrator: it stays there.
 *
 * Being late. /proc/thread-self/schedstat counts the nanoseconds in which the thread was ready and had no CPU. A look
 * at it takes a microsecond, so follow.c says when one is due.
 *
 * Where something is missing (one CPU, no /proc, no account, a system-call filter that answers EPERM), the thread
 * stays as it is, and the log says so at level debug. A filter that kills instead must allow sched_setaffinity:
 * systemd/README.md.
 */
#include "daemon/serve/loopcpu.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/log.h"

/* --- where the thread is --- */

/* How long the thread has waited for a CPU, in all. ret_nruns (or NULL): how often it has got one. */
static uint64_t waited_ns(const loopcpu *l, uint64_t *ret_nruns)
{
    char line[96];
    char *at = line;
    uint64_t waited;
    ssize_t n = pread(l->schedstat_fd, line, sizeof(line) - 1, 0);

    line[n > 0 ? n : 0] = '\0';
    (void)strtoull(at, &at, 10); /* how long it has run */
    waited = strtoull(at, &at, 10);
    if (ret_nruns != NULL)
        *ret_nruns = strtoull(at, NULL, 10);
    return waited;
}

static void turn_off(loopcpu *l, const char *why)
{
    log_debug("the loop does not follow its clients' CPUs: %s", why);
    l->state = LOOPCPU_OFF;
    follow_end(&l->policy);
}

/* Give the thread all CPUs that the daemon may use. */
static void set_free(loopcpu *l)
{
    if (sched_getaffinity(l->unbound, sizeof(l->wide), &l->wide) < 0 ||
        sched_setaffinity(0, sizeof(l->wide), &l->wide) < 0) {
        memset(&l->wide, 0xff, sizeof(l->wide)); /* the kernel takes away what the cpuset does not have */
        if (sched_setaffinity(0, sizeof(l->wide), &l->wide) < 0)
            turn_off(l, strerror(errno));
    }
    follow_moved(&l->policy, FOLLOW_ANY, uv_now(l->loop));
}

/* True if the thread may be bound to that CPU: its mask is the daemon's, with others in it. */
static bool may_bind(loopcpu *l, int cpu)
{
    cpu_set_t daemon;
    cpu_set_t own;
    cpu_set_t ours;

    if (sched_getaffinity(l->unbound, sizeof(daemon), &daemon) < 0 || sched_getaffinity(0, sizeof(own), &own) < 0) {
        turn_off(l, strerror(errno));
        return false;
    }
    CPU_AND(&ours, &l->wide, &daemon);
    return CPU_EQUAL(&own, &ours) && CPU_ISSET((size_t)cpu, &own) && CPU_COUNT(&own) > 1;
}

static void bind_to(loopcpu *l, int cpu)
{
    cpu_set_t one;
    int error = EINVAL;

    CPU_ZERO(&one);
    CPU_SET((size_t)cpu, &one);
    if (may_bind(l, cpu))
        error = sched_setaffinity(0, sizeof(one), &one) < 0 ? errno : 0;
    if (error == 0)
        follow_moved(&l->policy, cpu, uv_now(l->loop));
    else if (error == EINVAL)
        follow_refused(&l->policy, uv_now(l->loop));
    else
        turn_off(l, strerror(error));
}

/* --- the first time --- */

static void start_work(uv_work_t *work)
{
    loopcpu *l = work->data;

    l->unbound = (pid_t)syscall(SYS_gettid);
}

static void start_after(uv_work_t *work, int status)
{
    loopcpu *l = work->data;

    if (l->state == LOOPCPU_STARTING)
        l->state = status == 0 ? LOOPCPU_READY : LOOPCPU_UNTRIED;
}

/* Have the thread pool made while this thread is free. */
static void start_pool(loopcpu *l)
{
    l->work.data = l;
    l->state = LOOPCPU_STARTING;
    if (uv_queue_work(l->loop, &l->work, start_work, start_after) < 0)
        turn_off(l, "there is no thread pool");
}

/* --- turns of the loop --- */

/* The thread is bound, and a turn ends: was it late? */
static void look_at_turn(loopcpu *l)
{
    uint64_t now_ms = uv_now(l->loop);
    uint64_t before = l->waited_ns;

    if (!follow_wants_look(&l->policy, now_ms))
        return;
    l->waited_ns = waited_ns(l, NULL);
    if (follow_looked(&l->policy, l->waited_ns - before, now_ms))
        log_debug("late by %llu us on CPU %d: no CPU is followed for %llu ms",
                  (unsigned long long)(l->waited_ns - before) / 1000, l->policy.at,
                  (unsigned long long)(l->policy.not_before_ms - now_ms));
}

static void on_timer(uv_timer_t *timer);

/* Bring the thread where it should be. The way there may be long, so the account is looked at before. */
static void move(loopcpu *l)
{
    l->waited_ns = waited_ns(l, NULL);
    if (l->policy.at != FOLLOW_ANY)
        set_free(l);
    if (l->policy.to != FOLLOW_ANY && l->state == LOOPCPU_READY)
        bind_to(l, l->policy.to);
    if (l->policy.at == FOLLOW_ANY)
        (void)uv_timer_stop(&l->timer);
    else
        (void)uv_timer_start(&l->timer, on_timer, FOLLOW_IDLE_MS, FOLLOW_IDLE_MS);
}

static void on_timer(uv_timer_t *timer)
{
    loopcpu *l = timer->data;

    follow_tick(&l->policy, uv_now(l->loop));
    if (l->policy.to != l->policy.at) /* now, for the loop may sleep before its turn ends */
        move(l);
}

static void on_turn(uv_check_t *turn)
{
    loopcpu *l = turn->data;
    const follow *f = &l->policy;

    if (f->at != FOLLOW_ANY)
        look_at_turn(l);
    if (f->to != FOLLOW_ANY && l->state == LOOPCPU_UNTRIED)
        start_pool(l);
    if (f->to != f->at && l->state != LOOPCPU_STARTING)
        move(l);
    follow_end_turn(&l->policy);
    if (f->at == FOLLOW_ANY && f->to == FOLLOW_ANY)
        (void)uv_check_stop(turn);
}

/* How old a request is, as its client says. Nobody asks while the thread is not bound. */
static uint64_t age_ns(const loopcpu *l, const Goallocd__Request *request)
{
    uint32_t age_us;

    if (l->policy.at == FOLLOW_ANY || request->sent_us == 0)
        return FOLLOW_NO_AGE;
    age_us = (uint32_t)(uv_hrtime() / 1000) - request->sent_us;
    return age_us > INT32_MAX ? 0 : (uint64_t)age_us * 1000; /* 0: it was sent after this moment, by another clock */
}

void loopcpu_note_request(loopcpu *l, const void *client, const Goallocd__Request *request)
{
    bool known = request->cpu > 0 && request->cpu <= CPU_SETSIZE;

    if (l->state == LOOPCPU_OFF || request->id == 0)
        return;
    follow_request(&l->policy, client, known ? (int)request->cpu - 1 : FOLLOW_ANY, age_ns(l, request),
                   uv_now(l->loop));
    if (l->policy.to != l->policy.at)
        (void)uv_check_start(&l->turn, on_turn); /* if it runs already, nothing happens */
}

/* --- life --- */

void loopcpu_start(loopcpu *l, uv_loop_t *loop)
{
    uint64_t nruns = 0;
    cpu_set_t own;

    *l = (loopcpu){ .loop = loop, .state = LOOPCPU_UNTRIED };
    follow_init(&l->policy);
    (void)uv_check_init(loop, &l->turn);
    (void)uv_timer_init(loop, &l->timer);
    l->turn.data = l->timer.data = l;
    memset(&l->wide, 0xff, sizeof(l->wide));
    l->schedstat_fd = -1;
    if (sched_getaffinity(0, sizeof(own), &own) < 0 || CPU_COUNT(&own) == 1) {
        turn_off(l, "there is no choice of them");
        return;
    }
    l->schedstat_fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    if (l->schedstat_fd >= 0)
        l->waited_ns = waited_ns(l, &nruns);
    if (nruns == 0) /* a kernel that does not count says so */
        turn_off(l, "the kernel does not say how long a thread waits for one");
}

void loopcpu_release(loopcpu *l)
{
    follow_end(&l->policy);
    if (l->policy.at != FOLLOW_ANY)
        move(l);
}

void loopcpu_stop(loopcpu *l)
{
    loopcpu_release(l);
    l->state = LOOPCPU_OFF;
    if (l->schedstat_fd >= 0)
        (void)close(l->schedstat_fd);
    l->schedstat_fd = -1;
}
