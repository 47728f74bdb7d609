/*
 * Privileges: what a process of goallocd's may still do once it serves.
 */
#ifndef GOALLOC_DAEMON_PRIVILEGES_H
#define GOALLOC_DAEMON_PRIVILEGES_H

#include <stdbool.h>

/* The processes, each with its own list of system calls. */
enum privileges_process {
    PRIVILEGES_DAEMON,
    PRIVILEGES_KEEPER, /* forked from the daemon: it holds the heap's descriptors */
    PRIVILEGES_HELPER, /* forked from the daemon: it punches holes into the heap's files */
    PRIVILEGES_SAVER,  /* forked from the daemon: it writes the image of the heap */
    PRIVILEGES_PROCESSES
};

/* What becomes of a system call that is on no list. */
enum privileges_filter {
    PRIVILEGES_FILTER,      /* it fails with ENOSYS, or kills the process if nothing but an intruder makes it */
    PRIVILEGES_FILTER_KILL, /* it kills the process in any case: for tests */
    PRIVILEGES_NO_FILTER,   /* nor Landlock */
};

/* A sanitizer makes system calls of its own. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PRIVILEGES_FILTER_DEFAULT PRIVILEGES_NO_FILTER
#else
#define PRIVILEGES_FILTER_DEFAULT PRIVILEGES_FILTER
#endif

/*
 * Make the filters of all processes, so that to confine one takes no memory and no lock. Before all else here and the
 * first fork; it may fail, is logged, and processes have no filter then.
 */
void privileges_prepare(enum privileges_filter filter);

/*
 * The calling process, all of its threads and what it forks get no more privileges by execve(), and make the system
 * calls on the list alone. The calling thread, and threads that it makes from now on, have no capabilities, and write
 * no files; they make and remove sockets in dirs and below (ended by a NULL; the saver: files), and nothing else. In a
 * child of a process with threads it may be called, too. 0, or -errno: what could be done is done.
 */
int privileges_confine(enum privileges_process process, const char *const *dirs) __attribute__((warn_unused_result));

/* For a thread that exists when privileges_confine() is called: it gives up what only itself can, and needs nothing. */
void privileges_confine_thread(void);

#endif
