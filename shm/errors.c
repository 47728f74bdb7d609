/*
 * Errors: the table behind goalloc_strerror() and behind the daemon's replies.
 *
 * A reply carries an errno and a sentence. Code goes by the errno; the sentence, which may say more than the text here,
 * is for people. Every errno of a reply and of goalloc.h stands in the table; a test compares.
 *
 * Of what can be full each has an errno of its own, by what helps: ENOMEM, memory for the system or its cgroup; ENOSPC,
 * frees by anybody or a larger arena; EDQUOT, frees by those who share the limit, or a higher one; EUSERS, fewer
 * processes. The memory limit is the heap's, so what it refuses is ENOSPC. But it is soft: between daemon and library
 * it is EAGAIN, an advice to give back what is idle, and the library insists.
 */
#include "shm/errors.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <string.h>

#include "shm/limits.h"

static const struct {
    int error;
    const char *text;
} texts[] = {
    { 0, "success" },
    { EINVAL, "invalid argument or options (is struct_size set?), not the address of an object, or a group of "
              "another mode" },
    { EALREADY, "done already: attached already, or the object is free already" },
    { ENOENT, "no such root, or no socket of a daemon at that path" },
    { ECONNREFUSED, "no daemon serves the socket" },
    { EACCES,
      "no permission to connect to the daemon's socket, to attach to its heap, or to come back to the session" },
    { ETIMEDOUT, "no daemon has answered in time, the root was not there in time, or not all processes could be stopped "
                 "in time" },
    { ENOTCONN, "not attached to a heap" },
    { EPROTONOSUPPORT, "the daemon speaks another version of the protocol" },
    { ENOEXEC, "the heap's layout is of another major version, or has features that this library does not know" },
    { EPROTO, "the daemon's answer was not understood" },
    { EEXIST, "the heap's address range is taken by something else in this process, the root is another by now, or the "
              "name is ambiguous" },
    { EUSERS, "there are too many sessions or groups, or the daemon has no descriptors for another one" },
    { EMFILE, "this process has no descriptor left for the connection" },
    { ENFILE, "the system has no descriptor left for the connection" },
    { EBADF, "there is no descriptor for events: goalloc_event_fd() makes one" },
    { EIO, "the daemon has no randomness for a session's token, or the collector has died" },
    { EOPNOTSUPP, "a process keeps pointers where no collector can see them" },
    { ESRCH, "the process of a session can't be seen from here" },
    { ESTALE, "the heap that is mapped is nobody's any more: it was dropped, or the daemon serves another one" },
    { ENOMEM, "out of memory: the system's, its cgroup's or this process's; or no heap could hold the size" },
    { EAGAIN, "a memory limit is reached: the heap's, or the process's on locked memory (RLIMIT_MEMLOCK); "
              "or too many threads link and unlink at once" },
    { EROFS, "the heap is attached read-only" },
    { ENOSPC, "the heap is full: its arena has no room for the object, or its table of roots none for the name" },
    { EILSEQ, "the name of the root or group is not UTF-8" },
    { ENAMETOOLONG, "the name is longer than " SHM_TEXT(SHM_ROOT_NAME_MAX) " bytes (a group's: " SHM_TEXT(
                        SHM_GROUP_NAME_MAX) "), or the path is too long" },
    { EBUSY, "the pages behind the object are in use, or a request of this kind, or a collection, is under way" },
    { EDQUOT, "a limit is reached: the session's, its group's or its user's" },
    { EINPROGRESS, "the daemon is not done yet: ask again" },
    { EPERM, "not permitted but to root, the daemon's user and its control group; the root is another user's; the "
             "object cannot change its length: another session leases it, or it is a run; or a process may not be "
             "traced" },
    { EMEDIUMTYPE, "the root is there, with another size or type tag" },
    { EDEADLK, "this thread is making that root" },
    { ECANCELED, "the right to make the root has ended" },
    { ESHUTDOWN, "the daemon is stopping, and saves the heap when nobody can write it any more" },
    { ENOSYS, "the daemon does not know this request, or there is no collector here" },
};

const char *shm_error_text(int error)
{
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        if (texts[i].error == error)
            return texts[i].text;
    }
    return NULL;
}

const char *shm_error_describe(int error)
{
    const char *text;

    if (error < 0 && error != INT_MIN)
        error = -error;
    text = shm_error_text(error);
    if (text == NULL)
        text = strerrordesc_np(error);
    return text != NULL ? text : "unknown error";
}
