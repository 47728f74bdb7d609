/*
 * What the collector makes of a heap (client/collector: heapcopy, mark, suspects, garbage, collect_why): any bits,
 * holds, records and words of objects, since clients write these, and any descriptions, origins, roots and sessions,
 * since another build of the daemon may have. An input says what is written into an empty heap before the look at its
 * size, what after it, which words processes have, and how it is looked at.
 *
 * While the collector is at work the heap's tables and bits are read-only here and the arena may not be touched at all:
 * it is to be read by its descriptor alone. What is reached is compared with a naive closure, one word after the other;
 * and what is freed must be what is left, each object once, of spans in which nobody else frees.
 */
#include <errno.h>

#include "client/collector/collect.h"
#include "client/collector/suspects.h"
#include "client/include/goalloc.h"
#include "client/lib/process.h"
#include "shm/origin.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/written.h"
#include "tests/support/bareheap.h"

#define ARENA (64 * MIB)
#define FIRST 2u
#define STRETCH 96u /* pages that have spans; others rarely do */
#define FEW 16u
#define COLLECTOR 1u /* the session that collects */
#define WHY_MAX 32u

int __wrap_goalloc_free_checked(void *p);

static bareheap heap;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    bareheap_open(&heap, ARENA);
    process.map = heap.map;
    process.session = (session_no){ COLLECTOR };
    process.epoch = 1;
    atomic_store(&process.dropped, &heap.map.header->dropped);
    return 0;
}

static uint32_t any_page(fuzz_input *in)
{
    uint8_t how = fuzz_u8(in);

    return how < 250 ? FIRST + how % STRETCH : fuzz_u16(in) % (uint32_t)heap.map.npages;
}

/* A word that is a pointer into the heap, or nearly. */
static uint64_t any_pointer(fuzz_input *in)
{
    uint64_t within = fuzz_u8(in) & 1 ? fuzz_number(in) : (uint64_t)fuzz_u8(in) * 64;
    uint64_t offset = (uint64_t)any_page(in) * PAGE_BYTES + within;

    switch (fuzz_u8(in) % 8) {
    case 0:
        return offset;
    case 1:
        return heap.map.base + offset + (fuzz_number(in) << 48);
    case 2:
        return fuzz_number(in);
    default:
        return heap.map.base + offset;
    }
}

/* --- what is written --- */

static void add_span(fuzz_input *in)
{
    uint32_t first = any_page(in);
    uint8_t class = fuzz_u8(in) % (SIZE_CLASS_COUNT + 1);
    uint8_t how = fuzz_u8(in);
    uint32_t npages = class == 0 ? 1 + fuzz_u8(in) % FEW : size_class_npages[class];
    shm_span *span = shm_span_at(&heap.map, page_at(first));
    shm_u32 *used = &heap.map.heap_arenas[0].zeroed_base;

    if (npages > heap.map.npages - first || !written_note(span, sizeof(*span)) ||
        !written_note(&heap.map.page_map[first], npages * sizeof(heap.map.page_map[0])))
        return;
    *span = (shm_span){ .elem_bytes = class == 0 ? npages * PAGE_BYTES : size_class_bytes[class],
                        .npages = npages,
                        .nelems = class == 0 ? 1 : size_class_nelems[class],
                        .magic = size_class_magic[class],
                        .spc = span_class_of((size_class){ class }, (how & 1) != 0 || class == SIZE_CLASS_TINY) };
    for (uint32_t i = 0; i < npages; i++)
        u32_store_relaxed(&heap.map.page_map[first + i], first);
    if (u32_load_relaxed(used) < first + npages && written_note((void *)used, sizeof(*used)))
        u32_store_relaxed(used, first + npages);
    u64_store_relaxed(&span->lease, lease_pack((lease_word){ how & 2 ? SPAN_LEASED : SPAN_CENTRAL, { 2 }, 1 }));
    u32_store_relaxed(&span->owner, (how & 12) == 12 ? 3 : 0);
    u64_store_relaxed(
        &span->origin,
        origin_pack((origin_word){
            .state = how >> 4 & 3, .confirmed = (how & 0x40) != 0, .session = { how & 0x80 ? 5 : 4 }, .epoch = 1 }));
}

static void add_bits(fuzz_input *in)
{
    uint32_t first = any_page(in);
    uint8_t which = fuzz_u8(in);
    shm_u64 *word = which & 0x80 ? shm_remote_word(&heap.map, page_at(first), which % SHM_BITS_WORDS)
                                 : shm_alloc_word(&heap.map, page_at(first), which % SHM_BITS_WORDS);

    if (written_note((void *)word, sizeof(*word)))
        u64_store_relaxed(word, which & 0x40 ? UINT64_MAX : fuzz_number(in) | fuzz_u8(in));
}

/* Some words of the arena, from the beginning of a page or from anywhere on. */
static void write_words(fuzz_input *in)
{
    uint64_t at = (uint64_t)any_page(in) * PAGE_BYTES + (uint64_t)fuzz_u16(in) % PAGE_BYTES / 8 * 8;
    uint32_t n = 1 + fuzz_u8(in) % 8;

    for (uint32_t i = 0; i < n; i++) {
        uint64_t *word = bareheap_word(&heap, at, i);

        if (at + (i + UINT64_C(1)) * sizeof(*word) <= ARENA && written_note(word, sizeof(*word)))
            *word = any_pointer(in);
    }
}

static void write_tiny_word(fuzz_input *in)
{
    shm_u32 *word = tiny_word(&heap.map, page_at(any_page(in)), fuzz_u16(in) % TINY_NBLOCKS);

    if (written_note((void *)word, sizeof(*word)))
        u32_store_relaxed(word, (uint32_t)fuzz_u16(in) << 16 | fuzz_u16(in));
}

static void set_root(fuzz_input *in)
{
    uint32_t i = fuzz_u8(in) < 200 ? fuzz_u8(in) % FEW : fuzz_u16(in) % SHM_ROOTS_MAX;
    shm_root *root = &heap.map.roots[i];
    shm_u32 *n = &heap.map.header->nroot_entries;
    uint8_t how = fuzz_u8(in);

    if (!written_note(root, sizeof(*root)) || !written_note((void *)n, sizeof(*n)))
        return;
    for (uint32_t k = 0; k < how % sizeof(root->name); k++)
        root->name[k] = (char)fuzz_u8(in);
    for (int k = 0; k < 2; k++)
        u64_store_relaxed(&root->values[k].offset, how & 1 ? any_pointer(in) - heap.map.base : fuzz_number(in));
    u64_store_relaxed(&root->current, root_current_pack(how & 2 ? fuzz_number(in) : how, fuzz_u8(in)));
    u32_store_relaxed(n, how & 4 ? (uint32_t)fuzz_number(in) : i + 1);
}

static void add_intent(fuzz_input *in)
{
    shm_intents *intents = shm_intents_of(&heap.map);
    uint32_t i = fuzz_u16(in) % SHM_HOLDS_MAX;
    uint64_t place = any_pointer(in) - heap.map.base;
    uint16_t session = fuzz_u8(in) % FEW;
    uint32_t record = fuzz_u8(in) % SHM_INTENTS_MAX;
    shm_intent *intent = &intents->records[session][record];

    if (!written_note((void *)&intents->used, sizeof(intents->used)) ||
        !written_note((void *)&intents->holds[i], sizeof(shm_u64)) || !written_note(intent, sizeof(*intent)))
        return;
    u32_store_relaxed(&intents->used, 1);
    u64_store_relaxed(&intents->holds[i],
                      fuzz_u8(in) & 1 ? hold_pack((hold){ place % ARENA, { session }, record }) : fuzz_u64(in));
    u64_store_relaxed(&intent->object, any_pointer(in) - heap.map.base);
    u64_store_relaxed(&intent->next, any_pointer(in));
    u64_store_relaxed(&intent->slot, fuzz_number(in));
}

static void write_session(fuzz_input *in)
{
    uint32_t i = fuzz_u8(in) % FEW;
    shm_session *session = &heap.map.sessions[i];

    if (i == 0 || i == COLLECTOR || !written_note(session, sizeof(*session)))
        return;
    u32_store_relaxed(&session->state, fuzz_u8(in) % 6);
    u32_store_relaxed(&session->epoch, fuzz_u8(in) % 3);
    u32_store_relaxed(&session->died_epoch, fuzz_u8(in) % 3);
}

/* A word of a description, of the page map, or of what is known of a heap arena. */
static void write_book(fuzz_input *in)
{
    uint32_t page = any_page(in);
    uint8_t how = fuzz_u8(in);
    uint32_t *word;

    if (how < 32)
        word = (uint32_t *)(void *)&heap.map.page_map[page];
    else if (how < 40)
        word = (uint32_t *)(void *)heap.map.heap_arenas + how % 4;
    else
        word = (uint32_t *)(void *)shm_span_at(&heap.map, page_at(page)) + how % (sizeof(shm_span) / sizeof(*word));
    if (written_note(word, sizeof(*word)))
        *word = (uint32_t)fuzz_number(in);
}

static void turn(fuzz_input *in)
{
    static void (*const steps[])(fuzz_input *) = { add_span,   add_bits,      write_words, write_tiny_word, set_root,
                                                   add_intent, write_session, write_book,  write_words };

    steps[fuzz_u8(in) % (sizeof(steps) / sizeof(steps[0]))](in);
}

/* --- what is freed --- */

static const heapcopy *freed_of;
static uint64_t nfreed;

/* Called by garbage.c in place of the library's. */
int __wrap_goalloc_free_checked(void *p)
{
    uint64_t offset = (uint64_t)(uintptr_t)p - heap.map.base;
    heap_object object;
    const heap_span *span = NULL;

    FUZZ_CHECK(offset < ARENA);
    for (uint32_t i = 0; i < freed_of->nspans && span == NULL; i++) {
        const heap_span *at = &freed_of->spans[i];

        if (offset - at->offset < at->nelems * at->elem_bytes)
            span = at;
    }
    FUZZ_CHECK(span != NULL && (span->flags & (HEAP_SPAN_TARGET | HEAP_SPAN_OWNED)) == HEAP_SPAN_TARGET);
    object.ordinal = span->ordinal + (span->flags & HEAP_SPAN_TINY ? offset - span->offset
                                                                   : (offset - span->offset) / span->elem_bytes);
    heapcopy_object(freed_of, span, object.ordinal, &object);
    FUZZ_CHECK(object.offset == offset && !mark_is_marked(freed_of, object.ordinal));
    FUZZ_CHECK((freed_of->bits[object.ordinal / 64].live >> object.ordinal % 64 & 1) != 0); /* once each */
    nfreed++;
    return nfreed % 5 == 4 ? -EALREADY : 0;
}

/* --- the naive way --- */

typedef struct naive {
    const heapcopy *h;
    unsigned flags;
    uint64_t *marks; /* as heap_bits.mark */
    heap_object *stack;
    uint64_t nstack;
    uint64_t nmarked;
} naive;

static void naive_find(naive *n, uint64_t offset)
{
    heap_object object;

    if (!heapcopy_find(n->h, offset, &object) || (n->marks[object.ordinal / 64] >> object.ordinal % 64 & 1) != 0)
        return;
    FUZZ_CHECK(n->nmarked < n->h->nlive);
    n->marks[object.ordinal / 64] |= UINT64_C(1) << object.ordinal % 64;
    n->nmarked++;
    n->stack[n->nstack++] = object;
}

static void naive_offset(naive *n, uint64_t offset)
{
    naive_find(n, offset);
    if (n->flags & MARK_PAST_END)
        naive_find(n, offset - 1);
}

static void naive_words(naive *n, const heap_object *object)
{
    uint64_t nwords;
    const uint64_t *words = heapcopy_words(n->h, object, &nwords);

    for (uint64_t i = 0; i < nwords; i++) {
        naive_offset(n, (words[i] & HEAPCOPY_ADDRESS_BITS) - n->h->base);
        if (n->flags & MARK_OFFSETS && words[i] - 1 < n->h->used_bytes)
            naive_offset(n, words[i]);
    }
}

static void naive_others(naive *n)
{
    for (uint32_t i = 0; i < n->h->nspans; i++) {
        const heap_span *span = &n->h->spans[i];

        for (uint32_t k = 0; !(span->flags & HEAP_SPAN_TARGET) && k < span->nelems; k++) {
            heap_object object;

            if ((n->h->bits[(span->ordinal + k) / 64].live >> k % 64 & 1) == 0)
                continue;
            heapcopy_object(n->h, span, span->ordinal + k, &object);
            naive_words(n, &object);
        }
    }
}

static void naive_closure(naive *n)
{
    while (n->nstack > 0) {
        heap_object object = n->stack[--n->nstack];

        naive_words(n, &object);
    }
}

/* --- looking --- */

static bool is_suspect(const shm_span *span)
{
    uint64_t word = u64_load_acquire(&span->origin);
    uint32_t session = origin_unpack(word).session.n;

    return session >= SHM_SESSIONS_MAX || origin_is_suspect(word, &heap.map.sessions[session]);
}

static bool was_suspect(const heap_span *span)
{
    return (span->flags & HEAP_SPAN_TARGET) != 0;
}

static bool is_quiet(uint32_t session, void *arg)
{
    (void)arg;
    return session % 2 == 0;
}

static void visit_clean(uint32_t page, void *arg)
{
    (void)arg;
    FUZZ_CHECK(page < heap.map.npages);
}

static bool count(const heap_object *object, void *arg)
{
    FUZZ_CHECK(object->offset < ARENA && object->bytes <= ARENA - object->offset);
    ++*(uint64_t *)arg;
    return true;
}

static void look_at_copy(const heapcopy *h)
{
    uint64_t nlive = 0;
    uint64_t next = 0;
    uint64_t behind = 0;

    for (uint32_t i = 0; i < h->nspans; i++) {
        const heap_span *span = &h->spans[i];

        FUZZ_CHECK(span->ordinal == next && span->offset >= behind);
        FUZZ_CHECK(span->content == HEAPCOPY_NO_CONTENT || span->content <= h->content_bytes);
        FUZZ_CHECK(!(span->flags & HEAP_SPAN_TINY) || span->nelems <= TINY_NBLOCKS);
        behind = span->offset + span->nelems * span->elem_bytes;
        FUZZ_CHECK(behind <= h->used_bytes && h->used_bytes <= ARENA);
        next += (span->nordinals + UINT64_C(63)) / 64 * 64;
    }
    FUZZ_CHECK(next == h->nbits * 64 && h->content_bytes <= h->content_max);
    for (uint64_t i = 0; i < h->nbits; i++)
        nlive += bits_count(h->bits[i].live);
    FUZZ_CHECK(nlive == h->nlive);
}

static void ask_why(const collect_view *view, fuzz_input *in)
{
    static collect_link links[COLLECT_WHY_STEPS];

    for (uint32_t i = 0; i < WHY_MAX && fuzz_has_more(in); i++) {
        bool garbage;
        uint32_t n = collect_why(view, any_pointer(in), links, &garbage);

        FUZZ_CHECK(n <= COLLECT_WHY_STEPS);
        for (uint32_t k = 0; k < n; k++)
            FUZZ_CHECK(links[k].object.offset < ARENA && strlen(links[k].name) < SHM_ROOT_NAME_BYTES);
    }
}

typedef struct looking {
    bool suspects, both_values, holders, quiet;
    unsigned flags; /* MARK_* */
} looking;

static void work_on(heapcopy *h, const looking *how, const uint64_t *process_words, uint32_t nwords, fuzz_input *why)
{
    words_range what = { .address = 0x1000, .pid = 1, .kind = WORDS_MEMORY, .mapping = "" };
    words_found found;
    world processes;
    marker m;
    garbage g;
    naive n = { .h = h, .flags = how->flags };
    uint64_t ngarbage = 0;
    uint32_t *before;

    FUZZ_CHECK(words_init(&found, heap.map.base, ARENA, (how->flags & MARK_OFFSETS) != 0) == 0);
    words_put(&found, &what, process_words, nwords);
    look_at_copy(h);
    FUZZ_CHECK(mark_init(&m, h, how->flags, how->holders) == 0);
    n.marks = calloc(h->nbits + 1, sizeof(*n.marks));
    n.stack = calloc(h->nlive + 1, sizeof(*n.stack));
    FUZZ_CHECK(n.marks != NULL && n.stack != NULL);

    mark_from_roots(&m);
    if (how->suspects)
        (void)suspects_mark(&m);
    mark_closure(&m);
    before = garbage_count_reached(h);
    mark_from_hits(&m, found.hits, found.nhits);
    mark_closure(&m);

    for (uint32_t i = 0; i < h->nroots; i++)
        naive_offset(&n, h->roots[i].offset);
    if (how->suspects)
        naive_others(&n);
    for (uint64_t i = 0; i < found.nhits; i++)
        naive_offset(&n, words_hit_offset(found.hits[i]));
    naive_closure(&n);
    FUZZ_CHECK(n.nmarked == m.nmarked);
    for (uint64_t i = 0; i < h->nbits; i++)
        FUZZ_CHECK(n.marks[i] == h->bits[i].mark && (h->bits[i].mark & ~h->bits[i].live) == 0);

    FUZZ_CHECK(before != NULL && garbage_find(&g, h) == 0);
    garbage_each(h, count, &ngarbage);
    FUZZ_CHECK(ngarbage == g.total.objects && ngarbage + m.nmarked <= h->nlive);
    processes = (world){ .ranges = found.ranges, .nranges = found.nranges, .hits = found.hits, .nhits = found.nhits };
    ask_why(&(collect_view){ h, &m, &processes, &g }, why);
    freed_of = h;
    nfreed = 0;
    (void)(garbage_free(&g, h, how->quiet ? is_quiet : NULL, NULL) < 0);
    FUZZ_CHECK(nfreed == g.freed.objects + g.ngone && nfreed <= ngarbage);
    garbage_each_clean(h, before, was_suspect, visit_clean, NULL);

    free(before);
    free(n.marks);
    free(n.stack);
    garbage_end(&g);
    mark_free(&m);
    words_deinit(&found);
}

/* Nobody here may write the heap, or touch the arena. */
static void guard(bool on)
{
    int protection = on ? PROT_READ : PROT_READ | PROT_WRITE;

    FUZZ_CHECK(mprotect(heap.spans, heap.map.spans_bytes, protection) == 0);
    FUZZ_CHECK(mprotect(heap.bitmap, heap.map.bitmap_bytes, protection) == 0);
    FUZZ_CHECK(mprotect(heap.map.arena, ARENA, on ? PROT_NONE : protection) == 0);
}

static void look(fuzz_input *in, const looking *how, uint32_t nlater)
{
    heapcopy_is_suspect *suspect = how->suspects ? is_suspect : NULL;
    uint64_t process_words[FEW];
    uint64_t announced[2];
    uint32_t nwords = fuzz_u8(in) % (FEW + 1);
    fuzz_input why;
    heapcopy h;
    int r;

    for (uint32_t i = 0; i < nwords; i++)
        process_words[i] = any_pointer(in);
    for (uint32_t i = 0; i < 2; i++)
        announced[i] = any_pointer(in) - heap.map.base;
    why = *in;
    guard(true);
    r = heapcopy_prepare(&h, &heap.map, heap.arena_fd, suspect, 1);
    FUZZ_CHECK(r == 0 || r == -EPROTO);
    guard(false);
    while (nlater-- > 0 && fuzz_has_more(in))
        turn(in);
    guard(true);
    if (r == 0) {
        heapcopy_add_announced(&h, announced, 2);
        FUZZ_CHECK(heapcopy_touch(&h) == 0);
        r = heapcopy_take(&h, suspect, how->both_values, UINT64_MAX);
        FUZZ_CHECK(r == 0 || r == -EAGAIN || r == -EPROTO);
    }
    if (r == 0)
        work_on(&h, how, process_words, nwords, &why);
    heapcopy_free(&h);
    guard(false);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = { data, data + size };
    uint8_t first = fuzz_u8(&in);
    looking how = { .suspects = (first & 1) != 0,
                    .both_values = (first & 2) != 0,
                    .holders = (first & 4) != 0,
                    .quiet = (first & 8) != 0,
                    .flags = (first & 16 ? MARK_OFFSETS : 0) | (first & 32 ? MARK_PAST_END : 0) };
    uint32_t nsteps = fuzz_u8(&in);
    uint32_t nlater = first & 64 ? fuzz_u8(&in) % FEW : 0;

    u64_store_relaxed(&heap.map.heap_arenas[0].npages, SHM_HEAP_ARENA_PAGES);
    u32_store_relaxed(&heap.map.sessions[COLLECTOR].epoch, 1);
    u32_store_relaxed(&heap.map.sessions[COLLECTOR].state, SHM_SESSION_OPEN);
    u32_store_relaxed(&heap.map.sessions[COLLECTOR].collecting, 1);
    while (nsteps-- > 0 && fuzz_has_more(&in))
        turn(&in);
    look(&in, &how, nlater);
    written_zero();
    return 0;
}
