/*
 * Pattern: see pattern.h. Called by operations.c and audit.c.
 */
#include "tests/storm/pattern.h"

#include <stdio.h>
#include <string.h>

#include "tests/storm/board.h"

#define DENSE_BYTES 4096u /* up to here every byte counts */
#define ENDS_BYTES 1024u
#define SPARSE_BYTES 512u
#define SALT_SHIFT 53
#define SIZE_SHIFT 48
#define STEP UINT64_C(0x9e3779b97f4a7c15)

typedef struct header {
    uint32_t size;
    uint32_t salt;
    uint64_t check;
} header;

_Static_assert(sizeof(header) == HEADER_BYTES, "a header is as long as pattern.h says");

/*
 * Bytes of objects are read and written here only. An object's memory goes from thread to thread through other
 * processes, by the library's bits and the daemon's messages, which the thread sanitizer does not see: it would take
 * each such way for a race. So it does not look at these bytes; whether two threads have the same object, the pattern
 * tells.
 */
#if defined(__SANITIZE_THREAD__)
#define UNSEEN __attribute__((noinline, no_sanitize("thread")))
#else
#define UNSEEN
#endif

UNSEEN static void bytes_write(void *to, const void *from, size_t n)
{
    volatile uint8_t *p = to;
    const uint8_t *q = from;

    for (size_t i = 0; i < n; i++)
        p[i] = q[i];
}

UNSEEN static void bytes_read(void *to, const void *from, size_t n)
{
    const volatile uint8_t *q = from;
    uint8_t *p = to;

    for (size_t i = 0; i < n; i++)
        p[i] = q[i];
}

UNSEEN static void word_write(void *to, uint64_t word)
{
    __builtin_memcpy(to, &word, sizeof(word));
}

UNSEEN static uint64_t word_read(const void *from)
{
    uint64_t word;

    __builtin_memcpy(&word, from, sizeof(word));
    return word;
}

/* True if the n bytes are those of want; 8 is the common case. */
static bool bytes_are(const void *p, const void *want, size_t n)
{
    uint8_t have[HEADER_BYTES];
    uint64_t word;

    if (n == sizeof(word)) {
        memcpy(&word, want, sizeof(word));
        return word_read(p) == word;
    }
    bytes_read(have, p, n);
    return memcmp(have, want, n) == 0;
}

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static uint32_t word_salt(uint64_t word)
{
    return (uint32_t)(word >> SALT_SHIFT);
}

uint64_t word_make(const void *p, size_t size, uint32_t salt)
{
    uint64_t code = size < HEADER_BYTES ? size + 1 : 0;

    return (uintptr_t)p | code << SIZE_SHIFT | (uint64_t)salt << SALT_SHIFT;
}

static uint64_t header_check(const void *p, size_t size, uint32_t salt)
{
    return mix((uintptr_t)p * STEP ^ size ^ (uint64_t)salt << 32);
}

/* All bytes of an object below 16. */
static void tiny_bytes(uint8_t *ret, const void *p, size_t size, uint32_t salt)
{
    uint64_t words[2] = { mix((uintptr_t)p ^ size << 50 ^ (uint64_t)(salt & 0x7ff) << 53), 0 };

    words[1] = mix(words[0]);
    memcpy(ret, words, HEADER_BYTES);
}

/* The next place that is written and checked. */
static size_t next_offset(size_t at, size_t size)
{
    size_t tail = (size - ENDS_BYTES) & ~(size_t)7;

    if (size <= DENSE_BYTES || at < ENDS_BYTES || at >= tail)
        return at + 8;
    return at + SPARSE_BYTES < tail ? at + SPARSE_BYTES : tail;
}

static uint64_t body_word(uint64_t base, size_t at)
{
    return base + at * STEP;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

void pattern_fill(void *p, size_t size, uint32_t salt)
{
    uint64_t base = mix(salt);
    uint8_t *bytes = p;

    if (size < HEADER_BYTES) {
        uint8_t want[HEADER_BYTES];

        tiny_bytes(want, p, size, salt);
        bytes_write(p, want, size);
        return;
    }
    bytes_write(p, &(header){ (uint32_t)size, salt, header_check(p, size, salt) }, HEADER_BYTES);
    for (size_t at = HEADER_BYTES; at < size; at = next_offset(at, size)) {
        uint64_t word = body_word(base, at);

        if (size - at >= sizeof(word))
            word_write(bytes + at, word);
        else
            bytes_write(bytes + at, &word, size - at);
    }
}

/* The object's bytes around a place that is wrong. */
__attribute__((noreturn)) static void wrong(const intent *who, const void *p, size_t at, size_t size, uint64_t want,
                                            const char *what)
{
    size_t begin = at > 16 ? at - 16 : 0;
    char text[256];
    int n = 0;

    for (size_t i = begin; i < size && i < begin + 48; i++) {
        uint8_t byte;

        bytes_read(&byte, (const uint8_t *)p + i, 1);
        n += snprintf(text + n, sizeof(text) - (size_t)n, "%s%02x", i == at ? ">" : i % 8 == 0 ? " " : "", byte);
    }
    text[n] = '\0';
    storm_die(who,
              "%s %p of %zu bytes is wrong at byte %zu: wanted %016llx (little-endian from there), found (from %zu) %s",
              what, p, size, at, (unsigned long long)want, begin, text);
}

/* The first limit bytes of the pattern of an object of size bytes, but for its header. */
static void check_body(const intent *who, const void *p, size_t size, size_t limit, uint32_t salt, const char *what)
{
    const uint8_t *bytes = p;
    uint64_t base = mix(salt);

    for (size_t at = HEADER_BYTES; at < limit; at = next_offset(at, size)) {
        uint64_t want = body_word(base, at);

        if (!bytes_are(bytes + at, &want, least(8, limit - at)))
            wrong(who, p, at, limit, want, what);
    }
}

static size_t check_tiny(const intent *who, uint64_t word, size_t size)
{
    const void *p = word_pointer(word);
    uint8_t want[HEADER_BYTES];

    tiny_bytes(want, p, size, word_salt(word));
    if (!bytes_are(p, want, size)) {
        uint64_t first;

        memcpy(&first, want, sizeof(first));
        wrong(who, p, 0, size, first, "object");
    }
    return size;
}

size_t pattern_check(const intent *who, uint64_t word)
{
    const void *p = word_pointer(word);
    size_t code = word >> SIZE_SHIFT & 31;
    header h;

    if (code != 0)
        return check_tiny(who, word, code - 1);
    bytes_read(&h, p, sizeof(h));
    if (h.check != header_check(p, h.size, h.salt) || (h.salt & 0x7ff) != word_salt(word))
        wrong(who, p, 0, HEADER_BYTES * 3, header_check(p, h.size, h.salt), "the header (size, salt, check) of object");
    check_body(who, p, h.size, h.size, h.salt, "object");
    return h.size;
}

uint32_t pattern_salt(uint64_t word)
{
    header h;

    if ((word >> SIZE_SHIFT & 31) != 0)
        return word_salt(word);
    bytes_read(&h, word_pointer(word), sizeof(h));
    return h.salt;
}

void pattern_check_moved(const intent *who, uint64_t word, const void *p, size_t old_bytes, size_t new_bytes,
                         uint32_t salt)
{
    const void *old = word_pointer(word);
    size_t both = least(old_bytes, new_bytes);
    uint8_t want[HEADER_BYTES];

    if (old_bytes < HEADER_BYTES)
        tiny_bytes(want, old, old_bytes, salt);
    else
        memcpy(want, &(header){ (uint32_t)old_bytes, salt, header_check(old, old_bytes, salt) }, HEADER_BYTES);
    if (!bytes_are(p, want, least(both, HEADER_BYTES)))
        wrong(who, p, 0, both, 0, "after realloc, the beginning of object");
    check_body(who, p, old_bytes, both, salt, "after realloc, object");
}

UNSEEN void pattern_check_zero(const intent *who, const void *p, size_t size)
{
    const uint8_t *bytes = p;

    for (size_t i = 0; i < size; i += i + 8 <= size && word_read(bytes + i) == 0 ? 8 : 1) {
        if (bytes[i] != 0)
            wrong(who, p, i, size, 0, "after calloc, object");
    }
}
