/*
 * Ready: tells systemd that a service beside the daemon is up: the exporter, the collector. The daemon has one of its
 * own (daemon/notify.c), which must not wait.
 */
#ifndef GOALLOC_PROTO_READY_H
#define GOALLOC_PROTO_READY_H

/* Send a state such as "READY=1" to $NOTIFY_SOCKET. Nothing happens without one; a failure is printed. */
void ready_tell(const char *state);

#endif
