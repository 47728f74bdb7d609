/*
 * worker: a process that uses a heap, for tests of what is seen of it from outside.
 *
 *     worker SOCKET GROUP LIMIT
 *
 * Attaches, as a member of that group unless it is empty, with that limit in bytes (0: none), and says so: "ready".
 * Then it does what each line of its standard input says, and answers "done ERRNO":
 *     fill N BYTES   allocate so many objects, and hold them
 *     churn N        allocate and free so many small objects
 *     grow BYTES     one object that may be refused
 * At the end of the input it detaches, and what it holds is left.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <goalloc.h>

static int fill(size_t n, size_t bytes)
{
    for (size_t i = 0; i < n; i++) {
        char *p = goalloc_malloc(bytes);

        if (p == NULL)
            return errno;
        memset(p, 1, bytes);
    }
    return 0;
}

static int churn(size_t n)
{
    for (size_t i = 0; i < n; i++) {
        void *p = goalloc_malloc(i % 1000 + 1);

        if (p == NULL)
            return errno;
        goalloc_free(p);
    }
    return 0;
}

static int grow(size_t bytes)
{
    return goalloc_malloc(bytes) == NULL ? errno : 0;
}

int main(int argc, char **argv)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    char line[128];
    int r;

    if (argc != 4)
        return 2;
    options.socket_path = argv[1];
    options.label = "worker";
    options.group = argv[2][0] == '\0' ? NULL : argv[2];
    options.flags = argv[2][0] == '\0' ? 0 : GOALLOC_ATTACH_RECLAIM;
    options.limit_bytes = strtoull(argv[3], NULL, 10);
    r = goalloc_attach(&options);
    if (r < 0) {
        (void)fprintf(stderr, "worker: attach: %s\n", goalloc_attach_error());
        return 1;
    }
    (void)printf("ready\n");
    while (fflush(stdout) == 0 && fgets(line, sizeof(line), stdin) != NULL) {
        unsigned long long a = 0;
        unsigned long long b = 0;

        if (sscanf(line, "fill %llu %llu", &a, &b) == 2)
            r = fill(a, b);
        else if (sscanf(line, "churn %llu", &a) == 1)
            r = churn(a);
        else if (sscanf(line, "grow %llu", &a) == 1)
            r = grow(a);
        else
            r = EINVAL;
        (void)printf("done %d\n", r);
    }
    return goalloc_detach() == 0 ? 0 : 1;
}
