/*
 * Faults: what a worker does wrong on purpose, so that a run shows that the storm notices. Called by worker.c.
 */
#include <sched.h>

#include "tests/storm/pattern.h"
#include "tests/storm/worker.h"

#define OPERATIONS_BEFORE 2000

/* Take the first object of more than 2 KiB out of the table, as the workers do: from then on it is the caller's. */
static uint64_t take_some(table *t)
{
    for (;;) {
        for (uint64_t i = 0; i < t->begin[ENTRY_SMALL]; i++) {
            uint64_t word = atomic_load(&t->entries[i]);

            if (word != 0 && atomic_compare_exchange_strong(&t->entries[i], &word, 0))
                return word;
        }
        (void)sched_yield();
    }
}

static void put(table *t, uint64_t word)
{
    for (;;) {
        for (uint64_t i = 0; i < t->begin[ENTRY_SMALL]; i++) {
            uint64_t empty = 0;

            if (atomic_compare_exchange_strong(&t->entries[i], &empty, word))
                return;
        }
        (void)sched_yield();
    }
}

/* One thread does it, at a given operation: however slow the machine is, the storm goes on until then. */
bool faults_are_due(const actor *a)
{
    return a->w->options->fault != FAULT_NONE && a->w->number == 0 && a->intent->thread == 0 &&
           atomic_load(&a->intent->nops) < OPERATIONS_BEFORE;
}

void faults_do(actor *a)
{
    table *t = a->w->t;
    uint64_t word;

    if (atomic_load(&a->intent->nops) != OPERATIONS_BEFORE || a->intent->thread != 0 || a->w->number != 0)
        return;
    switch (a->w->options->fault) {
    case FAULT_BYTE:
        word = take_some(t);
        ((volatile uint8_t *)word_pointer(word))[HEADER_BYTES + 4] ^= 1;
        put(t, word);
        return;
    case FAULT_LEAK:
        if (goalloc_malloc(100) == NULL)
            storm_die(a->intent, "fault: no memory");
        return;
    case FAULT_PRIVATE:
        if (goalloc_publish(goalloc_malloc(100)) != 0)
            storm_die(a->intent, "fault: publish");
        return;
    case FAULT_TWICE:
        word = take_some(t);
        put(t, word);
        put(t, word);
        return;
    case FAULT_HANG:
        for (;;)
            (void)pause();
    default:
        return;
    }
}
