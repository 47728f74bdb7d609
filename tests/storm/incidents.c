/*
 * Incidents: what a worker does to itself: it forks, starts threads, trims, cuts its connection, detaches, leaves.
 * Called by worker.c between operations. How often is a matter of operations done, not of time, so that a seed gives
 * the same decisions again.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "tests/storm/worker.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SLOWER 8 /* so many fewer operations a second */
#else
#define SLOWER 1
#endif

/* On the average after how many operations of a thread. */
#define OPERATIONS_A_TRIM (8000 / SLOWER)
#define OPERATIONS_A_CUT (8000 / SLOWER)
#define OPERATIONS_A_THREAD (8000 / SLOWER)
#define OPERATIONS_A_FORK (20000 / SLOWER)
#define OPERATIONS_A_DETACH (20000 / SLOWER)
#define OPERATIONS_AN_EXIT (40000 / SLOWER)
#define OPERATIONS_OF_CHILD (4000 / SLOWER)
#define OPERATIONS_OF_SHORT (600 / SLOWER)
#define FDS_MAX 128
#if defined(__SANITIZE_THREAD__)
#define DESTRUCTOR_PASSES 2
#else
#define DESTRUCTOR_PASSES 3
#endif

#define THREAD_SHORT 100 /* numbers of threads in messages: the short thread of thread n is n more than it */
#define THREAD_CHILD 200

static bool happens(actor *a, enum death kind, unsigned noperations)
{
    return options_has(a->w->options, kind) && test_random(&a->random) % (noperations / a->w->options->often + 1) == 0;
}

/* --- trim, cut, detach, exit --- */

static void trim(actor *a)
{
    int r;

    actor_begin(a);
    atomic_store(&a->intent->doing, "trim");
    r = goalloc_trim();
    if (r != 0)
        storm_die(a->intent, "trim: %s", goalloc_strerror(r));
    actor_end(a);
    board_count(a->w->number, FIGURE_TRIM);
}

/*
 * End the library's connection behind its back. Its socket is the one whose other end is the daemon's. Another thread
 * may be closing it, or opening the next one: either is the daemon's, so it hits nobody else.
 */
static void cut(actor *a)
{
    for (int fd = 3; fd < FDS_MAX; fd++) {
        struct sockaddr_un peer = { .sun_family = AF_UNSPEC };
        socklen_t len = sizeof(peer);

        if (getpeername(fd, (struct sockaddr *)&peer, &len) == 0 && peer.sun_family == AF_UNIX &&
            strcmp(peer.sun_path, a->w->f->socket) == 0 && shutdown(fd, SHUT_RDWR) == 0)
            board_count(a->w->number, FIGURE_CUT);
    }
}

static void detach(actor *a)
{
    worker *w = a->w;
    table *t = NULL;
    int r;

    if (pthread_rwlock_wrlock(&w->quiet) != 0)
        storm_die(a->intent, "the lock of the process is broken");
    atomic_store(&a->intent->doing, "detach");
    r = goalloc_detach();
    if (r != 0)
        storm_die(a->intent, "detach: %s", goalloc_strerror(r));
    w->nsessions++;
    worker_attach(w);
    r = table_find(&t);
    if (r != 0 || t != w->t)
        storm_die(a->intent, "after a detach and an attach: root_get: %s, table at %p, not at %p", goalloc_strerror(r),
                  (void *)t, (void *)w->t);
    (void)pthread_rwlock_unlock(&w->quiet);
    board_count(w->number, FIGURE_DETACH);
}

static void leave(actor *a)
{
    uint64_t r = test_random(&a->random) % 3;

    board_count(a->w->number, FIGURE_EXIT);
    atomic_store(&a->intent->doing, "leave");
    if (r == 0) {
        actor_begin(a); /* both for good: from now on nobody detaches or forks */
        (void)pthread_mutex_lock(&a->w->forking);
        exit(0); /* the others are at work */
    }
    atomic_store(&a->w->leaving, r == 1 ? LEAVING_WITH_DETACH : LEAVING_WITHOUT);
}

/* --- fork --- */

/* No thread is started here, and nothing called that takes a lock of libc: other threads of the parent may hold it. */
__attribute__((noreturn)) static void child_main(worker *w, unsigned thread, uint64_t seed, pid_t parent)
{
    uint64_t noperations;
    actor a;

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(0);
    w->is_forked = true;
    actor_init(&a, w, THREAD_CHILD + thread, seed);
    noperations = test_random(&a.random) % OPERATIONS_OF_CHILD;
    for (uint64_t i = 0; i < noperations && !atomic_load(&the_board->stop); i++) {
        actor_begin(&a);
        operations_do(&a);
        actor_end(&a);
    }
    if (seed % 2 == 0) {
        int r = goalloc_detach();

        if (r != 0)
            storm_die(a.intent, "detach in a forked child: %s", goalloc_strerror(r));
    }
    _exit(0);
}

static void reap(actor *a, int flags)
{
    int status;
    pid_t pid = waitpid(a->child, &status, flags);

    if (pid == 0)
        return;
    if (pid != a->child)
        storm_die(a->intent, "the forked child %d is gone: %s", (int)a->child, strerror(errno));
    if (status != 0 && !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)) {
        board_dump(a->child);
        storm_die(a->intent, "the forked child %d has ended with status 0x%x", (int)a->child, (unsigned)status);
    }
    a->child = 0;
}

static void start_child(actor *a)
{
    uint64_t seed = test_random(&a->random);
    pid_t self = getpid();
    pid_t pid;

    actor_begin(a); /* a child of a detached process would have to attach anew */
    atomic_store(&a->intent->doing, "fork");
    (void)pthread_mutex_lock(&a->w->forking);
    pid = fork();
    if (pid < 0)
        storm_die(a->intent, "fork: %s", strerror(errno));
    if (pid == 0)
        child_main(a->w, a->intent->thread, seed, self);
    (void)pthread_mutex_unlock(&a->w->forking);
    actor_end(a);
    a->child = pid;
    board_count(a->w->number, FIGURE_FORK);
}

/* Its child may end by itself; now and then it is killed first. */
static void look_after_child(actor *a)
{
    uint64_t r = test_random(&a->random);

    if (r % 16 != 0)
        return;
    if (r >> 8 & 1 && r % OPERATIONS_OF_CHILD < 16)
        (void)kill(a->child, SIGKILL);
    reap(a, WNOHANG);
}

/* --- threads --- */

typedef struct short_thread {
    actor a;
    unsigned npasses; /* of the destructor */
} short_thread;

static pthread_key_t key;
static pthread_once_t key_once = PTHREAD_ONCE_INIT;

static void some_operations(actor *a, uint64_t n)
{
    for (uint64_t i = 0; i < n && !worker_must_end(a->w); i++) {
        actor_begin(a);
        operations_do(a);
        actor_end(a);
    }
}

/*
 * The library has a destructor of its own; which comes first is not said, so this one comes several times, after each
 * of which the library's comes again. The fourth time is the last one that glibc grants, and the thread sanitizer has
 * taken leave of the thread by then.
 */
static void destructor(void *data)
{
    short_thread *s = data;

    some_operations(&s->a, 8);
    if (++s->npasses < DESTRUCTOR_PASSES)
        (void)pthread_setspecific(key, s);
}

static void make_key(void)
{
    if (pthread_key_create(&key, destructor) != 0)
        abort();
}

static void *short_main(void *data)
{
    short_thread *s = data;
    actor *a = &s->a;

    (void)pthread_once(&key_once, make_key);
    (void)pthread_setspecific(key, s);
    some_operations(a, test_random(&a->random) % OPERATIONS_OF_SHORT);
    operations_leave_privates(a, 2);
    return s;
}

static void join_short(actor *a)
{
    void *s = NULL;

    (void)pthread_join(a->thread, &s);
    free(s);
    a->has_thread = false;
}

static void start_short(actor *a)
{
    short_thread *s;

    if (a->has_thread)
        join_short(a);
    s = calloc(1, sizeof(*s));
    if (s == NULL)
        storm_die(a->intent, "no memory for a thread");
    actor_init(&s->a, a->w, THREAD_SHORT + a->intent->thread, test_random(&a->random));
    if (pthread_create(&a->thread, NULL, short_main, s) != 0)
        storm_die(a->intent, "no thread");
    a->has_thread = true;
    board_count(a->w->number, FIGURE_THREAD);
}

/* --- all of them --- */

void incidents_do(actor *a)
{
    actor_reseed(a, 1);
    if (happens(a, DEATH_TRIM, OPERATIONS_A_TRIM))
        trim(a);
    if (happens(a, DEATH_CUT, OPERATIONS_A_CUT))
        cut(a);
    if (happens(a, DEATH_THREADS, OPERATIONS_A_THREAD))
        start_short(a);
    if (a->child != 0)
        look_after_child(a);
    else if (happens(a, DEATH_FORK, OPERATIONS_A_FORK))
        start_child(a);
    if (happens(a, DEATH_DETACH, OPERATIONS_A_DETACH))
        detach(a);
    if (happens(a, DEATH_EXIT, OPERATIONS_AN_EXIT))
        leave(a);
}

void incidents_finish(actor *a)
{
    if (a->has_thread)
        join_short(a);
    if (a->child != 0)
        reap(a, 0);
}
