/*
 * churn: a module of Kamailio for the comparison of its allocators alone. Its function churn("N") replaces N objects of a
 * table that all workers share, through the same calls as all modules (shm_malloc, shm_free), so it measures whichever
 * allocator Kamailio was started with. It is what a table of Kamailio does without the script that drives it.
 *
 * The table lies in shared memory, and is made before the server forks. A worker builds a new object, puts it into a slot
 * by one atomic exchange, and frees what was there, which is mostly another worker's. Sizes are those of entries of a
 * table (three quarters are 24 to 279 bytes) and of transactions (1 KiB to 5 KiB, one in 32).
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
        void *fresh = shm_malloc(size);
        void *old;

        if (fresh == NULL)
            return -1;
        memset(fresh, (int)(random & 127), size);
        old = atomic_exchange(&slots[random % SLOTS], fresh);
        if (old != NULL)
            shm_free(old);
    }
    return 1;
}

static cmd_export_t commands[] = { { "churn", churn, 1, NULL, NULL, ANY_ROUTE }, { 0, 0, 0, 0, 0, 0 } };

struct module_exports exports = {
    .name = "churn",
    .dlflags = DEFAULT_DLFLAGS,
    .cmds = commands,
    .init_mod_f = mod_init,
};
