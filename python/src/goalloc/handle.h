/* handle: the text by which a process opens a block of another one; handle.c has its form. No Python here. */
#ifndef GOALLOC_HANDLE_H
#define GOALLOC_HANDLE_H

#include "block.h"

#define HANDLE_MAX 80u

void handle_write(char text[HANDLE_MAX], uint64_t heap, const char key[BLOCK_KEY], holder who);

/* False: the text is no handle. */
bool handle_parse(const char *text, uint64_t *ret_heap, char key[BLOCK_KEY], holder *ret_who);

#endif
