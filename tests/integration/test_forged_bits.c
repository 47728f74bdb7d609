/*
 * Forged bits: a client writes into the bitmap what others alone should write. It can free what it may free anyway, but
 * it ends no lease behind the back of a session that lives, and gets nobody disconnected.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/wait.h>

#include "tests/support/rawheap.h"
#include "tests/support/waits.h"

#define LARGE_PAGES 100
#define SMALL_CLASS 20u

static void set_alloc_bit(const rawheap *heap, page_no first)
{
    (void)u64_fetch_or_acq_rel(shm_alloc_word(&heap->map, first, 0), 1);
}

static void set_both_bits(const rawheap *heap, page_no first)
{
    set_alloc_bit(heap, first);
    (void)u64_fetch_or_acq_rel(shm_remote_word(&heap->map, first, 0), 1);
}

/* The daemon looks at all spans, several times. */
static void have_it_swept(const fixture *f, const rawheap *attacker, page_no first)
{
    static const char *const scavenge[] = { "scavenge", NULL };
    char out[512];

    assert_int_equal(rawheap_free_large(attacker, first), 0);
    assert_int_equal(fixture_ctl(f, scavenge, out, sizeof(out)), 0);
    assert_int_equal(rawheap_free_large(attacker, first), 0);
}

static void large_span_in_hand_stays_leased(void **state)
{
    const fixture *f = *state;
    rawheap victim;
    rawheap attacker;
    page_no first;

    rawheap_open(&victim, f, 0, "victim");
    rawheap_open(&attacker, f, 0, "attacker");
    first = rawheap_ask_large(&victim, LARGE_PAGES);
    set_both_bits(&attacker, first); /* nobody has an object there yet */
    have_it_swept(f, &attacker, first);
    assert_true(rawheap_leases(&victim, first));
    assert_int_equal(rawheap_return(&victim, &first.n, 1, NULL, 0), 0);
    assert_false(rawheap_leases(&victim, first));
    /* An object that was handed out is freed by its remote bit, as by any process. */
    first = rawheap_alloc_large(&victim, LARGE_PAGES);
    set_both_bits(&attacker, first);
    assert_int_equal(rawheap_free_large(&attacker, first), 0);
    assert_false(rawheap_leases(&victim, first));
    rawheap_close(&victim);
    rawheap_close(&attacker);
    assert_true(fixture_is_clean(f, 0));
}

/* The library's: a large object is freed, so its span is cached, and gets another object afterwards. */
static int use_cached_span(const fixture *f, void *arg)
{
    char *p;

    (void)arg;
    waits_start(f, 10000);
    for (int round = 0; round < 2; round++) {
        CHECK((p = waits_ask()) != NULL);
        CHECK(goalloc_root_set("where", p) == 0);
        goalloc_free(p);
        (void)raise(SIGSTOP); /* the attacker is at work */
        CHECK(waits_ask() == p);
        memset(p, 1, WAITS_ASKED_BYTES);
        goalloc_free(p);
        CHECK(goalloc_trim() == 0);
    }
    return goalloc_detach();
}

/* Where the victim's span is: what it says by the root's name, which is gone with the object. */
static page_no only_span_leased(const rawheap *heap, uint32_t session)
{
    for (uint32_t n = 1; n < heap->map.npages; n++) {
        lease_word lease = lease_unpack(u64_load_acquire(&shm_span_at(&heap->map, page_at(n))->lease));

        if (lease.state == SPAN_LEASED && lease.session.n == session)
            return page_at(n);
    }
    return page_at(0);
}

static void cached_span_of_a_process_stays_its_own(void **state)
{
    const fixture *f = *state;
    rawheap attacker;
    pid_t victim;
    int status;

    rawheap_open(&attacker, f, 0, "attacker");
    victim = child_start(f, use_cached_span, NULL);
    for (int round = 0; round < 2; round++) {
        page_no first;

        assert_int_equal(waitpid(victim, &status, WUNTRACED), victim);
        assert_true(WIFSTOPPED(status));
        first = only_span_leased(&attacker, attacker.session + 1);
        assert_true(first.n != 0 && span_class_size(shm_span_at(&attacker.map, first)->spc).n == 0);
        set_both_bits(&attacker, first);
        assert_int_equal(rawheap_free_large(&attacker, first), 0);
        assert_int_equal(rawheap_free_large(&attacker, first), 0);
        assert_true(lease_unpack(u64_load_acquire(&shm_span_at(&attacker.map, first)->lease)).state == SPAN_LEASED);
        /* The forged remote bit would have the library return the span, and not use it: that is no harm. */
        (void)u64_fetch_and_acq_rel(shm_remote_word(&attacker.map, first, 0), ~UINT64_C(1));
        assert_int_equal(kill(victim, SIGCONT), 0);
    }
    assert_int_equal(child_wait(victim), 0);
    rawheap_close(&attacker);
    assert_false(fixture_log_has(f, "disconnected"));
}

static void return_of_a_span_with_forged_objects_is_no_violation(void **state)
{
    const fixture *f = *state;
    rawheap victim;
    rawheap attacker;
    uint32_t span;

    rawheap_open(&attacker, f, 0, "attacker");
    for (int reclaim = 0; reclaim < 2; reclaim++) {
        rawheap_open(&victim, f, reclaim ? SESSION_RECLAIM : 0, "victim");
        assert_int_equal(rawheap_refill(&victim, SMALL_CLASS, 0, 1, &span), 1);
        set_alloc_bit(&attacker, page_at(span));
        assert_int_equal(rawheap_return(&victim, &span, 1, NULL, 0), 0);
        assert_false(rawheap_leases(&victim, page_at(span)));
        assert_int_equal(rawheap_return(&victim, &span, 1, NULL, 0), 0); /* it lives on */
        /* What is the victim's own is freed; else the place counts as an object, which the attacker may have, too. */
        if (!reclaim)
            (void)u64_fetch_or_acq_rel(shm_remote_word(&attacker.map, page_at(span), 0), 1);
        rawheap_close(&victim);
    }
    rawheap_close(&attacker);
    assert_true(fixture_is_clean(f, 0));
    assert_false(fixture_log_has(f, "disconnected"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(large_span_in_hand_stays_leased),
        FIXTURE_TEST(cached_span_of_a_process_stays_its_own),
        FIXTURE_TEST(return_of_a_span_with_forged_objects_is_no_violation),
    };

    return cmocka_run_group_tests_name("forged bits", tests, NULL, NULL);
}
