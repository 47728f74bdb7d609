/*
 * heap: what concerns the heap as a whole: statistics, trim, the text of errors, and the version.
 *
 * Called by users; all but goalloc_strerror() and goalloc_version() are a request or two to the daemon (connection.c).
 * Data: none of its own.
 */
#include <errno.h>
#include <string.h>

#include "client/lib/attach.h"
#include "client/lib/connection.h"
#include "client/lib/idle.h"
#include "client/lib/link.h"
#include "shm/errors.h"

int goalloc_stats(goalloc_stats_t *ret_stats)
{
    goalloc_stats_t stats = { .struct_size = sizeof(stats) };
    size_t size;
    int r;

    if (ret_stats == NULL || ret_stats->struct_size < sizeof(ret_stats->struct_size))
        return -EINVAL;
    r = attach_ensure();
    if (r == 0 && !process.readonly)
        mcache_count_all(mcache_tls);
    if (r == 0)
        r = connection_stats(&stats);
    if (r < 0)
        return r;
    stats.session_rpcs = u64_load_relaxed(&link_nrpcs);
    size = ret_stats->struct_size;
    memcpy(ret_stats, &stats, size < sizeof(stats) ? size : sizeof(stats));
    ret_stats->struct_size = size;
    return 0;
}

int goalloc_trim(void)
{
    int r;

    if (!process_is_mapped())
        return -ENOTCONN;
    r = attach_ensure();
    if (r < 0)
        return r;
    if (process.readonly)
        return 0; /* it holds nothing */
    /* Without a daemon nothing goes back: what is held is all that there is to allocate from. */
    r = connection_sync();
    if (r < 0)
        return r;
    u32_store_relaxed(&process.trim_seq, u32_load_relaxed(&process.trim_seq) + 1);
    idle_return_all();
    return connection_sync();
}

const char *goalloc_strerror(int error)
{
    return shm_error_describe(error);
}

const char *goalloc_version(void)
{
    return GOALLOC_VERSION;
}
