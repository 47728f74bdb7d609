/*
 * Picture: what the profile's region and the bits say lives, for tests. It believes what it reads.
 */
#ifndef GOALLOC_TESTS_PICTURE_H
#define GOALLOC_TESTS_PICTURE_H

#include <sys/stat.h>

#include "tests/support/rawprofile.h"

typedef struct picture {
    uint64_t nrecords; /* of places, live or not */
    uint64_t nlive;
    uint64_t nlive_small; /* of size classes */
    uint64_t nmarked;     /* objects of size classes that live in marked spans: each has a record */
    uint64_t nlost;
    double objects; /* live, estimated for that rate */
    double bytes;
} picture;

/* All of what the descriptor has, which is closed; how much that is. */
static inline void *picture_map(int fd, size_t *ret_bytes)
{
    struct stat st;
    void *p;

    CHECK(fstat(fd, &st) == 0 && st.st_size > 0);
    *ret_bytes = (size_t)st.st_size;
    p = mmap(NULL, *ret_bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
    CHECK(p != MAP_FAILED);
    (void)close(fd);
    return p;
}

/* Objects of size classes that live in marked spans. */
static inline uint64_t picture_count_marked(const shm_map *map)
{
    uint64_t n = 0;

    for (uint32_t page = 1; page < map->npages; page++) {
        const shm_span *span = shm_span_at(map, page_at(page));

        if (u32_load_acquire(&map->page_map[page]) != page || !span->marked || span_class_size(span->spc).n == 0 ||
            lease_unpack(u64_load_acquire(&span->lease)).state == SPAN_FREE)
            continue;
        for (uint32_t w = 0; w < bits_nwords(span->nelems); w++)
            n += bits_count(u64_load_acquire(shm_alloc_word(map, page_at(page), w)) &
                            ~u64_load_acquire(shm_remote_word(map, page_at(page), w)) & bits_mask(span->nelems, w));
    }
    return n;
}

/* Ends the (child) process if there is no region. */
static inline picture picture_take(const fixture *f, uint64_t rate)
{
    const profile_region *region;
    picture ret = { 0 };
    void *spans;
    void *bitmap;
    size_t bytes_of[3];
    shm_map map;
    uint32_t seq;
    int fds[3];
    int fd = raw_connect(f);

    CHECK(rawprofile_read(fd, &seq, fds) == 0);
    spans = picture_map(fds[0], &bytes_of[0]);
    bitmap = picture_map(fds[1], &bytes_of[1]);
    region = picture_map(fds[2], &bytes_of[2]);
    CHECK(bytes_of[2] == sizeof(*region));
    shm_map_init(&map, spans, bitmap, NULL);
    ret.nlost = u64_load_relaxed(&region->header.nlost_samples);
    for (uint32_t i = 0; i < PROFILE_SAMPLES; i++) {
        uint64_t word = u64_load_relaxed(&region->samples[i]);
        profile_sample sample = profile_sample_unpack(word);
        const shm_span *span;
        uint64_t bytes;

        ret.nrecords += word != 0;
        if (word == 0 || !profile_is_live(&map, sample.offset))
            continue;
        span = shm_span_at(&map, page_at(u32_load_acquire(&map.page_map[sample.offset >> PAGE_SHIFT])));
        bytes = profile_sample_bytes(sample, span->nelems == 1 ? span->npages * PAGE_BYTES : span->elem_bytes);
        ret.nlive++;
        ret.nlive_small += span_class_size(span->spc).n != 0;
        ret.objects += profile_weight(bytes, rate);
        ret.bytes += profile_weight(bytes, rate) * (double)bytes;
    }
    ret.nmarked = picture_count_marked(&map);
    (void)munmap(spans, bytes_of[0]);
    (void)munmap(bitmap, bytes_of[1]);
    (void)munmap((void *)(uintptr_t)region, bytes_of[2]);
    (void)close(fd);
    return ret;
}

#endif
