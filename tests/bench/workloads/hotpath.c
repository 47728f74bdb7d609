/*
 * hotpath: a loop of malloc and free of 64 bytes for callgrind: suite.py counts the instructions of two loop lengths;
 * the difference, divided by the difference of the lengths, is what a pair costs, whatever start and end of the
 * program do. The same with a function that does nothing, called once a round, is what the loop itself costs.
 *
 *   bench-hotpath pair|empty N
 */
#include <goalloc.h>
#include <stdlib.h>
#include <string.h>

#define SIZE 64u

static __attribute__((noinline)) void *nothing(void *p)
{
    __asm__ volatile("" : "+r"(p));
    return p;
}

int main(int argc, char **argv)
{
    unsigned long n;

    if (argc != 3 || goalloc_attach(NULL) < 0)
        return EXIT_FAILURE;
    n = strtoul(argv[2], NULL, 10);
    if (strcmp(argv[1], "pair") == 0) {
        for (unsigned long i = 0; i < n; i++) {
            void *p = goalloc_malloc(SIZE);

            *(volatile unsigned long *)p = i;
            goalloc_free(p);
        }
    } else {
        static unsigned long word;

        for (unsigned long i = 0; i < n; i++)
            *(volatile unsigned long *)nothing(&word) = i;
    }
    return EXIT_SUCCESS;
}
