/*
 * Fuzz: what the targets share: an input that is read piece by piece, and a check that counts as a crash.
 *
 * An input never ends: behind its last byte come zeros. So each prefix of an input is an input, too, and what a byte
 * means does not depend on how many come after it, which is what minimising lives on.
 */
#ifndef GOALLOC_TESTS_FUZZ_H
#define GOALLOC_TESTS_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* libFuzzer calls them; no header of its own declares them. */
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FUZZ_CHECK(condition)                                                                                          \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            (void)fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                              \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

typedef struct fuzz_input {
    const uint8_t *at;
    const uint8_t *end;
} fuzz_input;

static inline bool fuzz_has_more(const fuzz_input *in)
{
    return in->at < in->end;
}

static inline uint8_t fuzz_u8(fuzz_input *in)
{
    return in->at < in->end ? *in->at++ : 0;
}

static inline uint16_t fuzz_u16(fuzz_input *in)
{
    uint16_t low = fuzz_u8(in);

    return (uint16_t)(low | fuzz_u8(in) << 8);
}

static inline uint64_t fuzz_u64(fuzz_input *in)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < 8; i++)
        value |= (uint64_t)fuzz_u8(in) << (8 * i);
    return value;
}

/* A number that is small, near a power of two, or anything: what bounds are wrong about. */
static inline uint64_t fuzz_number(fuzz_input *in)
{
    uint8_t how = fuzz_u8(in);

    if (how < 128)
        return how % 32;
    if (how < 192)
        return (UINT64_C(1) << how % 64) + fuzz_u8(in) % 3 - 1;
    return how < 224 ? fuzz_u16(in) : fuzz_u64(in);
}

#endif
