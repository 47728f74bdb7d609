/*
 * Sample: which allocations are sampled. The library is linked with a recorder of this test's own, which counts, and
 * the daemon is real. So the chance of each allocation is seen, however it comes about, and that a record is written
 * before its object's alloc bit, in a marked span, and stands there as long as the object lives.
 *
 * Bounds are six times the standard deviation: what is right fails one run in 10^9.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "client/lib/connection.h"
#include "client/lib/mcache.h"
#include "client/lib/recorder.h"
#include "proto/wire.h"
#include "shm/profile.h"
#include "tests/support/objects.h"
#include "tests/support/rawprofile.h"

/* Of the rounds that one thread makes, each of which takes the thread sanitizer ten times as long. */
#if defined(__SANITIZE_THREAD__)
#define ROUNDS_SHARE 8u
#else
#define ROUNDS_SHARE 1u
#endif

#define SIGMAS     6.0
#define SITES      4
#define PLACES     (1u << 16)
#define RATE       "32K"
#define RATE_BYTES 32768.0

/* --- the recorder --- */

typedef struct record {
    uint64_t offset;
    int site;
} record;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static record records[PLACES];
static _Thread_local int site; /* of the thread's next allocations */
static _Thread_local bool busy;
static uint64_t nsamples[SITES];
static double nobjects[SITES]; /* estimated */
static double nbytes[SITES];
static uint64_t nlost; /* samples without a place */
static shm_u32 refuses; /* recorder_note() can't record */
static uint64_t bad_places[2]; /* nor there; 1: the next place that it is asked for */
static shm_u32 opens_nothing;
static shm_u64 nopened;
static pthread_mutex_t open_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t opened; /* the word */

static record *record_at(uint64_t offset)
{
    uint64_t i = offset * UINT64_C(0x9e3779b97f4a7c15) >> 48;

    while (records[i].offset != 0 && records[i].offset != offset)
        i = (i + 1) % PLACES;
    return &records[i];
}

int recorder_open(uint64_t word)
{
    Goallocd__ProfileOpen body = GOALLOCD__PROFILE_OPEN__INIT;
    Goallocd__Request request = WIRE_REQUEST(PROFILE_OPEN, profile_open, &body);

    int r;

    u64_add_relaxed(&nopened, 1);
    (void)pthread_mutex_lock(&open_lock);
    if (opened == word)
        r = 0;
    else
        r = u32_load_relaxed(&opens_nothing) ? -ENOMEM : connection_call(&request, NULL, NULL);
    if (r == 0)
        opened = word;
    (void)pthread_mutex_unlock(&open_lock);
    return r;
}

void recorder_close(void)
{
}

void recorder_reset(void)
{
    (void)pthread_mutex_init(&lock, NULL);
    busy = false;
}

void recorder_renew_party(void)
{
}

void recorder_prepare(uint64_t word)
{
    (void)word;
}

bool recorder_is_busy(void)
{
    return busy;
}

/* With the lock. */
static bool is_bad(uint64_t offset)
{
    bool bad = false;

    for (size_t i = 0; i < sizeof(bad_places) / sizeof(bad_places[0]) && !bad; i++) {
        if (bad_places[i] == 1)
            bad_places[i] = offset;
        bad = bad_places[i] == offset;
    }
    return bad;
}

bool recorder_note(uint64_t offset, uint64_t bytes, uint64_t rate)
{
    double weight = 1 / -expm1(-(double)bytes / (double)rate);
    bool fits;
    void *p;

    busy = true; /* what is allocated here comes back to where this was called */
    CHECK((p = goalloc_malloc(bytes)) != NULL);
    goalloc_free(p);
    busy = false;
    if (offset != 0) {
        page_no first = page_at(u32_load_acquire(&process.map.page_map[offset >> PAGE_SHIFT]));
        const shm_span *span = shm_span_at(&process.map, first);
        uint32_t index = (uint32_t)((offset - page_offset(first)) / span->elem_bytes);
        uint64_t word = u64_load_acquire(shm_alloc_word(&process.map, first, index / 64));

        CHECK(span->marked == 1 && span->elem_bytes >= bytes);
        CHECK((word >> (index % 64) & 1) == 0);
    }
    (void)pthread_mutex_lock(&lock);
    nsamples[site]++;
    nobjects[site] += weight;
    nbytes[site] += weight * (double)bytes;
    nlost += offset == 0;
    fits = offset != 0 && !u32_load_relaxed(&refuses) && !is_bad(offset);
    if (fits)
        *record_at(offset) = (record){ offset, site };
    (void)pthread_mutex_unlock(&lock);
    return fits;
}

void recorder_forget(uint64_t offset)
{
    (void)pthread_mutex_lock(&lock);
    if (record_at(offset)->offset == offset)
        record_at(offset)->site = -1;
    (void)pthread_mutex_unlock(&lock);
}

/* --- what the bits say --- */

static bool is_marked(const void *p)
{
    uint64_t offset = goalloc_offset(p);
    page_no first = page_at(u32_load_acquire(&process.map.page_map[offset >> PAGE_SHIFT]));

    return shm_span_at(&process.map, first)->marked != 0;
}

static record record_of(const void *p)
{
    record r;

    (void)pthread_mutex_lock(&lock);
    r = *record_at(goalloc_offset(p));
    (void)pthread_mutex_unlock(&lock);
    return r;
}

/* An object is in a marked span if and only if it was sampled, and its record is that of its site. */
static bool agrees(const void *p, int of_site)
{
    record r = record_of(p);
    const shm_span *span = shm_span_at(
        &process.map, page_at(u32_load_acquire(&process.map.page_map[goalloc_offset(p) >> PAGE_SHIFT])));

    if (!is_marked(p))
        return true;
    if (r.offset == goalloc_offset(p) && r.site == of_site)
        return true;
    return span_class_size(span->spc).n == 0 && !span->lessee_folds && (r.offset == 0 || r.site == -1);
}

static uint64_t count_samples(void)
{
    uint64_t n = 0;

    for (int i = 0; i < SITES; i++)
        n += nsamples[i];
    return n;
}

static double chance_of(uint64_t bytes)
{
    return -expm1(-(double)bytes / RATE_BYTES);
}

static void check_count(const char *what, double n, double chance, double had)
{
    double sigma = sqrt(n * chance * (1 - chance));

    if (fabs(had - n * chance) > SIGMAS * sigma + 1)
        (void)fprintf(stderr, "%s: %.0f of %.0f were sampled, not %.0f +- %.0f\n", what, had, n, n * chance, sigma);
    CHECK(fabs(had - n * chance) <= SIGMAS * sigma + 1);
}

/* --- each allocation has the chance --- */

typedef struct pattern {
    const char *name;
    void *(*allocate)(size_t size);
    size_t size;
    uint64_t bytes; /* of its slot */
    uint32_t batch; /* so many are allocated, then freed */
    uint32_t nrounds;
} pattern;

static void *by_calloc(size_t size)
{
    unsigned char *p = goalloc_calloc(1, size);

    CHECK(p != NULL);
    for (size_t i = 0; i < size; i++)
        CHECK(p[i] == 0);
    return memset(p, 0xa5, size);
}

static void *by_noscan_calloc(size_t size)
{
    unsigned char *p = goalloc_calloc_noscan(size, 1);

    CHECK(p != NULL);
    for (size_t i = 0; i < size; i++)
        CHECK(p[i] == 0);
    return memset(p, 0xa5, size);
}

static void *by_aligned(size_t size)
{
    void *p = goalloc_aligned_alloc(64, size);

    CHECK(p != NULL && (uintptr_t)p % 64 == 0);
    return p;
}

static void *by_pages(size_t size)
{
    return goalloc_aligned_alloc(4 * PAGE_BYTES, size);
}

static void *by_realloc(size_t size)
{
    return goalloc_realloc(NULL, size);
}

static const pattern patterns[] = {
    { "a ping-pong", goalloc_malloc, 64, 64, 1, 1000000 },
    { "a ping-pong of 8 bytes", goalloc_malloc, 8, 8, 1, 3000000 },
    { "a ping-pong of 1 KiB", goalloc_malloc, 1024, 1024, 1, 100000 },
    { "a ping-pong of 32 KiB", goalloc_malloc, 32768, 32768, 1, 5000 },
    { "small batches", goalloc_malloc, 64, 64, 7, 150000 },
    { "batches of a word", goalloc_malloc, 64, 64, 64, 15000 },
    { "batches", goalloc_malloc, 48, 48, 1000, 1000 },
    { "batches beyond the magazine", goalloc_malloc, 256, 256, 3000, 100 },
    { "noscan", goalloc_malloc_noscan, 112, 112, 10, 50000 },
    { "calloc", by_calloc, 96, 96, 3, 200000 },
    { "calloc, in batches", by_calloc, 512, 512, 300, 300 },
    { "noscan calloc", by_noscan_calloc, 128, 128, 2, 100000 },
    { "aligned", by_aligned, 100, 128, 5, 50000 },
    { "realloc of nothing", by_realloc, 80, 80, 5, 100000 },
    { "tiny", goalloc_malloc_noscan, 12, 16, 40, 40000 },
    { "tinier", goalloc_malloc_noscan, 5, 8, 40, 60000 },
    { "tiny, a ping-pong", goalloc_malloc_noscan, 9, 16, 1, 1000000 },
    { "tiny calloc", by_noscan_calloc, 3, 8, 10, 200000 },
    { "runs", goalloc_malloc, 40960, 40960, 1, 5000 },
    { "runs in batches", goalloc_malloc, 40960, 40960, 9, 500 },
    { "runs without a magazine", goalloc_malloc, 100000, 13 * PAGE_BYTES, 1, 3000 },
    { "runs without a magazine in batches", goalloc_malloc, 100000, 13 * PAGE_BYTES, 4, 700 },
    { "large objects", goalloc_malloc, 300000, 37 * PAGE_BYTES, 1, 2000 },
    { "large objects in batches", by_calloc, 270000, 33 * PAGE_BYTES, 3, 60 },
    { "pages", by_pages, 50000, 7 * PAGE_BYTES, 2, 1000 },
};

#define NPATTERNS (sizeof(patterns) / sizeof(patterns[0]))
#define BATCH_MAX 3000

/* Runs may be longer by half than was asked for, of what lies ready: then the chance is that of the longer one. */
static void run_pattern(const pattern *p, uint64_t *seed)
{
    static void *objects[BATCH_MAX];
    uint64_t of_place[2] = { 0, 0 }; /* sampled, of those in even and in odd places */
    uint64_t before = count_samples();
    uint32_t nrounds = p->nrounds / ROUNDS_SHARE;
    double n = (double)p->batch * nrounds;
    bool reversed;

    for (uint32_t round = 0; round < nrounds; round++) {
        for (uint32_t i = 0; i < p->batch; i++) {
            site = (int)(i % SITES);
            objects[i] = p->allocate(p->size);
            CHECK(objects[i] != NULL && agrees(objects[i], site));
            of_place[i % 2] += is_marked(objects[i]) && record_at(goalloc_offset(objects[i]))->site >= 0;
        }
        reversed = test_random(seed) % 2;
        for (uint32_t i = 0; i < p->batch; i++)
            goalloc_free(objects[reversed ? i : p->batch - 1 - i]);
    }
    check_count(p->name, n, chance_of(p->bytes), (double)(count_samples() - before));
    if (p->batch > 1) {
        double neven = (double)((p->batch + 1) / 2) * nrounds;

        check_count(p->name, neven, chance_of(p->bytes), (double)of_place[0]);
        check_count(p->name, n - neven, chance_of(p->bytes), (double)of_place[1]);
    }
}

static void attach_sampling(const fixture *f, const char *rate, uint32_t flags)
{
    CHECK(setenv("GOALLOC_PROFILE", rate, 1) == 0);
    must_attach(f, flags);
}

static int all_patterns(const fixture *f, void *arg)
{
    uint64_t seed = *(uint64_t *)arg;

    attach_sampling(f, RATE, 0);
    for (size_t i = 0; i < NPATTERNS; i++)
        run_pattern(&patterns[i], &seed);
    CHECK(nlost == 0);
    CHECK(stats_now().live_objects == 0);
    return 0;
}

static void each_allocation_has_its_chance(void **state)
{
    uint64_t seed = test_seed();

    assert_int_equal(child_run(*state, all_patterns, &seed), 0);
}

/* --- the next sample --- */

#define EXACT_BATCH  2000
#define EXACT_ROUNDS 3000

/*
 * After a sample it is drawn how many objects pass until the next one: that is the next sample, whatever is freed in
 * between. The frees go past the magazine, so many that those into the current span drop what it has at hand.
 */
static int exact_distances(const fixture *f, void *arg)
{
    static void *objects[EXACT_BATCH];
    uint32_t slot = slot_of_class(size_class_for(8), false);
    uint64_t next = 0; /* so many objects on there is a sample; 0: not known yet */
    uint64_t seed = *(uint64_t *)arg;
    uint32_t nchecked = 0;
    uint32_t ndrops = 0;

    attach_sampling(f, "512K", 0);
    for (uint32_t round = 0; round < EXACT_ROUNDS; round++) {
        uint32_t n = EXACT_BATCH / 2 + (uint32_t)(test_random(&seed) % (EXACT_BATCH / 2));

        for (uint32_t i = 0; i < n; i++) {
            uint64_t before = count_samples();
            bool sampled;

            objects[i] = goalloc_malloc(8);
            CHECK(objects[i] != NULL);
            sampled = count_samples() > before;
            if (next > 0)
                CHECK(sampled == (--next == 0));
            nchecked += sampled;
            if (sampled)
                next = mcache_tls->slots[slot].distance;
        }
        for (uint32_t i = 0; i < n; i++) {
            uint64_t cache = mcache_tls->fronts[slot].cache;

            goalloc_free(objects[i]);
            ndrops += cache != 0 && mcache_tls->fronts[slot].cache == 0;
        }
    }
    (void)fprintf(stderr, "%u samples, %u drops\n", nchecked, ndrops);
    CHECK(nchecked > 10 && ndrops > 0 && nlost == 0);
    return 0;
}

static void next_sample_is_the_object_that_was_drawn(void **state)
{
    uint64_t seed = test_seed();

    assert_int_equal(child_run(*state, exact_distances, &seed), 0);
}

/* --- two sites --- */

/* Bytes 9 : 1, of mixed sizes, freed in turn. */
static int nine_to_one(const fixture *f, void *arg)
{
    uint64_t seed = *(uint64_t *)arg;
    static void *objects[1000];

    attach_sampling(f, "4K", 0);
    for (uint32_t i = 0; i < 4000000; i++) {
        void **at = &objects[test_random(&seed) % 1000];
        size_t size = 16 + test_random(&seed) % 7 * 16;

        goalloc_free(*at);
        site = i % 10 == 0;
        *at = goalloc_malloc(size);
        CHECK(*at != NULL);
    }
    CHECK(nlost == 0);
    (void)fprintf(stderr, "%.0f : %.0f bytes\n", nbytes[0], nbytes[1]);
    CHECK(nbytes[0] / nbytes[1] > 8.1 && nbytes[0] / nbytes[1] < 9.9);
    CHECK(fabs(nobjects[0] + nobjects[1] - 4000000) < 400000);
    return 0;
}

static void two_sites_that_allocate_nine_to_one_come_out_so(void **state)
{
    uint64_t seed = test_seed();

    assert_int_equal(child_run(*state, nine_to_one, &seed), 0);
}

/* --- threads --- */

#define THREADS      300
#define PER_THREAD   700
#define THREADS_ONCE 4

static void *a_short_thread(void *arg)
{
    void *objects[PER_THREAD];

    site = (int)((uintptr_t)arg % SITES);
    for (int i = 0; i < PER_THREAD; i++) {
        objects[i] = goalloc_malloc(200);
        CHECK(objects[i] != NULL && agrees(objects[i], site));
        if (i % 3 == 0) {
            goalloc_free(objects[i]);
            objects[i] = NULL;
        }
    }
    for (int i = 0; i < PER_THREAD; i++)
        goalloc_free(objects[i]);
    return NULL;
}

/* Threads that come and go have the same chance, though none lives until its first sample; half free for others. */
static int many_threads(const fixture *f, void *arg)
{
    pthread_t threads[THREADS_ONCE];

    (void)arg;
    attach_sampling(f, RATE, 0);
    for (int i = 0; i < THREADS; i += THREADS_ONCE) {
        for (int t = 0; t < THREADS_ONCE; t++)
            CHECK(pthread_create(&threads[t], NULL, a_short_thread, (void *)(uintptr_t)t) == 0);
        for (int t = 0; t < THREADS_ONCE; t++)
            CHECK(pthread_join(threads[t], NULL) == 0);
    }
    check_count("threads", (double)THREADS * PER_THREAD, chance_of(208), (double)count_samples());
    CHECK(nlost == 0 && stats_now().live_objects == 0);
    return 0;
}

static void threads_that_come_and_go_have_the_same_chance(void **state)
{
    assert_int_equal(child_run(*state, many_threads, NULL), 0);
}

/* --- on and off --- */

/* As `goallocctl profile` does, for this process's session. */
static void set_rate(const fixture *f, uint64_t rate_bytes, bool reset)
{
    Goallocd__ProfileSet ask = GOALLOCD__PROFILE_SET__INIT;
    uint32_t nsessions = 0;
    int fd = raw_connect(f);

    ask.rate_bytes = rate_bytes;
    ask.session = process.session.n;
    ask.reset = reset;
    CHECK(rawprofile_set(fd, &ask, &nsessions) == 0 && nsessions == 1);
    (void)close(fd);
}

static const pattern loops[] = {
    { "a ping-pong", goalloc_malloc, 64, 64, 1, 10000 },
    { "batches", goalloc_malloc, 64, 64, 1000, 10 },
    { "tiny", goalloc_malloc_noscan, 12, 16, 30, 300 },
    { "runs", goalloc_malloc, 40960, 40960, 1, 5000 },
    { "runs without a magazine", goalloc_malloc, 100000, 13 * PAGE_BYTES, 1, 5000 },
    { "large objects", goalloc_malloc, 300000, 37 * PAGE_BYTES, 1, 100 },
};

static void run_loop(const pattern *p)
{
    static void *objects[BATCH_MAX];

    for (uint32_t round = 0; round < p->nrounds; round++) {
        for (uint32_t i = 0; i < p->batch; i++) {
            objects[i] = p->allocate(p->size);
            CHECK(objects[i] != NULL && agrees(objects[i], site));
        }
        for (uint32_t i = 0; i < p->batch; i++)
            goalloc_free(objects[i]);
    }
}

/* A loop that takes no slow path notices that it is to sample, and that it is not to. */
static int on_and_off(const fixture *f, void *arg)
{
    uint64_t before;

    (void)arg;
    (void)unsetenv("GOALLOC_PROFILE");
    must_attach(f, 0);
    for (size_t i = 0; i < sizeof(loops) / sizeof(loops[0]); i++) {
        before = count_samples();
        run_loop(&loops[i]);
        run_loop(&loops[i]);
        CHECK(count_samples() == before);
        set_rate(f, i % 2 ? 32768 : 4096, i == 3);
        for (int n = 0; n < 1000 && count_samples() == before; n++)
            run_loop(&loops[i]);
        CHECK(count_samples() > before);
        set_rate(f, 0, false);
        run_loop(&loops[i]);
        run_loop(&loops[i]);
        before = count_samples();
        run_loop(&loops[i]);
        CHECK(count_samples() == before);
    }
    CHECK(stats_now().live_objects == 0);
    return 0;
}

static void a_loop_in_its_magazine_notices_on_and_off(void **state)
{
    assert_int_equal(child_run(*state, on_and_off, NULL), 0);
}

/* Nothing can be recorded yet: it is tried again, not each time. */
static int opens_later(const fixture *f, void *arg)
{
    (void)arg;
    u32_store_relaxed(&opens_nothing, 1);
    attach_sampling(f, "4K", 0);
    for (int i = 0; i < 100; i++)
        run_loop(&loops[0]);
    CHECK(count_samples() == 0 && u64_load_relaxed(&nopened) >= 1 && u64_load_relaxed(&nopened) < 1000);
    u32_store_relaxed(&opens_nothing, 0);
    for (int i = 0; i < 6000 && count_samples() == 0; i++, (void)usleep(5000))
        run_loop(&loops[0]);
    CHECK(count_samples() > 0);
    return 0;
}

static void a_region_that_is_not_there_is_asked_for_again(void **state)
{
    assert_int_equal(child_run(*state, opens_later, NULL), 0);
}

/* --- what is not recorded is not marked --- */

static int refused(const fixture *f, void *arg)
{
    (void)arg;
    u32_store_relaxed(&refuses, 1);
    attach_sampling(f, "4K", 0);
    for (size_t i = 0; i < sizeof(loops) / sizeof(loops[0]) - 1; i++) {
        void *objects[300];

        for (int n = 0; n < 300; n++) {
            objects[n] = loops[i].allocate(loops[i].size);
            CHECK(objects[n] != NULL && !is_marked(objects[n]));
        }
        for (int n = 0; n < 300; n++)
            goalloc_free(objects[n]);
    }
    CHECK(count_samples() > 300);
    return 0;
}

static void an_object_without_a_record_is_in_no_marked_span(void **state)
{
    assert_int_equal(child_run(*state, refused, NULL), 0);
}

#define BAD_OBJECTS 1000
#define BAD_TRIES   20000 /* a millisecond each */

/*
 * Two places have no room for a record, for good: the slot's next samples get others, also when these are used up. (On
 * a busy machine a request for a span may time out; then there are none for a second.)
 */
static int bad_place(const fixture *f, void *arg)
{
    size_t size = *(size_t *)arg;
    static void *objects[BAD_OBJECTS];
    uint32_t nmarked = 0;
    uint32_t nothers = 0;

    attach_sampling(f, "1", 0);
    bad_places[0] = bad_places[1] = 1;
    while (nmarked < BAD_OBJECTS && nothers < BAD_TRIES) {
        void *p = goalloc_malloc(size);

        CHECK(p != NULL);
        if (is_marked(p)) {
            objects[nmarked++] = p;
            continue;
        }
        goalloc_free(p);
        nothers++;
        (void)usleep(1000);
    }
    (void)fprintf(stderr, "%u objects of %zu are recorded, %u are not\n", nmarked, size, nothers);
    CHECK(nmarked == BAD_OBJECTS && bad_places[0] != 1 && bad_places[1] != 1);
    for (int i = 0; i < BAD_OBJECTS; i++)
        CHECK(goalloc_offset(objects[i]) != bad_places[0] && goalloc_offset(objects[i]) != bad_places[1]);
    return 0;
}

static void a_place_without_a_record_does_not_stop_its_slot(void **state)
{
    static size_t sizes[] = { 64, 2048, 32768 };

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        assert_int_equal(child_run(*state, bad_place, &sizes[i]), 0);
}

/* A large span comes out of the cache while nothing is sampled: the record of its last object is gone. */
static int cached_large(const fixture *f, void *arg)
{
    uint64_t before;
    void *p;

    (void)arg;
    attach_sampling(f, "1", 0);
    p = goalloc_malloc(400000);
    CHECK(p != NULL && is_marked(p) && record_at(goalloc_offset(p))->site == site);
    goalloc_free(p);
    set_rate(f, 0, false);
    before = count_samples();
    CHECK(goalloc_malloc(400000) == p && count_samples() == before && record_at(goalloc_offset(p))->site == -1);
    /* And the reverse: a span that is cached without a mark is passed over. */
    p = goalloc_malloc(500000);
    CHECK(p != NULL && !is_marked(p));
    goalloc_free(p);
    set_rate(f, 1, false);
    p = goalloc_malloc(500000);
    CHECK(p != NULL && is_marked(p) && record_at(goalloc_offset(p))->site == site);
    return 0;
}

static void a_large_span_from_the_cache_has_no_old_record(void **state)
{
    assert_int_equal(child_run(*state, cached_large, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(each_allocation_has_its_chance),
        FIXTURE_TEST(next_sample_is_the_object_that_was_drawn),
        FIXTURE_TEST(two_sites_that_allocate_nine_to_one_come_out_so),
        FIXTURE_TEST(threads_that_come_and_go_have_the_same_chance),
        FIXTURE_TEST(a_loop_in_its_magazine_notices_on_and_off),
        FIXTURE_TEST(a_region_that_is_not_there_is_asked_for_again),
        FIXTURE_TEST(an_object_without_a_record_is_in_no_marked_span),
        FIXTURE_TEST(a_place_without_a_record_does_not_stop_its_slot),
        FIXTURE_TEST(a_large_span_from_the_cache_has_no_old_record),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
