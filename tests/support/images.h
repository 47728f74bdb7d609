/*
 * Images: a daemon with --image, objects that say themselves what is in them, and the header of an image.
 */
#ifndef GOALLOC_TESTS_IMAGES_H
#define GOALLOC_TESTS_IMAGES_H

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "image/image.h"
#include "tests/support/attach.h"
#include "tests/support/guard.h"

#define NOBJECTS 4000u

/* A place of its own beside the daemon's: an image outlives it. */
static char image_path[160];
static char other_path[160];
static const char *with_image[] = { "--image", image_path, NULL, NULL, NULL, NULL, NULL };

static inline int images_setup(void **state)
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
#define IMAGE_TEST(name) cmocka_unit_test_setup_teardown(name, images_setup, fixture_teardown)

/* --- objects that say themselves what is in them --- */

typedef struct object {
    struct object *next;
    uint64_t size;
    uint64_t seed;
    unsigned char content[];
} object;

static inline size_t some_size(uint64_t *seed)
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

static inline void fill(object *o, size_t size, uint64_t seed)
{
    uint64_t at = seed;

    o->size = size;
    o->seed = seed;
    for (size_t i = 0; i < size - sizeof(*o); i++)
        o->content[i] = (unsigned char)(test_random(&at) >> 7);
}

static inline bool is_whole(const object *o)
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
static inline int build(const fixture *f, void *arg)
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

static inline void look(void)
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

static inline int verify(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    look();
    return 0;
}

/* And it is a heap as any other: all is freed, and new objects are zero where that is promised. */
static inline int verify_and_free(const fixture *f, void *arg)
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

static inline int build_little(const fixture *f, void *arg)
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

static inline void build_heap(const fixture *f)
{
    seed = test_seed();
    assert_int_equal(child_run(f, build, &seed), 0);
}

static inline int stop(fixture *f)
{
    int status = -1;

    assert_int_equal(kill(f->daemon, SIGTERM), 0);
    assert_int_equal(waitpid(f->daemon, &status, 0), f->daemon);
    return status;
}

/* True if a file is beside the image that is none. */
static inline bool leaves_something(void)
{
    char part[200];

    (void)snprintf(part, sizeof(part), "%s.part", image_path);
    return access(part, F_OK) == 0;
}

static inline image_header header_of(const char *path)
{
    image_header h;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &h, sizeof(h), 0), sizeof(h));
    (void)close(fd);
    return h;
}

/* Write bytes into a file. */
static inline void patch(const char *path, const void *bytes, size_t n, uint64_t at)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, n, (off_t)at), n);
    (void)close(fd);
}

static inline void put_header(const char *path, image_header h)
{
    h.checksum = XXH3_64bits(&h, offsetof(image_header, checksum));
    patch(path, &h, sizeof(h), 0);
}

/* --- processes --- */

/* A child that has the pipe, and has written a byte into it. */
static inline pid_t child_start_heard(const fixture *f, child_fn fn, int fds[2])
{
    pid_t pid = child_start(f, fn, fds);
    char byte;

    assert_int_equal(read(fds[0], &byte, 1), 1);
    return pid;
}

static inline int stay(const fixture *f, void *arg)
{
    const int *fds = arg;
    char byte = 0;

    must_attach(f, 0);
    CHECK(goalloc_set_label("stayer") == 0);
    CHECK(write(fds[1], &byte, 1) == 1);
    for (;;)
        (void)pause();
}

#endif
