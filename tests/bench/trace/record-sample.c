/*
 * record-sample: a program to be recorded by the tests, whose allocations are known.
 *
 * Threads hand objects to each other, there is a child by fork, and everything that the recorder knows is called.
 * Figures that tests/integration/test_replay.c looks for stand at the definitions.
 */
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 4
#define OBJECTS 2000 /* mallocs of each thread, freed by the next thread */

static char *objects[THREADS][OBJECTS];
static size_t numbers[THREADS] = { 0, 1, 2, 3 };
static pthread_barrier_t barrier;

static void *run(void *arg)
{
    size_t me = *(const size_t *)arg;

    for (size_t i = 0; i < OBJECTS; i++) {
        objects[me][i] = malloc(24 + i % 100);
        if (objects[me][i] != NULL)
            objects[me][i][0] = (char)me;
    }
    (void)pthread_barrier_wait(&barrier);
    for (size_t i = 0; i < OBJECTS; i++)
        free(objects[(me + 1) % THREADS][i]);
    return NULL;
}

int main(void)
{
    pthread_t threads[THREADS];
    char *grown = NULL;
    void *aligned = NULL;
    int status = 1;
    pid_t pid;

    for (size_t i = 1; i <= 64; i++) { /* one malloc, 63 reallocs to 64 KiB */
        char *p = realloc(grown, i * 1024);

        if (p == NULL)
            return 1;
        grown = p;
        memset(grown, 1, i * 1024);
    }
    if (posix_memalign(&aligned, 4096, 10000) != 0) /* one aligned of 10000 bytes */
        return 1;
    (void)pthread_barrier_init(&barrier, NULL, THREADS);
    for (size_t i = 0; i < THREADS; i++) {
        if (pthread_create(&threads[i], NULL, run, &numbers[i]) != 0)
            return 1;
    }
    for (size_t i = 0; i < THREADS; i++)
        (void)pthread_join(threads[i], NULL);
    pid = fork();
    if (pid == 0) {
        void *volatile mine = malloc(12345); /* the child's only one */

        free(aligned); /* not known to its recorder */
        free(mine);
        _exit(0);
    }
    (void)waitpid(pid, &status, 0);
    (void)printf("%zu\n", malloc_usable_size(grown) >= 64 * (size_t)1024 ? (size_t)64 : 0);
    free(aligned);
    return status; /* grown is live at the end */
}
