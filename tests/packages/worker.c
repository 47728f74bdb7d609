/*
 * worker: the processes of test_upgrade.sh that use the heap while packages are installed, upgraded and removed.
 *
 *   worker NAME    holds a table of objects under the root NAME and replaces them one by one, until SIGTERM
 *
 * An object's contents follow from its size and its place, so any process can check it. An object is in the table
 * before the one that it replaces is freed: whoever is killed in between leaves one object too many, and none that is
 * missing. The next worker of that name finds the table, checks all of it, and goes on with it. A worker whose heap is
 * gone says so, and begins again in the heap that there is now; it ends if its library is too old for that one. SIGUSR1
 * asks for a line on how it does. Exit status 0: all was as it should be; else 1, and a line says what was not.
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

#define OBJECTS 5000u
#define ROUND_OBJECTS 64u /* then a request, a look at the signals, and a pause */

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

static uint64_t check_of(const object *o, uint64_t size)
{
    return size * UINT64_C(0x9e3779b97f4a7c15) ^ goalloc_offset(o);
}

/* NULL only if the heap is gone. */
static object *make_object(uint64_t r)
{
    uint64_t size = sizeof(object) + (r % 400 == 0 ? 40000 + r % 60000 : r % 900);
    object *o = goalloc_malloc(size);

    if (o == NULL && !goalloc_is_current())
        return NULL;
    CHECK(o != NULL);
    o->size = size;
    o->check = check_of(o, size);
    memset(o->bytes, (int)(o->check & 0xff), size - sizeof(*o));
    return o;
}

static void check_object(const object *o)
{
    CHECK(o != NULL && goalloc_usable_size(o) >= o->size && o->size >= sizeof(*o));
    CHECK(o->check == check_of(o, o->size));
    for (uint64_t i = 0; i < o->size - sizeof(*o); i++)
        CHECK(o->bytes[i] == (o->check & 0xff));
}

static void check_table(object **table)
{
    for (uint32_t i = 0; i < OBJECTS; i++)
        check_object(table[i]);
}

/* False if nobody serves. */
static bool attach(const char *name)
{
    static bool has_been; /* attached, to this heap or to one before it */
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    int r;

    options.label = name;
    options.timeout_ms = 60000; /* of the busiest machine */
    r = goalloc_attach(&options);
    errno = -r;
    if (r == -ENOEXEC && has_been) {
        (void)printf("refused: %s\n", goalloc_attach_error());
        exit(EXIT_SUCCESS);
    }
    CHECK(r == 0 || r == -ENOENT || r == -ECONNREFUSED);
    has_been |= r == 0;
    return r == 0;
}

/* The table of that name: its last holder's, or a new one; NULL if the heap is gone. */
static object **find_table(const char *name)
{
    void *p;
    int r = goalloc_root_get(name, &p);
    object **table = p;

    if (r == 0) {
        check_table(table);
        (void)printf("found %u objects\n", OBJECTS);
        return table;
    }
    errno = -r;
    CHECK(r == -ENOENT || !goalloc_is_current());
    if (r != -ENOENT)
        return NULL;
    table = goalloc_calloc(OBJECTS, sizeof(object *));
    if (table == NULL && !goalloc_is_current())
        return NULL;
    CHECK(table != NULL);
    for (uint32_t i = 0; i < OBJECTS; i++)
        if ((table[i] = make_object(i * 7919)) == NULL)
            return NULL;
    if (goalloc_root_set(name, table) != 0) {
        CHECK(!goalloc_is_current());
        return NULL;
    }
    (void)printf("made %u objects\n", OBJECTS);
    return table;
}

/* False if the heap is gone. */
static bool replace(const char *name, object **table, uint64_t *seed)
{
    void *p;
    int r;

    for (uint32_t i = 0; i < ROUND_OBJECTS; i++) {
        *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        object **entry = &table[(*seed >> 33) % OBJECTS];
        object *old = *entry;
        object *next = make_object(*seed >> 40);

        check_object(old);
        if (next == NULL)
            return false;
        __atomic_store_n(entry, next, __ATOMIC_RELEASE);
        goalloc_free(old);
    }
    r = goalloc_root_get(name, &p);
    if (r == 0)
        CHECK(p == table);
    else
        CHECK(!goalloc_is_current());
    return r == 0 && goalloc_is_current();
}

/* The signal that has come within a moment, 0: none. */
static int wait_for_signal(const sigset_t *told)
{
    static const struct timespec moment = { 0, 2000000 };
    int sig = sigtimedwait(told, NULL, &moment);

    return sig < 0 ? 0 : sig;
}

static int work(const char *name, const sigset_t *told)
{
    uint64_t seed = (uint64_t)time(NULL);
    uint64_t nrounds = 0;
    object **table = NULL; /* NULL: not attached */
    int sig = 0;

    while (sig != SIGTERM) {
        if (table == NULL) {
            if (attach(name) && (table = find_table(name)) == NULL)
                CHECK(goalloc_detach() == 0);
        } else if (replace(name, table, &seed)) {
            nrounds++;
        } else {
            (void)printf("gone\n");
            CHECK(goalloc_detach() == 0);
            table = NULL;
        }
        sig = wait_for_signal(told);
        if (sig == SIGUSR1 && table != NULL) {
            check_table(table);
            (void)printf("whole %u objects, round %llu\n", OBJECTS, (unsigned long long)nrounds);
        }
    }
    if (table != NULL)
        check_table(table);
    (void)printf("left %u objects\n", table != NULL ? OBJECTS : 0);
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    sigset_t told;

    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    (void)sigemptyset(&told);
    (void)sigaddset(&told, SIGUSR1);
    (void)sigaddset(&told, SIGTERM);
    (void)sigprocmask(SIG_BLOCK, &told, NULL);
    if (argc == 2)
        return work(argv[1], &told);
    (void)fprintf(stderr, "usage: worker NAME\n");
    return 2;
}
