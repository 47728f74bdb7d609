/*
 * Probe: places in the daemon and in the library that a tracer can watch while they run.
 *
 * Used by the daemon (provider goallocd) and the library (provider goalloc), nowhere else. docs/PROBES.md has the table
 * of all probes with their arguments; tests/integration/test_probes.c compares it with what is in the programs, and has
 * each of them fire.
 *
 * PROBE() is a nop, and a note beside the code (section .note.stapsdt, which is not loaded, and which strip leaves):
 * provider, name, address, and in which registers the arguments are. bpftrace, gdb, SystemTap and perf read the note,
 * and put a breakpoint on the nop for as long as they watch. So:
 *   - a probe that nobody watches costs the nop, and what it takes to have the arguments in registers;
 *   - an argument is something that is there already, or takes an instruction or two: nothing is counted, summed or
 *     timed for a probe. So there are no semaphores (words that say whether somebody watches). How long something takes
 *     is the time between two probes, which the tracer measures;
 *   - a probe reads, and changes nothing: no shared word is written for it, and nothing depends on it;
 *   - malloc and free have none. The next ones are where a thread asks the daemon.
 *
 * An argument's type is that of the expression, and is part of what is documented. They are in registers, or constants
 * (STAP_SDT_ARG_CONSTRAINT): a tracer can't read an operand such as process+8(%rip) of a stripped library. There are
 * six at most, as many as bpftrace reads.
 *
 * Without <sys/sdt.h> (Debian: systemtap-sdt-dev), or with -DGOALLOC_PROBES=OFF, PROBE() is nothing at all; the
 * arguments are compiled, and not evaluated.
 */
#ifndef GOALLOC_SHM_PROBE_H
#define GOALLOC_SHM_PROBE_H

#if defined(GOALLOC_PROBES)

#define SDT_USE_VARIADIC
#define STAP_SDT_ARG_CONSTRAINT nr
#include <sys/sdt.h>

#define PROBE(provider, name, ...) STAP_PROBEV(provider, name, __VA_ARGS__)

#else

static inline int probe_nothing(int n, ...)
{
    return n;
}

#define PROBE(provider, name, ...) ((void)sizeof(probe_nothing(0, __VA_ARGS__)))

#endif

#endif
