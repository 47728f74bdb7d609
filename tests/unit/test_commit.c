/*
 * Commit: whose turn it is. A small job passes large ones that came before it, of whatever number.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <sys/mman.h>

#include "daemon/memory/commit.h"

#define NLARGE      24u
#define LARGE_PAGES (8 * MIB / PAGE_BYTES)

typedef struct world {
    uv_loop_t loop;
    heapfile file;
    commit_pool pool;
    commit_job jobs[NLARGE + 1];
    page_range ranges[NLARGE + 1];
    commit_share shares[NLARGE + 1];
    commit_share users[2];
    unsigned ndone;
    unsigned small_done; /* as the how-manyth */
} world;

static void on_done(commit_job *job, int result)
{
    world *w = job->data;

    assert_int_equal(result, 0);
    w->ndone++;
    if (job == &w->jobs[NLARGE])
        w->small_done = w->ndone;
}

static void start_job(world *w, unsigned i, uint64_t first, uint64_t npages, commit_share *share)
{
    w->ranges[i] = (page_range){ page_at(first), npages };
    w->jobs[i] = (commit_job){ .file = &w->file, .ranges = &w->ranges[i], .nranges = 1, .share = share };
    w->jobs[i].done = on_done;
    w->jobs[i].data = w;
    commit_start(&w->jobs[i], &w->pool);
}

static void start_world(world *w)
{
    *w = (world){ .ndone = 0 };
    assert_int_equal(heapfile_create(&w->file, SHM_BASE_DEFAULT, GIB), 0);
    u32_store_relaxed(&w->file.huge.never, 1);
    assert_int_equal(uv_loop_init(&w->loop), 0);
    commit_pool_start(&w->pool, &w->loop, &w->file);
}

static void run_all(world *w)
{
    while (w->ndone < NLARGE + 1)
        (void)uv_run(&w->loop, UV_RUN_ONCE);
    (void)printf("the small job was done as number %u of %u\n", w->small_done, NLARGE + 1);
    assert_in_range(w->small_done, 1, 2);
    assert_int_equal(w->pool.npages, 0);
}

static void end_world(world *w)
{
    uv_close((uv_handle_t *)&w->pool.timer, NULL);
    (void)uv_run(&w->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&w->loop), 0);
    heapfile_close(&w->file);
}

/* The large jobs are all of one session, or of another one before: it makes no difference who has had more. */
static void small_job_waits_for_what_is_under_way_alone(void **state)
{
    static world w;

    (void)state;
    start_world(&w);
    for (int round = 0; round < 2; round++) {
        uint64_t base = (uint64_t)round * 60000 + 1;

        w.ndone = w.small_done = 0;
        for (unsigned i = 0; i < NLARGE; i++)
            start_job(&w, i, base + i * LARGE_PAGES, LARGE_PAGES, &w.shares[0]);
        start_job(&w, NLARGE, base + NLARGE * LARGE_PAGES, 2, &w.shares[1]);
        run_all(&w);
    }
    assert_true(heapfile_arena_bytes(&w.file) >= 2 * NLARGE * LARGE_PAGES * PAGE_BYTES);
    end_world(&w);
}

/* Each large job is of a session of its own, all of one user, and the small one of another user's. */
static void small_job_of_another_user_waits_for_no_session(void **state)
{
    static world w;

    (void)state;
    start_world(&w);
    for (int round = 0; round < 2; round++) {
        uint64_t base = (uint64_t)round * 60000 + 1;

        w.ndone = w.small_done = 0;
        for (unsigned i = 0; i < NLARGE; i++) {
            w.shares[i].whole = &w.users[0];
            start_job(&w, i, base + i * LARGE_PAGES, LARGE_PAGES, &w.shares[i]);
        }
        w.shares[NLARGE].whole = &w.users[1];
        start_job(&w, NLARGE, base + NLARGE * LARGE_PAGES, 2 * HUGE_PAGES, &w.shares[NLARGE]);
        run_all(&w);
    }
    end_world(&w);
}

/* Of one user: sessions that come later begin where the others are, and none gets all. */
static void sessions_of_a_user_share_what_it_gets(void **state)
{
    static world w;

    (void)state;
    start_world(&w);
    for (unsigned i = 0; i < NLARGE; i++) {
        w.shares[i % 2].whole = &w.users[0];
        start_job(&w, i, 1 + i * LARGE_PAGES, LARGE_PAGES, &w.shares[i % 2]);
    }
    w.shares[2].whole = &w.users[0];
    start_job(&w, NLARGE, 1 + NLARGE * LARGE_PAGES, 2, &w.shares[2]);
    run_all(&w);
    end_world(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_job_waits_for_what_is_under_way_alone),
        cmocka_unit_test(small_job_of_another_user_waits_for_no_session),
        cmocka_unit_test(sessions_of_a_user_share_what_it_gets),
    };

    return cmocka_run_group_tests_name("commit", tests, NULL, NULL);
}
