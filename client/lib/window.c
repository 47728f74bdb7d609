/*
 * Window: a read of one byte in each window of 64 KiB, before the first write to it.
 *
 * Called by refill.c and large.c with spans that the session has just been leased. Data: none.
 *
 * A first write to a page is a fault that maps this one page: 1.9 us where the kernel has to zero it, 1.1 us where the
 * daemon has had that done (daemon/memory/zeroing.c), 1 GiB in 262,144 faults. A first *read* maps all pages of the
 * aligned window of 64 KiB that are zeroed (the kernel's fault-around), and maps them writable, since nobody has
 * to be told of a write to shared memory: 0.3 us a page, in 16,384 faults. If the page itself is not zeroed yet, the
 * read zeroes and maps it alone: the fault that the write would have been. So a read too early costs nothing, but it
 * gains most when it comes late: a span of small objects is read when it becomes current.
 *
 * Only memory that is there may be read: a read of a hole of the file gives it memory, without the daemon. What is
 * leased has memory unless the daemon runs with --commit lazy: then nothing is read. It says so at the attach, and the
 * one that has taken its place does when the process comes back. (A span that a lazy daemon has leased before may have
 * holes under the next one. It counts as having memory, so what the read gives it is its own.) What the window holds
 * besides belongs to others: that their pages are mapped here changes nothing for them, and a hole is not mapped.
 *
 * No sanitizer looks at the read: the byte may be another's, who is writing it.
 */
#include "client/lib/window.h"

#include "client/lib/process.h"

#define WINDOW_BYTES (64 * KIB)

__attribute__((noinline, no_sanitize("address", "thread", "undefined"))) static void touch(const char *at)
{
    (void)*(const volatile char *)at;
}

void window_map(const char *from, uint64_t bytes)
{
    uintptr_t end = (uintptr_t)from + bytes;

    if (u32_load_relaxed(&process.committed) == 0)
        return;
    for (uintptr_t at = (uintptr_t)from; at < end; at = (at / WINDOW_BYTES + 1) * WINDOW_BYTES)
        touch((const char *)at);
}
