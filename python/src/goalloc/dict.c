/*
 * dict: goalloc.Dict, a dictionary of bytes to bytes for all processes.
 *
 * Called by the package. Calls table.c, which has all that lies in the heap, and heap.c. A Dict is a name and the place
 * of its table, which is looked up again when the process has attached anew.
 *
 * A look (get, in) tries for the stripe's lock with the GIL, and copies the value to a bytes object within it: nothing
 * there calls back into Python. If the lock is not free, or somebody has died with it, it goes on without the GIL. A
 * change is made without the GIL from its allocation on, since that may wait for the daemon. Who waits for a lock looks
 * for signals ten times a second, and gives up after the timeout of the attach (TimeoutError): then the process that
 * holds it is stopped.
 *
 * Keys and values are bytes, or what has a buffer of bytes; str is refused, since it has no bytes of its own.
 */
#include "core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "table.h"

#define ROOT_PREFIX "goalloc.dict."
#define DIGITS_MAX 21 /* of a 64-bit number, with its sign */

typedef struct dict {
    PyObject_HEAD PyObject *name; /* str */
    unsigned long long max_bytes;
    table *t;
    uint64_t generation;
} dict;

static PyTypeObject *dict_type;

/* The table, or NULL with an exception. */
static table *table_of(dict *self)
{
    const char *name;
    char root[GOALLOC_ROOT_NAME_MAX + 1];
    table *t = NULL;
    int r;

    if (heap_ensure() < 0)
        return NULL;
    if (self->t != NULL && self->generation == heap_generation())
        return self->t;
    if (heap_is_readonly()) {
        PyErr_SetString(PyExc_PermissionError, "a dictionary's locks take write access, and the attach is read-only");
        return NULL;
    }
    name = PyUnicode_AsUTF8AndSize(self->name, NULL);
    if (name == NULL)
        return NULL;
    (void)snprintf(root, sizeof(root), ROOT_PREFIX "%s", name);
    HEAP_BEGIN_CALL;
    r = table_open(root, self->max_bytes, &t);
    HEAP_END_CALL;
    if (r < 0) {
        (void)heap_error(r, root);
        return NULL;
    }
    self->t = t;
    self->generation = heap_generation();
    return t;
}

/* --- bytes --- */

typedef struct bytes {
    Py_buffer view; /* obj NULL: none */
    char *p;
    Py_ssize_t len;
} bytes;

static int bytes_get(PyObject *object, bytes *ret)
{
    ret->view.obj = NULL;
    if (PyBytes_Check(object))
        return PyBytes_AsStringAndSize(object, &ret->p, &ret->len);
    if (PyObject_GetBuffer(object, &ret->view, PyBUF_SIMPLE) < 0)
        return -1;
    ret->p = ret->view.buf;
    ret->len = ret->view.len;
    return 0;
}

static void bytes_release(bytes *b)
{
    if (b->view.obj != NULL)
        PyBuffer_Release(&b->view);
}

/* --- looks --- */

/* Lock the stripe of a key. 0, or -1 with an exception. */
static int lock(table *t, uint64_t hash, stripe **ret)
{
    int r;

    PATIENTLY(r, "a dictionary", table_lock(t, hash, wait_ms, ret));
    return r;
}

enum look { LOOK_GET, LOOK_CONTAINS, LOOK_POP };

/* 1: it was there (*ret is its value, unless contains); 0; -1 with an exception. */
static int look_up(dict *self, PyObject *key, enum look look, PyObject **ret)
{
    uint64_t hash, index;
    stripe *s;
    entry *e;
    table *t;
    bytes k;
    int r;

    if (bytes_get(key, &k) < 0)
        return -1;
    t = table_of(self); /* last: from here to the end nothing lets another thread detach */
    if (t == NULL) {
        bytes_release(&k);
        return -1;
    }
    hash = table_hash(t, k.p, (size_t)k.len);
    r = lock(t, hash, &s);
    if (r == 0) {
        e = table_find(s, hash, k.p, (size_t)k.len, &index);
        if (e != NULL) {
            r = 1;
            if (look != LOOK_CONTAINS) {
                if (atomic_load_explicit(&e->is_used, memory_order_relaxed) == 0)
                    atomic_store_explicit(&e->is_used, 1, memory_order_relaxed);
                *ret = PyBytes_FromStringAndSize(entry_value(e), (Py_ssize_t)e->value_len);
                r = *ret != NULL ? 1 : -1;
            }
            if (r == 1 && look == LOOK_POP) {
                int removed = table_remove(s, index);

                if (removed < 0) {
                    Py_CLEAR(*ret);
                    r = heap_lock_error(removed, "pop");
                }
            }
        }
        table_unlock(s);
    }
    bytes_release(&k);
    return r;
}

static PyObject *get(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *value;
    int r;

    if (nargs < 1 || nargs > 2) {
        PyErr_Format(PyExc_TypeError, "get() takes a key and a default, not %zd arguments", nargs);
        return NULL;
    }
    r = look_up((dict *)object, args[0], LOOK_GET, &value);
    if (r == 1)
        return value;
    return r < 0 ? NULL : Py_NewRef(nargs == 2 ? args[1] : Py_None);
}

static PyObject *pop(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *value;
    int r;

    if (nargs < 1 || nargs > 2) {
        PyErr_Format(PyExc_TypeError, "pop() takes a key and a default, not %zd arguments", nargs);
        return NULL;
    }
    r = look_up((dict *)object, args[0], LOOK_POP, &value);
    if (r == 1)
        return value;
    if (r == 0 && nargs == 2)
        return Py_NewRef(args[1]);
    if (r == 0)
        PyErr_SetObject(PyExc_KeyError, args[0]);
    return NULL;
}

static PyObject *subscript(PyObject *object, PyObject *key)
{
    PyObject *value;
    int r = look_up((dict *)object, key, LOOK_GET, &value);

    if (r == 0)
        PyErr_SetObject(PyExc_KeyError, key);
    return r == 1 ? value : NULL;
}

static int contains(PyObject *object, PyObject *key)
{
    return look_up((dict *)object, key, LOOK_CONTAINS, NULL);
}

static Py_ssize_t length(PyObject *object)
{
    table *t = table_of((dict *)object);

    return t != NULL ? (Py_ssize_t)table_count(t) : -1;
}

/* --- changes --- */

/* What a change allocates and stores; `decide` as for table_store(). 1; 0: decided against; negative: with an
 * exception, or an errno of which change_error() makes one. */
static int store(dict *self, PyObject *key, const char *value, size_t value_len, table_decide_fn decide, void *arg)
{
    int left_ms = heap_timeout_ms();
    entry *e;
    table *t;
    bytes k;
    int r;

    if (bytes_get(key, &k) < 0)
        return -1;
    t = table_of(self);
    if (t == NULL) {
        bytes_release(&k);
        return -1;
    }
    heap_call_begins(); /* to the end: a signal's handler does not detach, either */
    HEAP_BEGIN_CALL;
    e = entry_new(t, k.p, (size_t)k.len, value_len);
    r = e == NULL ? -errno : 0;
    if (e != NULL) {
        if (value != NULL)
            memcpy(entry_value(e), value, value_len);
        r = table_store(t, e, HEAP_SLICE_MS, decide, arg);
    }
    HEAP_END_CALL;
    while (r == -EBUSY && (left_ms -= HEAP_SLICE_MS) > 0) {
        if (PyErr_CheckSignals() < 0)
            break;
        HEAP_BEGIN_CALL;
        r = table_store(t, e, HEAP_SLICE_MS, decide, arg);
        HEAP_END_CALL;
    }
    if (r != 1 && e != NULL)
        entry_free(e);
    heap_call_ends();
    bytes_release(&k);
    return r;
}

static int change_error(int r, const char *what)
{
    if (r == -EFBIG)
        PyErr_SetString(PyExc_ValueError, "the entry is larger than the dictionary's share of max_bytes");
    else if (r == -EBADMSG)
        PyErr_SetString(PyExc_ValueError, "the value is no decimal number of 64 bits");
    else if (r == -ERANGE)
        PyErr_SetString(PyExc_OverflowError, "the sum has more than 64 bits");
    else if (r < 0 && PyErr_Occurred() == NULL)
        return heap_lock_error(r, what);
    return r < 0 ? -1 : r;
}

static int assign(PyObject *object, PyObject *key, PyObject *value)
{
    PyObject *old = NULL;
    bytes v;
    int r;

    if (value == NULL) {
        r = look_up((dict *)object, key, LOOK_POP, &old);
        Py_XDECREF(old);
        if (r == 0)
            PyErr_SetObject(PyExc_KeyError, key);
        return r == 1 ? 0 : -1;
    }
    if (bytes_get(value, &v) < 0)
        return -1;
    r = change_error(store((dict *)object, key, v.p, (size_t)v.len, NULL, NULL), "set");
    bytes_release(&v);
    return r < 0 ? -1 : 0;
}

static PyObject *set(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        PyErr_Format(PyExc_TypeError, "set() takes a key and a value, not %zd arguments", nargs);
        return NULL;
    }
    if (assign(object, args[0], args[1]) < 0)
        return NULL;
    Py_RETURN_NONE;
}

typedef struct found {
    char *copy;
    size_t len;
} found;

static int keep_old(entry *old, entry *fresh, void *arg)
{
    found *f = arg;

    (void)fresh;
    if (old == NULL)
        return 1;
    f->len = old->value_len;
    f->copy = malloc(f->len + 1);
    if (f->copy == NULL)
        return -ENOMEM;
    memcpy(f->copy, entry_value(old), f->len);
    return 0;
}

static PyObject *setdefault(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *result = NULL;
    found f = { NULL, 0 };
    bytes v;
    int r;

    if (nargs != 2) {
        PyErr_Format(PyExc_TypeError, "setdefault() takes a key and a value, not %zd arguments", nargs);
        return NULL;
    }
    if (bytes_get(args[1], &v) < 0)
        return NULL;
    r = change_error(store((dict *)object, args[0], v.p, (size_t)v.len, keep_old, &f), "setdefault");
    if (r >= 0)
        result = r == 1 ? PyBytes_FromStringAndSize(v.p, v.len) : PyBytes_FromStringAndSize(f.copy, (Py_ssize_t)f.len);
    free(f.copy);
    bytes_release(&v);
    return result;
}

typedef struct sum {
    long long by, now;
} sum;

static int add_to_old(entry *old, entry *fresh, void *arg)
{
    char text[DIGITS_MAX + 1] = "0";
    sum *s = arg;
    char *end;

    if (old != NULL) {
        if (old->value_len == 0 || old->value_len >= DIGITS_MAX)
            return -EBADMSG;
        memcpy(text, entry_value(old), old->value_len);
        text[old->value_len] = '\0';
    }
    if (text[0] != '-' && (text[0] < '0' || text[0] > '9')) /* strtoll() would take blanks */
        return -EBADMSG;
    errno = 0;
    s->now = strtoll(text, &end, 10);
    if (errno != 0 || *end != '\0' || (old != NULL && end != text + old->value_len))
        return -EBADMSG;
    if (__builtin_add_overflow(s->now, s->by, &s->now))
        return -ERANGE;
    fresh->value_len = (uint64_t)snprintf(text, sizeof(text), "%lld", s->now);
    memcpy(entry_value(fresh), text, fresh->value_len);
    return 1;
}

static PyObject *incr(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    sum s = { .by = 1 };
    int r;

    if (nargs < 1 || nargs > 2) {
        PyErr_Format(PyExc_TypeError, "incr() takes a key and a number, not %zd arguments", nargs);
        return NULL;
    }
    if (nargs == 2) {
        s.by = PyLong_AsLongLong(args[1]);
        if (s.by == -1 && PyErr_Occurred() != NULL)
            return NULL;
    }
    r = change_error(store((dict *)object, args[0], NULL, DIGITS_MAX, add_to_old, &s), "incr");
    return r < 0 ? NULL : PyLong_FromLongLong(s.now);
}

/* --- all entries --- */

static int lock_stripe(stripe *s)
{
    int r;

    PATIENTLY(r, "a dictionary", table_lock_stripe(s, wait_ms));
    return r;
}

static PyObject *clear(PyObject *object, PyObject *unused)
{
    table *t = table_of((dict *)object);

    (void)unused;
    if (t == NULL)
        return NULL;
    for (uint64_t i = 0; i < t->nstripes; i++) {
        int r;

        if (lock_stripe(&t->stripes[i]) < 0)
            return NULL;
        HEAP_BEGIN_CALL;
        r = table_clear_stripe(&t->stripes[i]);
        table_unlock(&t->stripes[i]);
        HEAP_END_CALL;
        if (r < 0) {
            (void)heap_lock_error(r, "clear");
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

static int append(PyObject *list, const char *p, size_t len)
{
    PyObject *object = PyBytes_FromStringAndSize(p, (Py_ssize_t)len);
    int r = object != NULL ? PyList_Append(list, object) : -1;

    Py_XDECREF(object);
    return r;
}

/* Copies of what is there, a stripe at a time. Bytes and growing lists start no collection, so nothing calls back. */
static int list_all(dict *self, PyObject *keys, PyObject *values)
{
    table *t = table_of(self);

    if (t == NULL)
        return -1;
    for (uint64_t i = 0; i < t->nstripes; i++) {
        stripe *s = &t->stripes[i];
        int r = lock_stripe(s);

        if (r < 0)
            return -1;
        for (uint64_t j = 0; j < table_nplaces(s) && r == 0; j++) {
            entry *e = table_at(s, j);

            if (e != NULL && keys != NULL)
                r = append(keys, entry_key(e), e->key_len);
            if (e != NULL && r == 0 && values != NULL)
                r = append(values, entry_value(e), e->value_len);
        }
        table_unlock(s);
        if (r < 0)
            return -1;
    }
    return 0;
}

static PyObject *keys(PyObject *object, PyObject *unused)
{
    PyObject *result = PyList_New(0);

    (void)unused;
    if (result != NULL && list_all((dict *)object, result, NULL) < 0)
        Py_CLEAR(result);
    return result;
}

static PyObject *values(PyObject *object, PyObject *unused)
{
    PyObject *result = PyList_New(0);

    (void)unused;
    if (result != NULL && list_all((dict *)object, NULL, result) < 0)
        Py_CLEAR(result);
    return result;
}

static PyObject *items(PyObject *object, PyObject *unused)
{
    PyObject *k = PyList_New(0), *v = PyList_New(0), *result = NULL;
    Py_ssize_t n;

    (void)unused;
    if (k != NULL && v != NULL && list_all((dict *)object, k, v) == 0) {
        n = PyList_Size(k);
        result = PyList_New(n);
        for (Py_ssize_t i = 0; result != NULL && i < n; i++) {
            PyObject *pair = PyTuple_Pack(2, PyList_GetItem(k, i), PyList_GetItem(v, i));

            if (pair == NULL || PyList_SetItem(result, i, pair) < 0)
                Py_CLEAR(result);
        }
    }
    Py_XDECREF(k);
    Py_XDECREF(v);
    return result;
}

static PyObject *iterate(PyObject *object)
{
    PyObject *list = keys(object, NULL);
    PyObject *result = list != NULL ? PyObject_GetIter(list) : NULL;

    Py_XDECREF(list);
    return result;
}

/* --- the type --- */

static PyObject *dict_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = { "name", "max_bytes", NULL };
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Py_ssize_t len = 0;
    PyObject *name, *max_bytes = NULL;
    unsigned long long max = 0;
    const char *text;
    dict *self;

    if (!PyArg_ParseTupleAndKeywords(args, keywords, "U|O:dict", names, &name, &max_bytes))
        return NULL;
    if (max_bytes != NULL) {
        max = PyLong_AsUnsignedLongLong(max_bytes);
        if (PyErr_Occurred() != NULL) {
            if (PyErr_ExceptionMatches(PyExc_OverflowError))
                PyErr_SetString(PyExc_ValueError, "max_bytes is a number of bytes, or 0");
            return NULL;
        }
    }
    text = PyUnicode_AsUTF8AndSize(name, &len);
    if (text == NULL)
        return NULL;
    if (len == 0 || len > (Py_ssize_t)TABLE_NAME_MAX || strlen(text) != (size_t)len) {
        PyErr_Format(PyExc_ValueError, "a dictionary's name has 1 to %u bytes, none of them zero", TABLE_NAME_MAX);
        return NULL;
    }
    self = (dict *)alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->name = Py_NewRef(name);
    self->max_bytes = max;
    if (table_of(self) == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void dict_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    Py_XDECREF(((dict *)object)->name);
    release(object);
    Py_DECREF(type);
}

static PyObject *dict_repr(PyObject *object)
{
    return PyUnicode_FromFormat("<goalloc.Dict %R>", ((dict *)object)->name);
}

/* A pickle has the attach's ticket and the name. */
static PyObject *dict_reduce(PyObject *object, PyObject *unused)
{
    PyObject *ticket = heap_ticket();
    PyObject *package = ticket != NULL ? PyImport_ImportModule("goalloc._heap") : NULL;
    PyObject *open = package != NULL ? PyObject_GetAttrString(package, "_open_dict") : NULL;

    (void)unused;
    Py_XDECREF(package);
    if (open == NULL) {
        Py_XDECREF(ticket);
        return NULL;
    }
    return Py_BuildValue("(N(NO))", open, ticket, ((dict *)object)->name);
}

static PyObject *get_name(PyObject *object, void *unused)
{
    (void)unused;
    return Py_NewRef(((dict *)object)->name);
}

static PyObject *get_max_bytes(PyObject *object, void *unused)
{
    table *t = table_of((dict *)object);

    (void)unused;
    return t != NULL ? PyLong_FromUnsignedLongLong(t->max_bytes) : NULL;
}

static PyObject *get_nbytes(PyObject *object, void *unused)
{
    table *t = table_of((dict *)object);

    (void)unused;
    return t != NULL ? PyLong_FromUnsignedLongLong(table_bytes(t)) : NULL;
}

static PyMethodDef dict_methods[] = {
    { "get", (PyCFunction)(void (*)(void))get, METH_FASTCALL, "get(key, default=None): the value, or the default." },
    { "set", (PyCFunction)(void (*)(void))set, METH_FASTCALL, "set(key, value): as d[key] = value." },
    { "pop", (PyCFunction)(void (*)(void))pop, METH_FASTCALL,
      "pop(key[, default]): the value, which is no more there." },
    { "setdefault", (PyCFunction)(void (*)(void))setdefault, METH_FASTCALL,
      "setdefault(key, value): the value that is there, or this one, which is then: one of many gets its own." },
    { "incr", (PyCFunction)(void (*)(void))incr, METH_FASTCALL,
      "incr(key, n=1): add to the decimal number that the value is (none: 0); the sum." },
    { "clear", clear, METH_NOARGS, "Remove what is there." },
    { "keys", keys, METH_NOARGS, "A list of the keys, as they were when each was looked at." },
    { "values", values, METH_NOARGS, "A list of the values." },
    { "items", items, METH_NOARGS, "A list of pairs." },
    { "__reduce__", dict_reduce, METH_NOARGS, NULL },
    { NULL, NULL, 0, NULL },
};

static PyGetSetDef dict_getset[] = {
    { "name", get_name, NULL, "The name by which processes share it.", NULL },
    { "max_bytes", get_max_bytes, NULL, "Above it entries are evicted; 0: never. As its maker has said.", NULL },
    { "nbytes", get_nbytes, NULL, "What its entries take, about.", NULL },
    { NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot dict_slots[] = {
    { Py_tp_doc, "Dict(name, max_bytes=0): bytes to bytes, shared by all processes that use the name." },
    { Py_tp_new, (void *)dict_new },
    { Py_tp_dealloc, (void *)dict_dealloc },
    { Py_tp_repr, (void *)dict_repr },
    { Py_tp_iter, (void *)iterate },
    { Py_tp_methods, dict_methods },
    { Py_tp_getset, dict_getset },
    { Py_mp_length, (void *)length },
    { Py_mp_subscript, (void *)subscript },
    { Py_mp_ass_subscript, (void *)assign },
    { Py_sq_contains, (void *)contains },
    { 0, NULL },
};

static PyType_Spec dict_spec = {
    .name = "goalloc.Dict",
    .basicsize = sizeof(dict),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = dict_slots,
};

int dict_init(PyObject *module)
{
    if (dict_type == NULL)
        dict_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &dict_spec, NULL);
    return dict_type == NULL ? -1 : PyModule_AddObjectRef(module, "Dict", (PyObject *)dict_type);
}
