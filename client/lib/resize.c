/*
 * resize: realloc, and how much of an object may be used.
 *
 * Called by users. Calls alloc.c by its public names, so that in the debug variant an object that moves is checked and
 * guarded like any other (debug.c), large.c (in place) and owner.c. Data: none of its own.
 *
 * An object with a stamp (stamp.h) was allocated by a process in debug mode. It is as long as was asked for, and does
 * not become longer where it is: what is behind it is its red zone. Every library honours that, whatever its variant.
 */
#include <errno.h>
#include <string.h>

#include "client/include/goalloc.h"
#include "client/lib/fault.h"
#include "client/lib/large.h"
#include "client/lib/owner.h"
#include "client/lib/stamp.h"

/* True if the object, of which `usable` bytes may be used, can become size bytes long where it is; then it is. */
static bool resize_in_place(const object_ref *object, size_t usable, size_t size)
{
    if (usable == object->bytes && usable > SMALL_BYTES_MAX && size > SMALL_BYTES_MAX &&
        !shm_span_at(&process.map, object->first)->lessee_folds)
        return large_resize(object, size);
    /* It stays while it fits and uses at least half of its place. */
    return size <= usable && (size > usable / 2 || usable <= 16);
}

/*
 * A new place for an object. If it was the heap's, published or never a session's, it stays that: it is published
 * before the old place is freed, so who dies in between leaves two of them, and none to be freed that others use.
 */
static void *move_object(const object_ref *object, size_t usable, const void *p, size_t size)
{
    bool noscan = span_class_noscan(shm_span_at(&process.map, object->first)->spc);
    size_t want = size > usable ? large_grown_bytes(size) : size;
    void *moved = noscan ? goalloc_malloc_noscan(want) : goalloc_malloc(want);
    int r;

    if (moved == NULL && want > size)
        moved = noscan ? goalloc_malloc_noscan(size) : goalloc_malloc(size);
    if (moved == NULL)
        return NULL;
    memcpy(moved, p, size < usable ? size : usable);
    if (process.reclaim && owner_is_heap(object) && (r = goalloc_publish(moved)) < 0) {
        goalloc_free(moved);
        errno = -r;
        return NULL;
    }
    return moved;
}

void *goalloc_realloc(void *p, size_t size)
{
    object_ref object;
    enum object_verdict verdict;
    size_t usable;
    void *moved;

    if (p == NULL)
        return goalloc_malloc(size);
    if (!process_is_mapped())
        fault_die_of("goalloc_realloc", p, OBJECT_FOREIGN);
    if (process.readonly) {
        errno = EROFS;
        return NULL;
    }
    verdict = object_find(&process.map, (uintptr_t)p, &object);
    if (verdict != OBJECT_LIVE)
        fault_die_of("goalloc_realloc", p, verdict);
    usable = stamp_usable(&object);
    if (resize_in_place(&object, usable, size))
        return p;
    moved = move_object(&object, usable, p, size);
    if (moved == NULL)
        return size <= usable ? p : NULL;
    goalloc_free(p);
    return moved;
}

size_t goalloc_usable_size(const void *p)
{
    object_ref object;

    if (p == NULL || !process_is_mapped() || object_find(&process.map, (uintptr_t)p, &object) != OBJECT_LIVE)
        return 0;
    return stamp_usable(&object);
}
