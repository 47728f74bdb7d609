/*
 * Collect: the cycle of the collector, a client that frees what nobody can reach.
 *
 * Called by goallocctl leaks, and by goallocd-collector for goalloc_collect() and after deaths. Calls world.c (the
 * processes), heapcopy.c, mark.c and suspects.c (the heap), garbage.c. Data: all private; what it changes in the heap
 * are remote bits, by goalloc_free_checked().
 *
 *   1. Attach: the collector is a session as any other, which allocates nothing.
 *   2. BEGIN: the daemon gives the role to one session at a time. Two collectors could free one object twice: the
 *      second list would be older than what lies at its addresses.
 *   3. heapcopy_prepare(), world_prepare(): all that can be done beforehand. If nobody has the heap mapped, step 4 only
 *      looks once more, step 6 does nothing, and there is no pause. If the dead can have left nothing
 *      (COLLECT_SUSPECTS), the cycle is done. Memory for what may hold pointers is taken last, when it is known that
 *      the pause is short enough.
 *   4. world_stop(): the pause begins. Once all have stopped, the world's threads look at the processes by themselves.
 *   5. heapcopy_take() in this thread meanwhile, then world_copy(), which waits for the others: the snapshot. Neither
 *      changes what the other one looks at (world.c). world_validate() when both are done: nobody has come meanwhile,
 *      who might have allocated while bits were read.
 *   6. world_resume(): the pause ends.
 *   7. Marks: from words of processes, from named roots and intents; then the closure.
 *   8. Frees. END.
 *
 * Why it is sound: the snapshot is of one instant, since all who could change anything are stopped; the daemon goes on,
 * and only ends what is free already (heapcopy.c). What is unreachable then stays so. The daemon itself would free such
 * an object in three cases, and each is kept out: spans with an owner or adopted objects are no garbage (garbage.c),
 * what an intent names is a root, and a cycle does not begin while a session is ending (world_prepare()).
 *
 * If this process dies at any point: before 4, nothing was done. Between 4 and 6 the kernel lets go of all whom it has
 * stopped. In 8, what is freed is freed, and the next cycle finds the rest. If the daemon dies: the heap's words are
 * there for this process as before, and the role is in the session table, which the next daemon takes over.
 */
#include "client/collector/collect.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/collector/suspects.h"
#include "client/include/goalloc.h"
#include "client/lib/attach.h"
#include "client/lib/collectcall.h"
#include "client/lib/process.h"
#include "shm/crash.h"
#include "shm/origin.h"

#define RETRY_MS 20

_Static_assert(COLLECTCALL_OBJECTS_MAX <= SHM_ROOTS_MAX, "there is room for them among the roots");

static int arena_fd = -1; /* of the heap that is attached */

/* --- session and role --- */

int collect_attach(const char *socket_path, int timeout_ms)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    int r;

    if (arena_fd >= 0) {
        (void)close(arena_fd);
        arena_fd = -1;
    }
    options.socket_path = socket_path;
    options.label = COLLECT_LABEL;
    options.timeout_ms = timeout_ms;
    attach_keep_arena(&arena_fd);
    r = goalloc_attach(&options);
    if (r == 0 && arena_fd < 0) {
        (void)goalloc_detach();
        r = -EMFILE;
    }
    return r;
}

static int fail(collect_result *ret, int error, const char *text)
{
    ret->trouble.error = error;
    ret->trouble.pid = 0;
    (void)snprintf(ret->trouble.text, sizeof(ret->trouble.text), "%s", text);
    return error;
}

/* --- the pause --- */

typedef struct cycle {
    const collect_options *options;
    collect_result *result;
    heapcopy_is_suspect *suspect;
    uint64_t announced[COLLECTCALL_OBJECTS_MAX];
    uint32_t nannounced;
    heapcopy heap;
    world world;
    marker marker;
    uint32_t *by_heap; /* objects of each span that the heap itself holds; NULL: not counted */
} cycle;

static bool has_flag(const cycle *c, unsigned flag)
{
    return (c->options->flags & flag) != 0;
}

static void tell(const cycle *c, enum collect_step step, uint64_t n, uint64_t total)
{
    if (c->options->progress != NULL)
        c->options->progress(step, n, total, c->options->arg);
}

/* Step 2. */
static int begin(cycle *c)
{
    int n = collectcall_begin(NULL, c->announced);

    CRASH_POINT(collector_after_begin);
    c->nannounced = n > 0 ? (uint32_t)n : 0;
    /* Numbers of the session table are the daemon's: elsewhere they are other processes'. */
    if (n >= 0 && process.map.sessions[process.session.n].pid != (uint32_t)getpid())
        return fail(c->result, -ESRCH,
                    "the daemon is in another pid namespace: its sessions' processes can't be told from here");
    if (n >= 0)
        return 0;
    return fail(c->result, n,
                n == -EBUSY    ? "another session is collecting"
                : n == -EAGAIN ? "a session is ending"
                : n == -EPERM  ? "sessions of other users are attached: this is for root, the daemon's user and the "
                                 "control group"
                : n == -ENOSYS ? "the daemon is of an older version, which knows no collector"
                               : goalloc_strerror(n));
}

/* False: no span is suspect, so nobody is looked for, stopped or asked. */
static bool has_targets(const cycle *c)
{
    return c->suspect == NULL || c->heap.ntargets > 0;
}

static int no_room(cycle *c)
{
    return fail(c->result, -ENOMEM, "this process has no memory for a copy of what may hold pointers");
}

static int damaged(cycle *c)
{
    return fail(c->result, -EPROTO, "what the heap's tables say of a span can't be true: nothing can be freed");
}

/* Step 3. */
static int prepare(cycle *c)
{
    collect_result *ret = c->result;
    world_options options = { .max_pause_ns = c->options->max_pause_ns,
                              .trust_kernel = has_flag(c, COLLECT_TRUST_KERNEL),
                              .offsets = has_flag(c, COLLECT_OFFSETS),
                              .waiter = c->options->waiter };
    int r = heapcopy_prepare(&c->heap, &process.map, arena_fd, c->suspect, ret->ngrown + 1);

    if (r < 0)
        return r == -EPROTO ? damaged(c) : no_room(c);
    if (!has_targets(c))
        return 0;
    heapcopy_add_announced(&c->heap, c->announced, c->nannounced);
    options.heap_estimate_ns = c->heap.estimate_ns;
    r = world_prepare(&c->world, &process.map, &options, &ret->trouble);
    ret->estimate_ns = c->world.nprocesses > 0 ? c->heap.estimate_ns + c->world.estimate_ns : 0;
    if (r == 0 && c->world.nprocesses > 0 && heapcopy_touch(&c->heap) < 0)
        return no_room(c);
    return r;
}

/* Step 5. */
static int take(cycle *c)
{
    bool stopped = c->world.nprocesses > 0;
    uint64_t begin = heapcopy_now_ns();
    int r = heapcopy_take(&c->heap, c->suspect, stopped, stopped ? c->world.deadline_ns : UINT64_MAX);

    CRASH_POINT(collector_after_heap);
    c->result->copy_ns = heapcopy_now_ns() - begin;
    c->result->ngrown += r == -EAGAIN;
    if (r == -ETIMEDOUT)
        return fail(c->result, r, "the heap's words can't be copied within the longest pause allowed");
    if (r == -EPROTO)
        return damaged(c);
    if (r < 0)
        return fail(c->result, r, r == -EAGAIN ? "the heap has grown meanwhile" : "the arena can't be read");
    if (stopped)
        r = world_copy(&c->world, &c->result->trouble);
    CRASH_POINT(collector_after_words);
    return r == 0 ? world_validate(&c->world, &c->result->trouble) : r;
}

/* Steps 4 to 6. */
static int snapshot(cycle *c)
{
    int r = world_stop(&c->world, &c->result->trouble);

    CRASH_POINT(collector_after_stop);
    if (r == 0)
        r = take(c);
    CRASH_POINT(collector_after_validate);
    world_resume(&c->world);
    CRASH_POINT(collector_after_resume);
    c->result->pause_ns = c->world.pause_begin_ns != 0 ? c->world.pause_end_ns - c->world.pause_begin_ns : 0;
    c->result->nprocesses = c->world.nprocesses;
    c->result->nthreads = c->world.nthreads;
    c->result->nwords = c->world.nwords;
    c->result->copied_bytes = c->heap.content_bytes;
    c->result->walk_ns = c->heap.walk_ns;
    c->result->times = c->world.times;
    return r;
}

/* --- after it --- */

static void tell_marked(uint64_t nmarked, void *arg)
{
    const cycle *c = arg;

    tell(c, COLLECT_MARKS, nmarked, c->heap.nlive);
}

/* Step 7. */
static int mark(cycle *c)
{
    unsigned flags = (has_flag(c, COLLECT_OFFSETS) ? MARK_OFFSETS : 0) | (has_flag(c, COLLECT_PAST_END) ? MARK_PAST_END : 0);
    uint64_t begin = heapcopy_now_ns();

    if (mark_init(&c->marker, &c->heap, flags, has_flag(c, COLLECT_HOLDERS)) < 0)
        return fail(c->result, -ENOMEM, "this process has no memory for marks");
    c->marker.progress = tell_marked;
    c->marker.progress_arg = c;
    mark_from_roots(&c->marker);
    if (c->suspect != NULL)
        (void)suspects_mark(&c->marker);
    mark_closure(&c->marker);
    c->by_heap = garbage_count_reached(&c->heap);
    mark_from_hits(&c->marker, c->world.hits, c->world.nhits);
    mark_closure(&c->marker);
    if (garbage_find(&c->result->garbage, &c->heap) < 0)
        return fail(c->result, -ENOMEM, "this process has no memory for sums");
    c->result->mark_ns = heapcopy_now_ns() - begin;
    c->result->nlive = c->heap.nlive;
    c->result->nreached = c->marker.nmarked;
    return 0;
}

/* --- what the dead may have left --- */

/* True if the heap's daemon says who has filled a span. */
static bool has_origins(void)
{
    return (u32_load_relaxed(&process.map.header->optional) & SHM_OPTIONAL_ORIGIN) != 0;
}

/* A dead session may have allocated in a span of that origin. Without origins: in any. */
static bool is_suspect_origin(uint64_t word)
{
    uint32_t session = origin_unpack(word).session.n;

    return !has_origins() || session >= SHM_SESSIONS_MAX || origin_is_suspect(word, &process.map.sessions[session]);
}

static bool is_suspect(const shm_span *span)
{
    return is_suspect_origin(u64_load_acquire(&span->origin));
}

static bool was_suspect(const heap_span *span)
{
    return is_suspect_origin(span->origin);
}

typedef struct confirming {
    collect_result *result;
    uint32_t spans[COLLECTCALL_SPANS_MAX];
    uint32_t n;
} confirming;

/* If it fails the spans stay suspect: the next cycle looks there once more. */
static void send_confirmed(confirming *c)
{
    if (c->n > 0 && collectcall_confirm(c->spans, c->n) == 0)
        c->result->nconfirmed += c->n;
    c->n = 0;
}

static void confirm_span(uint32_t page, void *arg)
{
    confirming *c = arg;

    c->spans[c->n++] = page;
    if (c->n == COLLECTCALL_SPANS_MAX)
        send_confirmed(c);
}

/*
 * What only a process holds is reachable as long as that lives: its span stays suspect, else what it leaves when it dies
 * would never be looked for.
 */
static void confirm(cycle *c)
{
    confirming what = { .result = c->result };

    if (!has_origins() || c->by_heap == NULL)
        return;
    garbage_each_clean(&c->heap, c->by_heap, was_suspect, confirm_span, &what);
    send_confirmed(&what);
}

/* A garbage_is_quiet. arg: the world. */
static bool is_quiet(uint32_t session, void *arg)
{
    return world_is_outside(arg, session);
}

/* Steps 7 and 8. */
static int finish(cycle *c)
{
    collect_view view = { &c->heap, &c->marker, &c->world, &c->result->garbage };
    uint64_t begin_ns;
    int r = mark(c);

    if (r == 0 && c->options->found != NULL) {
        r = c->options->found(&view, c->options->arg);
        if (r < 0)
            (void)fail(c->result, r, "what was found could not be shown, so nothing was freed");
    }
    if (r < 0 || !has_flag(c, COLLECT_FREE | COLLECT_ALL))
        return r;
    tell(c, COLLECT_FREES, 0, c->result->garbage.total.objects);
    begin_ns = heapcopy_now_ns();
    r = garbage_free(&c->result->garbage, &c->heap, has_flag(c, COLLECT_ALL) ? is_quiet : NULL, &c->world);
    CRASH_POINT(collector_after_free);
    c->result->free_ns = heapcopy_now_ns() - begin_ns;
    if (r < 0)
        return fail(c->result, r, "the collector's session has ended, so it has freed no more");
    confirm(c);
    return 0;
}

static void cycle_free(cycle *c)
{
    free(c->by_heap);
    mark_free(&c->marker);
    world_free(&c->world);
    heapcopy_free(&c->heap);
}

/* One attempt. */
static int attempt(const collect_options *options, collect_result *ret)
{
    static cycle c; /* too large for a stack; a process runs one at a time */
    int r;

    c = (cycle){ .options = options, .result = ret, .suspect = options->flags & COLLECT_SUSPECTS ? is_suspect : NULL };
    ret->nattempts++;
    ret->trouble = (world_trouble){ .error = 0 };
    r = begin(&c);
    if (r == 0)
        r = prepare(&c);
    CRASH_POINT(collector_after_prepare);
    if (r == 0 && has_targets(&c)) {
        tell(&c, COLLECT_COPIES, 0, 0);
        r = snapshot(&c);
        if (r == 0)
            r = finish(&c);
    }
    cycle_free(&c);
    return r;
}

static int run(const collect_options *options, collect_result *ret, int timeout_ms)
{
    uint64_t until = heapcopy_now_ns() + (uint64_t)timeout_ms * 1000000;
    int r = attempt(options, ret);

    while (r == -EAGAIN && heapcopy_now_ns() < until) {
        garbage_end(&ret->garbage);
        if (options->progress != NULL)
            options->progress(COLLECT_WAITS, 0, 0, options->arg);
        (void)usleep(RETRY_MS * 1000);
        r = attempt(options, ret);
    }
    return r;
}

int collect_run(const collect_options *options, collect_result *ret)
{
    int timeout_ms = options->timeout_ms > 0 ? options->timeout_ms : COLLECT_WAIT_MS;
    bool attached = goalloc_heap_id() != 0;
    int r = 0;

    *ret = (collect_result){ .nattempts = 0 };
    if (attached && arena_fd < 0)
        return fail(ret, -EINVAL, "this process is attached, but not as a collector");
    if (!attached) {
        r = collect_attach(options->socket_path, timeout_ms);
        if (r < 0)
            return fail(ret, r, goalloc_attach_error());
    }
    r = run(options, ret, timeout_ms);
    (void)(collectcall_end() < 0); /* else the session's end does it */
    CRASH_POINT(collector_after_end);
    if (!attached) {
        (void)goalloc_detach();
        (void)close(arena_fd);
        arena_fd = -1;
    }
    return r;
}

void collect_end(collect_result *result)
{
    garbage_end(&result->garbage);
}

/* --- why --- */

static const words_range *range_of(const world *w, uint64_t hit)
{
    for (uint64_t i = 0; i < w->nranges; i++) {
        if (hit - w->ranges[i].first_hit < w->ranges[i].nhits)
            return &w->ranges[i];
    }
    return NULL;
}

static void name_root(const collect_view *view, const heap_root *root, char ret[SHM_ROOT_NAME_BYTES])
{
    const shm_root *entry = &view->heap->map->roots[root->number];
    uint64_t n;

    ret[0] = '\0';
    if (root->kind != HEAP_ROOT_NAMED)
        return;
    n = root_name_bytes(u64_load_acquire(&entry->current));
    n = n < SHM_ROOT_NAME_MAX ? n : SHM_ROOT_NAME_MAX;
    memcpy(ret, entry->name, n);
    ret[n] = '\0';
}

uint32_t collect_why(const collect_view *view, uint64_t address, collect_link ret[COLLECT_WHY_STEPS], bool *ret_garbage)
{
    uint64_t offset = (address & HEAPCOPY_ADDRESS_BITS) - view->heap->base;
    uint32_t n = 0;
    heap_object object;

    *ret_garbage = false;
    while (n < COLLECT_WHY_STEPS && heapcopy_find(view->heap, offset, &object)) {
        collect_link *link = &ret[n];

        *link = (collect_link){ .object = object, .holder = mark_holder_of(view->marker, object.ordinal) };
        if (link->holder.kind == MARK_HELD_BY_NOTHING) {
            *ret_garbage = n == 0;
            return 0;
        }
        n++;
        if (link->holder.kind == MARK_HELD_BY_HIT) {
            link->range = range_of(view->world, link->holder.number);
            if (link->range != NULL)
                link->address = words_hit_address(link->range, view->world->hits[link->holder.number]);
            break;
        }
        if (link->holder.kind == MARK_HELD_BY_ROOT) {
            link->root_kind = view->heap->roots[link->holder.number].kind;
            name_root(view, &view->heap->roots[link->holder.number], link->name);
            break;
        }
        offset = link->holder.number;
        link->address = view->heap->base + offset;
    }
    return n;
}
