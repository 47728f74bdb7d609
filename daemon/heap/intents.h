/*
 * Intents: finishes or undoes what a dead process was linking or unlinking. The daemon's side of shm/intents.h.
 */
#ifndef GOALLOC_DAEMON_HEAP_INTENTS_H
#define GOALLOC_DAEMON_HEAP_INTENTS_H

#include "daemon/heap/lease.h"

/*
 * Settle all that the session's process has left under way, and what is there in the name of no session. It is dead, or
 * has detached, and the session's leases have not begun to end. May be repeated. Linear in the holds that there can be
 * (32 KiB), if anybody has ever set one.
 */
void intents_settle(lease_table *table, session_no session);

#endif
