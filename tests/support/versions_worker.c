/*
 * Versions worker: a program that uses the heap and does what it is told, a word a line. There is one of each version
 * of the library, for test_versions.c, which says what it wants and reads how it went.
 *
 *     versions_worker SOCKET NAME [readonly]
 *
 * It attaches, in group "pool" with GOALLOC_ATTACH_RECLAIM, and says "attached", or why not, and ends then. After it:
 *   make      a list of objects of many sizes, each with its address and size in it, published, and the root NAME
 *   check R   find root R, and go through its list
 *   churn     allocate and free, small and large; retains 100 objects of the group
 *   quit      end, without a detach
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "goalloc.h"

#define NLISTED 300
#define NKEPT   100

typedef struct listed {
    struct listed *next;
    uintptr_t self;
    size_t size;
} listed;

static int make(const char *name)
{
    listed *list = NULL;

    for (size_t i = 0; i < NLISTED; i++) {
        size_t size = sizeof(listed) + i * i;
        listed *l = goalloc_malloc(size);

        if (l == NULL || goalloc_publish(l) != 0)
            return -1;
        *l = (listed){ list, (uintptr_t)l, size };
        list = l;
    }
    return goalloc_root_set(name, list);
}

static int check(const char *name)
{
    size_t n = 0;
    void *p;

    if (goalloc_root_get(name, &p) != 0)
        return -1;
    for (const listed *l = p; l != NULL; l = l->next, n++) {
        if (l->self != (uintptr_t)l || goalloc_usable_size(l) < l->size)
            return -1;
    }
    return n == NLISTED ? 0 : -1;
}

static int churn(void)
{
    static void *kept[NKEPT];

    for (size_t i = 0; i < 20000; i++) {
        void **place = &kept[i % NKEPT];
        size_t size = 16 + i % 3000 + (i % 500 == 0 ? 400000 : 0);

        if (*place != NULL && goalloc_free_checked(*place) != 0)
            return -1;
        *place = goalloc_malloc(size);
        if (*place == NULL)
            return -1;
        memset(*place, 0x5a, size);
    }
    return 0;
}

int main(int argc, char **argv)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    char line[80];
    int r;

    if (argc < 3)
        return 2;
    options.socket_path = argv[1];
    options.group = argc > 3 ? NULL : "pool";
    options.flags = argc > 3 ? GOALLOC_ATTACH_READONLY : GOALLOC_ATTACH_RECLAIM;
    options.timeout_ms = 20000;
    r = goalloc_attach(&options);
    if (r != 0)
        (void)printf("%d %s\n", r, goalloc_attach_error());
    else
        (void)printf("attached\n");
    while (r == 0 && fflush(stdout) == 0 && fgets(line, sizeof(line), stdin) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        if (strcmp(line, "quit") == 0)
            return 0;
        if (strcmp(line, "make") == 0)
            r = make(argv[2]);
        else if (strncmp(line, "check ", 6) == 0)
            r = check(line + 6);
        else
            r = strcmp(line, "churn") == 0 ? churn() : -1;
        (void)printf("%s\n", r == 0 ? "ok" : "failed");
    }
    return r == 0 ? 0 : 1;
}
