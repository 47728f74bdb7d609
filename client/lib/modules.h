/*
 * Modules: which file this process's code at an address is of.
 */
#ifndef GOALLOC_LIB_MODULES_H
#define GOALLOC_LIB_MODULES_H

#include <stdbool.h>
#include <stdint.h>

#include "shm/profile.h"

#define MODULES_MAX 512u /* that a process tells apart, unloaded ones counted */

/* What is known of a module. It never changes; a module that is loaded again elsewhere, or rebuilt, is another one. */
typedef struct module {
    uintptr_t begin; /* of what it has mapped, and the end */
    uintptr_t end;
    uintptr_t base; /* of its addresses as the file has them */
    uintptr_t code_begin;
    uintptr_t code_end;
    const void *handle; /* the loader's entry */
    const char *name;   /* as the loader says it; its address is compared, and it is read while it is loaded */
    const uint64_t *build_id_begin; /* where the first bytes of the build id lie if that is within the first page */
    uint32_t index;                 /* below MODULES_MAX */
    uint32_t build_id_bytes;
    uint8_t build_id[PROFILE_BUILD_ID_MAX];
    bool is_libc;
    shm_u64 number; /* region's number << 32 | number there; 0: not asked yet */
} module;

/*
 * The module of an address. NULL: of none (what was compiled at run time), or there are too many. Takes no lock, not
 * even the loader's (where glibc is older than 2.35: that of its list), and allocates nothing. Some 20 ns if the module
 * is known.
 */
const module *modules_find(uintptr_t address);

static inline bool module_has(const module *m, uintptr_t address)
{
    return address >= m->begin && address < m->end;
}

/* Its number in the region's table, from 1; 0: there is no room. region_no (not 0) tells regions apart. */
uint32_t modules_number(const module *m, profile_region *region, uint32_t region_no);

#endif
