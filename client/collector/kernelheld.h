/*
 * Kernelheld: values that a process has given the kernel to keep, and gets back: of epoll entries and POSIX timers.
 */
#ifndef GOALLOC_COLLECTOR_KERNELHELD_H
#define GOALLOC_COLLECTOR_KERNELHELD_H

#include "client/collector/proc.h"
#include "client/collector/trouble.h"
#include "client/collector/words.h"

typedef struct kernelheld {
    proc_text text;
    proc_list fds;
    uint64_t nfds;       /* looked at */
    uint64_t text_bytes; /* of epoll entries and timers: read */
} kernelheld;

void kernelheld_free(kernelheld *k);

/*
 * Look at what the kernel holds of the process; tid: a thread of it that lives. w NULL: for an estimate, which is what
 * nfds and text_bytes rise by, and whether it is opaque. 0; -EOPNOTSUPP: it has an io_uring; -ETIMEDOUT; -ENOMEM.
 */
int kernelheld_look(kernelheld *k, words_found *w, pid_t pid, pid_t tid, bool trust_kernel, uint64_t deadline_ns,
                    world_trouble *ret) __attribute__((warn_unused_result));

/* Parts of it: the words in the texts of /proc/PID/fdinfo/N, of an epoll descriptor, and of /proc/PID/timers. */
void kernelheld_look_at_fdinfo(words_found *w, const words_range *what, const char *text);
void kernelheld_look_at_timers(words_found *w, const words_range *what, const char *text);

#endif
