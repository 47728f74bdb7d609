/*
 * Holds: this process's references to blocks, as Python objects.
 *
 * Called by _numpy.c (arrays, messages) and _numpy_names.c. Calls _numpy_refs.h, which has what lies in the heap, and
 * goalloc._core by its capsule. Data, all private and under the GIL: `holds`, what is `unreleased`, the ticket, and
 * which incarnation this is.
 *
 * A Hold is this process's reference to one block. It is the base of all arrays on that block here, and there is one of
 * a block: `holds` leads from the entry's index to it, without a reference of its own. When the last array goes, the
 * Hold does, and with it the process's reference. A Hold has a pin, too, so that the heap stays mapped.
 *
 *   a reference is taken (refs_create, refs_take, refs_open) -> hold_new(): a pin, and a place in `holds`
 *   the last array goes -> hold_dealloc(): out of `holds`, the reference returned, the pin let go
 *   a reference that can't be returned (a stopped process has the lock) waits in `unreleased` for the next join
 *
 * A process becomes a holder at its first reference (holds_join). A forked child inherits the arrays and their Holds:
 * before_fork() makes references for it, one for each block, which the child takes over. A child that could not do so
 * has Holds of an earlier `incarnation`, as has a process that has attached anew: they release nothing.
 *
 * If the process dies, its references are those of a dead holder: _numpy_holders.c. At the end of Python at_exit()
 * leaves at once.
 */
#include "_numpy_holds.h"

#include <errno.h>

#include <goalloc.h>

#define COLLECT_BYTES (UINT64_C(1) << 28) /* so much shared since the last look: the dead are looked for */
#define COLLECT_ARRAYS 65536
#define TICKET_GROUP 3 /* the group's place in goalloc._core's ticket */

const goalloc_python_api *holds_core;
static PyObject *holds;      /* index -> address of the Hold; of this process's incarnation */
static uint64_t incarnation; /* counts the times that this process became a holder */
static PyObject *ticket;
static refs_id *unreleased; /* could not be released; the next one that takes a reference tries again */
static size_t nunreleased;
static uint64_t bytes_since, arrays_since;

PyObject *holds_ticket(void)
{
    return ticket;
}

PyObject *holds_fail(int r, const char *what)
{
    if (r == -ENOENT) {
        PyErr_Format(PyExc_ReferenceError, "%s: the array is gone", what);
        return NULL;
    }
    if (r == -ETIMEDOUT) {
        PyErr_Format(PyExc_TimeoutError, "%s: a process that is stopped has a lock, or no daemon answers", what);
        return NULL;
    }
    return holds_core->raise(r, what);
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

/* A release may wait without the GIL: other threads come here, or keep more, meanwhile. So each takes what there is,
 * and keeps what it has to. After one that can't be released the others wait for the next time, before it. */
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

int holds_join(void)
{
    int r;

    if (refs_joined() && !holds_core->is_readonly()) { /* it may have detached and come back without write access */
        if (nunreleased != 0)
            release_rest();
        return 0;
    }
    if (holds_core->heap_pin() < 0)
        return -1;
    if (holds_core->is_readonly()) {
        PyErr_SetString(PyExc_PermissionError, "a read-only attach can't hold arrays");
        r = -1;
    } else {
        Py_XSETREF(ticket, holds_core->attach_ticket());
        r = ticket == NULL ? -1 : 0;
    }
    if (r == 0 && (r = refs_join(family())) < 0)
        (void)holds_fail(r, "goalloc.arrays");
    if (r == 0) {
        PyDict_Clear(holds);
        nunreleased = 0;
        incarnation++;
    }
    holds_core->heap_unpin();
    return r < 0 ? -1 : 0;
}

hold *hold_find(refs_id id)
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

int hold_is_there(refs_id id)
{
    return hold_find(id) != NULL;
}

hold *hold_new(refs_id id)
{
    hold *h = PyObject_New(hold, &hold_type);
    PyObject *key, *value;
    int r = -1;

    if (h == NULL || holds_core->heap_pin() < 0) {
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
    holds_core->heap_unpin();
    PyErr_Restore(type, value, traceback);
    PyObject_Free(h);
}

PyTypeObject hold_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "goalloc._numpy.Hold",
    .tp_doc = "This process's reference to an array in the shared heap.",
    .tp_basicsize = sizeof(hold),
    .tp_dealloc = hold_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
};

hold *hold_of(PyArrayObject *array)
{
    PyObject *base = (PyObject *)array;

    while (base != NULL && PyArray_Check(base))
        base = PyArray_BASE((PyArrayObject *)base);
    return base != NULL && Py_IS_TYPE(base, &hold_type) ? (hold *)base : NULL;
}

void holds_collect_sometimes(size_t size)
{
    refs_collected unused;

    bytes_since += size;
    if (bytes_since < COLLECT_BYTES && ++arrays_since < COLLECT_ARRAYS)
        return;
    bytes_since = arrays_since = 0;
    (void)refs_collect_dead(&unused);
}

/* --- the process --- */

PyObject *holds_collect(PyObject *module, PyObject *unused)
{
    refs_collected all;
    int r;

    (void)module;
    (void)unused;
    if (holds_join() < 0)
        return NULL;
    bytes_since = arrays_since = 0;
    r = refs_collect(&all);
    if (r < 0)
        return holds_fail(r, "collect");
    return Py_BuildValue("(KKK)", (unsigned long long)all.holders, (unsigned long long)all.references,
                         (unsigned long long)all.arrays);
}

/* Python has ended. What this process has left would be collected later; so it is at once. */
static void at_exit(void)
{
    if (!holds_core->is_readonly())
        refs_leave(1);
}

/* leave(): before a detach. A process that has arrays stays a holder, and its detach fails. */
PyObject *holds_leave(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    if (PyDict_GET_SIZE(holds) == 0 && nunreleased == 0 && refs_joined() && !holds_core->is_readonly())
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

PyObject *holds_before_fork(PyObject *module, PyObject *unused)
{
    size_t n;
    refs_id *ids = ids_of_holds(&n);

    (void)module;
    (void)unused;
    refs_before_fork(ids, n);
    PyMem_RawFree(ids);
    Py_RETURN_NONE;
}

PyObject *holds_after_fork_in_child(PyObject *module, PyObject *unused)
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

int holds_init(void)
{
    holds_core = goalloc_python_import();
    if (holds_core == NULL || PyType_Ready(&hold_type) < 0)
        return -1;
    if (holds == NULL)
        holds = PyDict_New();
    return holds == NULL || Py_AtExit(at_exit) < 0 ? -1 : 0;
}
