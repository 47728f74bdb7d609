/*
 * buffer_names: buffers that a name holds: daemon's roots, and segments (goalloc.SharedMemory).
 *
 * Called by roots.c (buffer_open_data(), buffer_hold_for_ever(), buffer_drop_for_ever()) and by the package. Calls
 * buffer.c, segment.c and block.c. Data: the table of names of the heap of this generation, under the GIL.
 *
 * What a name holds is held by nobody that could die (BLOCK_FOR_EVER), until it is dropped. A root leads to a block's
 * data; of the block before that only the key is read, and believed when the table of blocks has it, and at that
 * address. A segment's name is in a table of its own: segment.c has the steps, and what a death leaves.
 */
#include "buffer.h"

#include <errno.h>
#include <string.h>

#include "segment.h"

/* --- for roots: blocks by the address of their data --- */

/* What may be the key of a block with its data at p; block_hold() says whether it is. False: p is no such address. */
static bool key_before(void *p, char key[BLOCK_KEY])
{
    block *b = (block *)(void *)((char *)p - sizeof(block));

    if (goalloc_offset(p) < sizeof(block) || !goalloc_contains(b))
        return false;
    memcpy(key, b->key, BLOCK_KEY);
    return true;
}

int buffer_open_data(void *p, PyObject **ret)
{
    table *t = heap_is_readonly() ? NULL : buffer_blocks();
    char key[BLOCK_KEY];
    block *b = NULL;
    int r;

    if (t == NULL)
        return heap_is_readonly() ? 0 : -1;
    if (!key_before(p, key))
        return 0;
    PATIENTLY(r, "a root", block_hold(t, key, block_self(), wait_ms, &b));
    if (r != 0)
        return r == BLOCK_E_GONE ? 0 : -1;
    if (b->data != p) {
        (void)block_drop(t, key, block_self(), true, END_WAIT_MS);
        return 0;
    }
    *ret = buffer_own(SHARED, b);
    if (*ret == NULL)
        (void)block_drop(t, key, block_self(), true, END_WAIT_MS);
    return *ret != NULL ? 1 : -1;
}

void *buffer_hold_for_ever(PyObject *object)
{
    buffer *self = buffer_of(object);
    block *b;

    if (self == NULL || buffer_check(self) < 0)
        return NULL;
    if (self->kind == BORROWED)
        return self->p;
    if (buffer_share(self) < 0 || buffer_hold(self->key, BLOCK_FOR_EVER, &b) < 0)
        return NULL;
    return self->p;
}

void buffer_drop_for_ever(void *p)
{
    table *t = buffer_blocks();
    char key[BLOCK_KEY];

    if (t == NULL)
        PyErr_Clear();
    else if (key_before(p, key))
        (void)block_drop(t, key, BLOCK_FOR_EVER, true, END_WAIT_MS);
}

/* --- segments: blocks with names --- */

static const char *const segment_root = "goalloc.python.names";
static table *names;
static uint64_t names_generation;

/* NULL with an exception; the table of blocks is there as well, then. */
static table *names_of_heap(table **ret_blocks)
{
    table *t = NULL;
    int r;

    *ret_blocks = buffer_blocks();
    if (*ret_blocks == NULL)
        return NULL;
    if (names != NULL && names_generation == heap_generation())
        return names;
    HEAP_BEGIN_CALL;
    r = table_open(segment_root, 0, &t);
    HEAP_END_CALL;
    if (r < 0) {
        (void)heap_error(r, "the table of names");
        return NULL;
    }
    names = t;
    names_generation = heap_generation();
    return names;
}

static PyObject *raise_file_error(PyObject *type, int error, const char *name)
{
    PyObject *args = Py_BuildValue("(iss)", error, strerror(error), name);

    if (args != NULL)
        PyErr_SetObject(type, args);
    Py_XDECREF(args);
    return NULL;
}

static PyObject *create_segment(const char *name, size_t name_len, Py_ssize_t size)
{
    block *b = buffer_new_block(size);
    PyObject *self;
    table *blocks;
    int r;

    if (b == NULL)
        return NULL;
    self = buffer_own(PRIVATE, b);
    if (self == NULL) {
        block_free_private(b);
        return NULL;
    }
    if (buffer_share((buffer *)self) < 0 || names_of_heap(&blocks) == NULL || buffer_check((buffer *)self) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    PATIENTLY_FREE(r, "create", segment_name(names, blocks, name, name_len, b, block_self(), wait_ms));
    if (r == 1)
        return self;
    Py_DECREF(self);
    return r == 0 ? raise_file_error(PyExc_FileExistsError, EEXIST, name) : NULL;
}

/* segment(name, create, size) */
PyObject *buffer_segment(PyObject *module, PyObject *args)
{
    Py_ssize_t name_len, size;
    const char *name;
    PyObject *self;
    int create, r;
    table *blocks;
    block *b;

    (void)module;
    if (!PyArg_ParseTuple(args, "s#pn:segment", &name, &name_len, &create, &size) || names_of_heap(&blocks) == NULL)
        return NULL;
    if (create)
        return create_segment(name, (size_t)name_len, size);
    PATIENTLY(r, "open", segment_find(names, blocks, name, (size_t)name_len, block_self(), wait_ms, &b));
    if (r < 0)
        return NULL;
    if (r == 0)
        return raise_file_error(PyExc_FileNotFoundError, ENOENT, name);
    self = buffer_own(SHARED, b);
    if (self == NULL)
        (void)block_drop(blocks, b->key, block_self(), true, END_WAIT_MS);
    return self;
}

PyObject *buffer_segment_unlink(PyObject *module, PyObject *args)
{
    Py_ssize_t name_len;
    const char *name;
    table *blocks;
    int r;

    (void)module;
    if (!PyArg_ParseTuple(args, "s#:segment_unlink", &name, &name_len) || names_of_heap(&blocks) == NULL)
        return NULL;
    PATIENTLY_FREE(r, "unlink", segment_unname(names, blocks, name, (size_t)name_len, wait_ms));
    if (r < 0)
        return NULL;
    if (r == 0)
        return raise_file_error(PyExc_FileNotFoundError, ENOENT, name);
    Py_RETURN_NONE;
}
