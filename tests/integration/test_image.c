/*
 * Images: what a stop has saved is there when the next daemon starts, object for object; and what is no whole image of
 * this heap is refused.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "image/imagereader.h"
#include "image/imagewriter.h"
#include "shm/version.h"
#include "tests/support/attach.h"
#include "tests/support/groups.h"
#include "tests/support/guard.h"

#define NOBJECTS 4000u
#define TAG      UINT64_C(77)

/* A place of its own beside the daemon's: an image outlives it. */
static char image_path[160];
static char other_path[160];
static const char *with_image[] = { "--image", image_path, NULL, NULL, NULL, NULL, NULL };

static int setup(void **state)
{
    static char dir[96];

    (void)snprintf(dir, sizeof(dir), "%s/image-XXXXXX", guard_dir());
    assert_non_null(mkdtemp(dir));
    (void)snprintf(image_path, sizeof(image_path), "%s/heap.img", dir);
    (void)snprintf(other_path, sizeof(other_path), "%s/other.img", dir);
    with_image[2] = NULL;
    *state = with_image;
    return fixture_setup(state);
}

/* Its daemon is stopped with what it has; the test has looked at the rest. */
static int teardown(void **state)
{
    return fixture_teardown(state);
}

#define IMAGE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

/* --- objects that say themselves what is in them --- */

typedef struct object {
    struct object *next;
    uint64_t size;
    uint64_t seed;
    unsigned char content[];
} object;

static size_t some_size(uint64_t *seed)
{
    uint64_t how = test_random(seed);

    switch (how % 16) {
    case 0:
        return sizeof(object) + (how >> 8) % 40000;
    case 1:
        return how % 3 == 0 ? sizeof(object) + (how >> 8) % 300000 : 32000;
    default:
        return sizeof(object) + (how >> 8) % 500;
    }
}

static void fill(object *o, size_t size, uint64_t seed)
{
    uint64_t at = seed;

    o->size = size;
    o->seed = seed;
    for (size_t i = 0; i < size - sizeof(*o); i++)
        o->content[i] = (unsigned char)(test_random(&at) >> 7);
}

static bool is_whole(const object *o)
{
    uint64_t at = o->seed;

    for (size_t i = 0; i < o->size - sizeof(*o); i++) {
        if (o->content[i] != (unsigned char)(test_random(&at) >> 7))
            return false;
    }
    return true;
}

typedef struct table {
    object *first;
    uint64_t n;
    char *tiny[64]; /* of each length from 1 to 8 */
    char *zeroes;   /* a large object of which one page was written */
} table;

#define ZEROES (UINT64_C(3) << 20)

/* Objects of all sizes, a third of which are freed again. */
static int build(const fixture *f, void *arg)
{
    uint64_t seed = *(uint64_t *)arg;
    object **at;
    table *t;
    void *p;

    must_attach(f, 0);
    CHECK((t = goalloc_calloc(1, sizeof(*t))) != NULL);
    for (uint32_t i = 0; i < NOBJECTS; i++) {
        size_t size = some_size(&seed);
        object *o = goalloc_malloc(size);

        CHECK(o != NULL);
        fill(o, size, test_random(&seed));
        o->next = t->first;
        t->first = o;
    }
    at = &t->first;
    while (*at != NULL) {
        object *o = *at;

        if (test_random(&seed) % 3 == 0) {
            *at = o->next;
            goalloc_free(o);
        } else {
            at = &o->next;
            t->n++;
        }
    }
    for (size_t i = 0; i < 64; i++) {
        CHECK((t->tiny[i] = goalloc_malloc_noscan(1 + i % 8)) != NULL);
        memset(t->tiny[i], (int)i, 1 + i % 8);
    }
    for (size_t i = 0; i < 64; i += 3) {
        goalloc_free(t->tiny[i]);
        t->tiny[i] = NULL;
    }
    CHECK((t->zeroes = goalloc_calloc(1, ZEROES)) != NULL);
    strcpy(t->zeroes + ZEROES / 2, "middle");
    CHECK(goalloc_root_set("table", t) == 0);
    CHECK((p = goalloc_malloc(10)) != NULL && goalloc_root_set("gone", p) == 0 && goalloc_root_set("gone", NULL) == 0);
    CHECK(goalloc_free_checked(p) == 0);
    return 0;
}

static void look(void)
{
    uint64_t n = 0;
    table *t;
    void *p;

    CHECK(goalloc_root_get("table", &p) == 0 && goalloc_root_get("gone", &p) == -ENOENT);
    CHECK(goalloc_root_get("table", &p) == 0);
    t = p;
    for (const object *o = t->first; o != NULL; o = o->next, n++)
        CHECK(goalloc_usable_size(o) >= o->size && is_whole(o));
    CHECK(n == t->n && n > NOBJECTS / 2);
    for (size_t i = 0; i < 64; i++) {
        for (size_t k = 0; t->tiny[i] != NULL && k < 1 + i % 8; k++)
            CHECK(t->tiny[i][k] == (char)i);
    }
    for (size_t i = 0; i < ZEROES; i += 512)
        CHECK(i == ZEROES / 2 || t->zeroes[i] == 0);
    CHECK(strcmp(t->zeroes + ZEROES / 2, "middle") == 0);
}

static int verify(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    look();
    return 0;
}

/* And it is a heap as any other: all is freed, and new objects are zero where that is promised. */
static int verify_and_free(const fixture *f, void *arg)
{
    table *t;
    void *p;

    (void)arg;
    must_attach(f, 0);
    look();
    CHECK(goalloc_root_get("table", &p) == 0);
    t = p;
    for (uint32_t i = 0; i < 2000; i++) {
        const char *fresh = goalloc_calloc(1, 100 + i % 400);

        CHECK(fresh != NULL);
        for (uint32_t k = 0; k < 100 + i % 400; k++)
            CHECK(fresh[k] == 0);
        goalloc_free((void *)(uintptr_t)fresh);
    }
    look();
    while (t->first != NULL) {
        object *o = t->first;

        t->first = o->next;
        CHECK(goalloc_free_checked(o) == 0);
    }
    for (size_t i = 0; i < 64; i++)
        CHECK(t->tiny[i] == NULL || goalloc_free_checked(t->tiny[i]) == 0);
    CHECK(goalloc_free_checked(t->zeroes) == 0 && goalloc_root_set("table", NULL) == 0 && goalloc_free_checked(t) == 0);
    return 0;
}

static int build_little(const fixture *f, void *arg)
{
    char *p;

    (void)arg;
    must_attach(f, 0);
    for (size_t i = 0; i < 8; i++)
        CHECK((p = goalloc_malloc(20 + i * i * 20)) != NULL && memset(p, (int)i, 20) != NULL);
    CHECK(goalloc_root_set("little", p) == 0);
    return 0;
}

static uint64_t seed;

static void build_heap(const fixture *f)
{
    seed = test_seed();
    assert_int_equal(child_run(f, build, &seed), 0);
}

static int stop(fixture *f)
{
    int status = -1;

    assert_int_equal(kill(f->daemon, SIGTERM), 0);
    assert_int_equal(waitpid(f->daemon, &status, 0), f->daemon);
    return status;
}

/* True if a file is beside the image that is none. */
static bool leaves_something(void)
{
    char part[200];

    (void)snprintf(part, sizeof(part), "%s.part", image_path);
    return access(part, F_OK) == 0;
}

static image_header header_of(const char *path)
{
    image_header h;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &h, sizeof(h), 0), sizeof(h));
    (void)close(fd);
    return h;
}

/* Write bytes into a file. */
static void patch(const char *path, const void *bytes, size_t n, uint64_t at)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, n, (off_t)at), n);
    (void)close(fd);
}

static void put_header(const char *path, image_header h)
{
    h.checksum = XXH3_64bits(&h, offsetof(image_header, checksum));
    patch(path, &h, sizeof(h), 0);
}

/* --- the way there and back --- */

static void heap_that_a_stop_has_saved_is_there_at_the_next_start(void **state)
{
    fixture *f = *state;
    struct stat st;

    build_heap(f);
    assert_int_equal(stop(f), 0);
    assert_true(fixture_log_has(f, "the heap is saved into"));
    assert_false(leaves_something());
    assert_int_equal(stat(image_path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    fixture_restart(f, NULL);
    assert_true(fixture_log_has(f, "the heap comes out of the image"));
    assert_int_equal(child_run(f, verify, NULL), 0);
    assert_int_equal(stop(f), 0); /* and once more, from a heap that was loaded */
    fixture_restart(f, NULL);
    assert_int_equal(child_run(f, verify_and_free, NULL), 0);
    assert_true(fixture_is_clean(f, 0));
}

static int count_init(void *p, size_t size, void *arg)
{
    (void)size;
    (void)p;
    ++*(int *)arg;
    return 0;
}

/* Twice: how often was it initialised, and which heap is it? */
static int reinit(const fixture *f, void *arg)
{
    uint64_t *ret_id = arg;
    uint64_t tags[2] = { TAG | GOALLOC_ROOT_REINIT, TAG };
    const char *names[2] = { "lock", "data" };
    int ninits[2] = { 0, 0 };
    void *p;

    must_attach(f, 0);
    for (int i = 0; i < 4; i++)
        CHECK(goalloc_root_get_or_create(names[i % 2], 64, tags[i % 2], count_init, &ninits[i % 2], &p, NULL) == 0);
    *ret_id = goalloc_heap_id();
    return ninits[0] == 1 ? ninits[1] : 100;
}

static int reinit_first(const fixture *f, void *arg)
{
    return reinit(f, arg) == 1 ? 0 : 1;
}

static int reinit_later(const fixture *f, void *arg)
{
    uint64_t before = *(uint64_t *)arg;
    uint64_t now = 0;

    CHECK(reinit(f, &now) == 0); /* the lock once more, the data no more */
    CHECK(now != before);
    return 0;
}

static void roots_are_initialised_again_in_a_loaded_heap_if_they_ask_for_it(void **state)
{
    fixture *f = *state;
    uint64_t *id = mmap(NULL, sizeof(*id), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_ptr_not_equal(id, MAP_FAILED);
    assert_int_equal(child_run(f, reinit_first, id), 0);
    assert_int_equal(stop(f), 0);
    fixture_restart(f, NULL);
    assert_int_equal(child_run(f, reinit_later, id), 0);
    (void)munmap(id, sizeof(*id));
}

static void image_of_an_empty_heap_is_loaded(void **state)
{
    fixture *f = *state;

    assert_int_equal(stop(f), 0);
    fixture_restart(f, NULL);
    assert_true(fixture_log_has(f, "0 objects with 0 KiB, 0 roots"));
    assert_true(fixture_is_clean(f, 0));
}

static void hundred_rounds_leave_nothing(void **state)
{
    fixture *f = *state;
    image_header first;
    image_header last;

    assert_int_equal(child_run(f, build_little, NULL), 0);
    assert_int_equal(stop(f), 0);
    first = header_of(image_path);
    for (int i = 0; i < 100; i++) {
        fixture_restart(f, NULL);
        assert_int_equal(stop(f), 0);
        assert_false(leaves_something());
    }
    last = header_of(image_path);
    assert_int_equal(first.live_objects, last.live_objects);
    assert_int_equal(first.live_bytes, last.live_bytes);
    assert_int_equal(first.nspans, last.nspans);
    assert_int_equal(first.npages, last.npages);
    fixture_restart(f, NULL);
    assert_true(fixture_is_clean(f, 8));
}

/* --- who is in the way --- */

static int stay(const fixture *f, void *arg)
{
    const int *fds = arg;
    char byte = 0;

    must_attach(f, 0);
    CHECK(goalloc_set_label("stayer") == 0);
    CHECK(write(fds[1], &byte, 1) == 1);
    for (;;)
        (void)pause();
}

static void worker_that_stays_keeps_the_old_image_and_is_named(void **state)
{
    fixture *f = *state;
    image_header before;
    image_header after;
    int fds[2];
    char byte;
    pid_t child;

    build_heap(f);
    assert_int_equal(stop(f), 0);
    before = header_of(image_path);
    with_image[2] = "--image-wait";
    with_image[3] = "100ms";
    with_image[4] = NULL;
    fixture_restart(f, NULL);
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    child = child_start(f, stay, fds);
    assert_int_equal(read(fds[0], &byte, 1), 1);
    assert_int_equal(stop(f), 0);
    assert_true(fixture_log_has(f, "there still is who can write: session"));
    assert_true(fixture_log_has(f, "'stayer'"));
    after = header_of(image_path);
    assert_memory_equal(&before, &after, sizeof(before));
    assert_false(leaves_something());
    assert_int_equal(kill(child, SIGKILL), 0);
    (void)child_wait(child);
    /* The heap that was served meanwhile is lost: the image is older. */
    assert_int_equal(fixture_restart_refused(f, NULL), 1);
    assert_true(fixture_log_has(f, "older than a heap that is lost"));
    fixture_restart(f, "--image-stale=ok");
    assert_int_equal(child_run(f, verify_and_free, NULL), 0);
    (void)close(fds[0]);
    (void)close(fds[1]);
}

static int go_soon(const fixture *f, void *arg)
{
    const int *fds = arg;
    char byte = 0;
    void *p;

    must_attach(f, GOALLOC_ATTACH_RECLAIM);
    CHECK((p = goalloc_malloc(3000)) != NULL);
    CHECK(write(fds[1], &byte, 1) == 1);
    for (int i = 0; i < 1000 && !fixture_log_has(f, "sessions to end"); i++)
        usleep(5000);
    usleep(100000);
    CHECK((p = goalloc_malloc(100)) != NULL && goalloc_publish(p) == 0); /* it is served on */
    CHECK(goalloc_root_set("last words", strcpy(p, "bye")) == 0);
    return 0;
}

static int hear_last_words(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_root_get("last words", &p) == 0 && strcmp(p, "bye") == 0);
    return 0;
}

static void stop_waits_for_workers_that_go_and_saves_their_last_words(void **state)
{
    fixture *f = *state;
    int fds[2];
    char byte;
    pid_t child;

    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    child = child_start(f, go_soon, fds);
    assert_int_equal(read(fds[0], &byte, 1), 1);
    assert_int_equal(stop(f), 0);
    assert_int_equal(child_wait(child), 0);
    fixture_restart(f, NULL);
    assert_int_equal(child_run(f, hear_last_words, NULL), 0);
    assert_true(fixture_is_clean(f, 1)); /* what it had not published went with its session */
    (void)close(fds[0]);
    (void)close(fds[1]);
}

/* Until a byte comes. */
static int stay_for_a_byte(const fixture *f, void *arg)
{
    const int *fds = arg;
    char byte = 0;

    must_attach(f, 0);
    CHECK(write(fds[1], &byte, 1) == 1);
    CHECK(read(fds[2], &byte, 1) == 1);
    return 0;
}

/* A group counts as who can write: nobody founds one while a stop waits, to read either. Who reads alone may come. */
static int read_with_a_group(const fixture *f, void *arg)
{
    const int *fds = arg;
    char byte = 0;
    int r;

    for (int i = 0; i < 1000 && !fixture_log_has(f, "sessions to end"); i++)
        usleep(5000);
    r = attach_as(f, GOALLOC_ATTACH_READONLY, "readers");
    CHECK(r == -ESHUTDOWN);
    must_attach(f, GOALLOC_ATTACH_READONLY);
    CHECK(write(fds[3], &byte, 1) == 1);
    return 0;
}

static void reader_that_comes_with_a_group_does_not_keep_a_stop_from_saving(void **state)
{
    fixture *f = *state;
    int fds[4];
    char byte;
    pid_t stayer;
    pid_t reader;

    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    assert_int_equal(pipe2(fds + 2, O_CLOEXEC), 0);
    stayer = child_start(f, stay_for_a_byte, fds);
    assert_int_equal(read(fds[0], &byte, 1), 1);
    reader = child_start(f, read_with_a_group, fds);
    assert_int_equal(stop(f), 0);
    assert_int_equal(child_wait(stayer), 0);
    assert_int_equal(child_wait(reader), 0);
    assert_true(fixture_log_has(f, "the heap is saved into"));
    fixture_restart(f, NULL);
    for (int i = 0; i < 4; i++)
        (void)close(fds[i]);
}

/* --- what is refused --- */

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

/* The process that saves; it is a child of the daemon's. */
static pid_t saver_of(const fixture *f)
{
    char path[64];
    char name[32] = "";
    FILE *children;
    int pid;
    pid_t found = 0;

    (void)snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)f->daemon, (int)f->daemon);
    children = fopen(path, "re");
    assert_non_null(children);
    while (found == 0 && fscanf(children, "%d", &pid) == 1) {
        FILE *comm;

        (void)snprintf(path, sizeof(path), "/proc/%d/comm", pid);
        comm = fopen(path, "re");
        if (comm != NULL && fgets(name, sizeof(name), comm) != NULL && strcmp(name, "goallocd-saver\n") == 0)
            found = pid;
        if (comm != NULL)
            (void)fclose(comm);
    }
    (void)fclose(children);
    return found;
}

static void disk_that_is_full_leaves_the_old_image(void **state)
{
    fixture *f = *state;
    struct rlimit limit = { 64 * KIB, 64 * KIB };
    image_header before;
    image_header after;
    pid_t saver;

    assert_int_equal(stop(f), 0);
    before = header_of(image_path);
    fixture_restart(f, NULL);
    build_heap(f);
    saver = saver_of(f);
    assert_true(saver > 0);
    assert_int_equal(prlimit(saver, RLIMIT_FSIZE, &limit, NULL), 0);
    assert_int_equal(stop(f), 0);
    assert_true(fixture_log_has(f, "File too large; what was there stays"));
    assert_false(leaves_something());
    after = header_of(image_path);
    assert_memory_equal(&before, &after, sizeof(before));
    fixture_restart(f, "--image-stale=ok");
    assert_true(fixture_is_clean(f, 0));
}

static void saver_that_was_killed_leaves_the_old_image(void **state)
{
    fixture *f = *state;

    build_heap(f);
    assert_int_equal(kill(saver_of(f), SIGKILL), 0);
    assert_int_equal(stop(f), 0);
    assert_true(fixture_log_has(f, "is not saved into"));
    assert_int_equal(access(image_path, F_OK), -1);
    assert_false(leaves_something());
    fixture_restart(f, NULL); /* there is no image: a new heap */
    assert_true(fixture_is_clean(f, 0));
}

static void daemon_whose_image_has_no_directory_does_not_start(void **state)
{
    fixture *f = *state;

    assert_int_equal(stop(f), 0);
    assert_int_equal(fixture_restart_refused(f, "--image=/nonexistent/heap.img"), 1);
    assert_true(fixture_log_has(f, "nothing can be saved there"));
    fixture_restart(f, NULL);
}

/* --- while it is served --- */

static int come_and_go(const fixture *f, void *arg)
{
    uint64_t at = *(uint64_t *)arg;

    for (int i = 0; i < 40; i++) {
        object *o;
        void *p;
        size_t size = some_size(&at);
        int r;

        must_attach(f, 0);
        r = goalloc_root_get("list", &p);
        CHECK((o = goalloc_malloc(size)) != NULL);
        fill(o, size, test_random(&at));
        o->next = r == 0 ? p : NULL;
        CHECK(goalloc_root_set("list", o) == 0);
        CHECK(goalloc_detach() == 0);
    }
    return 0;
}

static int verify_list(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, 0);
    if (goalloc_root_get("list", &p) == 0) {
        for (const object *o = p; o != NULL; o = o->next)
            CHECK(is_whole(o));
    }
    return 0;
}

static void heap_is_saved_between_workers_that_come_and_go(void **state)
{
    const char *const save[] = { "save", other_path, NULL };
    const char *const load[] = { "--load", other_path, NULL };
    fixture *f = *state;
    unsigned nsaved = 0;
    char out[400];
    pid_t child;

    seed = test_seed();
    child = child_start(f, come_and_go, &seed);
    for (int status; waitpid(child, &status, WNOHANG) == 0;) {
        nsaved += fixture_ctl(f, save, out, sizeof(out)) == 0;
        if (nsaved > 0 && nsaved % 4 == 0) {
            fixture other;

            fixture_start(&other, load);
            assert_int_equal(child_run(&other, verify_list, NULL), 0);
            assert_true(fixture_is_whole(&other));
            assert_true(fixture_stop(&other));
        }
    }
    assert_int_equal(fixture_ctl(f, save, out, sizeof(out)), 0);
    assert_int_equal(child_run(f, verify_list, NULL), 0);
    (void)printf("saved %u times meanwhile\n", nsaved);
}

/* A process that has a tracer can't be stopped by another one. */
static void save_is_refused_while_somebody_can_write_who_cannot_be_stopped(void **state)
{
    const char *const save[] = { "--json", "save", other_path, NULL };
    fixture *f = *state;
    char out[600];
    char pid[16];
    char byte;
    int fds[2];
    pid_t child;

    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    child = child_start(f, stay, fds);
    assert_int_equal(read(fds[0], &byte, 1), 1);
    assert_int_equal(ptrace(PTRACE_SEIZE, child, NULL, NULL), 0);
    assert_int_equal(fixture_ctl(f, save, out, sizeof(out)), 1);
    (void)snprintf(pid, sizeof(pid), "%d", (int)child);
    assert_non_null(strstr(out, "can't be stopped"));
    assert_non_null(strstr(out, pid));
    assert_int_equal(access(other_path, F_OK), -1);
    assert_int_equal(kill(child, SIGKILL), 0);
    (void)child_wait(child);
    (void)close(fds[0]);
    (void)close(fds[1]);
}

static void image_that_a_running_daemon_has_saved_is_a_copy(void **state)
{
    const char *const save[] = { "save", image_path, NULL };
    const char *const show[] = { "--json", "image", image_path, NULL };
    fixture *f = *state;
    char out[2000];

    build_heap(f);
    assert_int_equal(fixture_ctl(f, save, out, sizeof(out)), 0);
    assert_int_equal(fixture_ctl(f, show, out, sizeof(out)), 0);
    assert_non_null(strstr(out, "\"mark\": \"copy\""));
    fixture_kill(f);
    assert_int_equal(fixture_restart_refused(f, NULL), 1);
    assert_true(fixture_log_has(f, "it was saved while that was in use"));
    fixture_restart(f, "--image-stale=ok");
    assert_int_equal(child_run(f, verify, NULL), 0);
    assert_int_equal(stop(f), 0);
    assert_int_equal(fixture_ctl(f, show, out, sizeof(out)), 0);
    assert_non_null(strstr(out, "\"mark\": \"clean\""));
    fixture_restart(f, NULL);
    assert_int_equal(child_run(f, verify_and_free, NULL), 0);
}

/* Else the daemon's next stop could not save there, and its next start not load. */
static void what_root_saves_into_the_directory_of_another_user_is_that_users(void **state)
{
    static char owned[170];
    static char owned_part[180];
    const char *const save[] = { "save", owned, NULL };
    fixture *f = *state;
    char dir[160];
    char out[400];
    struct stat st;
    int fd;

    if (geteuid() != 0)
        skip();
    (void)snprintf(dir, sizeof(dir), "%s/owned-XXXXXX", guard_dir());
    assert_non_null(mkdtemp(dir));
    (void)snprintf(owned, sizeof(owned), "%s/heap.img", dir);
    (void)snprintf(owned_part, sizeof(owned_part), "%s.part", owned);
    assert_int_equal(chown(dir, 65534, 65534), 0);
    for (int i = 0; i < 2; i++) { /* the file is new, and is there */
        assert_int_equal(fixture_ctl(f, save, out, sizeof(out)), 0);
        assert_int_equal(stat(owned, &st), 0);
        assert_int_equal(st.st_uid, 65534);
        assert_int_equal(st.st_mode & 0777, 0600);
    }
    fd = open(owned_part, O_CREAT | O_RDWR | O_CLOEXEC, 0666);
    assert_true(fd >= 0);
    assert_int_equal(fchown(fd, 65533, 65533), 0); /* a third one, who may have it open */
    assert_int_not_equal(fixture_ctl(f, save, out, sizeof(out)), 0);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, 0);
    (void)close(fd);
    (void)unlink(owned_part);
    (void)unlink(owned);
    (void)rmdir(dir);
}

/* As when the heap has ended between the copy and the end of its writing. */
static void copy_that_is_late_does_not_replace_what_the_heap_was_at_its_end(void **state)
{
    const char *const save[] = { "--json", "save", image_path, NULL };
    const uint64_t clean = IMAGE_CLEAN;
    const uint64_t copy = IMAGE_COPY;
    fixture *f = *state;
    image_header before;
    image_header after;
    char out[600];

    build_heap(f);
    assert_int_equal(fixture_ctl(f, save, out, sizeof(out)), 0);
    patch(image_path, &clean, sizeof(clean), IMAGE_MARK_OFF);
    before = header_of(image_path);
    assert_int_not_equal(fixture_ctl(f, save, out, sizeof(out)), 0);
    assert_non_null(strstr(out, "this copy is older"));
    after = header_of(image_path);
    assert_memory_equal(&before, &after, sizeof(before));
    assert_false(leaves_something());
    patch(image_path, &copy, sizeof(copy), IMAGE_MARK_OFF);
    assert_int_equal(fixture_ctl(f, save, out, sizeof(out)), 0);
}

/* One has the lock of the file that is written, as goallocctl save has it while it writes. */
static void stop_waits_for_who_saves_there(void **state)
{
    fixture *f = *state;
    char part[200];
    int fd;

    build_heap(f);
    (void)snprintf(part, sizeof(part), "%s.part", image_path);
    fd = open(part, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_int_equal(kill(f->daemon, SIGTERM), 0);
    for (int i = 0; i < 1000 && !fixture_log_has(f, "stopping: Terminated; waits"); i++)
        usleep(5000);
    usleep(100000);
    (void)close(fd);
    assert_int_equal(stop(f), 0);
    assert_true(fixture_log_has(f, "the heap is saved into"));
    assert_false(leaves_something());
    fixture_restart(f, NULL);
    assert_int_equal(child_run(f, verify_and_free, NULL), 0);
}

static void heap_that_a_keeper_has_wins_over_an_image(void **state)
{
    fixture *f = *state;
    fixture kept;

    build_heap(f);
    assert_int_equal(stop(f), 0);
    fixture_start_kept(&kept, with_image);
    assert_int_equal(child_run(&kept, verify_and_free, NULL), 0);
    fixture_kill(&kept);
    fixture_restart(&kept, NULL); /* what was freed since stays freed */
    assert_true(fixture_is_clean(&kept, 0));
    assert_true(fixture_stop(&kept));
    fixture_restart(f, NULL); /* --on-stop drop has saved that, too */
    assert_true(fixture_is_clean(f, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IMAGE_TEST(heap_that_a_stop_has_saved_is_there_at_the_next_start),
        IMAGE_TEST(roots_are_initialised_again_in_a_loaded_heap_if_they_ask_for_it),
        IMAGE_TEST(image_of_an_empty_heap_is_loaded),
        IMAGE_TEST(hundred_rounds_leave_nothing),
        IMAGE_TEST(worker_that_stays_keeps_the_old_image_and_is_named),
        IMAGE_TEST(stop_waits_for_workers_that_go_and_saves_their_last_words),
        IMAGE_TEST(reader_that_comes_with_a_group_does_not_keep_a_stop_from_saving),
        IMAGE_TEST(image_is_refused_after_a_power_cut),
        IMAGE_TEST(image_that_does_not_fit_is_refused),
        IMAGE_TEST(arena_that_is_too_small_is_refused),
        IMAGE_TEST(each_byte_that_is_flipped_is_found),
        IMAGE_TEST(name_that_is_there_twice_is_refused),
        IMAGE_TEST(disk_that_is_full_leaves_the_old_image),
        IMAGE_TEST(saver_that_was_killed_leaves_the_old_image),
        IMAGE_TEST(daemon_whose_image_has_no_directory_does_not_start),
        IMAGE_TEST(heap_is_saved_between_workers_that_come_and_go),
        IMAGE_TEST(save_is_refused_while_somebody_can_write_who_cannot_be_stopped),
        IMAGE_TEST(image_that_a_running_daemon_has_saved_is_a_copy),
        IMAGE_TEST(what_root_saves_into_the_directory_of_another_user_is_that_users),
        IMAGE_TEST(copy_that_is_late_does_not_replace_what_the_heap_was_at_its_end),
        IMAGE_TEST(stop_waits_for_who_saves_there),
        IMAGE_TEST(heap_that_a_keeper_has_wins_over_an_image),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
