/*
 * bench_pair: malloc and free of one size in pairs and in batches, goalloc against mimalloc, interleaved in one run.
 *
 * Needs a running daemon: $GOALLOC_SOCKET. Prints the median of the rounds and the ratio; asserts nothing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <goalloc.h>

#define ROUNDS 15
#define OPS    2000000
#define BATCH  1000

/* From libmimalloc, which is linked; its header is not needed for two functions. */
void *mi_malloc(size_t size);
void mi_free(void *p);

static double now_ns(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

#define DEFINE_RUNS(name, alloc, release)                         \
    static double name##_pairs(size_t size)                       \
    {                                                             \
        double start = now_ns();                                  \
        for (int i = 0; i < OPS; i++) {                           \
            void *volatile p = alloc(size);                       \
            release(p);                                           \
        }                                                         \
        return (now_ns() - start) / OPS;                          \
    }                                                             \
    static double name##_batches(size_t size)                     \
    {                                                             \
        static void *batch[BATCH];                                \
        double start = now_ns();                                  \
        for (int i = 0; i < OPS / BATCH; i++) {                   \
            for (int j = 0; j < BATCH; j++)                       \
                batch[j] = alloc(size);                           \
            for (int j = 0; j < BATCH; j++)                       \
                release(batch[j]);                                \
        }                                                         \
        return (now_ns() - start) / OPS;                          \
    }

DEFINE_RUNS(goalloc, goalloc_malloc, goalloc_free)
DEFINE_RUNS(mimalloc, mi_malloc, mi_free)

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;

    return (x > y) - (x < y);
}

static void measure(const char *what, size_t size, double (*a)(size_t), double (*b)(size_t))
{
    double ours[ROUNDS];
    double theirs[ROUNDS];

    (void)a(size);
    (void)b(size);
    for (int i = 0; i < ROUNDS; i++) {
        ours[i] = a(size);
        theirs[i] = b(size);
    }
    qsort(ours, ROUNDS, sizeof(double), compare);
    qsort(theirs, ROUNDS, sizeof(double), compare);
    (void)printf("%-8s %6zu B   goalloc %6.2f ns   mimalloc %6.2f ns   ratio %.2f\n", what, size, ours[ROUNDS / 2],
                 theirs[ROUNDS / 2], ours[ROUNDS / 2] / theirs[ROUNDS / 2]);
}

int main(void)
{
    static const size_t sizes[] = { 8, 16, 64, 256, 1024, 8192 };
    int r = goalloc_attach(NULL);

    if (r < 0) {
        (void)fprintf(stderr, "attach: %s\n", goalloc_strerror(r));
        return EXIT_FAILURE;
    }
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        measure("pairs", sizes[i], goalloc_pairs, mimalloc_pairs);
        measure("batches", sizes[i], goalloc_batches, mimalloc_batches);
    }
    return EXIT_SUCCESS;
}
