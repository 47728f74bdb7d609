/*
 * attach: how the process comes to the heap, leaves it, and forks.
 *
 * Called by users (goalloc_attach, goalloc_detach, goalloc_set_label) and by every slow path (attach_ensure). Calls
 * connection (session), mapping (memory), process (state and gate), coredump, thread and largecache (what is held), and
 * attach_error (what users are told). Data: how to attach.
 *
 *        DETACHED --goalloc_attach, or first malloc--> ATTACHED --goalloc_detach--> LEFT --goalloc_attach--> ATTACHED
 *                                                         |
 *                                                        fork (in the child)
 *                                                         v
 *                                                       FORKED --first call that needs the daemon--> ATTACHED
 *
 * An attach: 1. connect, send Attach, get numbers and descriptors; 2. check them, sizes by fstat, the header by
 * recomputing it, and map them, the arena at its address and nowhere else (mapping.c); 3. close the descriptors, open
 * the gate. Step 1 waits, and is done under a turn that others wait for with a deadline; 2 and 3 under the forklock.
 *
 * A fork: the child begins anew. Spans are the parent's, so it forgets them; its copy of the socket is closed; locks
 * and turns are made anew, whoever had them in the parent; the mapping stays. None of that needs a look at what other
 * threads of the parent were doing, but for descriptors and mappings, which come and go under the forklock: that is all
 * fork() waits for.
 *
 * _Fork() and clone() call no handlers. Such a child finds its state wiped, as all that the fast paths find spans by
 * (client/README.md; mapping_private), and begins anew as above: become_child(), which process.c was given. A thread's
 * current[] is not wiped: it must name structures, which are.
 *
 * A child is of its parent's group: it attaches with the same name, and shows the group's token, since by then it may
 * have become another user. Between the fork and that, its copy of process.family keeps the group from
 * ending, whatever becomes of the parent.
 *
 * A heap other than the one that is mapped (the daemon was replaced meanwhile): -ESTALE, nothing changes.
 */
#include "client/lib/attach.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "client/lib/attach_error.h"
#include "client/lib/comeback.h"
#include "client/lib/connection.h"
#include "client/lib/coredump.h"
#include "client/lib/declared.h"
#include "client/lib/forklock.h"
#include "client/lib/intent.h"
#include "client/lib/largecache.h"
#include "client/lib/link.h"
#include "client/lib/mapping.h"
#include "client/lib/marked.h"
#include "client/lib/recorder.h"
#include "client/lib/shadow.h"
#include "client/lib/subscription.h"
#include "client/lib/thread.h"
#include "client/lib/turn.h"
#include "shm/probe.h"
#include "shm/profile.h"

/* Not the daemon's business. */
#define LIBRARY_FLAGS (GOALLOC_ATTACH_DUMP | GOALLOC_ATTACH_WAIT | GOALLOC_ATTACH_OPAQUE)
#define ATTACH_FLAGS  (GOALLOC_ATTACH_RECLAIM | GOALLOC_ATTACH_READONLY | LIBRARY_FLAGS)

_Static_assert(GOALLOC_ATTACH_RECLAIM == SESSION_RECLAIM && GOALLOC_ATTACH_READONLY == SESSION_READONLY,
               "public names of the session's flags");

_Static_assert(GOALLOC_GROUP_NAME_MAX == SHM_GROUP_NAME_MAX, "the public name of the limit");

static turn attach_turn = TURN_INIT;

/* How to attach (again): copies of what the options said, or a set_label since. With the turn. */
static char socket_path[PATH_MAX];
static char label[SHM_LABEL_BYTES];
static char group[SHM_GROUP_NAME_BYTES];
static attach_request how = { .socket_path = socket_path, .label = label, .group = group };
static char session_group[SHM_GROUP_NAME_BYTES]; /* of the session that there is, or that the parent had */
static uint32_t library_flags; /* of LIBRARY_FLAGS */
static int *kept_arena; /* where the next attach leaves a copy of the arena's descriptor; NULL: nowhere */

/* --- fork --- */

/* A child begins anew: no other thread of it is in the library. is_forker: this is the thread that has forked. */
static void start_over(bool is_forker)
{
    enum process_state before = process_last_state();

    declared_reset();
    thread_reset(is_forker);
    marked_reset();
    recorder_reset();
    largecache_reset(&large_cache);
    subscription_reset();
    comeback_reset();
    intent_reset();
    turn_reset(&attach_turn);
    process.sign = NULL;
    process.own_id = 0;
    atomic_store_explicit(&process.offers, NULL, memory_order_relaxed);
    shadow_child_begins();
    if (before < PROCESS_ATTACHED && process.map.header != NULL) {
        shadow_heap_goes();
        mapping_detach(); /* a thread of the parent was about to do it, or had not opened the gate yet */
    }
    process_set_state(before >= PROCESS_ATTACHED ? PROCESS_FORKED : before);
}

/* In a child that fork()'s handlers have not told. */
static void become_child(bool is_forker)
{
    forklock_reset();
    start_over(is_forker);
}

static void fork_prepare(void)
{
    (void)process_state_now(); /* in a child that does not know it yet this makes the forklock anew */
    forklock_take();
}

static void fork_parent(void)
{
    forklock_give();
}

static void fork_child(void)
{
    start_over(true);
    forklock_give();
}

__attribute__((constructor(101))) static void attach_init(void)
{
    /* Without the handlers a child finds out by itself, but later: better not to start at all. */
    if (pthread_atfork(fork_prepare, fork_parent, fork_child) != 0)
        abort();
}

/* --- options --- */

static const char *asked_path(const goalloc_options *o)
{
    const char *path = o->socket_path != NULL ? o->socket_path : getenv("GOALLOC_SOCKET");

    return path != NULL ? path : SHM_SOCKET_PATH;
}

/* An attach that does not get as far as the daemon. */
static int refuse(int r, const goalloc_options *o, const char *why)
{
    attach_error_set(r, &(attach_failure){ .path = asked_path(o), .why = why });
    return r;
}

/* An absolute path, which chdir() does not change. If there is no current directory it stays as it is. */
static int take_path(const char *path)
{
    char dir[PATH_MAX];
    int n;

    if (path[0] == '\0')
        return -EINVAL;
    if (strlen(path) >= sizeof(((struct sockaddr_un *)0)->sun_path))
        return -ENAMETOOLONG;
    if (path[0] == '/' || getcwd(dir, sizeof(dir)) == NULL || dir[0] != '/')
        n = snprintf(socket_path, sizeof(socket_path), "%s", path);
    else
        n = snprintf(socket_path, sizeof(socket_path), "%s/%s", strcmp(dir, "/") == 0 ? "" : dir, path);
    return n < 0 || (size_t)n >= sizeof(socket_path) ? -ENAMETOOLONG : 0;
}

/* *ret is set in any case, as far as they can be read. */
static int read_options(const goalloc_options *options, goalloc_options *ret)
{
    *ret = (goalloc_options)GOALLOC_OPTIONS_INIT;
    if (options != NULL) {
        if (options->struct_size < sizeof(options->struct_size))
            return -EINVAL;
        memcpy(ret, options, options->struct_size < sizeof(*ret) ? options->struct_size : sizeof(*ret));
    }
    if (ret->timeout_ms < 0 || (ret->flags & ~ATTACH_FLAGS) != 0 || (ret->group != NULL && ret->group[0] == '\0'))
        return -EINVAL;
    if (ret->group != NULL && strnlen(ret->group, SHM_GROUP_NAME_BYTES) > SHM_GROUP_NAME_MAX)
        return -ENAMETOOLONG;
    if (ret->timeout_ms == 0)
        ret->timeout_ms = PROCESS_TIMEOUT_MS;
    return 0;
}

static void copy_label(char ret[SHM_LABEL_BYTES], const char *text)
{
    ret[0] = '\0';
    (void)strncat(ret, text != NULL ? text : program_invocation_short_name, SHM_LABEL_BYTES - 1);
}

/*
 * What $GOALLOC_PROFILE asks for: bytes, with K, M or G for more of them; 0 or "off": nothing. A word that is no size
 * is no reason to refuse the heap: it is said once, and nothing is asked for.
 */
static uint64_t profile_asked(void)
{
    static const char units[] = "KMG";
    static bool said;
    const char *text = getenv("GOALLOC_PROFILE");
    const char *unit;
    char *end;
    uint64_t bytes;

    if (text == NULL || text[0] == '\0' || strcmp(text, "off") == 0)
        return 0;
    errno = 0;
    bytes = strtoull(text, &end, 10);
    unit = *end == '\0' ? NULL : strchr(units, toupper((unsigned char)*end));
    if (text[0] >= '0' && text[0] <= '9' && errno == 0 && (*end == '\0' || (unit != NULL && end[1] == '\0'))) {
        unsigned shift = unit == NULL ? 0 : 10 * (unsigned)(unit - units + 1);

        if (bytes <= PROFILE_RATE_MAX >> shift)
            return bytes << shift;
    }
    if (!said)
        (void)dprintf(STDERR_FILENO, "goalloc: GOALLOC_PROFILE=%s is no size, as 512K: nothing is sampled\n", text);
    said = true;
    return 0;
}

/* With the turn. */
static int take_options(const goalloc_options *o)
{
    int r = take_path(asked_path(o));

    if (r < 0)
        return refuse(r, o, r == -EINVAL ? "the path of the socket is empty" : "the path is too long for a socket");
    copy_label(label, o->label);
    memset(group, 0, sizeof(group));
    if (o->group != NULL)
        (void)strncat(group, o->group, sizeof(group) - 1);
    how.flags = o->flags & ~LIBRARY_FLAGS;
    library_flags = o->flags & LIBRARY_FLAGS;
    how.limit_bytes = o->limit_bytes;
    how.profile_bytes = profile_asked();
    u32_store_relaxed(&process.timeout_ms, (uint32_t)o->timeout_ms);
    return 0;
}

/* --- attach --- */

/* From now on the state lies where no child sees it. Once in a process. */
static int hide_state(void)
{
    void *page;
    int r;

    if (process_hides_state())
        return 0;
    r = mapping_private(sizeof(shm_u32), 0, &page);
    if (r == 0)
        process_hide_state(page, become_child);
    return r;
}

void attach_keep_arena(int *ret_fd)
{
    *ret_fd = -1;
    kept_arena = ret_fd;
}

static int attach_once(bool gated, deadline until)
{
    attach_result a;
    bool readonly = how.flags & GOALLOC_ATTACH_READONLY;
    bool forked = process_state_now() == PROCESS_FORKED;
    int r = hide_state();

    if (r == 0 && forked && u32_load_acquire(&process.map.header->dropped) != 0)
        r = -ESTALE;
    if (r < 0)
        return r;
    how.of_parent = forked && group[0] != '\0' && strcmp(group, session_group) == 0;
    if (library_flags & GOALLOC_ATTACH_WAIT)
        how.patience = COMEBACK_STARTS;
    else
        how.patience = forked ? COMEBACK_RESTARTS : COMEBACK_SERVES; /* its parent has been served: it waits as that */
    how.gated = gated;
    how.until = until;
    r = connection_attach(&how, &a);
    if (r < 0)
        return r == -EAGAIN ? -EPROTO : r; /* no answer to an Attach; here it would mean the limit on locked memory */
    forklock_take();
    r = forked ? mapping_reattach(&a, readonly) : mapping_attach(&a, readonly);
    if (r == 0 && kept_arena != NULL)
        *kept_arena = fcntl(a.arena_fd, F_DUPFD_CLOEXEC, link_lowest_fd());
    kept_arena = NULL;
    link_close_fds();
    if (r == 0)
        memcpy(session_group, group, sizeof(group));
    if (r == 0)
        process_open_gate(&a, readonly, how.flags & GOALLOC_ATTACH_RECLAIM);
    forklock_give();
    comeback_end();
    if (r < 0)
        connection_detach();
    else if (library_flags & GOALLOC_ATTACH_DUMP)
        coredump_enable();
    else
        coredump_disable(); /* of the parent, in a forked child */
    return r;
}

/*
 * The same, and what collectors are told of this process: from before it has a session. Without a table they look
 * through all of it, so only who has pointers that nobody can see must not go on without one.
 */
static int attach_declared(bool gated, deadline until)
{
    bool opaque = library_flags & GOALLOC_ATTACH_OPAQUE;
    bool was_opaque;
    int r = mapping_declare();

    if (r < 0 && opaque)
        return r;
    was_opaque = opaque ? declared_set_opaque(true) : declared_is_opaque();
    r = attach_once(gated, until);
    (void)declared_set_opaque(r == 0 ? opaque : was_opaque);
    return r;
}

/* Connect and map by `how`. With the turn; the heap is not mapped, or the state is FORKED. */
static int attach_now(bool gated, deadline until)
{
    int r = attach_declared(gated, until);
    const comeback_failure *failure = comeback_last_failure();

    attach_error_set(r, &(attach_failure){ .path = socket_path,
                                           .why = failure->said,
                                           .connect_error = failure->connect_error,
                                           .timeout_ms = (int)u32_load_relaxed(&process.timeout_ms) });
    PROBE(goalloc, attach, process.session.n, process.generation, r);
    return r;
}

/*
 * Attach by these options. If that fails in a forked child, its next call that needs the daemon attaches with those of
 * the parent, as if this had not been tried. With the turn.
 */
static int attach_as(const goalloc_options *o, deadline until)
{
    static char path_before[sizeof(socket_path)];
    static char label_before[sizeof(label)];
    static char group_before[sizeof(group)];
    attach_request before = how;
    uint32_t flags_before = library_flags;
    uint32_t timeout_before = u32_load_relaxed(&process.timeout_ms);
    bool forked = process_state_now() == PROCESS_FORKED;
    int r;

    memcpy(path_before, socket_path, sizeof(socket_path));
    memcpy(label_before, label, sizeof(label));
    memcpy(group_before, group, sizeof(group));
    r = take_options(o);
    if (r == 0)
        r = attach_now(false, until);
    if (r < 0 && forked) {
        memcpy(socket_path, path_before, sizeof(socket_path));
        memcpy(label, label_before, sizeof(label));
        memcpy(group, group_before, sizeof(group));
        how = before;
        library_flags = flags_before;
        u32_store_relaxed(&process.timeout_ms, timeout_before);
    }
    return r;
}

int goalloc_attach(const goalloc_options *options)
{
    goalloc_options o;
    deadline until;
    int r = read_options(options, &o);

    if (r < 0)
        return refuse(r, &o,
                      r == -ENAMETOOLONG ? "the group's name is longer than " SHM_TEXT(SHM_GROUP_NAME_MAX) " bytes"
                                         : "the attach has an unknown flag, or struct_size, timeout_ms or group is not "
                                           "usable");
    until = deadline_in(o.timeout_ms);
    if (process_state_now() == PROCESS_ATTACHED)
        r = -EALREADY;
    else if (turn_take(&attach_turn, until) < 0)
        return refuse(-ETIMEDOUT, &o, "another thread of this process is attaching, or detaching");
    else {
        r = process_state_now() == PROCESS_ATTACHED ? -EALREADY : attach_as(&o, until);
        turn_give(&attach_turn);
        if (r == 0)
            recorder_prepare(process_profile_word());
    }
    return r == -EALREADY ? refuse(r, &o, "this process is attached already") : r;
}

int attach_ensure(void)
{
    enum process_state state = process_state_now();
    deadline until;
    int r;

    if (LIKELY(state == PROCESS_ATTACHED))
        return 0;
    if (state == PROCESS_LEFT)
        return -ENOTCONN;
    until = deadline_in((int)u32_load_relaxed(&process.timeout_ms));
    r = turn_take(&attach_turn, until);
    if (r < 0)
        return r;
    state = process_state_now();
    if (state == PROCESS_LEFT)
        r = -ENOTCONN;
    else if (state == PROCESS_DETACHED)
        r = take_options(&(goalloc_options){ .timeout_ms = PROCESS_TIMEOUT_MS });
    if (r == 0 && state != PROCESS_ATTACHED)
        r = attach_now(true, until);
    turn_give(&attach_turn);
    return r;
}

int attach_ensure_writable(void)
{
    int r = attach_ensure();

    return r == 0 && process.readonly ? -EROFS : r;
}

const char *attach_socket_path(void)
{
    return socket_path;
}

/* --- label --- */

/* With the turn. The copy is what a child begins with: under the forklock, so that it finds all of it. */
static int set_label(const char *text)
{
    char wanted[SHM_LABEL_BYTES];
    int r;

    copy_label(wanted, text);
    r = connection_set_label(wanted);
    if (r < 0)
        return r;
    forklock_take();
    memcpy(label, wanted, sizeof(label));
    forklock_give();
    recorder_renew_party();
    return 0;
}

int goalloc_set_label(const char *text)
{
    int r = attach_ensure();

    if (r == 0)
        r = turn_take(&attach_turn, deadline_in((int)u32_load_relaxed(&process.timeout_ms)));
    if (r < 0)
        return r;
    r = process_state_now() == PROCESS_ATTACHED ? set_label(text) : -ENOTCONN;
    turn_give(&attach_turn);
    return r;
}

/* --- detach --- */

int goalloc_detach(void)
{
    int r;

    if (!process_is_mapped())
        return -ENOTCONN;
    r = turn_take(&attach_turn, deadline_in((int)u32_load_relaxed(&process.timeout_ms)));
    if (r < 0)
        return r;
    if (!process_is_mapped()) {
        r = -ENOTCONN;
        goto out;
    }
    subscription_close();
    coredump_disable();
    thread_forget_all();
    marked_forget();
    recorder_close();
    largecache_clear(&large_cache);
    shadow_heap_goes();
    forklock_take();
    mapping_leave_group();
    forklock_give();
    connection_detach();
    forklock_take();
    mapping_detach();
    forklock_give();
    (void)declared_set_opaque(false);
out:
    turn_give(&attach_turn);
    return r;
}
