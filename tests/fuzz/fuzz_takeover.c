/*
 * A daemon takes over a heap of which words have been changed (heapfile.c, recover.c, session.c, roots.c, adopt.c): it
 * refuses, or it gets a heap that validates and in which sessions can end, spans be leased, and all that is left be
 * swept.
 *
 * The heap is made once, with something of everything in it: sessions of each kind and state, spans, runs, large and
 * tiny objects, a group, roots, adoptions, intents. Its four files are kept as the blocks of them that have memory, and
 * are put back before each input. An input is a list of changes: which structure, which of them, which byte of it, and
 * what is stored there. What a daemon alone writes is changed as well as what clients write: the daemon before may have
 * been another build, or its memory bad.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/heap/census.h"
#include "daemon/heap/intents.h"
#include "daemon/log.h"
#include "daemon/serve/session.h"
#include "daemon/serve/sweep.h"
#include "shm/holds.h"
#include "shm/tiny.h"
#include "tests/fuzz/fuzz.h"

#define ARENA_BYTES  (64 * MIB)
#define BLOCK_BYTES  4096u
#define BLOCKS_MAX   1024u
#define CHANGES_MAX  16u
#define NSESSIONS    6u
#define NSPANS       24u
#define END_SPANS    7u
#define STEPS_MAX    100000u

/* The files as they are when an input comes. */
typedef struct block {
    uint32_t file;
    uint64_t at;
    uint8_t bytes[BLOCK_BYTES];
} block;

static int fds[HEAPFILE_NFDS];
static uint64_t sizes[HEAPFILE_NMEMFDS];
static block blocks[BLOCKS_MAX];
static size_t nblocks;
static char *maps[HEAPFILE_NMEMFDS]; /* through which words are changed */
static shm_map map;

/* What is on the shelf when an input comes, and of some somebody holds it. */
static struct {
    uint32_t number;
    uint32_t epoch;
    int fd;
} signs[NSESSIONS + 1];
static page_no spans[NSPANS];
static size_t nspans;

/* --- the heap that was left behind --- */

typedef struct maker {
    heapfile file;
    mheap heap;
    session_table table;
    roots *roots;
    session *sessions[NSESSIONS];
} maker;

/* A span of that class, with the objects that bits say, leased by s; NULL: by nobody. */
static page_no make_span(maker *m, uint8_t spc, uint64_t npages, uint64_t bits, session *s)
{
    uint64_t nscavenged;
    page_no first;

    FUZZ_CHECK(mheap_alloc_span(&m->heap, npages, 1, (span_class){ spc }, &first, &nscavenged) == 0);
    u64_store_relaxed(shm_alloc_word(&m->file.map, first, 0), bits);
    if (s != NULL)
        lease_give(&s->lessee, first);
    else
        mcentral_put(&m->heap, first);
    spans[nspans++] = first;
    return first;
}

/* What the shelf has is open as long as this process lives; every second one is held. */
static void keep_sign(unsigned i, uint32_t number, uint32_t epoch, lifesign *sign)
{
    signs[i].number = number;
    signs[i].epoch = epoch;
    signs[i].fd = dup(sign->fd);
    FUZZ_CHECK(signs[i].fd >= 0 && (i % 2 != 0 || lifesign_fd(sign) >= 0));
}

static void make_sessions(maker *m)
{
    static const uint32_t flags[NSESSIONS] = { 0, SESSION_RECLAIM, SESSION_RECLAIM, SESSION_RECLAIM, SESSION_READONLY };
    group_request family = { .name = (const uint8_t *)"family", .name_bytes = 6, .uid = 1, .flags = SESSION_RECLAIM };
    group *g = NULL;

    FUZZ_CHECK(group_find_or_found(m->heap.groups, &family, &g) == 0);
    for (unsigned i = 0; i < NSESSIONS; i++) {
        session_request request = { .flags = flags[i], .pid = 7 + i, .uid = i, .asked_bytes = i * 10 * PAGE_BYTES,
                                    .label = "left", .group = i == 2 || i == 3 ? g : NULL };

        FUZZ_CHECK(session_open(&m->table, &request, &m->sessions[i]) == 0);
        keep_sign(i, m->sessions[i]->lessee.no.n, m->sessions[i]->lessee.epoch, &m->sessions[i]->sign);
    }
    keep_sign(NSESSIONS, g->no.n, g->epoch, &g->sign);
}

static void make_objects(maker *m)
{
    page_no tiny = make_span(m, SPAN_CLASS_TINY, size_class_npages[SIZE_CLASS_TINY], 7, m->sessions[0]);
    uint32_t words[3] = { tiny_bits(0, 8), tiny_bits(0, 4) | tiny_bits(8, 8), 0 };

    for (uint32_t i = 0; i < 3; i++)
        u32_store_relaxed(tiny_word(&m->file.map, tiny, i), words[i]);
    for (unsigned i = 0; i < NSESSIONS - 2; i++) {
        (void)make_span(m, 12, size_class_npages[6], 0xff, m->sessions[i]);
        (void)make_span(m, 3, size_class_npages[1], 1, i % 2 == 0 ? NULL : m->sessions[i]);
        (void)make_span(m, 0, 40 + i, 1, m->sessions[i]);
    }
    shm_span_at(&m->file.map, make_span(m, 1, SHM_RUN_PAGES_MIN, 1, m->sessions[0]))->lessee_folds = 1;
    (void)make_span(m, 14, size_class_npages[7], 3, NULL);
}

static uint64_t offset_of(size_t i)
{
    return page_offset(spans[i % nspans]);
}

static void make_roots(maker *m)
{
    static const char *const names[] = { "one", "two", "gone" };

    for (uint32_t i = 0; i < 3; i++) {
        root_name name = { (const uint8_t *)names[i], strlen(names[i]) };
        root_value value = { .offset = offset_of(1 + i), .session = m->sessions[0]->lessee.no,
                             .epoch = m->sessions[0]->lessee.epoch, .ticket = i };

        FUZZ_CHECK(roots_set(m->roots, name, &value) == 0);
        value.offset = 0;
        FUZZ_CHECK(i < 2 || roots_set(m->roots, name, &value) == 0);
    }
}

static void make_adoptions(maker *m)
{
    object_ref object;

    for (unsigned i = 1; i < 4; i++) {
        const session *s = m->sessions[i];

        FUZZ_CHECK(object_find(&m->file.map, m->file.map.base + offset_of(i == 1 ? 2 : 1), &object) == OBJECT_LIVE);
        FUZZ_CHECK(adopt_set(m->heap.adopted, &object, s->lessee.owner,
                             s->group != NULL ? s->group->epoch : s->lessee.epoch) == 0);
    }
}

static void make_intents(maker *m)
{
    shm_intents *intents = shm_intents_of(&m->file.map);
    uint16_t no = m->sessions[1]->lessee.no.n;

    u32_store_relaxed(&intents->used, 1);
    u64_store_relaxed(&intents->records[no][0].slot, offset_of(3) + 8);
    u64_store_relaxed(&intents->records[no][0].object, offset_of(4));
    u64_store_relaxed(&intents->records[no][0].state, INTENT_UNLINK);
    FUZZ_CHECK(holds_add(&m->file.map, (hold){ offset_of(4), { no }, 0 }) != NULL);
}

/* Copy what the files have memory for. */
static void keep_blocks(void)
{
    static const uint8_t zeros[BLOCK_BYTES];

    for (uint32_t file = 0; file < HEAPFILE_NMEMFDS; file++) {
        off_t end = 0;

        for (off_t at; (at = lseek(fds[file], end, SEEK_DATA)) >= 0;) {
            end = lseek(fds[file], at, SEEK_HOLE);
            for (; at < end; at += BLOCK_BYTES) {
                block *b = &blocks[nblocks];

                FUZZ_CHECK(nblocks < BLOCKS_MAX && pread(fds[file], b->bytes, BLOCK_BYTES, at) == BLOCK_BYTES);
                b->file = file;
                b->at = (uint64_t)at;
                nblocks += memcmp(b->bytes, zeros, BLOCK_BYTES) != 0;
            }
        }
    }
}

static void make_heap(void)
{
    static maker m;

    FUZZ_CHECK(heapfile_create(&m.file, SHM_BASE_DEFAULT, ARENA_BYTES) == 0 && mheap_init(&m.heap, &m.file, 0) == 0);
    session_table_init(&m.table, &m.heap);
    FUZZ_CHECK(roots_new(&m.file.map, &m.roots) == 0);
    m.heap.roots = m.roots;
    make_sessions(&m);
    make_objects(&m);
    make_roots(&m);
    make_adoptions(&m);
    make_intents(&m);
    session_set_state(&m.table, m.sessions[5], SHM_SESSION_ENDING);
    FUZZ_CHECK(mheap_validate(&m.heap, stderr) == 0 && session_table_validate(&m.table, stderr) == 0 &&
               roots_validate(m.roots, stderr) == 0);
    for (int i = 0; i < HEAPFILE_NMEMFDS; i++) {
        fds[i] = dup(m.file.fds[i]);
        sizes[i] = m.file.sizes[i];
        maps[i] = mmap(NULL, sizes[i], PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fds[i], 0);
        FUZZ_CHECK(fds[i] >= 0 && maps[i] != MAP_FAILED);
    }
    keep_blocks();
    shm_map_init(&map, maps[HEAPFILE_SPANS], maps[HEAPFILE_BITMAP], maps[HEAPFILE_ARENA]);
    m.heap.roots = m.roots = roots_free(m.roots);
    session_table_end(&m.table);
    mheap_end(&m.heap);
    heapfile_close(&m.file);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    log_set_level(LOG_LEVEL_ERROR);
    make_heap();
    return 0;
}

/* A new shelf with what was on the first one. */
static void put_back_shelf(void)
{
    shelf *s;

    if (fds[HEAPFILE_SHELF_IN] > 0) {
        (void)close(fds[HEAPFILE_SHELF_IN]);
        (void)close(fds[HEAPFILE_SHELF_OUT]);
    }
    FUZZ_CHECK(shelf_make(&fds[HEAPFILE_SHELF_IN]) == 0 && (s = shelf_new(&fds[HEAPFILE_SHELF_IN])) != NULL);
    for (unsigned i = 0; i <= NSESSIONS; i++)
        FUZZ_CHECK(shelf_put(s, signs[i].number, signs[i].epoch, signs[i].fd) == 0);
    (void)shelf_free(s);
}

static void put_back(void)
{
    put_back_shelf();
    for (int i = 0; i < HEAPFILE_NMEMFDS; i++)
        FUZZ_CHECK(fallocate(fds[i], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)sizes[i]) == 0);
    for (size_t i = 0; i < nblocks; i++)
        FUZZ_CHECK(pwrite(fds[blocks[i].file], blocks[i].bytes, BLOCK_BYTES, (off_t)blocks[i].at) == BLOCK_BYTES);
}

/* --- changes --- */

/* A structure of the heap: where the one with that number lies, and how long it is. */
static char *structure(uint8_t kind, uint16_t number, size_t *ret_bytes)
{
    heap_private *private = (heap_private *)(void *)maps[HEAPFILE_PRIVATE];
    page_no span = spans[number % nspans];

    switch (kind % 12) {
    case 0: *ret_bytes = sizeof(shm_header); return maps[HEAPFILE_SPANS];
    case 1: *ret_bytes = sizeof(shm_session); return (char *)&map.sessions[number % (NSESSIONS + 3)];
    case 2: *ret_bytes = sizeof(shm_group); return (char *)&map.groups[number % 3];
    case 3: *ret_bytes = sizeof(shm_root); return (char *)&map.roots[number % 5];
    case 4: *ret_bytes = sizeof(shm_heap_arena); return (char *)&map.heap_arenas[0];
    case 5: *ret_bytes = 2 * sizeof(shm_u32); return (char *)&map.page_map[number % (map.npages - 1)];
    case 6: *ret_bytes = sizeof(shm_span); return (char *)shm_span_at(&map, span);
    case 7: *ret_bytes = sizeof(shm_span); return (char *)shm_span_at(&map, page_at(number % map.npages));
    case 8: *ret_bytes = 256; return (char *)shm_alloc_word(&map, span, 0);
    case 9: *ret_bytes = offsetof(heap_private, tokens); return (char *)private;
    case 10: *ret_bytes = sizeof(private_adoption); return (char *)&private->adoptions[number % 6];
    default:
        *ret_bytes = sizeof(shm_intent);
        return (char *)&shm_intents_of(&map)->records[number % NSESSIONS][0];
    }
}

/* Store a number of 1, 2, 4 or 8 bytes, or add it to what stands there. */
static void change(fuzz_input *in)
{
    uint8_t kind = fuzz_u8(in);
    uint16_t number = fuzz_u16(in);
    size_t bytes;
    char *at = structure(kind, number, &bytes);
    size_t width = (size_t)1 << (kind >> 4 & 3);
    size_t offset = fuzz_u16(in) % bytes / width * width;
    uint64_t before = 0;
    uint64_t value = fuzz_number(in);

    memcpy(&before, at + offset, width);
    value += kind & 64 ? before : 0;
    value ^= kind & 128 ? before : 0;
    memcpy(at + offset, &value, width);
}

/* --- what the next daemon does --- */

static void must_validate(mheap *heap, session_table *table, const roots *r)
{
    FUZZ_CHECK(mheap_validate(heap, stderr) == 0);
    FUZZ_CHECK(session_table_validate(table, stderr) == 0);
    FUZZ_CHECK(roots_validate(r, stderr) == 0);
}

/* All sessions end, then the groups, in slices. */
static void end_sessions(session_table *table)
{
    for (uint32_t no = 1; no < SHM_SESSIONS_MAX; no++) {
        session *s = session_at(table, no);

        if (s == NULL)
            continue;
        session_set_state(table, s, SHM_SESSION_ENDING);
        for (unsigned n = 0; !session_end_step(table, s, END_SPANS); n++)
            FUZZ_CHECK(n < STEPS_MAX);
    }
    for (uint32_t i = 0; i < SHM_GROUPS_MAX; i++) {
        group *g = table->leases.heap->groups->groups[i];

        for (unsigned n = 0; g != NULL && g->nliving == 0; n++) {
            enum session_group_end end = session_group_end_step(table, g, END_SPANS);

            FUZZ_CHECK(n < STEPS_MAX);
            if (end != GROUP_HAS_MORE)
                break;
        }
    }
}

/* A session leases, and all is counted. */
static void use(mheap *heap, session_table *table)
{
    session_request request = { .pid = 1, .label = "next" };
    census c = { .pos = { 0 } };
    unsigned budget = MCENTRAL_BUDGET;
    uint64_t nscavenged;
    uint32_t nfree;
    session *s;
    page_no first;

    while (!census_step(&c, heap, 16))
        ;
    (void)census_total(&c);
    if (session_open(table, &request, &s) != 0)
        return;
    for (int marked = 0; marked <= 1; marked++) {
        mcentral_kind kind = { { 12 }, marked != 0 };

        first = mcentral_take(heap, s->lessee.owner, kind, &budget, &nfree);
        if (first.n != 0)
            lease_give(&s->lessee, first);
    }
    if (mheap_alloc_span(heap, 4, 1, (span_class){ 12 }, &first, &nscavenged) == 0)
        lease_give(&s->lessee, first);
}

/*
 * Pages that a helper of the daemon before may still punch stay aside, as helper.c and server.c have it. False: they
 * are in use.
 */
static bool put_fences(const heapfile *file, mheap *heap)
{
    for (unsigned i = 0; i < HELPERS_MAX; i++) {
        uint64_t word = u64_load_relaxed(&file->private->punching[i]);
        page_range range = { page_at(word & UINT32_MAX), word >> 32 & 0x3fffffff };

        if (range.npages > 0 && !mheap_put_fence(heap, i, ASIDE_FENCED, range))
            return false;
    }
    return true;
}

static void remove_fences(mheap *heap)
{
    for (unsigned i = 0; i < HELPERS_MAX; i++) {
        if (heap->fences[i].range.npages > 0)
            mheap_remove_fence(heap, i);
    }
}

static void go_on(mheap *heap, session_table *table, const roots *r)
{
    must_validate(heap, table, r);
    use(heap, table);
    must_validate(heap, table, r);
    remove_fences(heap);
    end_sessions(table);
    (void)sweep_some(&table->leases, &(page_no){ 0 }, UINT32_MAX, true, OFFERS_TAKE);
    must_validate(heap, table, r);
}

static void serve(heapfile *file, mheap *heap)
{
    static session_table table;
    const char *why = NULL;
    roots *r;

    if (session_table_recover(&table, heap, &why) < 0)
        return;
    if (roots_new(&file->map, &r) == 0) {
        heap->roots = r;
        if (put_fences(file, heap))
            go_on(heap, &table, r);
        heap->roots = roots_free(r);
    }
    session_table_end(&table);
}

static void take_over(void)
{
    const char *why = NULL;
    int copies[HEAPFILE_NFDS];
    heapfile file;
    mheap heap;

    for (int i = 0; i < HEAPFILE_NFDS; i++)
        copies[i] = dup(fds[i]);
    if (heapfile_open(&file, copies, &why) < 0) {
        FUZZ_CHECK(why != NULL);
        heapfile_close_fds(copies);
        return;
    }
    if (mheap_recover(&heap, &file, 0, &why) == 0) {
        serve(&file, &heap);
        mheap_end(&heap);
    } else {
        FUZZ_CHECK(why != NULL);
    }
    heapfile_close(&file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = { data, data + size };

    put_back();
    for (unsigned n = 0; n < CHANGES_MAX && fuzz_has_more(&in); n++)
        change(&in);
    take_over();
    return 0;
}
