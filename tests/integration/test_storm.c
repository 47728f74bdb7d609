/*
 * A storm: workers churn and check what they have written, while others of them are killed every few milliseconds and
 * the daemon every second. Nobody who survives sees an error or a wrong byte; at the end the daemon's tables agree, and
 * the objects are those that are known, and at most one more for each worker that was killed.
 *
 * Six seconds; GOALLOC_TEST_SECONDS makes it longer.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include "tests/support/attach.h"

#define WORKERS 8
#define SLOTS   1500

/* The first half are default sessions, the others reclaim. */
#define RECLAIMS(i) ((i) >= WORKERS / 2)

typedef struct object {
    uint64_t size;
    uint64_t check;
} object;

/*
 * In the shared heap: what the default workers have allocated. A worker that takes the place of a dead one goes on with
 * its slots. A slot is set right after its object is made, and cleared right before the object is freed, so who dies
 * loses at most one object, and no slot names one that is gone.
 */
typedef struct table {
    _Atomic int stop;
    void *_Atomic objects[WORKERS][SLOTS];
} table;

typedef struct post {
    uint64_t seed;
    int number;
} post;

static int make_table(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, 0);
    p = goalloc_calloc(1, sizeof(table));
    CHECK(p != NULL && goalloc_root_set("table", p) == 0);
    return 0;
}

static size_t random_size(uint64_t r)
{
    if (r % 64 == 0)
        return sizeof(object) + (r >> 8) % 120000;
    return sizeof(object) + (r >> 8) % (r % 8 == 0 ? 8000 : 400);
}

static void make(void *_Atomic *slot, uint64_t r)
{
    size_t size = random_size(r);
    object *o = r >> 63 ? goalloc_malloc(size) : goalloc_malloc_noscan(size);

    CHECK(o != NULL);
    memset(o + 1, (int)size, size - sizeof(*o));
    *o = (object){ size, (uintptr_t)o ^ size };
    *slot = o;
}

static void drop(void *_Atomic *slot)
{
    object *o = *slot;
    unsigned char *bytes = (unsigned char *)(o + 1);

    CHECK(o->check == ((uintptr_t)o ^ o->size));
    for (size_t i = 0; i < o->size - sizeof(*o); i += 1 + i / 4)
        CHECK(bytes[i] == (unsigned char)o->size);
    *slot = NULL;
    CHECK(goalloc_free_checked(o) == 0);
}

static void attach_patiently(const fixture *f, uint32_t flags)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    int r = -1;

    options.socket_path = f->socket;
    options.flags = flags;
    for (int i = 0; i < 2000 && r != 0; i++) { /* a daemon may be dying just now */
        r = goalloc_attach(&options);
        if (r != 0)
            (void)usleep(5000);
    }
    CHECK(r == 0);
}

static table *find_table(void)
{
    void *p = NULL;

    CHECK(goalloc_root_get("table", &p) == 0);
    return p;
}

static int worker(const fixture *f, void *arg)
{
    const post *my = arg;
    uint64_t seed = my->seed ^ (uint64_t)getpid() << 20;
    static void *_Atomic mine[SLOTS];
    void *_Atomic *slots;
    table *t;

    attach_patiently(f, RECLAIMS(my->number) ? GOALLOC_ATTACH_RECLAIM : 0);
    t = find_table();
    slots = RECLAIMS(my->number) ? mine : t->objects[my->number];
    while (!t->stop) {
        uint64_t r = test_random(&seed);
        void *_Atomic *slot = &slots[(r >> 32) % SLOTS];

        if (*slot != NULL)
            drop(slot);
        else
            make(slot, test_random(&seed));
        if (r % 30000 == 0)
            CHECK(goalloc_trim() == 0);
    }
    return 0;
}

static int stop_all(const fixture *f, void *arg)
{
    (void)arg;
    attach_patiently(f, 0);
    find_table()->stop = 1;
    return 0;
}

static int clean_up(const fixture *f, void *arg)
{
    table *t;

    (void)arg;
    attach_patiently(f, 0);
    t = find_table();
    for (int w = 0; w < WORKERS; w++) {
        for (int i = 0; i < SLOTS; i++) {
            if (t->objects[w][i] != NULL)
                drop(&t->objects[w][i]);
        }
    }
    CHECK(goalloc_root_set("table", NULL) == 0);
    goalloc_free(t);
    return 0;
}

static int64_t now_ms(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void storm_of_kills_leaves_survivors_and_heap_whole(void **state)
{
    const char *given = getenv("GOALLOC_TEST_SECONDS");
    int64_t end = now_ms() + (given != NULL ? atoi(given) : 6) * 1000;
    int64_t next_daemon = now_ms() + 1000;
    uint64_t seed = test_seed();
    post posts[WORKERS];
    pid_t pids[WORKERS];
    unsigned nkilled = 0;
    unsigned nlosers = 0;
    unsigned ndaemons = 0;
    goalloc_stats_t stats;
    fixture f;

    (void)state;
    fixture_start_kept(&f, NULL);
    assert_int_equal(child_run(&f, make_table, NULL), 0);
    for (int i = 0; i < WORKERS; i++) {
        posts[i] = (post){ .seed = seed, .number = i };
        pids[i] = child_start(&f, worker, &posts[i]);
    }
    while (now_ms() < end) {
        int victim = (int)(test_random(&seed) % WORKERS);

        (void)usleep(10000 + (useconds_t)(test_random(&seed) % 40000));
        (void)kill(pids[victim], SIGKILL);
        assert_int_equal(child_wait(pids[victim]), 1000 + SIGKILL);
        pids[victim] = child_start(&f, worker, &posts[victim]);
        nkilled++;
        nlosers += !RECLAIMS(victim);
        if (now_ms() >= next_daemon) {
            fixture_kill(&f);
            (void)usleep((useconds_t)(test_random(&seed) % 30000));
            fixture_restart(&f, NULL);
            next_daemon = now_ms() + 1000;
            ndaemons++;
        }
    }
    assert_int_equal(child_run(&f, stop_all, NULL), 0);
    for (int i = 0; i < WORKERS; i++)
        assert_int_equal(child_wait(pids[i]), 0);
    assert_int_equal(child_run(&f, clean_up, NULL), 0);
    for (int i = 0; i < 1000; i++, usleep(5000)) {
        fixture_stats(&f, &stats);
        if (stats.sessions == 0 && stats.leased_spans == 0)
            break;
    }
    assert_int_equal(stats.sessions + stats.leased_spans, 0);
    assert_true(fixture_is_whole(&f));
    (void)printf("%u workers and %u daemons killed, %llu objects lost\n", nkilled, ndaemons,
                 (unsigned long long)stats.live_objects);
    assert_true(stats.live_objects <= nlosers);
    assert_true(fixture_stop(&f));
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(storm_of_kills_leaves_survivors_and_heap_whole) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
