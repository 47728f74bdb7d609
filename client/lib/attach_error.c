/*
 * Attach error: the sentence behind goalloc_attach_error().
 *
 * An errno says what kind of failure it was; who reads a log wants to know which socket was meant, since that may come
 * from the options, the environment or the default, and in what the failure lay. Called by attach.c, whenever an attach
 * has ended, and by users. Data: a buffer of each thread, so that no thread changes what another one reads. It is part
 * of what the library asks of a thread's static memory (initial-exec, as mcache_tls), so it is short: a long path loses
 * its beginning.
 */
#include "client/lib/attach_error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "client/include/goalloc.h"
#include "shm/errors.h"

#define TEXT_BYTES 256
#define PATH_SHOWN 120 /* more than a socket's may have, but for the directory that a relative one is in */

static _Thread_local char text[TEXT_BYTES];

/* What an error of connect() means at the attach. NULL: the text that it has anyway says as much. */
static const char *connect_text(int error)
{
    switch (error) {
    case -ENOENT:
        return "there is no such socket: no daemon runs, or it serves another path";
    case -ECONNREFUSED:
        return "no daemon serves this socket";
    case -EACCES:
        return "no permission to connect to this socket (is the user in the daemon's group?)";
    case -EPERM:
        return "served by neither root, this user, the owner of its directory (if nobody else may write there) nor "
               "$GOALLOC_SERVER_UID";
    default:
        return NULL;
    }
}

static void set_timeout_text(const char *path, const attach_failure *failure)
{
    const char *why = connect_text(failure->connect_error);

    if (failure->connect_error == 0)
        (void)snprintf(text, sizeof(text), "%s: the daemon has not answered within %d ms", path, failure->timeout_ms);
    else
        (void)snprintf(text, sizeof(text), "%s: waited for %d ms: %s", path, failure->timeout_ms,
                       why != NULL ? why : shm_error_describe(failure->connect_error));
}

void attach_error_set(int error, const attach_failure *failure)
{
    const char *why = failure->connect_error != 0 ? connect_text(error) : NULL;
    size_t len = strlen(failure->path);
    char path[PATH_SHOWN + 1];

    if (error == 0) {
        text[0] = '\0';
        return;
    }
    (void)snprintf(path, sizeof(path), "%s%s", len > PATH_SHOWN ? "..." : "",
                   failure->path + (len > PATH_SHOWN ? len - PATH_SHOWN + 3 : 0));
    if (failure->why[0] != '\0')
        (void)snprintf(text, sizeof(text), "%s: %s", path, failure->why);
    else if (error == -ETIMEDOUT)
        set_timeout_text(path, failure);
    else
        (void)snprintf(text, sizeof(text), "%s: %s", path, why != NULL ? why : shm_error_describe(error));
}

const char *goalloc_attach_error(void)
{
    return text;
}
