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
 * An attach: 1. connect, send Attach, get numbers and three descriptors; 2. check them: sizes by fstat, header by
 * recomputing it; 3. map the arena at its address and nowhere else; 4. close the descriptors, open the gate.
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
#include <sys/stat.h>
#include <unistd.h>

#include "client/connection.h"
#include "client/large.h"
#include "client/mcache.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

#define DEFAULT_SOCKET     "/run/goallocd/goallocd.sock"
#define DEFAULT_TIMEOUT_MS 5000
#define LIFE_BYTES         4096u
#define PATH_BYTES_MAX     256u

static const shm_u64 no_limit = 0; /* no free takes the fast path */
static const shm_u32 no_trim = 0;

process_info process = { .free_limit = &no_limit, .session_trim_seq = &no_trim };

static pthread_mutex_t process_lock = PTHREAD_MUTEX_INITIALIZER;

/* How to attach (again): copies of what the options said. Under process_lock. */
static char socket_path[PATH_BYTES_MAX];
static char label[SHM_LABEL_BYTES];
static attach_request how = { .socket_path = socket_path, .label = label };

static int take_options(const goalloc_options *options)
{
    goalloc_options o = GOALLOC_OPTIONS_INIT;
    const char *path;

    if (options != NULL) {
        if (options->struct_size < sizeof(options->struct_size))
            return -EINVAL;
        memcpy(&o, options, options->struct_size < sizeof(o) ? options->struct_size : sizeof(o));
    }
    if (o.timeout_ms < 0 || (o.flags & ~(GOALLOC_ATTACH_RECLAIM | GOALLOC_ATTACH_READONLY)) != 0)
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
    how.flags = o.flags;
    how.limit_bytes = o.limit_bytes;
    how.timeout_ms = o.timeout_ms == 0 ? DEFAULT_TIMEOUT_MS : o.timeout_ms;
    return 0;
}

static bool fd_has_bytes(int fd, uint64_t bytes)
{
    struct stat st;

    return fstat(fd, &st) == 0 && (uint64_t)st.st_size == bytes;
}

static void unmap(void *p, uint64_t bytes)
{
    if (p != NULL && p != MAP_FAILED)
        (void)munmap(p, bytes);
}

static int map_arena(const attach_result *a, bool readonly, bool replace)
{
    int prot = readonly ? PROT_READ : PROT_READ | PROT_WRITE;
    void *want = (void *)(uintptr_t)a->base;
    void *got = mmap(want, a->arena_bytes, prot,
                     MAP_SHARED | MAP_NORESERVE | (replace ? MAP_FIXED : MAP_FIXED_NOREPLACE), a->arena_fd, 0);

    if (got == MAP_FAILED)
        return errno == ENOMEM ? -ENOMEM : errno == EEXIST ? -EEXIST : -EPROTO;
    if (got != want) { /* a kernel before 4.17 takes the address for a hint */
        unmap(got, a->arena_bytes);
        return -EEXIST;
    }
    return 0;
}

/* The daemon sees whether this page is mapped anywhere: not in children, which have sessions of their own. */
static int map_life(const attach_result *a)
{
    void *life = mmap(NULL, LIFE_BYTES, PROT_READ, MAP_SHARED, a->life_fd, 0);

    if (life == MAP_FAILED)
        return -ENOMEM;
    if (madvise(life, LIFE_BYTES, MADV_DONTFORK) < 0) {
        unmap(life, LIFE_BYTES);
        return -ENOMEM;
    }
    process.life = life;
    return 0;
}

/* Map what the daemon has sent. On failure nothing stays mapped. */
static int map_heap(const attach_result *a)
{
    int prot = how.flags & GOALLOC_ATTACH_READONLY ? PROT_READ : PROT_READ | PROT_WRITE;
    uint64_t table_bytes = a->arena_bytes / PAGE_BYTES * sizeof(*process.mspan_of);
    void *spans = NULL;
    void *bitmap = NULL;
    void *table = NULL;
    int r = -EPROTO;

    if (a->spans_bytes < sizeof(shm_header) || !fd_has_bytes(a->arena_fd, a->arena_bytes) ||
        !fd_has_bytes(a->spans_fd, a->spans_bytes) || !fd_has_bytes(a->bitmap_fd, a->bitmap_bytes))
        return r;
    spans = mmap(NULL, a->spans_bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, a->spans_fd, 0);
    if (spans == MAP_FAILED)
        return -ENOMEM;
    r = shm_header_check(spans, a->spans_bytes, a->bitmap_bytes);
    if (r == 0) {
        shm_header *header = spans;

        if (header->base != a->base || header->arena_bytes != a->arena_bytes || header->generation != a->generation)
            r = -EPROTO;
    }
    if (r < 0)
        goto fail;
    r = -ENOMEM;
    bitmap = mmap(NULL, a->bitmap_bytes, prot, MAP_SHARED | MAP_NORESERVE, a->bitmap_fd, 0);
    if (bitmap == MAP_FAILED)
        goto fail;
    table = mmap(NULL, table_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (table == MAP_FAILED)
        goto fail;
    r = map_arena(a, how.flags & GOALLOC_ATTACH_READONLY, false);
    if (r < 0)
        goto fail;
    r = map_life(a);
    if (r < 0) {
        unmap((void *)(uintptr_t)a->base, a->arena_bytes);
        goto fail;
    }
    shm_map_init(&process.map, spans, bitmap, (void *)(uintptr_t)a->base);
    process.mspan_of = table;
    process.generation = a->generation;
    return 0;

fail:
    unmap(table, table_bytes);
    unmap(bitmap, a->bitmap_bytes);
    unmap(spans, a->spans_bytes);
    return r;
}

/*
 * The forked child has the heap mapped: check that it is the same, and change the kind of access if that is asked
 * for.
 */
static int remap_heap(const attach_result *a)
{
    bool readonly = how.flags & GOALLOC_ATTACH_READONLY;
    int prot = readonly ? PROT_READ : PROT_READ | PROT_WRITE;
    int r;

    if (a->generation != process.generation || a->base != process.map.base || a->arena_bytes != process.map.arena_bytes)
        return -ESTALE;
    r = map_life(a);
    if (r < 0 || readonly == process.readonly)
        return r;
    r = map_arena(a, readonly, true);
    if (r == 0 && mmap(process.map.bitmap, process.map.bitmap_bytes, prot, MAP_SHARED | MAP_NORESERVE | MAP_FIXED,
                       a->bitmap_fd, 0) == MAP_FAILED) {
        r = -ENOMEM;
        (void)mprotect((void *)(uintptr_t)a->base, a->arena_bytes,
                       process.readonly ? PROT_READ : PROT_READ | PROT_WRITE);
    }
    return r;
}

/* Connect and map by `how`. Under process_lock; the state is DETACHED or FORKED. */
static int attach_locked(void)
{
    attach_result a;
    bool forked = process_state_now() == PROCESS_FORKED;
    int r;

    how.wait = forked; /* its parent has been served: it goes on waiting as that would */
    r = connection_attach(&how, &a);
    if (r < 0)
        return r;
    r = forked ? remap_heap(&a) : map_heap(&a);
    (void)close(a.arena_fd);
    (void)close(a.spans_fd);
    (void)close(a.bitmap_fd);
    (void)close(a.life_fd);
    if (r < 0) {
        connection_detach();
        return r;
    }
    process.readonly = how.flags & GOALLOC_ATTACH_READONLY;
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
    unmap(process.mspan_of, process.map.npages * sizeof(*process.mspan_of));
    unmap((void *)(uintptr_t)process.map.base, process.map.arena_bytes);
    unmap(process.map.bitmap, process.map.bitmap_bytes);
    unmap(process.map.header, process.map.spans_bytes);
    unmap(process.life, LIFE_BYTES);
    process.life = NULL;
    process.mspan_of = NULL;
    process.map = (shm_map){ .base = 0 };
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
