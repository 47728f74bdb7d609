/*
 * Saver: the process that saves the heap at a stop.
 */
#ifndef GOALLOC_DAEMON_SAVER_H
#define GOALLOC_DAEMON_SAVER_H

#include "daemon/memory/heapfile.h"
#include "image/image.h"

typedef struct saver {
    int fd;           /* to the process; -1: there is none */
    const char *path; /* of the image */
} saver;

/*
 * Start it for the image of that name, where one must be able to come (image_check_place). Before the daemon has threads,
 * and privileges less. 0, -errno, and why.
 */
int saver_start(saver *s, const char *path, image_error *why) __attribute__((warn_unused_result));
void saver_end(saver *s);

/* Have it save the heap, which nobody writes until it says that it is done (serve/saving.h). 0, -errno. */
int saver_save(saver *s, const heapfile *file) __attribute__((warn_unused_result));

#endif
