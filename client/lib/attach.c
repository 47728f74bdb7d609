/*
 * attach: how the process comes to the heap, leaves it, and forks.
 *
 * Called by users (goalloc_attach, goalloc_detach) and by every slow path (attach_ensure). Calls connection (session),
 * mapping (memory), process (state and gate), coredump, thread and largecache (what is held). Data: how to attach.
 *
 *        DETACHED --goalloc_attach, or first malloc--> ATTACHED --goalloc_detach--> LEFT --goalloc_attach--> ATTACHED
 *                                                         |
 *                                                        fork (in the child)
 *                                                         v
 *                                                       FORKED --first call that needs the daemon--> ATTACHED
 *
 * An attach: 1. connect, send Attach, get numbers and five descriptors; 2. check them, sizes by fstat, the header by
 * recomputing it, and map them, the arena at its address and nowhere else (mapping.c); 3. close the descriptors, open
 * the gate. Step 1 waits, and is done under a turn that others wait for with a deadline; 2 and 3 under the forklock.
 *
 * A fork: the child begins anew. Spans are the parent's, so it forgets them; its copy of the socket is closed; locks
 * and turns are made anew, whoever had them in the parent; the mapping stays. None of that needs a look at what other
 * threads of the parent were doing, but for descriptors and mappings, which come and go under the forklock: that is all
 * fork() waits for.
 *
 * _Fork() and clone() call no handlers. Such a child finds its state wiped, as all that the fast paths find spans by
 * (client/README.md; mapping_private), and begins anew as above: become_child(), which process.c was given. A thread's
 * current[] is not wiped: it must name structures, which are.
 *
 * A heap other than the one that is mapped (the daemon was replaced meanwhile): -ESTALE, nothing changes.
 */
#include "client/lib/attach.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "client/lib/comeback.h"
#include "client/lib/connection.h"
#include "client/lib/coredump.h"
#include "client/lib/forklock.h"
#include "client/lib/intent.h"
#include "client/lib/largecache.h"
#include "client/lib/mapping.h"
#include "client/lib/thread.h"
#include "client/lib/turn.h"

#define ATTACH_FLAGS (GOALLOC_ATTACH_RECLAIM | GOALLOC_ATTACH_READONLY | GOALLOC_ATTACH_DUMP)

_Static_assert(GOALLOC_ATTACH_RECLAIM == SESSION_RECLAIM && GOALLOC_ATTACH_READONLY == SESSION_READONLY,
               "public names of the session's flags");

static turn attach_turn = TURN_INIT;

/* How to attach (again): copies of what the options said. With the turn. */
static char socket_path[PATH_MAX];
static char label[SHM_LABEL_BYTES];
static attach_request how = { .socket_path = socket_path, .label = label };
static bool dumps; /* GOALLOC_ATTACH_DUMP, which is not the daemon's business */

/* --- fork --- */

/* A child begins anew: no other thread of it is in the library. is_forker: this is the thread that has forked. */
static void start_over(bool is_forker)
{
    enum process_state before = process_last_state();

    thread_reset(is_forker);
    largecache_reset(&large_cache);
    comeback_reset();
    intent_reset();
    turn_reset(&attach_turn);
    process.life = NULL;
    atomic_store_explicit(&process.offers, NULL, memory_order_relaxed);
    if (before < PROCESS_ATTACHED && process.map.header != NULL)
        mapping_detach(); /* a thread of the parent was about to do it, or had not opened the gate yet */
    process_set_state(before >= PROCESS_ATTACHED ? PROCESS_FORKED : before);
}

/* In a child that fork()'s handlers have not told. */
static void become_child(bool is_forker)
{
    forklock_reset();
    start_over(is_forker);
}

static void fork_prepare(void)
{
    (void)process_state_now(); /* in a child that does not know it yet this makes the forklock anew */
    forklock_take();
}

static void fork_parent(void)
{
    forklock_give();
}

static void fork_child(void)
{
    start_over(true);
    forklock_give();
}

__attribute__((constructor(101))) static void attach_init(void)
{
    /* Without the handlers a child finds out by itself, but later: better not to start at all. */
    if (pthread_atfork(fork_prepare, fork_parent, fork_child) != 0)
        abort();
}

/* --- options --- */

/* An absolute path, which chdir() does not change. If there is no current directory it stays as it is. */
static int take_path(const char *path)
{
    char dir[PATH_MAX];
    int n;

    if (path == NULL)
        path = SHM_SOCKET_PATH;
    if (path[0] == '\0')
        return -EINVAL;
    if (strlen(path) >= sizeof(((struct sockaddr_un *)0)->sun_path))
        return -ENAMETOOLONG;
    if (path[0] == '/' || getcwd(dir, sizeof(dir)) == NULL || dir[0] != '/')
        n = snprintf(socket_path, sizeof(socket_path), "%s", path);
    else
        n = snprintf(socket_path, sizeof(socket_path), "%s/%s", strcmp(dir, "/") == 0 ? "" : dir, path);
    return n < 0 || (size_t)n >= sizeof(socket_path) ? -ENAMETOOLONG : 0;
}

static int read_options(const goalloc_options *options, goalloc_options *ret)
{
    goalloc_options o = GOALLOC_OPTIONS_INIT;

    if (options != NULL) {
        if (options->struct_size < sizeof(options->struct_size))
            return -EINVAL;
        memcpy(&o, options, options->struct_size < sizeof(o) ? options->struct_size : sizeof(o));
    }
    if (o.timeout_ms < 0 || (o.flags & ~ATTACH_FLAGS) != 0)
        return -EINVAL;
    if (o.timeout_ms == 0)
        o.timeout_ms = PROCESS_TIMEOUT_MS;
    *ret = o;
    return 0;
}

/* With the turn. */
static int take_options(const goalloc_options *o)
{
    int r = take_path(o->socket_path != NULL ? o->socket_path : getenv("GOALLOC_SOCKET"));

    if (r < 0)
        return r;
    label[0] = '\0';
    (void)strncat(label, o->label != NULL ? o->label : program_invocation_short_name, sizeof(label) - 1);
    how.flags = o->flags & ~GOALLOC_ATTACH_DUMP;
    dumps = o->flags & GOALLOC_ATTACH_DUMP;
    how.limit_bytes = o->limit_bytes;
    u32_store_relaxed(&process.timeout_ms, (uint32_t)o->timeout_ms);
    return 0;
}

/* --- attach --- */

/* From now on the state lies where no child sees it. Once in a process. */
static int hide_state(void)
{
    void *page;
    int r;

    if (process_hides_state())
        return 0;
    r = mapping_private(sizeof(shm_u32), 0, &page);
    if (r == 0)
        process_hide_state(page, become_child);
    return r;
}

/* Connect and map by `how`. With the turn; the heap is not mapped, or the state is FORKED. */
static int attach_now(bool gated, deadline until)
{
    attach_result a;
    bool readonly = how.flags & GOALLOC_ATTACH_READONLY;
    bool forked = process_state_now() == PROCESS_FORKED;
    int r = hide_state();

    if (r < 0)
        return r;
    how.wait = forked; /* its parent has been served: it goes on waiting as that would */
    how.gated = gated;
    how.until = until;
    r = connection_attach(&how, &a);
    if (r < 0)
        return r == -EAGAIN ? -EPROTO : r; /* no answer to an Attach; here it would mean the limit on locked memory */
    forklock_take();
    r = forked ? mapping_reattach(&a, readonly) : mapping_attach(&a, readonly);
    link_close_fds();
    if (r == 0)
        process_open_gate(&a, readonly, how.flags & GOALLOC_ATTACH_RECLAIM);
    forklock_give();
    comeback_end();
    if (r < 0)
        connection_detach();
    else if (dumps)
        coredump_enable();
    else
        coredump_disable(); /* of the parent, in a forked child */
    return r;
}

/*
 * Attach by these options. If that fails in a forked child, its next call that needs the daemon attaches with those of
 * the parent, as if this had not been tried. With the turn.
 */
static int attach_as(const goalloc_options *o, deadline until)
{
    static char path_before[sizeof(socket_path)];
    static char label_before[sizeof(label)];
    attach_request before = how;
    uint32_t timeout_before = u32_load_relaxed(&process.timeout_ms);
    bool forked = process_state_now() == PROCESS_FORKED;
    int r;

    memcpy(path_before, socket_path, sizeof(socket_path));
    memcpy(label_before, label, sizeof(label));
    r = take_options(o);
    if (r == 0)
        r = attach_now(false, until);
    if (r < 0 && forked) {
        memcpy(socket_path, path_before, sizeof(socket_path));
        memcpy(label, label_before, sizeof(label));
        how = before;
        u32_store_relaxed(&process.timeout_ms, timeout_before);
    }
    return r;
}

int goalloc_attach(const goalloc_options *options)
{
    goalloc_options o;
    deadline until;
    int r = read_options(options, &o);

    if (r < 0)
        return r;
    if (process_state_now() == PROCESS_ATTACHED)
        return -EALREADY;
    until = deadline_in(o.timeout_ms);
    r = turn_take(&attach_turn, until);
    if (r < 0)
        return r;
    r = process_state_now() == PROCESS_ATTACHED ? -EALREADY : attach_as(&o, until);
    turn_give(&attach_turn);
    return r;
}

int attach_ensure(void)
{
    enum process_state state = process_state_now();
    deadline until;
    int r;

    if (LIKELY(state == PROCESS_ATTACHED))
        return 0;
    if (state == PROCESS_LEFT)
        return -ENOTCONN;
    until = deadline_in((int)u32_load_relaxed(&process.timeout_ms));
    r = turn_take(&attach_turn, until);
    if (r < 0)
        return r;
    state = process_state_now();
    if (state == PROCESS_LEFT)
        r = -ENOTCONN;
    else if (state == PROCESS_DETACHED)
        r = take_options(&(goalloc_options){ .timeout_ms = PROCESS_TIMEOUT_MS });
    if (r == 0 && state != PROCESS_ATTACHED)
        r = attach_now(true, until);
    turn_give(&attach_turn);
    return r;
}

int attach_ensure_writable(void)
{
    int r = attach_ensure();

    return r == 0 && process.readonly ? -EROFS : r;
}

/* --- detach --- */

int goalloc_detach(void)
{
    int r;

    if (!process_is_mapped())
        return -ENOTCONN;
    r = turn_take(&attach_turn, deadline_in((int)u32_load_relaxed(&process.timeout_ms)));
    if (r < 0)
        return r;
    if (!process_is_mapped()) {
        r = -ENOTCONN;
        goto out;
    }
    coredump_disable();
    thread_forget_all();
    largecache_clear(&large_cache);
    connection_detach();
    forklock_take();
    mapping_detach();
    forklock_give();
out:
    turn_give(&attach_turn);
    return r;
}
