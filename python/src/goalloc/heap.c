/*
 * heap: this process's attachment, as Python sees it.
 *
 * Called by all files of the module. Data, all private and under the GIL: how the process is attached (`how`), the
 * count of attaches, the count of pins, and whether this process has a session.
 *
 * A call of libgoalloc that may wait for the daemon is made without the GIL: an attach, a detach, an allocation, a
 * request for roots. A wait for a daemon that is just starting is a loop here, and not GOALLOC_ATTACH_WAIT, so that
 * signals are handled meanwhile: Ctrl-C ends it.
 *
 * A forked child has the mapping, and a session at its first call of heap_ensure(), which makes one that needs it. So
 * no other file need think of what an attach within a lock of the heap would mean.
 */
#include "core.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define RETRY_NS 10000000L /* between two looks for a daemon that is starting */

static struct {
    char *socket, *label, *group; /* malloc'd, or NULL */
    uint32_t flags;
    uint64_t limit_bytes;
    int timeout_ms;
} how;

static uint64_t generation;
static Py_ssize_t npins;
static atomic_bool has_session; /* this process has one, or had one before it lost its daemon */
static bool was_detached;
static PyObject *heap_gone_error;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* --- errors --- */

static PyObject *exception_of(int error)
{
    switch (error) {
    case ENOMEM:
    case ENOSPC:
    case EDQUOT:
        return PyExc_MemoryError;
    case EACCES:
    case EPERM:
    case EROFS:
        return PyExc_PermissionError;
    case ECONNREFUSED:
        return PyExc_ConnectionRefusedError;
    case ENOENT:
    case ETIMEDOUT:
    case ENOTCONN:
    case EPROTO:
    case EPROTONOSUPPORT:
    case ENOEXEC:
        return PyExc_ConnectionError;
    case ESTALE:
        return heap_gone_error;
    case EINVAL:
    case EILSEQ:
    case ENAMETOOLONG:
    case EALREADY:
        return PyExc_ValueError;
    case EMEDIUMTYPE:
        return PyExc_TypeError;
    default:
        return PyExc_OSError;
    }
}

static PyObject *raise_text(int error, const char *what, const char *text)
{
    PyObject *type = exception_of(error);
    PyObject *message = what != NULL ? PyUnicode_FromFormat("%s: %s", what, text) : PyUnicode_FromString(text);
    PyObject *args;

    if (message == NULL)
        return NULL;
    if (PyObject_IsSubclass(type, PyExc_OSError) == 1) {
        args = Py_BuildValue("(iN)", error, message);
        if (args != NULL)
            PyErr_SetObject(type, args);
        Py_XDECREF(args);
    } else {
        PyErr_SetObject(type, message);
        Py_DECREF(message);
    }
    return NULL;
}

PyObject *heap_error(int error, const char *what)
{
    error = error < 0 ? -error : error;
    return raise_text(error, what, goalloc_strerror(error));
}

int heap_lock_error(int r, const char *what)
{
    if (PyErr_Occurred() != NULL)
        return -1;
    if (r == -EBUSY)
        PyErr_Format(PyExc_TimeoutError, "%s: a process has had the lock for %d ms; is it stopped?", what,
                     heap_timeout_ms());
    else
        (void)heap_error(r, what);
    return -1;
}

/* --- attach --- */

static void in_child(void)
{
    atomic_store(&has_session, false);
}

static void watch_forks(void)
{
    (void)pthread_atfork(NULL, NULL, in_child);
}

bool heap_is_attached(void)
{
    return goalloc_heap_id() != 0;
}

bool heap_has_session(void)
{
    return atomic_load(&has_session);
}

uint64_t heap_generation(void)
{
    return generation;
}

int heap_is_readonly(void)
{
    return (how.flags & GOALLOC_ATTACH_READONLY) != 0;
}

int heap_timeout_ms(void)
{
    return how.timeout_ms != 0 ? how.timeout_ms : 5000;
}

bool heap_has_pins(void)
{
    return npins > 0;
}

static int64_t now_ms(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static bool is_worth_waiting_for(int r)
{
    return r == -ENOENT || r == -ECONNREFUSED || r == -EACCES;
}

/* Attach by `how`; wait: for a daemon that is not there yet. 0, a negative errno, or 1 with an exception (a signal). */
static int attach_now(bool wait)
{
    goalloc_options options = { .struct_size = sizeof(options),
                                .socket_path = how.socket,
                                .label = how.label,
                                .group = how.group,
                                .flags = how.flags,
                                .limit_bytes = how.limit_bytes,
                                .timeout_ms = how.timeout_ms };
    int64_t until = now_ms() + heap_timeout_ms();
    int r;

    for (;;) {
        char *why = NULL;

        Py_BEGIN_ALLOW_THREADS
        r = goalloc_attach(&options);
        if (r < 0)
            why = strdup(goalloc_attach_error());
        Py_END_ALLOW_THREADS
        if (r == 0 || !wait || !is_worth_waiting_for(r) || now_ms() >= until) {
            if (r < 0)
                (void)raise_text(-r, NULL, why != NULL && *why != '\0' ? why : goalloc_strerror(r));
            free(why);
            return r;
        }
        free(why);
        Py_BEGIN_ALLOW_THREADS
        (void)nanosleep(&(struct timespec){ .tv_nsec = RETRY_NS }, NULL);
        Py_END_ALLOW_THREADS
        if (PyErr_CheckSignals() < 0)
            return 1;
    }
}

static int begin(bool wait)
{
    (void)pthread_once(&once, watch_forks);
    if (attach_now(wait) != 0)
        return -1;
    generation++;
    was_detached = false;
    atomic_store(&has_session, true);
    return 0;
}

static void forget_how(void)
{
    free(how.socket);
    free(how.label);
    free(how.group);
    memset(&how, 0, sizeof(how));
}

static bool copy_text(char **ret, const char *text)
{
    *ret = text != NULL ? strdup(text) : NULL;
    return text == NULL || *ret != NULL;
}

/* attach(socket, label, group, flags, limit_bytes, timeout_ms, wait) */
PyObject *heap_attach(PyObject *module, PyObject *args)
{
    const char *socket, *label, *group;
    unsigned int flags;
    unsigned long long limit;
    int timeout_ms, wait;

    (void)module;
    if (!PyArg_ParseTuple(args, "zzzIKip:attach", &socket, &label, &group, &flags, &limit, &timeout_ms, &wait))
        return NULL;
    if (heap_is_attached()) {
        PyErr_SetString(PyExc_RuntimeError, "this process is attached already: goalloc.detach() comes first");
        return NULL;
    }
    forget_how();
    if (!copy_text(&how.socket, socket) || !copy_text(&how.label, label) || !copy_text(&how.group, group))
        return PyErr_NoMemory();
    how.flags = flags;
    how.limit_bytes = limit;
    how.timeout_ms = timeout_ms;
    if (begin(wait != 0) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* A forked child's first call: it opens its session. settle() does so, and nothing else unless somebody has died. */
static int open_own_session(void)
{
    int r;

    if (heap_is_readonly()) { /* a child reads by the mapping that it has; its requests attach by themselves */
        atomic_store(&has_session, true);
        return 0;
    }
    Py_BEGIN_ALLOW_THREADS
    r = goalloc_settle();
    Py_END_ALLOW_THREADS
    if (r < 0) {
        (void)heap_error(r, "a forked child's session");
        return -1;
    }
    atomic_store(&has_session, true);
    return 0;
}

int heap_ensure(void)
{
    if (atomic_load_explicit(&has_session, memory_order_relaxed))
        return 0;
    if (heap_is_attached())
        return open_own_session();
    if (was_detached) {
        (void)heap_error(ENOTCONN, "goalloc.attach() comes first");
        return -1;
    }
    forget_how();
    how.flags = GOALLOC_ATTACH_RECLAIM;
    return begin(false);
}

PyObject *heap_detach(void)
{
    int r;

    if (!heap_is_attached()) {
        was_detached = true;
        return heap_error(ENOTCONN, "detach");
    }
    if (npins > 0) {
        PyErr_Format(PyExc_BufferError, "detach: %zd views or arrays of the heap are in use", npins);
        return NULL;
    }
    atomic_store(&has_session, false);
    was_detached = true;
    generation++;
    Py_BEGIN_ALLOW_THREADS
    r = goalloc_detach();
    Py_END_ALLOW_THREADS
    if (r < 0 && r != -ENOTCONN)
        return heap_error(r, "detach");
    Py_RETURN_NONE;
}

int heap_pin(void)
{
    if (heap_ensure() < 0)
        return -1;
    npins++;
    return 0;
}

void heap_unpin(void)
{
    npins--;
}

/* (heap_id, socket, label, group, flags, limit_bytes, timeout_ms) */
PyObject *heap_ticket(void)
{
    if (heap_ensure() < 0)
        return NULL;
    return Py_BuildValue("(KzzzIKi)", (unsigned long long)goalloc_heap_id(), how.socket, how.label, how.group, how.flags,
                         (unsigned long long)how.limit_bytes, how.timeout_ms);
}

int heap_init(PyObject *module)
{
    if (heap_gone_error == NULL) {
        heap_gone_error = PyErr_NewExceptionWithDoc(
            "goalloc.HeapGoneError", "The heap was dropped, or this process disconnected: detach(), then attach().",
            PyExc_ConnectionError, NULL);
        if (heap_gone_error == NULL)
            return -1;
    }
    return PyModule_AddObjectRef(module, "HeapGoneError", heap_gone_error);
}
