/*
 * What programs do wrong with objects, one way at each run, and what they do right: debug_worker CASE. test_debug.c
 * runs it with the debug variant of the library, with AddressSanitizer, and under Valgrind. What is right ends with 0;
 * what is wrong is to be reported before the end, which is 1.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <goalloc.h>

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            (void)fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition);                        \
            _exit(2);                                                                                                  \
        }                                                                                                              \
    } while (0)

static const size_t sizes[] = {
    1, 7, 8, 16, 24, 40, 48, 100, 1000, 4096, 32000, 32768, 40000, 100000, 300000, 2000000
};

#define NSIZES (sizeof(sizes) / sizeof(sizes[0]))

/* Where an access is meant that the compiler must neither see through nor leave out. */
static volatile unsigned char *hide(void *p)
{
    __asm__ volatile("" : "+r"(p));
    return p;
}

/* --- wrong --- */

static int overflow_of(size_t size)
{
    unsigned char *p = goalloc_malloc(size);

    hide(p)[size] = 'x';
    goalloc_free(p);
    return 1;
}

static int overflow(void)
{
    return overflow_of(40);
}

static int overflow_into_stamp(void)
{
    return overflow_of(48);
}

static int overflow_of_a_run(void)
{
    return overflow_of(100000);
}

static int overflow_of_a_large_object(void)
{
    return overflow_of(2000000);
}

static int overflow_found_by_free_checked(void)
{
    unsigned char *p = goalloc_calloc(1, 33);

    hide(p)[33] = 0x17;
    return goalloc_free_checked(p) == 0;
}

static int overflow_found_by_realloc(void)
{
    unsigned char *p = goalloc_malloc_noscan(10);

    hide(p)[11] = 'x';
    p = goalloc_realloc(p, 5000);
    return p != NULL;
}

static int overflow_found_by_unlink(void)
{
    void **slot = goalloc_malloc(sizeof(*slot));

    *slot = goalloc_malloc(20);
    hide(*slot)[20] = 'x';
    return goalloc_unlink_free(slot, NULL) == 0;
}

static int underflow(void)
{
    unsigned char *before = goalloc_malloc(32);
    unsigned char *p = goalloc_malloc(32);

    for (int i = 0; i < 100 && p != before + 48; i++) {
        before = p;
        p = goalloc_malloc(32);
    }
    CHECK(p == before + 48);
    hide(p)[-1] = 'x';
    goalloc_free(p);
    goalloc_free(before);
    return 1;
}

static int late_write_of(size_t size)
{
    unsigned char *p = goalloc_malloc(size);
    void *others[64];

    memset(p, 1, size);
    goalloc_free(p);
    hide(p)[8] = 'x';
    for (int i = 0; i < 64; i++) /* it is among those handed out next */
        others[i] = goalloc_malloc(size);
    return others[0] != NULL;
}

static int late_write(void)
{
    return late_write_of(56);
}

static int late_write_to_a_run(void)
{
    return late_write_of(50000);
}

static int double_free(void)
{
    void *p = goalloc_malloc(40);

    goalloc_free(p);
    goalloc_free((void *)hide(p));
    return 1;
}

static int inner_free(void)
{
    char *p = goalloc_malloc(40);

    goalloc_free((void *)(hide(p) + 8));
    return 1;
}

/* Reads: for those who see them. */
static int late_read(void)
{
    unsigned char *p = goalloc_calloc(1, 40);

    goalloc_free(p);
    return hide(p)[0] + 1;
}

static int read_behind(void)
{
    unsigned char *p = goalloc_calloc(1, 40);

    return hide(p)[40] + 1;
}

/* --- right --- */

static void fill(unsigned char *p, size_t size)
{
    memset(p, (int)(size ^ (uintptr_t)p >> 4), size);
}

static void check_fill(const unsigned char *p, size_t size, uintptr_t at, size_t asked)
{
    for (size_t i = 0; i < size; i++)
        CHECK(p[i] == (unsigned char)(asked ^ at >> 4));
}

/* Sizes, alignments and contents are what the API promises. */
static int promises(void)
{
    size_t none = SIZE_MAX;

    for (size_t i = 0; i < NSIZES; i++) {
        size_t n = sizes[i];
        unsigned char *p = goalloc_malloc(n);
        uintptr_t was = (uintptr_t)p;

        CHECK(p != NULL && goalloc_usable_size(p) >= n && (uintptr_t)p % (n >= 16 && n != 24 ? 16 : 8) == 0);
        fill(p, n);
        p = goalloc_realloc(p, n * 2);
        CHECK(p != NULL && goalloc_usable_size(p) >= n * 2);
        check_fill(p, n, was, n);
        CHECK(goalloc_realloc(p, n * 2) == p); /* it fits */
        p = goalloc_realloc(p, n / 2);
        CHECK(p != NULL && goalloc_usable_size(p) >= n / 2);
        check_fill(p, n / 2, was, n);
        goalloc_free(p);
        p = goalloc_calloc(n, 1);
        CHECK(p != NULL);
        for (size_t k = 0; k < n; k++)
            CHECK(p[k] == 0);
        CHECK(goalloc_free_checked(p) == 0 && goalloc_free_checked(p) < 0);
        p = goalloc_aligned_alloc(64, n);
        CHECK(p != NULL && (uintptr_t)p % 64 == 0);
        fill(p, n);
        goalloc_free(p);
    }
    __asm__("" : "+r"(none));
    CHECK(goalloc_malloc(none - 8) == NULL && errno == ENOMEM);
    CHECK(goalloc_calloc(none / 2, 3) == NULL && errno == ENOMEM);
    CHECK(goalloc_aligned_alloc(48, 1) == NULL && errno == EINVAL);
    goalloc_free(goalloc_malloc(0));
    goalloc_free(NULL);
    return 0;
}

#define CHURN_OBJECTS 400
#define CHURN_STEPS 30000

typedef struct churned {
    unsigned char *p;
    size_t size;
    uintptr_t at;
} churned;

static void free_all(churned *objects)
{
    for (int k = 0; k < CHURN_OBJECTS; k++) {
        goalloc_free(objects[k].p);
        objects[k].p = NULL;
    }
}

/* Random operations; contents are checked, and spans are offered, taken back and given back meanwhile. */
static void *churn(void *seed)
{
    static _Thread_local churned objects[CHURN_OBJECTS];
    unsigned random = (unsigned)(uintptr_t)seed;
    int nsteps = getenv("DEBUG_WORKER_STEPS") != NULL ? atoi(getenv("DEBUG_WORKER_STEPS")) : CHURN_STEPS;

    for (int i = 0; i < nsteps; i++) {
        churned *o = &objects[rand_r(&random) % CHURN_OBJECTS];
        size_t size = sizes[(size_t)rand_r(&random) % (NSIZES - 3)] + (size_t)rand_r(&random) % 16;

        if (o->p != NULL)
            check_fill(o->p, o->size < 64 ? o->size : 64, o->at, o->size);
        if (o->p == NULL) {
            o->p = goalloc_malloc(size);
        } else if (rand_r(&random) % 8 == 0) {
            o->p = goalloc_realloc(o->p, size);
        } else {
            goalloc_free(o->p);
            o->p = NULL;
            continue;
        }
        CHECK(o->p != NULL);
        o->size = size;
        o->at = (uintptr_t)o->p;
        fill(o->p, size);
        if (i % 200 == 199) {
            free_all(objects);
            CHECK(i % 400 != 399 || goalloc_trim() == 0);
        }
    }
    free_all(objects);
    return NULL;
}

static int right_churn(void)
{
    pthread_t threads[3];

    CHECK(goalloc_attach(NULL) == 0);
    for (uintptr_t i = 0; i < 3; i++)
        CHECK(pthread_create(&threads[i], NULL, churn, (void *)(i + 1)) == 0);
    for (int i = 0; i < 3; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    (void)churn((void *)(uintptr_t)7); /* in what the others have left */
    return 0;
}

#define RUNS_MAX 100
#define RUN_ASKED 100000u
#define RUN_PLACE (13u * 8192u)
#define NOTES_BYTES (1024u * 1024u) /* that the library keeps notes of at a time */

static int crosses(const volatile unsigned char *run)
{
    return (uintptr_t)run / NOTES_BYTES != ((uintptr_t)run + RUN_PLACE - 1) / NOTES_BYTES;
}

/* A run that ends where the library has no note yet: nothing of it stays forbidden in a child. */
static void fork_with_runs(void)
{
    volatile unsigned char *runs[RUNS_MAX];
    int nruns = 0;
    int status;
    pid_t pid;

    do {
        CHECK(nruns < RUNS_MAX && (runs[nruns] = goalloc_malloc(RUN_ASKED)) != NULL);
    } while (!crosses(runs[nruns++]));
    goalloc_free((void *)(uintptr_t)runs[--nruns]);
    pid = fork();
    if (pid == 0) {
        for (unsigned at = 0; at < RUN_PLACE; at += 8)
            (void)runs[nruns][at];
        _exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    while (nruns > 0)
        goalloc_free((void *)(uintptr_t)runs[--nruns]);
}

/* A child begins anew: it uses its parent's objects, and its parent's places once they have gone back. */
static int forks(void)
{
    unsigned char *objects[1000];
    int status;
    pid_t pid;

    fork_with_runs();
    for (int i = 0; i < 1000; i++)
        fill(objects[i] = goalloc_malloc(100), 100);
    for (int i = 0; i < 1000; i += 2)
        goalloc_free(objects[i]);
    pid = fork();
    if (pid == 0) {
        for (int i = 1; i < 1000; i += 2) {
            check_fill(objects[i], 100, (uintptr_t)objects[i], 100);
            CHECK(goalloc_usable_size(objects[i]) >= 100);
            goalloc_free(objects[i]);
        }
        (void)churn((void *)(uintptr_t)1);
        _exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    (void)churn((void *)(uintptr_t)2);
    CHECK(goalloc_detach() == 0 && goalloc_attach(NULL) == 0);
    (void)churn((void *)(uintptr_t)3);
    return 0;
}

#define TRIMS 300
#define TRIM_OBJECTS 400

typedef struct trimmed {
    unsigned char *objects[TRIM_OBJECTS];
    atomic_int ready;
} trimmed;

static void *allocate_and_trim(void *arg)
{
    trimmed *t = arg;

    for (int i = 0; i < TRIM_OBJECTS; i++)
        CHECK((t->objects[i] = goalloc_malloc(100)) != NULL);
    atomic_store(&t->ready, 1);
    CHECK(goalloc_trim() == 0);
    return NULL;
}

/*
 * A trim gives the thread's spans back with the objects in them, while this thread frees these. Afterwards the spans are
 * nobody's: nothing of them may be forbidden, since others may have allocated there.
 */
static int trims(void)
{
    for (int n = 0; n < TRIMS; n++) {
        static trimmed t;
        pthread_t id;

        atomic_store(&t.ready, 0);
        CHECK(pthread_create(&id, NULL, allocate_and_trim, &t) == 0);
        while (atomic_load(&t.ready) == 0)
            ;
        for (int i = 0; i < TRIM_OBJECTS; i++)
            goalloc_free(t.objects[i]);
        CHECK(pthread_join(id, NULL) == 0);
        for (int i = 0; i < TRIM_OBJECTS; i++) {
            const volatile unsigned char *place = t.objects[i];

            (void)place[50];
        }
    }
    return 0;
}

/* --- with others: by lines on stdin and stdout. The addresses are of objects of 100 bytes. --- */

static void tell(const void *p)
{
    (void)printf("%llx\n", (unsigned long long)(uintptr_t)p);
    (void)fflush(stdout);
}

static unsigned char *hear(void)
{
    unsigned long long at;

    CHECK(scanf("%llx", &at) == 1);
    return (unsigned char *)(uintptr_t)at;
}

#define SHARED_OBJECTS 3000
#define NO_TRIAL       3 /* the other one's objects were elsewhere */

static unsigned char *shared[SHARED_OBJECTS];

static void make_shared(void)
{
    for (int i = 0; i < SHARED_OBJECTS; i++)
        fill(shared[i] = goalloc_malloc(100), 100);
}

static void free_shared(void)
{
    for (int i = 0; i < SHARED_OBJECTS; i++)
        goalloc_free(shared[i]);
}

/* True if it is in a page in which objects of ours were, of which there were some 60 each. */
static int is_place_of_ours(const unsigned char *p)
{
    for (int i = 0; i < SHARED_OBJECTS; i += 16) {
        if ((uintptr_t)p / 8192 == (uintptr_t)shared[i] / 8192)
            return 1;
    }
    return 0;
}

/*
 * Allocate and free, so that the spans leave; hear of objects that another process has made in these places: read, write
 * and free them. Then make some, which the other one resizes and frees, and use their places again.
 */
static int share(int trims)
{
    int nours = 0;
    unsigned char *p;

    CHECK(goalloc_attach(NULL) == 0);
    make_shared();
    free_shared();
    CHECK(!trims || goalloc_trim() == 0);
    tell(NULL); /* now the other one */
    while ((p = hear()) != NULL) {
        size_t usable = goalloc_usable_size(p);

        nours += is_place_of_ours(p);
        for (size_t i = 0; i < usable; i++)
            p[i] = (unsigned char)(p[i] + 1);
        goalloc_free(p);
    }
    make_shared();
    for (int i = 0; i < SHARED_OBJECTS; i++)
        tell(shared[i]);
    tell(NULL);
    CHECK(hear() == NULL); /* they are free */
    make_shared();
    free_shared();
    return nours > 0 ? 0 : NO_TRIAL;
}

/* They go back. */
static int shares(void)
{
    return share(1);
}

/* They are offered, and the daemon takes them. */
static int offers(void)
{
    return share(0);
}

/* Allocate one object, tell of it, and be killed. */
static int dies(void)
{
    CHECK(goalloc_attach(NULL) == 0);
    tell(goalloc_malloc(100));
    (void)pause();
    return 1;
}

/* Free what another process in debug mode, or one that is none, has made. */
static int frees(void)
{
    unsigned char *p;

    CHECK(goalloc_attach(NULL) == 0);
    while ((p = hear()) != NULL)
        goalloc_free(p);
    return 0;
}

/* --- a storm of processes of all kinds --- */

#define STORM_ENTRIES 256
#define STORM_WORKERS 8

/* A root: objects that are handed on, and what each worker has done. */
typedef struct storm_table {
    unsigned char *_Atomic entries[STORM_ENTRIES];
    uint64_t _Atomic nsteps[STORM_WORKERS];
} storm_table;

static volatile sig_atomic_t ending;

static void on_term(int number)
{
    (void)number;
    ending = 1;
}

/* The first 8 bytes of an object say how many there are, the others what they are. */
static unsigned char *storm_make(unsigned *random)
{
    uint64_t size = sizeof(size) + sizes[(size_t)rand_r(random) % (NSIZES - 2)] + (size_t)rand_r(random) % 16;
    unsigned char *p = rand_r(random) % 2 != 0 ? goalloc_malloc(size) : goalloc_calloc(1, size);

    CHECK(p != NULL);
    memcpy(p, &size, sizeof(size));
    memset(p + sizeof(size), (int)(size & 0xff), size - sizeof(size));
    return p;
}

/* Another process's object, or this one's: look at it, and resize it, or use all of it, or neither; free it. */
static void storm_use(unsigned char *p, unsigned *random)
{
    uint64_t size;
    uint64_t longer;

    memcpy(&size, p, sizeof(size));
    CHECK(goalloc_usable_size(p) >= size);
    for (size_t i = sizeof(size); i < size; i += 13)
        CHECK(p[i] == (unsigned char)size);
    longer = size + (size_t)rand_r(random) % 48;
    if (rand_r(random) % 3 == 0) {
        p = goalloc_realloc(p, longer);
        CHECK(p != NULL);
        memset(p, 1, longer);
    } else if (rand_r(random) % 3 == 0) {
        memset(p, 2, goalloc_usable_size(p));
    }
    goalloc_free(p);
}

static int storms(void)
{
    unsigned number = (unsigned)atoi(getenv("DEBUG_WORKER_NUMBER")) % STORM_WORKERS;
    unsigned random = (unsigned)getpid();
    storm_table *table;
    void *root;

    (void)signal(SIGTERM, on_term);
    CHECK(goalloc_attach(NULL) == 0);
    CHECK(goalloc_root_get_or_create("storm", sizeof(*table), 1, NULL, NULL, &root, NULL) == 0);
    table = root;
    while (!ending) {
        unsigned char *p = storm_make(&random);

        p = atomic_exchange(&table->entries[rand_r(&random) % STORM_ENTRIES], p);
        if (p != NULL)
            storm_use(p, &random);
        if (rand_r(&random) % 500 == 0)
            CHECK(goalloc_trim() == 0);
        (void)atomic_fetch_add(&table->nsteps[number], 1);
    }
    return 0;
}

static const struct {
    const char *name;
    int (*run)(void);
} cases[] = {
    { "overflow", overflow },
    { "overflow_into_stamp", overflow_into_stamp },
    { "overflow_of_a_run", overflow_of_a_run },
    { "overflow_of_a_large_object", overflow_of_a_large_object },
    { "overflow_found_by_free_checked", overflow_found_by_free_checked },
    { "overflow_found_by_realloc", overflow_found_by_realloc },
    { "overflow_found_by_unlink", overflow_found_by_unlink },
    { "underflow", underflow },
    { "late_write", late_write },
    { "late_write_to_a_run", late_write_to_a_run },
    { "double_free", double_free },
    { "inner_free", inner_free },
    { "late_read", late_read },
    { "read_behind", read_behind },
    { "promises", promises },
    { "churn", right_churn },
    { "forks", forks },
    { "trims", trims },
    { "shares", shares },
    { "offers", offers },
    { "dies", dies },
    { "frees", frees },
    { "storms", storms },
};

int main(int argc, char **argv)
{
    for (size_t i = 0; argc == 2 && i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (strcmp(argv[1], cases[i].name) == 0)
            return cases[i].run();
    }
    (void)fprintf(stderr, "usage: debug_worker CASE\n");
    return 2;
}
