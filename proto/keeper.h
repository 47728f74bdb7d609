/*
 * Keeper: what the process that holds a heap without systemd, and those who speak to it, agree on: daemon/keeper.c has
 * the conversation.
 */
#ifndef GOALLOC_PROTO_KEEPER_H
#define GOALLOC_PROTO_KEEPER_H

#define KEEPER_SOCKET "keeper.sock" /* in the state directory; SOCK_SEQPACKET, mode 0600 */
#define KEEPER_HEAP   "heap"        /* the keeper's first message, with the descriptors */
#define KEEPER_BYE    "bye"         /* to the keeper: the heap is not wanted any more */

/* The heap's memfds and the two ends of its shelf (daemon/memory/shelf.c), in the order in which they are passed on. */
enum {
    KEEPER_FD_ARENA,
    KEEPER_FD_SPANS,
    KEEPER_FD_BITMAP,
    KEEPER_FD_PRIVATE,
    KEEPER_NMEMFDS,
    KEEPER_FD_SHELF_IN = KEEPER_NMEMFDS,
    KEEPER_FD_SHELF_OUT,
    KEEPER_NFDS,
};

#endif
