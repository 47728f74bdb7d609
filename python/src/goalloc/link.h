/* link: goalloc_link() and goalloc_unlink_free(), patiently; link.c says how long. No Python here. */
#ifndef GOALLOC_LINK_H
#define GOALLOC_LINK_H

/*
 * As goalloc_link() and goalloc_unlink_free() of a slot (a pointer in the heap), again and again while too many threads
 * are at it, but not for ever: then -EAGAIN, and nothing has changed. After unlink_patiently() the slot has next also
 * if what it led to was no object, or free already.
 */
int link_patiently(void *slot, void *p);
int unlink_patiently(void *slot, void *next);

#endif
