/*
 * Metabook: which pages of the metadata have memory because of the daemon, by its own books.
 */
#ifndef GOALLOC_DAEMON_HEAP_METABOOK_H
#define GOALLOC_DAEMON_HEAP_METABOOK_H

#include <stdio.h>

#include "daemon/heap/pagebits.h"
#include "shm/layout.h"

typedef struct metabook {
    const shm_map *map;
    uint64_t *chunks; /* a word for each; sparse */
    uint64_t nunits;  /* pages of the system: all bits that are set */
    uint64_t nfixed;  /* of header and tables, as far as they are used, as last counted */
    uint64_t nprofile; /* of the region of profiles, and of another one that takes its place */
} metabook;

/* map is borrowed. 0, -ENOMEM. */
int metabook_init(metabook *book, const shm_map *map) __attribute__((warn_unused_result));
void metabook_end(metabook *book);

/* A span has been made, or has become longer: its description, bits and page map have memory. */
void metabook_note_span(metabook *book, page_no first, uint64_t npages);
/* What describes all these pages has memory: it was prepared. */
void metabook_note_prepared(metabook *book, page_no first, uint64_t npages);
/* The span's kept bits may be used from now on. */
void metabook_note_kept(metabook *book, page_no first);
/* The metadata of a chunk has been released, all but its part of the page map. */
void metabook_note_punched(metabook *book, page_no first);
/* After another daemon: what of the chunk's metadata has memory, as the kernel says. */
void metabook_recover_chunk(metabook *book, page_no first);
/* The daemon has so many bytes in regions of profiles. */
void metabook_note_profile(metabook *book, uint64_t bytes);
/* Count header, tables and counters anew; end: pages that have been added to the page heap. */
void metabook_refresh(metabook *book, uint64_t end);

/* Count the units of chunks below page end again. 0, -EUCLEAN after printing what differs. */
int metabook_validate(const metabook *book, uint64_t end, FILE *err) __attribute__((warn_unused_result));

static inline uint64_t metabook_bytes(const metabook *book)
{
    return (book->nunits + book->nfixed + book->nprofile) * SYSTEM_PAGE_BYTES;
}

#endif
