/*
 * Notify: tell systemd how the service is doing (sd_notify's datagram protocol).
 */
#ifndef GOALLOC_DAEMON_NOTIFY_H
#define GOALLOC_DAEMON_NOTIFY_H

#include <stdbool.h>

/* True if systemd, or who does as it does, has started this process as a service of Type=notify. */
bool notify_is_wanted(void);

/* Send a state such as "READY=1" to $NOTIFY_SOCKET. Without that nothing happens; a failure is logged. */
void notify_systemd(const char *state);

/* The same with up to 6 descriptors. */
void notify_systemd_fds(const char *state, const int *fds, int nfds);

/*
 * A reload of the configuration begins, and it is over, whatever came of it: each notify_reloading() is followed by a
 * notify_ready(). Between the two `systemctl reload` waits, and the service counts as reloading.
 */
void notify_reloading(void);
void notify_ready(void);

#endif
