/*
 * worker: the processes of these tests that use the heap while systemd ends and starts its daemon.
 *
 *   worker churn    holds a set of objects, and replaces them one by one: each is checked before it is freed
 *   worker read     checks the whole set from a process of its own, and says where the roots point to
 *   worker stale    holds its mapping until the heap behind it is gone, and wants to be told so
 *
 * The root "table" names an array of pointers to the objects, "first" an object that never changes. An object's
 * contents follow from its header. churn stops at SIGUSR1, says how many objects there are and how long its longest
 * round took, and goes on at the next; while it stops it changes nothing, so others can count. SIGTERM ends it: it
 * checks and frees all. stale looks at SIGUSR1. Exit status 0: all was as it should be; else 1, and a line says what
 * was not.
 */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <goalloc.h>

#define OBJECTS 20000u
#define ROUND_OBJECTS 64u /* then a request, and a look at the signals */

typedef struct object {
    uint64_t size;
    uint64_t check; /* size mixed with the object's own address */
    unsigned char bytes[];
} object;

#define CHECK(condition) ((condition) ? (void)0 : complain(#condition, __LINE__))

__attribute__((noreturn)) static void complain(const char *what, int line)
{
    (void)printf("failed: line %d: %s (errno: %s)\n", line, what, goalloc_strerror(errno));
    exit(EXIT_FAILURE);
}

static uint64_t now_us(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

/* --- objects --- */

static object *make_object(uint64_t r)
{
    uint64_t size = sizeof(object) + (r % 400 == 0 ? 40000 + r % 60000 : r % 900);
    object *o = goalloc_malloc(size);

    CHECK(o != NULL);
    o->size = size;
    o->check = size * UINT64_C(0x9e3779b97f4a7c15) ^ goalloc_offset(o);
    memset(o->bytes, (int)(o->check & 0xff), size - sizeof(*o));
    return o;
}

static void check_object(const object *o)
{
    CHECK(goalloc_usable_size(o) >= o->size && o->size >= sizeof(*o));
    CHECK(o->check == (o->size * UINT64_C(0x9e3779b97f4a7c15) ^ goalloc_offset(o)));
    for (uint64_t i = 0; i < o->size - sizeof(*o); i++)
        CHECK(o->bytes[i] == (o->check & 0xff));
}

static void must_attach(void)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    int r = goalloc_attach(&options);

    errno = -r;
    CHECK(r == 0);
}

static void must_find(const char *name, void **ret)
{
    int r = goalloc_root_get(name, ret);

    errno = -r;
    CHECK(r == 0);
}

/* --- churn --- */

static sigset_t told;

/* The signal that has come, 0: none. */
static int poll_signal(void)
{
    static const struct timespec now = { 0, 0 };
    int sig = sigtimedwait(&told, NULL, &now);

    return sig < 0 ? 0 : sig;
}

/* Ask for both roots; they are where they were. */
static void ask(object **table, const object *first)
{
    void *p;
    void *q;

    must_find("table", &p);
    must_find("first", &q);
    CHECK(p == table && q == first);
    CHECK(goalloc_is_current());
}

static void replace_one(object **table, uint64_t r)
{
    object **entry = &table[r % OBJECTS];

    check_object(*entry);
    CHECK(goalloc_free_checked(*entry) == 0);
    *entry = make_object(r >> 16);
}

static int churn(void)
{
    uint64_t seed = now_us() | 1;
    uint64_t longest_us = 0;
    uint64_t nreplaced = 0;
    object **table;
    object *first;
    int sig = 0;

    must_attach();
    table = goalloc_calloc(OBJECTS, sizeof(*table));
    CHECK(table != NULL);
    for (uint32_t i = 0; i < OBJECTS; i++)
        table[i] = make_object(next_random(&seed) >> 16);
    first = make_object(500);
    CHECK(goalloc_root_set("table", table) == 0 && goalloc_root_set("first", first) == 0);
    (void)printf("ready\n");
    while (sig != SIGTERM) {
        uint64_t start_us = now_us();
        uint64_t took_us;

        for (uint32_t i = 0; i < ROUND_OBJECTS; i++)
            replace_one(table, next_random(&seed));
        nreplaced += ROUND_OBJECTS;
        ask(table, first);
        took_us = now_us() - start_us;
        if (took_us > longest_us)
            longest_us = took_us;
        sig = poll_signal();
        if (sig == SIGUSR1) {
            (void)printf("paused objects=%u replaced=%llu longest_ms=%llu\n", OBJECTS + 2,
                         (unsigned long long)nreplaced, (unsigned long long)longest_us / 1000);
            (void)sigwait(&told, &sig);
            longest_us = nreplaced = 0;
        }
    }
    check_object(first);
    for (uint32_t i = 0; i < OBJECTS; i++) {
        check_object(table[i]);
        CHECK(goalloc_free_checked(table[i]) == 0);
    }
    CHECK(goalloc_root_set("table", NULL) == 0 && goalloc_root_set("first", NULL) == 0);
    goalloc_free(first);
    goalloc_free(table);
    CHECK(goalloc_detach() == 0);
    (void)printf("done\n");
    return EXIT_SUCCESS;
}

/* --- the others --- */

static int read_all(void)
{
    void *p;
    void *first;
    object **table;

    must_attach();
    must_find("table", &p);
    must_find("first", &first);
    table = p;
    for (uint32_t i = 0; i < OBJECTS; i++)
        check_object(table[i]);
    check_object(first);
    (void)printf("table=%p first=%p\n", p, first);
    return EXIT_SUCCESS;
}

static int stale(void)
{
    object *mine;
    void *p;
    int sig;

    must_attach();
    mine = make_object(700);
    CHECK(goalloc_root_set("stale", mine) == 0);
    (void)printf("ready\n");
    (void)sigwait(&told, &sig);
    CHECK(sig == SIGUSR1);
    CHECK(!goalloc_is_current()); /* before any call */
    CHECK(goalloc_root_get("stale", &p) == -ESTALE);
    CHECK(goalloc_root_set("stale", mine) == -ESTALE);
    CHECK(goalloc_malloc(100000) == NULL && errno == ESTALE);
    check_object(mine); /* what is mapped stays readable */
    CHECK(goalloc_detach() == 0);
    must_attach(); /* the new heap */
    CHECK(goalloc_root_get("stale", &p) == -ENOENT);
    mine = make_object(700);
    check_object(mine);
    CHECK(goalloc_free_checked(mine) == 0);
    (void)printf("done\n");
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    const char *what = argc == 2 ? argv[1] : "";

    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    (void)sigemptyset(&told);
    (void)sigaddset(&told, SIGUSR1);
    (void)sigaddset(&told, SIGTERM);
    (void)sigprocmask(SIG_BLOCK, &told, NULL);
    if (strcmp(what, "churn") == 0)
        return churn();
    if (strcmp(what, "read") == 0)
        return read_all();
    if (strcmp(what, "stale") == 0)
        return stale();
    (void)fprintf(stderr, "usage: worker churn|read|stale\n");
    return 2;
}
