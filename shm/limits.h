/*
 * Limits: numbers that daemon and clients must agree on, each of them here alone. Error texts and tests use them.
 *
 * What else both sides know: layout.h (structures), sizeclass.h (small objects), proto/frame.h (messages). The limits
 * of structures and runs are part of the layout: who changes one raises its major number (README.md, "Versions").
 */
#ifndef GOALLOC_SHM_LIMITS_H
#define GOALLOC_SHM_LIMITS_H

#include "shm/sizeclass.h"

/* The number of a limit as a string literal, for texts. The limit must be a plain decimal number. */
#define SHM_TEXT(limit)        SHM_TEXT_LITERAL(limit)
#define SHM_TEXT_LITERAL(text) #text

/*
 * A run is a span of whole pages with one object, which mcaches hold as they hold spans of small objects. To raise the
 * longest one, change SHM_RUN_PAGES_MAX; assertions say where a type becomes too narrow for it.
 */
#define SHM_RUN_PAGES_MIN 5
#define SHM_RUN_PAGES_MAX 32
#define SHM_RUN_BYTES_MAX (SHM_RUN_PAGES_MAX * PAGE_BYTES)

_Static_assert(SHM_RUN_PAGES_MIN == SMALL_BYTES_MAX / PAGE_BYTES + 1, "runs begin where small objects end");
_Static_assert(SHM_RUN_PAGES_MAX >= SHM_RUN_PAGES_MIN, "there are runs");

/* Free memory that a daemon keeps ready however little is in use. */
#define SHM_STOCK_PAGES (8 * MIB / PAGE_BYTES)

#define SHM_REFILL_PAGES_MAX (8 * MIB / PAGE_BYTES) /* that a refill may bring, in spans of any kind */

/* The largest alignment that an object can ask for. */
#define SHM_ALIGN_MIB_MAX   64
#define SHM_ALIGN_BYTES_MAX (SHM_ALIGN_MIB_MAX * MIB)
#define SHM_ALIGN_PAGES_MAX (SHM_ALIGN_BYTES_MAX / PAGE_BYTES)

#define SHM_ARENA_BYTES_MAX (16 * TIB)
#define SHM_SESSIONS_MAX    4096u /* entry 0 is not used */
#define SHM_INTENTS_MAX     128u  /* of a session at a time: as many of its threads link or unlink */
#define SHM_HOLDS_MAX       4096u /* of all sessions */
#define SHM_ROOTS_MAX       4096
#define SHM_ROOT_NAME_MAX   255 /* bytes, without the terminating zero */
#define SHM_MAKING_MAX      64  /* roots that a session makes at the same time */
#define SHM_LABEL_MAX       63  /* bytes, without the terminating zero */
#define SHM_GROUPS_MAX      1024u /* with a name, of all users */
#define SHM_GROUP_NAME_MAX  63    /* bytes, without the terminating zero */
#define SESSION_TOKEN_BYTES 16u /* by which a process shows that a session is its own, or its parent's group */

/* Owners of objects: 0 is the heap, then come sessions without a group name, then groups. */
#define SHM_OWNERS_MAX (SHM_SESSIONS_MAX + SHM_GROUPS_MAX)

/* Or'ed into a root's type tag: init runs once in each heap. */
#define ROOT_REINIT (UINT64_C(1) << 63)

/* Where the daemon serves and everybody looks for it, unless told otherwise. */
#define SHM_SOCKET_PATH "/run/goallocd/goallocd.sock"

/* Flags of a session, as its Attach has asked for them. */
#define SESSION_RECLAIM  UINT32_C(1)
#define SESSION_READONLY UINT32_C(2)

#endif
