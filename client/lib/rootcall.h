/*
 * Rootcall: the process's requests about roots as functions. Their errors are those of connection.h.
 */
#ifndef GOALLOC_LIB_ROOTCALL_H
#define GOALLOC_LIB_ROOTCALL_H

#include <stdbool.h>

#include "client/include/goalloc.h"
#include "shm/limits.h"

/* The right to make a root, which the daemon has given for a ticket. */
typedef struct root_claim {
    const char *name;
    size_t size;
    uint64_t type_tag; /* with ROOT_REINIT, if the caller has said so */
    uint32_t ticket;
} root_claim;

enum root_state { ROOT_THERE, ROOT_MAKING, ROOT_YOURS };

/* A number that this process has used for no other request of the kind. */
uint32_t rootcall_ticket(void);

int rootcall_set(const char *name, uint64_t offset) __attribute__((warn_unused_result));
int rootcall_compare_and_set(const char *name, uint64_t expected, uint64_t offset) __attribute__((warn_unused_result));
int rootcall_get(const char *name, uint64_t *ret_offset) __attribute__((warn_unused_result));

/*
 * Ask for the root, or for the right to make it. *ret_offset: that of the object, if it is there; 0: there is none.
 * -EMEDIUMTYPE, -EROFS, -EDQUOT, -ENOSPC.
 */
int rootcall_reserve(const root_claim *claim, enum root_state *ret, uint64_t *ret_offset)
    __attribute__((warn_unused_result));

/*
 * The object that is to be the root; the root is made; the right is not used. The first two: -ECANCELED, it has ended.
 */
int rootcall_announce(const root_claim *claim, uint64_t offset) __attribute__((warn_unused_result));
int rootcall_finish(const root_claim *claim, uint64_t offset) __attribute__((warn_unused_result));
int rootcall_give_back(const root_claim *claim) __attribute__((warn_unused_result));

#define ROOTCALL_PAGE 16u

typedef struct root_line {
    char name[SHM_ROOT_NAME_MAX + 1];
    uint64_t offset;
    uint64_t size;
    uint64_t type_tag;
    uint32_t session;
} root_line;

/* Some roots with that prefix from number *start on. Returns how many; *start: where the next ones are, 0: no more. */
int rootcall_list(const char *prefix, uint32_t *start, root_line ret[ROOTCALL_PAGE])
    __attribute__((warn_unused_result));

#endif
