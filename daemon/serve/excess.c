/*
 * Excess: what clients have given memory that nobody leases: by fallocate, by writing to bits or to pages of the arena,
 * by reading descriptions.
 *
 * Called by server.c (start) and request_heap.c (statistics). Calls mheap (which pages), helper (holes). Data: private;
 * pages that are being punched are aside, or behind a fence if the heap has not grown to them.
 *
 * The books say which pages have memory because of the daemon; limits and statistics go by them, so what clients add
 * takes no room from others there. But it takes the system's. The kernel's count of a file's blocks says how much it
 * is, and nothing says where: pages that were committed and never written look like holes to all who ask. So all that
 * has no memory by the books is punched, which costs next to nothing where there is none:
 *
 *   1. Each second the counts are compared. What the arena has more counts from the first page on: of it the books know
 *      each page before it has memory, and until it has none. Metadata counts from a MiB on, since who looks at bits
 *      and descriptions gives some of them memory. A second look, soon after the first one, must find it too: then a
 *      pass begins.
 *   2. From the upper end of the arena downwards, a request at a time, 10 ms apart: beyond the heap's end the pages and
 *      all that describes them, in holes of 128 MiB, up to 64 behind one fence. Below it, chunk by chunk, pages that
 *      are free and have no memory; of a chunk that is wholly so, also what describes it.
 *   3. The pass is over at page 0, or as soon as nothing is left that counts. If it has found less than half of what
 *      the metadata had, the next pass for metadata alone is twice as long away, up to five minutes.
 *
 * What it never touches: spans, free pages with memory, and what describes a chunk in which any of these lies. So a
 * pass that nobody works against leaves nothing of the arena's excess, and what a client can keep is the bits of chunks
 * that are in use: a 16th of the memory in use, at most.
 *
 * Why a single page counts: a write whose source page does not come has given the arena a page before it copies, and
 * holds it, with the file's lock, for as long as its process lives.
 *
 * If the daemon dies, the pages are free and without memory, as they were.
 */
#include "daemon/serve/excess.h"

#include "daemon/log.h"

#define LOOK_MS      1000u
#define SURE_MS      250u
#define STEP_MS      10u
#define PAUSE_MS_MAX 300000u
#define LEAST_BYTES  MIB
#define HOLE_PAGES   (128 * MIB / PAGE_BYTES)
#define FENCE_HOLES  64u
#define ALIGN_PAGES  1024u /* whose part of the page map is a page of memory */

static void on_timer(uv_timer_t *timer);

static excess_found look(const mheap *heap)
{
    uint64_t arena = heapfile_arena_bytes(heap->file);
    uint64_t metadata = heapfile_metadata_bytes(heap->file);
    uint64_t books = mheap_committed_pages(heap) * PAGE_BYTES;
    uint64_t charged = metabook_bytes(&heap->book);

    return (excess_found){ arena > books ? arena - books : 0, metadata > charged ? metadata - charged : 0 };
}

uint64_t excess_bytes(const mheap *heap)
{
    excess_found found = look(heap);

    return found.arena_bytes + found.metadata_bytes;
}

static bool is_worth_a_pass(const excess *e, excess_found found)
{
    return found.arena_bytes > 0 ||
           (found.metadata_bytes >= LEAST_BYTES && uv_now(e->timer.loop) >= e->metadata_not_before_ms);
}

/* --- which pages --- */

static void add_hole(excess *e, enum holes_kind kind, uint64_t first, uint64_t npages)
{
    e->holes[e->nholes++] = (helper_hole){ kind, { page_at(first), npages } };
}

/* The next pages beyond the heap's end. False: there are none above it any more. */
static bool take_beyond(excess *e)
{
    uint64_t heap_end = pagealloc_end(e->heap->pages).n;
    uint64_t end = (heap_end + ALIGN_PAGES - 1) / ALIGN_PAGES * ALIGN_PAGES;
    uint64_t to = e->at.n;
    uint64_t from = to;

    while (from > end && e->nholes < FENCE_HOLES) {
        uint64_t npages = from - end < HOLE_PAGES ? from - end : HOLE_PAGES;

        from -= npages;
        add_hole(e, HOLES_ALL, from, npages);
    }
    if (from == end && from > heap_end) { /* a chunk that shares its part of the page map with one of the heap */
        from = heap_end;
        add_hole(e, HOLES_PAGES, from, end - from);
        add_hole(e, HOLES_METADATA, from, end - from);
    }
    e->fenced = e->nholes > 0 && mheap_put_fence(e->heap, MHEAP_FENCE_EXCESS, ASIDE_EXCESS,
                                                 (page_range){ page_at(from), to - from });
    if (!e->fenced)
        e->nholes = 0;
    e->at = page_at(from);
    return e->fenced;
}

/* True if the page is free and has no memory by the books. */
static bool is_bare(const excess *e, uint64_t page)
{
    uint64_t ntaken;
    uint64_t nbacked;

    pagealloc_count(e->heap->pages, page_at(page), 1, &ntaken, &nbacked);
    return ntaken == 0 && nbacked == 0;
}

/* Take a range aside, to be punched. */
static void take_range(excess *e, uint64_t first, uint64_t npages)
{
    page_range range = { page_at(first), npages };

    if (npages > 0 && e->nholes < EXCESS_HOLES_MAX - 1 &&
        mheap_take_aside(e->heap, ASIDE_EXCESS, range, NULL).npages > 0)
        add_hole(e, HOLES_PAGES, first, npages);
}

/* What of pages [chunk, end) is free and has no memory, from above, while there is room. Returns where that ends. */
static uint64_t take_chunk(excess *e, uint64_t chunk, uint64_t end)
{
    uint64_t page = end;
    uint64_t ntaken;
    uint64_t nbacked;

    pagealloc_count(e->heap->pages, page_at(chunk), end - chunk, &ntaken, &nbacked);
    if (ntaken + nbacked == end - chunk)
        return chunk;
    if (ntaken + nbacked == 0 && end == chunk + CHUNK_PAGES) {
        take_range(e, chunk, CHUNK_PAGES);
        if (e->nholes > 0 && e->holes[e->nholes - 1].range.first.n == chunk)
            add_hole(e, HOLES_METADATA, chunk, CHUNK_PAGES);
        return chunk;
    }
    while (page > chunk && e->nholes < EXCESS_HOLES_MAX - 1) {
        uint64_t from = page;

        while (from > chunk && is_bare(e, from - 1))
            from--;
        take_range(e, from, page - from);
        page = from > chunk ? from - 1 : chunk;
    }
    return page;
}

/* The next chunks that have something to punch. */
static void take_below(excess *e)
{
    uint64_t end = pagealloc_end(e->heap->pages).n;
    uint64_t at = e->at.n < end ? e->at.n : end;

    e->fenced = false;
    mheap_flush_cache(e->heap);
    for (unsigned i = 0; i < FENCE_HOLES && at > 0 && e->nholes < EXCESS_HOLES_MAX / 2; i++)
        at = take_chunk(e, (at - 1) / CHUNK_PAGES * CHUNK_PAGES, at);
    if (at == 0 && e->nholes < EXCESS_HOLES_MAX)
        add_hole(e, HOLES_PAGES, 0, 1); /* nobody's, ever */
    e->at = page_at(at);
}

/* --- a pass --- */

static void put_back(excess *e, size_t npunched)
{
    for (size_t i = 0; i < e->nholes && !e->fenced; i++) {
        const helper_hole *hole = &e->holes[i];

        if (hole->kind == HOLES_METADATA && i < npunched)
            metabook_note_punched(&e->heap->book, hole->range.first);
    }
    for (size_t i = 0; i < e->nholes && !e->fenced; i++) {
        if (e->holes[i].kind == HOLES_PAGES && e->holes[i].range.first.n != 0)
            mheap_put_back(e->heap, ASIDE_EXCESS, e->holes[i].range, true);
    }
    if (e->fenced)
        mheap_remove_fence(e->heap, MHEAP_FENCE_EXCESS);
    e->nholes = 0;
    e->fenced = false;
    e->busy = false;
}

static void on_punched(helper_punch *p)
{
    excess *e = p->data;

    put_back(e, p->ndone);
    e->on_end(e->on_end_data);
}

/* The next step of the pass. */
static void step(excess *e)
{
    e->nholes = 0;
    if (!take_beyond(e))
        take_below(e);
    if (e->nholes == 0)
        return;
    e->busy = true;
    e->punch = (helper_punch){ .holes = e->holes, .nholes = e->nholes, .done = on_punched, .data = e };
    if (!helper_punch_start(e->helper, &e->punch)) {
        put_back(e, 0);
        e->at = page_at(0); /* not now */
    }
}

static void begin_pass(excess *e, excess_found found)
{
    uint64_t kib = (found.arena_bytes + found.metadata_bytes) / KIB;

    if (kib >= LEAST_BYTES / KIB)
        log_warn("clients have given the heap's files %llu MiB that nobody leases: looking for it, to give it back",
                 (unsigned long long)(kib * KIB / MIB));
    e->begun = found;
    e->passing = true;
    e->at = page_at(e->heap->map->npages);
}

static void end_pass(excess *e, excess_found found)
{
    uint64_t begun = e->begun.arena_bytes + e->begun.metadata_bytes;
    uint64_t left = found.arena_bytes + found.metadata_bytes;

    if (found.metadata_bytes < LEAST_BYTES || found.metadata_bytes < e->begun.metadata_bytes / 2)
        e->pause_ms = 0;
    else
        e->pause_ms = e->pause_ms == 0 ? LOOK_MS : e->pause_ms * 2 < PAUSE_MS_MAX ? e->pause_ms * 2 : PAUSE_MS_MAX;
    e->metadata_not_before_ms = uv_now(e->timer.loop) + e->pause_ms;
    if (begun >= LEAST_BYTES)
        log_info("%llu MiB that clients had given the heap's files have been given back",
                 (unsigned long long)((begun > left ? begun - left : 0) / MIB));
    e->passing = false;
    e->seen = false;
}

static void on_timer(uv_timer_t *timer)
{
    excess *e = timer->data;
    excess_found found = look(e->heap);
    bool worth = is_worth_a_pass(e, found);
    uint64_t wait_ms = LOOK_MS;

    if (e->busy) {
        wait_ms = STEP_MS;
    } else if (e->passing && (!worth || e->at.n == 0)) {
        end_pass(e, found);
    } else if (e->passing) {
        step(e);
        wait_ms = STEP_MS;
    } else if (worth && e->seen) {
        begin_pass(e, found);
        wait_ms = STEP_MS;
    } else {
        e->seen = worth;
        wait_ms = worth ? SURE_MS : LOOK_MS;
    }
    (void)uv_timer_start(timer, on_timer, wait_ms, 0);
}

void excess_start(excess *e, uv_loop_t *loop, mheap *heap, helper *punches, void (*on_end)(void *data), void *data)
{
    *e = (excess){ .heap = heap, .helper = punches, .on_end = on_end, .on_end_data = data };
    (void)uv_timer_init(loop, &e->timer);
    e->timer.data = e;
    (void)uv_timer_start(&e->timer, on_timer, LOOK_MS, 0);
}
