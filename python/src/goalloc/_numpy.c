/*
 * _numpy: the extension module goalloc._numpy: NumPy arrays in the shared heap.
 *
 * Users see goalloc.share(), open() and so on (_arrays.py), which call this. Here are arrays on blocks of the heap, and
 * messages. Below: _numpy_holds.c (this process's references, as objects), _numpy_names.c (published arrays), both on
 * _numpy_refs.h (who refers to a block); _numpy_memory.c (NumPy's own allocations). Data: none but the type of the
 * arrays and the function that messages name.
 *
 *     share     block, data copied, entry, Hold, array
 *     pickle    send(): a reference for the message; the message is (ticket, entry, nonce, offset, shape, strides,
 * dtype) unpickle  receive(): the message's reference becomes this process's, then as share view      an array by a
 * name's description, which lookup() has found
 *
 * An array's base is its block's Hold, so the block stays as long as an array does. What other processes write
 * (descriptions) or send (messages) is checked against the block's size, and never believed: ValueError. Shape and
 * strides are an array's only if all that they reach is within the block.
 */
#define GOALLOC_NUMPY_IMPORTS
#include "_numpy_api.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include <goalloc.h>

#include "_numpy_holds.h"
#include "_numpy_memory.h"
#include "_numpy_names.h"
#include "_numpy_refs.h"

#define POPULATE_FROM (1U << 20) /* bytes */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

static PyObject *shared_type; /* SharedArray */
static PyObject *receive_function;

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

/* A new block with its Hold. NULL with an exception. */
static hold *block_new(size_t size)
{
    refs_collected unused;
    refs_id id;
    void *block;
    int r;

    if (holds_join() < 0)
        return NULL;
    holds_collect_sometimes(size);
    block = memory_block(size, 0);
    if (block == NULL && (errno == ENOMEM || errno == ENOSPC || errno == EDQUOT) && refs_collect(&unused) == 0 &&
        unused.arrays != 0)
        block = memory_block(size, 0);
    if (block == NULL)
        return (hold *)holds_core->raise(-errno, "share");
    r = refs_create(block, &id);
    if (r < 0) {
        goalloc_free(block);
        return (hold *)holds_fail(r, "share");
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
    Py_BEGIN_ALLOW_THREADS(void) madvise(PyArray_DATA(array), size, MADV_POPULATE_WRITE);
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
    if (holds_join() < 0)
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
        result = Py_BuildValue("(O(OKKInNNNi))", receive_function, holds_ticket(), (unsigned long long)h->id.index,
                               (unsigned long long)h->id.generation, nonce, PyArray_BYTES(array) - h->data, shape,
                               strides, dtype, PyArray_ISWRITEABLE(array) ? 1 : 0);
    else {
        Py_DECREF(shape);
        Py_DECREF(strides);
        Py_DECREF(dtype);
        return holds_fail(r, "pickle");
    }
    return result;
}

static int join_sender(PyObject *theirs)
{
    PyObject *package, *result = NULL;

    if (refs_joined() && holds_ticket() != NULL && PyTuple_Check(theirs) && PyTuple_GET_SIZE(theirs) > 0 &&
        PyObject_RichCompareBool(PyTuple_GET_ITEM(theirs, 0), PyTuple_GET_ITEM(holds_ticket(), 0), Py_EQ) == 1)
        return holds_join();
    package = PyImport_ImportModule("goalloc._heap");
    if (package != NULL)
        result = PyObject_CallMethod(package, "_join", "(O)", theirs);
    Py_XDECREF(package);
    Py_XDECREF(result);
    return result == NULL ? -1 : holds_join();
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
        return holds_fail(r, "unpickle");
    }
    if (h == NULL && (h = hold_new(id)) == NULL)
        return NULL;
    return array_by(h, offset, shape, strides, dtype, is_writable);
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

/* --- what SharedArray does in C: a frame of Python would cost as much as the rest of it --- */

/* __array_wrap__(array, context=None, return_scalar=False): what is computed from a SharedArray is an ordinary array.
 */
static PyObject *wrap(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    PyArrayObject *array;

    if (nargs < 1 || nargs > 3 || !PyArray_Check(args[0]))
        return PyErr_Format(PyExc_TypeError, "__array_wrap__() takes an array, a context, and whether it is a scalar");
    array = (PyArrayObject *)args[0];
    if (args[0] == self || hold_of(array) != NULL)
        return Py_NewRef(args[0]);
    if (PyArray_NDIM(array) == 0)
        return PyArray_ToScalar(PyArray_DATA(array), array);
    return PyArray_View(array, NULL, &PyArray_Type);
}

/* __reduce_ex__(protocol): a message; without a Hold (a copy by NumPy), as of an ordinary array. */
static PyObject *reduce_ex(PyObject *self, PyObject *protocol)
{
    PyObject *plain, *reduced = send(NULL, self);

    if (reduced == NULL || !Py_IsNone(reduced))
        return reduced;
    Py_DECREF(reduced);
    plain = PyArray_View((PyArrayObject *)self, NULL, &PyArray_Type);
    reduced = plain != NULL ? PyObject_CallMethod(plain, "__reduce_ex__", "O", protocol) : NULL;
    Py_XDECREF(plain);
    return reduced;
}

static PyMethodDef shared_methods[] = {
    { "__array_wrap__", (PyCFunction)(void (*)(void))wrap, METH_FASTCALL, NULL },
    { "__reduce_ex__", reduce_ex, METH_O, NULL },
};

/* set_shared_type(type): that is SharedArray. Its methods that are written here are added to it. */
static PyObject *set_shared_type(PyObject *module, PyObject *type)
{
    (void)module;
    if (!PyType_Check(type) || !PyType_IsSubtype((PyTypeObject *)type, &PyArray_Type))
        return PyErr_Format(PyExc_TypeError, "a subclass of ndarray is wanted");
    for (size_t i = 0; i < sizeof(shared_methods) / sizeof(shared_methods[0]); i++) {
        PyObject *method = PyDescr_NewMethod((PyTypeObject *)type, &shared_methods[i]);
        const int r = method != NULL ? PyObject_SetAttrString(type, shared_methods[i].ml_name, method) : -1;

        Py_XDECREF(method);
        if (r < 0)
            return NULL;
    }
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
    { "publish", names_publish, METH_VARARGS, NULL },
    { "lookup", names_lookup, METH_VARARGS, NULL },
    { "view", view, METH_VARARGS, NULL },
    { "unlink", names_unlink, METH_VARARGS, NULL },
    { "collect", holds_collect, METH_NOARGS, NULL },
    { "leave", holds_leave, METH_NOARGS, NULL },
    { "contains", contains, METH_O, NULL },
    { "is_shared", is_shared, METH_O, NULL },
    { "before_fork", holds_before_fork, METH_NOARGS, NULL },
    { "after_fork_in_child", holds_after_fork_in_child, METH_NOARGS, NULL },
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
    if (holds_init() < 0 || memory_init(holds_core) < 0)
        return NULL;
    module = PyModule_Create(&definition);
    if (module == NULL || PyModule_AddObjectRef(module, "handler", memory_handler()) < 0)
        return NULL;
    receive_function = PyObject_GetAttrString(module, "receive");
    if (receive_function == NULL)
        return NULL;
    return module;
}
