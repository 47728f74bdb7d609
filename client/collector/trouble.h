/*
 * Trouble: why a cycle can't be, for its caller: an error, the process in the way, and a sentence for people.
 */
#ifndef GOALLOC_COLLECTOR_TROUBLE_H
#define GOALLOC_COLLECTOR_TROUBLE_H

#include <stdarg.h>
#include <stdio.h>
#include <sys/types.h>

#define WORLD_TEXT_BYTES 256u

typedef struct world_trouble {
    int error;                   /* negative errno: see world_prepare() */
    pid_t pid;                   /* in the way; 0: nobody's fault */
    char text[WORLD_TEXT_BYTES]; /* a sentence for people, in printable ASCII, without a full stop */
} world_trouble;

/*
 * Note it, and return error. A sentence may name what other processes have chosen, a mapping or a program, and it goes to
 * terminals and logs: what is not printable ASCII becomes '?'.
 */
__attribute__((format(printf, 4, 5))) static inline int trouble_is(world_trouble *ret, int error, pid_t pid,
                                                                   const char *format, ...)
{
    va_list values;

    ret->error = error;
    ret->pid = pid;
    va_start(values, format);
    (void)vsnprintf(ret->text, sizeof(ret->text), format, values);
    va_end(values);
    for (char *c = ret->text; *c != '\0'; c++) {
        if (*c < ' ' || *c > '~')
            *c = '?';
    }
    return error;
}

#endif
