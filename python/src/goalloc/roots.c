/*
 * roots: the daemon's named roots, as functions for _roots.py.
 *
 * Called by the package. Calls buffer.c, heap.c and libgoalloc. A root that was set from here names a block's data, and
 * holds the block for ever, that is until the root is removed or replaced from here. A root of another program names
 * whatever it names: its buffer is borrowed, and that program's promise is how long it lasts.
 *
 *   set      hold the block, then the root is replaced if it is what it was (compare and set), then what it was is held
 *            no more. A death in between leaves one block held that no root names
 *   remove   the same, with nothing to hold
 *   pop      get, then the root is removed if it is what was got: the block can't be another one's meanwhile, since it
 * is held by then get      the root, then the block by its key, as it is written before the data. If no such block is
 * there (any more), the root is asked for again. A root that is another program's memory is the same each time, and no
 *            block each time. Once is not enough: in between it may have been replaced, the place used again, and named
 *            again. A block's data is never an object's beginning, so what is one is believed soon. Its size comes with
 *            the list of roots, and counts if the root leads there still
 *
 * All are requests, without the GIL.
 */
#include "core.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define GET_TRIES 1000 /* while others replace the root and free what it was */
#define SAME_TRIES 100 /* in a row: then it is no block */
#define BEGIN_TRIES 3  /* the same, if it is an object's beginning, as in most programs */

/* A name that is wrong has an exception of its own; -1. */
static int name_error(int r, const char *name)
{
    if (r == -ENAMETOOLONG)
        PyErr_Format(PyExc_ValueError, "a root's name has 1 to %d bytes", GOALLOC_ROOT_NAME_MAX);
    else
        (void)heap_error(r, name);
    return -1;
}

/* 1: *ret_p; 0: there is no such root; -1 with an exception. */
static int ask(const char *name, void **ret_p)
{
    int r;

    HEAP_BEGIN_CALL;
    r = goalloc_root_get(name, ret_p);
    HEAP_END_CALL;
    if (r == -ENOENT)
        return goalloc_is_current() ? 0 : name_error(-ESTALE, name);
    return r < 0 ? name_error(r, name) : 1;
}

typedef struct sought {
    const char *name;
    void *p;
    size_t size;
    bool is_there; /* the root leads to p */
} sought;

static int note_size(const goalloc_root_info *info, void *arg)
{
    sought *s = arg;

    if (strcmp(info->name, s->name) != 0)
        return 0;
    s->is_there = info->p == s->p; /* else the size is that of what has replaced it */
    if (s->is_there && info->size != 0)
        s->size = info->size;
    return 1;
}

/* The memory of another program's root. 1; 0: the root is not at p any more; -1 with an exception. */
static int borrow_root(const char *name, void *p, PyObject **ret)
{
    sought s = { name, p, goalloc_usable_size(p), false };
    int r;

    HEAP_BEGIN_CALL;
    r = goalloc_root_list(name, note_size, &s);
    HEAP_END_CALL;
    if (r < 0)
        return name_error(r, name);
    if (!s.is_there)
        return 0;
    *ret = buffer_borrow(p, (Py_ssize_t)s.size, 0, NULL);
    return *ret != NULL ? 1 : -1;
}

/* The buffer of a root, and what the root leads to; None if there is none. */
static PyObject *open_root(const char *name, void **ret_p)
{
    PyObject *result;
    void *p, *last = NULL;
    int r, nsame = 0;

    for (int i = 0; i < GET_TRIES; i++) {
        r = ask(name, &p);
        if (r == 0)
            Py_RETURN_NONE;
        if (r < 0)
            return NULL;
        *ret_p = p;
        r = buffer_open_data(p, &result);
        if (r != 0)
            return r == 1 ? result : NULL;
        nsame = p == last ? nsame + 1 : 1;
        last = p;
        if (nsame >= (goalloc_usable_size(p) != 0 ? BEGIN_TRIES : SAME_TRIES)) {
            r = borrow_root(name, p, &result);
            if (r != 0)
                return r == 1 ? result : NULL;
            last = NULL;
        }
    }
    return heap_error(EAGAIN, name);
}

static PyObject *root_get(PyObject *module, PyObject *args)
{
    const char *name;
    void *p;

    (void)module;
    if (!PyArg_ParseTuple(args, "s:root_get", &name) || heap_ensure() < 0)
        return NULL;
    return open_root(name, &p);
}

/* root_pop(name): the buffer of the root, which is no more there; None: there was none. One of many gets it. */
static PyObject *root_pop(PyObject *module, PyObject *args)
{
    const char *name;

    (void)module;
    if (!PyArg_ParseTuple(args, "s:root_pop", &name) || heap_ensure() < 0)
        return NULL;
    for (;;) {
        void *p;
        PyObject *result = open_root(name, &p);
        int r;

        if (result == NULL || Py_IsNone(result))
            return result;
        HEAP_BEGIN_CALL;
        r = goalloc_root_compare_and_set(name, p, NULL);
        HEAP_END_CALL;
        if (r == 0) {
            buffer_drop_for_ever(p);
            return result;
        }
        Py_DECREF(result); /* replaced meanwhile, or removed: look again */
        if (r != -EEXIST && r != -ENOENT) {
            (void)name_error(r, name);
            return NULL;
        }
        if (PyErr_CheckSignals() < 0)
            return NULL;
    }
}

/* root_wait(name, timeout_ms): None: not within that time. */
static PyObject *root_wait(PyObject *module, PyObject *args)
{
    const char *name;
    int timeout_ms, r;
    void *p;

    (void)module;
    if (!PyArg_ParseTuple(args, "si:root_wait", &name, &timeout_ms) || heap_ensure() < 0)
        return NULL;
    for (;;) {
        int slice_ms = timeout_ms < 0 || timeout_ms > HEAP_SLICE_MS ? HEAP_SLICE_MS : timeout_ms;

        HEAP_BEGIN_CALL;
        r = goalloc_root_wait(name, slice_ms, &p);
        HEAP_END_CALL;
        if (PyErr_CheckSignals() < 0)
            return NULL;
        if (r == 0) {
            PyObject *result = open_root(name, &p);

            if (result == NULL || !Py_IsNone(result))
                return result;
            Py_DECREF(result); /* it has gone again */
        } else if (r != -ETIMEDOUT) {
            (void)name_error(r, name);
            return NULL;
        }
        if (timeout_ms >= 0 && (timeout_ms -= slice_ms) <= 0)
            Py_RETURN_NONE;
    }
}

/*
 * Replace the root by p, whatever it is, or remove it (p NULL); only_new: set it if there is none. 1; 0: there was none
 * to remove, or one already; -1 with an exception.
 */
static int replace(const char *name, void *p, bool only_new)
{
    for (;;) {
        void *old = NULL;
        int r = only_new ? 0 : ask(name, &old);

        if (r < 0 || (r == 0 && p == NULL))
            return r;
        if (r == 0)
            old = NULL;
        HEAP_BEGIN_CALL;
        r = goalloc_root_compare_and_set(name, old, p);
        HEAP_END_CALL;
        if (r == 0) {
            if (old != NULL)
                buffer_drop_for_ever(old);
            return 1;
        }
        if (r != -EEXIST)
            return name_error(r, name);
        if (only_new)
            return 0;
        if (PyErr_CheckSignals() < 0)
            return -1;
    }
}

/* root_set(name, buffer, only_new): False: there is one already. */
static PyObject *root_set(PyObject *module, PyObject *args)
{
    const char *name;
    PyObject *buffer;
    int only_new, r;
    void *p;

    (void)module;
    if (!PyArg_ParseTuple(args, "sOp:root_set", &name, &buffer, &only_new) || heap_ensure() < 0)
        return NULL;
    p = buffer_hold_for_ever(buffer);
    if (p == NULL)
        return NULL;
    r = replace(name, p, only_new != 0);
    if (r != 1) {
        PyObject *type, *error, *traceback;

        PyErr_Fetch(&type, &error, &traceback);
        buffer_drop_for_ever(p);
        PyErr_Restore(type, error, traceback);
    }
    return r < 0 ? NULL : PyBool_FromLong(r);
}

static PyObject *root_remove(PyObject *module, PyObject *args)
{
    const char *name;
    int r;

    (void)module;
    if (!PyArg_ParseTuple(args, "s:root_remove", &name) || heap_ensure() < 0)
        return NULL;
    r = replace(name, NULL, false);
    return r < 0 ? NULL : PyBool_FromLong(r);
}

/* --- list: collected without the GIL --- */

typedef struct collected {
    char (*names)[GOALLOC_ROOT_NAME_MAX + 1];
    size_t n, room;
} collected;

static int collect_name(const goalloc_root_info *info, void *arg)
{
    collected *c = arg;

    if (c->n == c->room) {
        size_t room = c->room == 0 ? 64 : 2 * c->room;
        void *p = realloc(c->names, room * sizeof(c->names[0]));

        if (p == NULL)
            return -ENOMEM;
        c->names = p;
        c->room = room;
    }
    (void)strncpy(c->names[c->n], info->name, GOALLOC_ROOT_NAME_MAX);
    c->names[c->n++][GOALLOC_ROOT_NAME_MAX] = '\0';
    return 0;
}

static PyObject *root_names(PyObject *module, PyObject *args)
{
    collected c = { NULL, 0, 0 };
    PyObject *result = NULL;
    const char *prefix;
    int r;

    (void)module;
    if (!PyArg_ParseTuple(args, "z:root_names", &prefix) || heap_ensure() < 0)
        return NULL;
    HEAP_BEGIN_CALL;
    r = goalloc_root_list(prefix, collect_name, &c);
    HEAP_END_CALL;
    if (r < 0)
        (void)name_error(r, "roots");
    else
        result = PyList_New((Py_ssize_t)c.n);
    for (size_t i = 0; result != NULL && i < c.n; i++) {
        PyObject *name = PyUnicode_FromString(c.names[i]);

        if (name == NULL || PyList_SetItem(result, (Py_ssize_t)i, name) < 0)
            Py_CLEAR(result);
    }
    free(c.names);
    return result;
}

PyMethodDef roots_methods[] = {
    { "root_get", root_get, METH_VARARGS, NULL },
    { "root_wait", root_wait, METH_VARARGS, NULL },
    { "root_set", root_set, METH_VARARGS, NULL },
    { "root_remove", root_remove, METH_VARARGS, NULL },
    { "root_names", root_names, METH_VARARGS, NULL },
    { "root_pop", root_pop, METH_VARARGS, NULL },
    { NULL, NULL, 0, NULL },
};
