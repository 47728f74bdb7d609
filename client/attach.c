/*
 * attach: how the process comes to the heap, leaves it, and forks.
 *
 * Called by users (goalloc_attach, goalloc_detach) and by every slow path (process_ensure). Data: `process`, private,
 * under process_lock; its gate words (state, arena_bytes) are written last at an attach and first at a detach.
 *
 *        DETACHED --goalloc_attach, or first malloc--> ATTACHED --goalloc_detach--> DETACHED
 *                                                         |
 *                                                        fork (in the child)
 *                                                         v
 *                                                       FORKED --first call that needs the daemon--> ATTACHED
 *
 * An attach: 1. connect, send Attach, get numbers and four descriptors; 2. check them, sizes by fstat, the header by
 * recomputing it, and map them, the arena at its address and nowhere else (mapping.c); 3. close the descriptors, open
 * the gate.
 *
 * A fork: the handlers take every lock of the library before and release it after, so the child finds no lock held by
 * a thread that it does not have. The child closes its copy of the socket, forgets the parent's spans (they stay the
 * parent's) and keeps the mapping. Other threads' fast paths hold no lock: what they were doing goes on in the
 * parent; the child has no copy of their spans to misuse.
 *
 * A heap other than the one that is mapped (the daemon was replaced meanwhile): -ESTALE, nothing changes.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/connection.h"
#include "client/coredump.h"
#include "client/large.h"
#include "client/mapping.h"
#include "client/mcache.h"

#define DEFAULT_SOCKET     "/run/goallocd/goallocd.sock"
#define DEFAULT_TIMEOUT_MS 5000
#define PATH_BYTES_MAX     256u
#define ATTACH_FLAGS       (GOALLOC_ATTACH_RECLAIM | GOALLOC_ATTACH_READONLY | GOALLOC_ATTACH_DUMP)

static const shm_u64 no_limit = 0; /* no free takes the fast path */
static const shm_u32 no_trim = 0;

process_info process = { .free_limit = &no_limit, .session_trim_seq = &no_trim };

static pthread_mutex_t process_lock = PTHREAD_MUTEX_INITIALIZER;

/* How to attach (again): copies of what the options said. Under process_lock. */
static char socket_path[PATH_BYTES_MAX];
static char label[SHM_LABEL_BYTES];
static attach_request how = { .socket_path = socket_path, .label = label };
static bool dumps; /* GOALLOC_ATTACH_DUMP, which is not the daemon's business */

static int take_options(const goalloc_options *options)
{
    goalloc_options o = GOALLOC_OPTIONS_INIT;
    const char *path;

    if (options != NULL) {
        if (options->struct_size < sizeof(options->struct_size))
            return -EINVAL;
        memcpy(&o, options, options->struct_size < sizeof(o) ? options->struct_size : sizeof(o));
    }
    if (o.timeout_ms < 0 || (o.flags & ~ATTACH_FLAGS) != 0)
        return -EINVAL;
    path = o.socket_path != NULL ? o.socket_path : getenv("GOALLOC_SOCKET");
    if (path == NULL)
        path = DEFAULT_SOCKET;
    if (path[0] == '\0')
        return -EINVAL;
    if (strlen(path) >= sizeof(socket_path))
        return -ENAMETOOLONG;
    memcpy(socket_path, path, strlen(path) + 1);
    label[0] = '\0';
    (void)strncat(label, o.label != NULL ? o.label : program_invocation_short_name, sizeof(label) - 1);
    how.flags = o.flags & ~GOALLOC_ATTACH_DUMP;
    dumps = o.flags & GOALLOC_ATTACH_DUMP;
    how.limit_bytes = o.limit_bytes;
    how.timeout_ms = o.timeout_ms == 0 ? DEFAULT_TIMEOUT_MS : o.timeout_ms;
    return 0;
}

/* Connect and map by `how`. Under process_lock; the state is DETACHED or FORKED. */
static int attach_locked(void)
{
    attach_result a;
    bool forked = process_state_now() == PROCESS_FORKED;
    bool readonly;
    int r;

    how.wait = forked; /* its parent has been served: it goes on waiting as that would */
    r = connection_attach(&how, &a);
    if (r < 0)
        return r == -EAGAIN ? -EPROTO : r; /* no answer to an Attach; here it would mean the limit on locked memory */
    readonly = how.flags & GOALLOC_ATTACH_READONLY;
    r = forked ? mapping_reattach(&a, readonly) : mapping_attach(&a, readonly);
    (void)close(a.arena_fd);
    (void)close(a.spans_fd);
    (void)close(a.bitmap_fd);
    (void)close(a.life_fd);
    if (r < 0) {
        connection_detach();
        return r;
    }
    process.readonly = readonly;
    process.reclaim = how.flags & GOALLOC_ATTACH_RECLAIM;
    process.session = a.session;
    process.epoch = a.epoch;
    process.base = process.map.base;
    atomic_store_explicit(&process.session_trim_seq, &process.map.sessions[process.session.n].trim_seq,
                          memory_order_relaxed);
    /* In a forked child it is the parent's, whose session may be of another kind. */
    atomic_store_explicit(&process.free_limit,
                          process.readonly || process.reclaim ? &no_limit : &process.map.header->free_limit,
                          memory_order_release);
    u64_store_release(&process.arena_bytes, process.map.arena_bytes);
    u32_store_release(&process.state, PROCESS_ATTACHED);
    if (dumps)
        coredump_enable();
    else
        coredump_disable(); /* of the parent, in a forked child */
    return 0;
}

int goalloc_attach(const goalloc_options *options)
{
    int r;

    (void)pthread_mutex_lock(&process_lock);
    r = process_state_now() == PROCESS_ATTACHED ? -EALREADY : take_options(options);
    if (r == 0)
        r = attach_locked();
    (void)pthread_mutex_unlock(&process_lock);
    return r;
}

int process_ensure(void)
{
    int r = 0;

    if (LIKELY(process_state_now() == PROCESS_ATTACHED))
        return 0;
    (void)pthread_mutex_lock(&process_lock);
    if (process_state_now() == PROCESS_DETACHED)
        r = take_options(NULL);
    if (r == 0 && process_state_now() != PROCESS_ATTACHED)
        r = attach_locked();
    (void)pthread_mutex_unlock(&process_lock);
    return r;
}

int process_ensure_writable(void)
{
    int r = process_ensure();

    return r == 0 && process.readonly ? -EROFS : r;
}

int process_mapped(bool with_write)
{
    if (process_state_now() == PROCESS_DETACHED)
        return -ENOTCONN;
    return with_write && process.readonly ? -EROFS : 0;
}

bool process_leases(const shm_span *span)
{
    lease_word lease = lease_unpack(u64_load_acquire(&span->lease));

    return process_state_now() == PROCESS_ATTACHED && lease.state == SPAN_LEASED &&
           lease.session.n == process.session.n && lease.epoch == process.epoch;
}

int goalloc_detach(void)
{
    int r = 0;

    (void)pthread_mutex_lock(&process_lock);
    if (process_state_now() == PROCESS_DETACHED) {
        r = -ENOTCONN;
        goto out;
    }
    coredump_disable();
    mcache_count_all(mcache_tls);
    if (process_state_now() == PROCESS_ATTACHED)
        connection_detach();
    atomic_store_explicit(&process.free_limit, &no_limit, memory_order_release);
    u32_store_release(&process.state, PROCESS_DETACHED);
    u64_store_release(&process.arena_bytes, 0);
    process.base = 0;
    atomic_store_explicit(&process.session_trim_seq, &no_trim, memory_order_relaxed);
    process.readonly = process.reclaim = false;
    mcache_forget_all();
    large_forget_cached();
    mapping_detach();
out:
    (void)pthread_mutex_unlock(&process_lock);
    return r;
}

/* --- fork --- */

static void fork_prepare(void)
{
    (void)pthread_mutex_lock(&process_lock);
    large_lock();
    connection_fork_lock();
    mcache_fork_prepare();
}

static void fork_parent(void)
{
    mcache_fork_parent();
    connection_fork_unlock();
    large_unlock();
    (void)pthread_mutex_unlock(&process_lock);
}

static void fork_child(void)
{
    mcache_fork_child();
    connection_close();
    connection_fork_unlock();
    large_forget_cached();
    large_unlock();
    if (process_state_now() != PROCESS_DETACHED) {
        (void)madvise(process.mspan_of, process.map.npages * sizeof(*process.mspan_of), MADV_DONTNEED);
        u32_store_release(&process.state, PROCESS_FORKED);
    }
    process.life = NULL;
    (void)pthread_mutex_unlock(&process_lock);
}

__attribute__((constructor)) static void attach_init(void)
{
    /* Without the handlers a child would write its parent's memory: better not to start at all. */
    if (pthread_atfork(fork_prepare, fork_parent, fork_child) != 0)
        abort();
}
