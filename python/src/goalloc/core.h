/*
 * core: what the files of goalloc._core know of each other.
 *
 *   _core.c        the module: functions of the process, forks, capsule   roots, buffers, dict, heap
 *   roots.c        daemon's roots as functions                            buffers, heap
 *   buffer_names.c buffers that a name holds                              buffer, segment, block, table, heap
 *   buffer.c       goalloc.Buffer: memory of the heap for Python          handle, block, heap
 *   dict.c         goalloc.Dict                                           table, heap
 *   heap.c         is this process attached, pins, errors as exceptions   libgoalloc
 *   handle.c       texts that name a block                                block; no Python
 *   segment.c      names of blocks                                        block, table; no Python
 *   block.c        memory that several processes hold: who holds it       table, process; no Python
 *   table.c        a hash table in the heap that survives deaths          libgoalloc; no Python
 *   link.c         links of objects, patiently                            libgoalloc; no Python
 *   process.c      which process this is, and whether others live         no Python
 *
 * The functions below are called with the GIL held. Those of the files without Python never need it: who has a lock in
 * the heap never waits for the GIL, so a thread may wait for such a lock while it has the GIL.
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

int heap_init(PyObject *module);                   /* exceptions; 0 or -1 with an exception */
PyObject *heap_error(int error, const char *what); /* raises; always NULL */
int heap_ensure(void);                             /* attached, with a session of its own; 0, or -1 with an exception */
int heap_pin(void);                                /* heap_ensure(), and the heap stays mapped; 0 or -1 */
void heap_unpin(void);
void heap_call_begins(void); /* as a pin, for the time of a call */
void heap_call_ends(void);
uint64_t heap_generation(void); /* counts attaches: what is of another generation is gone */
bool heap_is_attached(void);
bool heap_has_session(void); /* false: a forked child that has not opened one yet */
int heap_is_readonly(void);
int heap_timeout_ms(void);
PyObject *heap_attach(PyObject *module, PyObject *args);
PyObject *heap_detach(void); /* without a look at buffers; checks pins */
PyObject *heap_ticket(void);
bool heap_has_pins(void);

/* An error of table.c or block.c as an exception, unless there is one already. Always -1. */
int heap_lock_error(int r, const char *what);

/* clang-format off */

/*
 * A call of libgoalloc, or a wait, without the GIL, and with the heap mapped: a detach by another thread is refused
 * meanwhile.
 */
#define HEAP_BEGIN_CALL                                                                                                \
    do {                                                                                                               \
        heap_call_begins();                                                                                            \
        Py_BEGIN_ALLOW_THREADS
#define HEAP_END_CALL                                                                                                  \
        Py_END_ALLOW_THREADS                                                                                           \
        heap_call_ends();                                                                                              \
    } while (0)

#define HEAP_SLICE_MS 100 /* of a wait without the GIL, between looks for signals */

/*
 * Do `call`, which returns -EBUSY if a lock was not free within wait_ms, until the timeout of the attach: without the
 * GIL. 0 or above as the call; -1 with an exception. PATIENTLY first tries it once with the GIL and with wait_ms 0, for
 * what is short, and answers -EBUSY to that if it takes a wait or memory.
 */
#define PATIENTLY_FREE(r, what, call)                                                                                  \
    do {                                                                                                               \
        int left_ms = heap_timeout_ms(), wait_ms = HEAP_SLICE_MS;                                                      \
        heap_call_begins(); /* a signal's handler does not detach, either */                                           \
        do {                                                                                                           \
            left_ms -= wait_ms;                                                                                        \
            HEAP_BEGIN_CALL;                                                                                           \
            (r) = (call);                                                                                              \
            HEAP_END_CALL;                                                                                             \
        } while ((r) == -EBUSY && left_ms > 0 && PyErr_CheckSignals() == 0);                                           \
        heap_call_ends();                                                                                              \
        if ((r) < 0)                                                                                                   \
            (r) = heap_lock_error((r), (what));                                                                        \
    } while (0)
#define PATIENTLY(r, what, call)                                                                                       \
    do {                                                                                                               \
        {                                                                                                              \
            enum { wait_ms = 0 };                                                                                      \
            (r) = (call);                                                                                              \
        }                                                                                                              \
        if ((r) == -EBUSY)                                                                                             \
            PATIENTLY_FREE(r, what, call);                                                                             \
        else if ((r) < 0)                                                                                              \
            (r) = heap_lock_error((r), (what));                                                                        \
    } while (0)

/* clang-format on */

/* --- buffer.c --- */

int buffer_init(PyObject *module);
PyObject *buffer_borrow(void *p, Py_ssize_t size, int is_readonly, PyObject *owner);
PyObject *buffer_alloc(PyObject *module, PyObject *args);
PyObject *buffer_from_handle(PyObject *module, PyObject *args);
PyObject *buffer_drop_handle(PyObject *module, PyObject *args);
PyObject *buffer_collect(PyObject *module, PyObject *unused);
void buffer_forget_all(void); /* before a detach: what this process holds it holds no more */
void buffer_before_fork(void);
void buffer_after_fork_in_child(void);

/* --- buffer_names.c --- */

PyObject *buffer_segment(PyObject *module, PyObject *args);
PyObject *buffer_segment_unlink(PyObject *module, PyObject *args);

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
