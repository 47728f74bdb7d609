/*
 * Faults: what a worker does wrong on purpose, so that a run shows that the storm notices. Called by worker.c.
 */
#include "tests/storm/pattern.h"
#include "tests/storm/worker.h"

#define OPERATIONS_BEFORE 2000

/* The first object in the table; 0: there is none. */
static uint64_t some_word(const table *t)
{
    for (uint32_t i = 0; i < t->nentries; i++) {
        uint64_t word = atomic_load(&t->entries[i]);

        if (word != 0)
            return word;
    }
    return 0;
}

static void put_again(table *t, uint64_t word)
{
    for (uint32_t i = 0; i < t->nentries; i++) {
        uint64_t empty = 0;

        if (atomic_compare_exchange_strong(&t->entries[i], &empty, word))
            return;
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

    if (atomic_load(&a->intent->nops) != OPERATIONS_BEFORE || a->intent->thread != 0 || a->w->number != 0)
        return;
    switch (a->w->options->fault) {
    case FAULT_BYTE:
        ((volatile uint8_t *)word_pointer(some_word(t)))[HEADER_BYTES + 4] ^= 1;
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
        put_again(t, some_word(t));
        return;
    case FAULT_HANG:
        for (;;)
            (void)pause();
    default:
        return;
    }
}
