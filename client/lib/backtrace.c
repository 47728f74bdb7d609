/*
 * Backtrace: the stack that leads to an allocation, by frame pointers where these are right, else by tables.
 *
 * Called by recorder.c. Calls modules.c (what an address is), peek.c (reading), unwinder.c (tables). Data: what is
 * known of return addresses, private to the process, and also to its children.
 *
 * Frame pointers cost some nanoseconds a frame. But code that is compiled without them keeps anything in their
 * register; most often the chain breaks there, and sometimes it goes on with the frame of a caller's caller, and looks
 * whole with frames left out. So a chain is believed as far as its addresses are known:
 *
 *   GOOD  the function that this address returns to keeps a frame pointer: the chain's next address is its caller;
 *   END   what follows is only how the thread was started: the stack is cut here;
 *   BAD   the chain's next address is not the caller;
 *   CALL  nobody knows, but the address follows a call instruction.
 *
 * That is a property of the code at the address, and doesn't depend on who calls it. It is learned by a walk by tables,
 * whose addresses are compared with the chain's:
 *
 *   1. follow the frame pointers, without believing in what they point to (peek.c);
 *   2. if all addresses are GOOD up to an END, or up to as many as are wanted, that is the stack;
 *   3. else walk by tables, and take that stack; learn from the two;
 *   4. if there is no unwinder (yet), or it gives up in code that was compiled at run time: the chain, as far as its
 *      addresses lie in code, behind a call.
 *
 * The chain can't be endless: each frame lies above the one before. Stacks of threads, of signals, of coroutines are
 * all the same here: nobody asks whose stack it is.
 *
 * An address is known by its module and its place there, so if other code is loaded there it is another one. What is
 * known is one word each, written by plain atomic stores: what collides is forgotten and learned again.
 */
#include "client/lib/backtrace.h"

#include <string.h>
#include <sys/auxv.h>

#include "client/lib/peek.h"
#include "client/lib/unwinder.h"

#define LEADING 14u /* frames of this library, at most, that come before the program's */
#define DEEP (PROFILE_FRAMES_MAX + LEADING)
#define RECENT 4u
#define STEP_MAX (UINT64_C(8) << 20) /* bytes of a frame */
#define NVERDICTS 8192u
#define START_MAX 2u /* functions of libc by which a thread is started */
#define ENTRY_BYTES 128u
#define CALL_BYTES 8u

enum verdict {
    VERDICT_UNKNOWN = 0,
    VERDICT_CALL,
    VERDICT_GOOD,
    VERDICT_END,
    VERDICT_BAD,
};

#define VERDICT_SHIFT 60
#define KEY_MASK ((UINT64_C(1) << VERDICT_SHIFT) - 1)

typedef struct chain {
    uint32_t n;
    uintptr_t addresses[DEEP];
} chain;

/* Modules that this walk has met. */
typedef struct memo {
    const module *recent[RECENT];
    uint32_t n;
} memo;

static shm_u64 verdicts[NVERDICTS]; /* verdict | key */
static shm_u64 npointers;
static shm_u64 nunwound;
static shm_u64 ncut;

/* --- frame pointers --- */

static uintptr_t without_signature(uintptr_t address)
{
#ifdef __aarch64__
    register uintptr_t x30 __asm__("x30") = address;

    __asm__("hint #7" : "+r"(x30)); /* xpaclri: nothing where pointers aren't signed */
    return x30;
#else
    return address;
#endif
}

static void follow_pointers(const void *frame_pointer, chain *ret)
{
    uintptr_t at = (uintptr_t)frame_pointer;
    peek_room room = peek_room_of(frame_pointer);
    uintptr_t pair[2]; /* the caller's frame pointer, the return address */

    ret->n = 0;
    while (ret->n < DEEP && at % sizeof(uintptr_t) == 0 && peek_pair(&room, at, pair)) {
        if (pair[1] == 0)
            break;
        ret->addresses[ret->n++] = without_signature(pair[1]);
        if (pair[0] <= at || pair[0] - at > STEP_MAX)
            break;
        at = pair[0];
    }
}

/* --- addresses --- */

static const module *find_module(memo *m, uintptr_t address)
{
    for (uint32_t i = 0; i < RECENT && i < m->n; i++)
        if (module_has(m->recent[i], address))
            return m->recent[i];

    const module *found = modules_find(address);

    if (found != NULL)
        m->recent[m->n++ % RECENT] = found;
    return found;
}

static backtrace_frame resolve(memo *m, uintptr_t address)
{
    const module *in = find_module(m, address);

    return (backtrace_frame){ in, in == NULL ? address : address - in->base };
}

static bool is_libc(memo *m, uintptr_t address)
{
    const module *in = find_module(m, address);

    return in != NULL && in->is_libc;
}

/* True for a frame of this library, if it is shared: then nothing of the program is in its module. */
static bool is_own(const backtrace_frame *frame)
{
#ifdef GOALLOC_SHARED
    return frame->module != NULL && module_has(frame->module, (uintptr_t)backtrace_take);
#else
    (void)frame;
    return false;
#endif
}

static uint64_t key_of(const backtrace_frame *frame)
{
    uint64_t module_no = frame->module == NULL ? 0 : frame->module->index + 1;

    return module_no << 48 | (frame->address & ((UINT64_C(1) << 48) - 1));
}

static shm_u64 *verdict_word(uint64_t key)
{
    return &verdicts[(key * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - __builtin_ctz(NVERDICTS))];
}

static enum verdict verdict_of(const backtrace_frame *frame)
{
    uint64_t key = key_of(frame);
    uint64_t word = u64_load_relaxed(verdict_word(key));

    return (word & KEY_MASK) == key ? (enum verdict)(word >> VERDICT_SHIFT) : VERDICT_UNKNOWN;
}

static void set_verdict(const backtrace_frame *frame, enum verdict verdict)
{
    uint64_t key = key_of(frame);

    u64_store_relaxed(verdict_word(key), key | (uint64_t)verdict << VERDICT_SHIFT);
}

/* True if the instruction before the address may be a call. */
static bool follows_call(uintptr_t address)
{
    unsigned char before[CALL_BYTES];

    if (address < CALL_BYTES || !peek((const void *)(address - CALL_BYTES), before, sizeof(before)))
        return false;
#if defined(__x86_64__)
    if (before[CALL_BYTES - 5] == 0xe8)
        return true;
    for (uint32_t n = 2; n <= 7; n++) /* by a register or memory: ff /2, of so many bytes */
        if (before[CALL_BYTES - n] == 0xff && (before[CALL_BYTES - n + 1] & 0x38) == 0x10)
            return true;
    return false;
#elif defined(__aarch64__)
    uint32_t code;

    memcpy(&code, before + CALL_BYTES - sizeof(code), sizeof(code));
    return (code & 0xfc000000) == 0x94000000 || (code & 0xfffffc1f) == 0xd63f0000 || (code & 0xfefff800) == 0xd63f0800;
#else
    return true;
#endif
}

/* True if the address may be that of a frame, as far as can be seen. */
static bool is_plausible(const backtrace_frame *frame, uintptr_t address)
{
    if (verdict_of(frame) != VERDICT_UNKNOWN)
        return true;
    if (frame->module != NULL && (address < frame->module->code_begin || address >= frame->module->code_end))
        return false;
    if (!follows_call(address))
        return false;
    set_verdict(frame, VERDICT_CALL);
    return true;
}

/* --- what is taken --- */

/*
 * Frames of the chain, but for this library's own leading ones, up to an END. Stops behind the first frame that is not
 * GOOD. True: this is the stack.
 */
static bool take_good(const chain *c, memo *m, backtrace_frame *ret, uint32_t *ret_n)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < c->n && n < PROFILE_FRAMES_MAX; i++) {
        enum verdict verdict;

        ret[n] = resolve(m, c->addresses[i]);
        verdict = verdict_of(&ret[n]);
        n += n > 0 || !is_own(&ret[n]);
        *ret_n = n;
        if (verdict != VERDICT_GOOD)
            return verdict == VERDICT_END;
    }
    return n == PROFILE_FRAMES_MAX;
}

/* Without knowing better. */
static uint32_t take_plausible(const chain *c, memo *m, backtrace_frame *ret)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < c->n && n < PROFILE_FRAMES_MAX; i++) {
        enum verdict verdict;

        ret[n] = resolve(m, c->addresses[i]);
        if (!is_plausible(&ret[n], c->addresses[i]))
            break;
        verdict = verdict_of(&ret[n]);
        n += n > 0 || !is_own(&ret[n]);
        if (verdict == VERDICT_END || verdict == VERDICT_BAD)
            break;
    }
    return n;
}

static uint32_t take_unwound(const uintptr_t *addresses, uint32_t naddresses, memo *m, backtrace_frame *ret)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < naddresses && n < PROFILE_FRAMES_MAX; i++) {
        ret[n] = resolve(m, addresses[i]);
        n += n > 0 || !is_own(&ret[n]);
        if (n > 0 && verdict_of(&ret[n - 1]) == VERDICT_END)
            break;
    }
    return n;
}

/* --- what is learned --- */

/*
 * How many are left of a whole stack's addresses without how its thread was started: of libc's functions there the one
 * that has called main() or the thread's function stays, and the program's entry goes. 0: it does not end there; then
 * the unwinder may have given up.
 */
static uint32_t without_start(const uintptr_t *unw, uint32_t nunw, memo *m)
{
    uint32_t n = nunw;
    uint32_t nlibc = 0;

    if (n > 1 && unw[n - 1] - getauxval(AT_ENTRY) < ENTRY_BYTES)
        n--;
    while (nlibc < START_MAX && nlibc < n && is_libc(m, unw[n - 1 - nlibc]))
        nlibc++;
    return nlibc == 0 ? 0 : n - nlibc + 1;
}

/* nunw addresses were found by tables; ends: the last one is the stack's END. */
static void learn(const chain *c, const uintptr_t *unw, uint32_t nunw, bool ends, memo *m)
{
    uint32_t same = 0;
    backtrace_frame last;

    while (same < c->n && same < nunw && c->addresses[same] == unw[same])
        same++;
    for (uint32_t i = 0; i + 1 < same; i++) {
        backtrace_frame frame = resolve(m, unw[i]);

        set_verdict(&frame, VERDICT_GOOD);
    }
    if (same == 0 || same == DEEP)
        return;
    last = resolve(m, unw[same - 1]);
    if (same < nunw)
        set_verdict(&last, VERDICT_BAD);
    else if (ends)
        set_verdict(&last, VERDICT_END);
}

/* By tables; 0: that did not help. */
static uint32_t take_by_tables(const chain *c, memo *m, backtrace_frame *ret)
{
    uintptr_t unw[DEEP];
    uint32_t nunw = unwinder_walk(unw, DEEP);
    bool whole = nunw < DEEP;
    uint32_t first = 0;
    uint32_t nwanted;
    uint32_t n;

    while (first < nunw && first < LEADING && unw[first] != c->addresses[0])
        first++;
    if (first == nunw || unw[first] != c->addresses[0])
        return 0;
    nunw -= first;
    nwanted = whole ? without_start(unw + first, nunw, m) : 0;
    learn(c, unw + first, nwanted > 0 ? nwanted : nunw, nwanted > 0, m);
    n = take_unwound(unw + first, nwanted > 0 ? nwanted : nunw, m, ret);
    if (whole && n > 0 && ret[n - 1].module == NULL && c->n > nunw)
        return 0; /* it knows nothing of what was compiled at run time */
    return n;
}

uint32_t backtrace_take(const void *frame_pointer, backtrace_frame ret[PROFILE_FRAMES_MAX])
{
    memo m = { .n = 0 };
    chain c;
    uint32_t n = 0;

    follow_pointers(frame_pointer, &c);
    if (c.n == 0)
        return 0;
    if (take_good(&c, &m, ret, &n)) {
        u64_add_relaxed(&npointers, 1);
        return n;
    }
    n = unwinder_is_ready() ? take_by_tables(&c, &m, ret) : 0;
    u64_add_relaxed(n > 0 ? &nunwound : &ncut, 1);
    return n > 0 ? n : take_plausible(&c, &m, ret);
}

backtrace_counts backtrace_count(void)
{
    return (backtrace_counts){
        .npointers = u64_load_relaxed(&npointers),
        .nunwound = u64_load_relaxed(&nunwound),
        .ncut = u64_load_relaxed(&ncut),
    };
}
