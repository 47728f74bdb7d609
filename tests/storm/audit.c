/*
 * Audit: accounts for every live object at a round's end. Called by round.c when no process of the round lives.
 *
 *   1. No session and no lease is left. The daemon counts the live objects.
 *   2. A process attaches. Each word in the table is an object, no two words are the same one, and its content is
 * right.
 *   3. Intents of dead threads (board.h): where one says that an object is live, it is, in no entry and in no other
 * hand. Where it may be live, it counts if it is live, in no entry and in no other hand.
 *   4. The daemon's count is the table itself, the objects in it, those in hands, and a rest: not below 0, and not
 * above the number of threads that died where an object may be there that nobody knows of. RECLAIM sessions' private
 *      objects appear nowhere: they must be gone.
 *   5. All that is known is freed. The rest is left, exactly.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/storm/board.h"
#include "tests/storm/pattern.h"
#include "tests/storm/round.h"
#include "tests/storm/worker.h"

/* What the auditor finds: it is a process of its own, since the supervisor never attaches. On the board's page. */
typedef struct findings {
    uint64_t nlive; /* the daemon's count, before */
    uint64_t ntable, nhands, nunknown, nunknown_max, ndead;
} findings;

typedef struct known {
    uint64_t *words; /* the table's, sorted by address; hands' are appended */
    size_t n, nsorted;
} known;

static int by_address(const void *a, const void *b)
{
    uintptr_t left = (uintptr_t)word_pointer(*(const uint64_t *)a);
    uintptr_t right = (uintptr_t)word_pointer(*(const uint64_t *)b);

    return (left > right) - (left < right);
}

static bool is_known(const known *k, uint64_t word)
{
    if (bsearch(&word, k->words, k->nsorted, sizeof(word), by_address) != NULL)
        return true;
    for (size_t i = k->nsorted; i < k->n; i++) {
        if (by_address(&word, &k->words[i]) == 0)
            return true;
    }
    return false;
}

static void look_at_table(const table *t, known *k)
{
    for (uint32_t i = 0; i < t->nentries; i++) {
        uint64_t word = atomic_load(&t->entries[i]);

        if (word == 0)
            continue;
        if (goalloc_usable_size(word_pointer(word)) == 0)
            storm_die(NULL, "audit: entry %u names %p, which is no live object", i, word_pointer(word));
        (void)pattern_check(NULL, word);
        k->words[k->n++] = word;
    }
    qsort(k->words, k->n, sizeof(k->words[0]), by_address);
    k->nsorted = k->n;
    for (size_t i = 1; i < k->n; i++) {
        if (by_address(&k->words[i - 1], &k->words[i]) == 0)
            storm_die(NULL, "audit: %p is in two entries", word_pointer(k->words[i]));
    }
}

/* The thread had this object, and nobody else can have it. */
static void must_have(known *k, const intent *i, uint64_t word, bool filled)
{
    if (is_known(k, word))
        storm_die(i, "audit: a dead thread had %p, but another one has it too", word_pointer(word));
    if (goalloc_usable_size(word_pointer(word)) == 0)
        storm_die(i, "audit: a dead thread had %p, but it is not live", word_pointer(word));
    if (filled)
        (void)pattern_check(i, word);
    k->words[k->n++] = word;
}

static void may_have(known *k, uint64_t word)
{
    if (!is_known(k, word) && goalloc_usable_size(word_pointer(word)) != 0)
        k->words[k->n++] = word;
}

/* First, what is certain: certain; then the rest. */
static void look_at_intent(const intent *i, known *k, findings *ret, bool certain)
{
    uint64_t word = atomic_load(&i->word);
    uint64_t result = atomic_load(&i->result);
    uint32_t state = atomic_load(&i->state);

    switch (state) {
    case INTENT_ALLOCATING:
        if (word != 0 && certain)
            must_have(k, i, word, false);
        else if (word == 0)
            ret->nunknown_max += certain;
        return;
    case INTENT_FILLING:
    case INTENT_OWNED:
        if (certain)
            must_have(k, i, word, state == INTENT_OWNED);
        return;
    case INTENT_REALLOCATING:
        if (result != 0 && !i->reclaims && certain)
            must_have(k, i, result, false);
        else if (!certain && (result == 0 || i->reclaims))
            may_have(k, result == 0 ? word : result);
        ret->nunknown_max += certain && result == 0;
        return;
    case INTENT_PUTTING:
    case INTENT_TAKING:
    case INTENT_FREEING:
    case INTENT_CLAIMING:
        if (!certain)
            may_have(k, word);
        return;
    default:
        return;
    }
}

static void look_at_intents(known *k, findings *ret)
{
    uint32_t n = atomic_load(&the_board->nintents);

    for (int certain = 1; certain >= 0; certain--) {
        for (uint32_t i = 0; i < n; i++)
            look_at_intent(&the_board->intents[i], k, ret, certain);
    }
    for (uint32_t i = 0; i < n; i++)
        ret->ndead += atomic_load(&the_board->intents[i].state) != INTENT_IDLE;
}

static void balance(findings *ret)
{
    uint64_t nknown = 1 + ret->ntable + ret->nhands;

    ret->nunknown = ret->nlive - nknown;
    if (ret->nlive < nknown || ret->nunknown > ret->nunknown_max)
        storm_die(
            NULL,
            "audit: the daemon counts %llu live objects; known are the table, %llu in it and %llu in the hands of "
            "dead threads, and at most %llu may be unknown: it is %lld",
            (unsigned long long)ret->nlive, (unsigned long long)ret->ntable, (unsigned long long)ret->nhands,
            (unsigned long long)ret->nunknown_max, (long long)ret->nunknown);
}

static void free_all(known *k, table *t)
{
    int r;

    for (size_t i = 0; i < k->n; i++) {
        r = goalloc_free_checked(word_pointer(k->words[i]));
        if (r != 0)
            storm_die(NULL, "audit: free of %p: %s", word_pointer(k->words[i]), goalloc_strerror(r));
    }
    r = goalloc_root_set(TABLE_ROOT, NULL);
    if (r != 0)
        storm_die(NULL, "audit: the root is not removed: %s", goalloc_strerror(r));
    goalloc_free(t);
}

static int audit(const fixture *f, void *data)
{
    uint32_t nintents = atomic_load(&the_board->nintents);
    worker w = { .f = f };
    findings *ret = data;
    known k = { 0 };
    table *t = NULL;
    int r;

    worker_attach(&w);
    r = table_find(&t);
    if (r != 0)
        storm_die(NULL, "audit: root_get: %s", goalloc_strerror(r));
    k.words = calloc(t->nentries + nintents, sizeof(k.words[0]));
    if (k.words == NULL)
        storm_die(NULL, "audit: no memory");
    look_at_table(t, &k);
    ret->ntable = k.n;
    look_at_intents(&k, ret);
    ret->nhands = k.n - k.nsorted;
    balance(ret);
    free_all(&k, t);
    return 0;
}

/*
 * Until no session and no lease is left. Then objects are counted once more: the daemon counts in slices, and what the
 * last session's end has freed may have been counted before.
 */
static bool await_sessions(const fixture *f, goalloc_stats_t *ret)
{
    for (int i = 0; i < 2000; i++) {
        fixture_stats(f, ret);
        if (ret->sessions == 0 && ret->leased_spans == 0) {
            fixture_stats(f, ret);
            return true;
        }
        (void)usleep(5000);
    }
    board_fail(NULL, "all workers have ended, but %llu sessions and %llu leases are left",
               (unsigned long long)ret->sessions, (unsigned long long)ret->leased_spans);
    return false;
}

bool audit_run(const fixture *f)
{
    findings *found = mmap(NULL, sizeof(*found), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    goalloc_stats_t stats;
    bool good = false;

    if (found == MAP_FAILED) {
        board_fail(NULL, "audit: no memory");
        return false;
    }
    if (!await_sessions(f, &stats))
        goto out;
    found->nlive = stats.live_objects;
    if (!fixture_is_whole(f)) {
        board_fail(NULL, "audit: goallocctl check, before");
        goto out;
    }
    if (child_run(f, audit, found) != 0) {
        board_fail(NULL, "audit: the auditor has failed");
        goto out;
    }
    if (!fixture_is_clean(f, found->nunknown) || !fixture_is_whole(f)) {
        board_fail(NULL, "audit: after everything known was freed, more is left than %llu unknown objects",
                   (unsigned long long)found->nunknown);
        goto out;
    }
    (void)printf("round %u: %llu objects in the table; %llu threads died in an operation: %llu had objects in hand, "
                 "%llu objects (of at most %llu) nobody knew of\n",
                 the_board->round, (unsigned long long)found->ntable, (unsigned long long)found->ndead,
                 (unsigned long long)found->nhands, (unsigned long long)found->nunknown,
                 (unsigned long long)found->nunknown_max);
    (void)fflush(stdout);
    good = true;
out:
    (void)munmap(found, sizeof(*found));
    return good;
}
