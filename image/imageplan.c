/*
 * Imageplan: walks a heap that nobody writes, and says what of it lives: spans with their bits, roots, and the pages in
 * which an object lives, cut into blocks.
 *
 * Called by imagewriter.c's callers: the daemon's saver, and goallocctl save. Reads spans, bitmap, the words of tiny
 * blocks, and where the arena has holes; writes nothing that is shared.
 *
 * An object lives while its alloc bit is set and its remote bit is not; a tiny block, while its word has an object
 * (shm/tiny.h). Who saves makes sure that nobody writes: no session lives that could, or all are stopped. Then what is
 * found is what a kill of all at that instant would leave: in a span with an owner (a session that reclaims, a group)
 * only objects with a kept bit live, since the end of its owner frees the others; and if a thread is at a link or an
 * unlink (a hold stands), the caller lets it go on and tries again (-EAGAIN). Of adopted objects nothing is known here:
 * they stay.
 *
 * The daemon may go on sweeping: a fold changes the bits of an object that does not live, and a span that comes free
 * has no live object, so both are found the same before and after it. In the midst of it, too, by the order of what is
 * read: a span's lease and description, its owner, then of each 64 objects the remote word and the alloc word. A fold
 * clears alloc bits first, then remote bits (object.h); the end of an owner clears the bits of what goes with it, then
 * the owner. In a heap that is not held still (an estimate) what is found may be torn, and look damaged.
 *
 * Pages of a large object that never had memory are zero: the kernel is asked (SEEK_DATA) and not the page, which a
 * look would give memory.
 */
#include "image/imageplan.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "image/imageio.h"
#include "shm/holds.h"
#include "shm/sizeclass.h"
#include "shm/tiny.h"

#define THREADS_MAX IMAGE_THREADS_MAX

/* --- spans --- */

/* The blocks of word w of a tiny span that have a live object. */
static uint64_t tiny_blocks(const shm_map *map, page_no first, uint32_t w, uint64_t alloc, image_header *sum)
{
    uint64_t live = 0;

    for (; alloc != 0; alloc &= alloc - 1) {
        uint32_t word = u32_load_acquire(tiny_word(map, first, w * 64 + (uint32_t)__builtin_ctzll(alloc)));

        if (tiny_nlive(word) == 0)
            continue;
        live |= alloc & -alloc;
        sum->live_objects += tiny_nlive(word);
        sum->live_bytes += tiny_live_bytes(word);
    }
    return live;
}

/* Those of word w that outlive their owner; without one, all. Owner first: its end clears bits, then the owner. */
static uint64_t outliving(const shm_map *map, page_no first, const shm_span *span, uint32_t owner, uint32_t w)
{
    if (owner == 0)
        return UINT64_MAX;
    return span_has_kept(span) ? u64_load_acquire(shm_kept_word(map, first, w)) : 0;
}

/* The bits of the objects that live, and how many do. */
static bool live_bits(const shm_map *map, page_no first, const shm_span *span, uint64_t *bits, image_header *sum)
{
    uint32_t owner = u32_load_acquire(&shm_span_at(map, first)->owner); /* now, and not what the copy says */
    uint64_t any = 0;

    for (uint32_t w = 0; w < bits_nwords(span->nelems); w++) {
        uint64_t remote = u64_load_acquire(shm_remote_word(map, first, w));
        uint64_t alloc = u64_load_acquire(shm_alloc_word(map, first, w)) & bits_mask(span->nelems, w) &
                         outliving(map, first, span, owner, w);

        if (span_is_tiny(span)) {
            bits[w] = tiny_blocks(map, first, w, alloc, sum);
        } else {
            bits[w] = alloc & ~remote;
            sum->live_objects += bits_count(bits[w]);
            sum->live_bytes += bits_count(bits[w]) * span->elem_bytes;
        }
        any |= bits[w];
    }
    return any != 0;
}

static bool is_whole(const shm_span *span, page_no first, uint64_t end)
{
    uint8_t class = span_class_size(span->spc).n;

    return class <= SIZE_CLASS_TINY && span->npages != 0 && span->npages <= end - first.n &&
           (class == 0 ? span->nelems == 1
                       : span->nelems != 0 && span->nelems == size_class_span_nelems(class, span->npages) &&
                             span->elem_bytes == size_class_bytes[class]);
}

/* How far the heap has grown. */
static uint64_t end_of(const shm_map *map)
{
    uint64_t end = 0;

    for (uint64_t i = 0; i < map->npages / SHM_HEAP_ARENA_PAGES; i++) {
        uint64_t n = u64_load_relaxed(&map->heap_arenas[i].npages);

        end += n < SHM_HEAP_ARENA_PAGES ? n : SHM_HEAP_ARENA_PAGES;
        if (n < SHM_HEAP_ARENA_PAGES)
            break;
    }
    return end;
}

static int add_spans(image_plan *plan, const shm_map *map, image_error *why)
{
    uint64_t end = end_of(map);
    uint64_t bits[IMAGE_SPAN_WORDS];

    for (uint64_t page = 1; page < end;) {
        uint32_t first = u32_load_relaxed(&map->page_map[page]);
        const shm_span *there = shm_span_at(map, page_at(first));
        shm_span span;
        int r = 0;

        if (first != page || lease_unpack(u64_load_acquire(&there->lease)).state == SPAN_FREE) {
            page++;
            continue;
        }
        span = *there; /* what is checked is what is used: in a heap that is only looked at it may become another one */
        if (!is_whole(&span, page_at(first), end))
            return image_fail(why, -EUCLEAN, "the heap: the span at page %u is damaged", first);
        if (live_bits(map, page_at(first), &span, bits, &plan->header))
            r = image_spans_add(&plan->spans,
                                &(image_span){ .first = first,
                                               .npages = span.npages,
                                               .nelems = (uint16_t)span.nelems,
                                               .spc = span.spc.n,
                                               .lessee_folds = span.lessee_folds != 0 },
                                bits);
        if (r < 0)
            return r;
        page += span.npages;
    }
    plan->header.nspans = plan->spans.n;
    return 0;
}

/* --- roots --- */

static int add_roots(image_plan *plan, const shm_map *map)
{
    uint32_t n = u32_load_relaxed(&map->header->nroot_entries);

    plan->roots = malloc(SHM_ROOTS_MAX * (sizeof(image_root) + SHM_ROOT_NAME_BYTES));
    if (plan->roots == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < n && i < SHM_ROOTS_MAX; i++) {
        const shm_root *root = &map->roots[i];
        uint64_t current = u64_load_acquire(&root->current);
        const shm_root_value *value = &root->values[root_which(current)];
        uint64_t nbytes = root_name_bytes(current);
        char *at = plan->roots + plan->roots_bytes;

        if (current == 0 || u64_load_relaxed(&value->offset) == 0 || nbytes == 0 || nbytes > SHM_ROOT_NAME_MAX)
            continue;
        memcpy(at,
               &(image_root){ .offset = u64_load_relaxed(&value->offset),
                              .size = u64_load_relaxed(&value->size),
                              .type_tag = u64_load_relaxed(&value->type_tag),
                              .generation = u64_load_relaxed(&value->generation),
                              .owner = (uint32_t)(u64_load_relaxed(&value->ticket) >> 32),
                              .name_bytes = (uint32_t)nbytes },
               sizeof(image_root));
        memset(at + sizeof(image_root), 0, image_name_room((uint32_t)nbytes));
        memcpy(at + sizeof(image_root), root->name, nbytes);
        plan->roots_bytes += sizeof(image_root) + image_name_room((uint32_t)nbytes);
        plan->header.nroots++;
    }
    return 0;
}

/* --- pages --- */

/* Another extent, in the last block or a new one. It is cut where the block is full. 0, -ENOMEM. */
static int add_extent(image_plan *plan, uint32_t first, uint32_t npages, bool zero)
{
    while (npages > 0) {
        image_block *block = plan->nblocks > 0 ? &plan->blocks[plan->nblocks - 1] : NULL;
        image_extent *extents;
        uint32_t n = npages;

        if (block == NULL || block->ncontent == IMAGE_BLOCK_PAGES || block->to - block->from == IMAGE_EXTENTS_MAX) {
            block = image_grow(plan->blocks, sizeof(*plan->blocks), plan->nblocks, &plan->blocks_cap);
            if (block == NULL)
                return -ENOMEM;
            plan->blocks = block;
            block = &plan->blocks[plan->nblocks++];
            *block = (image_block){ plan->nextents, plan->nextents, 0, plan->header.npages };
        }
        if (!zero && n > IMAGE_BLOCK_PAGES - block->ncontent)
            n = IMAGE_BLOCK_PAGES - block->ncontent;
        extents = image_grow(plan->extents, sizeof(*plan->extents), plan->nextents, &plan->extents_cap);
        if (extents == NULL)
            return -ENOMEM;
        plan->extents = extents;
        plan->extents[plan->nextents++] = (image_extent){ first, n | (zero ? IMAGE_EXTENT_ZERO : 0) };
        block->to = plan->nextents;
        block->ncontent += zero ? 0 : n;
        *(zero ? &plan->header.nzero_pages : &plan->header.npages) += n;
        first += n;
        npages -= n;
    }
    return 0;
}

/* A large object: its pages that have memory, and those that never had any. */
static int add_large(image_plan *plan, int arena_fd, const image_span *span)
{
    uint64_t at = page_offset(page_at(span->first));
    uint64_t end = at + span->npages * PAGE_BYTES;
    int r = 0;

    while (at < end && r == 0) {
        off_t data = lseek(arena_fd, (off_t)at, SEEK_DATA);
        off_t hole = data < 0 ? -1 : lseek(arena_fd, data, SEEK_HOLE);
        uint64_t from = data < 0 && errno == ENXIO ? end : data < 0 ? at : (uint64_t)data / PAGE_BYTES * PAGE_BYTES;
        uint64_t to = hole < 0 ? end : ((uint64_t)hole + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;

        from = from < end ? from : end;
        to = to < end ? to : end;
        if (from > at)
            r = add_extent(plan, (uint32_t)(at / PAGE_BYTES), (uint32_t)((from - at) / PAGE_BYTES), true);
        if (r == 0 && to > from)
            r = add_extent(plan, (uint32_t)(from / PAGE_BYTES), (uint32_t)((to - from) / PAGE_BYTES), false);
        at = to > from ? to : from;
    }
    return r;
}

static int add_pages(image_plan *plan, int arena_fd)
{
    int r = 0;

    for (uint32_t i = 0; i < plan->spans.n && r == 0; i++) {
        const image_span *span = &plan->spans.spans[i];

        if (span_class_size((span_class){ span->spc }).n == 0) {
            r = add_large(plan, arena_fd, span);
            continue;
        }
        for (uint32_t page = 0, to; page < span->npages && r == 0; page = to + 1) {
            to = page;
            while (to < span->npages && image_span_page_lives(&plan->spans, i, to))
                to++;
            if (to > page)
                r = add_extent(plan, span->first + page, to - page, false);
        }
    }
    return r;
}

/* True if a thread may be at a link or an unlink. */
static bool is_held(const shm_map *map)
{
    const shm_intents *intents = shm_intents_of(map);

    for (uint32_t i = 0; holds_any(map) && i < SHM_HOLDS_MAX; i++) {
        if (u64_load_acquire(&intents->holds[i]) != 0)
            return true;
    }
    return false;
}

int image_plan_make(image_plan *plan, const image_source *heap, image_error *why)
{
    const shm_header *header = heap->map->header;
    int r;

    *plan = (image_plan){ .header = { .format = IMAGE_FORMAT,
                                      .major = header->major,
                                      .minor = u32_load_relaxed(&header->minor),
                                      .needed = u32_load_relaxed(&header->needed),
                                      .writing = u32_load_relaxed(&header->writing),
                                      .base = header->base,
                                      .arena_bytes = header->arena_bytes,
                                      .generation = header->generation } };
    memcpy(plan->header.magic, IMAGE_MAGIC, sizeof(plan->header.magic));
    if (!heap->ended && is_held(heap->map))
        return image_fail(why, -EAGAIN, "a thread is about to link or to unlink an object, or has died in that");
    r = add_spans(plan, heap->map, why);
    if (r == 0)
        r = add_roots(plan, heap->map);
    if (r == 0)
        r = add_pages(plan, heap->arena_fd);
    return r == -ENOMEM ? image_fail(why, r, "no memory for the plan of an image") : r;
}

void image_plan_free(image_plan *plan)
{
    image_spans_free(&plan->spans);
    free(plan->roots);
    free(plan->extents);
    free(plan->blocks);
    plan->roots = NULL;
    plan->extents = NULL;
    plan->blocks = NULL;
}

/* --- content --- */

int image_plan_read(const image_plan *plan, const image_source *heap, uint32_t i, char *to)
{
    const image_block *block = &plan->blocks[i];

    if (plan->copy != NULL) {
        memcpy(to, plan->copy + block->content_at * PAGE_BYTES, block->ncontent * PAGE_BYTES);
        return 0;
    }
    for (uint32_t at = block->from, end; at < block->to; at = end) {
        const image_extent *extent = &plan->extents[at];
        uint64_t npages = extent->npages;
        int r;

        end = at + 1;
        if ((npages & IMAGE_EXTENT_ZERO) != 0)
            continue;
        /* Those that follow on each other are read at once. */
        while (end < block->to && plan->extents[end].first == extent->first + npages &&
               (plan->extents[end].npages & IMAGE_EXTENT_ZERO) == 0)
            npages += plan->extents[end++].npages;
        r = image_read_all(heap->arena_fd, to, npages * PAGE_BYTES, page_offset(page_at(extent->first)));
        if (r < 0)
            return r;
        to += npages * PAGE_BYTES;
    }
    return 0;
}

typedef struct copying {
    const image_plan *plan;
    const image_source *heap;
    char *to;
    uint32_t from;
    uint32_t step;
    int result;
} copying;

/* Each of `step` threads takes a stretch of blocks of its own. */
static void *copy_some(void *data)
{
    copying *c = data;
    uint64_t n = c->plan->nblocks;

    for (uint64_t i = n * c->from / c->step; i < n * (c->from + 1) / c->step && c->result == 0; i++)
        c->result = image_plan_read(c->plan, c->heap, (uint32_t)i, c->to + c->plan->blocks[i].content_at * PAGE_BYTES);
    return NULL;
}

int image_plan_copy(image_plan *plan, const image_source *heap, char *to, unsigned nthreads)
{
    copying parts[THREADS_MAX];
    pthread_t threads[THREADS_MAX];
    bool started[THREADS_MAX] = { false };
    unsigned n = image_threads(nthreads, plan->nblocks);
    int r = 0;

    for (unsigned i = 0; i < n; i++) {
        parts[i] = (copying){ plan, heap, to, i, n, 0 };
        started[i] = i + 1 < n && pthread_create(&threads[i], NULL, copy_some, &parts[i]) == 0;
    }
    for (unsigned i = n; i-- > 0;) {
        if (!started[i])
            (void)copy_some(&parts[i]);
    }
    for (unsigned i = 0; i < n; i++) {
        if (started[i])
            (void)pthread_join(threads[i], NULL);
        r = r == 0 ? parts[i].result : r;
    }
    if (r == 0)
        plan->copy = to;
    return r;
}

/* Zero the places of objects that do not live, in pages [from, from + n) of the span, whose content is there. */
static void clear_dead(const image_spans *s, uint32_t at, uint32_t from, uint32_t n, char *content)
{
    const image_span *span = &s->spans[at];
    const uint64_t *bits = image_span_bits(s, at);
    uint64_t elem = image_span_elem_bytes(span);
    uint64_t begin = from * PAGE_BYTES;
    uint64_t end = begin + n * PAGE_BYTES;
    bool tiny = span->spc == SPAN_CLASS_TINY;

    for (uint64_t k = begin / elem; k < span->nelems && k * elem < end; k++) {
        uint64_t lo = k * elem > begin ? k * elem : begin;
        uint64_t hi = (k + 1) * elem < end ? (k + 1) * elem : end;

        if ((bits[k / 64] >> k % 64 & 1) != 0)
            continue;
        memset(content + (lo - begin), 0, hi - lo);
        if (tiny) /* and its word */
            memset(content + PAGE_BYTES - (TINY_NBLOCKS - k) * sizeof(uint32_t), 0, sizeof(uint32_t));
    }
    if (!tiny && span->nelems * elem < end) { /* behind the last object */
        uint64_t lo = span->nelems * elem > begin ? span->nelems * elem : begin;

        memset(content + (lo - begin), 0, end - lo);
    }
}

void image_plan_clear(const image_plan *plan, uint32_t i, char *content)
{
    const image_block *block = &plan->blocks[i];

    for (uint32_t at = block->from; at < block->to; at++) {
        const image_extent *extent = &plan->extents[at];
        image_pos pos;

        if ((extent->npages & IMAGE_EXTENT_ZERO) != 0)
            continue;
        if (image_pos_at(&plan->spans, extent->first, &pos))
            clear_dead(&plan->spans, pos.span, pos.page, extent->npages, content);
        content += extent->npages * PAGE_BYTES;
    }
}
