/* process: which process this is, and what the kernel says of others; process.c has the details. No Python here. */
#ifndef GOALLOC_PROCESS_H
#define GOALLOC_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* 0 is what the kernel does not say. */
typedef struct process_facts {
    uint64_t start; /* in clock ticks: another process with the same number has another one */
    uint64_t stack; /* where its stack begins: exec draws another one. Told to who may look at its memory */
    bool has_ended; /* and nobody has waited for it: a zombie, none of whose threads lives */
} process_facts;

process_facts process_look(pid_t pid);

/* A number of this process, never 0: a child has another one, by whichever fork. No system call but at the first. */
uint64_t process_mark(void);

#endif
