#include "client/collector/world.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

int world_prepare(world *w, const shm_map *map, const world_options *options, world_trouble *ret)
{
    uint32_t n = u32_load_acquire(&map->header->nsession_entries);

    (void)options;
    *w = (world){ .deadline_ns = UINT64_MAX };
    for (uint32_t i = 0; i < n && i < SHM_SESSIONS_MAX; i++) {
        if (u32_load_acquire(&map->sessions[i].state) == SHM_SESSION_FREE || map->sessions[i].pid == (uint32_t)getpid())
            continue;
        *ret = (world_trouble){ .error = -EAGAIN, .pid = (pid_t)map->sessions[i].pid };
        (void)snprintf(ret->text, sizeof(ret->text), "session %u is attached", i);
        return -EAGAIN;
    }
    return 0;
}
int world_stop(world *w, world_trouble *ret) { (void)w; (void)ret; return -EPERM; }
int world_copy(world *w, world_trouble *ret) { (void)w; (void)ret; return -EPERM; }
int world_validate(world *w, world_trouble *ret) { (void)w; (void)ret; return 0; }
void world_resume(world *w) { (void)w; }
void world_free(world *w) { (void)w; }
const char *words_kind_name(enum words_kind kind) { (void)kind; return ""; }
