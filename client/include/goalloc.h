/*
 * goalloc: one managed heap for several processes.
 *
 * A process attaches to the daemon goallocd and then allocates and frees objects that every other attached process
 * sees at the same address. Pointers between objects are plain pointers. The allocator is the Go runtime's (size
 * classes, spans, mcache, mcentral, mheap), cut in two between mcache and mcentral: this library is the mcache.
 *
 * Sizes: an object of up to 32 KiB is small: it has a place in a span of its size class. A larger one, up to some
 * hundred KiB, has a run: a span of whole pages with one object, which threads allocate from like any other span. How
 * long runs may be is fixed when library and daemon are built. A still larger object is a large object: pages of their
 * own, asked for one by one.
 *
 * Threads: everything here is thread-safe. Nothing here is async-signal-safe, except goalloc_contains(),
 * goalloc_offset(), goalloc_pointer(), goalloc_is_current() and goalloc_version(); nor may a signal handler that has
 * interrupted one of the others fork. A thread can be cancelled (deferred) in any of these functions; if it waits for
 * the daemon, the cancellation acts after the call, unless that says otherwise.
 *
 * Forks: the child has the mapping too, so objects stay valid on both sides, and it becomes a client of its own at its
 * next call that needs the daemon. fork() waits for nobody. Children made by _Fork() or clone(), which call no handlers
 * of fork(), become clients of their own as well; but they find half done what another thread was doing in
 * goalloc_attach() or goalloc_detach() at that moment. A clone that shares the memory (CLONE_VM, vfork()) must not call
 * this library unless it has thread-local storage of its own, as it must not call the C library.
 * A fork without exec is no snapshot of the heap; no allocator of shared memory can give one. Parent and child see the
 * same objects, and each sees what the other writes. A program that saves its state from a forked child, as databases
 * do, gets a torn state; it has to copy first, or to stop its writers.
 *
 * Descriptors: an attached process has one, a socket, at a high number, and three more after goalloc_event_fd(). A
 * program may close it, as daemons close all that they find, and use the number for something of its own: the library
 * notices, leaves that alone, and connects again.
 *
 * Debug mode: with the debug variant of this library (libgoalloc.so.1 in goalloc/debug of the library's directory, for
 * LD_LIBRARY_PATH) and GOALLOC_DEBUG=1 in the environment at the first call, each object ends with a red zone, and is
 * overwritten when it is freed. A red zone that was written to, and a write after a free, end the process with a line on
 * stderr, as a bad free does; AddressSanitizer and Valgrind report each access. goalloc_usable_size() is what was asked
 * for then, for other processes too, and an object that becomes longer than that moves. Processes in debug mode and
 * others share a heap. The normal library says in a line on stderr that it has no debug mode, and does nothing else.
 *
 * Errors: functions that return int return 0 or a negative errno value; functions that return a pointer return NULL and
 * set errno. goalloc_strerror() names both in terms of this library. A request to the daemon takes at most the timeout
 * given at the attach, with the wait for other threads' requests before it. Most functions make one request at most;
 * those of roots say what they make. An allocation makes up to three: attach, ask, and ask again after giving back what
 * is idle; each of the two is several, within one timeout, if the session is at its limit and the daemon has to look
 * through what it holds idle. goalloc_realloc() may ask for the pages behind the object before that, several times if
 * it has to move its own idle pages out of the way; and what it does not get with some more than is needed, it asks for
 * without. goalloc_trim() makes two. Once a request has waited for the whole timeout, those that follow fail at once.
 * No function that frees waits for the daemon at all.
 *
 * The daemon may die, and another one may take the heap over, without this process noticing. The process goes on using
 * what it holds, and a call that needs the daemon connects again and comes back to its session by itself. Such a call
 * returns -ETIMEDOUT if nobody serves the socket, or answers, within the timeout (-EACCES if the socket is there and
 * may not be used). From then on such calls fail at once, and one of them looks for the daemon every 100 ms, until it
 * is found. Two errors come at once: -ENOENT if the directory of the socket is gone, as after a chroot, and -ESTALE if
 * the heap was dropped, or the daemon serves another one, or an administrator has disconnected this session
 * (goallocctl disconnect). Then the heap that is mapped here is nobody's any more, or not this process's. It
 * can still be read, and used as far as what is held reaches; every call that needs the daemon answers -ESTALE, until
 * goalloc_detach() and a new goalloc_attach(). goalloc_is_current() says so without a call.
 *
 * What a program does on -ESTALE (or when goalloc_is_current() is 0, or after GOALLOC_EVENT_HEAP_GONE), step by step:
 *   1. No thread begins anything new with the heap. What others have stored there is as it was, but nobody who attaches
 *      now will see what this process writes, and processes of the same heap notice in their own time.
 *   2. What is wanted of the old heap is copied to private memory. This is the last time: after step 4 it is unmapped.
 *   3. All threads leave this library, and forget their pointers into the heap: they mean nothing in the next one,
 *      which has other objects at the same addresses. A mutex in the old heap may have a holder for ever: don't wait
 *      for it.
 *   4. One thread calls goalloc_detach(). It does not fail for want of a daemon. Descriptors of goalloc_event_fd() are
 *      closed.
 *   5. It calls goalloc_attach(), with GOALLOC_ATTACH_WAIT if a daemon may be on its way up. -ENOENT, -ECONNREFUSED and
 *      -ETIMEDOUT: no daemon serves yet; try again after a while.
 *   6. goalloc_heap_id() is another one now, and the heap is empty or somebody else has begun to fill it: look its
 *      roots up, or make them, as at the program's start.
 * A forked child that has not called the library since finds -ESTALE at its own attach, and goes the same way.
 */
#ifndef GOALLOC_H
#define GOALLOC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this header: a program can compare it with goalloc_version(), that of the library it runs with. */
#define GOALLOC_VERSION_MAJOR 1
#define GOALLOC_VERSION_MINOR 0
#define GOALLOC_VERSION_PATCH 0

#if defined(__GNUC__)
#define GOALLOC_API        __attribute__((visibility("default")))
#define GOALLOC_CHECK      __attribute__((warn_unused_result))
#define GOALLOC_ALLOC(...) __attribute__((malloc, alloc_size(__VA_ARGS__), warn_unused_result))
#else
#define GOALLOC_API
#define GOALLOC_CHECK
#define GOALLOC_ALLOC(...)
#endif

/*
 * Objects belong to the session that allocated them, or to its group (see below): when that ends, however it ends,
 * they are freed, except those that were made the heap's by goalloc_publish() or another session's by goalloc_adopt().
 * Without this flag an object lives until somebody frees it.
 */
#define GOALLOC_ATTACH_RECLAIM UINT32_C(1)

/* Objects can be read and looked up, not allocated, freed, published or changed: the mapping has no write access. */
#define GOALLOC_ATTACH_READONLY UINT32_C(2)

/*
 * Core dumps of this process hold what is in use of the heap, by whichever process. Without this flag they hold nothing
 * of it. The pages in use are looked up when the process is about to die, by handlers of SIGSEGV, SIGBUS, SIGILL,
 * SIGFPE, SIGABRT, SIGSYS, SIGTRAP, SIGQUIT, SIGXCPU and SIGXFSZ; only for those that have the default action at the
 * attach. They run on the thread's sigaltstack(), if it has one, and then let the signal kill, with its information
 * unchanged. A handler that the program installs later replaces them; it may call the one that it has found.
 * goalloc_detach() puts the default action back. A dump never gives memory to pages that the heap has released or not
 * used yet, except for a little between the pages in use when those are in very many pieces (then some may be missing,
 * too).
 *
 * /proc/PID/coredump_filter decides as well. Objects and their bits are anonymous shared memory (bit 1, set by
 * default). What is mapped without write access, so the heap's bookkeeping, and objects in a read-only session,
 * counts as private mappings of files (bit 2, not set by default).
 */
#define GOALLOC_ATTACH_DUMP UINT32_C(4)

/*
 * The attach waits, within its timeout, for a daemon that is just starting: as long as the socket or its directory is
 * not there, nobody listens, or the socket may not be used yet. Then it returns -ETIMEDOUT, or -EACCES if the last was
 * in the way. Without this flag it fails at once. It looks every 10 ms, and keeps no lock and no descriptor meanwhile;
 * other threads that attach wait with it. A forked child that attaches by itself waits in the same way.
 */
#define GOALLOC_ATTACH_WAIT UINT32_C(8)

/*
 * This process keeps pointers into the heap where nobody can see them: displaced, encrypted, in a device, as XOR of
 * two. Nothing of the whole heap is collected (goalloc_collect()) while it is attached. A forked child is what its
 * parent was, until an attach of its own says otherwise. An attach with this flag may fail with -EMFILE, -ENFILE or
 * -ENOMEM where one without would not, and with -EPERM or -ENOSYS where memfd_create() is forbidden.
 */
#define GOALLOC_ATTACH_OPAQUE UINT32_C(16)

/* The longest name of a root, in bytes, without the terminating zero. */
#define GOALLOC_ROOT_NAME_MAX 255

/* The longest name of a group, in bytes, without the terminating zero. */
#define GOALLOC_GROUP_NAME_MAX 63

/* How a process attaches. Set struct_size (or use GOALLOC_OPTIONS_INIT); fields that are zero take their defaults. */
typedef struct goalloc_options {
    size_t struct_size;      /* sizeof(goalloc_options): lets the struct grow without breaking old programs */
    const char *socket_path; /* NULL: $GOALLOC_SOCKET, else /run/goallocd/goallocd.sock; copied, made absolute */
    const char *label;       /* shown by goallocctl, the first 63 bytes; NULL: the program's name; copied */
    uint32_t flags;          /* GOALLOC_ATTACH_* */
    uint64_t limit_bytes;    /* the most that this session may hold in spans; 0: the daemon's default, which may be
                                none. A limit of the daemon that is lower holds as well */
    int timeout_ms;          /* bound of the attach and of each request to the daemon; 0: 5000 */
    const char *group;       /* sessions that own together: see below; NULL: none; copied */
} goalloc_options;

/*
 * A group: sessions that own together, by the name that they attach with (1 to GOALLOC_GROUP_NAME_MAX bytes of UTF-8).
 * The name belongs to the user (effective uid): the same name of another user is another group.
 *
 * With GOALLOC_ATTACH_RECLAIM, what a session of the group allocates or adopts is the group's: it lives until somebody
 * frees it, or until the last session of the group has ended; then what has not been published is freed. So nothing is
 * lost when one worker of a pool dies, and nothing is left when all have. What is to outlive the group is published, as
 * ever. Without that flag a group owns nothing; all its sessions have the flag, or none (-EINVAL). The places that a
 * dead session had not handed out, and those that come free in what it left, go to the group's other sessions first.
 *
 * A forked child is of its parent's group, also if it becomes another user before it attaches; and while a child lives
 * that was forked from a member and has not called exec, the group goes on, whether the child has attached or not. So
 * it may attach after its parent has died. A child that attaches by goalloc_attach() with another group, or with none,
 * leaves its parent's. A session whose process has lost the daemon, or sleeps, is a member as well: only the end of
 * processes, and goalloc_detach(), end a group. Who attaches with a group's name in the instant in which it ends is in
 * the old group or founds a new one, but never finds half of the old.
 */
#ifdef __cplusplus
#define GOALLOC_OPTIONS_INIT { sizeof(goalloc_options), nullptr, nullptr, 0, 0, 0, nullptr }
#else
#define GOALLOC_OPTIONS_INIT { .struct_size = sizeof(goalloc_options) }
#endif

/* What goalloc_stats() reports. All sizes are bytes; "live" means allocated and not freed, by the bits. */
typedef struct goalloc_stats_t {
    size_t struct_size;
    uint64_t live_objects;       /* whole heap */
    uint64_t live_bytes;         /* whole heap, each object with its usable size: that of its class, or pages */
    uint64_t committed_bytes;    /* arena pages in use, or free with memory behind them: what the heap occupies */
    uint64_t released_bytes;     /* arena pages once used and given back to the OS, or grown and not yet used */
    uint64_t metadata_bytes;     /* physical memory of the spans and bitmap regions, as the kernel counts it: at most 5%
                                    of committed_bytes in a heap of some MiB, unless a client has added some */
    uint64_t sessions;           /* attached processes, this one included */
    uint64_t leased_spans;       /* spans held by sessions, each large object being one */
    uint64_t roots;              /* named roots */
    uint64_t session_held_bytes; /* this session: spans held, used and idle */
    uint64_t session_rpcs;       /* this session: requests sent so far, this one included */
    uint64_t free_bytes;         /* of committed_bytes: free. Some MiB of it are kept ready for who needs memory next */
    uint64_t arena_bytes;        /* size of the arena, of which page 0 is never used */
    uint64_t memory_limit_bytes; /* soft limit of committed_bytes and metadata (--memory-limit); 0: none */
    uint64_t max_memory_bytes;   /* hard limit of the same (goallocd --max-memory); 0: none */
    uint64_t peak_committed_bytes; /* the most that committed_bytes has been since the heap was made, whichever daemons
                                      have served it. What only may have memory, free pages that a daemon has taken
                                      over, counts in committed_bytes until it is released, and not here */
    uint64_t group_live_objects; /* that this session or its group owns: allocated by it and not published */
    uint64_t group_live_bytes;   /* the same. Both are 0 without GOALLOC_ATTACH_RECLAIM; what was adopted from others is
                                    not counted */
} goalloc_stats_t;

/*
 * Attach this process to the daemon at options->socket_path. NULL options: all defaults.
 *
 * Maps the heap at the address that the daemon chose, the same in all processes. One attach a process: a second one
 * returns -EALREADY. In a forked child of an attached process it opens the child's own session, with these options.
 * If the daemon dies before it answers, the next one is asked, within the timeout.
 * Cost: one connect, one round trip, six mappings; nothing that grows with the heap's size.
 *
 * $GOALLOC_PROFILE is a size, as 512K or 1M: of so many bytes that the session allocates, one object is sampled, on
 * average (goallocctl profile). Not set, 0 or "off": as the daemon says, which samples nothing unless it was told to.
 * What is no size is said on stderr, once, and means the same.
 *
 * The heap is never locked: after mlockall(MCL_FUTURE) it is mapped without, since all of its reserve would get memory
 * otherwise. mlockall(MCL_CURRENT) after the attach would do just that; with MCL_ONFAULT it locks what is touched.
 *
 * Returns 0, or
 *   -EINVAL           struct_size, flags, timeout or path are not usable, or the group's name is empty; or the group
 *                     has sessions of another mode (GOALLOC_ATTACH_RECLAIM or not)
 *   -ENAMETOOLONG     the path is longer than a Unix socket's may be (107 bytes), or the group's name than 63 bytes
 *   -EILSEQ           the group's name is not UTF-8
 *   -ENOENT           no socket at that path          -ECONNREFUSED  nobody listens there
 *   -EACCES           no permission for the socket; or the daemon lets only others attach (its --allow-uid, and so
 *                     on), or this user read-only alone
 *   -ETIMEDOUT        no answer within timeout_ms
 *   -EPERM            who serves the socket is neither root, nor the effective user, nor the owner of the socket's
 *                     directory if nobody else may write there, nor the user whose number is in $GOALLOC_SERVER_UID
 *   -EPROTONOSUPPORT  the daemon speaks another version of the protocol
 *   -ENOEXEC          the heap's layout has another major version than this library's, or features that it does not
 *                     know; goalloc_attach_error() names both
 *   -EPROTO           the answer was not understood, or contradicts the shared header
 *   -EEXIST           something else occupies the heap's address range in this process
 *   -EUSERS           the daemon has no room for another session: 4095 of them, or no descriptors left, or the kernel
 *                     has no room for another sign of life, or lets the daemon send no descriptors; or none for
 *                     another group: 1024 of them; or processes that have left the group still hold 64 generations of
 *                     its sign of life
 *   -EDQUOT           there are 128 groups already that this user has founded; or it has as many sessions, or sessions
 *                     that are lost, or replies to this that it has not read, as the daemon allows a user:
 *                     goalloc_attach_error() and goallocctl limits say which
 *   -EIO              the daemon has no randomness for the session's token
 *   -ESHUTDOWN        the daemon is stopping, and saves the heap when nobody can write it any more: who reads may still
 *                     attach, but to no group in which somebody can write, or could
 *   -ESTALE           in a forked child: the daemon serves another heap than the one mapped here
 *   -EALREADY         already attached
 *   -ENOMEM           this process has no room for the mapping or for the library's own tables, or the daemon no
 *                     memory for another session
 *   -EAGAIN           after mlockall(MCL_FUTURE): RLIMIT_MEMLOCK allows not even a page more
 *   -EMFILE, -ENFILE  no descriptor is left for the socket, in this process or in the system; it needs six at the
 *                     attach, with a group seven (-EPROTO if only the socket's was there), one afterwards
 * goalloc_attach_error() says it in a sentence.
 */
GOALLOC_API GOALLOC_CHECK int goalloc_attach(const goalloc_options *options);

/*
 * Why the last attach of this thread has failed, by goalloc_attach() or by a call that attached by itself: the path of
 * the socket, and the reason, also the daemon's own words if it refused, such as
 * "/run/goallocd/goallocd.sock: no daemon serves this socket". For people: the words may change. A long path loses its
 * beginning. "" if it has succeeded, or there was none. Valid until this thread's next attach; never NULL. Leaves errno
 * alone.
 */
GOALLOC_API const char *goalloc_attach_error(void);

/*
 * Have this session shown under another label, in goallocctl and by the daemon's log; NULL: the program's name. The
 * first 63 bytes count; control characters, and what is no UTF-8, become '?'. It lasts as long as the session, over
 * daemons that take the heap over too, and children that are forked later begin with it; a child that sets one changes
 * its own alone. Also in a read-only attach. One round trip. 0, -ENOTCONN, -ETIMEDOUT, -EACCES, -ENOENT, -ESTALE (in
 * all of these the label may have changed or not), -ENOSYS (the daemon is older), or an error of goalloc_attach().
 */
GOALLOC_API GOALLOC_CHECK int goalloc_set_label(const char *label);

/*
 * Leave the heap: end the session, which gives back all that it holds, and unmap. Objects stay, unless the session
 * reclaims them (GOALLOC_ATTACH_RECLAIM). Pointers into the heap are invalid in this process afterwards; no other
 * thread may be inside this library, but threads that have used it may end meanwhile. Afterwards the process, and
 * children that it forks, attach by goalloc_attach() alone: malloc fails with ENOTCONN. Returns 0, -ENOTCONN when not
 * attached, -ETIMEDOUT if another thread is attaching for as long as the timeout. A daemon that is gone is not an
 * error. One round trip.
 * Ending a process without it loses nothing: the daemon notices.
 */
GOALLOC_API int goalloc_detach(void);

/*
 * --- The heap's life ---
 *
 * A heap lives until it is dropped: by goallocctl drop, by a daemon that is stopped without leaving it to the next one
 * (goallocd --on-stop; systemctl stop), by the end of its keeper, or by a daemon that begins with --cold-start. All of
 * these are orderly: they mark the heap, in memory that every process has mapped, before they let it go. It also ends
 * when its daemon is killed and nobody else holds it (neither a keeper nor systemd); nobody can mark it then.
 */

/* A number that tells the heap mapped here from every other one, before and after; 0: none is mapped. Two loads. */
GOALLOC_API uint64_t goalloc_heap_id(void);

/*
 * 1 if the heap mapped here is somebody's: a daemon serves it, or the next one may. 0 if this process is not attached;
 * once the heap was dropped, in all processes at once, those with GOALLOC_ATTACH_READONLY too; and once a call of this
 * process has answered -ESTALE, unless a later one has been served after all. After the one end that nobody can mark,
 * only the latter makes it 0, and goalloc_next_event() says -ETIMEDOUT before that.
 * Never a call to anybody, and async-signal-safe: two loads. In a forked child: about the heap that it has mapped.
 */
GOALLOC_API int goalloc_is_current(void);

/* What goalloc_next_event() tells of. */
#define GOALLOC_EVENT_SESSION_END  UINT32_C(1) /* a session is over, and what it reclaims is free: session to group */
#define GOALLOC_EVENT_ROOT_SET     UINT32_C(2) /* a root was set, for the first time or again: root */
#define GOALLOC_EVENT_ROOT_REMOVED UINT32_C(3) /* root */
#define GOALLOC_EVENT_HEAP_GONE    UINT32_C(4) /* the heap is nobody's any more; the last event */
#define GOALLOC_EVENT_MEMORY_SHORT UINT32_C(5) /* the arena, the system or a memory limit had none; once a second */
#define GOALLOC_EVENT_LOST         UINT32_C(6) /* some events are missing before this point */
#define GOALLOC_EVENT_STOPPING     UINT32_C(7) /* the daemon waits for who can write, then saves the heap and ends it */

/* How a session has ended: the cause of GOALLOC_EVENT_SESSION_END. */
#define GOALLOC_CAUSE_DETACHED 1 /* its process has said so: goalloc_detach() */
#define GOALLOC_CAUSE_DIED     2 /* its process has exited, was killed, or has become another program */

typedef struct goalloc_event {
    size_t struct_size; /* sizeof(goalloc_event), set by the caller */
    uint32_t kind;      /* GOALLOC_EVENT_*; one that is not known here is to be passed over */
    uint64_t session;   /* its number, as goallocctl shows it */
    int32_t pid;        /* as the daemon saw it */
    int32_t cause;      /* GOALLOC_CAUSE_* */
    char label[64];
    char group[64];
    char root[256];
} goalloc_event;

/*
 * A descriptor that is readable when goalloc_next_event() has something to say: for poll(), epoll and the like, in any
 * program's loop. The first call subscribes: from then on events are told. The same one is returned until a detach
 * closes it; it is at a high number, as are two more that belong to it. Nobody but this library reads or closes it; a
 * program that has closed it nevertheless gets -EBADF of goalloc_next_event(), and a new one here. A forked child has
 * none, until it asks for one of its own.
 *
 * Whose sessions are told of: those of the same user, or group; for who may control the daemon all. Roots, memory and
 * a stop are told to all. Events come in the order in which they happened, but for GOALLOC_EVENT_STOPPING, which comes
 * at once, and never gets lost.
 *
 * GOALLOC_EVENT_STOPPING: a daemon with an image (goallocd --image) has been told to end. It serves on until nobody can
 * write the heap, saves it, and ends it (GOALLOC_EVENT_HEAP_GONE); after --image-wait (10 s) it ends it without having
 * saved it. So who can write finishes what it is at, and detaches or exits; who only reads may stay, if nobody of its
 * group can write. An attach that would write gets -ESHUTDOWN meanwhile, afterwards -ENOENT, -ECONNREFUSED or
 * -ETIMEDOUT until the next daemon serves. A daemon without an image, and one that leaves the heap to the next one,
 * wait for nobody, and tell nothing of it.
 *
 * Cost: the first call one connect and one round trip; a session of its own if the process has none. 0 or above, or
 * -ENOTCONN after a detach, -ETIMEDOUT, -ESTALE, -EMFILE, -ENFILE, -ENOMEM, -EUSERS (the daemon has no descriptor
 * left), and the errors of goalloc_attach(). Thread-safe.
 */
GOALLOC_API GOALLOC_CHECK int goalloc_event_fd(void);

/*
 * The next event, into *ret, of which at most ret->struct_size bytes are written. Never waits for anybody. Returns
 *   1            *ret is filled
 *   0            there is none now
 *   -ETIMEDOUT   the connection is lost (the daemon was killed, or stopped and has left the heap), and none serves yet.
 *                The descriptor is readable again every 100 ms, and a call then looks: so a loop needs nothing of its
 *                own for this. When a daemon has taken the heap over, this process subscribes again by itself, and
 *                GOALLOC_EVENT_LOST says that there may have been events in between.
 *   -ESTALE      the heap is gone, and GOALLOC_EVENT_HEAP_GONE has been told. The descriptor is quiet from then on
 *   -EBADF       there is no descriptor: goalloc_event_fd() has not been called, or the program has closed it
 *   -EINVAL      ret is NULL or has no struct_size
 *   -EMFILE, -ENFILE as above; as for -ETIMEDOUT, the next call tries again
 *
 * The daemon holds the last 256 events, and never waits for who does not read: who is further behind gets
 * GOALLOC_EVENT_LOST, then those that are left. An event is a hint to look: what it tells of may have changed since.
 * Thread-safe; each event goes to one caller. Cost: one or two system calls.
 */
GOALLOC_API GOALLOC_CHECK int goalloc_next_event(goalloc_event *ret);

/*
 * Allocate size bytes, uninitialised. Size 0 gives a unique pointer that can be freed.
 *
 * The result is aligned to 8 bytes up to size 15, to 16 from 16 on, except sizes 17 to 24, which are aligned to 8. It
 * is valid in every attached process, at this address, until somebody frees it. A process that was never attached
 * attaches with the defaults. The memory may hold pointers for a collector to follow; goalloc_malloc_noscan() says that
 * it doesn't.
 *
 * Cost: of a small object or a run a few nanoseconds, no lock and no system call, except when this thread's spans for
 * that size are used up: then it inherits one of an exited thread's, under a lock, or one round trip brings a batch
 * of them. A run may be longer by up to a half than the object needs, if one is at hand. A large object: a lock, if
 * pages fit that this process has freed and still holds (up to four times as many as are needed), else one round trip.
 * Returns NULL with errno EROFS (read-only attach), ENOTCONN (after goalloc_detach()), ETIMEDOUT, EACCES or ENOENT
 * (nobody serves the socket, see above, and the spans held are used up), ESTALE, an error of goalloc_attach(), or, when
 * something is full and giving back what this process holds idle has not helped:
 *   ENOSPC  the arena, or it has no pages in a row that are enough. Frees help, whosever, or a larger arena (--reserve)
 *   EDQUOT  a limit of the session (limit_bytes, or below that what the daemon allows a session), or of all sessions of
 *           this user, or of its group. Frees of what they hold help
 *   ENOMEM  the memory of the system, of the daemon's cgroup, or of this process for the library's own tables: then
 *           nothing in the heap need be in the way. Or the heap has all that goallocd --max-memory allows it: then
 *           frees help, whosever. Also if size is more than any heap can have (16 TiB)
 * The daemon's memory limit (--memory-limit) is soft and refuses nothing: above it idle memory is given back, and what
 * is needed is had all the same.
 *
 * Size classes and lookup are Go's (runtime/sizeclasses.go, mcache, nextFreeFast); unlike Go's, a full span stays
 * with the thread and comes back into use when its objects are freed.
 *
 * If the session samples its allocations ($GOALLOC_PROFILE, goallocctl profile), one object in so many bytes takes a
 * microsecond more, and now and then a round trip; it is freed by a slower path. That holds for all that allocate.
 */
GOALLOC_API GOALLOC_ALLOC(1) void *goalloc_malloc(size_t size);

/*
 * As goalloc_malloc(), for objects that hold no pointers into the heap.
 *
 * Below 16 bytes several of them share a block of 16 bytes (Go's tiny allocator): the result is aligned to 8, 4 or 2 if
 * the size is a multiple of it, else not at all, and goalloc_usable_size() is the size asked for (1 for 0). Unlike
 * Go's, each is freed by itself; the block is free when its last object is. Cost: one atomic operation. In a session
 * with GOALLOC_ATTACH_RECLAIM each has a place of its own, as from goalloc_malloc(), and so has one that is sampled.
 */
GOALLOC_API GOALLOC_ALLOC(1) void *goalloc_malloc_noscan(size_t size);

/* As goalloc_malloc(count * size), zeroed; memory known to be zero is not cleared again. ENOMEM on overflow. */
GOALLOC_API GOALLOC_ALLOC(1, 2) void *goalloc_calloc(size_t count, size_t size);

/* As goalloc_malloc_noscan(count * size), also in alignment and in what shares a block; zeroed, as goalloc_calloc(). */
GOALLOC_API GOALLOC_ALLOC(1, 2) void *goalloc_calloc_noscan(size_t count, size_t size);

/*
 * Make the object at p size bytes long, moving it if need be; the first min(old, new) bytes stay, and it stays
 * scan or noscan. An object that was the heap's, published or never a RECLAIM session's, is the heap's afterwards; any
 * other one that moves belongs to this session (one that another session has adopted, too).
 *
 * It stays where it is if size fits goalloc_usable_size() and is more than half of it, or if that is at most 16 bytes.
 * A large object, and one above 32 KiB of goalloc_aligned_alloc(), of which more than 32 KiB are to stay, gets shorter
 * or longer in place by a round trip instead, if nobody uses the pages behind it that it would need, and no other
 * session holds it. What is less than a quarter of it, and at most 8 MiB, is not given back, and costs no round trip;
 * who makes it longer gets an eighth more, up to 8 MiB, if that is to be had. In all other cases the object moves: a
 * goalloc_malloc(), a copy and a goalloc_free().
 *
 * NULL p: goalloc_malloc(size). Size 0: an object of size 0, as goalloc_malloc(0). NULL with the errors of
 * goalloc_malloc() if it cannot become longer, EROFS in a read-only attach; p is untouched then. To make an object
 * shorter never fails for want of memory: it stays as it is. A p that is not a live object: message and abort, as
 * goalloc_free().
 */
GOALLOC_API __attribute__((warn_unused_result, alloc_size(2))) void *goalloc_realloc(void *p, size_t size);

/*
 * Allocate size bytes at a multiple of alignment, a power of two up to 64 MiB; size need not be a multiple of it.
 * EINVAL for any other alignment, else the errors of goalloc_malloc(). The object takes the first size class that is a
 * multiple of alignment, and costs what goalloc_malloc() does. With an alignment above 8192, or a size above 32 KiB, it
 * has pages of its own and costs what a large object does, whatever its size.
 */
GOALLOC_API __attribute__((malloc, alloc_size(2), warn_unused_result)) void *goalloc_aligned_alloc(size_t alignment,
                                                                                                   size_t size);

/*
 * Free the object at p, whichever process or thread allocated it. NULL: nothing happens.
 *
 * A p that is no live object's address (never allocated, freed already, inside an object, foreign) is detected from
 * the bits; the process prints which and aborts, as with glibc. So it does in a read-only attach. Leaves errno alone.
 * Cost: by the thread that holds its span, a few nanoseconds; by any other thread or process, one atomic operation
 * on shared memory, and if the span was an exited thread's of this process, a lock, under which this thread inherits
 * the span. A large object: a lock and an atomic operation. No system call, except when freed large objects are more
 * than this process retains, and when another session's large object is freed: then a message is sent, which nobody
 * waits for.
 */
GOALLOC_API void goalloc_free(void *p);

/*
 * As goalloc_free(), but reports: 0; -EINVAL p is not the address of an object; -EALREADY p is free already;
 * -EROFS read-only attach; -ENOTCONN not attached. NULL gives 0. After an error nothing has changed.
 */
GOALLOC_API GOALLOC_CHECK int goalloc_free_checked(void *p);

/* Bytes usable at p, at least the size asked for. 0 if p is NULL or not the address of a live object. No round trip. */
GOALLOC_API size_t goalloc_usable_size(const void *p);

/* 1 if p points into the arena of the heap this process is attached to, allocated or not; else 0. Async-signal-safe. */
GOALLOC_API int goalloc_contains(const void *p);

/*
 * Make the object at p the heap's: it stays when the session that allocated or adopted it ends. For an object that is
 * the heap's already nothing changes. Any session may publish any object. One atomic operation; a round trip if an
 * object of the same span is adopted, for the first object of up to 8 bytes that is published of a span, and while the
 * owner's session ends: then the daemon says whether the object is still there. 0: it stays; -EINVAL, -EALREADY (freed
 * already, or gone with its session), -EROFS, -ENOTCONN; and after a round trip -ETIMEDOUT, -EACCES, -ENOENT, -ESTALE:
 * then it is not known.
 */
GOALLOC_API int goalloc_publish(void *p);

/*
 * Publish the object at p and all that it reaches, as far as it is this session's, or its group's, and not published:
 * for a structure that is built in private and then linked by one store. Each aligned word of an object that is the
 * address of a live object counts as a pointer; noscan objects are not looked into, nor is what is the heap's already
 * or another session's, but for p itself. An object that a session has adopted counts as another's. *ret_n is how many
 * were published, and is set on success; it may be NULL. The caller sees to it that nobody changes the objects
 * meanwhile.
 *
 * If the process dies while this looks for objects, nothing has changed; while it publishes, those that are published
 * stay, though nobody knows of them. Cost: three cache lines a word that is an address, an atomic operation an object,
 * a round trip as for goalloc_publish(); private memory for the time of the call, 3% of what is reached, and address
 * space of 3% of the heap in use. 0; -EINVAL, -EALREADY (p is no live object's address), -ENOMEM (no room for the
 * private memory), -EAGAIN (RLIMIT_MEMLOCK, after mlockall(MCL_FUTURE)), -EROFS, -ENOTCONN, the errors of
 * goalloc_attach(); and after a round trip -ETIMEDOUT, -EACCES, -ENOENT, -ESTALE: then the objects are as they were,
 * but for one of which it is not known.
 */
GOALLOC_API int goalloc_publish_graph(void *p, size_t *ret_n);

/*
 * Make the object at p this session's, or its group's, whoever's it was. In a session with GOALLOC_ATTACH_RECLAIM it
 * is freed with the session or the group; in any other session this is the same as goalloc_publish(). The last session
 * to adopt has it. The caller sees to it that nobody frees p meanwhile. A round trip, unless this session allocated the
 * object and nobody has adopted one of its span. 0, -EINVAL, -EALREADY (already freed), -EDQUOT (65536 adopted objects
 * a session, or as many as the daemon allows a user), -EROFS, -ENOTCONN; and after a round trip -ETIMEDOUT, -EACCES,
 * -ENOENT, -ESTALE.
 */
GOALLOC_API int goalloc_adopt(void *p);

/*
 * Store p into *slot, a word of an object in the heap, and make it the heap's (goalloc_publish()): both, or neither,
 * whenever this process dies. If it dies before the store, the object is as unpublished as it was, and a RECLAIM
 * session's ends with that; after it, others reach it by the slot. What *slot had is overwritten.
 *
 * The caller holds what guards the slot (a robust mutex), and p is known to nobody else before the call returns. A
 * slot that a dead thread's mutex guarded is read only after goalloc_settle(). Cost: as goalloc_publish(), and four
 * atomic operations; a store for an object that is the heap's already. 0, -EINVAL (slot is not an aligned address in
 * the heap, p is not the address of an object), -EALREADY (p is free), -EAGAIN (too many threads are within this call
 * or the next one and do not go on: 128 of this process, or eight or more of all), and the errors of goalloc_publish()
 * and goalloc_attach(). After an error *slot is as it was.
 */
GOALLOC_API GOALLOC_CHECK int goalloc_link(void **slot, void *p);

/*
 * Take the object that *slot points to out of there, store next into *slot, and free the object: all of it, exactly
 * once, whenever this process dies. If it dies before *slot is changed, nothing has happened; else the daemon frees the
 * object when it ends the session, or at a goalloc_settle(), also a later daemon that has taken the heap over. Until
 * then the object's place is not used again.
 *
 * *slot has the address of a live object, any process's; next is NULL or another address. The caller holds what guards
 * the slot, and others read it after a death as with goalloc_link(): what the slot has then is what the daemon decides
 * by. Cost: a free by another thread, and four atomic operations; no system call, but for a large object a message
 * that nobody waits for. The place comes back to its thread as those that other processes free. 0, -EINVAL (slot is not
 * an aligned address in the heap, *slot is not the address of an object, or is next), -EALREADY (the object is free:
 * before the call, and nothing has changed; or somebody freed it meanwhile), -EAGAIN as above, -EROFS, -ENOTCONN, and
 * the errors of goalloc_attach().
 */
GOALLOC_API GOALLOC_CHECK int goalloc_unlink_free(void **slot, void *next);

/*
 * Wait until what other processes had begun to link or unlink when this was called is done: by themselves if they live,
 * by the daemon if they are dead. To be called by who takes a robust mutex over from a dead owner, before it reads what
 * the mutex guards: a mutex comes over before the daemon hears of the death.
 *
 * Cost: a look at 32 KiB, some microseconds; requests only while somebody is at it for longer than a hundred looks, so
 * some if somebody has died. 0; -ETIMEDOUT if there is a process that neither goes on nor dies within the timeout, as
 * one that is stopped: then it may be one that has nothing to do with the caller; -EROFS, -ENOTCONN, and the errors of
 * goalloc_root_set().
 */
GOALLOC_API GOALLOC_CHECK int goalloc_settle(void);

/*
 * Roots: names of objects, by which processes find the data. A name is 1 to GOALLOC_ROOT_NAME_MAX bytes of UTF-8. A
 * root holds no object alive: who frees the object takes the name away first. If nobody has, the next one to look the
 * root up (to get, get or create, wait for or list it) finds that no live object is there: the root is removed, and is
 * -ENOENT. It is removed as well before the daemon hands the place out for other objects, and when the object goes with
 * its session. What is not noticed is an object that was freed and whose place the process that holds its span has used
 * again meanwhile: then the root names the object that is there now.
 *
 * With the name go the size and type tag that goalloc_root_get_or_create() has made it with, and the session that has
 * set it; `goallocctl roots` shows them. All outlive the daemon. The functions are requests: their errors, besides
 * those that are named, are -EINVAL (no name, or a p that does not point into a live object), -ENAMETOOLONG, -EILSEQ
 * (the name is not UTF-8), -ENOTCONN, -ETIMEDOUT, -EACCES, -ENOENT (no directory of the socket), -ESTALE; and -EPERM
 * where a root would change that another user has made, if the daemon runs with --root-owner. If the connection is lost
 * on the way, a request is sent again, to the next daemon too, and takes effect once.
 */

/*
 * Name the object that p points to, or into, so that other processes find it; NULL p removes the name. Setting a name
 * again replaces it at once for all, its size and type tag too: it has none then. The object stays whose it is: in a
 * session with GOALLOC_ATTACH_RECLAIM it has to be published to outlive that. One round trip. 0, -ENOENT (removing what
 * is not there), -ENOSPC (4096 roots), -EDQUOT (this user has made as many as the daemon allows), -EROFS.
 */
GOALLOC_API GOALLOC_CHECK int goalloc_root_set(const char *name, void *p);

/* Look a root up: *ret_p is set on success only. One round trip. 0, -ENOENT. */
GOALLOC_API GOALLOC_CHECK int goalloc_root_get(const char *name, void **ret_p);

/*
 * As goalloc_root_set(), but only if the root is expected just now; expected NULL: if there is no such root, or its
 * object does not live any more. So a new version of a structure replaces the one that it was made from, and only that;
 * the type tag stays, the size does not. p NULL removes the root: of several that try, one gets 0, and may free the
 * object. One round trip. 0, -EEXIST (it is another by now, or gone), -ENOSPC, -EDQUOT, -EROFS.
 */
GOALLOC_API GOALLOC_CHECK int goalloc_root_compare_and_set(const char *name, void *expected, void *p);

/*
 * Wait until there is a root of that name: *ret_p is set on success only. timeout_ms 0: look once; negative: wait for
 * ever, as poll(). While it waits it holds nothing that others need, and sends a request when a root has changed, and
 * ten a second if none has, some more in the first second; a cancellation of the thread takes effect within 100 ms. A
 * signal does not end the wait. 0, -ETIMEDOUT (it is not there; or no daemon answers, within the time of a request).
 */
GOALLOC_API GOALLOC_CHECK int goalloc_root_wait(const char *name, int timeout_ms, void **ret_p);

/* Initialise the size bytes at p. 0, or what goalloc_root_get_or_create() is to return: a negative errno. */
typedef int (*goalloc_init_fn)(void *p, size_t size, void *arg);

/* Or'ed into a type tag, whose top bit it takes: what is left of an earlier heap is initialised again, once. */
#define GOALLOC_ROOT_REINIT (UINT64_C(1) << 63)

/*
 * Get the root of that name, or make it: however many processes and threads ask at the same time, one of them makes the
 * object, and the others wait until it is initialised. *ret_p is the object, *ret_created (NULL: not wanted) 1 in the
 * one that has made it, else 0; both are set on success only.
 *
 * Who makes it allocates size bytes, more than 0, zeroed, and calls init(p, size, arg), in the calling thread, outside
 * of every lock; init NULL: zeroes will do. init may call everything of this library, also this function for other
 * names; it must return, not jump out or throw, and must not let others know p before it has. Then the object is the
 * root, and the heap's: it stays when this session ends. If init fails, the object is freed, its error is returned, and
 * the next one that waits makes the root. The same happens if the thread is cancelled in init, and if its process dies,
 * or loses its connection while others ask. After any of these, and if the daemon was replaced meanwhile, a late init
 * was in vain: its object is freed, and the call asks again, gets what others have made, or makes it once more. There
 * are never two.
 *
 * type_tag, any number that the program's versions agree on, and size are kept with the root. Who asks with another
 * tag, or another size, gets -EMEDIUMTYPE. A root of goalloc_root_set() has the tag 0, and does if it has room for size
 * bytes; so does one of goalloc_root_compare_and_set(), which keeps its tag. With GOALLOC_ROOT_REINIT in the tag, init
 * is called as well for an object that was made in another heap (its id is another), as when a heap was loaded from a
 * file: once, by one process, with the object as it is, for example to set up its mutexes again. *ret_created is 0
 * then, a failing init leaves the object there, and the next one who asks so calls init again.
 *
 * Waits at most the timeout of the attach for who makes it; a thread that is stopped in init holds up nobody else. That
 * wait can be cancelled. When a process dies in here, its object goes: the daemon frees it. What may be left, in a
 * session without GOALLOC_ATTACH_RECLAIM, is one object if it dies between the allocation and the message about it, or
 * if the daemon dies, too, before the root is made.
 *
 * A child that is forked within init is not who makes the root: it neither finishes nor frees it. When its copy of init
 * returns 0, it waits for its parent, or its parent's successor, as all others.
 *
 * Cost: one round trip if the root is there, three to make it, and some more to wait. 0; -EMEDIUMTYPE; -ETIMEDOUT
 * (nobody has made it in time, or no daemon answers); -EDEADLK (this thread is making just this root); -EDQUOT (this
 * session makes 64 roots, or its user's sessions 1024, at the same time; or this user has made as many as the daemon
 * allows); -ENOSPC (4096 roots, there or being made); -EROFS (not there, in a read-only attach); the errors of
 * goalloc_calloc() and goalloc_publish(), and what init returns.
 */
GOALLOC_API GOALLOC_CHECK int goalloc_root_get_or_create(const char *name, size_t size, uint64_t type_tag,
                                                         goalloc_init_fn init, void *arg, void **ret_p,
                                                         int *ret_created);

/* What goalloc_root_list() says of a root. All of it is valid during the call of each. */
typedef struct goalloc_root_info {
    const char *name;
    void *p;
    size_t size;       /* that it was made with; of one that was set: from p to the end of its object */
    uint64_t type_tag; /* 0: none */
    uint64_t session;  /* number of the session that has set it, as goallocctl shows it; 0: that has ended */
} goalloc_root_info;

/*
 * Call each(info, arg) for all roots whose names begin with prefix (NULL: all), in no order, until it returns something
 * other than 0: that is returned. each is called outside of every lock, and may call everything of this library. A root
 * that is there all the while is named once; of those that come and go meanwhile some may be missing. A round trip for
 * each 16 roots. 0, -ENAMETOOLONG, what each has returned.
 */
GOALLOC_API GOALLOC_CHECK int goalloc_root_list(const char *prefix,
                                                int (*each)(const goalloc_root_info *info, void *arg), void *arg);

/*
 * A name of p that does not depend on where the heap is mapped: its distance from the arena's base, for files and for
 * messages to processes that are not attached. NULL gives 0, and no object has offset 0. A pointer that
 * is not in the arena gives UINT64_MAX. goalloc_pointer() is the inverse: 0 gives NULL, and so does
 * an offset outside the arena. Async-signal-safe; two loads.
 */
GOALLOC_API uint64_t goalloc_offset(const void *p);
GOALLOC_API void *goalloc_pointer(uint64_t offset);

/*
 * Statistics of the whole heap and of this session. ret_stats->struct_size must be set; at most so many bytes
 * are written, so a program that was built with an older header gets what it knows. An older daemon leaves what it does
 * not know 0. One round trip; the daemon counts live objects by looking at all allocation bits, in slices, so the
 * counts are exact when nobody allocates or frees meanwhile. A count begins after the call and is for all who ask by
 * then; counting takes a tenth of a CPU, so where others ask all the time a call may take 2 s longer. 0, -EINVAL,
 * -ENOTCONN, -ETIMEDOUT, -EACCES, -ENOENT, -ESTALE.
 */
GOALLOC_API GOALLOC_CHECK int goalloc_stats(goalloc_stats_t *ret_stats);

/*
 * Give all spans that this thread and exited threads hold back to the daemon, with the objects in them, and the pages
 * of freed large objects; a RECLAIM session stays with the spans that have objects. Empty spans of other threads go
 * back by themselves within some seconds, but for a few of each size, and some that such a thread has needed again
 * before, up to 32 MiB; these, the next time that the thread runs out of one. Two round trips: the first one asks
 * whether the daemon is there, and if that fails nothing is given back; the second one waits until it has everything. 0
 * (in a read-only attach there is nothing to give), -ENOTCONN, -ETIMEDOUT, -EACCES, -ENOENT, -ESTALE.
 */
GOALLOC_API int goalloc_trim(void);

/*
 * --- What nobody can reach ---
 *
 * Workers die with half-built objects, with objects unlinked and not yet freed, with private state. A collector finds
 * what no root, no object that can be reached, and no process has a pointer to, and frees it, as any client might. It
 * is a process of its own, goallocd-collector, which stops the threads of all attached processes for an instant; what
 * is unreachable in that instant stays so. docs/COLLECTOR.md says what it sees. In short, as pointers count aligned
 * words with an address in an object, or tagged in its upper 16 bits, in objects that may hold pointers (not noscan
 * ones), in memory and registers of attached processes and their forked children. It does not see pointers that exist
 * only in a file, a socket, a device, as difference or XOR, or as goalloc_offset() unless asked to.
 *
 * A process that is stopped notices a pause, and that calls which the kernel does not restart end as if by a signal:
 * epoll_wait(), semop(), sigtimedwait(), recv() on a socket with a timeout (signal(7): stop signals). Others go on:
 * read(), poll(), nanosleep().
 */

/* Flags of a collection. */
#define GOALLOC_COLLECT_REPORT       UINT32_C(1)  /* free nothing: only count what could be freed */
#define GOALLOC_COLLECT_ALL          UINT32_C(2)  /* free as well what lies in spans that sessions hold on lease */
#define GOALLOC_COLLECT_OFFSETS      UINT32_C(4)  /* words that are goalloc_offset() values count as pointers */
#define GOALLOC_COLLECT_PAST_END     UINT32_C(8)  /* a pointer right behind an object's end holds the object, too */
#define GOALLOC_COLLECT_TRUST_KERNEL UINT32_C(16) /* what the kernel does not show (io_uring, AIO) has no pointers */

/* Set struct_size (or use GOALLOC_COLLECT_OPTIONS_INIT); fields that are zero take their defaults. */
typedef struct goalloc_collect_options {
    size_t struct_size;
    uint32_t flags;        /* GOALLOC_COLLECT_* */
    uint32_t max_pause_us; /* how long others may be stopped at most; 0: 100000 */
} goalloc_collect_options;

#ifdef __cplusplus
#define GOALLOC_COLLECT_OPTIONS_INIT { sizeof(goalloc_collect_options), 0, 0 }
#else
#define GOALLOC_COLLECT_OPTIONS_INIT { .struct_size = sizeof(goalloc_collect_options) }
#endif

typedef struct goalloc_collect_result {
    size_t struct_size; /* set by the caller: at most so many bytes are written */
    uint64_t garbage_objects; /* that nobody can reach, and that do not go with a session or group that owns them */
    uint64_t garbage_bytes;   /* the same, each with its usable size */
    uint64_t freed_objects;   /* of these; the others lie in spans that are leased */
    uint64_t freed_bytes;
    uint32_t pause_us;    /* how long others were stopped; 0: nobody had to be */
    int32_t blocking_pid; /* after an error: the process in the way, as the collector sees it; 0: none */
} goalloc_collect_result;

/*
 * Find what nobody can reach, and free it. options NULL: all defaults. ret NULL: not wanted; else it is written, after
 * an error with zeros but for blocking_pid; not if an argument is wrong (-EINVAL).
 *
 * The collector is found by $GOALLOC_COLLECTOR (not in programs that run with others' rights), else beside this
 * library, else where it was installed. It is a child of this process for the time of the call, of which it stops all
 * threads like everybody's. It gets leave to trace this process by prctl(PR_SET_PTRACER), which takes the place of what
 * the program had set and is not set back: a program that names its own (for a crash handler, say) names it again after
 * the call.
 *
 * It runs as who calls, as another program: so it is allowed to trace all attached processes if it is root, has
 * CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH as ambient capabilities, or is of the same user where Yama allows that
 * (kernel.yama.ptrace_scope 0). While sessions of other users are attached, it must also be root's, the daemon's user's
 * or of the control group, else it gets -EPERM with blocking_pid 0. Who serves in the background instead is
 * goallocd-collector.service.
 *
 * What is in a span that a session has on lease is not freed, since its process may be about to hand that out, or to
 * take it back: it is freed by a later collection. With GOALLOC_COLLECT_ALL it is freed if no thread of that process is
 * in this library at the time, but for the one that has called this.
 *
 * Whatever happens to the collector, nobody stays stopped, and what it has not freed is garbage for the next one. A
 * signal does not end the call; a cancellation acts after it. Cost: a process, the pause, up to 0.5 s for each
 * million objects that can be reached; memory of the collector: a copy of all objects that may hold pointers. The call
 * waits ten minutes at most.
 *
 * 0; -EINVAL; -ENOSYS (there is no collector here, or the daemon is older); -EBUSY (another one is collecting); -EPERM
 * (it may not trace blocking_pid, or a debugger does); -ETIMEDOUT (not everybody stopped within max_pause_us, or it was
 * clear before that this would not do; or blocking_pid's memory does not come when it is read, as with userfaultfd; or
 * the call has waited too long); -EOPNOTSUPP (blocking_pid is opaque: GOALLOC_ATTACH_OPAQUE, or the kernel may hold
 * pointers of it); -EAGAIN (somebody attached, forked or ended meanwhile: try again); -ESRCH (blocking_pid can't be
 * seen from here, as from within a container); -EPROTO (the heap's tables are damaged); -ENOMEM; -EIO (the collector
 * has died); -ESTALE; what starting a process may fail with; and the errors of goalloc_attach(). After an error nothing
 * has been freed, but after -EIO, -ESTALE and a call that waited too long something may have been.
 */
GOALLOC_API GOALLOC_CHECK int goalloc_collect(const goalloc_collect_options *options, goalloc_collect_result *ret);

/*
 * Say where this process has private pointers into the heap: in the bytes at p. From then on a collector looks, of the
 * memory of this process, at what was declared so, its stacks, registers and static data (.data, .bss, thread-local
 * storage) alone, so others are stopped for a shorter time. What is not declared then does not keep objects alive, as in
 * memory of malloc(), where also thread-local storage lies of libraries that dlopen() has loaded: all threads declare
 * what they have before the first pointer is there only. Of shared memory (MAP_SHARED) a mapping counts whole if bytes
 * of it are declared, or if a process that has declared nothing has it mapped, too; else not. Words that lie in there
 * whole and aligned count. The same p again: its length changes.
 *
 * Holds until goalloc_private_roots_remove(p), for which p must be what was given here, and for children that are
 * forked meanwhile, each of which has a list of its own. Before the memory is unmapped or used for something else, it
 * is removed: a range that is not there any more is passed over. With the last range that is removed all memory counts
 * again. It lasts over detach and attach. No request; waits for nobody. 0, -EINVAL (NULL, 0 bytes, or past the end of
 * the address space), -ENOSPC (2048 ranges), -EMFILE, -ENFILE, -ENOMEM, -EAGAIN, or another error of memfd_create();
 * -ENOENT (remove: nothing is declared there).
 */
GOALLOC_API GOALLOC_CHECK int goalloc_private_roots(const void *p, size_t bytes);
GOALLOC_API int goalloc_private_roots_remove(const void *p);

/* What an error of this library (errno value or its negative) means. A constant string, never NULL. */
GOALLOC_API const char *goalloc_strerror(int error);

/* The version of the library, as "1.2.3". A constant string. Async-signal-safe; any thread, attached or not. */
GOALLOC_API const char *goalloc_version(void);

#ifdef __cplusplus
}
#endif

#endif
