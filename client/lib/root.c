/*
 * root: names of objects: set, look up, wait, list; and one that is made by one process while the others wait.
 *
 * Called by users. Calls rootcall (each step is a request), alloc and owner (the object), process and attach. Data: of
 * each thread, the roots that it is making, on its stack; roots_seq in the header, which the daemon writes.
 *
 * goalloc_root_get_or_create():
 *   1. rootcall_reserve(): the root is there, and that is all; or somebody makes it: sleep, and ask again; or it is for
 *      this thread to make.
 *   2. goalloc_calloc(), and rootcall_announce(): from now on the daemon frees the object if this process dies.
 *   3. init, outside of every lock and turn: it may call this library, and take its time.
 *   4. goalloc_publish(), in a session that reclaims; rootcall_finish(): the object is the root.
 * If the right to make the root has ended meanwhile (-ECANCELED: the connection was lost and somebody else has asked,
 * the daemon was replaced, or somebody has set the root), the object is freed, and all begins anew: so there is never a
 * second one that anybody sees. If init fails or its thread is cancelled, the object is freed, and the next one may.
 *
 * When this process dies:
 *   before announce   one object that nobody knows of, as with any malloc; none in a session that reclaims
 *   before finish     the daemon frees the object, when it has seen the end of the session
 *   after finish      the root is there
 * The daemon frees what was announced until it was told to forget it. So the right is given back before the object is
 * freed here. If the daemon does not answer to that, the object is left alone: it may free it later. What is lost then,
 * and if both die, is one object.
 *
 * A child that is forked within init has a copy of the frame. It is no maker: its session is another one (is_maker), so
 * it neither finishes nor frees, and asks like everybody when its copy of init returns.
 *
 * A request whose reply names an object counts as asking (declared.h) until there is an address.
 *
 * A pointer is kept (KEEP_POINTER) until the daemon has answered: the request has an offset, which no collector takes
 * for a pointer. What is being made is kept by the frame's m.p.
 *
 * Who waits sleeps on roots_seq for 100 ms at most, and asks again, whether it was woken or not: seq is a hint, and
 * nothing depends on it but how soon. It holds nothing meanwhile, and can be cancelled.
 */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "client/lib/attach.h"
#include "client/lib/comeback.h"
#include "client/lib/declared.h"
#include "client/lib/process.h"
#include "client/lib/rootcall.h"
#include "shm/crash.h"

#define PAUSE_MS     10 /* the first sleep */
#define PAUSE_MS_MAX 100
#define UNASKED_MAX  3

_Static_assert(GOALLOC_ROOT_NAME_MAX == SHM_ROOT_NAME_MAX && GOALLOC_ROOT_REINIT == ROOT_REINIT, "public names");

/* --- set, look up --- */

/* The first byte of the arena is no object's; its offset 0 would remove the root. */
static bool is_place(const void *p)
{
    return goalloc_contains(p) && goalloc_offset(p) != 0;
}

int goalloc_root_set(const char *name, void *p)
{
    int r = attach_ensure_writable();

    if (r < 0)
        return r;
    if (name == NULL || (p != NULL && !is_place(p)))
        return -EINVAL;
    r = rootcall_set(name, goalloc_offset(p));
    KEEP_POINTER(p);
    return r;
}

int goalloc_root_compare_and_set(const char *name, void *expected, void *p)
{
    int r = attach_ensure_writable();

    if (r < 0)
        return r;
    if (name == NULL || (expected != NULL && !is_place(expected)) || (p != NULL && !is_place(p)))
        return -EINVAL;
    r = rootcall_compare_and_set(name, goalloc_offset(expected), goalloc_offset(p));
    KEEP_POINTER(p);
    return r;
}

/* What the daemon says that a root is. */
static int take_place(uint64_t offset, void **ret_p)
{
    if (goalloc_pointer(offset) == NULL)
        return -EPROTO;
    *ret_p = goalloc_pointer(offset);
    return 0;
}

static int look_up(const char *name, void **ret_p)
{
    bool counted = declared_asking_begin();
    uint64_t offset;
    int r = rootcall_get(name, &offset);

    if (r == 0)
        r = take_place(offset, ret_p);
    declared_asking_end(counted);
    return r;
}

int goalloc_root_get(const char *name, void **ret_p)
{
    int r = attach_ensure();

    if (r < 0)
        return r;
    return name == NULL || ret_p == NULL ? -EINVAL : look_up(name, ret_p);
}

/* --- waiting --- */

/* Who waits for a change of the roots. */
typedef struct waiting {
    deadline until;
    bool for_ever;
    uint32_t seq; /* before the daemon was asked last */
    int pause_ms;
    int nunasked; /* times in a row that there was no daemon to ask */
} waiting;

static waiting waiting_begin(int timeout_ms)
{
    return (waiting){ .until = deadline_in(timeout_ms < 0 ? 0 : timeout_ms), .for_ever = timeout_ms < 0,
                      .pause_ms = PAUSE_MS };
}

/* The daemon is about to be asked. */
static void waiting_look(waiting *w)
{
    w->seq = u32_load_acquire(&process.map.header->roots_seq);
}

/* Sleep until something has changed since then, or for a while. -ETIMEDOUT: the time is over. */
static int waiting_sleep(waiting *w)
{
    int left_ms = w->for_ever ? INT_MAX : deadline_left_ms(w->until);
    int ms = w->pause_ms < left_ms ? w->pause_ms : left_ms;
    struct timespec ts = { ms / 1000, (long)(ms % 1000) * 1000000L };

    if (left_ms == 0)
        return -ETIMEDOUT;
    pthread_testcancel();
    /* The word is mapped without write access: a wait only reads it. */
    if (syscall(SYS_futex, &process.map.header->roots_seq, FUTEX_WAIT, w->seq, &ts, NULL, 0) < 0 && errno != EAGAIN &&
        errno != ETIMEDOUT && errno != EINTR)
        (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);
    w->pause_ms = w->pause_ms * 2 < PAUSE_MS_MAX ? w->pause_ms * 2 : PAUSE_MS_MAX;
    return 0;
}

int goalloc_root_wait(const char *name, int timeout_ms, void **ret_p)
{
    waiting w = waiting_begin(timeout_ms);
    int r = attach_ensure();

    if (r < 0)
        return r;
    if (name == NULL || ret_p == NULL)
        return -EINVAL;
    for (;;) {
        waiting_look(&w);
        r = look_up(name, ret_p);
        if (r != -ENOENT)
            return r;
        /* No such root; or, if it stays like that, no directory in which a daemon could be. */
        w.nunasked = comeback_is_up() ? 0 : w.nunasked + 1;
        if (w.nunasked > UNASKED_MAX)
            return r;
        r = waiting_sleep(&w);
        if (r < 0)
            return r;
    }
}

/* --- making one --- */

/* A root that this thread is making. */
typedef struct making {
    root_claim claim;
    session_no session; /* whose right it is */
    uint32_t epoch;
    void *p;
    bool created;   /* p is of this thread; else it was there, and is initialised again */
    bool announced; /* the daemon may know p */
    struct making *outer;
} making;

static _Thread_local making *innermost __attribute__((tls_model("initial-exec")));

/* False in the child of a fork that came within init. */
static bool is_maker(const making *m)
{
    return process_state_now() == PROCESS_ATTACHED && process.session.n == m->session.n && process.epoch == m->epoch;
}

static bool is_being_made_here(const char *name)
{
    for (const making *m = innermost; m != NULL; m = m->outer) {
        if (is_maker(m) && strcmp(m->claim.name, name) == 0)
            return true;
    }
    return false;
}

/* The root is not made by this thread: whoever asks next may. Then the object goes, unless the daemon may free it. */
static void abandon(making *m)
{
    int r = rootcall_give_back(&m->claim);

    if (m->created && m->p != NULL && (r == 0 || !m->announced))
        goalloc_free(m->p);
}

/* After init, whatever has become of it. */
static void leave(void *arg)
{
    making *m = arg;

    innermost = m->outer;
    if (is_maker(m))
        abandon(m);
}

/* The object: zeroed, and known to the daemon, so that it goes with this process. */
static int allocate(making *m, uint64_t there)
{
    int r;

    m->created = there == 0;
    if (!m->created)
        return take_place(there, &m->p);
    m->p = goalloc_calloc(1, m->claim.size);
    if (m->p == NULL)
        return -errno;
    CRASH_POINT(making_after_alloc);
    m->announced = true;
    r = rootcall_announce(&m->claim, goalloc_offset(m->p));
    CRASH_POINT(making_after_announce);
    return r;
}

static int initialise(making *m, goalloc_init_fn init, void *arg)
{
    int r;

    if (init == NULL)
        return 0;
    m->outer = innermost;
    innermost = m;
    pthread_cleanup_push(leave, m);
    r = init(m->p, m->claim.size, arg);
    pthread_cleanup_pop(0);
    innermost = m->outer;
    CRASH_POINT(making_after_init);
    return r;
}

/* The object becomes the root. *ret_left: it is not known whether it has, so the object is left alone. */
static int finish(making *m, bool *ret_left)
{
    int r = process.reclaim ? goalloc_publish(m->p) : 0;

    if (r < 0)
        return r;
    if (process.reclaim)
        CRASH_POINT(making_after_publish);
    r = rootcall_finish(&m->claim, goalloc_offset(m->p));
    CRASH_POINT(making_after_finish);
    *ret_left = r == -ETIMEDOUT || r == -ENOTCONN || r == -ESTALE || r == -ENOENT || r == -EACCES || r == -EPROTO;
    return r;
}

/*
 * Make the root. *ret_again: not made, and not failed: the right to do so has ended, or this is not the maker but a
 * child of its, forked within init.
 */
static int make(making *m, uint64_t there, goalloc_init_fn init, void *arg, bool *ret_again)
{
    int r = allocate(m, there);
    bool left = false;

    *ret_again = r == -ECANCELED;
    if (r == 0) {
        r = initialise(m, init, arg);
        if (!is_maker(m)) {
            *ret_again = r == 0;
            return r;
        }
        if (r == 0) {
            r = finish(m, &left);
            *ret_again = r == -ECANCELED;
        }
    }
    if (r != 0 && !left)
        abandon(m);
    return r;
}

/* One try. *ret_again: somebody else makes it, or (*ret_soon) has made it meanwhile. */
static int try_to_get(const root_claim *claim, goalloc_init_fn init, void *arg, void **ret_p, int *ret_created,
                      bool *ret_again, bool *ret_soon)
{
    making m = { .claim = *claim, .session = process.session, .epoch = process.epoch };
    void *there = NULL; /* what is there already */
    enum root_state state;
    uint64_t offset;
    bool counted;
    int r;

    *ret_again = false;
    m.claim.ticket = rootcall_ticket();
    counted = declared_asking_begin();
    r = rootcall_reserve(&m.claim, &state, &offset);
    if (r == 0)
        there = goalloc_pointer(offset);
    KEEP_POINTER(there);
    declared_asking_end(counted);
    if (r < 0)
        return r;
    *ret_again = state == ROOT_MAKING;
    if (state == ROOT_THERE) {
        r = take_place(offset, ret_p);
    } else if (state == ROOT_YOURS) {
        CRASH_POINT(making_after_reserve);
        r = make(&m, offset, init, arg, ret_again);
        if (r == 0 && !*ret_again)
            *ret_p = m.p;
    }
    if (r == 0 && !*ret_again && ret_created != NULL)
        *ret_created = state == ROOT_YOURS && m.created;
    *ret_soon = state == ROOT_YOURS;
    KEEP_POINTER(there);
    return r;
}

int goalloc_root_get_or_create(const char *name, size_t size, uint64_t type_tag, goalloc_init_fn init, void *arg,
                               void **ret_p, int *ret_created)
{
    const root_claim claim = { .name = name, .size = size, .type_tag = type_tag };
    waiting w;
    int r = attach_ensure();

    if (r < 0)
        return r;
    if (name == NULL || ret_p == NULL || size == 0)
        return -EINVAL;
    if (is_being_made_here(name))
        return -EDEADLK;
    w = waiting_begin((int)u32_load_relaxed(&process.timeout_ms));
    for (;;) {
        bool again;
        bool soon;

        waiting_look(&w);
        r = try_to_get(&claim, init, arg, ret_p, ret_created, &again, &soon);
        if (!again)
            return r;
        if (soon) { /* the time that it took to make one in vain does not count */
            w = waiting_begin((int)u32_load_relaxed(&process.timeout_ms));
            r = attach_ensure(); /* in a child that was forked within init */
        } else {
            r = waiting_sleep(&w);
        }
        if (r < 0)
            return r;
    }
}

/* --- the list --- */

/* Some of the list, and the addresses of their objects. */
static int list_some(const char *prefix, uint32_t *start, root_line lines[ROOTCALL_PAGE], void *places[ROOTCALL_PAGE])
{
    bool counted = declared_asking_begin();
    int n = rootcall_list(prefix, start, lines);

    for (int i = 0; i < n; i++)
        places[i] = goalloc_pointer(lines[i].offset);
    KEEP_POINTER(places);
    declared_asking_end(counted);
    return n;
}

int goalloc_root_list(const char *prefix, int (*each)(const goalloc_root_info *info, void *arg), void *arg)
{
    root_line lines[ROOTCALL_PAGE];
    void *places[ROOTCALL_PAGE];
    uint32_t start = 0;
    int r = attach_ensure();

    if (r < 0)
        return r;
    if (each == NULL)
        return -EINVAL;
    if (prefix == NULL)
        prefix = "";
    if (strnlen(prefix, SHM_ROOT_NAME_BYTES) > SHM_ROOT_NAME_MAX)
        return -ENAMETOOLONG;
    do {
        int n = list_some(prefix, &start, lines, places);

        if (n < 0)
            return n;
        for (int i = 0; i < n; i++) {
            const root_line *line = &lines[i];
            goalloc_root_info info = { line->name, places[i], line->size, line->type_tag, line->session };

            r = each(&info, arg);
            if (r != 0)
                return r;
        }
    } while (start != 0);
    return 0;
}
