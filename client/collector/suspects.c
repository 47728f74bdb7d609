/*
 * Suspects: the linear scan of a cycle after a death.
 *
 * Called by collect.c after everybody goes on, before mark_closure(). Works on a heapcopy that was taken with a
 * heapcopy_is_suspect: its table of pages knows targets alone, so what is marked, and looked into by the closure, is
 * what sessions that are dead may have left. All other objects that live and may hold pointers are roots: their words
 * are read one behind the other, which memory is fast at, rather than by following them.
 *
 *   block of words -- in [low, high)? --> those that are -- page of a target? --> those that are --> mark_from()
 *
 * Both steps write each candidate down and go on to the next place only if it fits: no branch depends on the words, so
 * a heap whose words are pointers nearly all is read as fast as one of numbers.
 *
 * With offsets or addresses past an end as pointers, each word is looked up by itself.
 */
#include "client/collector/suspects.h"

#define INDEX_BITS 9u

_Static_assert(SUSPECTS_BLOCK == 1u << INDEX_BITS, "an index fits");

void suspects_init(suspects *s, const heapcopy *heap)
{
    *s = (suspects){ .heap = heap, .low = UINT64_MAX };
    for (uint32_t i = 0; i < heap->nspans; i++) {
        const heap_span *span = &heap->spans[i];

        if (!(span->flags & HEAP_SPAN_TARGET))
            continue;
        if (s->low > span->offset)
            s->low = span->offset;
        s->high = span->offset + span->nelems * span->elem_bytes;
    }
    if (s->low > s->high)
        s->low = s->high;
}

/* A block of eight without a word in the range is the usual one, and takes no stores. */
static inline bool any_of_8(const uint64_t *data, uint64_t from, uint64_t range)
{
    uint64_t any = 0;

    for (int i = 0; i < 8; i++)
        any |= (uint64_t)((data[i] & HEAPCOPY_ADDRESS_BITS) - from < range);
    return any != 0;
}

uint32_t suspects_look(const suspects *s, const uint64_t *data, uint32_t n, suspects_hit ret[SUSPECTS_BLOCK])
{
    uint64_t near[SUSPECTS_BLOCK + 1]; /* offset from low << INDEX_BITS | index: half the stores of a hit */
    uint64_t from = s->heap->base + s->low;
    uint64_t range = s->high - s->low;
    const uint32_t *span_of = s->heap->span_of;
    uint32_t nnear = 0;
    uint32_t nhits = 0;
    uint32_t i = 0;

    for (; i + 8 <= n; i += 8) {
        if (!any_of_8(data + i, from, range))
            continue;
        for (uint32_t k = i; k < i + 8; k++) {
            uint64_t within = (data[k] & HEAPCOPY_ADDRESS_BITS) - from;

            near[nnear] = within << INDEX_BITS | k;
            nnear += within < range;
        }
    }
    for (; i < n; i++) {
        uint64_t within = (data[i] & HEAPCOPY_ADDRESS_BITS) - from;

        near[nnear] = within << INDEX_BITS | i;
        nnear += within < range;
    }
    for (uint32_t k = 0; k < nnear; k++) {
        uint64_t offset = (near[k] >> INDEX_BITS) + s->low;

        ret[nhits] = (suspects_hit){ offset, (uint32_t)near[k] & (SUSPECTS_BLOCK - 1) };
        nhits += span_of[offset >> PAGE_SHIFT] != 0;
    }
    return nhits;
}

static void mark_words(marker *m, const suspects *s, const uint64_t *data, uint64_t n, uint64_t offset)
{
    suspects_hit hits[SUSPECTS_BLOCK];

    for (uint64_t at = 0; at < n; at += SUSPECTS_BLOCK) {
        uint32_t some = n - at < SUSPECTS_BLOCK ? (uint32_t)(n - at) : SUSPECTS_BLOCK;

        if (m->flags != 0) {
            for (uint32_t i = 0; i < some; i++)
                mark_from_word(m, data[at + i], offset + (at + i) * sizeof(uint64_t));
            continue;
        }
        for (uint32_t i = 0, nhits = suspects_look(s, data + at, some, hits); i < nhits; i++)
            mark_from(m, hits[i].offset,
                      (mark_holder){ MARK_HELD_BY_OBJECT, offset + (at + hits[i].index) * sizeof(uint64_t) });
    }
}

/* Objects that live and are neighbours are one piece. */
static uint64_t mark_span(marker *m, const suspects *s, const heap_span *span)
{
    const heapcopy *h = m->heap;
    uint64_t sum = 0;
    uint32_t i = 0;

    while (i < span->nelems) {
        uint32_t first = i;

        while (i < span->nelems && (h->bits[(span->ordinal + i) / 64].live >> i % 64 & 1) != 0)
            i++;
        if (i > first) {
            uint64_t bytes = (i - first) * span->elem_bytes;
            uint64_t within = first * span->elem_bytes;

            mark_words(m, s, (const uint64_t *)(const void *)(h->content + span->content + within),
                       bytes / sizeof(uint64_t), span->offset + within);
            sum += bytes;
        } else {
            i++;
        }
    }
    return sum;
}

uint64_t suspects_mark(marker *m)
{
    suspects s;
    uint64_t sum = 0;

    suspects_init(&s, m->heap);
    for (uint32_t i = 0; i < m->heap->nspans; i++) {
        const heap_span *span = &m->heap->spans[i];

        if (!(span->flags & (HEAP_SPAN_TARGET | HEAP_SPAN_NOSCAN)))
            sum += mark_span(m, &s, span);
    }
    return sum;
}
