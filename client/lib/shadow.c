/*
 * Shadow: AddressSanitizer's and Valgrind's view of the heap in this process.
 *
 * Called by debug.c (places that are taken and freed), stamp.h (what the library reads itself), offer.h, idle.c,
 * marked.c, attach.c and comeback.c (spans that leave). Calls notes.c. Data: the tools' shadow memory, private to the
 * process.
 *
 * Both tools know of every byte whether it may be touched, each process for itself. What one process has forbidden,
 * another may allocate; if it then gives the object back to the first, a forbidden byte there would be a false report.
 * Hence one rule: **a process forbids bytes only in spans that it leases, where nobody else allocates, and permits the
 * whole span before others can.** In such a span these are forbidden:
 *   - the red zones of objects that it has allocated: whoever frees the object, the place comes back to this process
 *   - the places of objects that it has freed, until it hands them out again
 * The places that others had in a span when the lease began are left alone.
 *
 * How a span leaves, and who permits it:
 *   offered to the daemon   offer_announce(), before the word: from then on the daemon may take it without asking
 *   given back              idle.c and marked.c, before the structure goes
 *   detach                  shadow_heap_goes(): all of the heap
 *   fork                    shadow_child_begins(): the parent's spans are another process's. A child that came about
 *                           without fork's handlers does it when it first calls the library
 *   session lost            shadow_session_lost(), when the daemon says so (comeback.c): for good, even if a later
 *                           daemon has the session still
 * A span that was offered and taken back is permitted still, but for what is taken and freed afterwards.
 *
 * Large objects are left alone: others free them, and the daemon ends the lease then, which this process is not told.
 *
 * A free forbids the place before it frees: afterwards another thread may have it already. So an offered span, which
 * has no objects, has nobody who forbids there. A span that goes back may have some: goalloc_trim() gives all of a
 * thread's spans back, while others free there. Hence
 *   who forbids     1. forbid  2. fence  3. the note: is it there still? Else permit the place
 *   who gives back  1. end the notes of the span  2. fence  3. permit the span
 * If 3 of the one finds the note, 2 of it came before 2 of the other, and what was forbidden is permitted. To permit
 * the place is never wrong: its object lives, and is in hand of who forbids.
 *
 * Valgrind's blocks (for the stacks in its reports) follow the notes: a place with the note "stamped" is a block. What
 * other processes have freed ceases to be one when the place is taken again or the span leaves. Whether bytes were
 * initialised is not looked at: what other processes have written, this one's Valgrind has not seen.
 *
 * If the process dies, nothing of this was ever in the heap.
 */
#include "client/lib/shadow.h"

#include "client/lib/notes.h"

#if defined(__has_include)
#if __has_include(<valgrind/memcheck.h>)
#include <valgrind/memcheck.h>
#define HAVE_VALGRIND
#endif
#endif

#ifndef HAVE_VALGRIND /* its requests are then nothing, as on a machine without it */
#define RUNNING_ON_VALGRIND 0
#define VALGRIND_MAKE_MEM_NOACCESS(p, n) ((void)(p), (void)(n))
#define VALGRIND_MAKE_MEM_DEFINED(p, n) ((void)(p), (void)(n))
#define VALGRIND_MALLOCLIKE_BLOCK(p, n, red, zeros) ((void)(p), (void)(n))
#define VALGRIND_FREELIKE_BLOCK(p, red) ((void)(p))
#define VALGRIND_DISABLE_ERROR_REPORTING ((void)0)
#define VALGRIND_ENABLE_ERROR_REPORTING ((void)0)
#endif

/* Of the sanitizer's runtime, if the program has one: the library itself is not compiled with it. */
void asan_poison(const volatile void *p, size_t bytes) __asm__("__asan_poison_memory_region")
    __attribute__((weak, visibility("default")));
void asan_unpoison(const volatile void *p, size_t bytes) __asm__("__asan_unpoison_memory_region")
    __attribute__((weak, visibility("default")));

static bool has_asan(void)
{
    return asan_poison != NULL && asan_unpoison != NULL;
}

bool shadow_is_watched(void)
{
    return has_asan() || RUNNING_ON_VALGRIND != 0;
}

void shadow_forbid(const void *p, size_t bytes)
{
    if (has_asan())
        asan_poison(p, bytes);
    (void)VALGRIND_MAKE_MEM_NOACCESS(p, bytes);
}

void shadow_forbid_place(const object_ref *object, uint64_t from)
{
    const char *p = process.map.arena + object->offset;

    shadow_forbid(p + from, object->bytes - from);
    fence_seq_cst(); /* pairs with that of notes_end() */
    if (notes_find(object) == NULL)
        shadow_permit(p, object->bytes);
}

void shadow_permit(const void *p, size_t bytes)
{
    if (has_asan())
        asan_unpoison(p, bytes);
    (void)VALGRIND_MAKE_MEM_DEFINED(p, bytes);
}

void shadow_allocated(const void *p, size_t bytes)
{
    VALGRIND_MALLOCLIKE_BLOCK(p, bytes, 0, 1); /* no red zone: it would have one before the place, too */
}

void shadow_freed(const void *p)
{
    VALGRIND_FREELIKE_BLOCK(p, 0);
}

void shadow_quiet_begin(void)
{
    VALGRIND_DISABLE_ERROR_REPORTING;
}

void shadow_quiet_end(void)
{
    VALGRIND_ENABLE_ERROR_REPORTING;
}

/*
 * Blocks of a span that other processes have freed, and, if it goes back, of objects that live on. Others may free one
 * meanwhile: who changes its note says so.
 */
static void end_blocks(page_no first, const shm_span *span)
{
    for (uint32_t i = 0; i < span->nelems && i < SPAN_NELEMS_MAX; i++) {
        object_ref object = { .first = first, .offset = page_offset(first) + i * span->elem_bytes };
        shm_u64 *note = notes_find(&object);

        uint64_t before = note == NULL ? NOTE_NONE : u64_load_relaxed(note);

        if (note_kind_of(before) == NOTE_STAMPED && u64_exchange_if_acq_rel(note, &before, NOTE_NONE))
            shadow_freed(process.map.arena + object.offset);
    }
}

static void leave(page_no first, bool ends)
{
    const shm_span *span = shm_span_at(&process.map, first);

    if (span_class_size(span->spc).n == 0 && !span->lessee_folds)
        return;
    if (shadow_is_watched())
        end_blocks(first, span);
    if (ends)
        notes_end(first);
    if (shadow_is_watched())
        shadow_permit(process.map.arena + page_offset(first), span->npages * PAGE_BYTES);
}

void shadow_span_leaves(page_no first)
{
    leave(first, true);
}

void shadow_span_rests(page_no first)
{
    leave(first, false);
}

static void permit_piece(uint64_t offset, uint64_t bytes)
{
    uint64_t left = process.map.arena_bytes - offset;

    shadow_permit(process.map.arena + offset, bytes < left ? bytes : left);
}

static void permit_all(void)
{
    if (shadow_is_watched())
        notes_each_piece(permit_piece);
}

void shadow_session_lost(void)
{
    notes_end_all();
    permit_all();
}

void shadow_child_begins(void)
{
    permit_all();
    notes_resume();
}

void shadow_heap_goes(void)
{
    permit_all();
    notes_forget();
    notes_resume();
}
