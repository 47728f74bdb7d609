/*
 * Whose an object is after it has moved: what was the heap's stays the heap's, what was its session's ends with it.
 * Whose an object is in the place of one that was published and freed. And the first byte of the arena, which is
 * nobody's.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

#include "tests/support/objects.h"

/* --- moves --- */

#define LARGE (SHM_RUN_BYTES_MAX + PAGE_BYTES)

/* From a size to another one that the object has to move for: 8 bytes, small, runs, large objects. */
typedef struct move {
    size_t from;
    size_t to;
    bool noscan;
} move;

static const move moves[] = {
    { 8, 100, false },         { 5, 8, true },         { 5, 12, true },          { 15, 40, true },
    { 100, 8, false },         { 100, 2000, false },   { 100, 2000, true },      { 2000, 24, false },
    { 3000, 40000, false },    { 40000, 100, false },  { 40000, 200000, false }, { 200000, 40000, true },
    { 40000, LARGE, false },   { LARGE, 8, false },    { LARGE, 100000, true },  { LARGE, 20000000, false },
    { 1000000, LARGE, false }, { LARGE, 7000, false }, { LARGE, 8000000, true }, { 8, 1000000, false },
};

#define NMOVES (sizeof(moves) / sizeof(moves[0]))

/* Whose the object is when a session that reclaims makes it another size. */
enum whose {
    OWN,       /* its own, not published */
    PUBLISHED, /* its own, published */
    DEFAULT,   /* allocated by a session that does not reclaim */
    OTHER,     /* published by another session that reclaims and lives */
    ADOPTED,   /* of a session that does not reclaim, adopted */
    GIVEN,     /* its own, published and adopted again */
    WHOSES
};

static bool stays(enum whose whose)
{
    return whose == PUBLISHED || whose == DEFAULT || whose == OTHER;
}

/* What the test and its processes share. */
typedef struct common {
    const fixture *f;
    enum whose whose;
    unsigned char *p[NMOVES];
    bool moved[NMOVES];
} common;

static int fill_of(size_t i)
{
    return 0x40 + (int)i;
}

static void allocate_all(common *c)
{
    for (size_t i = 0; i < NMOVES; i++) {
        c->p[i] = moves[i].noscan ? goalloc_malloc_noscan(moves[i].from) : goalloc_malloc(moves[i].from);
        CHECK(c->p[i] != NULL);
        memset(c->p[i], fill_of(i), moves[i].from);
    }
}

static int allocate_and_leave(const fixture *f, void *arg)
{
    must_attach(f, 0);
    allocate_all(arg);
    return 0;
}

static int allocate_publish_and_stay(const fixture *f, void *arg)
{
    common *c = arg;

    must_attach(f, GOALLOC_ATTACH_RECLAIM);
    allocate_all(c);
    for (size_t i = 0; i < NMOVES; i++)
        CHECK(goalloc_publish(c->p[i]) == 0);
    (void)raise(SIGSTOP);
    return 0;
}

static int resize_and_be_killed(const fixture *f, void *arg)
{
    common *c = arg;

    must_attach(f, GOALLOC_ATTACH_RECLAIM);
    if (c->whose == OWN || c->whose == PUBLISHED || c->whose == GIVEN)
        allocate_all(c);
    for (size_t i = 0; i < NMOVES; i++) {
        size_t kept = moves[i].from < moves[i].to ? moves[i].from : moves[i].to;
        unsigned char *p;

        if (c->whose == PUBLISHED || c->whose == GIVEN)
            CHECK(goalloc_publish(c->p[i]) == 0);
        if (c->whose == ADOPTED || c->whose == GIVEN)
            CHECK(goalloc_adopt(c->p[i]) == 0);
        p = goalloc_realloc(c->p[i], moves[i].to);
        CHECK(p != NULL && goalloc_usable_size(p) >= moves[i].to && all_are(p, kept, fill_of(i)));
        c->moved[i] = p != c->p[i];
        CHECK(!c->moved[i] || goalloc_usable_size(c->p[i]) == 0);
        c->p[i] = p;
    }
    (void)kill(getpid(), SIGKILL);
    return 0;
}

static int check_and_free_all(const fixture *f, void *arg)
{
    common *c = arg;

    must_attach(f, 0);
    for (size_t i = 0; i < NMOVES; i++) {
        size_t kept = moves[i].from < moves[i].to ? moves[i].from : moves[i].to;

        if (goalloc_usable_size(c->p[i]) < moves[i].to)
            (void)fprintf(stderr, "from %zu to %zu bytes: lost\n", moves[i].from, moves[i].to);
        CHECK(goalloc_usable_size(c->p[i]) >= moves[i].to);
        CHECK(all_are(c->p[i], kept, fill_of(i)));
        goalloc_free(c->p[i]);
    }
    return 0;
}

static void realloc_when_the_object_moves_keeps_whose_it_is(void **state)
{
    fixture *f = *state;
    common *c = mmap(NULL, sizeof(*c), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_true(c != MAP_FAILED);
    for (int whose = OWN; whose < WHOSES; whose++) {
        pid_t other = 0;
        size_t nmoved = 0;

        memset(c, 0, sizeof(*c));
        c->whose = (enum whose)whose;
        if (whose == DEFAULT || whose == ADOPTED)
            assert_int_equal(child_run(f, allocate_and_leave, c), 0);
        if (whose == OTHER) {
            other = child_start(f, allocate_publish_and_stay, c);
            assert_true(child_stops(other));
        }
        assert_int_equal(child_run(f, resize_and_be_killed, c), 1000 + SIGKILL);
        for (size_t i = 0; i < NMOVES; i++)
            nmoved += c->moved[i];
        assert_true(nmoved >= NMOVES / 2);
        if (other != 0) {
            (void)kill(other, SIGCONT);
            assert_int_equal(child_wait(other), 0);
        }
        (void)printf("%d: %zu of %zu moved\n", whose, nmoved, NMOVES);
        assert_true(fixture_is_clean(f, stays(c->whose) ? NMOVES : 0));
        if (stays(c->whose))
            assert_int_equal(child_run(f, check_and_free_all, c), 0);
        assert_true(fixture_is_clean(f, 0));
    }
    (void)munmap(c, sizeof(*c));
}

/* --- places that are used again --- */

#define PLACES 3000

typedef struct places {
    bool by_another_thread; /* the frees */
    unsigned char *p[PLACES];
    unsigned nagain; /* places of published objects that were handed out again */
} places;

static const size_t place_bytes[] = { 1, 8, 16, 64, 500, 2000, 9000 };

#define NPLACE_BYTES (sizeof(place_bytes) / sizeof(place_bytes[0]))

static bool place_is_published(size_t i)
{
    return i % 3 == 1;
}

static void *free_places(void *arg)
{
    places *c = arg;

    for (size_t i = 0; i < PLACES; i++) {
        if (i % 2 == 0)
            goalloc_free(c->p[i]);
        else
            CHECK(goalloc_free_checked(c->p[i]) == 0);
        CHECK(goalloc_free_checked(c->p[i]) == -EALREADY);
    }
    return NULL;
}

/* Publish some of its objects, free all, and allocate as many again, which are nobody else's then. */
static int use_places_again_and_be_killed(const fixture *f, void *arg)
{
    places *c = arg;

    must_attach(f, GOALLOC_ATTACH_RECLAIM);
    for (size_t n = 0; n < NPLACE_BYTES; n++) {
        pthread_t other;

        for (size_t i = 0; i < PLACES; i++) {
            CHECK((c->p[i] = goalloc_malloc(place_bytes[n])) != NULL);
            CHECK(!place_is_published(i) || goalloc_publish(c->p[i]) == 0);
        }
        if (c->by_another_thread) {
            CHECK(pthread_create(&other, NULL, free_places, c) == 0);
            CHECK(pthread_join(other, NULL) == 0);
        } else {
            (void)free_places(c);
        }
        for (size_t i = 0; i < PLACES; i++) {
            unsigned char *p = goalloc_malloc(place_bytes[n]);

            CHECK(p != NULL);
            for (size_t k = 0; k < PLACES; k++)
                c->nagain += p == c->p[k] && place_is_published(k);
        }
    }
    (void)kill(getpid(), SIGKILL);
    return 0;
}

static void free_of_a_published_object_leaves_its_place_to_the_session(void **state)
{
    places *c = mmap(NULL, sizeof(*c), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_true(c != MAP_FAILED);
    for (int by_another = 0; by_another < 2; by_another++) {
        memset(c, 0, sizeof(*c));
        c->by_another_thread = by_another != 0;
        assert_int_equal(child_run(*state, use_places_again_and_be_killed, c), 1000 + SIGKILL);
        (void)printf("freed by %s thread: %u places were used again\n", by_another ? "another" : "the same", c->nagain);
        assert_true(c->nagain >= NPLACE_BYTES * PLACES / 6);
        assert_true(fixture_is_clean(*state, 0));
    }
    (void)munmap(c, sizeof(*c));
}

/* --- the arena's first byte --- */

static int use_base(const fixture *f, void *arg)
{
    unsigned char *p;
    unsigned char *base;
    void *found;

    must_attach(f, *(uint32_t *)arg);
    p = filled(100, 1);
    base = p - goalloc_offset(p);
    CHECK(goalloc_contains(base) == 1);
    CHECK(goalloc_root_set("name", p) == 0);
    CHECK(goalloc_root_set("name", base) == -EINVAL);
    CHECK(goalloc_root_get("name", &found) == 0 && found == p);
    CHECK(goalloc_root_set("name", base + 1) == -EINVAL);
    CHECK(goalloc_root_set("name", base + 8191) == -EINVAL);
    CHECK(goalloc_root_get("name", &found) == 0 && found == p);
    CHECK(goalloc_root_set("new", base) == -EINVAL);
    CHECK(goalloc_root_get("new", &found) == -ENOENT);
    CHECK(goalloc_publish(base) == -EINVAL);
    CHECK(goalloc_adopt(base) == -EINVAL);
    CHECK(goalloc_usable_size(base) == 0);
    CHECK(goalloc_free_checked(base) == -EINVAL);
    CHECK(goalloc_root_set("name", NULL) == 0);
    CHECK(goalloc_root_set("name", base) == -EINVAL);
    goalloc_free(p);
    return 0;
}

static void root_set_of_the_arenas_base_is_invalid(void **state)
{
    uint32_t flags[] = { 0, GOALLOC_ATTACH_RECLAIM };

    for (size_t i = 0; i < 2; i++)
        assert_int_equal(child_run(*state, use_base, &flags[i]), 0);
    assert_true(fixture_is_clean(*state, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(realloc_when_the_object_moves_keeps_whose_it_is),
        FIXTURE_TEST(free_of_a_published_object_leaves_its_place_to_the_session),
        FIXTURE_TEST(root_set_of_the_arenas_base_is_invalid),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
