/*
 * Image: the spans of an image in memory, and which of their pages live. image.h has the format.
 *
 * Called by imagewriter.c, which makes them of a heap, and by imagereader.c and the daemon's loader, which have them
 * from a file. Data: private memory of the caller's.
 */
#include "image/image.h"

#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shm/sizeclass.h"

int image_fail(image_error *why, int r, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)vsnprintf(why->text, sizeof(why->text), format, args);
    va_end(args);
    return r;
}

unsigned image_threads(unsigned nthreads, uint32_t nblocks)
{
    cpu_set_t cpus;
    unsigned n = nthreads;

    if (n == 0)
        n = sched_getaffinity(0, sizeof(cpus), &cpus) == 0 ? (unsigned)CPU_COUNT(&cpus) : 1;
    n = n < IMAGE_THREADS_MAX ? n : IMAGE_THREADS_MAX;
    return n < nblocks ? n : nblocks > 0 ? nblocks : 1;
}

void *image_grow(void *array, size_t bytes, uint32_t n, uint32_t *cap)
{
    uint32_t more = *cap == 0 ? 1024 : *cap * 2;
    void *grown;

    if (n < *cap)
        return array;
    if (*cap > UINT32_MAX / 2)
        return NULL;
    grown = reallocarray(array, more, bytes);
    if (grown != NULL)
        *cap = more;
    return grown;
}

int image_spans_add(image_spans *s, const image_span *span, const uint64_t *bits)
{
    uint32_t n = bits_nwords(span->nelems);
    image_span *spans = image_grow(s->spans, sizeof(*s->spans), s->n, &s->spans_cap);
    uint32_t *word_at = image_grow(s->word_at, sizeof(*s->word_at), s->n + 1, &s->word_at_cap);

    s->spans = spans != NULL ? spans : s->spans;
    s->word_at = word_at != NULL ? word_at : s->word_at;
    if (spans == NULL || word_at == NULL)
        return -ENOMEM;
    if (s->nwords + (uint64_t)n > UINT32_MAX)
        return -ENOMEM;
    while (s->nwords + n > s->words_cap) {
        uint64_t *words = image_grow(s->words, sizeof(*s->words), s->words_cap, &s->words_cap);

        if (words == NULL)
            return -ENOMEM;
        s->words = words;
    }
    s->spans[s->n] = *span;
    s->word_at[s->n] = s->nwords;
    memcpy(&s->words[s->nwords], bits, n * sizeof(*bits));
    s->nwords += n;
    s->word_at[++s->n] = s->nwords;
    return 0;
}

void image_spans_free(image_spans *s)
{
    free(s->spans);
    free(s->word_at);
    free(s->words);
    *s = (image_spans){ .n = 0 };
}

uint64_t image_span_elem_bytes(const image_span *span)
{
    uint8_t class = span_class_size((span_class){ span->spc }).n;

    return class == 0 ? span->npages * PAGE_BYTES : size_class_bytes[class];
}

bool image_span_page_lives(const image_spans *s, uint32_t at, uint32_t i)
{
    const image_span *span = &s->spans[at];
    const uint64_t *bits = image_span_bits(s, at);
    uint64_t elem = image_span_elem_bytes(span);
    uint64_t from = i * PAGE_BYTES / elem;
    uint64_t to = ((i + 1) * PAGE_BYTES - 1) / elem;

    for (uint64_t k = from; k <= to && k < span->nelems; k++) {
        if ((bits[k / 64] >> k % 64 & 1) != 0)
            return true;
    }
    return false;
}

/* The next page that lives, from pos on. */
static image_pos find(const image_spans *s, image_pos pos)
{
    for (; pos.span < s->n; pos = (image_pos){ pos.span + 1, 0 }) {
        for (; pos.page < s->spans[pos.span].npages; pos.page++) {
            if (image_span_page_lives(s, pos.span, pos.page))
                return pos;
        }
    }
    return pos;
}

image_pos image_pos_first(const image_spans *s)
{
    return find(s, (image_pos){ 0, 0 });
}

image_pos image_pos_next(const image_spans *s, image_pos pos)
{
    return find(s, (image_pos){ pos.span, pos.page + 1 });
}

bool image_pos_at(const image_spans *s, uint32_t page, image_pos *ret)
{
    uint32_t from = 0;
    uint32_t to = s->n;

    while (from < to) { /* the first span that ends above the page */
        uint32_t middle = from + (to - from) / 2;

        if ((uint64_t)s->spans[middle].first + s->spans[middle].npages <= page)
            from = middle + 1;
        else
            to = middle;
    }
    if (from == s->n || page < s->spans[from].first)
        return false;
    *ret = (image_pos){ from, page - s->spans[from].first };
    return image_span_page_lives(s, from, ret->page);
}
