/*
 * Zeroing: which pages are zeroed, in which order, and that none gets memory which is about to lose it: by tables, and
 * with threads that punch and write meanwhile.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/memory/zeroing.h"
#include "tests/support/fixture.h"

#define FILE_PAGES  512u
#define BLOCK_PAGES 32u
#define NBLOCKS     (FILE_PAGES / BLOCK_PAGES)
#define PAGE_WORDS  (PAGE_BYTES / sizeof(uint64_t))

typedef struct memory {
    zeroing *z;
    int fd;
    uint64_t *words; /* mapped */
} memory;

static void memory_begin(memory *m)
{
    m->z = zeroing_new();
    assert_non_null(m->z);
    m->fd = memfd_create("zeroing", MFD_CLOEXEC);
    assert_true(m->fd >= 0 && ftruncate(m->fd, (off_t)(FILE_PAGES * PAGE_BYTES)) == 0);
    m->words = mmap(NULL, FILE_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
    assert_true(m->words != MAP_FAILED);
}

/* The way of the tests: at once. */
static bool zero_begin(void *data)
{
    (void)data;
    return true;
}

static void zero_send(void *data, page_range range)
{
    assert_int_equal(fallocate(((memory *)data)->fd, 0, (off_t)page_offset(range.first),
                               (off_t)(range.npages * PAGE_BYTES)), 0);
}

static void zero_end(void *data)
{
    (void)data;
}

static uint64_t zero_slice(memory *m)
{
    zeroing_way way = { zero_begin, zero_send, zero_end, m };

    return zeroing_slice(m->z, &way);
}

static void memory_end(memory *m)
{
    m->z = zeroing_free(m->z);
    assert_int_equal(munmap(m->words, FILE_PAGES * PAGE_BYTES), 0);
    assert_int_equal(close(m->fd), 0);
}

/* Pages of the file that have memory, by the kernel. */
static uint64_t pages_with_memory(const memory *m)
{
    struct stat st;

    assert_int_equal(fstat(m->fd, &st), 0);
    return (uint64_t)st.st_blocks * 512 / PAGE_BYTES;
}

static page_range range_of(uint64_t first, uint64_t npages)
{
    return (page_range){ .first = page_at(first), .npages = npages };
}

/* --- tables --- */

typedef struct zero_row {
    const char *what;
    page_range added[3];
    page_range forgotten;
    uint64_t slices[6]; /* their lengths; 0: the end */
} zero_row;

static void slices_are_what_is_due_from_the_last_end_downwards(void **state)
{
    static const zero_row rows[] = {
        { .what = "nothing", .slices = { 0 } },
        { "a page", { { { 7 }, 1 } }, { { 0 }, 0 }, { 1 } },
        { "a slice and some", { { { 0 }, 72 } }, { { 0 }, 0 }, { 8, 64 } },
        { "both ends within slices", { { { 62 }, 72 } }, { { 0 }, 0 }, { 6, 64, 2 } },
        { "the last first", { { { 0 }, 5 }, { { 64 }, 6 }, { { 32 }, 7 } }, { { 0 }, 0 }, { 7, 6, 5 } },
        { "all forgotten", { { { 10 }, 10 } }, { { 0 }, 64 }, { 0 } },
        { "others forgotten", { { { 10 }, 10 } }, { { 20 }, 10 }, { 10 } },
        { "the lower part", { { { 10 }, 10 } }, { { 5 }, 8 }, { 7 } },
        { "the upper part", { { { 10 }, 10 } }, { { 13 }, 20 }, { 3 } },
        { "the middle, and what is above it", { { { 10 }, 10 } }, { { 12 }, 2 }, { 2 } },
        { "of several", { { { 0 }, 4 }, { { 8 }, 4 }, { { 16 }, 4 } }, { { 2 }, 16 }, { 2, 2 } },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        memory m;
        size_t n = 0;
        uint64_t npages = 0;

        (void)printf("%s\n", rows[i].what);
        memory_begin(&m);
        for (size_t a = 0; a < 3; a++)
            zeroing_add(m.z, rows[i].added[a]);
        zeroing_forget(m.z, rows[i].forgotten);
        for (uint64_t got; (got = zero_slice(&m)) > 0; n++) {
            assert_int_equal(got, rows[i].slices[n]);
            npages += got;
        }
        assert_int_equal(rows[i].slices[n], 0);
        assert_false(zeroing_is_due(m.z));
        assert_int_equal(pages_with_memory(&m), npages);
        memory_end(&m);
    }
}

static void more_ranges_than_there_is_room_for_lose_the_oldest(void **state)
{
    memory m;
    uint64_t n = 0;

    (void)state;
    memory_begin(&m);
    assert_int_equal(fallocate(m.fd, 0, 0, (off_t)(FILE_PAGES * PAGE_BYTES)), 0);
    assert_int_equal(lseek(m.fd, 0, SEEK_DATA), -1); /* all has memory, nothing is zeroed */
    for (uint64_t i = 0; i < 40; i++)
        zeroing_add(m.z, range_of(i * 2, 1));
    for (; zero_slice(&m) > 0; n++)
        ;
    assert_in_range(n, 1, 39);
    /* Those at the upper end were added last. */
    assert_int_equal(lseek(m.fd, 0, SEEK_DATA), (off_t)((40 - n) * 2 * PAGE_BYTES));
    memory_end(&m);
}

/* --- threads --- */

typedef struct race {
    memory m;
    atomic_bool over;
    atomic_ullong nslices;
} race;

static void *zero_all_the_time(void *arg)
{
    race *r = arg;

    while (!atomic_load(&r->over))
        atomic_fetch_add(&r->nslices, zero_slice(&r->m) > 0);
    return NULL;
}

/*
 * A block is committed, added, written in part and looked at, forgotten, punched, over and over. What was written stays
 * while the block has memory, all else in it is zero, and after the punch nothing gives it memory.
 */
static void writes_stay_and_punched_pages_get_no_memory(void **state)
{
    static race r;
    uint64_t seed = test_seed();
    const char *given = getenv("GOALLOC_TEST_OPS");
    uint64_t nops = given != NULL ? strtoull(given, NULL, 10) : 20000;
    uint64_t tags[NBLOCKS] = { 0 }; /* 0: without memory */
    uint64_t ncommitted = 0;
    pthread_t zeroers[2];

    (void)state;
    memory_begin(&r.m);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&zeroers[i], NULL, zero_all_the_time, &r), 0);
    for (uint64_t op = 1; op <= nops; op++) {
        uint64_t b = test_random(&seed) % NBLOCKS;
        page_range range = range_of(b * BLOCK_PAGES, BLOCK_PAGES);
        uint64_t *words = r.m.words + b * BLOCK_PAGES * PAGE_WORDS;
        off_t from = (off_t)page_offset(range.first);
        off_t len = (off_t)(BLOCK_PAGES * PAGE_BYTES);

        if (tags[b] == 0) {
            assert_int_equal(fallocate(r.m.fd, 0, from, len), 0);
            zeroing_add(r.m.z, range);
            tags[b] = op;
            ncommitted++;
            for (uint64_t page = test_random(&seed) % 4; page < BLOCK_PAGES; page += 4)
                words[page * PAGE_WORDS + test_random(&seed) % 2 * 512] = op; /* one of its two pages of 4 KiB */
        } else {
            uint64_t nwritten = 0;

            for (uint64_t at = 0; at < BLOCK_PAGES * PAGE_WORDS; at += 512) {
                assert_true(words[at] == 0 || words[at] == tags[b]);
                nwritten += words[at] != 0;
            }
            assert_in_range(nwritten, BLOCK_PAGES / 4, BLOCK_PAGES / 4);
            zeroing_forget(r.m.z, range);
            assert_int_equal(fallocate(r.m.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, from, len), 0);
            tags[b] = 0;
            ncommitted--;
        }
        if (op % 64 == 0)
            assert_int_equal(pages_with_memory(&r.m), ncommitted * BLOCK_PAGES);
    }
    atomic_store(&r.over, true);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_join(zeroers[i], NULL), 0);
    (void)printf("%llu slices\n", atomic_load(&r.nslices));
    memory_end(&r.m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slices_are_what_is_due_from_the_last_end_downwards),
        cmocka_unit_test(more_ranges_than_there_is_room_for_lose_the_oldest),
        cmocka_unit_test(writes_stay_and_punched_pages_get_no_memory),
    };

    return cmocka_run_group_tests_name("zeroing", tests, NULL, NULL);
}
