/*
 * Sampled profiles, from the allocation to what goallocctl says: sites that allocate nine to one come out so, and a
 * storm of killed workers is told by site when the last one is dead and the daemon is another.
 *
 * How far an estimate may be off follows from how it is made: of n objects of s bytes, each is sampled with chance
 * p = 1 - exp(-s / rate) and stands for 1 / p of them. So the estimate's standard deviation is s * sqrt(n * (1 - p) /
 * p). A bound of six of them fails once in 5 * 10^8 times.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "shm/sizeclass.h"
#include "tests/support/attach.h"
#include "tests/support/objects.h"

#define SIGMAS  6.0
#define OUT_MAX (1u << 22)

static char out[OUT_MAX];

/*
 * Of the profile that was looked at last: those that found no place, which are counted as allocated and not as live. A
 * worker does not wait long for one, and then asks for none for a while: so there are many on a machine that is slow.
 */
static double lost_samples;

/* --- sites --- */

/* What the compiler must not inline, nor leave by a jump, nor merge: their names are in their code. */
#define SITE(name)                                                                                                     \
    __attribute__((noinline)) static void *name(size_t bytes)                                                          \
    {                                                                                                                  \
        void *p = goalloc_malloc(bytes);                                                                               \
        __asm__ volatile("/* " #name " */" : "+r"(p) : : "memory");                                                    \
        return p;                                                                                                      \
    }

SITE(site_of_nine)
SITE(site_of_one)
SITE(site_of_the_small)
SITE(site_of_the_middle)
SITE(site_of_the_large)

/* --- what goallocctl says --- */

static json_t *profile_now(const fixture *f, const char *options)
{
    const char *const words[] = { "--json profile --rows 100000", options, NULL };
    json_t *ret;

    assert_int_equal(fixture_ctl(f, words, out, sizeof(out)), 0);
    ret = json_loads(out, 0, NULL);
    assert_non_null(ret);
    lost_samples = (double)figure(ret, "lost_samples");
    print_message("%.0f samples, %.0f of them lost\n", (double)figure(ret, "samples"), lost_samples);
    return ret;
}

/* The sum of a figure over the sites that have the function in their stacks. */
static double sum_of(json_t *profile, const char *function, const char *name)
{
    double sum = 0;
    json_t *site;
    json_t *frame;
    size_t i;
    size_t k;

    json_array_foreach(json_object_get(profile, "sites"), i, site)
    {
        json_array_foreach(json_object_get(site, "stack"), k, frame)
        {
            if (strcmp(json_string_value(json_object_get(frame, "function")), function) == 0) {
                sum += (double)figure(site, name);
                break;
            }
        }
    }
    return sum;
}

static double deviation(double n, double bytes, double rate)
{
    double p = -expm1(-bytes / rate);

    return bytes * sqrt(n * (1 - p) / p);
}

/* An estimate of the bytes of n objects is as near as it can be asked to be; `more` bytes may be either way besides. */
static void must_be_near(const char *what, double estimate, double n, double bytes, double rate, double more)
{
    double bound = SIGMAS * deviation(n, bytes, rate) + more;
    double off = estimate - n * bytes;

    print_message("%s: %.0f bytes, estimated %.0f (%+.2f%%, %.1f%% are allowed)\n", what, n * bytes, estimate,
                  100 * off / (n * bytes), 100 * bound / (n * bytes));
    assert_true(off <= bound && off >= -bound - lost_samples * (bytes + rate));
}

/* --- nine to one --- */

#define RING       200000u
#define NOBJECTS   600000u
#define RING_BYTES 64u
#define RING_RATE  256u
#define ENOUGH     3000 /* samples of the smaller site, whose share of them is then right to 10% by 5.5 deviations */

typedef struct tally {
    uint64_t allocated[2];
    uint64_t live[2];
} tally;

/* Allocate at two sites, in an order that the seed chooses, and free the oldest in turn. */
static int allocate_in_turn(const fixture *f, void *arg)
{
    static void *ring[RING];
    static uint8_t of[RING];
    tally *t = ((void **)arg)[0];
    uint64_t *seed = ((void **)arg)[1];

    must_attach(f, 0);
    for (uint32_t i = 0; i < NOBJECTS; i++) {
        uint32_t at = i % RING;
        uint8_t which = test_random(seed) % 10 == 0;

        if (ring[at] != NULL) {
            goalloc_free(ring[at]);
            t->live[of[at]]--;
        }
        ring[at] = which ? site_of_one(RING_BYTES) : site_of_nine(RING_BYTES);
        CHECK(ring[at] != NULL);
        of[at] = which;
        t->allocated[which]++;
        t->live[which]++;
    }
    return 0; /* and leaves what lives */
}

static void two_sites_that_allocate_nine_to_one_come_out_nine_to_one(void **state)
{
    static const char *const on[] = { "profile on --rate 256", NULL };
    static const char *const names[2] = { "site_of_nine", "site_of_one" };
    const fixture *f = *state;
    uint64_t seed = test_seed();
    tally *t = mmap(NULL, sizeof(*t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    void *arg[2] = { t, &seed };
    double live[2];
    double allocated[2];
    json_t *profile;

    assert_true(t != MAP_FAILED);
    assert_int_equal(fixture_ctl(f, on, out, sizeof(out)), 0);
    assert_int_equal(child_run(f, allocate_in_turn, arg), 0);
    profile = profile_now(f, "");
    for (int i = 0; i < 2; i++) {
        live[i] = sum_of(profile, names[i], "live_bytes");
        allocated[i] = sum_of(profile, names[i], "alloc_bytes");
        must_be_near(names[i], live[i], (double)t->live[i], RING_BYTES, RING_RATE, RING_BYTES);
        must_be_near(names[i], allocated[i], (double)t->allocated[i], RING_BYTES, RING_RATE, RING_BYTES);
    }
    /* What is lost is nine to one, too; but of few samples that live nothing follows. */
    if (sum_of(profile, names[1], "live_samples") >= ENOUGH)
        assert_true(live[0] / live[1] > 8.1 && live[0] / live[1] < 9.9);
    assert_true(allocated[0] / allocated[1] > 8.1 && allocated[0] / allocated[1] < 9.9);
    json_decref(profile);
    assert_int_equal(munmap(t, sizeof(*t)), 0);
}

/* --- the storm --- */

#define STORM_RATE  16384u
#define NSITES      3
#define KEEP_MAX    2000u
#define WORKERS     4u
#define ROUNDS      6u
#define START_MS    60000
#define ENOUGH_EACH 1000u /* objects of a worker and site, so that all sites together have some dozens of samples */

static const struct {
    const char *name;
    void *(*allocate)(size_t bytes);
    uint32_t bytes;
    uint32_t keep;
} sites[NSITES] = {
    { "site_of_the_small", site_of_the_small, 48, KEEP_MAX },
    { "site_of_the_middle", site_of_the_middle, 1024, KEEP_MAX },
    { "site_of_the_large", site_of_the_large, 40960, 60 },
};

/* Shared with the workers: what each of them knows to live, off by one at most for each site when it is killed. */
typedef struct board {
    struct {
        _Atomic uint64_t live[NSITES];
        _Atomic bool allocates;
    } workers[ROUNDS * WORKERS];
} board;

typedef struct worker {
    board *board;
    uint32_t number;
    uint64_t seed;
} worker;

static int work_until_killed(const fixture *f, void *arg)
{
    static void *kept[NSITES][KEEP_MAX];
    worker *w = arg;

    must_attach(f, 0);
    for (uint64_t n = 0;; n++) {
        uint32_t site = (uint32_t)(test_random(&w->seed) % NSITES);
        void **slot = &kept[site][test_random(&w->seed) % sites[site].keep];

        if (*slot != NULL) {
            goalloc_free(*slot);
            atomic_fetch_sub(&w->board->workers[w->number].live[site], 1);
        }
        *slot = sites[site].allocate(sites[site].bytes);
        CHECK(*slot != NULL);
        atomic_fetch_add(&w->board->workers[w->number].live[site], 1);
        if (n == ENOUGH_EACH * NSITES)
            atomic_store(&w->board->workers[w->number].allocates, true);
    }
    return 0;
}

static void await_first_objects(board *b, uint32_t number)
{
    for (int i = 0; !atomic_load(&b->workers[number].allocates); i++) {
        assert_true(i < START_MS);
        (void)usleep(1000);
    }
}

/* Four workers at a time, killed at random; in some rounds the daemon is, too, and another one comes. */
static void storm(fixture *f, board *b, uint64_t *seed)
{
    pid_t pids[WORKERS];

    for (uint32_t round = 0; round < ROUNDS; round++) {
        for (uint32_t i = 0; i < WORKERS; i++) {
            worker w = { b, round * WORKERS + i, test_random(seed) };

            pids[i] = child_start(f, work_until_killed, &w);
        }
        for (uint32_t i = 0; i < WORKERS; i++)
            await_first_objects(b, round * WORKERS + i);
        (void)usleep((useconds_t)(test_random(seed) % 50000));
        if (round % 2 == 1)
            fixture_kill(f);
        for (uint32_t i = 0; i < WORKERS; i++) {
            (void)usleep((useconds_t)(test_random(seed) % 20000));
            assert_int_equal(kill(pids[i], SIGKILL), 0);
            assert_int_equal(child_wait(pids[i]), 1000 + SIGKILL);
        }
        if (round % 2 == 1)
            fixture_restart(f, NULL);
    }
}

static void compare_with_statistics(const fixture *f, json_t *profile, const board *b)
{
    goalloc_stats_t stats;
    double variance = 0;
    double live = 0;
    double estimate = 0;
    double bound;
    double missing = lost_samples * (sites[NSITES - 1].bytes + STORM_RATE);

    for (int i = 0; i < NSITES; i++) {
        double n = 0;
        double of_site = sum_of(profile, sites[i].name, "live_bytes");
        double sigma;

        for (uint32_t w = 0; w < ROUNDS * WORKERS; w++)
            n += (double)atomic_load(&b->workers[w].live[i]);
        assert_true(of_site > 0);
        must_be_near(sites[i].name, of_site, n, sites[i].bytes, STORM_RATE,
                     (double)(ROUNDS * WORKERS) * sites[i].bytes * 2);
        sigma = deviation(n, sites[i].bytes, STORM_RATE);
        variance += sigma * sigma;
        estimate += of_site;
    }
    fixture_stats(f, &stats);
    live = (double)stats.live_bytes;
    print_message("statistics: %.0f bytes live, the three sites' estimate %.0f (%+.2f%%, sigma %.2f%%)\n", live,
                  estimate, 100 * (estimate / live - 1), 100 * sqrt(variance) / live);
    bound = SIGMAS * sqrt(variance);
    assert_true(estimate - live <= bound && estimate - live >= -bound - missing);
    estimate = (double)figure(profile, "live_bytes");
    assert_true(estimate - live <= bound && estimate - live >= -bound - missing);
}

static int run_in(const fixture *f, const char *command)
{
    char line[512];
    FILE *from;
    size_t n;

    (void)snprintf(line, sizeof(line), "cd %s && HOME=%s %s 2>&1", f->dir, f->dir, command);
    from = popen(line, "r");
    assert_non_null(from);
    n = fread(out, 1, sizeof(out) - 1, from);
    out[n] = '\0';
    return pclose(from);
}

static void look_with_pprof(const fixture *f)
{
    static const char *const commands[] = {
        "go tool pprof -top -nodefraction=0 profile",
        "go tool pprof -raw profile",
        "go tool pprof -svg -nodefraction=0 -edgefraction=0 -output=svg profile && cat svg",
    };
    char file[128];
    const char *const words[] = { "profile", file, NULL };

    (void)snprintf(file, sizeof(file), "%s/profile", f->dir);
    assert_int_equal(fixture_ctl(f, words, out, sizeof(out)), 0);
    if (run_in(f, "go tool -n pprof") != 0 || run_in(f, "dot -V") != 0) {
        print_message("pprof is not asked: no go tool pprof or no dot here (Debian: golang-go, graphviz)\n");
        return;
    }
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        assert_int_equal(run_in(f, commands[i]), 0);
        if (i == 0) /* and not a library of it */
            assert_non_null(strstr(out, "File: test_profile_sites"));
        for (int k = 0; k < NSITES; k++) /* in a picture names are cut into lines */
            assert_non_null(strstr(out, sites[k].name));
    }
}

static void a_storm_of_killed_workers_is_told_by_site_when_all_are_dead(void **state)
{
    static const char *const on[] = { "profile on --rate 16K", NULL };
    fixture *f = *state;
    uint64_t seed = test_seed();
    board *b = mmap(NULL, sizeof(*b), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    json_t *profile;
    json_t *site;
    size_t i;

    assert_true(b != MAP_FAILED);
    assert_int_equal(fixture_ctl(f, on, out, sizeof(out)), 0);
    storm(f, b, &seed);
    fixture_kill(f);
    fixture_restart(f, NULL);
    (void)fixture_live_with(f, 0);
    profile = profile_now(f, "");
    compare_with_statistics(f, profile, b);
    json_array_foreach(json_object_get(profile, "sites"), i, site)
        assert_true(json_is_true(json_object_get(site, "ended")));
    json_decref(profile);
    look_with_pprof(f);
    assert_int_equal(munmap(b, sizeof(*b)), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(two_sites_that_allocate_nine_to_one_come_out_nine_to_one),
        FIXTURE_TEST_KEPT(a_storm_of_killed_workers_is_told_by_site_when_all_are_dead),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
