/*
 * Holds: this process's references to blocks, as Python objects; _numpy_holds.c says how. Called with the GIL held.
 */
#ifndef GOALLOC_NUMPY_HOLDS_H
#define GOALLOC_NUMPY_HOLDS_H

#include "_numpy_api.h"

#include <stddef.h>
#include <stdint.h>

#include "_numpy_refs.h"
#include "goalloc_python.h"

/* What an array on a block has as its base. */
typedef struct hold {
    PyObject_HEAD refs_id id;
    uint64_t incarnation;
    char *data;
    size_t size;
} hold;

extern PyTypeObject hold_type;
extern const goalloc_python_api *holds_core; /* goalloc._core's */

/* Before all else. 0, or -1 with an exception. */
int holds_init(void);

/* Raise what an error of refs_*() is. Always NULL. */
PyObject *holds_fail(int r, const char *what);

/* This process is a holder. 0, or -1 with an exception. */
int holds_join(void);

/* How this process is attached, as goalloc._heap._join() takes it. Borrowed; NULL before the first holds_join(). */
PyObject *holds_ticket(void);

/* Borrowed; NULL without an exception if there is none. */
hold *hold_find(refs_id id);
int hold_is_there(refs_id id);

/* A Hold for a reference that this process has taken. After an error that is given back. */
hold *hold_new(refs_id id);

/* The Hold below an array and its views. Borrowed; NULL without an exception: the array has none. */
hold *hold_of(PyArrayObject *array);

/* Look for what the dead have left, now and then: by how much is shared, of which this is more. */
void holds_collect_sometimes(size_t size);

/* Methods of the module. */
PyObject *holds_collect(PyObject *module, PyObject *unused);
PyObject *holds_leave(PyObject *module, PyObject *unused);
PyObject *holds_before_fork(PyObject *module, PyObject *unused);
PyObject *holds_after_fork_in_child(PyObject *module, PyObject *unused);

#endif
