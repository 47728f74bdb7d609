/*
 * Names: published arrays.
 *
 * Called by _arrays.py. Calls _numpy_holds.c, and _numpy_refs.h, which has the name's words and what a death leaves. A
 * name is a root that leads to the array's entry, and a description beside its block (the entry's meta object): where
 * the array begins, shape, strides, dtype and name.
 *
 *   publish   the description is written, then the entry gets it and the root (refs_name)
 *   lookup    the description is copied under the entry's lock, checked, and only then believed; the process has a
 *             reference. _arrays.py makes the array of it, which is checked against the block's size (_numpy.c)
 *   unlink    the root goes, then the description and the name's reference (refs_unname)
 *
 * A description was written by another process, or scribbled on by one. It has a checksum against chance; against
 * malice nothing that it says leads out of the block. What is no description is a ValueError.
 */
#include "_numpy_names.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include <goalloc.h>

#include "_numpy_holds.h"

#define META_MAGIC UINT64_C(0x676f617272617931)
#define META_BYTES_MAX 65536

/* The description of a published array; then shape, strides (int64 each), the dtype's text, the name. */
typedef struct meta {
    uint64_t magic;
    uint64_t check; /* of all that follows */
    uint64_t bytes; /* in all */
    int64_t offset;
    uint32_t ndim;
    uint32_t dtype_bytes;
    uint32_t name_bytes;
    uint32_t pad;
} meta;

static uint64_t checksum(const void *p, size_t n)
{
    const unsigned char *bytes = p;
    uint64_t sum = UINT64_C(14695981039346656037); /* FNV-1a */

    for (size_t i = 0; i < n; i++)
        sum = (sum ^ bytes[i]) * UINT64_C(1099511628211);
    return sum;
}

#define META_CHECKED offsetof(meta, bytes)

/* publish(array, name, dtype_text). False: the array has a name already. */
PyObject *names_publish(PyObject *module, PyObject *args)
{
    PyArrayObject *array;
    const char *name, *text;
    Py_ssize_t name_bytes, text_bytes;
    size_t bytes;
    hold *h;
    meta *m;
    int r;

    (void)module;
    if (!PyArg_ParseTuple(args, "O!s#s#:publish", &PyArray_Type, &array, &name, &name_bytes, &text, &text_bytes))
        return NULL;
    if (name_bytes > GOALLOC_ROOT_NAME_MAX || strlen(name) != (size_t)name_bytes)
        return PyErr_Format(PyExc_ValueError, "a name has 1 to %d bytes, none of them zero", GOALLOC_ROOT_NAME_MAX);
    if (holds_join() < 0)
        return NULL;
    if ((h = hold_of(array)) == NULL) {
        PyErr_SetString(PyExc_ValueError, "this array is not shared");
        return NULL;
    }
    const size_t ndim = (size_t)PyArray_NDIM(array);
    bytes = sizeof(*m) + 2 * ndim * sizeof(int64_t) + (size_t)text_bytes + (size_t)name_bytes;
    if (bytes > META_BYTES_MAX) {
        PyErr_SetString(PyExc_ValueError, "this dtype is too long to be published");
        return NULL;
    }
    m = goalloc_calloc_noscan(1, bytes);
    if (m == NULL)
        return holds_core->raise(-errno, "publish");
    m->magic = META_MAGIC;
    m->bytes = bytes;
    m->offset = PyArray_BYTES(array) - h->data;
    m->ndim = (uint32_t)ndim;
    m->dtype_bytes = (uint32_t)text_bytes;
    m->name_bytes = (uint32_t)name_bytes;
    int64_t *numbers = (int64_t *)(m + 1);
    for (size_t i = 0; i < ndim; i++) {
        numbers[i] = PyArray_DIM(array, (int)i);
        numbers[ndim + i] = PyArray_STRIDE(array, (int)i);
    }
    memcpy(numbers + 2 * ndim, text, (size_t)text_bytes);
    memcpy((char *)(numbers + 2 * ndim) + text_bytes, name, (size_t)name_bytes);
    m->check = checksum((char *)m + META_CHECKED, bytes - META_CHECKED);
    r = refs_name(h->id, name, m);
    if (r == -EALREADY)
        return PyBool_FromLong(0);
    if (r == -EEXIST)
        return PyErr_Format(PyExc_FileExistsError, "there is a root \"%s\"", name);
    if (r < 0)
        return holds_fail(r, "publish");
    return PyBool_FromLong(1);
}

/* Whether a copy of a description is one. */
static int meta_is_whole(const meta *m, size_t have)
{
    uint64_t need;

    if (have < sizeof(*m) || m->magic != META_MAGIC || m->bytes < sizeof(*m) || m->bytes > have ||
        m->ndim > NPY_MAXDIMS || m->dtype_bytes > META_BYTES_MAX || m->name_bytes > META_BYTES_MAX)
        return 0;
    need = sizeof(*m) + 2 * (uint64_t)m->ndim * sizeof(int64_t) + m->dtype_bytes + m->name_bytes;
    return need == m->bytes && checksum((const char *)m + META_CHECKED, m->bytes - META_CHECKED) == m->check;
}

/* 0: it is that of another name. What is damaged may be of any name. */
static int meta_has_name(const void *copy, size_t have, const char *name)
{
    const meta *m = copy;

    return !meta_is_whole(m, have) || (m->name_bytes == strlen(name) &&
                                       memcmp((const char *)m + m->bytes - m->name_bytes, name, m->name_bytes) == 0);
}

static PyObject *lookup_failed(int r, const char *name)
{
    if (r == -ENOENT)
        return PyErr_Format(PyExc_FileNotFoundError, "there is no array \"%s\"", name);
    if (r == -EINVAL)
        return PyErr_Format(PyExc_ValueError, "\"%s\" is no name of an array", name);
    return holds_fail(r, name);
}

static PyObject *numbers_tuple(const int64_t *numbers, size_t n)
{
    PyObject *tuple = PyTuple_New((Py_ssize_t)n);

    for (size_t i = 0; tuple != NULL && i < n; i++) {
        PyObject *number = PyLong_FromLongLong(numbers[i]);
        if (number == NULL)
            Py_CLEAR(tuple);
        else
            PyTuple_SET_ITEM(tuple, (Py_ssize_t)i, number);
    }
    return tuple;
}

/* lookup(name): (Hold, offset, shape, strides, the dtype's text) */
PyObject *names_lookup(PyObject *module, PyObject *args)
{
    refs_look look = { .size = META_BYTES_MAX, .has_name = meta_has_name };
    const char *name;
    refs_id id;
    hold *h = NULL;
    PyObject *result = NULL;
    int r;

    (void)module;
    if (!PyArg_ParseTuple(args, "s:open", &name) || holds_join() < 0)
        return NULL;
    look.meta = PyMem_Malloc(look.size);
    if (look.meta == NULL)
        return PyErr_NoMemory();
    r = refs_open(name, &look, hold_is_there, &id);
    if (r < 0)
        (void)lookup_failed(r, name);
    else {
        h = hold_find(id);
        Py_XINCREF(h);
        if (h == NULL)
            h = hold_new(id);
    }
    if (h != NULL && !meta_is_whole(look.meta, look.have))
        PyErr_Format(PyExc_ValueError, "the description of \"%s\" is damaged", name);
    else if (h != NULL) {
        const meta *m = look.meta;
        const int64_t *numbers = (const int64_t *)(m + 1);
        result = Py_BuildValue("(OLNNs#)", h, (long long)m->offset, numbers_tuple(numbers, m->ndim),
                               numbers_tuple(numbers + m->ndim, m->ndim), (const char *)(numbers + (size_t)2 * m->ndim),
                               (Py_ssize_t)m->dtype_bytes);
    }
    Py_XDECREF(h);
    PyMem_Free(look.meta);
    return result;
}

PyObject *names_unlink(PyObject *module, PyObject *args)
{
    refs_look look = { .size = META_BYTES_MAX, .has_name = meta_has_name };
    const char *name;
    int r;

    (void)module;
    if (!PyArg_ParseTuple(args, "s:unlink", &name) || holds_join() < 0)
        return NULL;
    look.meta = PyMem_Malloc(look.size);
    if (look.meta == NULL)
        return PyErr_NoMemory();
    r = refs_unname(name, &look);
    PyMem_Free(look.meta);
    if (r < 0)
        return lookup_failed(r, name);
    Py_RETURN_NONE;
}
