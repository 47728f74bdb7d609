/*
 * accounts: how much shared memory the processes of one server have allocated, from which lines of its sources, and
 * whether more is allowed. manager.c calls it with each allocation and free. It knows nothing of Kamailio.
 *
 * All of it lies in one anonymous shared mapping that is made before the server forks, so it ends with the server.
 *
 *   sites     which line of which module allocates; a table that only grows
 *   accounts  one for each thread that allocates or frees: bytes and objects by site, and the sum. Only the thread
 *             writes there, so nothing is locked and no line of the cache is shared. A thread that frees what another
 *             one has allocated goes below zero; only the sums over all accounts mean something.
 *
 * The limit. `held` is what a thread has allocated less what it has freed, `reserved` is how far held may go without a
 * look at others. When held would pass reserved, the thread adds all accounts' reserved up, and moves its own if the
 * sum stays below the limit. Two threads that do so at the same instant each see the other's new value, or one does:
 * the sum is looked at again after the store. So what is held never passes the limit. What counts is what was asked
 * for, not what the heap rounds up.
 *
 * A death. Every word is stored whole, so what a dead thread has written is right but for the object that it was at:
 * the sums may be wrong by one object a death. The account of a dead thread stays, since what it has allocated does;
 * the next thread that comes takes it over, with its figures. At the limit, what a dead thread had reserved and not
 * used is not counted. Nobody ever writes to another one's account.
 */
#ifndef GOALLOC_PROGRAMS_ACCOUNTS_H
#define GOALLOC_PROGRAMS_ACCOUNTS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ACCOUNTS_SITES 2048   /* a power of two; when it is full, further sites are counted as one */
#define ACCOUNTS_THREADS 1024 /* that live at the same time */

/* Where an allocation stands in the sources. The texts are the program's constants, at the same address in all. */
typedef struct accounts_site {
    _Atomic uint64_t key; /* the function's text and the line: see site_key(). 0: free; set once */
    _Atomic(const char *) file;
    _Atomic(const char *) module;
} accounts_site;

typedef struct accounts_sum {
    _Atomic int64_t bytes;
    _Atomic int64_t objects;
} accounts_sum;

typedef struct accounts_account {
    _Alignas(64) _Atomic int32_t tid; /* whose it is: a thread's number, which may be dead. 0: nobody's yet */
    _Atomic int64_t held;             /* bytes */
    _Atomic int64_t reserved;
    accounts_sum sites[ACCOUNTS_SITES];
} accounts_account;

typedef struct accounts {
    uint64_t limit;             /* bytes; set before the first fork */
    _Atomic int64_t peak;       /* of what all hold, as far as somebody has looked */
    _Atomic uint32_t naccounts; /* those from here on were never used */
    accounts_site sites[ACCOUNTS_SITES];
    accounts_account accounts[ACCOUNTS_THREADS];
} accounts;

/* What was allocated from one line of the sources, and lives. */
typedef struct accounts_use {
    const char *file, *func, *module;
    unsigned line;
    int64_t bytes, objects;
} accounts_use;

/* NULL with errno: there is no memory, or no room for it. */
accounts *accounts_create(uint64_t limit_bytes);

/* The number of a line's site; 0 stands for all those for which there was no room, and for unknown ones. */
uint16_t accounts_site_of(accounts *a, const char *file, const char *func, unsigned line, const char *module);

/* False: so much more would pass the limit. Else the thread may allocate it, and call accounts_add() then. */
bool accounts_allow(accounts *a, size_t size);

/* This thread has allocated (bytes and objects positive) or freed (negative) something of a site. */
void accounts_add(accounts *a, uint16_t site, int64_t bytes, int64_t objects);

/* What all hold. Goes through all accounts. */
int64_t accounts_held(accounts *a, int64_t *ret_objects);

/* Sum one site up over all accounts. False: the number is nobody's, or nothing of it lives. */
bool accounts_use_of(accounts *a, unsigned site, accounts_use *ret_use);

#endif
