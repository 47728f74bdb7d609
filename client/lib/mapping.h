/*
 * Mapping: the heap in this process's address space, and private tables as sparse as it.
 */
#ifndef GOALLOC_LIB_MAPPING_H
#define GOALLOC_LIB_MAPPING_H

#include "client/lib/process.h"
#include "shm/profile.h"

/*
 * Map what the daemon has sent, and fill in process.map, .mspan_of, .generation, and what is the session's own. The
 * descriptors stay the caller's. 0; -EPROTO: they are not what the answer or the header says; -ENOEXEC: another layout;
 * -EEXIST: the arena's addresses are taken; -EAGAIN: RLIMIT_MEMLOCK allows no mapping; -ENOMEM: no room. On failure
 * nothing stays mapped.
 */
int mapping_attach(const attach_result *a, bool readonly) __attribute__((warn_unused_result));

/*
 * The same in a forked child, which has the heap mapped already: check that it is the same one (else -ESTALE), map what
 * is the session's own, and change the access if readonly differs from process.readonly.
 */
int mapping_reattach(const attach_result *a, bool readonly) __attribute__((warn_unused_result));

/*
 * Put the memfd of offers that another daemon has sent where the present one is, at one stroke for all threads. The
 * descriptor stays the caller's. 0, and process.own_id is the new one; or as above, and nothing has changed.
 */
int mapping_replace_offers(int own_fd) __attribute__((warn_unused_result));

/*
 * Map the region of profiles that a daemon has sent, or put it where *region is, at one stroke for all threads. The
 * descriptor stays the caller's. Children have it, too. 0, -EPROTO (not such a region), -EAGAIN, -ENOMEM.
 */
int mapping_profile(int fd, profile_region **region) __attribute__((warn_unused_result));

/* The process is not of a group any more: its session is about to end. */
void mapping_leave_group(void);

/* Unmap all that mapping_attach() has mapped, and forget it. */
void mapping_detach(void);

/*
 * Private memory of bytes, zero, for the library's own tables, mapped as the heap is: none of its pages has memory
 * before it is written. The child of a fork finds it zero, but for the first unwiped_bytes (a multiple of
 * MAPPING_UNWIPED_UNIT). 0, -EAGAIN, -ENOMEM.
 */
int mapping_private(uint64_t bytes, uint64_t unwiped_bytes, void **ret) __attribute__((warn_unused_result));

/* The largest page that systems of this architecture have. */
#if defined(__x86_64__)
#define MAPPING_UNWIPED_UNIT 4096u
#else
#define MAPPING_UNWIPED_UNIT 65536u
#endif

/* Unmap what mapping_private() or mapping_profile() has mapped; NULL: nothing happens. */
void mapping_delete(void *p, uint64_t bytes);

/*
 * Map the table by which this process tells collectors what its memory is (declared.h), unless it is there. It lasts as
 * long as the process. 0, -EMFILE, -ENFILE, -ENOMEM, -EAGAIN (a limit of locked memory), or an error of memfd_create(),
 * as in a sandbox that forbids it: then nothing is declared, and all memory is looked through.
 */
int mapping_declare(void) __attribute__((warn_unused_result));

#endif
