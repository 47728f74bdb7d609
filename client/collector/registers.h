/*
 * Registers: of a thread that this one has stopped.
 */
#ifndef GOALLOC_COLLECTOR_REGISTERS_H
#define GOALLOC_COLLECTOR_REGISTERS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "client/collector/words.h"

/* The most of extended state that is read: with AMX or SVE and SME it is some 80 KiB. */
#define REGISTERS_ROOM (UINT32_C(128) << 10)

/* Where some of them lead to. */
typedef struct registers_leads {
    uint64_t stack;  /* stack pointer */
    uint64_t thread; /* thread pointer */
    uint64_t code;   /* program counter */
    uint64_t link;   /* where the function returns to, on processors that have it in a register; 0 else */
} registers_leads;

/* Looks at all registers of the thread. buffer has REGISTERS_ROOM bytes. 0, or -ESRCH: it is not stopped any more. */
int registers_look(words_found *w, pid_t pid, pid_t tid, uint64_t *buffer, registers_leads *ret)
    __attribute__((warn_unused_result));

/* The values that signals carry which wait for the thread, or (shared) for its process, or (stopped_by) that stopped
 * it. */
void registers_look_at_signals(words_found *w, pid_t pid, pid_t tid, bool shared, bool stopped_by);

#endif
