/*
 * Pauseparts: the parts of a pause, which bench_collector_cycle and bench_collector_pause print, a line each: its name,
 * and where world_times has it. Those that are not indented follow each other; indented is what the one above consists
 * of. The last one comes before the pause.
 */
#ifndef GOALLOC_TESTS_PAUSEPARTS_H
#define GOALLOC_TESTS_PAUSEPARTS_H

#include <string.h>

#include "client/collector/world.h"

static const struct {
    const char *name;
    size_t at;
} pause_parts[] = {
    { "stop", offsetof(world_times, stop_ns) },
    { "  interrupt", offsetof(world_times, stop.interrupt_ns) },
    { "  await", offsetof(world_times, stop.await_ns) },
    { "  check", offsetof(world_times, stop.check_ns) },
    { "woken", offsetof(world_times, woken_ns) },
    { "processes", offsetof(world_times, copy_ns) },
    { "  registers", offsetof(world_times, registers_ns) },
    { "  maps", offsetof(world_times, maps_ns) },
    { "  descriptors", offsetof(world_times, kernel_ns) },
    { "  pages", offsetof(world_times, pages_ns) },
    { "  read", offsetof(world_times, read_ns) },
    { "  shared", offsetof(world_times, shared_ns) },
    { "validate", offsetof(world_times, validate_ns) },
    { "resume", offsetof(world_times, resume_ns) },
    { "(seize)", offsetof(world_times, seize_ns) },
};

#define PAUSE_NPARTS (sizeof(pause_parts) / sizeof(pause_parts[0]))

static inline uint64_t pause_part_ns(const world_times *times, size_t part)
{
    uint64_t ns;

    memcpy(&ns, (const char *)times + pause_parts[part].at, sizeof(ns));
    return ns;
}

#endif
