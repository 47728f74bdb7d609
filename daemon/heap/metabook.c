/*
 * Metabook: the metadata that counts towards the memory limit.
 *
 * Called by mheap, recover, ahead (what it has prepared) and the handlers that set kept bits. Data: private, a word for
 * each chunk of 512 pages. What the kernel says (st_blocks) is no measure for a limit: a client that writes to bitmap,
 * or only reads spans, gives pages memory that no span needs, and would take all others' room away. So the daemon books
 * what it has caused itself, in units of 4 KiB:
 *
 *   bits 0 to 31    alloc and remote bits (256 bytes a page, so a unit for 16 pages) of pages that a span began at, or
 *                   that were prepared ahead
 *   bits 32 to 39   their descriptions (64 bytes a page)
 *   bits 40 to 55   kept bits, if they stand in a plane of their own (128 bytes a page)
 *   bit 56          the chunk's half of a unit of the page map
 *
 * A bit is set when the first span of a unit is made, and all but the last are cleared when the chunk's metadata is
 * released. Header, session table, roots, heap-arena table and counters count as far as their tables have ever been
 * used; regions of profiles (memory/profilefile.c) have memory as a whole. Together that is what the kernel says, if
 * nobody else has touched anything. At a takeover the kernel is asked about chunks that were in use before: so what
 * clients can add to the books is a 25th of the heap's size at most.
 *
 * Invariant (metabook_validate, linear in the chunks): nunits is the number of bits set, two halves of a unit as one.
 */
#include "daemon/heap/metabook.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>

#define UNIT_BYTES SYSTEM_PAGE_BYTES
#define BITS_PAGES (UNIT_BYTES / 256) /* heap pages a unit */
#define SPAN_PAGES (UNIT_BYTES / sizeof(shm_span))
#define KEPT_PAGES (UNIT_BYTES / 128)
#define SPANS_SHIFT 32
#define KEPT_SHIFT 40
#define PAGE_MAP_BIT (UINT64_C(1) << 56)
#define BITS_UNITS (CHUNK_PAGES / BITS_PAGES)
#define SPANS_UNITS (CHUNK_PAGES / SPAN_PAGES)
#define KEPT_UNITS (CHUNK_PAGES / KEPT_PAGES)

_Static_assert(BITS_UNITS == 32 && SPANS_UNITS == 8 && KEPT_UNITS == 16, "a chunk's units fit into a word");

int metabook_init(metabook *book, const shm_map *map)
{
    *book = (metabook){ .map = map, .chunks = calloc(map->npages / CHUNK_PAGES, sizeof(*book->chunks)) };
    return book->chunks == NULL ? -ENOMEM : 0;
}

void metabook_end(metabook *book)
{
    free(book->chunks);
    book->chunks = NULL;
}

static void set_bits(metabook *book, uint64_t chunk, uint64_t bits)
{
    uint64_t new = bits & ~book->chunks[chunk];

    book->chunks[chunk] |= new;
    if (new & PAGE_MAP_BIT && (book->chunks[chunk ^ 1] & PAGE_MAP_BIT) != 0)
        new &= ~PAGE_MAP_BIT; /* the other half's unit is the same one */
    book->nunits += bits_count(new);
}

/* The unit of a page among those of its chunk, as a bit. */
static uint64_t unit_bit(page_no page, uint64_t pages_a_unit, unsigned shift)
{
    return UINT64_C(1) << (page.n % CHUNK_PAGES / pages_a_unit + shift);
}

/* What describes this page has memory: its bits and its description. */
static void note_described(metabook *book, page_no page)
{
    set_bits(book, page.n / CHUNK_PAGES, unit_bit(page, BITS_PAGES, 0) | unit_bit(page, SPAN_PAGES, SPANS_SHIFT));
}

void metabook_note_span(metabook *book, page_no first, uint64_t npages)
{
    note_described(book, first);
    for (uint64_t c = first.n / CHUNK_PAGES; c <= (first.n + npages - 1) / CHUNK_PAGES; c++)
        set_bits(book, c, PAGE_MAP_BIT);
}

void metabook_note_prepared(metabook *book, page_no first, uint64_t npages)
{
    for (uint64_t page = first.n; page < first.n + npages; page += BITS_PAGES - page % BITS_PAGES)
        note_described(book, page_at(page));
}

void metabook_note_kept(metabook *book, page_no first)
{
    const shm_span *span = shm_span_at(book->map, first);

    if (span->nelems > SPAN_NELEMS_MAX / 2 && span_has_kept(span))
        set_bits(book, first.n / CHUNK_PAGES, unit_bit(first, KEPT_PAGES, KEPT_SHIFT));
}

void metabook_note_punched(metabook *book, page_no first)
{
    uint64_t *word = &book->chunks[first.n / CHUNK_PAGES];

    book->nunits -= bits_count(*word & ~PAGE_MAP_BIT);
    *word &= PAGE_MAP_BIT;
}

int metabook_validate(const metabook *book, uint64_t end, FILE *err)
{
    uint64_t n = 0;

    for (uint64_t c = 0; c < end / CHUNK_PAGES; c++) {
        uint64_t word = book->chunks[c];

        n += bits_count(c % 2 == 1 && (book->chunks[c - 1] & PAGE_MAP_BIT) != 0 ? word & ~PAGE_MAP_BIT : word);
    }
    if (n == book->nunits)
        return 0;
    (void)fprintf(err, "metabook: %llu units counted, %llu noted\n", (unsigned long long)n,
                  (unsigned long long)book->nunits);
    return -EUCLEAN;
}

/* --- after another daemon --- */

/* Units from addr on that have memory, as bits. Those that the kernel says nothing about have some. */
static uint64_t resident_units(const void *addr, uint64_t nunits)
{
    unsigned char vec[BITS_UNITS];
    uint64_t bits = 0;
    int r = mincore((void *)(uintptr_t)addr, nunits * UNIT_BYTES, vec);

    for (uint64_t i = 0; i < nunits; i++)
        bits |= (uint64_t)(r < 0 || (vec[i] & 1) != 0) << i;
    return bits;
}

void metabook_recover_chunk(metabook *book, page_no first)
{
    const shm_map *map = book->map;
    uint64_t bits = PAGE_MAP_BIT;

    bits |= resident_units(map->bitmap + first.n * UINT64_C(256), BITS_UNITS);
    bits |= resident_units(shm_span_at(map, first), SPANS_UNITS) << SPANS_SHIFT;
    bits |= resident_units(map->bitmap + map->npages * 256 + first.n * UINT64_C(128), KEPT_UNITS) << KEPT_SHIFT;
    set_bits(book, first.n / CHUNK_PAGES, bits);
}

static uint64_t units_of(uint64_t bytes)
{
    return (bytes + UNIT_BYTES - 1) / UNIT_BYTES;
}

void metabook_note_profile(metabook *book, uint64_t bytes)
{
    book->nprofile = units_of(bytes);
}

void metabook_refresh(metabook *book, uint64_t end)
{
    const shm_header *header = book->map->header;
    uint64_t nsessions = u32_load_relaxed(&header->nsession_entries);
    uint64_t nroots = u32_load_relaxed(&header->nroot_entries);
    uint64_t narenas = (end + SHM_HEAP_ARENA_PAGES - 1) / SHM_HEAP_ARENA_PAGES;

    book->nfixed = 1 + units_of(nsessions * sizeof(shm_session)) + units_of(nroots * sizeof(shm_root)) +
                   units_of(narenas * sizeof(shm_heap_arena)) +
                   units_of(nsessions * SHM_COUNTERS_WORDS * sizeof(shm_u64));
}
