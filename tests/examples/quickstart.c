/* One process builds a list in the shared heap and names it; another one finds it, reads it and frees it. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <goalloc.h>

struct node {
    struct node *next; /* a plain pointer, valid in every process */
    int value;
};

int main(int argc, char **argv)
{
    struct node *list = NULL;

    if (goalloc_attach(NULL) < 0) /* the socket is $GOALLOC_SOCKET */
        return EXIT_FAILURE;
    if (argc > 1) { /* the reader, a program of its own */
        if (goalloc_root_get("list", (void **)&list) < 0)
            return EXIT_FAILURE;
        for (struct node *next; list != NULL; list = next) {
            next = list->next;
            printf("%d at %p\n", list->value, (void *)list);
            goalloc_free(list);
        }
        return EXIT_SUCCESS;
    }
    for (int i = 1; i <= 3; i++) {
        struct node *n = goalloc_malloc(sizeof(*n));
        *n = (struct node){ list, i };
        list = n;
    }
    if (goalloc_root_set("list", list) < 0)
        return EXIT_FAILURE;
    if (fork() == 0)
        execl("/proc/self/exe", argv[0], "read", (char *)NULL);
    return wait(NULL) > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
