/*
 * accounts: see accounts.h for what is where and what a death leaves. Here is what is rare.
 *
 * A thread finds its account by a variable of its own. A forked child must not write to its parent's account: a handler
 * of fork() forgets it, and the child takes one of its own with its first allocation.
 */
#include "accounts.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

_Thread_local accounts_account *accounts_mine;

static void forget_mine(void)
{
    accounts_mine = NULL;
}

accounts *accounts_create(uint64_t limit_bytes)
{
    /* 64 MiB of addresses; what is not written to takes no memory. */
    accounts *a = mmap(NULL, sizeof(*a), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (a == MAP_FAILED)
        return NULL;
    if ((errno = pthread_atfork(NULL, NULL, forget_mine)) != 0) {
        (void)munmap(a, sizeof(*a));
        return NULL;
    }
    a->limit = limit_bytes;
    return a;
}

static bool is_dead(int32_t tid)
{
    return kill(tid, 0) < 0 && errno == ESRCH;
}

/* Take the account at i for this thread, if it is nobody's, or its owner is dead. */
static bool account_take(accounts *a, uint32_t i, int32_t tid)
{
    accounts_account *one = &a->accounts[i];
    int32_t owner = atomic_load(&one->tid);

    if (owner != 0 && owner != tid && !is_dead(owner))
        return false;
    if (!atomic_compare_exchange_strong(&one->tid, &owner, tid))
        return false; /* another thread was faster */
    accounts_mine = one;
    return true;
}

accounts_account *accounts_find_mine(accounts *a)
{
    int32_t tid = (int32_t)syscall(SYS_gettid);
    uint32_t used = atomic_load(&a->naccounts);
    uint32_t i;

    for (i = 0; i < used; i++)
        if (account_take(a, i, tid))
            return accounts_mine;
    for (; i < ACCOUNTS_THREADS; i++)
        if (account_take(a, i, tid)) {
            /* Who looks before this has changed misses an account with nothing in it. */
            while (used < i + 1 && !atomic_compare_exchange_weak(&a->naccounts, &used, i + 1))
                ;
            return accounts_mine;
        }
    return accounts_mine = &a->accounts[ACCOUNTS_THREADS - 1];
}

/*
 * Open addressing; a key is set once by compare-and-swap and stays. Who dies after that, before the texts are stored,
 * leaves a site without texts: the next one that comes to it stores them. All store the same.
 */
uint16_t accounts_find_site(accounts *a, accounts_account *one, uint64_t key, const char *file, const char *module)
{
    unsigned place = accounts_place_of(key), i = place;

    for (unsigned probes = 0; probes < 64; probes++, i = (i + 1) & (ACCOUNTS_SITES - 1)) {
        accounts_site *site = &a->sites[i];
        uint64_t found = atomic_load_explicit(&site->key, memory_order_acquire);

        if (i == 0)
            continue; /* that is the number of the unknown */
        if (found == 0 && atomic_compare_exchange_strong(&site->key, &found, key))
            found = key;
        if (found != key)
            continue;
        if (atomic_load_explicit(&site->module, memory_order_relaxed) == NULL) {
            atomic_store(&site->file, file);
            atomic_store(&site->module, module);
        }
        if (i == place)
            one->sites[i].key = key;
        return (uint16_t)i;
    }
    return 0;
}

/* The sum of what is reserved; of the dead, if they are looked at, what they hold. */
static int64_t sum_reserved(accounts *a, bool look_for_dead)
{
    uint32_t n = atomic_load(&a->naccounts);
    int64_t sum = 0, held = 0;

    for (uint32_t i = 0; i < n; i++) {
        accounts_account *one = &a->accounts[i];
        int64_t has = atomic_load(&one->held);
        int64_t wants = atomic_load(&one->reserved);

        held += has;
        sum += look_for_dead && one != accounts_mine && is_dead(atomic_load(&one->tid)) ? has : wants;
    }
    for (int64_t peak = atomic_load(&a->peak); held > peak;)
        if (atomic_compare_exchange_weak(&a->peak, &peak, held))
            break;
    return sum;
}

/* Move this thread's reserved to `to`, if the sum of all allows it. */
static bool reserve(accounts *a, accounts_account *one, int64_t to, bool look_for_dead)
{
    int64_t before = atomic_load(&one->reserved);

    atomic_store(&one->reserved, to); /* before the sum is made: of two who do this at once, one sees both */
    if (sum_reserved(a, look_for_dead) <= (int64_t)a->limit) /* below zero by what moves while it is added up */
        return true;
    atomic_store(&one->reserved, before);
    return false;
}

bool accounts_reserve(accounts *a, accounts_account *one, size_t size)
{
    int64_t held = atomic_load_explicit(&one->held, memory_order_relaxed);

    if (size > a->limit)
        return false;
    return reserve(a, one, held + (int64_t)size + ACCOUNTS_RESERVE_BYTES, false) ||
           reserve(a, one, held + (int64_t)size, false) || reserve(a, one, held + (int64_t)size, true);
}

int64_t accounts_held(accounts *a, int64_t *ret_objects)
{
    uint32_t n = atomic_load(&a->naccounts);
    int64_t held = 0, objects = 0;

    for (uint32_t i = 0; i < n; i++) {
        held += atomic_load(&a->accounts[i].held);
        for (unsigned site = 0; site < ACCOUNTS_SITES; site++)
            objects += atomic_load_explicit(&a->accounts[i].sites[site].objects, memory_order_relaxed);
    }
    if (ret_objects != NULL)
        *ret_objects = objects;
    return held;
}

bool accounts_use_of(accounts *a, unsigned site, accounts_use *ret_use)
{
    uint32_t n = atomic_load(&a->naccounts);
    uint64_t key = site < ACCOUNTS_SITES ? atomic_load(&a->sites[site].key) : 0;
    accounts_use use = { .file = "?", .func = "?", .module = "?" };

    if (site >= ACCOUNTS_SITES || (site != 0 && key == 0))
        return false;
    for (uint32_t i = 0; i < n; i++) {
        use.bytes += atomic_load_explicit(&a->accounts[i].sites[site].bytes, memory_order_relaxed);
        use.objects += atomic_load_explicit(&a->accounts[i].sites[site].objects, memory_order_relaxed);
    }
    if (key != 0) {
        const char *file = atomic_load(&a->sites[site].file);
        const char *module = atomic_load(&a->sites[site].module);

        use.func = (const char *)(uintptr_t)(key >> 16);
        use.line = (unsigned)(key & UINT16_MAX);
        use.file = file != NULL ? file : "?";
        use.module = module != NULL ? module : "?";
    }
    *ret_use = use;
    return use.objects != 0 || use.bytes != 0;
}
