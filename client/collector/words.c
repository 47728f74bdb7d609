/*
 * words: the filter that each word of the processes passes through, and what it lets through. See words.h.
 *
 * Called by who looks (pages.c, registers.c, kernelheld.c), by looker.c, and by world.c, which joins collections when
 * their threads are done. Data: a collection, of one thread.
 *
 * The filter is on the path of a pause: eight words are looked at without a branch, and only if one of them may point
 * into the heap each by itself; with AVX2, where the processor has it, four of them at once (8.8 GB/s together with the
 * reading, instead of 6.6). A range without hits leaves nothing.
 */
#include "client/collector/words.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/collector/grow.h"
#include "shm/limits.h"

#define ADDRESS_MASK ((UINT64_C(1) << 48) - 1)

/*
 * Bits by which a word is compared with addresses of code. arm64 signs return addresses where a program was compiled
 * for that (-mbranch-protection): the signature stands in all bits above the address, from bit 39 or 48 on.
 */
#if defined(__aarch64__)
#define CODE_MASK ((UINT64_C(1) << 39) - 1)
#else
#define CODE_MASK UINT64_MAX
#endif

#define GROUP 8u
#define HITS_AT_FIRST (UINT64_C(1) << 16)
#define NAME_MAX_KEPT 120u

/* Names of mappings, each once in a row. They live as long as the collection. */
struct words_names {
    struct words_names *next;
    char text[NAME_MAX_KEPT];
};

const char *words_kind_name(enum words_kind kind)
{
    switch (kind) {
    case WORDS_REGISTERS:
        return "registers";
    case WORDS_STACK:
        return "stack";
    case WORDS_DATA:
        return "static data";
    case WORDS_MEMORY:
        return "private memory";
    case WORDS_SHARED:
        return "shared memory";
    case WORDS_DECLARED:
        return "declared roots";
    case WORDS_EPOLL:
        return "epoll data";
    case WORDS_TIMER:
        return "timer";
    case WORDS_SIGNAL:
        return "pending signal";
    }
    return "unknown";
}

int words_init(words_found *w, uint64_t base, uint64_t arena_bytes, bool offsets)
{
    *w = (words_found){ .base = base, .arena_bytes = arena_bytes, .offsets = offsets };
#if defined(__x86_64__)
    w->fours = __builtin_cpu_supports("avx2");
#endif
    w->hits = malloc(HITS_AT_FIRST * sizeof(*w->hits));
    if (w->hits == NULL)
        return -ENOMEM;
    memset(w->hits, 0, HITS_AT_FIRST * sizeof(*w->hits));
    w->hits_room = HITS_AT_FIRST;
    return 0;
}

void words_deinit(words_found *w)
{
    while (w->names != NULL) {
        struct words_names *next = w->names->next;

        free(w->names);
        w->names = next;
    }
    free(w->ranges);
    free(w->hits);
    *w = (words_found){ 0 };
}

/* A copy that is safe to print: who has named the mapping is anybody. */
static const char *name_keep(words_found *w, const char *name)
{
    struct words_names *kept;
    char plain[NAME_MAX_KEPT];
    size_t n = 0;

    while (name != NULL && name[n] != '\0' && n < sizeof(plain) - 1) {
        plain[n] = name[n];
        if ((unsigned char)name[n] < ' ' || name[n] == 127)
            plain[n] = '?';
        n++;
    }
    plain[n] = '\0';
    if (n == 0)
        return "";
    if (w->names != NULL && strcmp(w->names->text, plain) == 0)
        return w->names->text;
    kept = malloc(sizeof(*kept));
    if (kept == NULL)
        return "";
    memcpy(kept->text, plain, sizeof(plain));
    kept->next = w->names;
    w->names = kept;
    return kept->text;
}

static bool make_room(words_found *w, uint64_t nhits)
{
    words_hit *hits = grow(w->hits, &w->hits_room, w->nhits + nhits, 0, sizeof(*hits));

    w->full = w->full || hits == NULL;
    w->hits = hits != NULL ? hits : w->hits;
    return hits != NULL;
}

static bool make_room_for_ranges(words_found *w, uint64_t n)
{
    words_range *ranges = n > 0 ? grow(w->ranges, &w->ranges_room, w->nranges + n, 256, sizeof(*ranges)) : w->ranges;

    w->full = w->full || (n > 0 && ranges == NULL);
    w->ranges = ranges != NULL ? ranges : w->ranges;
    return n == 0 || ranges != NULL;
}

static bool is_address(const words_found *w, uint64_t word)
{
    return (word & ADDRESS_MASK) - w->base < w->arena_bytes;
}

static bool is_offset(const words_found *w, uint64_t word)
{
    return word - PAGE_BYTES < w->arena_bytes - PAGE_BYTES;
}

/* Room for n hits is there. index: of the first word in its range. */
static void look_closely(words_found *w, const uint64_t *from, uint64_t n, uint64_t index)
{
    for (uint64_t i = 0; i < n; i++) {
        uint64_t offset;

        if (is_address(w, from[i]))
            offset = (from[i] & ADDRESS_MASK) - w->base;
        else if (w->offsets && is_offset(w, from[i]))
            offset = from[i];
        else
            continue;
        w->hits[w->nhits++] = (index + i) << WORDS_HIT_BITS | offset;
    }
}

/* The first group from word i on, a multiple of GROUP, that has an address; or that has fewer words than GROUP. */
static uint64_t next_group(const uint64_t *from, uint64_t n, uint64_t i, uint64_t base, uint64_t bytes)
{
    for (; i + GROUP <= n; i += GROUP) {
        unsigned any = 0;

        for (uint64_t j = 0; j < GROUP; j++)
            any |= (from[i + j] & ADDRESS_MASK) - base < bytes;
        if (any != 0)
            break;
    }
    return i;
}

#if defined(__x86_64__)
typedef uint64_t four_words __attribute__((vector_size(32), aligned(8), may_alias));

/* The same with AVX2. */
__attribute__((target("avx2"))) static uint64_t next_group_by_fours(const uint64_t *from, uint64_t n, uint64_t i,
                                                                    uint64_t base, uint64_t bytes)
{
    for (; i + GROUP <= n; i += GROUP) {
        const four_words *fours = (const four_words *)(const void *)(from + i);
        four_words low = (four_words)((fours[0] & ADDRESS_MASK) - base < bytes);
        four_words any = low | (four_words)((fours[1] & ADDRESS_MASK) - base < bytes);

        if ((any[0] | any[1] | any[2] | any[3]) != 0)
            break;
    }
    return i;
}
#endif

static void look(words_found *w, const uint64_t *from, uint64_t n, uint64_t index)
{
    uint64_t i = 0;

    if (w->offsets) {
        look_closely(w, from, n, index);
        return;
    }
    for (;;) {
#if defined(__x86_64__)
        i = w->fours ? next_group_by_fours(from, n, i, w->base, w->arena_bytes)
                     : next_group(from, n, i, w->base, w->arena_bytes);
#else
        i = next_group(from, n, i, w->base, w->arena_bytes);
#endif
        if (i + GROUP > n)
            break;
        look_closely(w, from + i, GROUP, index + i);
        i += GROUP;
    }
    look_closely(w, from + i, n - i, index + i);
}

bool words_point_into_text(const words_found *w, const uint64_t *from, uint64_t n)
{
    for (uint32_t t = 0; t < w->ntext; t++) {
        uint64_t start = w->text[t].start, bytes = w->text[t].end - start;

        for (uint64_t i = 0; i < n; i++) {
            if (((from[i] - start) & CODE_MASK) < bytes)
                return true;
        }
    }
    return false;
}

/* What returned calls have left below the stack pointer says nothing of where a thread is. */
static void look_for_text(words_found *w, const uint64_t *from, uint64_t n)
{
    uint64_t address = w->current.address + w->current.nwords * sizeof(*from);
    uint64_t left_out = w->text_from > address ? (w->text_from - address) / sizeof(*from) : 0;

    if (left_out < n && !w->in_text)
        w->in_text = words_point_into_text(w, from + left_out, n - left_out);
}

void words_begin(words_found *w, const words_range *what)
{
    w->current = *what;
    w->current.first_hit = w->nhits;
    w->current.nhits = 0;
    w->current.nwords = 0;
    w->open = true;
}

void words_end(words_found *w)
{
    words_range *range = &w->current;

    w->open = false;
    w->nwords += range->nwords;
    range->nhits = w->nhits - range->first_hit;
    if (range->nhits == 0)
        return;
    if (!make_room_for_ranges(w, 1))
        return;
    w->ranges[w->nranges] = *range;
    w->ranges[w->nranges++].mapping = name_keep(w, range->mapping);
}

void words_add(words_found *w, const uint64_t *from, uint64_t n)
{
    while (n > 0 && w->open && !w->full) {
        uint64_t room = WORDS_RANGE_MAX - w->current.nwords;
        uint64_t part = n < room ? n : room;

        if (part == 0) {
            words_range next = w->current;

            next.address += w->current.nwords * sizeof(*from);
            words_end(w);
            words_begin(w, &next);
            continue;
        }
        if (!make_room(w, part))
            return;
        look(w, from, part, w->current.nwords);
        if (w->current.kind == WORDS_STACK)
            look_for_text(w, from, part);
        w->current.nwords += part;
        from += part;
        n -= part;
    }
}

void words_put(words_found *w, const words_range *what, const uint64_t *from, uint64_t n)
{
    words_begin(w, what);
    words_add(w, from, n);
    words_end(w);
}

void words_join(words_found *w, words_found *from)
{
    struct words_names **end = &w->names;

    w->full = w->full || from->full;
    w->nwords += from->nwords;
    if (make_room(w, from->nhits) && make_room_for_ranges(w, from->nranges)) {
        for (uint64_t i = 0; i < from->nranges; i++) {
            w->ranges[w->nranges + i] = from->ranges[i];
            w->ranges[w->nranges + i].first_hit += w->nhits;
        }
        if (from->nhits > 0)
            memcpy(w->hits + w->nhits, from->hits, from->nhits * sizeof(*w->hits));
        w->nranges += from->nranges;
        w->nhits += from->nhits;
    }
    while (*end != NULL)
        end = &(*end)->next;
    *end = from->names;
    from->names = NULL;
    from->nwords = from->nranges = from->nhits = 0;
}
