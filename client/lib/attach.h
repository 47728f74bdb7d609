/*
 * Attach: how the process comes to the heap, leaves it, and forks.
 */
#ifndef GOALLOC_LIB_ATTACH_H
#define GOALLOC_LIB_ATTACH_H

/*
 * Make sure that there is a session: attach with the defaults if the process never was, with the options of the parent
 * if it is a forked child. 0, -ENOTCONN (it has left), or an error of goalloc_attach(). Cheap when there is one.
 */
int attach_ensure(void) __attribute__((warn_unused_result));

/* As attach_ensure(), and -EROFS in a read-only session. */
int attach_ensure_writable(void) __attribute__((warn_unused_result));

/* The socket of this process's daemon, an absolute path if one could be made; once it has attached. */
const char *attach_socket_path(void);

/*
 * For a program that reads the arena without giving memory to its holes (client/collector): the attach that comes next
 * leaves a copy of the arena's descriptor in *ret_fd, which is the caller's. -1: it has failed, or there is no copy.
 */
void attach_keep_arena(int *ret_fd);

#endif
