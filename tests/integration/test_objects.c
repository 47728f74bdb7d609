/*
 * Tiny objects in shared blocks, and large objects that change their length: where they lie, what they cost, who may
 * free them, what happens to them when a process dies.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "shm/units.h"
#include "tests/support/attach.h"

static goalloc_stats_t stats_now(void)
{
    goalloc_stats_t stats = { .struct_size = sizeof(stats) };

    CHECK(goalloc_stats(&stats) == 0);
    return stats;
}

/* --- tiny --- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TINY_COUNT 500000
#else
#define TINY_COUNT 10000000
#endif

static int ten_million_of_three_bytes(const fixture *f, void *arg)
{
    unsigned char **objects = malloc(TINY_COUNT * sizeof(*objects));
    uint64_t tiny_bytes;

    (void)arg;
    must_attach(f, 0);
    for (int i = 0; i < TINY_COUNT; i++) {
        CHECK((objects[i] = goalloc_malloc_noscan(3)) != NULL);
        memset(objects[i], i, 3);
    }
    CHECK(stats_now().live_objects == TINY_COUNT && stats_now().live_bytes == UINT64_C(3) * TINY_COUNT);
    tiny_bytes = stats_now().session_held_bytes;
    for (int i = 0; i < TINY_COUNT; i++) {
        CHECK(objects[i][0] == (unsigned char)i && objects[i][2] == (unsigned char)i);
        goalloc_free(objects[i]);
    }
    CHECK(stats_now().live_objects == 0);
    CHECK(goalloc_trim() == 0);
    CHECK(stats_now().session_held_bytes == 0);

    /* The class of 8 bytes, which they would have been in. */
    for (int i = 0; i < TINY_COUNT; i++)
        CHECK(goalloc_malloc(3) != NULL);
    (void)printf("%.1f%% of the memory of the 8-byte class\n",
                 100.0 * (double)tiny_bytes / (double)stats_now().session_held_bytes);
    (void)fflush(stdout);
    CHECK(tiny_bytes * 100 < stats_now().session_held_bytes * 60);
    return 0;
}

static void tiny_objects_of_three_bytes_take_less_than_60_percent(void **state)
{
    assert_int_equal(child_run(*state, ten_million_of_three_bytes, NULL), 0);
    assert_true(fixture_is_clean(*state, TINY_COUNT));
}

/* Sizes allocated in turn by a fresh thread, and where each must lie: block (in order of first use) and byte in it. */
static int tiny_rows(const fixture *f, void *arg)
{
    static const struct {
        uint8_t sizes[8];
        uint8_t at[8][2];
    } rows[] = {
        { { 1, 1, 1 }, { { 0, 0 }, { 0, 1 }, { 0, 2 } } },
        { { 3, 3, 3, 3, 3, 3 }, { { 0, 0 }, { 0, 3 }, { 0, 6 }, { 0, 9 }, { 0, 12 }, { 1, 0 } } },
        { { 8, 8, 8 }, { { 0, 0 }, { 0, 8 }, { 1, 0 } } },
        { { 1, 8, 1 }, { { 0, 0 }, { 0, 8 }, { 1, 0 } } },
        { { 1, 4, 2, 1 }, { { 0, 0 }, { 0, 4 }, { 0, 8 }, { 0, 10 } } },
        { { 1, 2, 4, 8 }, { { 0, 0 }, { 0, 2 }, { 0, 4 }, { 0, 8 } } },
        { { 5, 6, 5 }, { { 0, 0 }, { 0, 6 }, { 1, 0 } } },
        { { 12, 4, 12 }, { { 0, 0 }, { 0, 12 }, { 1, 0 } } },
        { { 15, 1, 15 }, { { 0, 0 }, { 0, 15 }, { 1, 0 } } },
        /* The block with more room left stays open: 4 of 16 are used, 12 do not fit, 14 leave less room. */
        { { 4, 14, 4 }, { { 0, 0 }, { 1, 0 }, { 0, 4 } } },
        /* 14 are used; 6 do not fit, and leave more room. */
        { { 14, 6, 2 }, { { 0, 0 }, { 1, 0 }, { 1, 6 } } },
        { { 9, 9, 7 }, { { 0, 0 }, { 1, 0 }, { 0, 9 } } },
        { { 7, 7, 2 }, { { 0, 0 }, { 0, 7 }, { 0, 14 } } },
    };

    (void)arg;
    must_attach(f, 0);
    for (size_t r = 0; r < sizeof(rows) / sizeof(rows[0]); r++) {
        uintptr_t blocks[8] = { 0 };
        void *objects[8] = { NULL };

        CHECK(goalloc_trim() == 0); /* closes the open block */
        for (int i = 0; i < 8 && rows[r].sizes[i] != 0; i++) {
            uintptr_t p = (uintptr_t)(objects[i] = goalloc_malloc_noscan(rows[r].sizes[i]));
            unsigned block = rows[r].at[i][0];

            CHECK(p != 0 && p % 16 == rows[r].at[i][1]);
            CHECK(blocks[block] == 0 || blocks[block] == p / 16);
            blocks[block] = p / 16;
            CHECK(block == 0 || blocks[block] != blocks[block - 1]);
            CHECK(goalloc_usable_size(objects[i]) == rows[r].sizes[i]);
        }
        for (int i = 0; i < 8; i++)
            goalloc_free(objects[i]);
        CHECK(stats_now().live_objects == 0);
    }
    return 0;
}

static void tiny_objects_lie_where_gos_rules_put_them(void **state)
{
    assert_int_equal(child_run(*state, tiny_rows, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

static int tiny_bad_frees(const fixture *f, void *arg)
{
    unsigned char *a;
    unsigned char *b;
    unsigned char *c;

    (void)arg;
    must_attach(f, 0);
    a = goalloc_malloc_noscan(3);
    b = goalloc_malloc_noscan(5);
    c = goalloc_malloc_noscan(8);
    CHECK(b == a + 3 && c == a + 8);
    CHECK(goalloc_free_checked(a + 1) == -EINVAL && goalloc_free_checked(b + 4) == -EINVAL);
    CHECK(goalloc_free_checked(c + 1) == -EINVAL);
    CHECK(goalloc_free_checked(b) == 0);
    CHECK(goalloc_free_checked(b) == -EALREADY);
    CHECK(goalloc_free_checked(b + 1) == -EINVAL);
    CHECK(goalloc_usable_size(a) == 3 && goalloc_usable_size(b) == 0 && goalloc_usable_size(c) == 8);
    CHECK(stats_now().live_objects == 2 && stats_now().live_bytes == 11);
    CHECK(goalloc_free_checked(a) == 0 && goalloc_free_checked(c) == 0);
    CHECK(goalloc_free_checked(a) == -EALREADY && goalloc_free_checked(c) == -EALREADY);
    CHECK(stats_now().live_objects == 0);
    /* Roots point into them, realloc moves them, large ones come from them. */
    a = goalloc_malloc_noscan(7);
    memcpy(a, "seven..", 7);
    CHECK(goalloc_root_set("tiny", a + 2) == 0 && goalloc_root_set("tiny", NULL) == 0);
    CHECK(goalloc_root_set("tiny", a + 7) == -EINVAL);
    a = goalloc_realloc(a, 14);
    CHECK(a != NULL && memcmp(a, "seven..", 7) == 0);
    a = goalloc_realloc(a, 100000);
    CHECK(a != NULL && memcmp(a, "seven..", 7) == 0);
    a = goalloc_realloc(a, 2);
    CHECK(a != NULL && memcmp(a, "se", 2) == 0 && goalloc_usable_size(a) == 2);
    goalloc_free(a);
    return 0;
}

static void tiny_objects_freed_twice_or_inside_are_detected(void **state)
{
    assert_int_equal(child_run(*state, tiny_bad_frees, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

#define SHARED_TINY 20000

static int make_tiny(const fixture *f, void *arg)
{
    unsigned char **array;

    must_attach(f, 0);
    array = goalloc_malloc(SHARED_TINY * sizeof(*array));
    for (uint32_t i = 0; i < SHARED_TINY; i++) {
        CHECK((array[i] = goalloc_malloc_noscan(1 + i % 7)) != NULL);
        memset(array[i], (int)i, 1 + i % 7);
    }
    CHECK(goalloc_root_set("array", array) == 0);
    if (arg != NULL)
        (void)raise(SIGKILL); /* with a block open */
    (void)raise(SIGSTOP);
    /* Woken after the others have freed them: the blocks are there again. */
    for (uint32_t i = 0; i < SHARED_TINY; i++)
        CHECK(goalloc_malloc_noscan(3) != NULL);
    CHECK(stats_now().live_objects == SHARED_TINY);
    return 0;
}

static void *free_a_half(void *data)
{
    unsigned char ***at = data;
    unsigned char **array = at[0];
    bool odd = at[1] != NULL;

    for (uint32_t i = odd; i < SHARED_TINY; i += 2) {
        CHECK(array[i][0] == (unsigned char)i);
        CHECK(goalloc_free_checked(array[i]) == 0);
        CHECK(goalloc_free_checked(array[i]) == -EALREADY || goalloc_free_checked(array[i]) == -EINVAL);
    }
    return NULL;
}

static int free_tiny_by_two_threads(const fixture *f, void *arg)
{
    pthread_t threads[2];
    unsigned char **args[2][2];
    void *p;

    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_root_get("array", &p) == 0);
    for (int i = 0; i < 2; i++) {
        args[i][0] = p;
        args[i][1] = i ? p : NULL;
        CHECK(pthread_create(&threads[i], NULL, free_a_half, args[i]) == 0);
    }
    for (int i = 0; i < 2; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    goalloc_free(p);
    CHECK(goalloc_root_set("array", NULL) == 0);
    return 0;
}

static void tiny_objects_freed_by_another_process_make_room_again(void **state)
{
    const fixture *f = *state;
    pid_t a = child_start(f, make_tiny, NULL);
    int status;

    assert_int_equal(waitpid(a, &status, WUNTRACED), a);
    assert_int_equal(child_run(f, free_tiny_by_two_threads, NULL), 0);
    (void)kill(a, SIGCONT);
    assert_int_equal(child_wait(a), 0);
    assert_true(fixture_is_clean(f, SHARED_TINY));
}

static void tiny_objects_of_a_killed_process_stay_and_leave_nothing_when_freed(void **state)
{
    const fixture *f = *state;
    Goallocd__Reply *reply;
    uint64_t nspans = UINT64_MAX;
    int kill_it = 1;

    assert_int_equal(child_run(f, make_tiny, &kill_it), 1000 + SIGKILL);
    assert_true(fixture_is_clean(f, SHARED_TINY + 1));
    assert_int_equal(child_run(f, free_tiny_by_two_threads, NULL), 0);
    assert_true(fixture_is_clean(f, 0));
    for (int i = 0; i < 500 && nspans != 0; i++) {
        reply = fixture_stats_reply(f);
        nspans = reply->stats->inuse_spans;
        goallocd__reply__free_unpacked(reply, NULL);
        (void)usleep(10000);
    }
    assert_int_equal(nspans, 0);
}

static int tiny_of_a_reclaim_session(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, GOALLOC_ATTACH_RECLAIM);
    for (int i = 0; i < 1000; i++) {
        p = goalloc_malloc_noscan(3);
        CHECK(p != NULL && (i % 10 != 0 || goalloc_publish(p) == 0));
    }
    CHECK(goalloc_root_get("tiny", &p) == 0 && goalloc_adopt(p) == 0);
    return 0;
}

static int tiny_neighbours(const fixture *f, void *arg)
{
    unsigned char *a;

    (void)arg;
    must_attach(f, 0);
    a = goalloc_malloc_noscan(3);
    CHECK(goalloc_malloc_noscan(3) == a + 3);
    CHECK(goalloc_root_set("tiny", a) == 0);
    return 0;
}

static void tiny_objects_are_published_and_adopted_one_by_one(void **state)
{
    const fixture *f = *state;

    assert_int_equal(child_run(f, tiny_neighbours, NULL), 0);
    assert_int_equal(child_run(f, tiny_of_a_reclaim_session, NULL), 0);
    assert_true(fixture_is_clean(f, 100 + 1)); /* the published; and the neighbour of the one that was adopted */
}

/* Adopt one tiny object, wait until it is gone and its block in use again, and end. */
static int adopt_and_end(const fixture *f, void *arg)
{
    void *p;

    must_attach(f, GOALLOC_ATTACH_RECLAIM);
    CHECK(goalloc_root_get(arg, &p) == 0 && goalloc_adopt(p) == 0);
    (void)raise(SIGSTOP);
    return 0;
}

/* Two neighbours in a block, named; woken, they are freed and the block is used again, by two others at the same
 * places. */
static int reuse_block(const fixture *f, void *arg)
{
    unsigned char *a;
    unsigned char *b;

    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_malloc_noscan(15) != NULL); /* so the span stays */
    a = goalloc_malloc_noscan(8);
    b = goalloc_malloc_noscan(8);
    CHECK(b == a + 8 && goalloc_root_set("first", a) == 0);
    (void)raise(SIGSTOP);
    goalloc_free(a);
    goalloc_free(b);
    CHECK(goalloc_trim() == 0);
    for (int i = 0; i < 2000; i++) {
        unsigned char *p = goalloc_malloc_noscan(8);

        if (p != a)
            continue;
        CHECK(goalloc_malloc_noscan(8) == b);
        CHECK(goalloc_root_set("second", b) == 0);
        (void)raise(SIGSTOP);
        CHECK(goalloc_usable_size(a) == 8); /* nobody has adopted this one */
        CHECK(goalloc_usable_size(b) == 0); /* its adopter has ended */
        return 0;
    }
    CHECK(false);
    return 1;
}

static void wait_for_stop(pid_t pid)
{
    int status;

    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    assert_true(WIFSTOPPED(status));
}

static void adoption_of_a_tiny_object_ends_with_its_block(void **state)
{
    const fixture *f = *state;
    pid_t owner = child_start(f, reuse_block, NULL);
    pid_t first;
    pid_t second;

    wait_for_stop(owner);
    first = child_start(f, adopt_and_end, (void *)(uintptr_t)"first");
    wait_for_stop(first);
    (void)kill(owner, SIGCONT);
    wait_for_stop(owner);
    second = child_start(f, adopt_and_end, (void *)(uintptr_t)"second");
    wait_for_stop(second);
    (void)kill(first, SIGCONT);
    (void)kill(second, SIGCONT);
    assert_int_equal(child_wait(first), 0);
    assert_int_equal(child_wait(second), 0);
    (void)fixture_live_with(f, 1);
    (void)kill(owner, SIGCONT);
    assert_int_equal(child_wait(owner), 0);
}

/* --- large objects --- */

static unsigned char *filled(size_t bytes, int fill)
{
    unsigned char *p = goalloc_malloc(bytes);

    CHECK(p != NULL);
    memset(p, fill, bytes);
    return p;
}

static bool all_are(const unsigned char *p, size_t bytes, int fill)
{
    for (size_t i = 0; i < bytes; i++) {
        if (p[i] != (unsigned char)fill)
            return false;
    }
    return true;
}

/* Resize an object that must not move. */
static unsigned char *stays(unsigned char *p, size_t bytes)
{
    uintptr_t before = (uintptr_t)p;
    unsigned char *q = goalloc_realloc(p, bytes);

    CHECK((uintptr_t)q == before);
    return q;
}

/*
 * An object right at that address, which is free. What is free below it is filled meanwhile. And the daemon may be
 * giving its pages back, or making them ready, just then: what is on its way nobody gets, so again, until it is there.
 */
static unsigned char *filled_at(const fixture *f, const unsigned char *where, size_t bytes, int fill)
{
    unsigned char *below[64];
    size_t nbelow = 0;
    unsigned char *p = filled(bytes, fill);

    for (int i = 0; i < 1000 && p != where && nbelow < 64; i++) {
        if (p < where)
            below[nbelow++] = p;
        else
            goalloc_free(p);
        CHECK(goalloc_trim() == 0 && fixture_is_settled(f));
        p = filled(bytes, fill);
    }
    CHECK(p == where);
    while (nbelow > 0)
        goalloc_free(below[--nbelow]);
    CHECK(goalloc_trim() == 0);
    return p;
}

/* What a large object of so many bytes takes when it has grown to it. */
#define GROWN(bytes) ((size_t)(bytes) + (size_t)(bytes) / 8)

/*
 * Where an object lies depends on which pages are free, and those that the daemon is preparing are not: so no such
 * pages are on their way whenever it matters.
 */
static int resize_in_place(const fixture *f, void *arg)
{
    unsigned char *p;
    unsigned char *q;
    unsigned char *gap;

    (void)arg;
    must_attach(f, 0);
    p = filled(1 << 20, 1);
    CHECK(fixture_is_settled(f));
    p = stays(p, 3 << 20);
    CHECK(goalloc_usable_size(p) == GROWN(3 << 20));
    p = stays(p, GROWN(3 << 20)); /* without a request */
    p = stays(p, 3 << 20);        /* a small part does not go back */
    CHECK(goalloc_usable_size(p) == GROWN(3 << 20));
    CHECK(all_are(p, 1 << 20, 1));
    memset(p, 2, 3 << 20);
    CHECK(stats_now().session_held_bytes == GROWN(3 << 20));
    /* Over the end of what the heap has grown to. */
    CHECK(fixture_is_settled(f));
    p = stays(p, 20 << 20);
    CHECK(all_are(p, 3 << 20, 2));
    memset(p, 3, 20 << 20);
    /* Shorter: the pages behind are free, and another object gets them. */
    p = stays(p, 100000);
    CHECK(goalloc_usable_size(p) == 106496);
    CHECK(stats_now().session_held_bytes == 106496 && stats_now().live_bytes == 106496);
    q = filled_at(f, p + 106496, 1 << 20, 4);
    CHECK(goalloc_free_checked(p + 106496 + 8192) == -EINVAL);
    /* Now something is in the way: it moves. */
    p = goalloc_realloc(p, 2 << 20);
    CHECK(p != NULL && p != q && all_are(p, 100000, 3) && all_are(q, 1 << 20, 4));
    /* A run that was freed, and that the process caches for its next large object, is not in the way. */
    goalloc_free(p);
    goalloc_free(q);
    CHECK(goalloc_trim() == 0);
    CHECK(fixture_is_settled(f));
    p = filled(1 << 20, 5);
    q = filled_at(f, p + (1 << 20), 1 << 20, 6);
    goalloc_free(q);
    CHECK(fixture_is_settled(f));
    p = stays(p, 2 << 20);
    CHECK(all_are(p, 1 << 20, 5));
    /* One that would be in the way of what is asked for beyond that is not in the way of the rest. */
    p = stays(p, 100000);
    gap = filled_at(f, p + 106496, (1 << 20) - 106496, 6);
    q = filled_at(f, p + (1 << 20), 1 << 20, 6);
    goalloc_free(gap);
    CHECK(fixture_is_settled(f));
    p = stays(p, 1 << 20);
    CHECK(goalloc_usable_size(p) == 1 << 20);
    /* Zeroed memory is zero where the pages were used before. */
    goalloc_free(p);
    goalloc_free(q);
    p = goalloc_calloc(1, 20 << 20);
    CHECK(p != NULL && all_are(p, 20 << 20, 0));
    p = goalloc_realloc(p, 33000);
    CHECK(p != NULL);
    p = goalloc_realloc(p, 1000);
    CHECK(p != NULL && all_are(p, 1000, 0) && goalloc_usable_size(p) == 1024);
    goalloc_free(p);
    CHECK(goalloc_trim() == 0);
    CHECK(stats_now().live_objects == 0 && stats_now().session_held_bytes == 0);
    return 0;
}

static void realloc_of_a_large_object_stays_where_it_can(void **state)
{
    assert_int_equal(child_run(*state, resize_in_place, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* How a child attaches, and where its object lies, which the test sees. */
typedef struct left_large {
    uint32_t flags;
    uint32_t page;
} left_large;

static left_large *left_large_new(void)
{
    left_large *l = mmap(NULL, sizeof(*l), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_ptr_not_equal(l, MAP_FAILED);
    return l;
}

static int leave_large(const fixture *f, void *arg)
{
    left_large *left = arg;
    unsigned char *p;

    must_attach(f, left->flags);
    p = filled(1 << 20, 7);
    left->page = (uint32_t)(((uintptr_t)p - strtoull(FIXTURE_BASE, NULL, 16)) / PAGE_BYTES);
    CHECK(goalloc_root_set("large", p) == 0);
    if (left->flags != 0)
        (void)raise(SIGSTOP);
    return 0;
}

static int resize_inherited(const fixture *f, void *arg)
{
    void *p;
    unsigned char *q;

    must_attach(f, 0);
    CHECK(goalloc_root_get("large", &p) == 0);
    CHECK(fixture_is_settled(f));
    q = goalloc_realloc(p, 2 << 20);
    CHECK(q != NULL && (arg != NULL || q == p) && all_are(q, 1 << 20, 7));
    CHECK(arg == NULL || q != p);
    CHECK(goalloc_trim() == 0 && stats_now().session_held_bytes == GROWN(2 << 20));
    goalloc_free(q);
    return 0;
}

static void realloc_of_another_sessions_large_object_keeps_its_contents(void **state)
{
    const fixture *f = *state;
    left_large *left = left_large_new();
    int status;
    pid_t pid;

    assert_int_equal(child_run(f, leave_large, left), 0);
    assert_true(fixture_is_clean(f, 1));
    assert_int_equal(child_run(f, resize_inherited, NULL), 0); /* nobody leases it: in place */
    assert_true(fixture_is_clean(f, 0));
    left->flags = GOALLOC_ATTACH_RECLAIM;
    pid = child_start(f, leave_large, left);
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    assert_int_equal(child_run(f, resize_inherited, left), 0); /* the other one leases it: it moves */
    (void)kill(pid, SIGKILL);
    (void)child_wait(pid);
    assert_true(fixture_is_clean(f, 0));
}

static int whole_arena(const fixture *f, void *arg)
{
    size_t most = 192 * MIB - PAGE_BYTES; /* page 0 is nobody's */
    volatile size_t absurd = SIZE_MAX;
    unsigned char *p;

    (void)arg;
    must_attach(f, 0);
    for (size_t align = 8192; align <= 64 * MIB; align *= 2) {
        p = goalloc_aligned_alloc(align, 100000);
        CHECK(p != NULL && (uintptr_t)p % align == 0);
        goalloc_free(p);
    }
    CHECK(goalloc_trim() == 0);
    CHECK(goalloc_malloc(192 * MIB) == NULL && errno == ENOSPC);
    CHECK(goalloc_malloc(most + 1) == NULL && errno == ENOSPC);
    p = goalloc_malloc(most);
    CHECK(p != NULL);
    p[0] = p[most - 1] = 1;
    CHECK(goalloc_malloc(8) == NULL && errno == ENOSPC);
    CHECK(goalloc_realloc(p, most + 1) == NULL && errno == ENOSPC);
    CHECK(goalloc_realloc(p, absurd) == NULL && errno == ENOMEM);
    CHECK(goalloc_realloc(p, absurd - 4096) == NULL && errno == ENOMEM);
    CHECK(p[0] == 1 && p[most - 1] == 1);
    p = stays(p, most - 10 * MIB);
    CHECK(goalloc_malloc(8) != NULL && goalloc_malloc(9 * MIB) != NULL);
    goalloc_free(p);
    return 0;
}

static void large_objects_may_be_as_large_as_the_arena(void **state)
{
    assert_int_equal(child_run(*state, whole_arena, NULL), 0);
    assert_true(fixture_is_clean(*state, 2));
}

static Goallocd__Reply *resize(int fd, uint32_t span, uint64_t npages)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__ResizeLarge body = GOALLOCD__RESIZE_LARGE__INIT;

    request.id = 9;
    request.op_case = GOALLOCD__REQUEST__OP_RESIZE_LARGE;
    request.resize_large = &body;
    body.span = span;
    body.npages = npages;
    return raw_call(fd, &request);
}

static Goallocd__Reply *return_span(int fd, uint32_t span)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__ReturnSpans body = GOALLOCD__RETURN_SPANS__INIT;

    request.id = 8;
    request.op_case = GOALLOCD__REQUEST__OP_RETURN_SPANS;
    request.return_spans = &body;
    body.n_spans = 1;
    body.spans = &span;
    return raw_call(fd, &request);
}

static void resize_and_return_of_runs_that_are_not_held_are_refused(void **state)
{
    const fixture *f = *state;
    left_large *left = left_large_new();
    struct {
        uint32_t span;
        uint64_t npages;
        int error;
    } rows[] = {
        { 1, 0, EINVAL },          { 1, UINT64_MAX, EINVAL }, { 1, UINT64_C(1) << 32, EINVAL },
        { 0, 5, EINVAL },          { 2, 5, EINVAL },          { UINT32_MAX, 5, EINVAL },
        { 8191, 5, EINVAL },       { 1, 5, EPERM },           { 1, 500, EPERM },
    };
    goalloc_stats_t stats = { .leased_spans = 1 };
    Goallocd__Reply *reply;
    pid_t pid;
    int status;
    int fd;

    left->flags = GOALLOC_ATTACH_RECLAIM;
    pid = child_start(f, leave_large, left);
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    fd = raw_attach(f);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        /* The other process has one object of 128 pages, where 1 is in the table. */
        if (rows[i].span == 1 || rows[i].span == 2)
            rows[i].span += left->page - 1;
        reply = resize(fd, rows[i].span, rows[i].npages);
        assert_non_null(reply);
        assert_int_equal(reply->error, rows[i].error);
        goallocd__reply__free_unpacked(reply, NULL);
    }
    reply = return_span(fd, left->page); /* passed over */
    assert_true(reply != NULL && reply->error == 0);
    goallocd__reply__free_unpacked(reply, NULL);
    (void)close(fd);
    (void)kill(pid, SIGKILL);
    (void)child_wait(pid);
    for (int i = 0; i < 500 && stats.live_objects + stats.leased_spans != 0; i++, usleep(10000))
        fixture_stats(f, &stats);
    assert_int_equal(stats.live_objects + stats.leased_spans, 0); /* the raw session is this process's: it stays */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(tiny_objects_of_three_bytes_take_less_than_60_percent),
        FIXTURE_TEST(tiny_objects_lie_where_gos_rules_put_them),
        FIXTURE_TEST(tiny_objects_freed_twice_or_inside_are_detected),
        FIXTURE_TEST(tiny_objects_freed_by_another_process_make_room_again),
        FIXTURE_TEST(tiny_objects_of_a_killed_process_stay_and_leave_nothing_when_freed),
        FIXTURE_TEST(tiny_objects_are_published_and_adopted_one_by_one),
        FIXTURE_TEST(adoption_of_a_tiny_object_ends_with_its_block),
        FIXTURE_TEST(realloc_of_a_large_object_stays_where_it_can),
        FIXTURE_TEST(realloc_of_another_sessions_large_object_keeps_its_contents),
        FIXTURE_TEST_WITH(large_objects_may_be_as_large_as_the_arena, "--reserve", "192M"),
        FIXTURE_TEST(resize_and_return_of_runs_that_are_not_held_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
