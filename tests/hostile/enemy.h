/*
 * Enemy: what attacks are made of: connections and sessions without the library. Nothing here ends the process when
 * the daemon refuses something.
 */
#ifndef GOALLOC_TESTS_HOSTILE_ENEMY_H
#define GOALLOC_TESTS_HOSTILE_ENEMY_H

#include "tests/hostile/attack.h"
#include "tests/support/rawheap.h"

/* A connection that does not block, or -1. */
int enemy_connect(const attacker *a);

/* As enemy_connect(); waits a while after a refusal, and counts it. */
int enemy_must_connect(attacker *a);

/*
 * Open a session on ret->fd, which is connected. With map the tables are mapped, and the descriptor of the sign of
 * life stays open. limit_bytes 0: none. 0, or the error of the reply; -1: disconnected.
 */
int enemy_attach(rawheap *ret, uint64_t limit_bytes, uint32_t flags, const char *label, bool map);

/* The same from the connection on, until it succeeds. */
void enemy_must_attach(attacker *a, rawheap *ret, uint64_t limit_bytes, uint32_t flags, bool map);

/* Let go of all that enemy_attach() has brought. */
void enemy_close(rawheap *heap);

/* Frames of requests, one behind the other. Returns the bytes. */
size_t enemy_pack(uint8_t *buf, size_t cap_bytes, Goallocd__Request *request, unsigned n);

/* Send as much as the socket takes. The bytes, -1: disconnected. */
ssize_t enemy_send(int fd, const uint8_t *data, size_t len_bytes);

/* Read and drop what has come. False: disconnected. */
bool enemy_drain(int fd);

/* Send all of it, and drop replies meanwhile. False: disconnected. */
bool enemy_push(int fd, const uint8_t *data, size_t len_bytes);

void enemy_deed(attacker *a, uint64_t n);
void enemy_refused(attacker *a);

#endif
