/*
 * core: what the files of goalloc._core know of each other.
 *
 *   _core.c    the module: attach, detach, fork, errors, the capsule        calls all others
 *   roots.c    daemon's roots as functions                                  buffer, heap
 *   buffer.c   goalloc.Buffer: memory of the heap for Python                block, heap
 *   dict.c     goalloc.Dict                                                 table, heap
 *   block.c    memory that several processes hold: who holds it             table; no Python
 *   table.c    a hash table in the heap that survives deaths                libgoalloc; no Python
 *   heap.c     is this process attached, pins, errors as exceptions         libgoalloc
 *
 * All of it is called with the GIL held, but for table.c and block.c, which never need it: who has a lock in the heap
 * never waits for the GIL, so a thread may wait for such a lock while it has the GIL.
 */
#ifndef GOALLOC_CORE_H
#define GOALLOC_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <goalloc.h>
#include <stdbool.h>
#include <stdint.h>

/* --- heap.c --- */

int heap_init(PyObject *module);                 /* exceptions; 0 or -1 with an exception */
PyObject *heap_error(int error, const char *what); /* raises; always NULL */
int heap_ensure(void);                           /* attached, with a session of this process; 0 or -1 with an exception */
int heap_pin(void);                              /* heap_ensure(), and the heap stays mapped; 0 or -1 */
void heap_unpin(void);
uint64_t heap_generation(void);                  /* counts attaches: what is of another generation is gone */
bool heap_is_attached(void);
bool heap_has_session(void);                     /* false: a forked child that has not opened one yet */
int heap_is_readonly(void);
int heap_timeout_ms(void);
PyObject *heap_attach(PyObject *module, PyObject *args);
PyObject *heap_detach(void);                     /* without a look at buffers; checks pins */
PyObject *heap_ticket(void);
bool heap_has_pins(void);

/* An error of table.c or block.c as an exception, unless there is one already. Always -1. */
int heap_lock_error(int r, const char *what);

#define HEAP_SLICE_MS 100 /* of a wait without the GIL, between looks for signals */

/*
 * Do `call`, which returns -EBUSY if a lock was not free within wait_ms: with the GIL at first, then without it, until
 * the timeout of the attach. 0 or above as the call; -1 with an exception.
 */
#define PATIENTLY(r, what, call)                                                                                       \
    do {                                                                                                               \
        int wait_ms = 0, left_ms = heap_timeout_ms();                                                                  \
        (r) = (call);                                                                                                  \
        while ((r) == -EBUSY && left_ms > 0) {                                                                         \
            wait_ms = left_ms < HEAP_SLICE_MS ? left_ms : HEAP_SLICE_MS;                                                         \
            left_ms -= wait_ms;                                                                                        \
            Py_BEGIN_ALLOW_THREADS                                                                                     \
            (r) = (call);                                                                                              \
            Py_END_ALLOW_THREADS                                                                                       \
            if ((r) == -EBUSY && PyErr_CheckSignals() < 0)                                                             \
                break;                                                                                                 \
        }                                                                                                              \
        if ((r) < 0)                                                                                                   \
            (r) = heap_lock_error((r), (what));                                                                    \
    } while (0)

/* --- buffer.c --- */

int buffer_init(PyObject *module);
PyObject *buffer_borrow(void *p, Py_ssize_t size, int is_readonly, PyObject *owner);
PyObject *buffer_alloc(PyObject *module, PyObject *args);
PyObject *buffer_from_handle(PyObject *module, PyObject *args);
PyObject *buffer_drop_handle(PyObject *module, PyObject *args);
PyObject *buffer_collect(PyObject *module, PyObject *unused);
PyObject *buffer_segment(PyObject *module, PyObject *args);
PyObject *buffer_segment_unlink(PyObject *module, PyObject *args);
void buffer_forget_all(void);      /* before a detach: what this process holds it holds no more */
void buffer_before_fork(void);
void buffer_after_fork_in_child(void);

/* The block whose data is at p, as a buffer. 1: *ret is it; 0: there is none; -1 with an exception. */
int buffer_open_data(void *p, PyObject **ret);
/* The buffer's memory stays until buffer_drop_for_ever(). Its address, or NULL with an exception. */
void *buffer_hold_for_ever(PyObject *object);
void buffer_drop_for_ever(void *p); /* nothing, if p is no block's data, or not held */

/* --- roots.c --- */

extern PyMethodDef roots_methods[];

/* --- dict.c --- */

int dict_init(PyObject *module);

#endif
