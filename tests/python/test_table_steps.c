/*
 * A process is killed after any number of instructions of one change of a table of the package for Python
 * (python/src/goalloc/table.c, block.c), and the next one looks: the change has happened or it has not, all else is as
 * it was, the counts are right, and in the end no object is left.
 *
 * Each scene is played at some instructions, at equal distances from a random one; with GOALLOC_TEST_ALL_STEPS in
 * the environment, at each.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "python/src/goalloc/block.h"
#include "python/src/goalloc/table.h"
#include "tests/support/kill_steps.h"

#define NROUNDS 25
#define NBASE 11 /* entries that nobody touches: one more, and a stripe's array is full */
#define LIMIT 10000
#define ONE_STRIPE (1u << 20)
#define WAIT_MS 5000

typedef struct scene {
    const char *name;
    void (*prepare)(void);
    void (*change)(void);
    bool (*is_right)(void); /* before or after the change; the base is looked at besides */
    uint64_t max_bytes;     /* not 0: one stripe, and entries may be evicted */
    bool grows;             /* the change makes a new array, which stays */
} scene;

static const scene *playing;
static table *t;
static block *shared;
static char key_of_shared[BLOCK_KEY];

/* --- entries --- */

static entry *make(const char *key, const char *value)
{
    entry *e = entry_new(t, key, strlen(key), strlen(value));

    CHECK(e != NULL);
    memcpy(entry_value(e), value, strlen(value));
    return e;
}

static void put(const char *key, const char *value)
{
    CHECK(table_store(t, make(key, value), WAIT_MS, NULL, NULL) == 1);
}

/* Is the key's value this one; NULL: is it not there? */
static bool has(const char *key, const char *value)
{
    uint64_t hash = table_hash(t, key, strlen(key)), index;
    stripe *s;
    entry *e;
    bool result;

    CHECK(table_lock(t, hash, WAIT_MS, &s) == 0);
    e = table_find(s, hash, key, strlen(key), &index);
    result = value == NULL
                 ? e == NULL
                 : e != NULL && e->value_len == strlen(value) && memcmp(entry_value(e), value, strlen(value)) == 0;
    table_unlock(s);
    return result;
}

static void drop(const char *key)
{
    uint64_t hash = table_hash(t, key, strlen(key)), index;
    stripe *s;

    CHECK(table_lock(t, hash, WAIT_MS, &s) == 0);
    if (table_find(s, hash, key, strlen(key), &index) != NULL)
        CHECK(table_remove(s, index) == 0);
    table_unlock(s);
}

static void put_base(int n)
{
    char key[16];

    for (int i = 0; i < n; i++) {
        (void)snprintf(key, sizeof(key), "base%d", i);
        put(key, "as it was");
    }
}

/* --- what is looked at after each death --- */

static void stripe_is_whole(stripe *s)
{
    uint64_t count = 0, bytes = 0, index;

    assert_int_equal(table_lock_stripe(s, WAIT_MS), 0);
    assert_int_equal(atomic_load(&s->is_open), 0);
    if (s->places != NULL)
        assert_null(s->places->replaced);
    for (uint64_t i = 0; i < table_nplaces(s); i++) {
        entry *e = table_at(s, i);

        if (e == NULL)
            continue;
        assert_null(e->replaced);
        assert_ptr_equal(table_find(s, e->hash, entry_key(e), e->key_len, &index), e);
        assert_int_equal(index, i);
        count++;
        bytes += (e->key_at + e->key_len + e->value_len + 15u) / 16u * 16u + 2 * sizeof(place);
    }
    assert_int_equal(atomic_load(&s->count), count);
    assert_int_equal(atomic_load(&s->bytes), bytes);
    if (t->max_bytes != 0)
        assert_true(bytes <= t->max_bytes + 1000); /* a death may come before the eviction */
    table_unlock(s);
}

static void clear(void)
{
    for (uint64_t i = 0; i < t->nstripes; i++) {
        CHECK(table_lock_stripe(&t->stripes[i], WAIT_MS) == 0);
        CHECK(table_clear_stripe(&t->stripes[i]) == 0);
        table_unlock(&t->stripes[i]);
    }
}

static void check(void *arg, uint64_t nsteps)
{
    char key[16];

    (void)arg;
    for (uint64_t i = 0; i < t->nstripes; i++)
        stripe_is_whole(&t->stripes[i]);
    if (!playing->is_right())
        fail_msg("%s: not right after %llu instructions", playing->name, (unsigned long long)nsteps);
    for (int i = 0; i < NBASE && t->max_bytes == 0 && shared == NULL; i++) {
        (void)snprintf(key, sizeof(key), "base%d", i);
        assert_true(has(key, "as it was"));
    }
    put("after", "the death");
    assert_true(has("after", "the death"));
    clear();
}

/* --- scenes --- */

static void base(void)
{
    put_base(NBASE);
}

static void base_and_x(void)
{
    put_base(NBASE - 1);
    put("x", "old");
    put("base10", "as it was");
}

static void store_x(void)
{
    put("x", "new");
}

static void drop_x(void)
{
    drop("x");
}

static bool x_is_new_or_not_there(void)
{
    return has("x", "new") || has("x", NULL);
}

static bool x_is_old_or_new(void)
{
    return has("x", "old") || has("x", "new");
}

static bool x_is_old_or_not_there(void)
{
    return has("x", "old") || has("x", NULL);
}

/* One more than the array of a table with one stripe takes. */
static void until_full(void)
{
    put_base(12);
}

static void fill_to_the_limit(void)
{
    char key[16], value[500];

    memset(value, 'v', sizeof(value));
    value[sizeof(value) - 1] = '\0';
    for (int i = 0; i < 30; i++) {
        (void)snprintf(key, sizeof(key), "base%d", i);
        put(key, value);
    }
}

static void share_one(void)
{
    shared = block_new(100);
    CHECK(shared != NULL);
    CHECK(block_share(t, shared, block_self(), WAIT_MS) == 0);
    memcpy(key_of_shared, shared->key, BLOCK_KEY);
    memset(shared->data, 'd', 100);
}

static void hold_and_drop(void)
{
    block *b;

    CHECK(block_hold(t, key_of_shared, block_self(), WAIT_MS, &b) == 0);
    CHECK(block_drop(t, key_of_shared, block_self(), true, WAIT_MS) == 0);
}

/* The test still holds it. */
static bool block_is_there(void)
{
    block *b;
    bool whole;

    if (block_hold(t, key_of_shared, block_self(), WAIT_MS, &b) != 0)
        return false;
    whole = b->data[0] == 'd' && b->data[99] == 'd';
    return block_drop(t, key_of_shared, block_self(), true, WAIT_MS) == 0 && whole &&
           block_drop(t, key_of_shared, block_self(), true, WAIT_MS) == 0 &&
           block_hold(t, key_of_shared, block_self(), WAIT_MS, &b) == BLOCK_E_GONE;
}

static void share_for_ever(void)
{
    block *b;

    share_one();
    CHECK(block_hold(t, key_of_shared, BLOCK_FOR_EVER, WAIT_MS, &b) == 0);
    CHECK(block_drop(t, key_of_shared, block_self(), true, WAIT_MS) == 0);
}

static void end_it(void)
{
    (void)block_drop(t, key_of_shared, BLOCK_FOR_EVER, true, WAIT_MS);
}

static bool block_is_there_or_collected(void)
{
    uint64_t n;
    block *b;

    if (block_hold(t, key_of_shared, block_self(), WAIT_MS, &b) == 0) {
        (void)block_drop(t, key_of_shared, block_self(), true, WAIT_MS);
        (void)block_drop(t, key_of_shared, BLOCK_FOR_EVER, true, WAIT_MS);
    }
    return block_collect(t, WAIT_MS, &n) == 0 &&
           block_hold(t, key_of_shared, block_self(), WAIT_MS, &b) == BLOCK_E_GONE;
}

static const scene scenes[] = {
    { "store a new key", base, store_x, x_is_new_or_not_there, 0, false },
    { "store a new value", base_and_x, store_x, x_is_old_or_new, 0, false },
    { "remove", base_and_x, drop_x, x_is_old_or_not_there, 0, false },
    { "a new array", until_full, store_x, x_is_new_or_not_there, ONE_STRIPE, true },
    { "evict", fill_to_the_limit, store_x, x_is_new_or_not_there, LIMIT, false },
    { "hold and drop a block", share_one, hold_and_drop, block_is_there, ONE_STRIPE, false },
    { "the end of a block", share_for_ever, end_it, block_is_there_or_collected, ONE_STRIPE, false },
};

/* --- rounds --- */

static int change_in_steps(const fixture *f, void *arg)
{
    (void)f;
    (void)arg;
    if (shared != NULL) /* a session, a span, and what is bound at the first call */
        hold_and_drop();
    else
        put("base0", playing->max_bytes == LIMIT ? "evicted in any case" : "as it was");
    CHECK(steps_begin());
    steps_mark();
    playing->change();
    steps_mark();
    return 0;
}

static void *prepare(void)
{
    shared = NULL;
    playing->prepare();
    return NULL;
}

static uint64_t play(const fixture *f, uint64_t nsteps)
{
    static const kill_steps scene_steps = { change_in_steps, prepare, check };

    return kill_steps_round(f, &scene_steps, nsteps);
}

/* A scene whose rounds change what stays, the array of a stripe, has a table of its own for each. */
static void open_table(size_t i, uint64_t round)
{
    char name[64];

    (void)snprintf(name, sizeof(name), "steps.%zu.%llu", i, (unsigned long long)(playing->grows ? round : 0));
    assert_int_equal(table_open(name, playing->max_bytes, &t), 0);
}

static void play_scene(const fixture *f, size_t i, unsigned seed)
{
    uint64_t before, nsteps, stride, ndeaths = 0;

    playing = &scenes[i];
    open_table(i, 0);
    nsteps = play(f, KILL_STEPS_MAX);
    assert_in_range(nsteps, 1, KILL_STEPS_MAX - 1);
    before = fixture_live_with(f, 1);
    stride = getenv("GOALLOC_TEST_ALL_STEPS") != NULL ? 1 : nsteps / NROUNDS + 1;
    for (uint64_t at = seed % stride; at < nsteps; at += stride) {
        open_table(i, ++ndeaths);
        (void)play(f, at);
    }
    print_message("%s: %llu instructions, %llu deaths\n", playing->name, (unsigned long long)nsteps,
                  (unsigned long long)ndeaths);
    /* The same keys have come to the same stripes: nothing is more than before, but for a table and its array. */
    assert_int_equal(fixture_live_with(f, 1), before + (playing->grows ? 2 * ndeaths : 0));
}

static void a_death_at_any_instruction_leaves_a_table_whole(void **state)
{
    const char *text = getenv("GOALLOC_TEST_SEED");
    unsigned seed = text != NULL ? (unsigned)strtoul(text, NULL, 0) : (unsigned)time(NULL);

    print_message("seed %u\n", seed);
    must_attach(*state, GOALLOC_ATTACH_RECLAIM);
    for (size_t i = 0; i < sizeof(scenes) / sizeof(scenes[0]); i++)
        play_scene(*state, i, seed);
    assert_int_equal(goalloc_detach(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(a_death_at_any_instruction_leaves_a_table_whole),
    };

    return cmocka_run_group_tests_name("table_steps", tests, NULL, NULL);
}
