/*
 * Forklock: what the child of a fork must not find half done.
 *
 * fork() takes it, so a child sees all that is done under it either whole or not at all: mappings with the words that
 * say that they are there, and descriptors with the variables that hold them. It is never held over a wait, and nobody
 * takes another lock under it.
 */
#ifndef GOALLOC_LIB_FORKLOCK_H
#define GOALLOC_LIB_FORKLOCK_H

void forklock_take(void);
void forklock_give(void);

/* In a child of _Fork() or clone(), which call no handlers: another thread of the parent may have held it. */
void forklock_reset(void);

#endif
