/*
 * goalloc_python: what goalloc._core offers to other extension modules, such as goalloc._numpy.
 *
 * A table of functions in a capsule, goalloc._core._C_API; goalloc_python_import() fetches it. All of them are called
 * with the GIL held. The table grows at its end only.
 *
 * A pin keeps the heap mapped: while there is one, goalloc.detach() raises BufferError. Whoever hands out memory of the
 * heap to Python (an array, a memoryview) has a pin for as long as somebody may look at that memory. Pins are counted
 * by the process; a forked child begins with its parent's count, as it begins with its parent's objects.
 */
#ifndef GOALLOC_PYTHON_H
#define GOALLOC_PYTHON_H

#include <Python.h>
#include <stddef.h>

#define GOALLOC_PYTHON_CAPSULE "goalloc._core._C_API"

typedef struct goalloc_python_api {
    size_t struct_size;

    /* The heap is there and stays until heap_unpin(); a process that was never attached attaches with the defaults, and
     * a forked child opens its session. 0, or -1 with an exception. May wait for the daemon, without the GIL. */
    int (*heap_pin)(void);
    void (*heap_unpin)(void); /* does not fail, nor wait; also while Python ends */

    /* Raise what an error of libgoalloc (a negative errno) is in Python: MemoryError, ConnectionError, PermissionError,
     * ValueError, or OSError. `what`, which may be NULL, begins the text. Always NULL. */
    PyObject *(*raise)(int error, const char *what);

    /* A goalloc.Buffer on size bytes at p, in the heap, that owns nothing: `owner`, which may be NULL, lives as long as
     * the buffer. It has a pin of its own. NULL with an exception. */
    PyObject *(*buffer_borrow)(void *p, Py_ssize_t size, int is_readonly, PyObject *owner);

    /* 1: this process has no write access to the heap (attach(readonly=True)). */
    int (*is_readonly)(void);

    /* How this process is attached, as a tuple for goalloc._join() in another process, which attaches it the same way
     * unless it is attached already: what a pickle carries, so that spawned children find the heap. NULL with an
     * exception if it is not attached. */
    PyObject *(*attach_ticket)(void);
} goalloc_python_api;

static inline const goalloc_python_api *goalloc_python_import(void)
{
    const goalloc_python_api *api = (const goalloc_python_api *)PyCapsule_Import(GOALLOC_PYTHON_CAPSULE, 0);

    if (api != NULL && api->struct_size < sizeof(*api)) {
        PyErr_SetString(PyExc_ImportError, "goalloc._core is older than the module that uses it");
        return NULL;
    }
    return api;
}

#endif
