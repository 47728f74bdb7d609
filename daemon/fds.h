/*
 * Fds: the descriptors that a child of the daemon keeps.
 */
#ifndef GOALLOC_DAEMON_FDS_H
#define GOALLOC_DAEMON_FDS_H

/*
 * In a child: the nfds descriptors become 0, 1, and so on, as fds says then, and stay open over an exec; all others are
 * closed. The child ends if that can't be done.
 */
void fds_keep_only(int fds[], int nfds);

#endif
