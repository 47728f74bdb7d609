/*
 * debug: malloc and free that find what a program does wrong with its objects. The debug variant of the library.
 *
 * Called by users: these are the public names; alloc.c, linking.c and graph.c have other ones in this variant
 * (plain.h). Calls these, and notes.c, shadow.c and stamp.h. The normal library has none of it, and not an instruction
 * for it: the variant is a library of its own, of the same sources and with the same name
 * (goalloc/debug/libgoalloc.so.1), which a program finds by LD_LIBRARY_PATH. GOALLOC_DEBUG=1 at the first call switches
 * the checks on there; without it all calls go through.
 *
 *   malloc   asks for 16 bytes more, so that a stamp (stamp.h) ends the place; what lies between the object and the
 *            stamp is filled with RED_BYTE. The note of the place (notes.h): stamped, so many bytes.
 *   free     looks whether red zone and stamp are whole; its note: filled; fills the place with FREED_BYTE; frees it.
 *   malloc   of a place that is noted as filled looks whether it still is: else somebody has written after the free.
 * Each failure is a line on stderr and abort(). Under AddressSanitizer or Valgrind the red zone and what is free are
 * forbidden besides (shadow.c), so that also reads are found, at once.
 *
 * Processes in debug mode and others share objects, so what is checked is what is known to be there:
 *   - The red zone of an object that this process has allocated, by its note, whoever resizes it: what was asked for is
 *     all that others use, since they read the stamp (resize.c). A damaged red zone differs from none by the note.
 *   - The red zone of another process's object only if its stamp is whole. An overflow that reaches the stamp makes the
 *     object look like one that never had any; the process that has allocated it would find it.
 *   - A filled place only by the process that has filled it, during the lease in which it did. What is freed remotely
 *     is filled as well (it is still the freeing thread's), and not looked at by whoever hands it out next.
 * An underflow is found as damage of the object that lies before, when that one is freed; objects begin where their
 * places begin, since others free them by that address.
 *
 * Notes: 1. malloc takes the place; 2. stamp; 3. note. Free: 1. note; 2. fill; 3. the free itself. Between them the
 * object is its caller's alone. If the process dies in between, an object lives whose content nobody asks for any more,
 * as after a store that was its last; in the heap's words nothing is different. A place that is not known to be zero is
 * zeroed by calloc here, whatever it was filled with; spans in which anything was handed out count as not zero for all.
 *
 * Blocks of tiny objects are not used: with 16 bytes more nothing is tiny. Fills have bounds, so that a large object
 * that was hardly touched does not get memory by its free.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/include/goalloc.h"
#include "client/lib/fault.h"
#include "client/lib/notes.h"
#include "client/lib/plain.h"
#include "client/lib/shadow.h"
#include "client/lib/stamp.h"
#include "shm/tiny.h"

#define RED_BYTE 0xfd
#define FREED_BYTE 0xdf
#define RED_BYTES_MAX 4096u        /* that are filled behind an object, before its stamp */
#define FREED_BYTES_MAX (64 * KIB) /* that are filled of an object */

static shm_u32 mode; /* 0: not decided; MODE_OFF, MODE_ON */

#define MODE_OFF 1u
#define MODE_ON 2u

/* By the environment at the first call, and for good: an object without a red zone is none of those that have one. */
static uint32_t mode_decide(void)
{
    const char *asked = getenv("GOALLOC_DEBUG");
    uint32_t decided = asked != NULL && strcmp(asked, "1") == 0 ? MODE_ON : MODE_OFF;
    uint32_t before = 0;

    return u32_exchange_if_acq_rel(&mode, &before, decided) ? decided : before;
}

static inline bool is_on(void)
{
    uint32_t now = u32_load_relaxed(&mode);

    return (now != 0 ? now : mode_decide()) == MODE_ON;
}

/* --- fills --- */

static unsigned char *bytes_of(const object_ref *object)
{
    return (unsigned char *)process.map.arena + object->offset;
}

/* Where the filled part of the red zone ends, which begins at byte asked. */
static uint64_t red_end(const object_ref *object, uint64_t asked)
{
    uint64_t end = object->bytes - sizeof(stamp);

    return end - asked < RED_BYTES_MAX ? end : asked + RED_BYTES_MAX;
}

static uint64_t filled_bytes(const object_ref *object)
{
    return object->bytes < FREED_BYTES_MAX ? object->bytes : FREED_BYTES_MAX;
}

/* The first byte from at up to end that is not value; end: all are. */
static uint64_t find_other(const object_ref *object, uint64_t at, uint64_t end, unsigned char value)
{
    const unsigned char *p = bytes_of(object);
    uint64_t word = value * UINT64_C(0x0101010101010101);

    while (at + sizeof(word) <= end && memcmp(p + at, &word, sizeof(word)) == 0)
        at += sizeof(word);
    while (at < end && p[at] == value)
        at++;
    return at;
}

/* --- what is found --- */

__attribute__((noreturn)) static void die_of_overflow(const char *function, const object_ref *object, uint64_t asked,
                                                      uint64_t at, unsigned char value)
{
    char what[200];

    (void)snprintf(what, sizeof(what),
                   "red zone overwritten: byte %ju behind the end of this object of %ju bytes "
                   "(size class %ju) is 0x%02x",
                   (uintmax_t)(at - asked), (uintmax_t)asked, (uintmax_t)object->bytes, value);
    fault_die(function, bytes_of(object), what);
}

__attribute__((noreturn)) static void die_of_late_write(const char *function, const object_ref *object, uint64_t at)
{
    const unsigned char *p = bytes_of(object);
    char what[200];

    (void)snprintf(what, sizeof(what),
                   "written after free: byte %ju of this place (size class %ju) is 0x%02x, and was "
                   "filled with 0x%02x",
                   (uintmax_t)at, (uintmax_t)object->bytes, p[at], FREED_BYTE);
    fault_die(function, p, what);
}

/* --- the red zone --- */

static void write_red_zone(const object_ref *object, uint64_t asked)
{
    memset(bytes_of(object) + asked, RED_BYTE, red_end(object, asked) - asked);
    u64_store_relaxed(&stamp_of(object)->asked, asked ^ STAMP_MASK);
    u64_store_relaxed(&stamp_of(object)->check, stamp_check(object, asked));
}

/* The first byte that is wrong in the red zone of an object that has one; the end of its place: none is. */
static uint64_t find_damage(const object_ref *object, uint64_t asked)
{
    uint64_t at = find_other(object, asked, red_end(object, asked), RED_BYTE);
    const uint64_t good[] = { asked ^ STAMP_MASK, stamp_check(object, asked) };

    if (at != red_end(object, asked))
        return at;
    for (at = 0; at < sizeof(good); at++) {
        if (((const unsigned char *)stamp_of(object))[at] != ((const unsigned char *)good)[at])
            break;
    }
    return object->bytes - sizeof(good) + at;
}

/* True if shadow.c may speak of the object's place: it is in a span of this process's that others can't end. */
static bool is_shadowed(const object_ref *object, const shm_u64 *note)
{
    const shm_span *span = shm_span_at(&process.map, object->first);

    return note != NULL && (span_class_size(span->spc).n != 0 || span->lessee_folds);
}

/* --- malloc --- */

/* What is asked for an object of size bytes. Of what no heap can have the caller is told by alloc.c. */
static size_t padded(size_t size)
{
    if (size > SIZE_MAX - sizeof(stamp))
        return size;
    return (size == 0 ? 1 : size) + sizeof(stamp);
}

/* What is in a place that malloc has found. */
enum content {
    CONTENT_LEFT,    /* what its last user has left: it may be looked at */
    CONTENT_TO_ZERO, /* the same, and it is to be zeroed then */
    CONTENT_ZEROED,
};

/* The place is this thread's: what it was before, by its note, is over. */
static void end_last_use(const char *function, const object_ref *object, uint64_t note, bool shadowed,
                         enum content content)
{
    if (shadowed && note_kind_of(note) == NOTE_STAMPED)
        shadow_freed(bytes_of(object)); /* by another process */
    if (shadowed)
        shadow_permit(bytes_of(object), object->bytes);
    if (note_kind_of(note) == NOTE_FILLED && content != CONTENT_ZEROED) {
        uint64_t at = find_other(object, 0, filled_bytes(object), FREED_BYTE);

        if (at != filled_bytes(object))
            die_of_late_write(function, object, at);
    }
}

/* An object of padded(size) bytes at p becomes one of size bytes with a red zone. NULL stays NULL. */
static void *take(const char *function, void *p, size_t size, enum content content)
{
    int saved_errno = errno;
    object_ref object;
    shm_u64 *note;
    bool shadowed;

    if (p == NULL || object_find(&process.map, (uintptr_t)p, &object) != OBJECT_LIVE)
        return p; /* or its bits were scribbled on */
    size = padded(size) - sizeof(stamp);
    note = notes_begin(&object);
    shadowed = is_shadowed(&object, note);
    end_last_use(function, &object, note == NULL ? 0 : u64_load_relaxed(note), shadowed, content);
    if (content == CONTENT_TO_ZERO)
        memset(p, 0, size);
    write_red_zone(&object, size);
    if (note != NULL)
        u64_store_relaxed(note, note_pack(NOTE_STAMPED, size));
    if (shadowed) {
        shadow_allocated(p, size);
        shadow_forbid_place(&object, size);
    }
    errno = saved_errno;
    return p;
}

void *goalloc_malloc(size_t size)
{
    return is_on() ? take("goalloc_malloc", plain_malloc(padded(size)), size, CONTENT_LEFT) : plain_malloc(size);
}

void *goalloc_malloc_noscan(size_t size)
{
    return is_on() ? take("goalloc_malloc", plain_malloc_noscan(padded(size)), size, CONTENT_LEFT)
                   : plain_malloc_noscan(size);
}

/* Of large objects alloc.c knows which are zero; with others it does not zero what is to be looked at first. */
static void *take_zeroed(size_t count, size_t size, bool noscan)
{
    const char *function = "goalloc_calloc";
    size_t bytes;

    if (__builtin_mul_overflow(count, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    if (padded(bytes) > SHM_RUN_BYTES_MAX)
        return take(function, noscan ? plain_calloc_noscan(1, padded(bytes)) : plain_calloc(1, padded(bytes)), bytes,
                    CONTENT_ZEROED);
    return take(function, noscan ? plain_malloc_noscan(padded(bytes)) : plain_malloc(padded(bytes)), bytes,
                CONTENT_TO_ZERO);
}

void *goalloc_calloc(size_t count, size_t size)
{
    return is_on() ? take_zeroed(count, size, false) : plain_calloc(count, size);
}

void *goalloc_calloc_noscan(size_t count, size_t size)
{
    return is_on() ? take_zeroed(count, size, true) : plain_calloc_noscan(count, size);
}

void *goalloc_aligned_alloc(size_t alignment, size_t size)
{
    return is_on() ? take("goalloc_aligned_alloc", plain_aligned_alloc(alignment, padded(size)), size, CONTENT_LEFT)
                   : plain_aligned_alloc(alignment, size);
}

/* --- free --- */

/*
 * Look at the red zone of a live object, if it is known to have one: by its note, which is this process's, or by a
 * stamp. Of another process the lease may end meanwhile, and the stamp with it; so the stamp itself is not looked at
 * again. Of this one it may, too (goallocctl disconnect): then its note is no note any more.
 */
static void check(const char *function, const object_ref *object, const shm_u64 *note)
{
    uint64_t noted = note == NULL ? NOTE_NONE : u64_load_relaxed(note);
    bool is_noted = note_kind_of(noted) == NOTE_STAMPED;
    uint64_t asked = is_noted ? note_asked(noted) : stamp_usable(object);
    uint64_t at;
    unsigned char value = 0;

    if (asked == object->bytes)
        return;
    shadow_quiet_begin();
    at = find_damage(object, asked);
    if (at != object->bytes)
        value = bytes_of(object)[at];
    shadow_quiet_end();
    if (at < red_end(object, asked) || (at != object->bytes && is_noted && notes_find(object) != NULL))
        die_of_overflow(function, object, asked, at, value);
}

/* Find the live object at p, and its note. False: there is none, or it can't be freed here: alloc.c says so. */
static bool find(const void *p, object_ref *ret, shm_u64 **ret_note)
{
    if (!is_on() || p == NULL || process_mapped_writable() < 0 ||
        object_find(&process.map, (uintptr_t)p, ret) != OBJECT_LIVE)
        return false;
    *ret_note = span_is_tiny(shm_span_at(&process.map, ret->first)) ? NULL : notes_find(ret);
    return true;
}

/* An object is about to be freed: it is checked, and filled. */
static void prepare_free(const char *function, void *p)
{
    object_ref object;
    uint64_t before = NOTE_NONE;
    shm_u64 *note;
    bool shadowed;

    if (!find(p, &object, &note))
        return;
    check(function, &object, note);
    shadowed = is_shadowed(&object, note);
    if (note != NULL)
        before = u64_exchange_acq_rel(note, note_pack(NOTE_FILLED, 0));
    if (shadowed && note_kind_of(before) == NOTE_STAMPED)
        shadow_freed(p);
    shadow_permit(p, filled_bytes(&object)); /* also without a note: its span may be just leaving */
    memset(p, FREED_BYTE, filled_bytes(&object));
    if (shadowed)
        shadow_forbid_place(&object, 0);
}

void goalloc_free(void *p)
{
    prepare_free("goalloc_free", p);
    plain_free(p);
}

int goalloc_free_checked(void *p)
{
    prepare_free("goalloc_free_checked", p);
    return plain_free_checked(p);
}

/* --- linking --- */

/* The object may live on: if the process dies before the slot is changed, nothing has happened. So it is not filled. */
int goalloc_unlink_free(void **slot, void *next)
{
    object_ref object;
    shm_u64 *note;

    if (goalloc_contains(slot) && (uintptr_t)slot % sizeof(*slot) == 0 && find(*slot, &object, &note))
        check("goalloc_unlink_free", &object, note);
    return plain_unlink_free(slot, next);
}

/* It reads whole places, with what is behind the objects. */
int goalloc_publish_graph(void *p, size_t *ret_n)
{
    int r;

    shadow_quiet_begin();
    r = plain_publish_graph(p, ret_n);
    shadow_quiet_end();
    return r;
}
