/*
 * Pattern: what the bytes of an object must be, and the word that names it in an entry of the table.
 *
 *   word   bits 0-47 address; 48-52 size + 1 below 16 bytes, else 0; 53-63 salt, lowest bits. 0: no object.
 *   object from 16 bytes on: size, salt, a check of both with the address; then words that follow from the salt.
 *          Below: bytes that follow from address, size and salt.
 *
 * Above 4 KiB only the first and last KiB and a word in each 512 bytes are written and checked.
 */
#ifndef GOALLOC_TESTS_STORM_PATTERN_H
#define GOALLOC_TESTS_STORM_PATTERN_H

#include <stddef.h>
#include <stdint.h>

#define WORD_ADDRESS_BITS 48
#define HEADER_BYTES 16u

struct intent;

static inline void *word_pointer(uint64_t word)
{
    return (void *)(uintptr_t)(word & ((UINT64_C(1) << WORD_ADDRESS_BITS) - 1));
}

/* The word of an object. */
uint64_t word_make(const void *p, size_t size, uint32_t salt);

/* Write the pattern. */
void pattern_fill(void *p, size_t size, uint32_t salt);

/*
 * The size of the object, whose content must be right; else the process ends with a message. The object must be the
 * caller's.
 */
size_t pattern_check(const struct intent *who, uint64_t word);

/* The salt of an object that pattern_check() has found right. */
uint32_t pattern_salt(uint64_t word);

/* After a realloc of the object that word names, which was old_bytes long: what must be left of it at p. */
void pattern_check_moved(const struct intent *who, uint64_t word, const void *p, size_t old_bytes, size_t new_bytes,
                         uint32_t salt);

/* The process ends with a message if one of the bytes is not 0. */
void pattern_check_zero(const struct intent *who, const void *p, size_t size);

#endif
