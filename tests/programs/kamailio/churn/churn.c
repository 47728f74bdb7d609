/*
 * churn: a module of Kamailio for the tests of its allocators alone. All its functions use the same calls as all
 * modules (shm_malloc and so on), so they test, or measure, whichever allocator Kamailio was started with.
 *
 *   churn("N")      replaces N objects of a table that all workers share: what a table of Kamailio does, without the
 *                   script that drives it
 *   exercise("N")   N random steps of all calls, with objects whose contents are checked; false if one is wrong
 *   blunder("HOW")  what a module with a mistake does: "twice" frees an object twice, "before" writes before one
 *
 * The table lies in shared memory, and is made before the server forks. A worker builds a new object, puts it into a
 * slot by one atomic exchange, looks at the key in what was there, which is mostly another worker's, and frees it.
 * Sizes are those of entries of a table (three quarters are 24 to 279 bytes) and of transactions (1 KiB to 5 KiB, one
 * in 32).
 */
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/dprint.h"
#include "core/mem/shm.h"
#include "core/sr_module.h"

MODULE_VERSION

#define SLOTS 65536

static _Atomic(void *) *slots;
static uint64_t state; /* of this process's random numbers; 0: none yet */

static uint64_t next_random(void)
{
    if (state == 0)
        state = (uint64_t)getpid() * UINT64_C(0x9e3779b97f4a7c15);
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static size_t size_of(uint64_t random)
{
    size_t some = random >> 40 & 4095;

    switch (random >> 32 & 31) {
    case 0:
        return 1024 + some;
    case 1:
    case 2:
    case 3:
    case 4:
    case 5:
    case 6:
    case 7:
        return 280 + (some & 511);
    default:
        return 24 + (some & 255);
    }
}

static int mod_init(void)
{
    slots = shm_malloc(SLOTS * sizeof(*slots));
    if (slots == NULL) {
        LM_ERR("no shared memory for the table\n");
        return -1;
    }
    for (unsigned i = 0; i < SLOTS; i++)
        atomic_init(&slots[i], NULL);
    return 0;
}

static int churn(struct sip_msg *message, char *times, char *unused)
{
    (void)message, (void)unused;
    for (long n = strtol(times, NULL, 10); n > 0; n--) {
        uint64_t random = next_random();
        size_t size = size_of(random);
        uint64_t slot = random % SLOTS;
        uint64_t *fresh = shm_malloc(size);
        uint64_t *old;

        if (fresh == NULL)
            return -1;
        memset(fresh, (int)(random & 127), size);
        *fresh = slot;
        old = atomic_exchange(&slots[slot], fresh);
        if (old != NULL && *old != slot) {
            LM_ERR("an object is not what was stored\n");
            return -1;
        }
        if (old != NULL)
            shm_free(old);
    }
    return 1;
}

#define EXERCISED 64

/* An object, and what is in it: bytes of one value. */
typedef struct exercised {
    unsigned char *p; /* NULL: none */
    size_t size;
    unsigned char value;
} exercised;

static int is_whole(const exercised *one)
{
    for (size_t i = 0; i < one->size; i++)
        if (one->p[i] != one->value)
            return 0;
    return 1;
}

/* One step with one object; 0: something is wrong. */
static int exercise_one(exercised *one, uint64_t random)
{
    size_t size = size_of(random) << (random >> 60 == 0 ? 6 : 0); /* some above 64 KiB */
    size_t kept = one->p == NULL ? 0 : size < one->size ? size : one->size;

    if (one->p != NULL && !is_whole(one))
        return 0;
    switch (random & 7) {
    case 0:
        shm_free(one->p); /* NULL is none */
        *one = (exercised){ 0 };
        return 1;
    case 1:
    case 2:
        one->p = shm_resize(one->p, size);
        break;
    case 3:
    case 4:
        one->p = random & 64 ? shm_realloc(one->p, size) : shm_reallocxf(one->p, size);
        if (one->p != NULL && !is_whole(&(exercised){ one->p, kept, one->value }))
            return 0;
        break;
    case 5:
        shm_free(one->p);
        one->p = shm_mallocxz(size);
        if (one->p != NULL && !is_whole(&(exercised){ one->p, size, 0 }))
            return 0;
        break;
    default:
        shm_free(one->p);
        one->p = shm_malloc(size);
    }
    if (one->p == NULL)
        return 0;
    one->size = size;
    one->value = (unsigned char)(random >> 8);
    memset(one->p, one->value, size);
    return 1;
}

static int exercise(struct sip_msg *message, char *times, char *unused)
{
    exercised all[EXERCISED] = { { 0 } };
    int is_right = 1;

    (void)message, (void)unused;
    for (long n = strtol(times, NULL, 10); n > 0 && is_right; n--) {
        uint64_t random = next_random();

        is_right = exercise_one(&all[random >> 16 & (EXERCISED - 1)], random);
    }
    for (unsigned i = 0; i < EXERCISED; i++)
        shm_free(all[i].p);
    return is_right ? 1 : -1;
}

static int blunder(struct sip_msg *message, char *how, char *unused)
{
    char *p = shm_malloc(100);

    (void)message, (void)unused;
    if (p == NULL)
        return -1;
    if (strcmp(how, "before") == 0)
        memset(p - 8, 'x', 8); /* whatever allocator: what stands there is this object's */
    shm_free(p);
    if (strcmp(how, "twice") == 0)
        shm_free(p);
    return 1;
}

static cmd_export_t commands[] = { { "churn", churn, 1, NULL, NULL, ANY_ROUTE },
                                   { "exercise", exercise, 1, NULL, NULL, ANY_ROUTE },
                                   { "blunder", blunder, 1, NULL, NULL, ANY_ROUTE },
                                   { 0, 0, 0, 0, 0, 0 } };

struct module_exports exports = {
    .name = "churn",
    .dlflags = DEFAULT_DLFLAGS,
    .cmds = commands,
    .init_mod_f = mod_init,
};
