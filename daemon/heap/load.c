/*
 * Load: writes what is in an image (image/image.h) into the memfds of a new heap.
 *
 * Called by main, before anybody serves the heap or has a descriptor of it. Calls the image's reader and heapfile.
 * Data: the tables of spans, the alloc bits, and the arena's pages, by pwrite (1.9 GiB/s; by the mapping, whose faults
 * are one by one, 0.3).
 *
 *   1. heapfile_create(): memfds, with a generation of their own. So the heap has another id than the one that was
 *      saved, and a root with GOALLOC_ROOT_REINIT is initialised again by whoever asks for it first
 *   2. the heap-arena table, descriptions, page map, alloc bits, roots. Every span is CENTRAL and nobody's; no bit but
 *      alloc bits is set
 *   3. spans of which not all pages have content get memory; then the content of the others, in several threads
 *   4. mheap_recover(), by main: all that is checked at a takeover is checked here, too
 *
 * Nothing is lazy: a page that is not there yet would be zeroes for whoever looks.
 *
 * If the daemon dies meanwhile, the memfds go with it: nobody else has them until main gives them to systemd or to a
 * keeper, when all is there. The file is only read.
 */
#include "daemon/heap/load.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "daemon/heap/pagebits.h"
#include "image/imageio.h"
#include "shm/crash.h"
#include "shm/sizeclass.h"

#define METADATA_PERCENT 5u /* of the pages, at most: README.md */

/* The first page behind the last span. */
static uint64_t end_of(const image *im)
{
    const image_span *last = im->spans.n > 0 ? &im->spans.spans[im->spans.n - 1] : NULL;

    return last == NULL ? 1 : (uint64_t)last->first + last->npages;
}

uint64_t load_bytes(const image *im)
{
    uint64_t npages = 0;

    for (uint32_t i = 0; i < im->spans.n; i++)
        npages += im->spans.spans[i].npages;
    return npages * PAGE_BYTES / 100 * (100 + METADATA_PERCENT);
}

/* How far the heap has grown: whole chunks; and up to where pages were handed out. */
static void write_arenas(shm_map *map, uint64_t end)
{
    uint64_t grown = (end + CHUNK_PAGES - 1) / CHUNK_PAGES * CHUNK_PAGES;

    for (uint64_t at = 0; at < grown; at += SHM_HEAP_ARENA_PAGES) {
        shm_heap_arena *arena = &map->heap_arenas[at / SHM_HEAP_ARENA_PAGES];
        uint64_t n = grown - at;
        uint64_t used = end - at;

        u64_store_relaxed(&arena->npages, n < SHM_HEAP_ARENA_PAGES ? n : SHM_HEAP_ARENA_PAGES);
        u32_store_relaxed(&arena->zeroed_base, (uint32_t)(used < SHM_HEAP_ARENA_PAGES ? used : SHM_HEAP_ARENA_PAGES));
    }
}

static void write_span(shm_map *map, const image_spans *s, uint32_t i)
{
    const image_span *from = &s->spans[i];
    const uint64_t *bits = image_span_bits(s, i);
    page_no first = page_at(from->first);
    shm_span *to = shm_span_at(map, first);
    uint8_t class = span_class_size((span_class){ from->spc }).n;

    *to = (shm_span){ .elem_bytes = image_span_elem_bytes(from),
                      .npages = from->npages,
                      .nelems = from->nelems,
                      .magic = class == 0 ? 0 : size_class_magic[class],
                      .spc = { from->spc },
                      .needzero = 1,
                      .lessee_folds = from->lessee_folds };
    for (uint32_t w = 0; w < bits_nwords(from->nelems); w++)
        u64_store_relaxed(shm_alloc_word(map, first, w), bits[w]);
    for (uint32_t page = 0; page < from->npages; page++)
        u32_store_relaxed(&map->page_map[first.n + page], first.n);
    u64_store_release(&to->lease, lease_pack((lease_word){ .state = SPAN_CENTRAL }));
}

static void write_roots(shm_map *map, const image *im)
{
    const image_root *root;
    const char *name;
    uint32_t n = 0;

    for (size_t at = 0; (root = image_root_at(im, at, &name, &at)) != NULL && n < SHM_ROOTS_MAX; n++) {
        shm_root *to = &map->roots[n];
        shm_root_value *value = &to->values[0];

        u64_store_relaxed(&value->offset, root->offset);
        u64_store_relaxed(&value->size, root->size);
        u64_store_relaxed(&value->type_tag, root->type_tag);
        u64_store_relaxed(&value->ticket, (uint64_t)root->owner << 32);
        u64_store_relaxed(&value->generation, root->generation);
        memcpy(to->name, name, root->name_bytes);
        u64_store_release(&to->current, root_current_pack(root->name_bytes, 0));
    }
    u32_store_release(&map->header->nroot_entries, n);
}

/* --- pages --- */

static int commit(int fd, uint64_t first, uint64_t npages, image_error *why)
{
    int r;

    do
        r = fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)(first * PAGE_BYTES), (off_t)(npages * PAGE_BYTES)) < 0 ? -errno
                                                                                                              : 0;
    while (r == -EINTR);
    return r < 0 ? image_fail(why, r, "no memory for page %" PRIu64 " of the heap: %s", first, strerror(-r)) : 0;
}

/* Of spans in which dead pages lie between others: as where a daemon has committed a span, all of it has memory. */
static int commit_holes(const image_spans *s, int fd, image_error *why)
{
    int r = 0;

    for (uint32_t i = 0; i < s->n && r == 0; i++) {
        const image_span *span = &s->spans[i];
        bool whole = true;

        if (span_class_size((span_class){ span->spc }).n == 0)
            continue; /* its extents say which pages have no content */
        for (uint32_t page = 0; page < span->npages && whole; page++)
            whole = image_span_page_lives(s, i, page);
        if (!whole)
            r = commit(fd, span->first, span->npages, why);
    }
    return r;
}

typedef struct filling {
    int fd;
    bool eager;
} filling;

/* A block of pages: what follows on each other is written at once. */
static int fill(void *data, const image_pages *pages, image_error *why)
{
    const filling *f = data;
    const image_extents *e = pages->extents;
    const char *content = pages->content;
    int r = 0;

    for (uint32_t i = 0, next; i < e->n && r == 0; i = next) {
        uint64_t first = e->extents[i].first;
        uint64_t npages = e->extents[i].npages & ~IMAGE_EXTENT_ZERO;

        next = i + 1;
        if ((e->extents[i].npages & IMAGE_EXTENT_ZERO) != 0) {
            if (f->eager)
                r = commit(f->fd, first, npages, why);
            continue;
        }
        while (next < e->n && e->extents[next].first == first + npages &&
               (e->extents[next].npages & IMAGE_EXTENT_ZERO) == 0)
            npages += e->extents[next++].npages;
        r = image_write_all(f->fd, content, npages * PAGE_BYTES, first * PAGE_BYTES);
        if (r < 0)
            return image_fail(why, r, "no memory for the heap: %s", strerror(-r));
        content += npages * PAGE_BYTES;
    }
    CRASH_POINT(load_after_block);
    return r;
}

int load_image(const image *im, uint64_t arena_bytes, bool eager, shm_u64 *ndone, heapfile *ret, image_error *why)
{
    uint64_t end = end_of(im);
    filling f = { .eager = eager };
    heapfile file;
    int r;

    if (end > arena_bytes / PAGE_BYTES)
        return image_fail(why, -ENOSPC, "its objects reach up to %" PRIu64 " MiB of the arena, which has %" PRIu64
                          " MiB: start with a larger --reserve",
                          (end * PAGE_BYTES + MIB - 1) / MIB, arena_bytes / MIB);
    r = heapfile_create(&file, im->header.base, arena_bytes);
    if (r < 0)
        return image_fail(why, r, "cannot make the heap: %s", strerror(-r));
    write_arenas(&file.map, end);
    for (uint32_t i = 0; i < im->spans.n; i++)
        write_span(&file.map, &im->spans, i);
    write_roots(&file.map, im);
    CRASH_POINT(load_after_tables);
    f.fd = file.fds[HEAPFILE_ARENA];
    r = eager ? commit_holes(&im->spans, f.fd, why) : 0;
    if (r == 0)
        r = image_for_all_pages(im, 0, fill, &f, ndone, why);
    CRASH_POINT(load_after_pages);
    if (r < 0)
        heapfile_close(&file);
    else
        *ret = file;
    return r;
}
