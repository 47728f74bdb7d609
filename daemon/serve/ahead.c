/*
 * Ahead: memory is put behind the heap's next pages before anybody asks for them: a stock always, more while
 * it grows.
 *
 * Called by server.c at the start, and by leasing.c, whenever pages have been leased. Calls mheap (which pages), commit
 * (the work, in the thread pool). Data: private, and backed_base of the heap arenas, which mheap writes.
 *
 * Memory costs more than all else that a growing heap does: 2 MiB take the daemon 0.1 to 0.5 ms, and a client's malloc
 * of them takes much less. So the daemon works while the client uses what it has got before.
 *
 *   1. How much: as much as the pages in use have grown since the second before last, at most 1/32 of them, at most
 *      32 MiB (four of the largest refills; twice as much was not faster); but at least the stock of 8 MiB, which is
 *      there before the first refill, so that programs that run for less than a second don't wait for memory either.
 *      Free pages that have memory already count, wherever they are. So because of this file the heap never has more
 *      than 1/32 or 8 MiB above what is in use. The scavenger leaves both: 1/32 is below its goal (10%), and it knows
 *      the stock. What somebody has released by hand is prepared again with the next lease, not before. Nothing is
 *      prepared above 95% of the memory limit, or if the system has not several times as much to spare.
 *   2. Which: whole 2 MiB blocks (in huge pages if there are any) that are free and have no memory, in address order,
 *      from behind what was last leased without memory: first fit comes there next. The heap grows for them. Of the
 *      first block it is all but page 0.
 *   3. If small spans are what grows, their bits and descriptions get memory too. Else the loop, and with it the client
 *      that waits for its spans, would fault them in one by one (0.2 ms for a refill of 8 MiB).
 *   4. The pages are aside meanwhile, and free again, with memory, when the job ends. A refill that comes earlier would
 *      get pages behind them; it waits for the job instead, once, if too little is ready (handle_refill). Nobody waits
 *      for the pages to be zeroed, which comes after that (memory/zeroing.c).
 *
 * If the system has no memory, the job's pages are punched (server.c, releases.c), and nothing is prepared for 5 s.
 *
 * A job prepares 8 MiB at most, so that it ends within 2 ms. Then the next one begins, until 1 is reached.
 *
 * If the daemon dies, the pages are free. Those that were never in use lie below backed_base, so the daemon that takes
 * the heap over counts them as having memory, and its scavenger gives it back. They still count as zero (zeroed_base).
 */
#include "daemon/serve/ahead.h"

#define PIECE_PAGES  (8 * MIB / PAGE_BYTES)
#define LOOK_BLOCKS  1024u /* that are looked at in search of free ones, each time */
#define SPARE_FACTOR 4u
#define SHORT_PAGES  16u /* their bits, 256 bytes a page, are in each 4 KiB */
#define FAILED_NS    UINT64_C(5000000000)

void ahead_start(ahead *a, mheap *heap, commit_pool *commits, sysmem *mem, const scavenger *scav,
                 void (*on_end)(void *data, bool failed), void *data)
{
    *a = (ahead){ .heap = heap, .commits = commits, .mem = mem, .scav = scav, .on_end = on_end, .on_end_data = data };
    ahead_prepare(a);
}

void ahead_note_fresh(ahead *a, page_no first, uint64_t npages, uint64_t nscavenged)
{
    a->short_spans = npages <= SHORT_PAGES;
    if (nscavenged > 0)
        a->at = page_at(first.n + npages);
}

static uint64_t wanted_pages(const ahead *a)
{
    uint64_t before = a->scav->past_pages;
    uint64_t inuse = a->heap->ninuse_pages;
    uint64_t wanted = inuse > before ? inuse - before : 0;

    if (wanted > inuse / AHEAD_PART)
        wanted = inuse / AHEAD_PART;
    if (wanted < SHM_STOCK_PAGES)
        wanted = SHM_STOCK_PAGES;
    return wanted < AHEAD_PAGES_MAX ? wanted : AHEAD_PAGES_MAX;
}

/* Add up to nblocks free blocks without memory to the job, and take them. Returns their pages. */
static uint64_t take_blocks(ahead *a, uint64_t nblocks)
{
    uint64_t page = (a->at.n + HUGE_PAGES - 1) / HUGE_PAGES * HUGE_PAGES;
    uint64_t taken = 0;

    for (unsigned i = 0; i < LOOK_BLOCKS && nblocks > 0; i++, page += HUGE_PAGES) {
        page_range block = { page_at(page == 0 ? 1 : page), HUGE_PAGES - (page == 0) };

        block = mheap_take_aside(a->heap, ASIDE_AHEAD, block, NULL);
        if (block.npages == 0) {
            if (page >= a->heap->map->npages)
                break;
            continue;
        }
        commit_add(&a->job, block.first, block.npages);
        taken += block.npages;
        nblocks--;
    }
    a->at = page_at(page < a->heap->map->npages ? page : 0);
    return taken;
}

static void ahead_end(ahead *a, int result)
{
    a->busy = false;
    for (size_t i = 0; i < a->job.nranges; i++) {
        if (a->job.described)
            metabook_note_prepared(&a->heap->book, a->ranges[i].first, a->ranges[i].npages);
        mheap_put_back(a->heap, ASIDE_AHEAD, a->ranges[i], false);
    }
    if (result < 0)
        a->not_before_ns = uv_hrtime() + FAILED_NS;
}

static void ahead_on_committed(commit_job *job, int result)
{
    ahead *a = job->data;

    ahead_end(a, result);
    a->on_end(a->on_end_data, result < 0);
    ahead_prepare(a);
}

/* True if pages are being given back just now; not if that has got stuck. */
static bool is_releasing(const ahead *a)
{
    return !helper_is_stuck(a->scav->helper) &&
           (a->scav->busy || a->scav->forced || mheap_releasing_pages(a->heap) > 0);
}

void ahead_prepare(ahead *a)
{
    uint64_t wanted;
    uint64_t ready;
    uint64_t npages;
    uint64_t now;

    if (a->heap == NULL || a->busy || a->commits->stopping)
        return;
    wanted = wanted_pages(a);
    ready = mheap_free_backed_pages(a->heap);
    if (wanted < ready + HUGE_PAGES)
        return;
    npages = wanted - ready;
    /* No crumbs: at least half of it, or a whole piece. */
    if (npages < wanted / 2 && npages < PIECE_PAGES)
        return;
    if (npages > PIECE_PAGES)
        npages = PIECE_PAGES;
    now = uv_hrtime();
    if (now < a->not_before_ns || is_releasing(a) ||
        mheap_over_limit(a->heap, SCAVENGE_LIMIT_PERCENT, npages) > 0 ||
        !sysmem_has(a->mem, SPARE_FACTOR * wanted * PAGE_BYTES, a->commits->npages * PAGE_BYTES, now / 1000000))
        return;
    a->job = (commit_job){ .file = a->heap->file, .ranges = a->ranges, .described = a->short_spans };
    a->job.share = &a->share;
    a->job.done = ahead_on_committed;
    a->job.data = a;
    npages = take_blocks(a, npages / HUGE_PAGES);
    if (npages == 0)
        return;
    sysmem_spend(a->mem, npages * PAGE_BYTES);
    a->busy = true;
    commit_start(&a->job, a->commits);
}

bool ahead_is_worth_waiting(const ahead *a, uint64_t npages)
{
    return a->busy && mheap_free_backed_pages(a->heap) < npages;
}
