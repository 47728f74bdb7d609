/*
 * Tagged stack: a lock-free stack in the shared heap.
 *
 * One word: the offset of the top node in units of 16 bytes (40 bits: as far as the largest arena reaches), and above
 * it a tag of 24 bits that changes with each push and each pop. Without the tag a pop could go wrong that has read
 * top A and its next B: others pop A and B and push A again, the word is A as before, and the pop would make B the
 * top, which is somebody's by now (ABA). With it, the pop goes wrong only if it was stopped over just a multiple of
 * 16,777,216 changes.
 *
 * A pop reads `next` of a node that others may have popped meanwhile. It does not use what it read then, but it reads:
 * so nodes go from stack to stack and are never freed while anybody may be in a pop.
 *
 * Nobody waits for the dead: the word is whole before and after each compare-and-swap. A process that is killed after a
 * pop and before it has written down whose the node is, or the other way round before a push, loses the node.
 */
#ifndef EXAMPLES_TAGGED_STACK_H
#define EXAMPLES_TAGGED_STACK_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <goalloc.h>

#define TAGGED_OFFSET_BITS 40
#define TAGGED_OFFSET_MASK ((UINT64_C(1) << TAGGED_OFFSET_BITS) - 1)

typedef struct tagged_node {
    _Atomic uint64_t next; /* offset / 16 of the node below; 0: none */
} tagged_node;

typedef struct tagged_stack {
    _Atomic uint64_t top; /* tag, offset / 16; of zeros: an empty stack */
} tagged_stack;

static inline tagged_node *tagged_node_of(uint64_t word)
{
    return goalloc_pointer((word & TAGGED_OFFSET_MASK) * 16); /* NULL for 0 */
}

static inline uint64_t tagged_next_word(uint64_t old, uint64_t offset16)
{
    return (((old >> TAGGED_OFFSET_BITS) + 1) << TAGGED_OFFSET_BITS) | offset16;
}

static inline void tagged_push(tagged_stack *s, tagged_node *node)
{
    uint64_t offset16 = goalloc_offset(node) / 16; /* nodes of 16 bytes and more are aligned to 16, but for 17 to 24 */
    uint64_t old = atomic_load(&s->top);

    do {
        atomic_store_explicit(&node->next, old & TAGGED_OFFSET_MASK, memory_order_relaxed);
    } while (!atomic_compare_exchange_weak(&s->top, &old, tagged_next_word(old, offset16)));
}

/* NULL: the stack is empty. */
static inline tagged_node *tagged_pop(tagged_stack *s)
{
    uint64_t old = atomic_load(&s->top);
    tagged_node *node;
    uint64_t next;

    do {
        node = tagged_node_of(old);
        if (node == NULL)
            return NULL;
        /* If node is not on top any more, this may be anything; then the word is not `old`. */
        next = atomic_load_explicit(&node->next, memory_order_relaxed);
    } while (!atomic_compare_exchange_weak(&s->top, &old, tagged_next_word(old, next)));
    return node;
}

#endif
