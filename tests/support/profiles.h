/*
 * Profiles: a heap that nobody serves, with a profile that a test has written: the three files that ProfileRead brings.
 */
#ifndef GOALLOC_TESTS_PROFILES_H
#define GOALLOC_TESTS_PROFILES_H

#include <elf.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/ctl/profile/snapshot.h"
#include "shm/sizeclass.h"

#define PROFILES_ARENA (64 * MIB)

typedef struct profiles_heap {
    snapshot_files files;
    shm_header *header; /* of spans, as all that is mapped here */
    shm_map map;
    profile_region *region;
    void *spans;
    void *bitmap;
} profiles_heap;

static inline void *profiles_map(int *ret_fd, const char *name, uint64_t len)
{
    void *p;

    *ret_fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    p = *ret_fd >= 0 && ftruncate(*ret_fd, (off_t)len) == 0
            ? mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, *ret_fd, 0)
            : MAP_FAILED;
    if (p == MAP_FAILED) {
        perror(name);
        exit(1);
    }
    return p;
}

/* An empty heap, with an empty region, and sessions that attach at that rate. */
static inline void profiles_open(profiles_heap *h, uint64_t rate)
{
    shm_header header;

    shm_header_init(&header, SHM_BASE_DEFAULT, PROFILES_ARENA);
    header.generation = 1;
    u32_store_relaxed(&header.optional, SHM_OPTIONAL_PROFILE);
    h->spans = profiles_map(&h->files.spans, "spans", header.spans_bytes);
    h->bitmap = profiles_map(&h->files.bitmap, "bitmap", header.bitmap_bytes);
    h->region = profiles_map(&h->files.region, "profile", sizeof(profile_region));
    h->files.rate = rate;
    memcpy(h->spans, &header, sizeof(header));
    h->header = h->spans;
    h->region->header = (profile_header){ .magic = PROFILE_MAGIC, .heap = 1, .bytes = sizeof(profile_region) };
    shm_map_init(&h->map, h->spans, h->bitmap, NULL);
}

static inline void profiles_close(profiles_heap *h)
{
    (void)munmap(h->spans, h->header->spans_bytes);
    (void)munmap(h->bitmap, h->map.bitmap_bytes);
    (void)munmap(h->region, sizeof(*h->region));
    (void)close(h->files.spans);
    (void)close(h->files.bitmap);
    (void)close(h->files.region);
}

/* A marked span for objects of that class, at first. */
static inline void profiles_add_span(profiles_heap *h, uint32_t first, uint8_t class, uint32_t npages)
{
    shm_span *span = shm_span_at(&h->map, page_at(first));

    *span = (shm_span){ .elem_bytes = class == 0 ? npages * PAGE_BYTES : size_class_bytes[class],
                        .npages = npages,
                        .nelems = class == 0 ? 1 : size_class_span_nelems(class, npages),
                        .magic = size_class_magic[class],
                        .spc = span_class_of((size_class){ class }, false),
                        .marked = 1 };
    for (uint32_t i = 0; i < npages; i++)
        u32_store_relaxed(&h->map.page_map[first + i], first);
    u64_store_relaxed(&span->lease, lease_pack((lease_word){ SPAN_CENTRAL, { 0 }, 0 }));
}

/* The place of object i of the span. */
static inline uint64_t profiles_place(const profiles_heap *h, uint32_t first, uint32_t i)
{
    return page_offset(page_at(first)) + i * shm_span_at(&h->map, page_at(first))->elem_bytes;
}

static inline void profiles_allocate(profiles_heap *h, uint32_t first, uint32_t i)
{
    (void)u64_fetch_or_acq_rel(shm_alloc_word(&h->map, page_at(first), i / 64), UINT64_C(1) << i % 64);
}

static inline void profiles_free_remotely(profiles_heap *h, uint32_t first, uint32_t i)
{
    (void)u64_fetch_or_acq_rel(shm_remote_word(&h->map, page_at(first), i / 64), UINT64_C(1) << i % 64);
}

static inline void profiles_add_module(profiles_heap *h, uint32_t i, const char *path, const void *id,
                                       uint32_t id_bytes)
{
    profile_module *m = &h->region->modules[i];

    m->build_id_bytes = id_bytes;
    if (id_bytes > 0)
        memcpy(m->build_id, id, id_bytes);
    m->path_bytes = (uint32_t)strlen(path);
    memcpy(m->path, path, strlen(path));
    u64_store_relaxed(&m->state, PROFILE_READY);
}

/* frames: module number plus 1 << 48 | address, the innermost first. */
static inline void profiles_add_stack(profiles_heap *h, uint32_t i, const uint64_t *frames, uint64_t n)
{
    profile_stack *s = &h->region->stacks[i];

    memcpy(s->frames, frames, n * sizeof(*frames));
    s->nframes = n;
    u64_store_relaxed(&s->state, PROFILE_READY);
}

static inline void profiles_add_party(profiles_heap *h, uint32_t i, uint32_t session, const char *label,
                                      const char *group, uint64_t rate)
{
    profile_party *p = &h->region->parties[i];

    p->rate = rate;
    p->session = session;
    p->epoch = 1;
    p->pid = 1000 + session;
    (void)snprintf(p->label, sizeof(p->label), "%s", label);
    (void)snprintf(p->group, sizeof(p->group), "%s", group);
    u64_store_relaxed(&p->state, PROFILE_READY);
}

static inline void profiles_add_site(profiles_heap *h, uint32_t i, uint32_t party, uint32_t stack)
{
    u64_store_relaxed(&h->region->sites[i].key, PROFILE_SITE_USED | (uint64_t)party << 32 | stack);
}

/* A sample of an object of `bytes`, with what it stands for; place 0: only that it was allocated. */
static inline void profiles_add_sample(profiles_heap *h, uint32_t slot, uint32_t site, uint64_t place, double objects,
                                       uint64_t bytes)
{
    profile_site *s = &h->region->sites[site];

    u64_add_relaxed(&s->nsamples, 1);
    u64_add_relaxed(&s->objects, (uint64_t)(objects * PROFILE_OBJECTS_UNIT));
    u64_add_relaxed(&s->bytes, (uint64_t)(objects * (double)bytes));
    if (place != 0)
        u64_store_relaxed(&h->region->samples[slot], profile_sample_pack((profile_sample){ place, site, 0 }));
}

/* --- this program as a module --- */

typedef struct profiles_self {
    char path[256];
    uint64_t base; /* what the program was loaded at above what its file says */
    const uint8_t *build_id;
    uint32_t build_id_bytes;
} profiles_self;

static inline int profiles_find_self(struct dl_phdr_info *info, size_t size, void *data)
{
    profiles_self *self = data;

    (void)size;
    self->base = info->dlpi_addr;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        const uint8_t *at = (const uint8_t *)(info->dlpi_addr + part->p_vaddr);

        for (const uint8_t *end = at + part->p_memsz; part->p_type == PT_NOTE && at < end;) {
            const ElfW(Nhdr) *note = (const ElfW(Nhdr) *)(const void *)at;
            uint32_t name = (note->n_namesz + 3u) & ~3u;

            if (note->n_type == NT_GNU_BUILD_ID && note->n_namesz == 4) {
                self->build_id = at + sizeof(*note) + name;
                self->build_id_bytes = note->n_descsz;
            }
            at += sizeof(*note) + name + ((note->n_descsz + 3u) & ~3u);
        }
    }
    return 1; /* the first is the program */
}

static inline void profiles_get_self(profiles_self *self)
{
    ssize_t n = readlink("/proc/self/exe", self->path, sizeof(self->path) - 1);

    self->path[n > 0 ? n : 0] = '\0';
    (void)dl_iterate_phdr(profiles_find_self, self);
}

#endif
