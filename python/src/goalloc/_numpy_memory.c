/*
 * Memory: NumPy's allocations in the shared heap (NEP 49).
 *
 * NumPy calls the four functions of `allocator` for the data of arrays that are made while this handler is set in the
 * context, and later, wherever it is, to free or resize just these: an array keeps its handler. Always with the GIL.
 *
 * Before the data lies a mark (maker, and how far the object's beginning is away): 16 bytes before what is small, 64
 * before what is aligned to 64, which is all from ALIGNED_FROM bytes on. Only the maker frees. A forked child has
 * copies of its parent's arrays, and when its collector drops them, the mark is another process's, and nothing happens:
 * the memory is the parent's, and stays for as long as the parent keeps the array. Resized in a child, such an array
 * moves to memory of the child's. The maker is told by its mark (process.c).
 *
 * Each object has a pin (goalloc_python.h), so the heap is not unmapped before the last array is gone; a child's copies
 * have their parent's pins, and count down as well.
 *
 * A process that dies leaves its arrays to goallocd: they are freed with the session or its group, if these reclaim.
 */
#include "_numpy_api.h"

#include <errno.h>
#include <string.h>

#include <goalloc.h>

#include "_numpy_memory.h"
#include "process.h"

#define ALIGNED_FROM 1024    /* bytes of data; below, the mark would be a large part */
#define SMALL_MAX 32768      /* of an object: above, goalloc gives whole pages, which are aligned anyway */
#define LEAST 32             /* of an object: from here on goalloc aligns to 16 */
#define WAIT_FROM (1U << 20) /* bytes: a thread that may ask the daemon for so much lets others run */

typedef struct memory_mark {
    uint64_t maker;
    uint32_t head; /* bytes from the object's beginning to the data */
    uint32_t check;
} memory_mark;

_Static_assert(sizeof(memory_mark) == 16, "data behind a mark is aligned to 16");

#define MARK_CHECK UINT32_C(0x6e756d70)

static const goalloc_python_api *core;
static PyObject *handler;

void *memory_block(size_t size, int is_zeroed)
{
    void *p;

    if (size == 0)
        size = 1;
    if (size <= SMALL_MAX) {
        p = goalloc_aligned_alloc(MEMORY_ALIGNMENT, size);
        if (p != NULL && is_zeroed)
            memset(p, 0, size);
        return p;
    }
    PyThreadState *thread = size >= WAIT_FROM ? PyEval_SaveThread() : NULL;
    p = is_zeroed ? goalloc_calloc_noscan(1, size) : goalloc_malloc_noscan(size);
    if (p != NULL && (uintptr_t)p % MEMORY_ALIGNMENT != 0) { /* a library in debug mode places objects otherwise */
        goalloc_free(p);
        p = goalloc_aligned_alloc(MEMORY_ALIGNMENT, size);
        if (p != NULL && is_zeroed)
            memset(p, 0, size);
    }
    if (thread != NULL) {
        const int e = errno;
        PyEval_RestoreThread(thread);
        errno = e;
    }
    return p;
}

static memory_mark *mark_of(void *data)
{
    return (memory_mark *)data - 1;
}

static int is_own(void *data)
{
    const memory_mark *mark = mark_of(data);

    return mark->maker == process_mark() && mark->check == MARK_CHECK;
}

static uint32_t head_of(size_t size)
{
    return size >= ALIGNED_FROM ? MEMORY_ALIGNMENT : (uint32_t)sizeof(memory_mark);
}

static void *marked(char *object, uint32_t head)
{
    *mark_of(object + head) = (memory_mark){ .maker = process_mark(), .head = head, .check = MARK_CHECK };
    return object + head;
}

static void *allocate(size_t size, int is_zeroed)
{
    const uint32_t head = head_of(size);
    size_t total;
    char *object;

    if (__builtin_add_overflow(size, head, &total))
        return NULL;
    if (core->is_readonly() || core->heap_pin() < 0) {
        PyErr_Clear(); /* NumPy raises MemoryError */
        return NULL;
    }
    total = total < LEAST ? LEAST : total;
    if (head == MEMORY_ALIGNMENT)
        object = memory_block(total, is_zeroed);
    else
        object = is_zeroed ? goalloc_calloc_noscan(1, total) : goalloc_malloc_noscan(total);
    if (object == NULL) {
        core->heap_unpin();
        return NULL;
    }
    return marked(object, head);
}

static void *on_malloc(void *context, size_t size)
{
    (void)context;
    return allocate(size, 0);
}

static void *on_calloc(void *context, size_t count, size_t size)
{
    size_t bytes;

    (void)context;
    return __builtin_mul_overflow(count, size, &bytes) ? NULL : allocate(bytes, 1);
}

static void on_free(void *context, void *data, size_t size)
{
    (void)context;
    (void)size;
    if (data == NULL)
        return;
    if (is_own(data)) {
        /* A mark that somebody has scribbled on leads to no object: it stays. */
        const int r = goalloc_free_checked((char *)data - mark_of(data)->head);
        (void)r;
    }
    core->heap_unpin();
}

/* How many bytes of data there are at least. */
static size_t room_of(void *data)
{
    const uint32_t head = mark_of(data)->head;
    const size_t usable = head <= MEMORY_ALIGNMENT ? goalloc_usable_size((char *)data - head) : 0;

    return usable > head ? usable - head : 0;
}

static void *on_realloc(void *context, void *data, size_t size)
{
    size_t total, room;
    void *moved;

    if (data == NULL)
        return on_malloc(context, size);
    const uint32_t head = mark_of(data)->head;
    if (__builtin_add_overflow(size, head, &total))
        return NULL;
    if (is_own(data) && head == head_of(size) && (head != MEMORY_ALIGNMENT || total > SMALL_MAX)) {
        char *object = goalloc_realloc((char *)data - head, total < LEAST ? LEAST : total);
        return object == NULL ? NULL : object + head; /* the mark has moved along */
    }
    moved = on_malloc(context, size);
    if (moved == NULL)
        return NULL;
    room = room_of(data);
    memcpy(moved, data, room < size ? room : size);
    on_free(context, data, 0);
    return moved;
}

static PyDataMem_Handler allocator = {
    .name = "goalloc",
    .version = 1,
    .allocator = { .ctx = NULL, .malloc = on_malloc, .calloc = on_calloc, .realloc = on_realloc, .free = on_free },
};

int memory_init(const goalloc_python_api *api)
{
    core = api;
    if (handler != NULL)
        return 0;
    handler = PyCapsule_New(&allocator, "mem_handler", NULL);
    return handler == NULL ? -1 : 0;
}

PyObject *memory_handler(void)
{
    return handler;
}

PyObject *memory_set_handler(PyObject *module, PyObject *to)
{
    (void)module;
    return PyDataMem_SetHandler(to == Py_None ? NULL : to);
}
