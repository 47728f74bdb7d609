/*
 * A daemon dies at each point at which a region of profiles is made, takes the place of another one, goes, or is taken
 * over, and where a span is marked: the next one has a region that all sessions find, or none; what was on is on, or
 * had not been answered; and no marked span is anybody's who does not sample.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <string.h>

#include "tests/support/points.h"
#include "tests/support/rawprofile.h"

#define RATE  (64 * KIB)
#define CLASS 20u

/* The error, -1: the daemon has died. */
static int set_all(const fixture *f, uint64_t rate, bool reset)
{
    Goallocd__ProfileSet ask = GOALLOCD__PROFILE_SET__INIT;
    int fd = raw_connect(f);
    uint32_t n;
    int error;

    ask.rate_bytes = rate;
    ask.all = true;
    ask.reset = reset;
    error = rawprofile_set(fd, &ask, &n);
    (void)close(fd);
    return error;
}

/* What has been answered. */
typedef struct done {
    bool on;      /* sampling is on for all */
    bool changes; /* and a change of that has not been answered */
    uint32_t span; /* marked, and an object lives in it; 0: none */
} done;

/* On, marked spans, another region, off, no region: until the daemon dies. */
static void use(const fixture *f, const rawheap *heap, done *d)
{
    d->changes = true;
    if (set_all(f, RATE, false) != 0)
        return;
    d->on = true;
    d->changes = false;
    if (rawprofile_refill(heap, CLASS, 1, true, &d->span) != 1)
        return;
    rawheap_fill(heap, page_at(d->span));
    for (int i = 0; i < 2; i++) {
        if (set_all(f, RATE, true) != 0)
            return;
    }
    d->changes = true;
    if (set_all(f, 0, false) != 0)
        return;
    d->on = false;
    d->changes = false;
    (void)set_all(f, 0, true);
}

static void check_after(const fixture *f, rawheap *heap, const done *d)
{
    const shm_header *header = heap->map.header;
    profile_word now = profile_word_unpack(u64_load_acquire(&header->profile));
    profile_word own = profile_word_unpack(u64_load_acquire(&heap->map.sessions[heap->session].profile));
    uint32_t seq = 0;
    int region = -1;
    uint32_t span;
    int error;

    (void)close(heap->fd);
    assert_int_equal(rawheap_come_back(heap, f), 0);
    assert_true(d->changes || (now.rate == RATE) == d->on);
    assert_true(d->changes || own.rate == now.rate);
    error = rawprofile_open(heap->fd, &seq, &region);
    assert_int_equal(error, own.rate == 0 ? ENOENT : 0);
    if (error == 0) {
        assert_int_equal(seq, profile_word_unpack(u64_load_acquire(&header->profile)).seq);
        assert_int_equal(seq, profile_word_unpack(u64_load_acquire(&heap->map.sessions[heap->session].profile)).seq);
        assert_int_not_equal(u32_load_relaxed(&header->optional) & SHM_OPTIONAL_PROFILE, 0);
        (void)close(region);
    }
    assert_true(d->span == 0 || shm_span_at(&heap->map, page_at(d->span))->marked == 1);
    assert_int_equal(set_all(f, 0, false), 0);
    assert_int_equal(rawprofile_refill(heap, CLASS, 1, true, &span), 1);
    assert_int_equal(shm_span_at(&heap->map, page_at(span))->marked, 0);
    assert_int_equal(set_all(f, RATE, false), 0);
    assert_int_equal(rawprofile_refill(heap, CLASS, 1, true, &span), 1);
    assert_int_equal(shm_span_at(&heap->map, page_at(span))->marked, 1);
    assert_int_equal(set_all(f, 0, true), 0);
}

static void daemon_dies(const char *name, unsigned nth, bool takes_over)
{
    done d = { 0 };
    char crash[80];
    rawheap heap;
    fixture f;

    (void)snprintf(crash, sizeof(crash), "%s:%u", name, nth);
    fixture_start_kept(&f, NULL);
    rawheap_open(&heap, &f, 0, "samples");
    if (takes_over) {
        assert_int_equal(set_all(&f, RATE, false), 0);
        d.on = true;
    }
    fixture_kill(&f);
    f.crash = crash;
    if (takes_over) {
        fixture_launch(&f);
    } else {
        fixture_restart(&f, NULL);
        (void)close(heap.fd);
        assert_int_equal(rawheap_come_back(&heap, &f), 0);
        use(&f, &heap, &d);
    }
    f.crash = NULL;
    if (child_wait(f.daemon) != 1000 + SIGKILL)
        fail_msg("no daemon comes by %s for the %uth time", name, nth);
    fixture_restart(&f, NULL);
    check_after(&f, &heap, &d);
    rawheap_close(&heap);
    assert_true(fixture_is_clean(&f, d.span != 0));
    assert_true(fixture_is_whole(&f));
    assert_true(fixture_stop(&f));
}

static void next_daemon_has_the_region_or_none_wherever_the_last_one_died(void **state)
{
    static const struct {
        const char *point;
        unsigned nth;
        bool takes_over;
    } rows[] = {
        { "profile_after_shelf", 1, false },   { "profile_after_shelf", 2, false },
        { "profile_after_header", 1, false },  { "profile_after_header", 2, false },
        { "profile_after_header", 1, true },   { "profile_after_feature", 1, false },
        { "profile_after_feature", 2, false }, { "profile_half_words", 1, false },
        { "profile_half_words", 2, false },    { "profile_half_words", 3, false },
        { "profile_half_words", 1, true },     { "profile_before_remove", 1, false },
        { "shelf_after_gather", 1, false },    { "lease_after_mark", 1, false },
        { "lease_after_word", 1, false },
    };
    const char *missing = points_missing('p', rows, sizeof(rows) / sizeof(rows[0]), sizeof(rows[0]));

    (void)state;
    if (missing != NULL)
        fail_msg("%s is not in the table", missing);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        daemon_dies(rows[i].point, rows[i].nth, rows[i].takes_over);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(next_daemon_has_the_region_or_none_wherever_the_last_one_died),
    };

    return cmocka_run_group_tests_name("crashes and profiles", tests, NULL, NULL);
}
