/*
 * Recorder: writes samples of allocations into the profile's region (shm/profile.h).
 *
 * Who samples asks it at each sample, and nobody else does: no function here is on a fast path. Functions are for any
 * thread at any time, except where they say otherwise. They take no lock (but recorder_open(), which takes a turn, and
 * who first meets a module whose path is relative, which takes the forklock once), and the loader's at worst while a
 * stack is walked by tables; so callers hold none either.
 */
#ifndef GOALLOC_LIB_RECORDER_H
#define GOALLOC_LIB_RECORDER_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Map the region that the session's profile word speaks of, whose rate isn't 0. At most one request to the daemon, for
 * which it waits as connection_samples_ms() says, and as long for another thread that opens it: so on a slow path, with
 * no lock held and not in the turn. If the region of that word is mapped, it does nothing; if it is another one (its
 * seq), the new one takes its place. 0, or -errno: then nothing is recorded until it is called again and succeeds, and
 * who calls it waits a while before it tries again.
 */
int recorder_open(uint64_t word) __attribute__((warn_unused_result));

/*
 * The session is over (detach, dropped heap): nothing is recorded until recorder_open(). What was recorded stays. No
 * other thread may be in a function of these.
 */
void recorder_close(void);

/*
 * In the child of a fork, which has a session of its own soon, if it samples: nothing is recorded until
 * recorder_open(). The region stays mapped, so that is no request if it still is the one.
 */
void recorder_reset(void);

/* What is shown of the session has changed (its label): what is recorded from now on is shown under the new one. */
void recorder_renew_party(void);

/*
 * At an explicit goalloc_attach(), in the caller's thread and with no lock held: load what walks stacks without frame
 * pointers, if the word's rate isn't 0. When profiling is turned on later, recorder_open() has a thread of its own do
 * so.
 */
void recorder_prepare(uint64_t word);

/*
 * An object of `bytes` (its slot's size; a large one's pages) was sampled by a session that samples at `rate`. Counts
 * it, with the weight that one sample of this size has, as allocated by the stack that leads to the caller; offset !=
 * 0: records also that the place in the arena is that stack's, which counts once its alloc bit is set in a marked span.
 *
 * False: that could not be recorded (it is counted as lost; the sample has been counted as allocated if that was
 * possible); the caller must not allocate the place in a marked span. With offset 0: no place was to be had; always
 * false.
 *
 * Cost: about half a microsecond if the stack is known, microseconds if it has to be unwound by tables. Reentrant: what
 * it calls may allocate, and what such an allocation records is recorder_is_busy()'s to forbid.
 */
bool recorder_note(uint64_t offset, uint64_t bytes, uint64_t rate) __attribute__((warn_unused_result));

/* True if the calling thread is within one of these functions: what it allocates is not sampled. */
bool recorder_is_busy(void);

/* The place, in a marked span, is about to be allocated by who has not sampled it: its record, if any, is removed. */
void recorder_forget(uint64_t offset);

#endif
