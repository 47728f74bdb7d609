/*
 * Ready: tells systemd that the service is up.
 */
#ifndef GOALLOC_EXPORTER_READY_H
#define GOALLOC_EXPORTER_READY_H

/* Send a state such as "READY=1" to $NOTIFY_SOCKET. Nothing happens without one; a failure is printed. */
void ready_tell(const char *state);

#endif
