/*
 * Seededhash: SipHash-1-3 (Aumasson and Bernstein, 2012).
 *
 * Called by tables whose keys clients choose: places of adopted objects, names of roots. A client that knows how a
 * table hashes can choose keys that all lie in one bucket, and have each look cost as much as the table has entries:
 * with the hash that uthash comes with, 65,536 adopted objects made one return take seconds. The seed is random, stays
 * in this process's memory, and the next daemon makes another one, so nothing that outlives a daemon depends on it. A
 * multiplication by a random number would do against keys that are chosen beforehand. This one also holds against a
 * client that measures how long its own requests take and chooses the next keys by that. It costs some 5 ns a word.
 */
#include "daemon/heap/seededhash.h"

#include <string.h>
#include <sys/random.h>

static uint64_t seed[2];
static bool has_seed;

bool hash_start(void)
{
    if (!has_seed)
        has_seed = getrandom(seed, sizeof(seed), 0) == (ssize_t)sizeof(seed);
    return has_seed;
}

static uint64_t rotated(uint64_t x, unsigned nbits)
{
    return x << nbits | x >> (64 - nbits);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[2] += v[3];
    v[1] = rotated(v[1], 13) ^ v[0];
    v[3] = rotated(v[3], 16) ^ v[2];
    v[0] = rotated(v[0], 32);
    v[2] += v[1];
    v[0] += v[3];
    v[1] = rotated(v[1], 17) ^ v[2];
    v[3] = rotated(v[3], 21) ^ v[0];
    v[2] = rotated(v[2], 32);
}

static void take_word(uint64_t v[4], uint64_t word)
{
    v[3] ^= word;
    sip_round(v);
    v[0] ^= word;
}

/* A round for each word; the last one has the bytes that are left, and the length in its highest byte. Then three. */
uint64_t hash_bytes(const void *p, size_t len)
{
    const unsigned char *at = p;
    uint64_t v[4] = { seed[0] ^ UINT64_C(0x736f6d6570736575), seed[1] ^ UINT64_C(0x646f72616e646f6d),
                      seed[0] ^ UINT64_C(0x6c7967656e657261), seed[1] ^ UINT64_C(0x7465646279746573) };
    uint64_t word;

    for (size_t left = len; left >= sizeof(word); left -= sizeof(word), at += sizeof(word)) {
        memcpy(&word, at, sizeof(word));
        take_word(v, word);
    }
    word = (uint64_t)len << 56;
    for (size_t i = 0; i < len % sizeof(word); i++)
        word |= (uint64_t)at[i] << 8 * i;
    take_word(v, word);
    v[2] ^= 0xff;
    for (unsigned i = 0; i < 3; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

uint64_t hash_word(uint64_t word)
{
    return hash_bytes(&word, sizeof(word));
}
