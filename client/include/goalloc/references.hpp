/*
 * References: who holds which shared object, so that what dead processes held can be given back. Used by shared_ptr.
 *
 * A shared object begins with a control: two counts. A count is changed by one atomic operation, so it is never torn;
 * the question is who takes a dead process's share off it. A reference that lies in the heap (in a container there) is
 * nobody's in particular: it stays when a process dies, as the container does. One that lies in private memory dies with
 * its process. So each process has a ledger in the heap with an entry for each of its private references:
 *
 *     ledger   chunks of 4 KiB, linked; the first one is the root goalloc.cxx/held/<its offset>, which the process
 *              has set. The daemon says for each root whether the session that has set it has ended.
 *     entry    the control's address, + 1 for a weak reference; 0: free. Written by its process, and when that is dead
 *              by who collects.
 *
 * The invariant: a count is at least the number of entries, and of references in the heap, that name the control. Each
 * step keeps it, so an object is never destroyed while somebody holds it:
 *
 *     take     1. count + 1   2. the entry (or the reference in the heap) names the control
 *     drop     1. the entry is 0   2. count - 1; the object is destroyed at 0
 *     move     1. the old place is 0   2. the new place names the control; the count stays
 *
 * A process that dies between two of these steps leaves a count that is too high by one: that object is never
 * destroyed. It is one object a thread that was killed just there, as elsewhere in this library. All other references
 * of the dead come back by collect_references(), which any process may call, at any time:
 *
 *     1. lock the collectors' mutex (or leave it to the one who has it)
 *     2. of each ledger whose session has ended: drop what its entries name. By compare-and-swap: each entry once.
 *     3. remove the root of a ledger that is empty, and free its chunks
 *
 * A collector that is killed leaves the rest to the next one, and loses one ledger's chunks at most (after 3 has removed
 * the root). Destroying an object takes its type's code: a collector drops what it has code for (types of which this
 * program has a shared_ptr), and leaves the rest, with the ledger, to programs that have it.
 *
 * A forked child has copies of its parent's private references and none of its entries: they are the parent's. In the
 * child they can be looked at as long as the parent holds them; dropping one does nothing, copying one throws EPERM.
 * Which references are a process's own says a number in a page that the kernel clears in each forked child.
 *
 * After a detach what a process held is collected as if it had died; its references that are left lead nowhere, and
 * dropping one does nothing. Detach by goalloc::session; goalloc_detach() does not tell this.
 */
#ifndef GOALLOC_REFERENCES_HPP
#define GOALLOC_REFERENCES_HPP

#include <goalloc/error.hpp>
#include <goalloc/mutex.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <pthread.h>
#include <string>
#include <sys/mman.h>
#include <utility>
#include <vector>

namespace goalloc {

/* What collect_references() has done. */
struct collected {
    std::size_t ledgers = 0;    /* of dead processes, that are gone now */
    std::size_t references = 0; /* that were dropped */
    std::size_t unknown = 0;    /* that were left: this program has no code for their types */
};

namespace detail {

/* What a shared object begins with. Nobody's in particular: all words are changed by atomic operations. */
struct control {
    std::atomic<std::uint32_t> strong; /* references; at 0 the object is destroyed */
    std::atomic<std::uint32_t> weak;   /* weak references, + 1 as long as strong is not 0; at 0 the memory is freed */
    std::uint64_t tag;                 /* of the object's type; 0: it has no destructor. Never changed */
};
static_assert(sizeof(control) == 16, "programs share it");

using destroyer = void (*)(control *) noexcept;
using entry = std::atomic<std::uintptr_t>;

inline constexpr std::uintptr_t weak_bit = 1;
inline constexpr std::size_t entries_per_chunk = 510;
inline constexpr const char *ledger_prefix = "goalloc.cxx/held/";

struct ledger_chunk {
    std::uint64_t magic; /* with the layout's version */
    void *next;          /* a later chunk; by goalloc_link(), by the process whose ledger it is */
    entry entries[entries_per_chunk];
};
static_assert(sizeof(ledger_chunk) == 4096 && entry::is_always_lock_free, "programs share it");
inline constexpr std::uint64_t ledger_magic = UINT64_C(0x676f616c43503031);

/* --- counts --- */

inline void drop_weak(control *c) noexcept
{
    if (c->weak.fetch_sub(1, std::memory_order_acq_rel) == 1)
        goalloc_free(c);
}

inline void drop_strong(control *c, destroyer destroy) noexcept
{
    if (c->strong.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        if (destroy != nullptr)
            destroy(c);
        drop_weak(c);
    }
}

/* False: the object is destroyed already. */
inline bool take_strong(control *c) noexcept
{
    std::uint32_t n = c->strong.load(std::memory_order_relaxed);

    while (n != 0 && !c->strong.compare_exchange_weak(n, n + 1, std::memory_order_acq_rel, std::memory_order_relaxed)) {
    }
    return n != 0;
}

/* --- types that this program has code for --- */

class destroyers {
public:
    static void add(std::uint64_t tag, destroyer d)
    {
        std::lock_guard<std::mutex> lock(all().mutex_);
        all().map_[tag] = d;
    }
    /* nullptr: there is none. */
    static destroyer find(std::uint64_t tag)
    {
        std::lock_guard<std::mutex> lock(all().mutex_);
        auto found = all().map_.find(tag);
        return found == all().map_.end() ? nullptr : found->second;
    }

private:
    static destroyers &all()
    {
        static auto *the_one = new destroyers; /* until the process ends: destructors of statics use it */
        return *the_one;
    }

    std::mutex mutex_;
    std::map<std::uint64_t, destroyer> map_;
};

/* --- this process's ledger --- */

/*
 * The free entries, in private memory. `entries` has room for all there are, so giving one back allocates nothing.
 */
struct ledger {
    ledger_chunk *first;
    ledger_chunk *last;
    std::string name;
    std::size_t total;
    std::vector<entry *> free;
};

/* Zeros at first, and in each forked child. */
struct own_state {
    pthread_mutex_t lock;                 /* guards the ledger; of zeros it is free */
    std::atomic<std::uint64_t> owner;     /* whose references are this process's; 0: it has none yet */
    std::atomic<std::uint64_t> heap_id;   /* of the ledger's heap */
    ledger *mine;
};

inline own_state *make_own_state() noexcept
{
    void *p = mmap(nullptr, sizeof(own_state), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        return nullptr;
    if (madvise(p, sizeof(own_state), MADV_WIPEONFORK) != 0) {
        munmap(p, sizeof(own_state));
        return nullptr;
    }
    return static_cast<own_state *>(p); /* all of it zeros, as they are to be */
}

inline own_state *own() noexcept
{
    static own_state *const the_one = make_own_state();
    return the_one;
}

/* Numbers are never used again: a child goes on where its parent was. */
inline std::uint64_t next_owner() noexcept
{
    static std::atomic<std::uint64_t> last{ 0 };
    return last.fetch_add(1, std::memory_order_relaxed) + 1;
}

class own_lock {
public:
    own_lock()
    {
        if (own() == nullptr)
            throw_error(ENOMEM, "goalloc::shared_ptr");
        pthread_mutex_lock(&own()->lock);
    }
    ~own_lock()
    {
        pthread_mutex_unlock(&own()->lock);
    }
    own_lock(const own_lock &) = delete;
    own_lock &operator=(const own_lock &) = delete;
};

inline ledger_chunk *make_chunk()
{
    auto *chunk = static_cast<ledger_chunk *>(goalloc_calloc(1, sizeof(ledger_chunk)));

    if (chunk == nullptr)
        throw bad_alloc(errno);
    chunk->magic = ledger_magic;
    return chunk;
}

inline void add_entries(ledger &l, ledger_chunk *chunk)
{
    for (std::size_t i = entries_per_chunk; i-- > 0;)
        l.free.push_back(&chunk->entries[i]);
    l.total += entries_per_chunk;
    l.last = chunk;
}

/* The lock is held. The root makes it findable; it is published before, since it outlives this session. */
inline ledger *make_ledger()
{
    auto l = std::make_unique<ledger>();
    char offset[24];
    int r;

    l->total = 0;
    l->free.reserve(entries_per_chunk);
    l->first = make_chunk();
    static_cast<void>(std::snprintf(offset, sizeof(offset), "%llx",
                                    static_cast<unsigned long long>(goalloc_offset(l->first))));
    try {
        l->name = std::string(ledger_prefix) + offset;
    } catch (...) {
        goalloc_free(l->first);
        throw;
    }
    r = goalloc_publish(l->first);
    if (r == 0)
        r = goalloc_root_set(l->name.c_str(), l->first);
    if (r < 0) {
        goalloc_free(l->first);
        throw_error(r, "goalloc::shared_ptr: the ledger of references");
    }
    add_entries(*l, l->first);
    return l.release();
}

/* The lock is held. */
inline void grow_ledger(ledger &l)
{
    l.free.reserve(l.total + entries_per_chunk);
    ledger_chunk *chunk = make_chunk();
    int r = goalloc_link(&l.last->next, chunk);

    if (r < 0) {
        goalloc_free(chunk);
        throw_error(r, "goalloc::shared_ptr: the ledger of references");
    }
    add_entries(l, chunk);
}

/* A free entry of this process, and whose it is. Throws bad_alloc, std::system_error. */
inline std::pair<entry *, std::uint64_t> take_entry()
{
    own_lock lock;
    own_state &o = *own();

    if (o.mine == nullptr || o.heap_id.load(std::memory_order_relaxed) != goalloc_heap_id()) {
        ledger *l = make_ledger();

        delete o.mine; /* of a heap that is gone */
        o.mine = l;
        o.heap_id.store(goalloc_heap_id(), std::memory_order_relaxed);
        o.owner.store(next_owner(), std::memory_order_release);
    }
    if (o.mine->free.empty())
        grow_ledger(*o.mine);
    entry *e = o.mine->free.back();
    o.mine->free.pop_back();
    return { e, o.owner.load(std::memory_order_relaxed) };
}

/* True if references of that owner are this process's, in the heap that it is attached to. */
inline bool is_own(std::uint64_t owner) noexcept
{
    return own() != nullptr && own()->owner.load(std::memory_order_acquire) == owner &&
           own()->heap_id.load(std::memory_order_relaxed) == goalloc_heap_id();
}

/* The entry is free again, if it still has that value: else somebody has collected it. Then false. */
inline bool clear_entry(entry *e, std::uintptr_t value) noexcept
{
    return e->compare_exchange_strong(value, 0, std::memory_order_acq_rel);
}

/* It was cleared. */
inline void give_entry(entry *e, std::uint64_t owner) noexcept
{
    own_lock lock;

    if (is_own(owner))
        own()->mine->free.push_back(e);
}

inline void free_chunks(ledger_chunk *chunk) noexcept
{
    while (chunk != nullptr) {
        auto *next = static_cast<ledger_chunk *>(chunk->next);

        goalloc_free(chunk);
        chunk = next;
    }
}

/* Before a detach. What is empty goes; what is not will be collected by others. */
inline void leave_references() noexcept
{
    if (own() == nullptr)
        return;
    own_lock lock;
    own_state &o = *own();

    if (o.mine != nullptr && is_own(o.owner) && o.mine->free.size() == o.mine->total &&
        goalloc_root_set(o.mine->name.c_str(), nullptr) == 0)
        free_chunks(o.mine->first);
    o.owner.store(0, std::memory_order_release);
    delete o.mine;
    o.mine = nullptr;
}

/* --- collecting --- */

/* Called by goalloc_root_get_or_create(): for the first time, or in a heap that was loaded from a file. */
inline int make_collectors(void *p, std::size_t, void *) noexcept
{
    try {
        ::new (p) mutex;
        return 0;
    } catch (const std::system_error &e) {
        return -e.code().value();
    }
}

/* Programs of all standard libraries share it, so it is no root<mutex>, which tells them apart. */
inline mutex &collectors()
{
    void *p = nullptr;

    check(goalloc_root_get_or_create("goalloc.cxx/collectors", sizeof(mutex), ledger_magic | GOALLOC_ROOT_REINIT,
                                     make_collectors, nullptr, &p, nullptr),
          "goalloc::collect_references");
    return *static_cast<mutex *>(p);
}

using ledgers = std::vector<std::pair<std::string, ledger_chunk *>>;

/* Called by goalloc_root_list(): those whose session has ended. */
inline int note_dead_ledger(const goalloc_root_info *info, void *arg) noexcept
{
    auto *chunk = static_cast<ledger_chunk *>(info->p);

    if (info->session != 0 || goalloc_usable_size(chunk) < sizeof(*chunk) || chunk->magic != ledger_magic)
        return 0;
    try {
        static_cast<ledgers *>(arg)->emplace_back(info->name, chunk);
    } catch (...) {
        return -ENOMEM;
    }
    return 0;
}

/* Drop what the entry names, if this program can. False: it cannot. */
inline bool collect_entry(entry &e, collected &ret)
{
    std::uintptr_t value = e.load(std::memory_order_acquire);
    auto *c = reinterpret_cast<control *>(value & ~weak_bit);
    destroyer destroy = nullptr;

    if (value == 0)
        return true;
    if (goalloc_usable_size(c) >= sizeof(*c)) {
        if ((value & weak_bit) == 0 && c->tag != 0 && (destroy = destroyers::find(c->tag)) == nullptr)
            return false;
        if (!clear_entry(&e, value))
            return true;
        if ((value & weak_bit) != 0)
            drop_weak(c);
        else
            drop_strong(c, destroy);
        ret.references++;
    } else {
        static_cast<void>(clear_entry(&e, value)); /* somebody has freed it by hand */
    }
    return true;
}

inline void collect_ledger(const std::string &name, ledger_chunk *first, collected &ret)
{
    std::size_t unknown = 0;

    for (auto *chunk = first; chunk != nullptr; chunk = static_cast<ledger_chunk *>(chunk->next)) {
        for (entry &e : chunk->entries)
            unknown += collect_entry(e, ret) ? 0 : 1;
    }
    ret.unknown += unknown;
    if (unknown == 0 && goalloc_root_compare_and_set(name.c_str(), first, nullptr) == 0) {
        free_chunks(first);
        ret.ledgers++;
    }
}

} // namespace detail

/*
 * Drop the references that processes held in private memory when they died or detached; objects of which these were the
 * last ones are destroyed, by this thread. To be called now and then, or after heap_event_kind::session_end. If another
 * process is at it, nothing happens. A request for each 16 ledgers, and two for each dead one. Throws std::system_error.
 */
inline collected collect_references()
{
    mutex &collectors = detail::collectors();
    detail::ledgers dead;
    collected ret;
    lock_state state = collectors.try_lock();

    if (state == lock_state::busy)
        return ret;
    if (state == lock_state::owner_died)
        collectors.recovered(); /* it guards nothing that can be torn */
    try {
        check(goalloc_root_list(detail::ledger_prefix, detail::note_dead_ledger, &dead), "goalloc::collect_references");
        for (const auto &[name, first] : dead)
            detail::collect_ledger(name, first, ret);
    } catch (...) {
        collectors.unlock();
        throw;
    }
    collectors.unlock();
    return ret;
}

} // namespace goalloc

#endif
