/*
 * accounts: how much shared memory the processes of one server have allocated, from which lines of its sources, and
 * whether more is allowed. manager.c calls it with each allocation and free, so what these take stands here, inline: an
 * allocation looks at two lines of the cache, a free at one of these two. It knows nothing of Kamailio.
 *
 * All of it lies in one anonymous shared mapping that is made before the server forks, so it ends with the server.
 *
 *   sites     which line of which module allocates; a table that only grows
 *   accounts  one for each thread that allocates or frees: bytes and objects by site, and the sum. Only the thread
 *             writes there, so nothing is locked and no line of the cache is shared. A thread that frees what another
 *             one has allocated goes below zero; only the sums over all accounts mean something. By each site stands
 *             its key again, once the thread has found it in the table: then the thread's next allocation from there
 *             looks at no other line. A key is the same in the table and in all accounts, or not there yet.
 *
 * The limit. `held` is what a thread has allocated less what it has freed, `reserved` is how far held may go without a
 * look at others. When held would pass reserved, the thread moves its reserved, then adds all accounts' up, and moves
 * its own back if the sum passes the limit. Of two threads that do so at the same instant at least one sees the other's
 * new value, since both store before they look; both may see it, and be refused. So what is held never passes the
 * limit. What counts is what was asked for, not what the heap rounds up.
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

#define ACCOUNTS_SITES 2048   /* 1 << ACCOUNTS_SITE_BITS; when it is full, further sites are counted as one */
#define ACCOUNTS_SITE_BITS 11
#define ACCOUNTS_THREADS 1024 /* that live at the same time */
#define ACCOUNTS_RESERVE_BYTES INT64_C(65536) /* by which a thread's reserved moves: then it looks at all accounts */

/* Where an allocation stands in the sources. The texts are the program's constants, at the same address in all. */
typedef struct accounts_site {
    _Atomic uint64_t key; /* see accounts_key(). 0: free; set once */
    _Atomic(const char *) file;
    _Atomic(const char *) module;
} accounts_site;

typedef struct accounts_sum {
    _Alignas(32) uint64_t key; /* the site's; 0: the thread has not allocated from there. Nobody else reads it */
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

/* Within the module alone: calls take no way through a table. */
#pragma GCC visibility push(hidden)

/* NULL with errno: there is no memory, or no room for it. */
accounts *accounts_create(uint64_t limit_bytes);

/* The thread's account; NULL: it has none yet. Initial-exec, as what libgoalloc has: else each look is a call. */
extern _Thread_local accounts_account *accounts_mine __attribute__((tls_model("initial-exec")));

/* An account for this thread. There is one: else the last is shared, and the sums may become wrong. */
accounts_account *accounts_find_mine(accounts *a);

/*
 * The number of a line's site; 0 stands for all those for which there was no room, and for unknown ones. The thread's
 * account knows it from then on, if it is the key's first place.
 */
uint16_t accounts_find_site(accounts *a, accounts_account *one, uint64_t key, const char *file, const char *module);

/* What accounts_allow() does when the thread has reserved too little. */
bool accounts_reserve(accounts *a, accounts_account *one, size_t size);

static inline accounts_account *accounts_my_own(accounts *a)
{
    return accounts_mine != NULL ? accounts_mine : accounts_find_mine(a);
}

/* Addresses of programs have 47 bits, so text and line fit a word; a line above 65535 shares one with another line. */
static inline uint64_t accounts_key(const char *func, unsigned line)
{
    return (uint64_t)(uintptr_t)func << 16 | (uint16_t)line;
}

/* The first place of a key. Others are looked at in order of their numbers. */
static inline unsigned accounts_place_of(uint64_t key)
{
    return (unsigned)((key * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - ACCOUNTS_SITE_BITS));
}

static inline uint16_t accounts_site_of(accounts *a, accounts_account *one, const char *file, const char *func,
                                        unsigned line, const char *module)
{
    uint64_t key = accounts_key(func, line);
    unsigned place = accounts_place_of(key);

    return one->sites[place].key == key ? (uint16_t)place : accounts_find_site(a, one, key, file, module);
}

/* False: so much more would pass the limit. Else the thread may allocate it, and call accounts_add() then. */
static inline bool accounts_allow(accounts *a, accounts_account *one, size_t size)
{
    int64_t room = atomic_load_explicit(&one->reserved, memory_order_relaxed) -
                   atomic_load_explicit(&one->held, memory_order_relaxed);

    return (int64_t)size <= room || accounts_reserve(a, one, size);
}

/* A plain addition: nobody else writes there. */
static inline int64_t accounts_count(_Atomic int64_t *word, int64_t more)
{
    int64_t sum = atomic_load_explicit(word, memory_order_relaxed) + more;

    atomic_store_explicit(word, sum, memory_order_relaxed);
    return sum;
}

/* This thread has allocated something of a site. */
static inline void accounts_add(accounts_account *one, uint16_t site, size_t bytes)
{
    (void)accounts_count(&one->held, (int64_t)bytes);
    (void)accounts_count(&one->sites[site].bytes, (int64_t)bytes);
    (void)accounts_count(&one->sites[site].objects, 1);
}

/* This thread has freed something of a site. What it has reserved is no more than it needs by much. */
static inline void accounts_subtract(accounts_account *one, uint16_t site, size_t bytes)
{
    int64_t held = accounts_count(&one->held, -(int64_t)bytes);

    (void)accounts_count(&one->sites[site].bytes, -(int64_t)bytes);
    (void)accounts_count(&one->sites[site].objects, -1);
    if (atomic_load_explicit(&one->reserved, memory_order_relaxed) - held > 2 * ACCOUNTS_RESERVE_BYTES)
        atomic_store_explicit(&one->reserved, held + ACCOUNTS_RESERVE_BYTES, memory_order_relaxed);
}

/* What all hold. Goes through all accounts. */
int64_t accounts_held(accounts *a, int64_t *ret_objects);

/* Sum one site up over all accounts. False: the number is nobody's, or nothing of it lives. */
bool accounts_use_of(accounts *a, unsigned site, accounts_use *ret_use);

#pragma GCC visibility pop

#endif
