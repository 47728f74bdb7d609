/*
 * _numpy: the extension module goalloc._numpy: NumPy arrays in the shared heap.
 *
 * Users see goalloc.share(), publish(), open() and so on (_arrays.py), which call this. Here are arrays on blocks of
 * the heap; who refers to a block is _numpy_refs.c's, NumPy's own allocations are _numpy_memory.c's.
 *
 * A Hold is this process's reference to one block. It is the base of all arrays on that block here, and there is one of
 * a block: `holds` leads from the entry's index to it, without a reference of its own. When the last array goes, the
 * Hold does, and with it the process's reference. A Hold has a pin, too, so that the heap stays mapped.
 *
 *     share     block, data copied, entry, Hold, array
 *     pickle    send(): a reference for the message; the message is (heap, entry, nonce, offset, shape, strides, dtype)
 *     unpickle  receive(): the message's reference becomes this process's, then as share
 *     publish   a description (meta) beside the block, and a root that leads to the entry
 *     open      the description is copied, checked, and only then believed; then as receive
 *
 * A forked child inherits the arrays and their Holds. before_fork() makes references for it, one for each block, which
 * the child takes over. A child that could not do so has Holds of an earlier `incarnation`: they release nothing.
 *
 * What other processes write (descriptions) or send (messages) is checked against the block's size, and never believed:
 * ValueError. Shape and strides are an array's only if all that they reach is within the block.
 */
#define PY_SSIZE_T_CLEAN
#define PY_ARRAY_UNIQUE_SYMBOL goalloc_numpy_array_api
#define NPY_NO_DEPRECATED_API NPY_1_22_API_VERSION
#define NPY_TARGET_VERSION NPY_1_22_API_VERSION
#include "_numpy_memory.h"
#include "_numpy_refs.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <numpy/arrayobject.h>

#include <goalloc.h>

#define META_MAGIC UINT64_C(0x676f617272617931)
#define META_BYTES_MAX 65536
#define COLLECT_BYTES (UINT64_C(1) << 28) /* so much shared since the last look: the dead are looked for */
#define COLLECT_ARRAYS 65536
#define POPULATE_FROM (1U << 20) /* bytes */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif
#define TICKET_GROUP 3 /* the group's place in goalloc._core's ticket */

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

typedef struct hold {
    PyObject_HEAD refs_id id;
    uint64_t incarnation;
    char *data;
    size_t size;
} hold;

static const goalloc_python_api *core;
static PyObject *holds;       /* index -> address of the Hold; of this process's incarnation */
static uint64_t incarnation;  /* counts the times that this process became a holder */
static PyObject *shared_type; /* SharedArray */
static PyObject *receive_function, *ticket;
static refs_id *unreleased; /* could not be released; the next one that takes a reference tries again */
static size_t nunreleased;
static uint64_t bytes_since, arrays_since;
static PyTypeObject hold_type;

/* --- holds --- */

static PyObject *fail(int r, const char *what)
{
    if (r == -ENOENT) {
        PyErr_Format(PyExc_ReferenceError, "%s: the array is gone", what);
        return NULL;
    }
    if (r == -ETIMEDOUT) {
        PyErr_Format(PyExc_TimeoutError, "%s: a process that is stopped has a lock, or no daemon answers", what);
        return NULL;
    }
    return core->raise(r, what);
}

static uint32_t family(void)
{
    PyObject *group = PyTuple_Check(ticket) && PyTuple_GET_SIZE(ticket) > TICKET_GROUP
                          ? PyTuple_GET_ITEM(ticket, TICKET_GROUP)
                          : Py_None;
    uint32_t sum = 2166136261U; /* FNV-1a */
    const char *name = PyUnicode_Check(group) ? PyUnicode_AsUTF8(group) : NULL;

    if (name == NULL) {
        PyErr_Clear();
        return 0;
    }
    for (; *name != '\0'; name++)
        sum = (sum ^ (unsigned char)*name) * 16777619U;
    return sum;
}

/* What could not be released is to be, once more. */
static void keep(refs_id id)
{
    refs_id *more = PyMem_RawRealloc(unreleased, (nunreleased + 1) * sizeof(*more));

    if (more != NULL) {
        unreleased = more;
        unreleased[nunreleased++] = id;
    }
}

static void give_back(refs_id id)
{
    if (refs_release(id) < 0)
        keep(id);
}

/* A release may wait without the GIL: other threads come here, or keep more, meanwhile. So each takes what there is, and
 * keeps what it has to. After one that can't be released the others wait for the next time, before it. */
static void release_rest(void)
{
    const uint64_t began = incarnation;
    const size_t n = nunreleased;
    refs_id *taken = unreleased;
    size_t i = 0;

    unreleased = NULL;
    nunreleased = 0;
    while (i < n && incarnation == began && refs_release(taken[i]) == 0)
        i++;
    for (size_t j = i + 1; j < n && incarnation == began; j++)
        keep(taken[j]);
    if (i < n && incarnation == began)
        keep(taken[i]);
    PyMem_RawFree(taken);
}

/* This process is a holder. 0, or -1 with an exception. */
static int join(void)
{
    int r;

    if (refs_joined() && !core->is_readonly()) { /* it may have detached and come back without write access */
        if (nunreleased != 0)
            release_rest();
        return 0;
    }
    if (core->heap_pin() < 0)
        return -1;
    if (core->is_readonly()) {
        PyErr_SetString(PyExc_PermissionError, "a read-only attach can't hold arrays");
        r = -1;
    } else {
        Py_XSETREF(ticket, core->attach_ticket());
        r = ticket == NULL ? -1 : 0;
    }
    if (r == 0 && (r = refs_join(family())) < 0)
        (void)fail(r, "goalloc.arrays");
    if (r == 0) {
        PyDict_Clear(holds);
        nunreleased = 0;
        incarnation++;
    }
    core->heap_unpin();
    return r < 0 ? -1 : 0;
}

/* Borrowed; NULL without an exception if there is none. */
static hold *hold_find(refs_id id)
{
    PyObject *key = PyLong_FromUnsignedLongLong(id.index), *value;
    hold *h = NULL;

    if (key == NULL) {
        PyErr_Clear();
        return NULL;
    }
    value = PyDict_GetItemWithError(holds, key);
    if (value != NULL)
        h = PyLong_AsVoidPtr(value);
    else
        PyErr_Clear();
    Py_DECREF(key);
    return h != NULL && h->id.generation == id.generation ? h : NULL;
}

static int is_held(refs_id id)
{
    return hold_find(id) != NULL;
}

/* A Hold for a reference that this process has taken. After an error that is given back. */
static hold *hold_new(refs_id id)
{
    hold *h = PyObject_New(hold, &hold_type);
    PyObject *key, *value;
    int r = -1;

    if (h == NULL || core->heap_pin() < 0) {
        if (h != NULL) {
            h->incarnation = 0;
            PyObject_Free(h);
        }
        give_back(id);
        return NULL;
    }
    h->id = id;
    h->incarnation = incarnation;
    h->data = refs_block(id);
    h->size = goalloc_usable_size(h->data);
    key = PyLong_FromUnsignedLongLong(id.index);
    value = PyLong_FromVoidPtr(h);
    if (key != NULL && value != NULL)
        r = PyDict_SetItem(holds, key, value);
    Py_XDECREF(key);
    Py_XDECREF(value);
    if (r < 0)
        Py_CLEAR(h);
    return h;
}

static void hold_dealloc(PyObject *object)
{
    hold *h = (hold *)object;
    PyObject *type, *value, *traceback;

    PyErr_Fetch(&type, &value, &traceback);
    if (h->incarnation == incarnation) {
        if (hold_find(h->id) == h) {
            PyObject *key = PyLong_FromUnsignedLongLong(h->id.index);
            if (key == NULL || PyDict_DelItem(holds, key) < 0)
                PyErr_Clear();
            Py_XDECREF(key);
        }
        give_back(h->id);
    }
    core->heap_unpin();
    PyErr_Restore(type, value, traceback);
    PyObject_Free(h);
}

static PyTypeObject hold_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "goalloc._numpy.Hold",
    .tp_doc = "This process's reference to an array in the shared heap.",
    .tp_basicsize = sizeof(hold),
    .tp_dealloc = hold_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
};

/* The Hold below an array and its views. Borrowed; NULL without an exception: the array has none. */
static hold *hold_of(PyArrayObject *array)
{
    PyObject *base = (PyObject *)array;

    while (base != NULL && PyArray_Check(base))
        base = PyArray_BASE((PyArrayObject *)base);
    return base != NULL && Py_IS_TYPE(base, &hold_type) ? (hold *)base : NULL;
}

/* --- arrays on blocks --- */

static int refuse_objects(PyArray_Descr *dtype)
{
    if (!PyDataType_REFCHK(dtype))
        return 0;
    PyErr_SetString(PyExc_TypeError, "arrays of Python objects can't be shared: the objects are one process's");
    return -1;
}

/* All that shape and strides reach from offset on lies within the block. */
static int is_within(const hold *h, npy_intp offset, int ndim, const npy_intp *shape, const npy_intp *strides,
                     npy_intp itemsize)
{
    npy_intp low = offset, high = offset, reach, count = itemsize;
    int is_empty = 0;

    for (int i = 0; i < ndim; i++) {
        if (shape[i] < 0 || (shape[i] != 0 && __builtin_mul_overflow(count, shape[i], &count)))
            return 0;
        if (shape[i] == 0) {
            is_empty = 1;
            continue;
        }
        if (__builtin_mul_overflow(shape[i] - 1, strides[i], &reach) ||
            (reach < 0 ? __builtin_add_overflow(low, reach, &low) : __builtin_add_overflow(high, reach, &high)))
            return 0;
    }
    if (is_empty)
        return offset >= 0 && (size_t)offset <= h->size;
    return low >= 0 && !__builtin_add_overflow(high, itemsize, &high) && (size_t)high <= h->size;
}

/* An array on the Hold's block. dtype's reference is taken, h's is not. */
static PyObject *array_on(hold *h, PyArray_Descr *dtype, npy_intp offset, int ndim, npy_intp *shape, npy_intp *strides,
                          int is_writable)
{
    PyObject *array;

    if (refuse_objects(dtype) < 0) {
        Py_DECREF(dtype);
        return NULL;
    }
    if (strides != NULL && !is_within(h, offset, ndim, shape, strides, dtype->elsize)) {
        Py_DECREF(dtype);
        PyErr_SetString(PyExc_ValueError, "shape and strides lead out of the array's memory");
        return NULL;
    }
    array = PyArray_NewFromDescr((PyTypeObject *)shared_type, dtype, ndim, shape, strides, h->data + offset,
                                 is_writable ? NPY_ARRAY_WRITEABLE : 0, NULL);
    if (array == NULL)
        return NULL;
    Py_INCREF(h);
    if (PyArray_SetBaseObject((PyArrayObject *)array, (PyObject *)h) < 0)
        Py_CLEAR(array);
    else
        PyArray_UpdateFlags((PyArrayObject *)array, NPY_ARRAY_UPDATE_ALL);
    return array;
}

/* The dead are looked for now and then, by how much is shared. */
static void collect_sometimes(size_t size)
{
    refs_collected unused;

    bytes_since += size;
    if (bytes_since < COLLECT_BYTES && ++arrays_since < COLLECT_ARRAYS)
        return;
    bytes_since = arrays_since = 0;
    (void)refs_collect_dead(&unused);
}

/* A new block with its Hold. NULL with an exception. */
static hold *block_new(size_t size)
{
    refs_collected unused;
    refs_id id;
    void *block;
    int r;

    if (join() < 0)
        return NULL;
    collect_sometimes(size);
    block = memory_block(size, 0);
    if (block == NULL && (errno == ENOMEM || errno == ENOSPC || errno == EDQUOT) && refs_collect(&unused) == 0 &&
        unused.arrays != 0)
        block = memory_block(size, 0);
    if (block == NULL)
        return (hold *)core->raise(-errno, "share");
    r = refs_create(block, &id);
    if (r < 0) {
        goalloc_free(block);
        return (hold *)fail(r, "share");
    }
    return hold_new(id);
}

/* An uninitialised array of its own block. dtype's reference is taken. */
static PyObject *array_new(PyArray_Descr *dtype, int ndim, npy_intp *shape, int is_fortran)
{
    npy_intp strides[NPY_MAXDIMS], bytes = dtype->elsize;
    PyObject *array;
    hold *h;

    if (refuse_objects(dtype) < 0) {
        Py_DECREF(dtype);
        return NULL;
    }
    for (int i = 0; i < ndim; i++) {
        const int dim = is_fortran ? i : ndim - 1 - i;
        strides[dim] = bytes;
        if (shape[dim] < 0 || __builtin_mul_overflow(bytes, shape[dim] != 0 ? shape[dim] : 1, &bytes)) {
            Py_DECREF(dtype);
            PyErr_SetString(PyExc_ValueError, "an array can't have this shape");
            return NULL;
        }
    }
    h = block_new((size_t)bytes);
    if (h == NULL) {
        Py_DECREF(dtype);
        return NULL;
    }
    array = array_on(h, dtype, 0, ndim, shape, strides, 1);
    Py_DECREF(h);
    return array;
}

/* empty(shape, dtype, is_fortran) */
static PyObject *empty(PyObject *module, PyObject *args)
{
    PyArray_Dims shape = { NULL, 0 };
    PyArray_Descr *dtype = NULL;
    PyObject *array = NULL;
    int is_fortran = 0;

    (void)module;
    if (PyArg_ParseTuple(args, "O&O&p:shared_empty", PyArray_IntpConverter, &shape, PyArray_DescrConverter, &dtype,
                         &is_fortran) &&
        dtype->elsize == 0 && dtype->subarray == NULL && PyDataType_ISFLEXIBLE(dtype)) {
        PyErr_SetString(PyExc_ValueError, "this dtype has no size");
        Py_CLEAR(dtype);
    }
    if (!PyErr_Occurred()) {
        Py_INCREF(dtype);
        array = array_new(dtype, shape.len, shape.ptr, is_fortran);
    }
    Py_XDECREF(dtype);
    PyDimMem_FREE(shape.ptr);
    return array;
}

/* All of the array is about to be written: its pages are mapped by one call, which costs half of what a fault for each
 * does (512 MB: 100 ms instead of 200). Nothing is lost if that can't be. */
static void populate(PyArrayObject *array)
{
    const size_t size = (size_t)PyArray_NBYTES(array);

    if (size < POPULATE_FROM || (uintptr_t)PyArray_DATA(array) % (uintptr_t)sysconf(_SC_PAGESIZE) != 0)
        return;
    Py_BEGIN_ALLOW_THREADS
    (void)madvise(PyArray_DATA(array), size, MADV_POPULATE_WRITE);
    Py_END_ALLOW_THREADS
}

/* share(array): itself if it is shared, else a copy. */
static PyObject *share(PyObject *module, PyObject *object)
{
    PyArrayObject *from = (PyArrayObject *)PyArray_FROM_O(object);
    PyObject *to;

    (void)module;
    if (from == NULL)
        return NULL;
    if (Py_IS_TYPE(from, (PyTypeObject *)shared_type) && hold_of(from) != NULL)
        return (PyObject *)from;
    Py_INCREF(PyArray_DESCR(from));
    to = array_new(PyArray_DESCR(from), PyArray_NDIM(from), PyArray_DIMS(from),
                   PyArray_IS_F_CONTIGUOUS(from) && !PyArray_IS_C_CONTIGUOUS(from));
    if (to != NULL)
        populate((PyArrayObject *)to);
    if (to != NULL && PyArray_CopyInto((PyArrayObject *)to, from) < 0)
        Py_CLEAR(to);
    Py_DECREF(from);
    return to;
}

/* --- messages --- */

/* What the dtype is in a message: its number, if NumPy's own one of that number is just the same. */
static PyObject *dtype_short(PyArray_Descr *dtype)
{
    PyArray_Descr *own = dtype->type_num < NPY_NTYPES ? PyArray_DescrFromType(dtype->type_num) : NULL;
    PyObject *result;

    if (own == NULL)
        PyErr_Clear();
    result = own == dtype ? PyLong_FromLong(dtype->type_num) : Py_NewRef((PyObject *)dtype);
    Py_XDECREF(own);
    return result;
}

static PyArray_Descr *dtype_of_short(PyObject *text)
{
    PyArray_Descr *dtype;

    if (!PyLong_Check(text))
        return PyArray_DescrConverter(text, &dtype) ? dtype : NULL;
    const long number = PyLong_AsLong(text);
    if (number < 0 || number >= NPY_NTYPES) {
        PyErr_SetString(PyExc_ValueError, "no dtype has this number");
        return NULL;
    }
    return PyArray_DescrFromType((int)number);
}

static PyObject *tuple_of(int n, const npy_intp *numbers)
{
    PyObject *tuple = PyTuple_New(n);

    for (int i = 0; tuple != NULL && i < n; i++) {
        PyObject *number = PyLong_FromSsize_t(numbers[i]);
        if (number == NULL)
            Py_CLEAR(tuple);
        else
            PyTuple_SET_ITEM(tuple, i, number);
    }
    return tuple;
}

/* send(array): (receive, arguments) with a reference of the message's own, or None if the array is not shared. */
static PyObject *send(PyObject *module, PyObject *object)
{
    PyArrayObject *array = (PyArrayObject *)object;
    PyObject *shape, *strides, *dtype, *result = NULL;
    uint32_t nonce = 0;
    hold *h;
    int r;

    (void)module;
    if (!PyArray_Check(object) || (h = hold_of(array)) == NULL)
        Py_RETURN_NONE;
    if (join() < 0)
        return NULL;
    shape = tuple_of(PyArray_NDIM(array), PyArray_DIMS(array));
    if (PyArray_IS_C_CONTIGUOUS(array))
        strides = Py_NewRef(Py_None);
    else
        strides = tuple_of(PyArray_NDIM(array), PyArray_STRIDES(array));
    dtype = dtype_short(PyArray_DESCR(array));
    if (shape == NULL || strides == NULL || dtype == NULL) {
        Py_XDECREF(shape);
        Py_XDECREF(strides);
        Py_XDECREF(dtype);
        return NULL;
    }
    r = refs_ticket(h->id, &nonce);
    if (r == 0)
        result = Py_BuildValue("(O(OKKInNNNi))", receive_function, ticket, (unsigned long long)h->id.index,
                               (unsigned long long)h->id.generation, nonce, PyArray_BYTES(array) - h->data, shape,
                               strides, dtype, PyArray_ISWRITEABLE(array) ? 1 : 0);
    else {
        Py_DECREF(shape);
        Py_DECREF(strides);
        Py_DECREF(dtype);
        return fail(r, "pickle");
    }
    return result;
}

static int join_sender(PyObject *theirs)
{
    PyObject *package, *result = NULL;

    if (refs_joined() && ticket != NULL && PyTuple_Check(theirs) && PyTuple_GET_SIZE(theirs) > 0 &&
        PyObject_RichCompareBool(PyTuple_GET_ITEM(theirs, 0), PyTuple_GET_ITEM(ticket, 0), Py_EQ) == 1)
        return join();
    package = PyImport_ImportModule("goalloc._heap");
    if (package != NULL)
        result = PyObject_CallMethod(package, "_join", "(O)", theirs);
    Py_XDECREF(package);
    Py_XDECREF(result);
    return result == NULL ? -1 : join();
}

static int ensure_types(void)
{
    PyObject *module;

    if (shared_type != NULL)
        return 0;
    module = PyImport_ImportModule("goalloc._arrays"); /* sets it */
    Py_XDECREF(module);
    return module == NULL ? -1 : 0;
}

static int numbers_of(PyObject *tuple, int n, npy_intp *numbers)
{
    for (int i = 0; i < n; i++)
        numbers[i] = PyLong_AsSsize_t(PyTuple_GET_ITEM(tuple, i));
    return PyErr_Occurred() ? -1 : 0;
}

/* An array by what a message or a description says; checked. h's reference is taken. */
static PyObject *array_by(hold *h, Py_ssize_t offset, PyObject *shape, PyObject *strides, PyObject *dtype_text,
                          int is_writable)
{
    npy_intp dims[NPY_MAXDIMS], steps[NPY_MAXDIMS], bytes;
    PyArray_Descr *dtype = dtype_of_short(dtype_text);
    PyObject *array = NULL;
    const Py_ssize_t ndim = PyTuple_GET_SIZE(shape);

    if (dtype == NULL || ndim > NPY_MAXDIMS || (strides != Py_None && PyTuple_GET_SIZE(strides) != ndim)) {
        if (dtype != NULL)
            PyErr_SetString(PyExc_ValueError, "shape and strides don't fit");
    } else if (numbers_of(shape, (int)ndim, dims) == 0 &&
               (strides == Py_None || numbers_of(strides, (int)ndim, steps) == 0)) {
        bytes = dtype->elsize;
        for (Py_ssize_t i = ndim; strides == Py_None && i-- > 0;) {
            steps[i] = bytes;
            if (dims[i] < 0 || __builtin_mul_overflow(bytes, dims[i] != 0 ? dims[i] : 1, &bytes)) {
                bytes = -1;
                break;
            }
        }
        if (strides == Py_None && bytes < 0)
            PyErr_SetString(PyExc_ValueError, "an array can't have this shape");
        else
            array =
                array_on(h, (PyArray_Descr *)Py_NewRef((PyObject *)dtype), offset, (int)ndim, dims, steps, is_writable);
    }
    Py_XDECREF(dtype);
    Py_DECREF(h);
    return array;
}

/* receive(ticket, index, generation, nonce, offset, shape, strides, dtype, is_writable) */
static PyObject *receive(PyObject *module, PyObject *args)
{
    PyObject *theirs, *shape, *strides, *dtype;
    unsigned long long index, generation;
    unsigned int nonce;
    Py_ssize_t offset;
    int is_writable, r;
    refs_id id;
    hold *h;

    (void)module;
    if (!PyArg_ParseTuple(args, "OKKInO!OOp", &theirs, &index, &generation, &nonce, &offset, &PyTuple_Type, &shape,
                          &strides, &dtype, &is_writable) ||
        (strides != Py_None && !PyTuple_Check(strides) && PyErr_Format(PyExc_TypeError, "strides are a tuple") == NULL))
        return NULL;
    if (ensure_types() < 0 || join_sender(theirs) < 0)
        return NULL;
    id = (refs_id){ .index = index, .generation = generation };
    h = hold_find(id);
    Py_XINCREF(h);
    r = refs_take(id, nonce, h != NULL);
    if (r < 0) {
        Py_XDECREF(h);
        return fail(r, "unpickle");
    }
    if (h == NULL && (h = hold_new(id)) == NULL)
        return NULL;
    return array_by(h, offset, shape, strides, dtype, is_writable);
}

/* --- names --- */

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
static PyObject *publish(PyObject *module, PyObject *args)
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
    if (join() < 0)
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
        return core->raise(-errno, "publish");
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
        return fail(r, "publish");
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
    return fail(r, name);
}

static PyObject *numbers_tuple(const int64_t *numbers, size_t n)
{
    npy_intp own[NPY_MAXDIMS];

    for (size_t i = 0; i < n; i++)
        own[i] = (npy_intp)numbers[i];
    return tuple_of((int)n, own);
}

/* lookup(name): (Hold, offset, shape, strides, the dtype's text) */
static PyObject *lookup(PyObject *module, PyObject *args)
{
    refs_look look = { .size = META_BYTES_MAX, .has_name = meta_has_name };
    const char *name;
    refs_id id;
    hold *h = NULL;
    PyObject *result = NULL;
    int r;

    (void)module;
    if (!PyArg_ParseTuple(args, "s:open", &name) || ensure_types() < 0 || join() < 0)
        return NULL;
    look.meta = PyMem_Malloc(look.size);
    if (look.meta == NULL)
        return PyErr_NoMemory();
    r = refs_open(name, &look, is_held, &id);
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

/* view(Hold, offset, shape, strides, dtype, is_writable) */
static PyObject *view(PyObject *module, PyObject *args)
{
    PyObject *shape, *strides, *dtype;
    Py_ssize_t offset;
    int is_writable;
    hold *h;

    (void)module;
    if (!PyArg_ParseTuple(args, "O!nO!O!Op", &hold_type, &h, &offset, &PyTuple_Type, &shape, &PyTuple_Type, &strides,
                          &dtype, &is_writable))
        return NULL;
    Py_INCREF(h);
    return array_by(h, offset, shape, strides, dtype, is_writable);
}

static PyObject *unlink_name(PyObject *module, PyObject *args)
{
    refs_look look = { .size = META_BYTES_MAX, .has_name = meta_has_name };
    const char *name;
    int r;

    (void)module;
    if (!PyArg_ParseTuple(args, "s:unlink", &name) || join() < 0)
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

/* --- the process --- */

static PyObject *collect(PyObject *module, PyObject *unused)
{
    refs_collected all;
    int r;

    (void)module;
    (void)unused;
    if (join() < 0)
        return NULL;
    bytes_since = arrays_since = 0;
    r = refs_collect(&all);
    if (r < 0)
        return fail(r, "collect");
    return Py_BuildValue("(KKK)", (unsigned long long)all.holders, (unsigned long long)all.references,
                         (unsigned long long)all.arrays);
}

/* Python has ended. What this process has left would be collected later; so it is at once. */
static void at_exit(void)
{
    if (!core->is_readonly())
        refs_leave(1);
}

/* leave(): before a detach. A process that has arrays stays a holder, and its detach fails. */
static PyObject *leave(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    if (PyDict_GET_SIZE(holds) == 0 && nunreleased == 0 && refs_joined() && !core->is_readonly())
        refs_leave(0);
    Py_RETURN_NONE;
}

/* Ids of all Holds; NULL if there is none. */
static refs_id *ids_of_holds(size_t *ret_n)
{
    const Py_ssize_t n = PyDict_GET_SIZE(holds);
    refs_id *ids = n > 0 ? PyMem_RawMalloc((size_t)n * sizeof(*ids)) : NULL;
    PyObject *key, *value;
    Py_ssize_t at = 0;

    *ret_n = 0;
    while (ids != NULL && PyDict_Next(holds, &at, &key, &value))
        ids[(*ret_n)++] = ((hold *)PyLong_AsVoidPtr(value))->id;
    return ids;
}

static PyObject *before_fork(PyObject *module, PyObject *unused)
{
    size_t n;
    refs_id *ids = ids_of_holds(&n);

    (void)module;
    (void)unused;
    refs_before_fork(ids, n);
    PyMem_RawFree(ids);
    Py_RETURN_NONE;
}

static PyObject *after_fork_in_child(PyObject *module, PyObject *unused)
{
    size_t n;
    refs_id *ids = ids_of_holds(&n);

    (void)module;
    (void)unused;
    nunreleased = 0; /* the parent's */
    if (!refs_after_fork_in_child(ids, n)) {
        incarnation++;
        PyDict_Clear(holds);
    }
    PyMem_RawFree(ids);
    Py_RETURN_NONE;
}

/* contains(array): 1 if its data lie in the heap. */
static PyObject *contains(PyObject *module, PyObject *object)
{
    (void)module;
    if (!PyArray_Check(object))
        return PyErr_Format(PyExc_TypeError, "an array is wanted");
    return PyBool_FromLong(goalloc_contains(PyArray_DATA((PyArrayObject *)object)));
}

static PyObject *is_shared(PyObject *module, PyObject *object)
{
    (void)module;
    return PyBool_FromLong(PyArray_Check(object) && hold_of((PyArrayObject *)object) != NULL);
}

static PyObject *set_shared_type(PyObject *module, PyObject *type)
{
    (void)module;
    if (!PyType_Check(type) || !PyType_IsSubtype((PyTypeObject *)type, &PyArray_Type))
        return PyErr_Format(PyExc_TypeError, "a subclass of ndarray is wanted");
    Py_XSETREF(shared_type, Py_NewRef(type));
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    { "set_handler", memory_set_handler, METH_O, NULL },
    { "set_shared_type", set_shared_type, METH_O, NULL },
    { "empty", empty, METH_VARARGS, NULL },
    { "share", share, METH_O, NULL },
    { "send", send, METH_O, NULL },
    { "receive", receive, METH_VARARGS, NULL },
    { "publish", publish, METH_VARARGS, NULL },
    { "lookup", lookup, METH_VARARGS, NULL },
    { "view", view, METH_VARARGS, NULL },
    { "unlink", unlink_name, METH_VARARGS, NULL },
    { "collect", collect, METH_NOARGS, NULL },
    { "leave", leave, METH_NOARGS, NULL },
    { "contains", contains, METH_O, NULL },
    { "is_shared", is_shared, METH_O, NULL },
    { "before_fork", before_fork, METH_NOARGS, NULL },
    { "after_fork_in_child", after_fork_in_child, METH_NOARGS, NULL },
    { NULL, NULL, 0, NULL },
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "goalloc._numpy",
    .m_doc = "NumPy arrays in the heap of goallocd: see goalloc.share() and what is named there.",
    .m_size = -1, /* what the process holds is one for all interpreters */
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__numpy(void); /* Python finds it by its name */

PyMODINIT_FUNC PyInit__numpy(void)
{
    PyObject *module;

    import_array();
    core = goalloc_python_import();
    if (core == NULL || memory_init(core) < 0 || PyType_Ready(&hold_type) < 0)
        return NULL;
    holds = PyDict_New();
    module = PyModule_Create(&definition);
    if (holds == NULL || module == NULL || PyModule_AddObjectRef(module, "handler", memory_handler()) < 0)
        return NULL;
    receive_function = PyObject_GetAttrString(module, "receive");
    if (receive_function == NULL || Py_AtExit(at_exit) < 0)
        return NULL;
    return module;
}
