/*
 * Test of the filter that words of processes pass through: what may point into the heap, and into the library's code.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "client/collector/words.h"
#include "shm/layout.h"

#define BASE SHM_BASE_DEFAULT
#define ADDRESS_BITS UINT64_C(0x0000ffffffffffff)

/* A collection that looks at four at once, if the processor does, and one that doesn't, against a naive one. */
static void words_are_found_that_a_naive_look_finds(void **state)
{
    enum { WORDS = 200 };
    const uint64_t arena_bytes = 3 * MIB;
    const words_range what = { .address = 4096, .kind = WORDS_MEMORY };
    uint64_t data[WORDS];
    uint64_t seed = 54321;
    words_found found[2];

    (void)state;
    for (int k = 0; k < 2; k++)
        assert_int_equal(words_init(&found[k], BASE, arena_bytes, false), 0);
    found[1].fours = false;
    for (uint32_t n = 0; n <= WORDS; n++) {
        uint64_t nwanted = 0;
        words_hit wanted[WORDS];

        for (uint32_t i = 0; i < n; i++) {
            seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
            data[i] = seed >> 58 == 0 ? BASE + (seed >> 20) % arena_bytes : seed;
            data[i] |= seed >> 40 & 1 ? UINT64_C(0x8234) << 48 : 0;
            if (seed >> 59 == 5) /* just outside, or the last byte */
                data[i] = seed >> 30 & 1 ? BASE - 1 : BASE + arena_bytes - (seed >> 31 & 1);
            if ((data[i] & ADDRESS_BITS) - BASE < arena_bytes)
                wanted[nwanted++] = (uint64_t)i << WORDS_HIT_BITS | ((data[i] & ADDRESS_BITS) - BASE);
        }
        for (int k = 0; k < 2; k++) {
            words_found *w = &found[k];
            uint64_t before = w->nhits;

            words_put(w, &what, data, n);
            assert_int_equal(w->nhits - before, nwanted);
            if (nwanted > 0)
                assert_memory_equal(w->hits + before, wanted, nwanted * sizeof(wanted[0]));
        }
    }
    assert_true(found[0].nhits > 100);
    for (int k = 0; k < 2; k++)
        words_deinit(&found[k]);
}

/* Return addresses on stacks: arm64 may have signed them, in the bits above an address. */
static void words_point_into_text_also_if_they_are_signed(void **state)
{
    const words_text text[] = { { UINT64_C(0x7f0000001000), UINT64_C(0x7f0000003000) }, { 0x400000, 0x401000 } };
    const uint64_t inside[] = { UINT64_C(0x7f0000001000), UINT64_C(0x7f0000002fff), 0x400000, 0x400fff };
    const uint64_t outside[] = { UINT64_C(0x7f0000000fff), UINT64_C(0x7f0000003000), 0x3fffff, 0x401000, 0 };
    words_found w = { .text = text, .ntext = 2 };

    (void)state;
    assert_false(words_point_into_text(&w, outside, sizeof(outside) / sizeof(outside[0])));
    for (size_t i = 0; i < sizeof(inside) / sizeof(inside[0]); i++) {
        assert_true(words_point_into_text(&w, &inside[i], 1));
#if defined(__aarch64__)
        for (unsigned bit = 48; bit < 64; bit++) {
            uint64_t signed_one = inside[i] ^ UINT64_C(0x5b) << bit;

            assert_true(words_point_into_text(&w, &signed_one, 1));
        }
#endif
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_are_found_that_a_naive_look_finds),
        cmocka_unit_test(words_point_into_text_also_if_they_are_signed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
