/* One process builds a list in the shared heap and names it; another one reads and frees it. */
#include <stdio.h>
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
    int status;

    if (goalloc_attach(NULL) < 0) { /* the socket is $GOALLOC_SOCKET */
        (void)fprintf(stderr, "quickstart: %s\n", goalloc_attach_error());
        return 1;
    }
    if (argc > 1) { /* the reader, a program of its own */
        void *p;
        if (goalloc_root_get("list", &p) < 0 || goalloc_root_set("list", NULL) < 0)
            return 1; /* the name goes first: nobody else finds what is being freed */
        while ((list = p) != NULL) {
            printf("%d at %p\n", list->value, p);
            p = list->next;
            goalloc_free(list);
        }
        return 0;
    }
    for (int i = 1; i <= 3; i++) {
        struct node *n = goalloc_malloc(sizeof(*n));
        *n = (struct node){ list, i };
        list = n;
    }
    if (goalloc_root_set("list", list) == 0 && fork() == 0)
        execl("/proc/self/exe", argv[0], "read", (char *)NULL);
    return wait(&status) > 0 && status == 0 ? 0 : 1;
}
