/*
 * Bareheap: a heap that nobody serves, in this process's own memory: for tests and measurements of what reads heaps.
 */
#ifndef GOALLOC_TESTS_BAREHEAP_H
#define GOALLOC_TESTS_BAREHEAP_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shm/holds.h"
#include "shm/tiny.h"

typedef struct bareheap {
    shm_map map; /* map.base is where the arena would be; map.arena, where it is here */
    int arena_fd;
    void *spans;
    void *bitmap;
    uint32_t next_page;
} bareheap;

static inline void *bareheap_map(int *ret_fd, uint64_t len)
{
    int fd = memfd_create("bareheap", MFD_CLOEXEC);
    void *p = fd >= 0 && ftruncate(fd, (off_t)len) == 0 ? mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
                                                          : MAP_FAILED;

    if (p == MAP_FAILED) {
        perror("bareheap");
        exit(1);
    }
    *ret_fd = fd;
    return p;
}

/* An empty one, with an arena of so many bytes. */
static inline void bareheap_open(bareheap *h, uint64_t arena_bytes)
{
    shm_header header;
    void *arena;
    int spans_fd;
    int bitmap_fd;

    shm_header_init(&header, SHM_BASE_DEFAULT, arena_bytes);
    header.generation = 1;
    h->spans = bareheap_map(&spans_fd, header.spans_bytes);
    h->bitmap = bareheap_map(&bitmap_fd, header.bitmap_bytes);
    arena = bareheap_map(&h->arena_fd, arena_bytes);
    (void)close(spans_fd);
    (void)close(bitmap_fd);
    memcpy(h->spans, &header, sizeof(header));
    shm_map_init(&h->map, h->spans, h->bitmap, arena);
    for (uint64_t i = 0; i < arena_bytes / SHM_HEAP_ARENA_BYTES; i++)
        u64_store_relaxed(&h->map.heap_arenas[i].npages, SHM_HEAP_ARENA_PAGES);
    h->next_page = 1;
}

static inline void bareheap_close(bareheap *h)
{
    (void)munmap(h->map.arena, h->map.arena_bytes);
    (void)munmap(h->spans, h->map.spans_bytes);
    (void)munmap(h->bitmap, h->map.bitmap_bytes);
    (void)close(h->arena_fd);
}

/* A span that nobody leases, with no object in it. class 0: of npages, one object; else npages 0: as long as can be. */
static inline shm_span *bareheap_add_span(bareheap *h, uint8_t class, bool noscan, uint32_t npages, uint32_t *ret_first)
{
    uint32_t first = h->next_page;
    shm_span *span = shm_span_at(&h->map, page_at(first));

    if (class != 0)
        npages = size_class_npages[class];
    *span = (shm_span){ .elem_bytes = class == 0 ? npages * PAGE_BYTES : size_class_bytes[class],
                        .npages = npages,
                        .nelems = class == 0 ? 1 : size_class_nelems[class],
                        .magic = size_class_magic[class],
                        .spc = span_class_of((size_class){ class }, noscan || class == SIZE_CLASS_TINY) };
    h->next_page += npages;
    for (uint32_t i = 0; i < npages; i++) {
        shm_heap_arena *arena = &h->map.heap_arenas[(first + i) / SHM_HEAP_ARENA_PAGES];

        u32_store_relaxed(&h->map.page_map[first + i], first);
        u32_store_relaxed(&arena->zeroed_base, (first + i) % SHM_HEAP_ARENA_PAGES + 1);
    }
    u64_store_relaxed(&span->lease, lease_pack((lease_word){ SPAN_CENTRAL, { 0 }, 0 }));
    *ret_first = first;
    return span;
}

/* The offset of object i of the span, which becomes a live one. */
static inline uint64_t bareheap_allocate(bareheap *h, uint32_t first, uint32_t i)
{
    (void)u64_fetch_or_acq_rel(shm_alloc_word(&h->map, page_at(first), i / 64), UINT64_C(1) << i % 64);
    return page_offset(page_at(first)) + i * shm_span_at(&h->map, page_at(first))->elem_bytes;
}

static inline void bareheap_free_remotely(bareheap *h, uint32_t first, uint32_t i)
{
    (void)u64_fetch_or_acq_rel(shm_remote_word(&h->map, page_at(first), i / 64), UINT64_C(1) << i % 64);
}

/* Word i of what is at that offset. */
static inline uint64_t *bareheap_word(const bareheap *h, uint64_t offset, uint64_t i)
{
    return (uint64_t *)(void *)(h->map.arena + offset) + i;
}

/* A named root; value: what its entry has besides. */
static inline void bareheap_set_root(bareheap *h, uint32_t i, const char *name, uint64_t offset, uint64_t before)
{
    shm_root *root = &h->map.roots[i];

    memcpy(root->name, name, strlen(name));
    u64_store_relaxed(&root->values[1].offset, offset);
    u64_store_relaxed(&root->values[0].offset, before);
    u64_store_relaxed(&root->current, root_current_pack(strlen(name), 1));
    if (u32_load_relaxed(&h->map.header->nroot_entries) <= i)
        u32_store_relaxed(&h->map.header->nroot_entries, i + 1);
}

#endif
