/*
 * buffer: goalloc.Buffer, memory of the heap for Python.
 *
 * Called by _core.c, roots.c, buffer_names.c and the package. Calls block.c, handle.c and heap.c. Data: private objects
 * of Python; those with a block are in a list, so that a fork and a detach reach them; all under the GIL.
 *
 * What a buffer is, and what its end does:
 *
 *   PRIVATE    an own block that nobody else knows of: the block is freed
 *   SHARED     a block in the table of blocks, held by this process once for each buffer: held once less
 *   BORROWED   memory of others (a C program's root, NumPy's array): nothing; `owner` is let go
 *   FOREIGN    a parent's block that a forked child could not take over: nothing; it can't be used
 *   EMPTY      freed, or of a heap that this process has left
 *
 * PRIVATE becomes SHARED by a handle, by a name, and before a fork, where each buffer is held once more: that count is
 * a reservation (block.c), which the child takes over before it does anything else. So parent and child each have what
 * they had, and the last of them frees it, whoever is killed in between. What was reserved for a child that never came
 * (the fork failed, or it was killed before) counts for a minute.
 *
 * An exported buffer (a memoryview, an array on it) pins the heap, and can't be freed: BufferError. The end of a buffer
 * is the same while Python finalizes: a block is dropped with a lock of the heap, for which it waits a second at most.
 * What could not be dropped then is a dead process's soon, and collected as such.
 */
#include "buffer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "handle.h"

#define COLLECT_EVERY 1024 /* shares of this process, until it looks for what the dead have left */

static PyTypeObject *buffer_type;
static buffer *first;
static table *blocks; /* of the heap of this generation */
static uint64_t blocks_generation;
static unsigned long nshares;
static holder reservation; /* for the child of the fork that is going on */

table *buffer_blocks(void)
{
    uint64_t ncollected;
    table *t = NULL;
    int r;

    if (heap_ensure() < 0)
        return NULL;
    if (heap_is_readonly()) {
        PyErr_SetString(PyExc_PermissionError, "to share memory takes write access, and the attach is read-only");
        return NULL;
    }
    if (blocks != NULL && blocks_generation == heap_generation())
        return blocks;
    HEAP_BEGIN_CALL;
    r = blocks_open(&t);
    HEAP_END_CALL;
    if (r < 0) {
        (void)heap_error(r, "the table of blocks");
        return NULL;
    }
    blocks = t;
    blocks_generation = heap_generation();
    HEAP_BEGIN_CALL;
    (void)block_collect(t, 0, &ncollected); /* what the dead have left; who can't now will later */
    HEAP_END_CALL;
    return blocks;
}

/* --- objects --- */

static void list_add(buffer *self)
{
    self->next = first;
    self->previous = NULL;
    if (first != NULL)
        first->previous = self;
    first = self;
}

static void list_remove(buffer *self)
{
    if (self->previous != NULL)
        self->previous->next = self->next;
    else if (first == self)
        first = self->next;
    if (self->next != NULL)
        self->next->previous = self->previous;
    self->next = self->previous = NULL;
}

static buffer *make(enum kind kind, void *p, Py_ssize_t size)
{
    allocfunc alloc = (allocfunc)PyType_GetSlot(buffer_type, Py_tp_alloc);
    buffer *self = (buffer *)alloc(buffer_type, 0);

    if (self == NULL)
        return NULL;
    self->kind = (char)kind;
    self->p = p;
    self->size = size;
    self->generation = heap_generation();
    self->is_readonly = (char)heap_is_readonly();
    return self;
}

PyObject *buffer_own(enum kind kind, block *b)
{
    buffer *self = make(kind, b->data, (Py_ssize_t)b->data_len);

    if (self == NULL)
        return NULL;
    self->b = b;
    if (kind == SHARED)
        memcpy(self->key, b->key, BLOCK_KEY);
    list_add(self);
    return (PyObject *)self;
}

static bool is_gone(const buffer *self)
{
    return self->kind == EMPTY || self->kind == FOREIGN || self->generation != heap_generation();
}

buffer *buffer_of(PyObject *object)
{
    if (PyObject_TypeCheck(object, buffer_type))
        return (buffer *)object;
    PyErr_SetString(PyExc_TypeError, "a root is a goalloc.Buffer, as alloc() makes it");
    return NULL;
}

int buffer_check(const buffer *self)
{
    if (!is_gone(self))
        return 0;
    PyErr_SetString(PyExc_ValueError, self->kind == EMPTY ? "this buffer has been freed"
                                      : self->kind == FOREIGN
                                          ? "this buffer is the parent's: the fork could not share it"
                                          : "this buffer is of a heap that this process has left");
    return -1;
}

/* Give up what the buffer has. */
static void let_go(buffer *self)
{
    enum kind kind = (enum kind)self->kind;
    PyObject *owner = self->owner;
    bool is_here = !is_gone(self);

    if (self->b != NULL)
        list_remove(self);
    self->kind = EMPTY;
    self->owner = NULL;
    if (kind == PRIVATE && is_here)
        block_free_private(self->b);
    else if (kind == SHARED && is_here && blocks != NULL && heap_is_attached())
        (void)block_drop(blocks, self->key, block_self(), heap_has_session(), END_WAIT_MS);
    self->b = NULL;
    self->p = NULL;
    self->size = 0;
    Py_XDECREF(owner);
}

static void buffer_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    PyObject *error_type, *error, *traceback;

    PyErr_Fetch(&error_type, &error, &traceback);
    let_go((buffer *)object);
    PyErr_Restore(error_type, error, traceback);
    release(object);
    Py_DECREF(type);
}

PyObject *buffer_borrow(void *p, Py_ssize_t size, int is_readonly, PyObject *owner)
{
    buffer *self;

    if (heap_ensure() < 0)
        return NULL;
    if (size < 0 || !goalloc_contains(p)) {
        PyErr_SetString(PyExc_ValueError, "no memory of the heap");
        return NULL;
    }
    self = make(BORROWED, p, size);
    if (self == NULL)
        return NULL;
    self->is_readonly = (char)(is_readonly != 0 || heap_is_readonly());
    Py_XINCREF(owner);
    self->owner = owner;
    return (PyObject *)self;
}

/* --- the functions of the module --- */

block *buffer_new_block(Py_ssize_t size)
{
    block *b;
    int saved_errno;

    if (size < 0) {
        PyErr_Format(PyExc_ValueError, "alloc: %zd bytes", size);
        return NULL;
    }
    if (heap_ensure() < 0)
        return NULL;
    HEAP_BEGIN_CALL;
    b = block_new((size_t)size);
    saved_errno = errno;
    HEAP_END_CALL;
    if (b == NULL)
        (void)heap_error(saved_errno, "alloc");
    return b;
}

PyObject *buffer_alloc(PyObject *module, PyObject *args)
{
    Py_ssize_t size;
    PyObject *self;
    block *b;

    (void)module;
    if (!PyArg_ParseTuple(args, "n:alloc", &size))
        return NULL;
    b = buffer_new_block(size);
    if (b == NULL)
        return NULL;
    self = buffer_own(PRIVATE, b);
    if (self == NULL)
        block_free_private(b);
    return self;
}

int buffer_share(buffer *self)
{
    table *t = buffer_blocks();
    uint64_t ncollected;
    int r;

    if (t == NULL)
        return -1;
    while (self->is_sharing) { /* another thread is at it */
        HEAP_BEGIN_CALL;
        (void)nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
        HEAP_END_CALL;
        if (PyErr_CheckSignals() < 0)
            return -1;
    }
    if (buffer_check(self) < 0) /* another thread has detached, or freed it */
        return -1;
    if (self->kind == SHARED)
        return 0;
    if (self->kind != PRIVATE) {
        PyErr_SetString(PyExc_ValueError, "this buffer's memory is not its own: it can't be shared");
        return -1;
    }
    self->is_sharing = 1;
    PATIENTLY_FREE(r, "share", block_share(t, self->b, block_self(), wait_ms));
    self->is_sharing = 0;
    if (r < 0)
        return -1;
    self->kind = SHARED;
    memcpy(self->key, self->b->key, BLOCK_KEY);
    if (++nshares % COLLECT_EVERY == 0)
        (void)block_collect(t, 0, &ncollected);
    return 0;
}

PyObject *buffer_collect(PyObject *module, PyObject *unused)
{
    table *t = buffer_blocks();
    uint64_t n = 0;
    int r;

    (void)module;
    (void)unused;
    if (t == NULL)
        return NULL;
    PATIENTLY(r, "collect", block_collect(t, wait_ms, &n));
    return r < 0 ? NULL : PyLong_FromUnsignedLongLong(n);
}

/* --- handles --- */

static int parse_handle(const char *text, char key[BLOCK_KEY], holder *ret_who)
{
    uint64_t heap;

    if (!handle_parse(text, &heap, key, ret_who)) {
        PyErr_SetString(PyExc_ValueError, "this is no handle of goalloc");
        return -1;
    }
    if (heap_ensure() < 0)
        return -1;
    if (heap != goalloc_heap_id()) {
        (void)heap_error(ESTALE, "the handle is of another heap");
        return -1;
    }
    return 0;
}

int buffer_hold(const char *key, holder who, block **ret)
{
    table *t = buffer_blocks();
    int r;

    if (t == NULL)
        return -1;
    PATIENTLY(r, "a handle or name", block_hold(t, key, who, wait_ms, ret));
    if (r == BLOCK_E_GONE)
        PyErr_SetString(PyExc_ValueError, "nobody holds this buffer any more");
    return r == 0 ? 0 : -1;
}

static PyObject *handle(PyObject *object, PyObject *unused)
{
    buffer *self = (buffer *)object;
    holder who = block_handle(block_self());
    char text[HANDLE_MAX];
    block *b;

    (void)unused;
    if (buffer_check(self) < 0 || buffer_share(self) < 0 || buffer_hold(self->key, who, &b) < 0)
        return NULL;
    handle_write(text, goalloc_heap_id(), self->key, who);
    return PyUnicode_FromString(text);
}

PyObject *buffer_from_handle(PyObject *module, PyObject *args)
{
    char key[BLOCK_KEY];
    const char *text;
    PyObject *self;
    holder who;
    block *b;
    int take;

    (void)module;
    if (!PyArg_ParseTuple(args, "sp:from_handle", &text, &take) || parse_handle(text, key, &who) < 0 ||
        buffer_hold(key, block_self(), &b) < 0)
        return NULL;
    self = buffer_own(SHARED, b);
    if (self == NULL)
        (void)block_drop(blocks, key, block_self(), true, END_WAIT_MS);
    else if (take)
        (void)block_drop(blocks, key, who, true, END_WAIT_MS); /* dropped before: then it has served before */
    return self;
}

PyObject *buffer_drop_handle(PyObject *module, PyObject *args)
{
    char key[BLOCK_KEY];
    const char *text;
    holder who;
    table *t;
    int r;

    (void)module;
    if (!PyArg_ParseTuple(args, "s:drop_handle", &text) || parse_handle(text, key, &who) < 0)
        return NULL;
    t = buffer_blocks();
    if (t == NULL)
        return NULL;
    PATIENTLY(r, "drop_handle", block_drop(t, key, who, true, wait_ms));
    if (r == BLOCK_E_GONE)
        PyErr_SetString(PyExc_ValueError, "this handle has been dropped already");
    if (r != 0)
        return NULL;
    Py_RETURN_NONE;
}

/* --- fork and detach --- */

/* A buffer that this fork has not come to yet, or NULL. */
static buffer *next_for_fork(buffer *b, unsigned long number)
{
    while (b != NULL && b->fork_number == number)
        b = b->next;
    return b;
}

/* Share it, and hold it once more. It may be freed meanwhile by another thread, where this one waits without the GIL.
 */
static void prepare_for_child(buffer *b)
{
    block *unused;

    b->is_for_child = 0;
    if (is_gone(b) || (b->kind != PRIVATE && b->kind != SHARED))
        return;
    if (buffer_share(b) < 0 || block_hold(blocks, b->key, reservation, END_WAIT_MS, &unused) != 0)
        PyErr_Clear(); /* the child finds that out */
    else
        b->is_for_child = 1;
}

void buffer_before_fork(void)
{
    static unsigned long fork_number;
    unsigned long number;
    buffer *b;

    if (!heap_is_attached() || first == NULL || heap_is_readonly())
        return;
    reservation = block_reservation();
    number = ++fork_number;
    for (b = next_for_fork(first, number); b != NULL;) {
        PyObject *kept = Py_NewRef((PyObject *)b);

        b->fork_number = number;
        prepare_for_child(b);
        b = next_for_fork(b->b != NULL ? b->next : first, number);
        Py_DECREF(kept);
    }
}

void buffer_after_fork_in_child(void)
{
    for (buffer *b = first; b != NULL; b = b->next) {
        block *unused;

        if (!is_gone(b) && (b->kind == PRIVATE || b->kind == SHARED) &&
            (b->is_for_child == 0 || block_hold(blocks, b->key, block_self(), END_WAIT_MS, &unused) != 0))
            b->kind = FOREIGN;
        else if (b->is_for_child != 0)
            (void)block_drop(blocks, b->key, reservation, false, END_WAIT_MS);
        b->is_for_child = 0;
    }
}

void buffer_forget_all(void)
{
    while (first != NULL)
        let_go(first);
}

/* --- the type --- */

static int buffer_getbuffer(PyObject *object, Py_buffer *view, int wanted)
{
    buffer *self = (buffer *)object;

    if (buffer_check(self) < 0 || heap_pin() < 0) {
        view->obj = NULL;
        return -1;
    }
    if (PyBuffer_FillInfo(view, object, self->p, self->size, self->is_readonly, wanted) < 0) {
        heap_unpin();
        return -1;
    }
    self->nexports++;
    return 0;
}

static void buffer_releasebuffer(PyObject *object, Py_buffer *view)
{
    (void)view;
    ((buffer *)object)->nexports--;
    heap_unpin();
}

static PyObject *buffer_free(PyObject *object, PyObject *unused)
{
    buffer *self = (buffer *)object;

    (void)unused;
    if (self->nexports > 0) {
        PyErr_Format(PyExc_BufferError, "free: %zd views of this buffer are in use", self->nexports);
        return NULL;
    }
    if (self->is_sharing) {
        PyErr_SetString(PyExc_BufferError, "free: another thread is sharing this buffer");
        return NULL;
    }
    let_go(self);
    Py_RETURN_NONE;
}

static PyObject *buffer_enter(PyObject *object, PyObject *unused)
{
    (void)unused;
    return buffer_check((buffer *)object) < 0 ? NULL : Py_NewRef(object);
}

static PyObject *buffer_exit(PyObject *object, PyObject *args)
{
    (void)args;
    return buffer_free(object, NULL);
}

/* A pickle has the attach's ticket and a handle, which serves once. */
static PyObject *buffer_reduce(PyObject *object, PyObject *unused)
{
    PyObject *package, *open, *ticket, *text;

    (void)unused;
    text = handle(object, NULL);
    ticket = text != NULL ? heap_ticket() : NULL;
    package = ticket != NULL ? PyImport_ImportModule("goalloc._heap") : NULL;
    open = package != NULL ? PyObject_GetAttrString(package, "_open_handle") : NULL;
    Py_XDECREF(package);
    if (open == NULL) {
        Py_XDECREF(text);
        Py_XDECREF(ticket);
        return NULL;
    }
    return Py_BuildValue("(N(NN))", open, ticket, text);
}

static PyObject *get_size(PyObject *object, void *unused)
{
    (void)unused;
    return PyLong_FromSsize_t(((buffer *)object)->size);
}

static PyObject *get_address(PyObject *object, void *unused)
{
    (void)unused;
    return buffer_check((buffer *)object) < 0 ? NULL : PyLong_FromVoidPtr(((buffer *)object)->p);
}

static PyObject *get_offset(PyObject *object, void *unused)
{
    (void)unused;
    return buffer_check((buffer *)object) < 0 ? NULL
                                              : PyLong_FromUnsignedLongLong(goalloc_offset(((buffer *)object)->p));
}

static PyObject *get_readonly(PyObject *object, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((buffer *)object)->is_readonly);
}

static PyObject *get_freed(PyObject *object, void *unused)
{
    (void)unused;
    return PyBool_FromLong(is_gone((buffer *)object));
}

static Py_ssize_t buffer_length(PyObject *object)
{
    return buffer_check((buffer *)object) < 0 ? -1 : ((buffer *)object)->size;
}

static PyObject *buffer_repr(PyObject *object)
{
    buffer *self = (buffer *)object;

    if (is_gone(self))
        return PyUnicode_FromString("<goalloc.Buffer, freed>");
    return PyUnicode_FromFormat("<goalloc.Buffer of %zd bytes at %p>", self->size, (void *)self->p);
}

static PyMethodDef buffer_methods[] = {
    { "handle", handle, METH_NOARGS, "A text by which other processes open this memory: goalloc.from_handle()." },
    { "free", buffer_free, METH_NOARGS, "Give the memory up, now. BufferError while a view of it is in use." },
    { "__enter__", buffer_enter, METH_NOARGS, NULL },
    { "__exit__", buffer_exit, METH_VARARGS, NULL },
    { "__reduce__", buffer_reduce, METH_NOARGS, NULL },
    { NULL, NULL, 0, NULL },
};

static PyGetSetDef buffer_getset[] = {
    { "size", get_size, NULL, "Bytes.", NULL },
    { "address", get_address, NULL, "Where it is, the same in all processes.", NULL },
    { "offset", get_offset, NULL, "Its distance from the heap's base.", NULL },
    { "readonly", get_readonly, NULL, "True if this process can't write it.", NULL },
    { "freed", get_freed, NULL, "True if it has been freed, or its heap was left.", NULL },
    { NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot buffer_slots[] = {
    { Py_tp_doc, "Memory of the shared heap: memoryview() reads and writes it. Made by goalloc.alloc() and others." },
    { Py_tp_dealloc, (void *)buffer_dealloc },
    { Py_tp_repr, (void *)buffer_repr },
    { Py_tp_methods, buffer_methods },
    { Py_tp_getset, buffer_getset },
    { Py_mp_length, (void *)buffer_length },
    { Py_bf_getbuffer, (void *)buffer_getbuffer },
    { Py_bf_releasebuffer, (void *)buffer_releasebuffer },
    { 0, NULL },
};

static PyType_Spec buffer_spec = {
    .name = "goalloc.Buffer",
    .basicsize = sizeof(buffer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = buffer_slots,
};

int buffer_init(PyObject *module)
{
    if (buffer_type == NULL)
        buffer_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &buffer_spec, NULL);
    return buffer_type == NULL ? -1 : PyModule_AddObjectRef(module, "Buffer", (PyObject *)buffer_type);
}
