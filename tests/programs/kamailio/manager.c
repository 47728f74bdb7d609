/*
 * manager: shared memory of the SIP server Kamailio in the heap of goallocd. A module of Kamailio 5.6, compiled against
 * its headers:
 *
 *     loadmodule "goalloc.so"                   # the first one: what is allocated before stays in Kamailio's own pool
 *     modparam("goalloc", "keep_running", 1)    # optional: the death of a worker does not end the server
 *
 * Kamailio calls all its allocators through one table of functions (sr_shm_api_t). When the module is loaded, before
 * anything is forked, it attaches to the heap and puts its own functions there. The former table is kept for the
 * objects that were allocated before; a pointer says by its address whose it is.
 *
 *   socket   $GOALLOC_SOCKET, else the daemon's default
 *   group    "kamailio-PID", GOALLOC_ATTACH_RECLAIM: a server that has ended, however, leaves nothing. Its processes
 *            are forked from the first one, so all are of the group, also after -u has made them another user's
 *   limit    Kamailio's -m, for all processes together (accounts.h)
 *   label    what Kamailio says of a process, as "udp receiver child=3 ...": goallocctl sessions shows it
 *   sums     by line of the sources: Kamailio's own commands print them (mod.stats, core.shmmem, the sums at its end)
 *
 * Before an object stands a word: its size, the number of its site, and a check of these. So a free knows which sum to
 * take it from without a look at anything that is not in the object's first cache line, and finds most pointers that
 * are none of these objects. Addresses are multiples of 8, as f_malloc's are. A word at the end, where what the size
 * class leaves over has room for it, took a cache miss more in each malloc and free: 31% of the time of 65536 objects
 * that are replaced at random.
 *
 * If the process dies between two instructions: no lock is held, since there is none; an object that was allocated and
 * not handed out is the group's and goes with it; the sums may be wrong by that one object.
 *
 * If the daemon dies: what needs it waits for the next one, at most 5 s, and then fails as if there were no memory. If
 * the heap was dropped, every further request for memory fails: the server has to be started again.
 *
 * Known limits. Kamailio's shm_address_in() knows only its own pool: who calls reset_path_vector() on a message that tm
 * has copied, as in a failure_route, would have it freed as private memory. A lock of Kamailio's own that a killed
 * worker held stays locked, whichever allocator there is; so does it with keep_running, which is why that is off unless
 * asked for.
 */
#include "accounts.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <goalloc.h>

#include "core/cfg/cfg.h"
#include "core/cfg_core.h"
#include "core/dprint.h"
#include "core/globals.h"
#include "core/mem/meminfo.h"
#include "core/mem/shm.h"
#include "core/pt.h"
#include "core/shm_init.h"
#include "core/sr_module.h"

MODULE_VERSION

#ifndef DBG_SR_MEMORY
#error "Kamailio is to be built with MEMDBG=1, as Debian's is: its callers then say who they are"
#endif

/* Who calls: Kamailio hands it through each of its functions. */
#define CALLER const char *file, const char *func, unsigned int line, const char *mname
#define CALLER_NAMES file, func, line, mname

#define HEAD_BYTES sizeof(uint64_t)
#define SIZE_BITS 40 /* an arena is no larger */
#define SIZE_MAX_BYTES ((UINT64_C(1) << SIZE_BITS) - 1)

static accounts *books;
static sr_shm_api_t former; /* what was there before */
static int keep_running;

/* Size: 40 bits; site: 11; check: 13. */
static uint64_t head_of(size_t size, uint16_t site)
{
    uint64_t word = (uint64_t)size | (uint64_t)site << SIZE_BITS;

    return word | (word * UINT64_C(0x9e3779b97f4a7c15)) >> 51 << 51;
}

_Static_assert(ACCOUNTS_SITE_BITS == 11 && ACCOUNTS_SITES == 1 << ACCOUNTS_SITE_BITS, "a site's number has 11 bits");

/* The object of a place, which has room for it and the word. In the books it counts with what was asked for. */
static inline void *hand_out(accounts_account *mine, uint64_t *place, size_t size, uint16_t site)
{
    *place = head_of(size, site);
    accounts_add(mine, site, size);
    return place + 1;
}

__attribute__((noinline, cold)) static void *refuse(size_t size, CALLER)
{
    LM_ERR("no %zu bytes of shared memory for %s: %s(%u): %s\n", size, mname, func, line, goalloc_strerror(errno));
    (void)file;
    return NULL;
}

static inline void *allocate(size_t size, bool zeroed, CALLER)
{
    accounts_account *mine = accounts_my_own(books);
    uint64_t *place = NULL;

    if (size > SIZE_MAX_BYTES) {
        errno = ENOMEM;
    } else if (!accounts_allow(books, mine, size)) {
        errno = EDQUOT; /* -m */
    } else {
        place = zeroed ? goalloc_calloc(1, size + HEAD_BYTES) : goalloc_malloc(size + HEAD_BYTES);
    }
    if (place == NULL)
        return refuse(size, CALLER_NAMES);
    return hand_out(mine, place, size, accounts_site_of(books, mine, CALLER_NAMES));
}

/* A message; if Kamailio's mem_safety is off, the process ends, as with Kamailio's own managers. */
__attribute__((noinline, cold)) static void tell_bug(const char *what, const void *p, CALLER)
{
    LM_CRIT("BUG: %p %s: %s: %s(%u), %s\n", p, what, mname, func, line, file);
    if (cfg_get(core, core_cfg, mem_safety) == 0)
        abort();
}

/* The size and site of p, before which the heap has a word. False, with a message: no object of these begins there. */
static inline bool read_head(const void *p, size_t *ret_size, uint16_t *ret_site, CALLER)
{
    uint64_t head = (uintptr_t)p % HEAD_BYTES == 0 ? ((const uint64_t *)p)[-1] : 0;

    *ret_size = head & SIZE_MAX_BYTES;
    *ret_site = head >> SIZE_BITS & (ACCOUNTS_SITES - 1);
    if (head != 0 && head == head_of(*ret_size, *ret_site))
        return true;
    tell_bug("is no object, or somebody has written before it", p, CALLER_NAMES);
    return false;
}

/* Who asks for memory of the pool that was there before, or frees it, has got it before this module was loaded. */
static inline bool is_ours(const void *p)
{
    return goalloc_contains((const char *)p - HEAD_BYTES);
}

static void *manager_malloc(void *block, size_t size, CALLER)
{
    (void)block;
    return allocate(size, false, CALLER_NAMES);
}

static void *manager_mallocxz(void *block, size_t size, CALLER)
{
    (void)block;
    return allocate(size, true, CALLER_NAMES);
}

static void manager_free(void *block, void *p, CALLER)
{
    size_t size;
    uint16_t site;

    (void)block;
    if (p == NULL)
        return;
    if (!is_ours(p)) {
        former.xfree(former.mem_block, p, CALLER_NAMES); /* locks by itself: nobody has the lock, see glock */
        return;
    }
    if (!read_head(p, &size, &site, CALLER_NAMES))
        return;
    if (goalloc_free_checked((uint64_t *)p - 1) < 0)
        tell_bug("is free already", p, CALLER_NAMES);
    else
        accounts_subtract(accounts_my_own(books), site, size);
}

static void *manager_realloc(void *block, void *p, size_t size, CALLER)
{
    accounts_account *mine = accounts_my_own(books);
    uint64_t *place;
    size_t before;
    uint16_t site;

    if (p == NULL)
        return manager_malloc(block, size, CALLER_NAMES);
    if (!is_ours(p))
        return former.xrealloc(former.mem_block, p, size, CALLER_NAMES);
    if (size == 0) {
        manager_free(block, p, CALLER_NAMES);
        return NULL;
    }
    if (!read_head(p, &before, &site, CALLER_NAMES))
        return NULL;
    if (goalloc_usable_size((uint64_t *)p - 1) == 0) {
        tell_bug("is free already", p, CALLER_NAMES);
        return NULL;
    }
    if (size > SIZE_MAX_BYTES || (size > before && !accounts_allow(books, mine, size - before))) {
        errno = EDQUOT;
        return refuse(size, CALLER_NAMES);
    }
    place = goalloc_realloc((uint64_t *)p - 1, size + HEAD_BYTES);
    if (place == NULL)
        return refuse(size, CALLER_NAMES); /* p is as it was */
    accounts_subtract(mine, site, before);
    return hand_out(mine, place, size, accounts_site_of(books, mine, CALLER_NAMES));
}

static void *manager_reallocxf(void *block, void *p, size_t size, CALLER)
{
    void *moved = manager_realloc(block, p, size, CALLER_NAMES);

    if (moved == NULL && p != NULL && size != 0)
        manager_free(block, p, CALLER_NAMES);
    return moved;
}

/* What is in it does not count: free and allocate. */
static void *manager_resize(void *block, void *p, size_t size, CALLER)
{
    manager_free(block, p, CALLER_NAMES);
    return manager_malloc(block, size, CALLER_NAMES);
}

/* Kamailio takes this lock to free several objects at once. Here nothing is to be locked. */
static void manager_glock(void *block)
{
    (void)block;
}

static unsigned long manager_available(void *block)
{
    int64_t held = accounts_held(books, NULL);

    (void)block;
    return held < 0 ? books->limit : (uint64_t)held < books->limit ? books->limit - (uint64_t)held : 0;
}

static void manager_info(void *block, struct mem_info *info)
{
    int64_t objects;
    int64_t held = accounts_held(books, &objects);
    int64_t peak = atomic_load(&books->peak);

    memset(info, 0, sizeof(*info));
    info->total_size = books->limit;
    info->free_size = manager_available(block);
    info->used_size = info->real_used = held > 0 ? (unsigned long)held : 0;
    info->max_used = (unsigned long)(peak > held ? peak : held);
    info->min_frag = 8;
    info->total_frags = objects > 0 ? (unsigned long)objects : 0;
}

static void manager_report(void *block, mem_report_t *report)
{
    struct mem_info info;

    manager_info(block, &info);
    memset(report, 0, sizeof(*report));
    report->total_size = info.total_size;
    report->free_size_s = report->free_size_m = info.free_size;
    report->used_size_s = report->used_size_m = info.used_size;
    report->real_used_s = info.real_used;
    report->max_used_s = info.max_used;
    report->used_frags = report->total_frags = info.total_frags;
    report->max_free_frag_file = report->max_free_frag_func = report->max_free_frag_mname = "";
    report->min_free_frag_file = report->min_free_frag_func = report->min_free_frag_mname = "";
    report->max_used_frag_file = report->max_used_frag_func = report->max_used_frag_mname = "";
    report->min_used_frag_file = report->min_used_frag_func = report->min_used_frag_mname = "";
}

static void manager_status(void *block)
{
    struct mem_info info;

    manager_info(block, &info);
    LOG(cfg_get(core, core_cfg, memlog), "goalloc: %lu bytes in %lu objects of %lu, at most %lu so far\n",
        info.used_size, info.total_frags, info.total_size, info.max_used);
}

static void manager_sums(void *block)
{
    accounts_use use;

    (void)block;
    for (unsigned site = 0; site < ACCOUNTS_SITES; site++)
        if (accounts_use_of(books, site, &use))
            LOG(cfg_get(core, core_cfg, memlog), "goalloc: count=%" PRId64 " size=%" PRId64 " from %s: %s(%u)\n",
                use.objects, use.bytes, use.file, use.func, use.line);
}

/* The list is Kamailio's form: by malloc(), freed by the function below. */
static void manager_mod_get_stats(void *block, void **root)
{
    mem_counter **list = (mem_counter **)root;
    accounts_use use;

    (void)block;
    if (root == NULL)
        return;
    for (unsigned site = 0; site < ACCOUNTS_SITES; site++) {
        mem_counter *one;

        if (!accounts_use_of(books, site, &use))
            continue;
        one = calloc(1, sizeof(*one));
        if (one == NULL)
            return;
        *one = (mem_counter){ .file = use.file,
                              .func = use.func,
                              .mname = use.module,
                              .line = use.line,
                              .size = use.bytes > 0 ? (unsigned long)use.bytes : 0,
                              .count = (int)use.objects,
                              .next = *list };
        *list = one;
    }
}

static void manager_mod_free_stats(void *root)
{
    for (mem_counter *one = root, *next; one != NULL; one = next) {
        next = one->next;
        free(one);
    }
}

/* The last call of all: what other processes still have is the group's, and goes with its last one. */
static void manager_destroy(void)
{
    if (former.xdestroy != NULL)
        former.xdestroy();
    (void)goalloc_detach();
}

static int heap_attach(void)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    char group[GOALLOC_GROUP_NAME_MAX + 1];

    (void)snprintf(group, sizeof(group), "kamailio-%ld", (long)getpid());
    options.label = "kamailio main process";
    options.flags = GOALLOC_ATTACH_RECLAIM;
    options.group = group;
    if (goalloc_attach(&options) < 0) {
        LM_CRIT("no shared heap: %s\n", goalloc_attach_error());
        return -1;
    }
    LM_INFO("shared memory is the group %s of the heap, at most %lu bytes\n", group, shm_mem_size);
    return 0;
}

/* Called when Kamailio loads the module; it finds it by this name. */
int mod_register(char *path, int *dlflags, void *p1, void *p2);
int mod_register(char *path, int *dlflags, void *p1, void *p2)
{
    sr_shm_api_t api = { .mname = "goalloc",
                         .xmalloc = manager_malloc,
                         .xmallocxz = manager_mallocxz,
                         .xmalloc_unsafe = manager_malloc,
                         .xfree = manager_free,
                         .xfree_unsafe = manager_free,
                         .xrealloc = manager_realloc,
                         .xreallocxf = manager_reallocxf,
                         .xresize = manager_resize,
                         .xstatus = manager_status,
                         .xinfo = manager_info,
                         .xreport = manager_report,
                         .xavailable = manager_available,
                         .xsums = manager_sums,
                         .xdestroy = manager_destroy,
                         .xmodstats = manager_mod_get_stats,
                         .xfmodstats = manager_mod_free_stats,
                         .xglock = manager_glock,
                         .xgunlock = manager_glock };

    (void)path, (void)dlflags, (void)p1, (void)p2;
    if (config_check)
        return 0; /* kamailio -c looks at the configuration alone */
    if (!shm_initialized() && init_shm() < 0)
        return -1;
    books = accounts_create(shm_mem_size);
    if (books == NULL) {
        LM_CRIT("no memory for the sums: %s\n", strerror(errno));
        return -1;
    }
    if (heap_attach() < 0)
        return -1;
    former = _shm_root;
    api.mem_block = former.mem_block; /* not NULL: some callers look */
    api.mem_pool = former.mem_pool;
    return shm_init_api(&api);
}

/*
 * What Kamailio says of this process. The one that has forked it writes that, and Debian's Kamailio does not wait for it:
 * a child that is faster finds nothing. So wait for it, for a second at most, and until it is whole.
 */
static const char *description(void)
{
    const struct timespec pause = { .tv_nsec = 1000000 };

    for (unsigned ms = 0; ms < 1000 && my_desc()[0] == '\0'; ms++) {
        (void)nanosleep(&pause, NULL);
        if (my_desc()[0] != '\0')
            (void)nanosleep(&pause, NULL);
    }
    return my_desc();
}

static int child_init(int rank)
{
    const char *label;
    int r;

    if (config_check || rank == PROC_INIT)
        return 0;
    if (rank == PROC_MAIN && keep_running)
        dont_fork = 1; /* all are forked by now; it decides how the main process takes the death of a worker */
    if (rank == PROC_MAIN || rank == PROC_POSTCHILDINIT)
        return 0;
    label = description();
    r = goalloc_set_label(label);
    if (r < 0)
        LM_WARN("no label for \"%s\": %s\n", label, goalloc_strerror(r));
    return 0;
}

static param_export_t params[] = { { "keep_running", PARAM_INT, &keep_running }, { 0, 0, 0 } };

struct module_exports exports = {
    .name = "goalloc",
    .dlflags = DEFAULT_DLFLAGS,
    .params = params,
    .init_child_f = child_init,
};
