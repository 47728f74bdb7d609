/*
 * Images that are refused: what is older than a heap that was lost, does not fit, or is no whole image of a heap.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "image/imagereader.h"
#include "tests/support/images.h"

static void image_is_refused_after_a_power_cut(void **state)
{
    fixture *f = *state;

    build_heap(f);
    assert_int_equal(stop(f), 0);
    fixture_restart(f, NULL);
    fixture_kill(f);
    assert_int_equal(fixture_restart_refused(f, NULL), 1);
    assert_true(fixture_log_has(f, "older than a heap that is lost"));
    with_image[2] = "--load"; /* which says itself which one is wanted */
    with_image[3] = image_path;
    with_image[4] = NULL;
    fixture_restart(f, NULL);
    assert_int_equal(child_run(f, verify_and_free, NULL), 0);
}

/* A daemon with the image, and one more option: it must say that and end. */
static void must_refuse(fixture *f, const char *more, const char *says)
{
    assert_int_equal(fixture_restart_refused(f, more), 1);
    if (!fixture_log_has(f, says))
        fail_msg("the daemon has not said: %s", says);
}

static void image_that_does_not_fit_is_refused(void **state)
{
    fixture *f = *state;
    image_header h;

    build_heap(f);
    assert_int_equal(stop(f), 0);
    must_refuse(f, "--base=0x300000000000", "start with --base");
    must_refuse(f, "--max-memory=1M", "--max-memory is 1 MiB");
    must_refuse(f, "--load=/nonexistent/heap.img", "No such file");
    h = header_of(image_path);
    h.major++;
    put_header(image_path, h);
    must_refuse(f, NULL, "layout");
    h.major--;
    h.format++;
    put_header(image_path, h);
    must_refuse(f, NULL, "its format is 2, and this build knows 1");
    must_refuse(f, "--cold-start", "move it away"); /* the other build would load it after what is served now */
    h.format--;
    h.needed = 1u << 30;
    put_header(image_path, h);
    must_refuse(f, NULL, "features");
    h.needed = 0;
    put_header(image_path, h);
    assert_int_equal(truncate(image_path, (off_t)h.file_bytes - 1), 0);
    must_refuse(f, NULL, "the rest is missing");
    assert_int_equal(truncate(image_path, 100), 0);
    must_refuse(f, NULL, "not even a header");
    fixture_restart(f, "--cold-start");
    assert_true(fixture_is_clean(f, 0));
}

/* An object that ends behind the first 64M of the arena. */
static int hold_a_large_object(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, 0);
    CHECK((p = goalloc_calloc(1, 80 * MIB)) != NULL && goalloc_root_set("large", p) == 0);
    return 0;
}

static void arena_that_is_too_small_is_refused(void **state)
{
    fixture *f = *state;

    build_heap(f);
    assert_int_equal(stop(f), 0);
    assert_true(header_of(image_path).arena_bytes > 128 * MIB);
    with_image[2] = "--reserve"; /* the table's large object lies where it lies; all fit into the first 64M */
    with_image[3] = "64M";
    with_image[4] = NULL;
    fixture_restart(f, NULL); /* a smaller arena that has room does */
    assert_int_equal(child_run(f, verify, NULL), 0);
    assert_int_equal(stop(f), 0);
    with_image[2] = NULL;
    fixture_restart(f, NULL);
    assert_int_equal(child_run(f, hold_a_large_object, NULL), 0);
    assert_int_equal(stop(f), 0);
    must_refuse(f, "--reserve=64M", "start with a larger --reserve");
    fixture_restart(f, NULL);
    assert_int_equal(child_run(f, verify, NULL), 0);
}

static int pass(void *data, const image_pages *pages, image_error *why)
{
    (void)pages;
    (void)why;
    ++*(unsigned *)data;
    return 0;
}

/* 0 if all of it is whole. */
static int read_image(const char *path, image_error *why)
{
    unsigned n = 0;
    image im;
    int r = image_open(&im, path, false, why);

    if (r < 0)
        return r;
    r = image_for_all_pages(&im, 1, pass, &n, NULL, why);
    if (r == 0)
        assert_int_equal(n, image_npage_blocks(&im));
    image_close(&im);
    return r;
}

/* Stored as it is, and compressed. */
static void each_byte_that_is_flipped_is_found(void **state)
{
    static const char *const levels[] = { "--level=0", "--level=1" };
    fixture *f = *state;

    assert_int_equal(child_run(f, build_little, NULL), 0);
    for (int k = 0; k < 2; k++) {
        const char *const save[] = { "save", levels[k], other_path, NULL };
        char out[400];
        image_error why;
        uint64_t n;
        int fd;

        assert_int_equal(fixture_ctl(f, save, out, sizeof(out)), 0);
        assert_int_equal(read_image(other_path, &why), 0);
        n = header_of(other_path).file_bytes;
        fd = open(other_path, O_RDWR | O_CLOEXEC);
        assert_true(fd >= 0);
        for (uint64_t at = 0; at < n; at += k == 0 && at > 8192 && at + 4096 < n ? 37 : 1) {
            unsigned char byte;
            unsigned char flipped;

            assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
            flipped = (unsigned char)(byte ^ 1u << at % 8);
            assert_int_equal(pwrite(fd, &flipped, 1, (off_t)at), 1);
            if (read_image(other_path, &why) == 0)
                fail_msg("byte %llu of %llu was flipped, and nobody has noticed", (unsigned long long)at,
                         (unsigned long long)n);
            assert_true(why.text[0] != '\0');
            assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
        }
        assert_int_equal(read_image(other_path, &why), 0);
        (void)close(fd);
    }
}

static int set_two_roots(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, 0);
    CHECK((p = goalloc_malloc(20)) != NULL && goalloc_root_set("aa", p) == 0 && goalloc_root_set("ab", p) == 0);
    return 0;
}

/* Each checksum of it is right. */
static void name_that_is_there_twice_is_refused(void **state)
{
    const char *const save[] = { "save", "--level=0", other_path, NULL };
    fixture *f = *state;
    char more[200];
    char out[400];
    image_header h;
    image_entry *entries;
    char *block;
    char *name;
    int fd;

    assert_int_equal(child_run(f, set_two_roots, NULL), 0);
    assert_int_equal(fixture_ctl(f, save, out, sizeof(out)), 0);
    assert_int_equal(stop(f), 0);
    h = header_of(other_path);
    fd = open(other_path, O_RDWR | O_CLOEXEC);
    entries = calloc(h.nblocks, sizeof(*entries));
    assert_true(fd >= 0 && entries != NULL);
    assert_int_equal(pread(fd, entries, h.nblocks * sizeof(*entries), (off_t)h.index_off),
                     h.nblocks * sizeof(*entries));
    assert_int_equal(entries[0].kind, IMAGE_ROOTS);
    block = malloc(entries[0].stored_bytes);
    assert_non_null(block);
    assert_int_equal(pread(fd, block, entries[0].stored_bytes, (off_t)entries[0].off), entries[0].stored_bytes);
    name = memmem(block, entries[0].stored_bytes, "ab", 2);
    assert_non_null(name);
    name[1] = 'a';
    patch(other_path, block, entries[0].stored_bytes, entries[0].off);
    entries[0].checksum = XXH3_64bits(block, entries[0].stored_bytes);
    patch(other_path, entries, h.nblocks * sizeof(*entries), h.index_off);
    h.index_checksum = XXH3_64bits(entries, h.nblocks * sizeof(*entries));
    put_header(other_path, h);
    (void)snprintf(more, sizeof(more), "--load=%s", other_path);
    must_refuse(f, more, "its named roots are none that a heap can have");
    (void)close(fd);
    free(entries);
    free(block);
    fixture_restart(f, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IMAGE_TEST(image_is_refused_after_a_power_cut),
        IMAGE_TEST(image_that_does_not_fit_is_refused),
        IMAGE_TEST(arena_that_is_too_small_is_refused),
        IMAGE_TEST(each_byte_that_is_flipped_is_found),
        IMAGE_TEST(name_that_is_there_twice_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
