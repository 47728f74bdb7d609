/*
 * Mark: the closure over a heapcopy: from the words that were found in processes and in the heap's tables, through all
 * objects that may hold pointers.
 *
 * Called by collect.c, after everybody goes on. Data: the mark bits of the copy, private as all of it; a stack of what
 * has been reached and not been looked into, which has room for each object once.
 *
 *   word -- in the arena? --> page --> span --> index --> live? --> marked? -- no --> mark it; may it hold pointers? --> stack
 *
 * Conservative: a word counts if its lower 48 bits are the address of an object, or of a byte in it, as in Boehm's
 * collector. What is behind the last object of a span, or between the objects of a tiny block, is no object.
 *
 * What takes the time is the memory behind a random object. So an object that comes off the stack is prefetched, waits
 * in a queue of QUEUE places, and is looked into when others have come in between. (Boehm's, Go's and OCaml's markers
 * do the same.) Bits, spans and the table of pages together are small, and stay in the caches.
 */
#include "client/collector/mark.h"

#include <errno.h>
#include <sys/mman.h>

#define QUEUE 16u /* a power of two; measured with 4, 8, 16, 32 and 64 */
#define PROGRESS_EACH (UINT64_C(1) << 17)
#define LINE_BYTES 64u

#define HOLDER_SHIFT 62u

static void *map_sparse(uint64_t bytes)
{
    void *p = mmap(NULL, bytes > 0 ? bytes : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                   0);

    return p == MAP_FAILED ? NULL : p;
}

int mark_init(marker *m, heapcopy *heap, unsigned flags, bool holders)
{
    *m = (marker){ .heap = heap, .flags = flags, .stack_bytes = heap->nlive * sizeof(mark_entry) };
    m->stack = map_sparse(m->stack_bytes);
    if (holders)
        m->holders = map_sparse(heap->nbits * 64 * sizeof(*m->holders));
    return m->stack == NULL || (holders && m->holders == NULL) ? -ENOMEM : 0;
}

void mark_free(marker *m)
{
    if (m->stack != NULL)
        (void)munmap(m->stack, m->stack_bytes > 0 ? m->stack_bytes : 1);
    if (m->holders != NULL)
        (void)munmap(m->holders, m->heap->nbits > 0 ? m->heap->nbits * 64 * sizeof(*m->holders) : 1);
    m->stack = NULL;
    m->holders = NULL;
}

/* --- one word --- */

static inline void reach(marker *m, const heap_span *span, uint32_t number, uint32_t index, uint64_t holder)
{
    uint64_t ordinal = span->ordinal + index;
    heap_bits *bits = &m->heap->bits[ordinal / 64];
    uint64_t bit = UINT64_C(1) << ordinal % 64;

    if ((bits->live & ~bits->mark & bit) == 0)
        return;
    bits->mark |= bit;
    m->nmarked++;
    if (m->holders != NULL)
        m->holders[ordinal] = holder;
    if (!(span->flags & HEAP_SPAN_NOSCAN))
        m->stack[m->nstack++] = (mark_entry){ number, index };
}

static inline void mark_offset(marker *m, uint64_t offset, uint64_t holder)
{
    const heapcopy *h = m->heap;
    uint32_t number;
    const heap_span *span;
    uint32_t index;
    heap_object object;

    if (offset >= h->used_bytes)
        return;
    number = h->span_of[offset >> PAGE_SHIFT];
    if (number == 0)
        return;
    span = &h->spans[number - 1];
    if (span->flags & HEAP_SPAN_TINY) {
        if (heapcopy_find(h, offset, &object))
            reach(m, span, number, (uint32_t)(object.ordinal - span->ordinal), holder);
        return;
    }
    index = heap_span_index(span, offset - span->offset);
    if (index != UINT32_MAX)
        reach(m, span, number, index, holder);
}

static inline void mark_pointer(marker *m, uint64_t offset, uint64_t holder)
{
    mark_offset(m, offset, holder);
    if (m->flags & MARK_PAST_END)
        mark_offset(m, offset - 1, holder); /* wraps to no object */
}

static inline void mark_word(marker *m, uint64_t word, uint64_t holder)
{
    uint64_t offset = (word & HEAPCOPY_ADDRESS_BITS) - m->heap->base;

    /* An address right behind the heap's last page may be past an end. */
    if (offset <= m->heap->used_bytes)
        mark_pointer(m, offset, holder);
    if (m->flags & MARK_OFFSETS && word - 1 < m->heap->used_bytes)
        mark_pointer(m, word, holder);
}

static uint64_t holder_pack(mark_holder holder)
{
    return (uint64_t)holder.kind << HOLDER_SHIFT | holder.number;
}

mark_holder mark_holder_of(const marker *m, uint64_t ordinal)
{
    uint64_t word = m->holders != NULL ? m->holders[ordinal] : 0;

    return (mark_holder){ (enum mark_holder_kind)(word >> HOLDER_SHIFT), word & ((UINT64_C(1) << HOLDER_SHIFT) - 1) };
}

void mark_from(marker *m, uint64_t offset, mark_holder holder)
{
    mark_pointer(m, offset, holder_pack(holder));
}

void mark_from_hits(marker *m, const words_hit *hits, uint64_t nhits)
{
    for (uint64_t i = 0; i < nhits; i++)
        mark_from(m, words_hit_offset(hits[i]), (mark_holder){ MARK_HELD_BY_HIT, i });
}

void mark_from_roots(marker *m)
{
    for (uint32_t i = 0; i < m->heap->nroots; i++)
        mark_from(m, m->heap->roots[i].offset, (mark_holder){ MARK_HELD_BY_ROOT, i });
}

void mark_from_word(marker *m, uint64_t word, uint64_t at)
{
    mark_word(m, word, holder_pack((mark_holder){ MARK_HELD_BY_OBJECT, at }));
}

/* --- the closure --- */

/* An object that is about to be looked into. */
typedef struct queued {
    const uint64_t *words;
    uint64_t nwords;
    uint64_t offset; /* of the first one */
} queued;

static inline queued fetch(const heapcopy *h, mark_entry entry)
{
    const heap_span *span = &h->spans[entry.span - 1];
    uint64_t within = entry.index * span->elem_bytes;
    const char *at = h->content + span->content + within;

    __builtin_prefetch(at);
    if (span->elem_bytes > LINE_BYTES)
        __builtin_prefetch(at + LINE_BYTES); /* the processor sees where the rest is */
    return (queued){ (const uint64_t *)(const void *)at, span->elem_bytes / sizeof(uint64_t), span->offset + within };
}

static inline void look_into(marker *m, queued q)
{
    uint64_t base = m->heap->base;
    uint64_t used = m->heap->used_bytes;

    if (m->flags != 0) {
        for (uint64_t i = 0; i < q.nwords; i++)
            mark_from_word(m, q.words[i], q.offset + i * sizeof(uint64_t));
        return;
    }
    for (uint64_t i = 0; i < q.nwords; i++) {
        uint64_t offset = (q.words[i] & HEAPCOPY_ADDRESS_BITS) - base;

        if (offset < used)
            mark_offset(m, offset, (uint64_t)MARK_HELD_BY_OBJECT << HOLDER_SHIFT | (q.offset + i * sizeof(uint64_t)));
    }
}

void mark_closure(marker *m)
{
    queued queue[QUEUE];
    uint32_t head = 0; /* the oldest is at head - n */
    uint32_t n = 0;
    uint64_t told = m->nmarked;

    while (m->nstack > 0 || n > 0) {
        if (m->nstack > 0 && n < QUEUE) {
            queue[head++ % QUEUE] = fetch(m->heap, m->stack[--m->nstack]);
            n++;
            continue;
        }
        look_into(m, queue[(head - n) % QUEUE]);
        n--;
        if (m->progress != NULL && m->nmarked - told >= PROGRESS_EACH) {
            told = m->nmarked;
            m->progress(m->nmarked, m->progress_arg);
        }
    }
}
