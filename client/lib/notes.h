/*
 * Notes: what this process, in debug mode, knows of the places in its own spans. Private to it.
 */
#ifndef GOALLOC_LIB_NOTES_H
#define GOALLOC_LIB_NOTES_H

#include "client/lib/process.h"

/* A note of a place: its kind in the lowest two bits, then the bytes that were asked for. */
enum note_kind {
    NOTE_NONE = 0,
    NOTE_STAMPED, /* this process has allocated an object of so many bytes there, and stamped it */
    NOTE_FILLED,  /* this process has freed the object there, and filled it: nobody writes there before it is taken */
};

static inline uint64_t note_pack(enum note_kind kind, uint64_t asked)
{
    return asked << 2 | kind;
}

static inline enum note_kind note_kind_of(uint64_t note)
{
    return (enum note_kind)(note & 3);
}

static inline uint64_t note_asked(uint64_t note)
{
    return note >> 2;
}

/* The note of an object's place; NULL: this process has noted nothing during the present lease of the span. */
shm_u64 *notes_find(const object_ref *object);

/*
 * The same by the thread that has just allocated the object: if its span has another lease than the notes, these begin
 * anew. NULL: this process does not lease the span, or there is no memory for notes.
 */
shm_u64 *notes_begin(const object_ref *object);

/*
 * The notes of a span that goes back end. Who forbids something in it looks for its note again afterwards: it either
 * finds none, or had forbidden it before what the caller does next.
 */
void notes_end(page_no first);

/* The same for all spans: the session is lost. Until notes_resume() there are no notes. */
void notes_end_all(void);

/* In a child, and in a process that has detached: there may be notes again. */
void notes_resume(void);

/* Call visit for each piece of the arena in which there may be notes, or were before a fork. */
void notes_each_piece(void (*visit)(uint64_t offset, uint64_t bytes));

/* Forget all, with the memory. No other thread is in the library. */
void notes_forget(void);

#endif
