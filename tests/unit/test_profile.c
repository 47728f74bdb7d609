/*
 * The profile's region: entries are whole or unusable, searches end, whatever others write there, and what has no room
 * is counted. Threads and processes intern the same contents at once; a thread writes garbage meanwhile.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shm/profile.h"

#define ARENA_BYTES SHM_HEAP_ARENA_BYTES
#define BASE (UINT64_C(1) << 40)
#define ELEM_BYTES 64u
#define NSTACKS 200u
#define NROUNDS 20000u
#define NTHREADS 3u

typedef struct world {
    profile_region *region;
    shm_map map;
} world;

static void *zeros(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    assert_true(p != MAP_FAILED);
    return p;
}

/* A heap whose first spans, one a page, have objects of 64 bytes, and are marked. */
static int world_make(void **state)
{
    static world w;
    shm_header header;
    void *spans;

    memset(&header, 0, sizeof(header));
    shm_header_init(&header, BASE, ARENA_BYTES);
    spans = zeros(header.spans_bytes);
    memcpy(spans, &header, sizeof(header));
    shm_map_init(&w.map, spans, zeros(header.bitmap_bytes), NULL);
    for (uint32_t page = 1; page < w.map.npages; page++) {
        shm_span *span = &w.map.span_table[page];

        span->elem_bytes = ELEM_BYTES;
        span->npages = 1;
        span->nelems = PAGE_BYTES / ELEM_BYTES;
        span->magic = UINT32_MAX / ELEM_BYTES + 1;
        span->spc = (span_class){ 10 };
        span->marked = 1;
        u64_store_relaxed(&span->lease, lease_pack((lease_word){ .state = SPAN_LEASED, .session = { 1 }, .epoch = 1 }));
        u32_store_relaxed(&w.map.page_map[page], page);
    }
    w.region = zeros(sizeof(profile_region));
    *state = &w;
    return 0;
}

static int world_delete(void **state)
{
    world *w = *state;

    (void)munmap(w->region, sizeof(profile_region));
    (void)munmap(w->map.header, w->map.spans_bytes);
    (void)munmap(w->map.bitmap, w->map.bitmap_bytes);
    return 0;
}

static shm_u64 *alloc_word_of(const world *w, uint64_t offset, uint64_t *ret_bit)
{
    uint32_t index = (uint32_t)(offset % PAGE_BYTES / ELEM_BYTES);

    *ret_bit = UINT64_C(1) << index % 64;
    return shm_alloc_word(&w->map, page_at((uint32_t)(offset >> PAGE_SHIFT)), index / 64);
}

static void set_live(const world *w, uint64_t offset, bool live)
{
    uint64_t bit;
    shm_u64 *word = alloc_word_of(w, offset, &bit);

    if (live)
        u64_store_relaxed(word, u64_load_relaxed(word) | bit);
    else
        u64_store_relaxed(word, u64_load_relaxed(word) & ~bit);
}

/* Contents of a stack, by its number. */
static uint32_t make_frames(uint64_t n, uint64_t frames[PROFILE_FRAMES_MAX])
{
    uint32_t nframes = (uint32_t)(1 + n % PROFILE_FRAMES_MAX);

    for (uint32_t i = 0; i < nframes; i++)
        frames[i] = n * 1000003 + i;
    return nframes;
}

static uint32_t add_stack(profile_region *region, uint64_t n)
{
    uint64_t frames[PROFILE_FRAMES_MAX];
    uint32_t nframes = make_frames(n, frames);

    return profile_add_stack(region, frames, nframes);
}

static void party_make(profile_party *party, uint32_t session, const char *label)
{
    memset(party, 0, sizeof(*party));
    party->session = session;
    party->rate = PROFILE_RATE_DEFAULT;
    strcpy(party->label, label);
}

static uint32_t add_party(profile_region *region, uint32_t session, const char *label)
{
    profile_party party;

    party_make(&party, session, label);
    return profile_add_party(region, &party);
}

/* --- one thread --- */

static void add_stack_twice_returns_the_same(void **state)
{
    world *w = *state;
    uint64_t frames[PROFILE_FRAMES_MAX + 5] = { 1, 2, 3 };
    uint32_t a = profile_add_stack(w->region, frames, 3);

    assert_int_not_equal(a, 0);
    assert_int_equal(profile_add_stack(w->region, frames, 3), a);
    assert_int_not_equal(profile_add_stack(w->region, frames, 2), a);
    frames[2] = 4;
    assert_int_not_equal(profile_add_stack(w->region, frames, 3), a);
    assert_int_equal(w->region->stacks[a].nframes, 3);
    assert_int_equal(w->region->stacks[a].frames[2], 3);
    assert_int_not_equal(profile_add_stack(w->region, frames, PROFILE_FRAMES_MAX + 5), 0); /* what is longer is cut */
    assert_int_equal(profile_add_stack(w->region, frames, 0), 0);
}

static void add_module_long_path_keeps_its_end(void **state)
{
    world *w = *state;
    uint8_t id[64];
    char path[1000];
    uint32_t number;

    memset(id, 7, sizeof(id));
    memset(path, 'x', sizeof(path));
    strcpy(path + sizeof(path) - 8, "/lib.so");
    number = profile_add_module(w->region, id, sizeof(id), path);
    assert_in_range(number, 1, PROFILE_MODULES);
    assert_int_equal(profile_add_module(w->region, id, sizeof(id), path), number);
    assert_int_not_equal(profile_add_module(w->region, id, 20, path), number);

    const profile_module *module = &w->region->modules[number - 1];

    assert_int_equal(module->build_id_bytes, PROFILE_BUILD_ID_MAX);
    assert_int_equal(module->path_bytes, sizeof(module->path) - 1);
    assert_string_equal(module->path + module->path_bytes - 7, "/lib.so");
}

static void add_anything_full_table_is_counted(void **state)
{
    world *w = *state;
    profile_header *header = &w->region->header;
    uint32_t lost = 0;

    for (uint32_t i = 0; i < 2 * PROFILE_STACKS; i++)
        lost += add_stack(w->region, i) == 0;
    assert_in_range(lost, PROFILE_STACKS, 2 * PROFILE_STACKS);
    assert_int_equal(u64_load_relaxed(&header->nlost_stacks), lost);

    lost = 0;
    for (uint32_t i = 0; i < 2 * PROFILE_MODULES; i++)
        lost += profile_add_module(w->region, (const uint8_t *)&i, sizeof(i), "") == 0;
    assert_in_range(lost, PROFILE_MODULES, 2 * PROFILE_MODULES);
    assert_int_equal(u64_load_relaxed(&header->nlost_modules), lost);
}

static void add_party_full_table_shares(void **state)
{
    world *w = *state;
    uint32_t shared = 0;
    uint32_t number;

    for (uint32_t i = 1; i < 2 * PROFILE_PARTIES; i++) {
        number = add_party(w->region, i, "worker");
        assert_int_not_equal(number, 0);
        if (number >= PROFILE_PARTIES - PROFILE_PARTIES_SHARED) {
            assert_true(shared == 0 || shared == number);
            shared = number;
            assert_int_equal(w->region->parties[number].session, 0);
            assert_string_equal(w->region->parties[number].label, "worker");
        }
    }
    assert_int_not_equal(shared, 0);
    for (uint32_t i = 0; i < 2 * PROFILE_PARTIES; i++) { /* as many labels */
        char label[16];

        (void)snprintf(label, sizeof(label), "%u", i);
        number = add_party(w->region, i, label);
    }
    assert_int_equal(number, 0);
    assert_int_equal(w->region->parties[0].rate, PROFILE_RATE_DEFAULT);
}

static void add_site_full_table_falls_back(void **state)
{
    world *w = *state;
    uint32_t stack = 0;
    uint32_t site = 1;

    while (site != 0)
        site = profile_add_site(w->region, 1, ++stack);
    assert_in_range(stack, PROFILE_SITES / 2, 2 * PROFILE_SITES);
    profile_count(w->region, site, ELEM_BYTES, 1);
    assert_int_equal(u64_load_relaxed(&w->region->sites[0].key), PROFILE_SITE_USED);
    assert_int_equal(u64_load_relaxed(&w->region->sites[0].bytes), ELEM_BYTES);
    assert_in_range(u64_load_relaxed(&w->region->header.nlost_sites), 1, stack);
}

static void sample_is_one_word_with_its_size_class(void **state)
{
    const profile_sample most = { (UINT64_C(1) << 44) - 8, PROFILE_SITES - 1, SIZE_CLASS_COUNT };
    profile_sample sample = profile_sample_unpack(profile_sample_pack(most));

    (void)state;
    assert_true(sample.offset == most.offset);
    assert_int_equal(sample.site, most.site);
    assert_int_equal(sample.size_class, most.size_class);
    assert_true(profile_sample_bytes((profile_sample){ 0, 0, size_class_for(48).n }, 64) == 48);
    assert_true(profile_sample_bytes((profile_sample){ 0, 0, 0 }, 64) == 64);
    for (uint8_t class = 0; class < 128; class++) /* whatever it says, no object is longer than its place */
        assert_in_range(profile_sample_bytes((profile_sample){ 0, 0, class }, 64), 8, 64);
}

static void weight_every_size_is_right(void **state)
{
    (void)state;
    for (uint64_t bytes = 8; bytes < UINT64_C(1) << 40; bytes = bytes * 5 / 4) {
        double exact = -1 / expm1(-(double)bytes / PROFILE_RATE_DEFAULT);
        double is = profile_weight(bytes, PROFILE_RATE_DEFAULT);

        assert_true(fabs(is - exact) < 1e-6 * exact);
    }
    assert_true(profile_weight(64, 0) == 1);
    assert_true(isfinite(profile_weight(0, PROFILE_RATE_DEFAULT)));
    assert_true(isfinite(profile_weight(UINT64_MAX, 1)));
}

/* --- samples --- */

static uint32_t count_records(const world *w, uint64_t offset, uint32_t *ret_at)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < PROFILE_SAMPLES; i++) {
        uint64_t word = u64_load_relaxed(&w->region->samples[i]);

        if ((word & PROFILE_SAMPLE_USED) != 0 && profile_sample_unpack(word).offset == offset) {
            n++;
            *ret_at = i;
        }
    }
    return n;
}

static void put_sample_same_place_replaces_its_record(void **state)
{
    world *w = *state;
    const uint64_t place = 5 * PAGE_BYTES + 3 * ELEM_BYTES;
    uint32_t at = 0;

    assert_true(profile_put_sample(w->region, &w->map, (profile_sample){ place, 17, 0 }));
    assert_true(profile_put_sample(w->region, &w->map, (profile_sample){ place, 40000 & 0x7fff, 0 }));
    assert_int_equal(count_records(w, place, &at), 1);
    assert_int_equal(profile_sample_unpack(u64_load_relaxed(&w->region->samples[at])).site, 40000 & 0x7fff);
    profile_remove_sample(w->region, place);
    profile_remove_sample(w->region, place);
    assert_int_equal(count_records(w, place, &at), 0);
}

/* Places that share a bucket. */
static void find_neighbours(const world *w, uint64_t *ret, uint32_t n)
{
    uint32_t bucket = PROFILE_SAMPLES;
    uint32_t found = 0;
    uint32_t at = 0;

    for (uint64_t place = PAGE_BYTES; found < n; place += ELEM_BYTES) {
        assert_true(place < ARENA_BYTES);
        memset(w->region->samples, 0, found == 0 ? sizeof(w->region->samples) : 0);
        assert_true(profile_put_sample(w->region, &w->map, (profile_sample){ place, 1, 0 }));
        if (found == 0) {
            (void)count_records(w, place, &at);
            bucket = at / PROFILE_BUCKET;
        }
        for (uint32_t i = 0; i < PROFILE_BUCKET; i++) {
            shm_u64 *word = &w->region->samples[bucket * PROFILE_BUCKET + i];

            if (profile_sample_unpack(u64_load_relaxed(word)).offset == place && u64_load_relaxed(word) != 0) {
                ret[found++] = place;
                u64_store_relaxed(word, 0);
            }
        }
    }
    memset(w->region->samples, 0, sizeof(w->region->samples));
}

static void put_sample_full_bucket_replaces_what_does_not_count(void **state)
{
    world *w = *state;
    uint64_t places[PROFILE_BUCKET + 2];
    uint32_t at = 0;

    find_neighbours(w, places, PROFILE_BUCKET + 2);
    for (uint32_t i = 0; i < PROFILE_BUCKET; i++) {
        set_live(w, places[i], true);
        assert_true(profile_put_sample(w->region, &w->map, (profile_sample){ places[i], i, 0 }));
        assert_true(profile_is_live(&w->map, places[i]));
    }
    assert_false(profile_put_sample(w->region, &w->map, (profile_sample){ places[PROFILE_BUCKET], 99, 0 }));
    assert_int_equal(u64_load_relaxed(&w->region->header.nlost_samples), 1);

    /* One is freed: its record gives way, and no other one. */
    set_live(w, places[3], false);
    assert_true(profile_put_sample(w->region, &w->map, (profile_sample){ places[PROFILE_BUCKET], 99, 0 }));
    set_live(w, places[PROFILE_BUCKET], true);
    for (uint32_t i = 0; i <= PROFILE_BUCKET; i++)
        assert_int_equal(count_records(w, places[i], &at), i != 3);

    /* The span of another is not marked any more. */
    w->map.span_table[places[5] >> PAGE_SHIFT].marked = 0;
    assert_true(profile_put_sample(w->region, &w->map, (profile_sample){ places[PROFILE_BUCKET + 1], 98, 0 }));
    for (uint32_t i = 0; i < PROFILE_BUCKET; i++) /* of the others in this page, too */
        if (places[i] >> PAGE_SHIFT != places[5] >> PAGE_SHIFT && i != 3)
            assert_int_equal(count_records(w, places[i], &at), 1);
}

/* --- many --- */

typedef struct hammer {
    profile_region *region;
    uint64_t seed;
    _Atomic bool *stop; /* NULL: after NROUNDS */
} hammer;

static uint64_t next_random(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

static void *add_everything(void *arg)
{
    hammer *h = arg;

    for (uint32_t i = 0; i < NROUNDS; i++) {
        uint64_t n = next_random(&h->seed) % NSTACKS;
        uint32_t stack = add_stack(h->region, n);
        uint32_t party = add_party(h->region, (uint32_t)n % 7, "hammer");
        uint32_t module = profile_add_module(h->region, (const uint8_t *)&n, sizeof(n), "/lib/hammer.so");
        uint32_t site = profile_add_site(h->region, party, stack);

        if (stack >= PROFILE_STACKS || party >= PROFILE_PARTIES || module > PROFILE_MODULES || site >= PROFILE_SITES)
            abort();
        profile_count(h->region, site, ELEM_BYTES, 0);
    }
    return NULL;
}

static void hammer_it(profile_region *region, uint64_t seed)
{
    hammer hammers[NTHREADS];
    pthread_t threads[NTHREADS];

    for (uint32_t i = 0; i < NTHREADS; i++) {
        hammers[i] = (hammer){ .region = region, .seed = seed * NTHREADS + i + 1 };
        if (pthread_create(&threads[i], NULL, add_everything, &hammers[i]) != 0)
            abort();
    }
    for (uint32_t i = 0; i < NTHREADS; i++)
        (void)pthread_join(threads[i], NULL);
}

/* Every entry that is published is one of those that were added, and each of them is there. */
static void check_stacks(const profile_region *region)
{
    bool found[NSTACKS] = { false };

    for (uint32_t i = 1; i < PROFILE_STACKS; i++) {
        const profile_stack *stack = &region->stacks[i];
        uint64_t frames[PROFILE_FRAMES_MAX];
        uint64_t n = stack->frames[0] / 1000003;

        if ((u64_load_acquire(&stack->state) & 3) == PROFILE_FREE)
            continue;
        assert_int_equal(u64_load_acquire(&stack->state) & 3, PROFILE_READY);
        assert_true(n < NSTACKS);
        assert_int_equal(stack->nframes, make_frames(n, frames));
        assert_memory_equal(stack->frames, frames, stack->nframes * sizeof(frames[0]));
        found[n] = true;
    }
    for (uint32_t n = 0; n < NSTACKS; n++)
        assert_true(found[n]);
}

static void add_many_processes_all_is_counted(void **state)
{
    world *w = *state;
    pid_t pids[2];
    uint64_t nsamples = 0;
    uint64_t bytes = 0;
    uint64_t objects = 0;
    int status;

    for (uint32_t i = 0; i < 2; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] == 0) {
            hammer_it(w->region, i + 1);
            _exit(0);
        }
    }
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
    }
    check_stacks(w->region);
    for (uint32_t i = 0; i < PROFILE_SITES; i++) {
        nsamples += u64_load_relaxed(&w->region->sites[i].nsamples);
        bytes += u64_load_relaxed(&w->region->sites[i].bytes);
        objects += u64_load_relaxed(&w->region->sites[i].objects);
    }
    assert_int_equal(nsamples, 2 * NTHREADS * NROUNDS);
    assert_int_equal(bytes, 2 * NTHREADS * NROUNDS * ELEM_BYTES);
    assert_int_equal(objects, 2 * NTHREADS * NROUNDS * PROFILE_OBJECTS_UNIT);
    assert_int_equal(u64_load_relaxed(&w->region->header.nlost_stacks), 0);
    assert_int_equal(u64_load_relaxed(&w->region->header.nlost_sites), 0);
}

static void *write_garbage(void *arg)
{
    hammer *h = arg;
    shm_u64 *words = (shm_u64 *)h->region;

    while (!atomic_load(h->stop)) {
        uint64_t at = next_random(&h->seed) % (sizeof(profile_region) / sizeof(uint64_t));

        u64_store_relaxed(&words[at], next_random(&h->seed) % 3 != 0 ? next_random(&h->seed) : 0);
    }
    return NULL;
}

/* Nothing is checked but that all calls end, and return what is within bounds. */
static void add_hostile_region_ends(void **state)
{
    world *w = *state;
    shm_u64 *words = (shm_u64 *)w->region;
    _Atomic bool stop = false;
    hammer hostile = { .region = w->region, .seed = 99, .stop = &stop };
    const uint64_t fills[] = { UINT64_MAX, PROFILE_CLAIMED, PROFILE_READY, UINT64_C(0x8000000000000001) };
    pid_t pid = fork(); /* not a thread: the sanitizer is right that they race */
    int status;

    assert_true(pid >= 0);
    if (pid == 0) {
        (void)write_garbage(&hostile);
        _exit(0);
    }
    for (uint32_t i = 0; i < sizeof(fills) / sizeof(fills[0]); i++) {
        for (size_t at = 0; at < sizeof(profile_region) / sizeof(uint64_t); at++)
            u64_store_relaxed(&words[at], fills[i]);
        hammer_it(w->region, i);
        for (uint32_t k = 0; k < NROUNDS; k++) {
            uint64_t place = k * (uint64_t)ELEM_BYTES;

            (void)profile_put_sample(w->region, &w->map, (profile_sample){ place, k % PROFILE_SITES, 0 });
            profile_remove_sample(w->region, place);
        }
    }
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, world_make, world_delete)
    const struct CMUnitTest tests[] = {
        TEST(add_stack_twice_returns_the_same),
        TEST(add_module_long_path_keeps_its_end),
        TEST(add_anything_full_table_is_counted),
        TEST(add_party_full_table_shares),
        TEST(add_site_full_table_falls_back),
        TEST(weight_every_size_is_right),
        TEST(sample_is_one_word_with_its_size_class),
        TEST(put_sample_same_place_replaces_its_record),
        TEST(put_sample_full_bucket_replaces_what_does_not_count),
        TEST(add_many_processes_all_is_counted),
        TEST(add_hostile_region_ends),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
