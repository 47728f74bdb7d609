/*
 * Heapcopy: copies what a marking needs of the heap: spans, bits of live objects, and the words of objects that may
 * hold pointers.
 *
 * Called by collect.c: heapcopy_prepare() before anybody is stopped, heapcopy_take() while all are, the rest after they
 * go on. Reads the shared tables and the arena, writes private memory alone. mark.c and suspects.c work on the copy.
 *
 *   page map --> span: not FREE, whole --> bits: remote first, then alloc --> any live?  --> a heap_span, its bits
 *                                                                             may hold pointers? --> its bytes
 *
 * A description that can't be true, of a span that is not free, ends the copy (-EPROTO): nobody can say what its
 * objects hold, so nothing may be freed. The daemon alone writes there, so its memory is bad, or it is of another build.
 * But it goes on while this one reads, so one look may find halves of two descriptions. Each of them is true as long as
 * it stands (mheap.c has the order in which they are written), so what can't be true counts if two looks find the same.
 * After a death most spans of noscan objects are nobody's to look at: these are passed over by their number of pages.
 *
 * Order: the remote word is read before the alloc word, as in object.c: the daemon folds all the while, clears alloc
 * before remote, and so a free object is never taken for a live one. Clients are stopped. A span that the daemon makes,
 * or frees, during the copy has no live object: its bits are 0 before and after.
 *
 * The bytes are read with pread() from the arena's descriptor: a hole of the memfd reads as zeros and gets no memory,
 * where a load through the mapping would give it some, on nobody's account. Neighbouring spans are read at once, by all
 * processors that have nothing else to do (bulkread.c). A span is copied whole if any of its objects lives; of those
 * only live ones are looked into.
 *
 * Memory: 4 bytes a page of the heap in use, 88 bytes a span, 2 bits an object, and the bytes of spans that may hold
 * pointers. It is mapped and touched before the pause, for what is there then; and mapped for an eighth more. A heap
 * that has grown beyond that by the time of the pause is -EAGAIN, and the next attempt has room for more. Memory for
 * the bytes of spans is taken by heapcopy_touch(), after the caller knows that the copy fits into the longest pause:
 * before that only as much as is read to learn how fast that is. A copy that is not taken costs no more than that.
 *
 * Named roots: of each entry the value that counts, and with both_values the other one too: while somebody is attached
 * a reply may be on its way that names the object of before. Intents: what a hold names is about to be read again by
 * whoever settles it, so object, next and slot of its record count as roots, as long as the hold stands.
 *
 * Threads: all of it is the caller's, but for the bytes that helpers of bulkread.c read; while others look at processes
 * (world.c). It writes no word that they or the heap's processes read. So if this process dies at any point nothing has
 * changed.
 */
#include "client/collector/heapcopy.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shm/holds.h"
#include "shm/tiny.h"

#define HELPED_BYTES     (1 * MIB) /* from which on other threads help to read */
#define PROBE_BYTES      (8 * MIB) /* read to learn how fast that is */
#define SPAN_NS          80u       /* of a look at a span; measured: 60 with its bits */
#define PASSED_NS        12u       /* that is passed over; measured: 6 to 9 */
#define FREE_PAGES_A_NS  2u        /* that are walked over; measured: 3.5, and more misses where there are many */
#define STEPS_UNTIL_LATE 65536u    /* between two looks at the clock; a page that is walked over is one */
#define SPAN_STEPS       256u      /* that a span counts as */
#define FREE_PAGES_CHUNK 4096u     /* walked over before they are counted */
#define LOOKS_MAX        1000u     /* at a span whose description is being changed */
#define SPANS_AHEAD      8u        /* whose description is fetched meanwhile, if all are as large */
/* Both values of each root, before and after the walk; as many that are announced; and what intents name. */
#define ROOTS_MAX (5 * SHM_ROOTS_MAX + 4 * SHM_HOLDS_MAX)
#define TINY_WORDS_BYTES (TINY_NBLOCKS * sizeof(uint32_t))

enum { ROOM_SPAN_OF, ROOM_SPANS, ROOM_BITS, ROOM_CONTENT, ROOM_ROOTS, ROOM_PIECES };

/* --- the walk over the spans --- */

/* What is known of a span before its bits are read. */
typedef struct span_look {
    uint64_t lease; /* its words; both together say which lease it was */
    uint64_t nleases;
    uint32_t first;
    uint32_t npages;
    heap_span span;
} span_look;

static uint64_t arena_npages(const shm_map *map, uint64_t i)
{
    uint64_t added = u64_load_acquire(&map->heap_arenas[i].npages);
    uint64_t used = u32_load_acquire(&map->heap_arenas[i].zeroed_base);

    added = added < SHM_HEAP_ARENA_PAGES ? added : SHM_HEAP_ARENA_PAGES;
    return used < added ? used : added;
}

/* All spans that count, by address. */
typedef struct span_walk {
    const shm_map *map;
    heapcopy_is_suspect *suspect;
    uint64_t page; /* the next one to look at */
    uint64_t end;
    uint64_t deadline_ns; /* UINT64_MAX: none */
    uint64_t nfree;       /* pages that were walked over: of no span that counts */
    uint64_t npassed;     /* spans that nobody wants */
    uint32_t nsteps;      /* since the last look at the clock */
    bool late;            /* it has ended before its end */
    bool damaged;         /* the same: a span's description can't be true */
} span_walk;

/* Pages below which all spans are. */
static uint64_t used_pages(const shm_map *map)
{
    uint64_t n = map->npages / SHM_HEAP_ARENA_PAGES;

    while (n > 0 && arena_npages(map, n - 1) == 0)
        n--;
    return n == 0 ? 0 : (n - 1) * SHM_HEAP_ARENA_PAGES + arena_npages(map, n - 1);
}

/*
 * True if a description is one that can be worked with: its objects lie in its pages, word by word. The daemon may be of
 * another build, and it may write while this one reads: what is believed here is the copy.
 */
static bool is_sound(const shm_map *map, const span_look *look)
{
    const heap_span *span = &look->span;

    if (look->npages == 0 || look->npages > map->npages - look->first || span->spc >= SPAN_CLASS_COUNT ||
        span->nelems == 0 || span->nelems > SPAN_NELEMS_MAX || span->elem_bytes == 0 ||
        span->elem_bytes % sizeof(uint64_t) != 0 || span->elem_bytes > look->npages * PAGE_BYTES / span->nelems)
        return false;
    return span->spc != SPAN_CLASS_TINY || (span->nelems <= TINY_NBLOCKS && span->elem_bytes == TINY_BLOCK_BYTES);
}

/* The first look: the lease word before all else (acquire), since the daemon writes it last. */
static int look_once(const shm_map *map, uint64_t page, heapcopy_is_suspect *suspect, span_look *ret)
{
    const shm_span *from = shm_span_at(map, page_at(page));
    lease_word lease;
    heap_span *to = &ret->span;

    ret->lease = u64_load_acquire(&from->lease);
    ret->nleases = u64_load_acquire(&from->nleases);
    lease = lease_unpack(ret->lease);
    *to = (heap_span){ .offset = page * PAGE_BYTES,
                       .elem_bytes = from->elem_bytes,
                       .content = HEAPCOPY_NO_CONTENT,
                       .origin = u64_load_relaxed(&from->origin),
                       .lessee = lease.session.n,
                       .nelems = from->nelems,
                       .magic = from->magic,
                       .spc = from->spc.n };
    ret->first = (uint32_t)page;
    ret->npages = from->npages;
    if (lease.state == SPAN_FREE)
        return 0;
    if (!is_sound(map, ret))
        return -EPROTO;
    to->flags = (uint8_t)((span_class_noscan((span_class){ to->spc }) ? HEAP_SPAN_NOSCAN : 0) |
                          (to->spc == SPAN_CLASS_TINY ? HEAP_SPAN_TINY : 0) |
                          (lease.state == SPAN_LEASED ? HEAP_SPAN_LEASED : 0) |
                          (u32_load_acquire(&from->owner) != 0 || u32_load_acquire(&from->nadopted) != 0
                               ? HEAP_SPAN_OWNED
                               : 0) |
                          (suspect == NULL || suspect(from) ? HEAP_SPAN_TARGET : 0));
    to->nordinals = to->nelems * (to->flags & HEAP_SPAN_TINY ? TINY_BLOCK_BYTES : 1);
    return 1;
}

static bool is_the_same(const span_look *one, const span_look *other)
{
    return one->lease == other->lease && one->nleases == other->nleases && one->npages == other->npages &&
           one->span.elem_bytes == other->span.elem_bytes && one->span.nelems == other->span.nelems &&
           one->span.spc == other->span.spc;
}

/*
 * 1; 0: no span begins at that page; -EPROTO: one does, and what is said of it can't be.
 *
 * The lease word alone does not tell that the daemon has freed the span and described another one: a session that gives
 * a span back may be leased the next one at the same page, and a large span changes its length while it is leased.
 */
static int look_at(const shm_map *map, uint64_t page, heapcopy_is_suspect *suspect, span_look *ret)
{
    int r = look_once(map, page, suspect, ret);

    for (unsigned n = 0; r < 0 && n < LOOKS_MAX; n++) {
        span_look before = *ret;

        fence_seq_cst(); /* all of the one look, then all of the other */
        r = look_once(map, page, suspect, ret);
        if (is_the_same(&before, ret))
            break;
    }
    return r;
}

static bool is_late(span_walk *w, uint32_t nsteps)
{
    w->nsteps += nsteps;
    if (w->nsteps < STEPS_UNTIL_LATE)
        return false;
    w->nsteps = 0;
    w->late = w->deadline_ns != UINT64_MAX && heapcopy_now_ns() > w->deadline_ns;
    return w->late;
}

/* The first page from w->page on, below end, that the page map says a span begins at; end: none, or it is too late. */
static uint64_t next_first(span_walk *w, uint64_t end)
{
    const shm_u32 *page_map = w->map->page_map;
    uint64_t page = w->page;

    while (page < end && !w->late) {
        uint64_t until = end - page < FREE_PAGES_CHUNK ? end : page + FREE_PAGES_CHUNK;
        uint64_t begin = page;

        while (page < until && u32_load_acquire(&page_map[page]) != page)
            page++;
        w->nfree += page - begin;
        if (page < until)
            return page;
        (void)is_late(w, (uint32_t)(page - begin));
    }
    return end;
}

static bool is_wanted(const heap_span *span)
{
    return (span->flags & HEAP_SPAN_TARGET) != 0 || !(span->flags & HEAP_SPAN_NOSCAN);
}

/*
 * Pass over neighbouring spans, from w->page on, whose objects are neither looked for nor looked into: in a heap of
 * noscan objects nearly all are such, and the time of the pause. Ends at a page that next_span() has to look at, or when
 * it is too late. Of a description no more is believed than how many pages it is of.
 */
static void pass_unwanted(span_walk *w, uint64_t end)
{
    const shm_u32 *page_map = w->map->page_map;

    while (w->page < end && !w->late && u32_load_acquire(&page_map[w->page]) == w->page) {
        const shm_span *span = shm_span_at(w->map, page_at(w->page));
        bool is_free = lease_unpack(u64_load_acquire(&span->lease)).state == SPAN_FREE;
        uint64_t npages = *(const volatile uint32_t *)&span->npages; /* once: the daemon goes on */

        if (is_free || npages == 0 || npages > end - w->page || !span_class_noscan(span->spc) || w->suspect(span))
            break;
        w->page += npages;
        w->npassed++;
        __builtin_prefetch(span + npages * SPANS_AHEAD);
        (void)is_late(w, SPAN_STEPS);
    }
}

/* What is known of the span at that page, if there is one, is on its way to the processor. */
static void fetch_ahead(const shm_map *map, uint64_t page)
{
    if (page >= map->npages)
        return;
    __builtin_prefetch(shm_span_at(map, page_at(page)));
    __builtin_prefetch(shm_alloc_word(map, page_at(page), 0));
}

/* The next span that counts; false: there is none, or the walk has ended before its end. */
static bool next_span(span_walk *w, span_look *ret)
{
    while (w->page < w->end && !w->late && !w->damaged) {
        uint64_t arena = w->page / SHM_HEAP_ARENA_PAGES;
        uint64_t end = arena * SHM_HEAP_ARENA_PAGES + arena_npages(w->map, arena);
        int r;

        end = end < w->end ? end : w->end;
        if (w->suspect != NULL)
            pass_unwanted(w, end);
        w->page = next_first(w, end);
        if (w->page >= end) {
            w->page = (arena + 1) * SHM_HEAP_ARENA_PAGES;
            continue;
        }
        r = look_at(w->map, w->page, w->suspect, ret);
        w->damaged = r < 0;
        if (r > 0) {
            fetch_ahead(w->map, w->page + (uint64_t)ret->npages * SPANS_AHEAD);
            w->page += ret->npages;
            return !is_late(w, SPAN_STEPS);
        }
        w->page++;
        w->nfree++;
    }
    return false;
}

static uint64_t content_bytes_of(const heap_span *span)
{
    if (span->flags & HEAP_SPAN_TINY)
        return (TINY_WORDS_BYTES + 7) / 8 * 8;
    return span->flags & HEAP_SPAN_NOSCAN ? 0 : span->nelems * span->elem_bytes;
}

/* --- memory --- */

/* Have memory behind so many bytes. */
static int room_touch(void *p, uint64_t bytes)
{
#ifdef MADV_POPULATE_WRITE
    if (madvise(p, bytes, MADV_POPULATE_WRITE) == 0)
        return 0;
    if (errno == ENOMEM)
        return -ENOMEM;
#endif
    for (uint64_t at = 0; at < bytes; at += SYSTEM_PAGE_BYTES)
        ((volatile char *)p)[at] = 0;
    return 0;
}

/* expected_bytes: that are going to be used; of these so many are touched now. */
static int room_map(heap_room *room, uint64_t max_bytes, uint64_t expected_bytes, uint64_t touched_bytes)
{
    void *p = mmap(NULL, max_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED)
        return -ENOMEM;
    *room = (heap_room){ p, max_bytes };
    (void)madvise(p, max_bytes, MADV_DONTDUMP);
    if (expected_bytes >= 4 * MIB)
        (void)madvise(p, max_bytes, MADV_HUGEPAGE);
    return room_touch(p, touched_bytes);
}

static uint64_t whole_pages(uint64_t bytes)
{
    return (bytes + SYSTEM_PAGE_BYTES - 1) / SYSTEM_PAGE_BYTES * SYSTEM_PAGE_BYTES;
}

/* Room for n units of so many bytes, and for nth times an eighth and some more of them. */
static int room_for(heap_room *room, uint64_t n, uint64_t least, uint64_t unit_bytes, uint32_t nth, uint64_t *ret_max)
{
    uint64_t expected = whole_pages(n * unit_bytes + 1);

    *ret_max = n + nth * (n / 8 + least);
    return room_map(room, whole_pages(*ret_max * unit_bytes), expected, expected);
}

/* The same for the bytes of spans, but only as many are touched as measure_ns() reads. */
static int room_for_content(heapcopy *h, uint64_t bytes, uint32_t nth)
{
    uint64_t probe = bytes < PROBE_BYTES ? bytes : PROBE_BYTES;

    h->expected_bytes = bytes;
    h->content_max = bytes + nth * (bytes / 8 + 64 * MIB);
    return room_map(&h->rooms[ROOM_CONTENT], whole_pages(h->content_max), bytes, whole_pages(probe + 1));
}

int heapcopy_touch(heapcopy *h)
{
    bulkread_hurry(h->reader);
    return room_touch(h->rooms[ROOM_CONTENT].at, whole_pages(h->expected_bytes + 1));
}

void heapcopy_free(heapcopy *h)
{
    h->reader = bulkread_free(h->reader);
    for (size_t i = 0; i < sizeof(h->rooms) / sizeof(h->rooms[0]); i++) {
        if (h->rooms[i].at != NULL)
            (void)munmap(h->rooms[i].at, h->rooms[i].bytes);
        h->rooms[i].at = NULL;
    }
}

/* --- before the pause --- */

/* Bytes of the arena shall be read. False: there is no room for that. */
static bool add_piece(heapcopy *h, uint64_t offset, uint64_t to, uint64_t bytes)
{
    bulk_piece *pieces = h->rooms[ROOM_PIECES].at;
    bulk_piece *last = h->npieces > 0 ? &pieces[h->npieces - 1] : NULL;
    char *at = (char *)h->rooms[ROOM_CONTENT].at + to;

    if (last != NULL && last->offset + last->bytes == offset && last->to + last->bytes == at &&
        last->bytes + bytes <= BULK_PIECE_BYTES) {
        last->bytes += bytes;
        return true;
    }
    if (h->npieces >= h->pieces_max)
        return false;
    pieces[h->npieces++] = (bulk_piece){ offset, bytes, at };
    return true;
}

/* What it takes to read so many bytes, by reading some that are there. */
static uint64_t measure_ns(heapcopy *h, uint64_t from, uint64_t bytes)
{
    uint64_t some = h->content_max < PROBE_BYTES ? h->content_max : PROBE_BYTES;
    uint64_t begin;
    int r;

    some = some < h->map->arena_bytes - from ? some : h->map->arena_bytes - from;
    if (bytes < PROBE_BYTES / 8 || some == 0)
        return bytes / 2; /* at 2 GB/s: half a millisecond at most */
    some = some < bytes ? some : bytes;
    for (uint64_t at = 0; at < some; at += BULK_PIECE_BYTES)
        (void)add_piece(h, from + at, at, some - at < BULK_PIECE_BYTES ? some - at : BULK_PIECE_BYTES);
    begin = heapcopy_now_ns();
    r = bulkread_all(h->reader, h->arena_fd, h->rooms[ROOM_PIECES].at, h->npieces, UINT64_MAX);
    h->npieces = 0; /* else the copy would begin with them */
    if (r < 0)
        return bytes / 2;
    return (uint64_t)((double)(heapcopy_now_ns() - begin) * (double)bytes / (double)some);
}

int heapcopy_prepare(heapcopy *h, const shm_map *map, int arena_fd, heapcopy_is_suspect *suspect, uint32_t nth)
{
    span_walk walk = { .map = map, .suspect = suspect, .end = used_pages(map), .deadline_ns = UINT64_MAX };
    uint64_t nspans = 0;
    uint64_t nwords = 0;
    uint64_t bytes = 0;
    uint64_t sample = 0;
    span_look look;
    uint64_t nroots;
    int r;

    *h = (heapcopy){ .map = map, .arena_fd = arena_fd, .base = map->base };
    while (next_span(&walk, &look)) {
        if (!is_wanted(&look.span))
            continue;
        nspans++;
        h->ntargets += (look.span.flags & HEAP_SPAN_TARGET) != 0;
        nwords += (look.span.nordinals + 63) / 64;
        bytes += content_bytes_of(&look.span);
        if (sample == 0 && !(look.span.flags & HEAP_SPAN_NOSCAN))
            sample = look.span.offset;
        for (uint32_t w = 0; w < bits_nwords(look.span.nelems); w += 4) /* so the pause does not fault on it */
            (void)u64_load_relaxed(shm_alloc_word(map, page_at(look.first), w));
    }
    if (walk.damaged)
        return -EPROTO;
    r = room_for(&h->rooms[ROOM_SPAN_OF], walk.end, 2 * SHM_HEAP_ARENA_PAGES, sizeof(uint32_t), nth, &h->npages_max);
    if (r == 0)
        r = room_for(&h->rooms[ROOM_SPANS], nspans, 4096, sizeof(heap_span), nth, &h->spans_max);
    if (r == 0)
        r = room_for(&h->rooms[ROOM_BITS], nwords, 65536, sizeof(heap_bits), nth, &h->bits_max);
    if (r == 0)
        r = room_for_content(h, bytes, nth);
    if (r == 0)
        r = room_for(&h->rooms[ROOM_ROOTS], ROOTS_MAX, 0, sizeof(heap_root), nth, &nroots);
    if (r == 0)
        r = room_for(&h->rooms[ROOM_PIECES], nspans + bytes / BULK_PIECE_BYTES, 4096, sizeof(bulk_piece), nth,
                     &h->pieces_max);
    if (r < 0)
        return r;
    h->reader = bulkread_new(bytes >= HELPED_BYTES);
    if (h->reader == NULL)
        return -ENOMEM;
    h->span_of = h->rooms[ROOM_SPAN_OF].at;
    h->spans = h->rooms[ROOM_SPANS].at;
    h->bits = h->rooms[ROOM_BITS].at;
    h->content = h->rooms[ROOM_CONTENT].at;
    h->roots = h->rooms[ROOM_ROOTS].at;
    h->estimate_ns =
        nspans * SPAN_NS + walk.npassed * PASSED_NS + walk.nfree / FREE_PAGES_A_NS + measure_ns(h, sample, bytes);
    return 0;
}

/* --- the copy --- */

/* The span's bytes shall be read, with those before it if they are neighbours. */
static int content_add(heapcopy *h, heap_span *span)
{
    uint64_t bytes = content_bytes_of(span);

    if (bytes > h->content_max - h->content_bytes)
        return -EAGAIN;
    for (uint64_t at = 0; at < bytes; at += BULK_PIECE_BYTES) {
        uint64_t some = bytes - at < BULK_PIECE_BYTES ? bytes - at : BULK_PIECE_BYTES;

        if (!add_piece(h, span->offset + at, h->content_bytes + at, some))
            return -EAGAIN;
    }
    span->content = h->content_bytes;
    h->content_bytes += bytes;
    return 0;
}

/* Live objects of a tiny span: a bit for each byte of its blocks. The words are copied on the way. */
static int take_tiny(heapcopy *h, heap_span *span, const uint64_t live_blocks[SHM_BITS_WORDS])
{
    uint64_t bytes = content_bytes_of(span);
    heap_bits *bits = h->bits + h->nbits;
    bulk_piece piece = { .offset = span->offset + PAGE_BYTES - TINY_WORDS_BYTES,
                         .bytes = TINY_WORDS_BYTES,
                         .to = (char *)h->rooms[ROOM_CONTENT].at + h->content_bytes };
    const uint32_t *words = (const uint32_t *)(const void *)piece.to;
    int r;

    if (bytes > h->content_max - h->content_bytes)
        return -EAGAIN;
    r = bulkread_one(h->arena_fd, &piece);
    if (r < 0)
        return r;
    memset(bits, 0, (span->nordinals + 63) / 64 * sizeof(*bits));
    for (uint32_t w = 0; w < bits_nwords(span->nelems); w++) {
        for (uint64_t left = live_blocks[w]; left != 0; left &= left - 1) {
            uint32_t block = w * 64 + (uint32_t)__builtin_ctzll(left);
            uint64_t begins = words[block] & 0xffff;

            bits[block / 4].live |= begins << block % 4 * 16;
            h->nlive += bits_count(begins);
        }
    }
    span->content = h->content_bytes;
    h->content_bytes += bytes;
    return 0;
}

static int take_span(heapcopy *h, const span_look *look)
{
    uint64_t live[SHM_BITS_WORDS];
    uint64_t any = 0;
    heap_span *spans = h->rooms[ROOM_SPANS].at;
    uint32_t *span_of = h->rooms[ROOM_SPAN_OF].at;
    heap_span *span = &spans[h->nspans];
    uint32_t nwords = bits_nwords(look->span.nelems);
    uint32_t nbits = (look->span.nordinals + 63) / 64;
    int r = 0;

    for (uint32_t w = 0; w < nwords; w++) {
        shm_u64 *alloc = shm_alloc_word(h->map, page_at(look->first), w);
        uint64_t remote = u64_load_acquire(shm_remote_of(alloc));

        /* Of a tiny block the remote bit is a hint: its word says what lives. */
        live[w] = u64_load_acquire(alloc) & bits_mask(look->span.nelems, w) &
                  (look->span.flags & HEAP_SPAN_TINY ? UINT64_MAX : ~remote);
        any |= live[w];
    }
    if (any == 0)
        return 0;
    if (h->nspans >= h->spans_max || nbits > h->bits_max - h->nbits)
        return -EAGAIN;
    *span = look->span;
    span->ordinal = h->nbits * 64;
    if (span->flags & HEAP_SPAN_TINY) {
        r = take_tiny(h, span, live);
    } else {
        for (uint32_t w = 0; w < nwords; w++) {
            h->bits[h->nbits + w] = (heap_bits){ .live = live[w] };
            h->nlive += bits_count(live[w]);
        }
        if (!(span->flags & HEAP_SPAN_NOSCAN))
            r = content_add(h, span);
    }
    if (r < 0)
        return r;
    h->nbits += nbits;
    h->nspans++;
    if (span->flags & HEAP_SPAN_TARGET) {
        for (uint32_t i = 0; i < look->npages; i++)
            span_of[look->first + i] = h->nspans;
    }
    return 0;
}

/* --- what the heap's tables hold --- */

static void root_add(heapcopy *h, uint64_t offset, enum heap_root_kind kind, uint32_t number)
{
    heap_root *roots = h->rooms[ROOM_ROOTS].at;

    if (offset != 0 && offset < h->map->arena_bytes && h->nroots < ROOTS_MAX)
        roots[h->nroots++] = (heap_root){ offset, kind, number };
}

static void take_named_roots(heapcopy *h, bool both_values)
{
    uint32_t n = u32_load_acquire(&h->map->header->nroot_entries);

    for (uint32_t i = 0; i < n && i < SHM_ROOTS_MAX; i++) {
        const shm_root *root = &h->map->roots[i];
        uint64_t current = u64_load_acquire(&root->current);

        if (current != 0 || both_values)
            root_add(h, u64_load_acquire(&root->values[root_which(current)].offset), HEAP_ROOT_NAMED, i);
        if (both_values)
            root_add(h, u64_load_acquire(&root->values[1 - root_which(current)].offset), HEAP_ROOT_NAMED, i);
    }
}

void heapcopy_add_announced(heapcopy *h, const uint64_t *offsets, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        root_add(h, offsets[i], HEAP_ROOT_ANNOUNCED, i);
}

static void take_intents(heapcopy *h)
{
    const shm_intents *intents = shm_intents_of(h->map);

    if (!holds_any(h->map))
        return;
    for (uint32_t i = 0; i < SHM_HOLDS_MAX; i++) {
        uint64_t word = u64_load_acquire(&intents->holds[i]);
        hold held = hold_unpack(word);
        const shm_intent *intent = word != 0 ? shm_intent_of(h->map, held) : NULL;

        if (word == 0)
            continue;
        root_add(h, held.place, HEAP_ROOT_INTENT, i);
        if (intent == NULL)
            continue;
        root_add(h, u64_load_acquire(&intent->object), HEAP_ROOT_INTENT, i);
        root_add(h, u64_load_acquire(&intent->next), HEAP_ROOT_INTENT, i);
        root_add(h, u64_load_acquire(&intent->slot), HEAP_ROOT_INTENT, i);
    }
}

int heapcopy_take(heapcopy *h, heapcopy_is_suspect *suspect, bool both_values, uint64_t deadline_ns)
{
    span_walk walk = { .map = h->map, .suspect = suspect, .end = used_pages(h->map), .deadline_ns = deadline_ns };
    uint64_t began = heapcopy_now_ns();
    span_look look;
    int r = 0;

    if (walk.end > h->npages_max)
        return -EAGAIN;
    h->used_bytes = walk.end * PAGE_BYTES;
    take_named_roots(h, both_values);
    take_intents(h);
    while (r == 0 && next_span(&walk, &look)) {
        if (walk.page > h->npages_max) {
            r = -EAGAIN;
            break;
        }
        if (walk.page * PAGE_BYTES > h->used_bytes)
            h->used_bytes = walk.page * PAGE_BYTES;
        if (is_wanted(&look.span))
            r = take_span(h, &look);
    }
    if (r == 0 && walk.late)
        r = -ETIMEDOUT;
    if (r == 0 && walk.damaged)
        r = -EPROTO;
    h->walk_ns = heapcopy_now_ns() - began;
    if (r == 0)
        r = bulkread_all(h->reader, h->arena_fd, h->rooms[ROOM_PIECES].at, h->npieces, deadline_ns);
    /* A root is set by a daemon that goes on: what it was before or after the pass. */
    if (r == 0 && both_values)
        take_named_roots(h, both_values);
    return r;
}

/* --- objects of the copy --- */

/* Of a tiny block: the object that byte `at` lies in, by the block's word; 16: none. */
static uint32_t tiny_begin(uint32_t word, uint32_t at)
{
    uint32_t below = word & 0xffff & ((UINT32_C(2) << at) - 1);
    uint32_t begin;

    if (below == 0)
        return TINY_BLOCK_BYTES;
    begin = 31 - (uint32_t)__builtin_clz(below);
    return tiny_end(word, begin) > at ? begin : TINY_BLOCK_BYTES;
}

static const uint32_t *tiny_words_of(const heapcopy *h, const heap_span *span)
{
    return (const uint32_t *)(const void *)(h->content + span->content);
}

bool heapcopy_find(const heapcopy *h, uint64_t offset, heap_object *ret)
{
    uint32_t number = offset < h->used_bytes ? h->span_of[offset >> PAGE_SHIFT] : 0;
    const heap_span *span;
    uint64_t within;
    uint32_t index;

    if (number == 0)
        return false;
    span = &h->spans[number - 1];
    within = offset - span->offset;
    index = heap_span_index(span, within);
    if (index == UINT32_MAX)
        return false;
    if (span->flags & HEAP_SPAN_TINY) {
        uint32_t begin = tiny_begin(tiny_words_of(h, span)[index], (uint32_t)(within % TINY_BLOCK_BYTES));

        if (begin >= TINY_BLOCK_BYTES)
            return false;
        index = index * TINY_BLOCK_BYTES + begin;
    }
    if ((h->bits[(span->ordinal + index) / 64].live & UINT64_C(1) << index % 64) == 0)
        return false;
    heapcopy_object(h, span, span->ordinal + index, ret);
    return true;
}

void heapcopy_object(const heapcopy *h, const heap_span *span, uint64_t ordinal, heap_object *ret)
{
    uint64_t index = ordinal - span->ordinal;

    ret->span = span;
    ret->ordinal = ordinal;
    if (span->flags & HEAP_SPAN_TINY) {
        uint32_t at = (uint32_t)(index % TINY_BLOCK_BYTES);

        ret->offset = span->offset + index;
        ret->bytes = tiny_end(tiny_words_of(h, span)[index / TINY_BLOCK_BYTES], at) - at;
    } else {
        ret->offset = span->offset + index * span->elem_bytes;
        ret->bytes = span->elem_bytes;
    }
}

const uint64_t *heapcopy_words(const heapcopy *h, const heap_object *object, uint64_t *ret_n)
{
    const heap_span *span = object->span;

    *ret_n = 0;
    if (span->content == HEAPCOPY_NO_CONTENT || span->flags & HEAP_SPAN_TINY)
        return NULL;
    *ret_n = object->bytes / sizeof(uint64_t);
    return (const uint64_t *)(const void *)(h->content + span->content + (object->offset - span->offset));
}
