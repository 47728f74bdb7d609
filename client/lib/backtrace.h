/*
 * Backtrace: the stack that leads to an allocation.
 */
#ifndef GOALLOC_LIB_BACKTRACE_H
#define GOALLOC_LIB_BACKTRACE_H

#include "client/lib/modules.h"

/* A return address. module NULL: of no module, the address is the process's own. */
typedef struct backtrace_frame {
    const module *module;
    uint64_t address; /* as the module's file has it */
} backtrace_frame;

/*
 * The calling thread's stack from the frame that frame_pointer names (__builtin_frame_address(0) of the caller, whose
 * file keeps frame pointers), the innermost first, at most PROFILE_FRAMES_MAX. The frames of a shared libgoalloc are
 * left out. Returns how many there are. Takes no lock and allocates nothing, except by the unwinder.
 */
uint32_t backtrace_take(const void *frame_pointer, backtrace_frame ret[PROFILE_FRAMES_MAX]);

/* How often stacks were walked, by which way: for tests and measurements. */
typedef struct backtrace_counts {
    uint64_t npointers; /* by frame pointers alone */
    uint64_t nunwound;  /* by tables */
    uint64_t ncut;      /* by frame pointers as far as these lead: there was nothing better */
} backtrace_counts;

backtrace_counts backtrace_count(void);

#endif
