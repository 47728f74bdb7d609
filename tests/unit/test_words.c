/*
 * Words of bits: counted as the compiler counts, masks, and the one writer's stores, which a reader sees whole.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>

#include "shm/layout.h"
#include "tests/support/fixture.h"

#define ROUNDS 1000000

static void check_count(uint64_t word)
{
    if (bits_count(word) != (uint32_t)__builtin_popcountll(word))
        fail_msg("%016llx has %d bits, not %u", (unsigned long long)word, __builtin_popcountll(word), bits_count(word));
}

static void bits_count_is_the_compilers(void **state)
{
    uint64_t seed = test_seed();

    (void)state;
    check_count(0);
    check_count(UINT64_MAX);
    for (unsigned from = 0; from < 64; from++) {
        for (unsigned to = from; to < 64; to++) {
            uint64_t run = UINT64_MAX >> (63 - (to - from)) << from; /* bits from to to */

            check_count(run);
            check_count(~run);
        }
    }
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t a = test_random(&seed);
        uint64_t b = test_random(&seed);

        check_count(a);
        check_count(a & b);
        check_count(a | b);
    }
}

static void bits_mask_of_every_span_has_as_many_bits_as_objects(void **state)
{
    (void)state;
    for (uint32_t nelems = 1; nelems <= SPAN_NELEMS_MAX; nelems++) {
        uint32_t n = 0;

        for (uint32_t w = 0; w < bits_nwords(nelems); w++) {
            uint64_t mask = bits_mask(nelems, w);

            assert_true(mask != 0 && (mask & (mask + 1)) == 0); /* the lowest ones, without a gap */
            n += bits_count(mask);
        }
        assert_int_equal(n, nelems);
    }
}

static void u64_writer_set_and_clear_agree_with_a_model(void **state)
{
    uint64_t seed = test_seed();
    shm_u64 words[3] = { 0, 0, 0 };
    uint64_t model = 0;

    (void)state;
    u64_store_relaxed(&words[0], UINT64_C(0xa5a5a5a5a5a5a5a5)); /* neighbours, which stay */
    u64_store_relaxed(&words[2], UINT64_C(0x5a5a5a5a5a5a5a5a));
    for (unsigned bit = 0; bit < 64; bit++) {
        u64_writer_set(&words[1], UINT64_C(1) << bit);
        assert_true(u64_load_relaxed(&words[1]) == UINT64_C(1) << bit);
        u64_writer_clear(&words[1], UINT64_C(1) << bit);
        assert_true(u64_load_relaxed(&words[1]) == 0);
    }
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t bits = test_random(&seed) & test_random(&seed);

        if (i % 2) {
            u64_writer_set(&words[1], bits); /* some of them may be set already */
            model |= bits;
        } else {
            u64_writer_clear(&words[1], bits & model); /* all of them are set */
            model &= ~bits;
        }
        if (u64_load_relaxed(&words[1]) != model)
            fail_msg("round %d: %016llx, not %016llx", i, (unsigned long long)u64_load_relaxed(&words[1]),
                     (unsigned long long)model);
    }
    assert_true(u64_load_relaxed(&words[0]) == UINT64_C(0xa5a5a5a5a5a5a5a5));
    assert_true(u64_load_relaxed(&words[2]) == UINT64_C(0x5a5a5a5a5a5a5a5a));
}

typedef struct watched {
    shm_u64 word;
    shm_u64 data; /* written before the bits are set: who sees these sees that */
    shm_u32 done;
} watched;

#define BOTH_ENDS UINT64_C(0x8000000000000001)

static void *write_word(void *arg)
{
    watched *w = arg;

    for (uint64_t i = 1; i <= ROUNDS; i++) {
        u64_store_relaxed(&w->data, i);
        u64_writer_set(&w->word, BOTH_ENDS);
        u64_writer_clear(&w->word, BOTH_ENDS);
    }
    u32_store_release(&w->done, 1);
    return NULL;
}

static void u64_writer_set_is_seen_whole_and_after_what_was_written_before(void **state)
{
    static watched w;
    pthread_t thread;
    uint64_t last = 0;

    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, write_word, &w), 0);
    while (u32_load_acquire(&w.done) == 0) {
        uint64_t word = u64_load_acquire(&w.word);
        uint64_t data = u64_load_relaxed(&w.data);

        assert_true(word == 0 || word == BOTH_ENDS);
        assert_true(word == 0 || (data >= last && data > 0));
        last = data;
    }
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(u64_load_relaxed(&w.word) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bits_count_is_the_compilers),
        cmocka_unit_test(bits_mask_of_every_span_has_as_many_bits_as_objects),
        cmocka_unit_test(u64_writer_set_and_clear_agree_with_a_model),
        cmocka_unit_test(u64_writer_set_is_seen_whole_and_after_what_was_written_before),
    };

    return cmocka_run_group_tests_name("words", tests, NULL, NULL);
}
