/*
 * shared_ptr and weak_ptr: objects in the heap that live as long as some process holds them.
 *
 * std::shared_ptr can't do that: its control block has virtual functions, which are at another address in each process.
 * Here the counts are two words before the object, and whose code destroys it is found by the object's type. An object
 * comes from make_shared() alone, and its pointer leads to its beginning (no aliasing, no conversion to a base class):
 * so a reference in the heap is one word, and a death finds it before or after a change.
 *
 * What a death does to the counts says references.hpp: what a dead process held in private memory comes back by
 * collect_references(); what lies in the heap stays there.
 *
 * Threads and processes: as std::shared_ptr. The counts are changed by atomic operations; one shared_ptr that several
 * use, as one in the heap, lies behind a lock. Cost: a copy into the heap an atomic operation; a private copy, and its
 * end, two and a private lock.
 */
#ifndef GOALLOC_SHARED_PTR_HPP
#define GOALLOC_SHARED_PTR_HPP

#include <goalloc/allocator.hpp>
#include <goalloc/references.hpp>
#include <goalloc/type.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

namespace goalloc {

template <class T> class weak_ptr;

namespace detail {

/* Where the object is, and how it is destroyed. */
template <class T> struct shared_object {
    static constexpr std::size_t offset = sizeof(control) > alignof(T) ? sizeof(control) : alignof(T);
    static constexpr std::size_t size = offset + sizeof(T);
    static constexpr std::size_t alignment = alignof(T) > alignof(control) ? alignof(T) : alignof(control);

    static T *in(control *c) noexcept
    {
        return c == nullptr ? nullptr : reinterpret_cast<T *>(reinterpret_cast<char *>(c) + offset);
    }
    static void destroy(control *c) noexcept
    {
        in(c)->~T();
    }
    static constexpr destroyer how = std::is_trivially_destructible_v<T> ? nullptr : &destroy;

    /* The tag of controls. Programs that come by here can collect objects of this type. */
    static std::uint64_t tag()
    {
        static const std::uint64_t tag = [] {
            std::uint64_t of_type = how == nullptr ? 0 : type_tag<T>();

            if (how != nullptr)
                destroyers::add(of_type, how);
            return of_type;
        }();
        return tag;
    }
    static inline const std::uint64_t known = tag(); /* before main() */
};

/*
 * A reference: to be counted as strong or weak. In the heap control_ is all of it; a private one has an entry.
 */
template <bool Weak> class reference {
public:
    control *get() const noexcept
    {
        return control_.load(std::memory_order_relaxed);
    }

protected:
    reference() noexcept = default;
    ~reference() = default;

    /* Name c, whose count take() raises; false: it has not, and this names nothing. */
    template <class Take> bool hold(control *c, Take &&take)
    {
        if (!goalloc_contains(this)) {
            std::tie(entry_, owner_) = take_entry();
            if (!take()) {
                give_entry(std::exchange(entry_, nullptr), owner_);
                return false;
            }
            entry_->store(value_of(c), std::memory_order_release);
        } else if (!take()) {
            return false;
        }
        control_.store(c, std::memory_order_release);
        return true;
    }

    /*
     * Name nothing any more. If there is a count of that, which is the caller's now, f(control) is called: at once, so
     * that a death in between is as unlikely as can be. f may destroy what this lies in.
     */
    template <class F> void let_go(F &&f)
    {
        control *c = get();

        if (c == nullptr)
            return;
        control_.store(nullptr, std::memory_order_release);
        if (entry_ == nullptr) {
            f(c);
            return;
        }
        entry *e = std::exchange(entry_, nullptr);
        std::uint64_t owner = owner_;
        if (is_own(owner) && clear_entry(e, value_of(c))) {
            f(c);
            give_entry(e, owner);
        }
    }

    /* Be what other was; this names nothing yet. */
    void take_over(reference &other)
    {
        control *c = other.get();

        if (c == nullptr)
            return;
        if (other.entry_ != nullptr && !goalloc_contains(this)) { /* from private memory to private memory */
            entry_ = std::exchange(other.entry_, nullptr);
            owner_ = other.owner_;
            other.control_.store(nullptr, std::memory_order_relaxed);
            control_.store(c, std::memory_order_relaxed);
            return;
        }
        other.must_be_own();
        if (goalloc_contains(this)) {
            other.let_go([this](control *of_other) { control_.store(of_other, std::memory_order_release); });
            return;
        }
        std::tie(entry_, owner_) = take_entry();
        other.let_go([this](control *of_other) { entry_->store(value_of(of_other), std::memory_order_release); });
        control_.store(c, std::memory_order_release);
    }

    /* Throws EPERM for one that was inherited by fork, or is of a heap that this process has left. */
    void must_be_own() const
    {
        if (entry_ != nullptr && !is_own(owner_))
            throw_error(EPERM, "goalloc::shared_ptr: a reference of another process, or of another heap");
    }

private:
    static std::uintptr_t value_of(control *c) noexcept
    {
        return reinterpret_cast<std::uintptr_t>(c) | (Weak ? weak_bit : 0);
    }

    std::atomic<control *> control_{ nullptr };
    entry *entry_ = nullptr;   /* nullptr: this lies in the heap, or names nothing */
    std::uint64_t owner_ = 0;  /* whose entry that is */
};

} // namespace detail

template <class T> class shared_ptr : private detail::reference<false> {
    using base = detail::reference<false>;
    using object = detail::shared_object<std::remove_const_t<T>>;
    template <class U> friend class shared_ptr;
    template <class U> friend class weak_ptr;
    template <class U, class... Args> friend shared_ptr<U> make_shared(Args &&...args);

public:
    using element_type = T;
    using weak_type = weak_ptr<T>;

    constexpr shared_ptr(std::nullptr_t = nullptr) noexcept
    {
    }
    shared_ptr(const shared_ptr &other)
    {
        copy(other);
    }
    /* Not noexcept: the new place may need an entry. */
    shared_ptr(shared_ptr &&other)
    {
        base::take_over(other);
    }
    /* To const. */
    template <class U, class = std::enable_if_t<std::is_same_v<const U, T> && !std::is_same_v<U, T>>>
    shared_ptr(const shared_ptr<U> &other)
    {
        copy(other);
    }
    ~shared_ptr()
    {
        reset();
    }
    shared_ptr &operator=(const shared_ptr &other)
    {
        if (this != &other)
            *this = shared_ptr(other);
        return *this;
    }
    /*
     * The object that this has held goes last: other may lie in it, and its destructor may come to this. If the
     * assignment throws, both are as they were.
     */
    shared_ptr &operator=(shared_ptr &&other)
    {
        if (this != &other) {
            shared_ptr old(std::move(*this));
            replace_by(other, old);
        }
        return *this;
    }
    shared_ptr &operator=(std::nullptr_t) noexcept
    {
        reset();
        return *this;
    }

    void reset() noexcept
    {
        static_cast<void>(object::known);
        base::let_go([](detail::control *c) { detail::drop_strong(c, object::how); });
    }
    /* If it throws, both are as they were. */
    void swap(shared_ptr &other)
    {
        shared_ptr kept(std::move(other));

        other.replace_by(*this, kept);
        try {
            base::take_over(kept);
        } catch (...) {
            base::take_over(other);
            other.take_over(kept);
            throw;
        }
    }
    T *get() const noexcept
    {
        return object::in(base::get());
    }
    T &operator*() const noexcept
    {
        return *get();
    }
    T *operator->() const noexcept
    {
        return get();
    }
    explicit operator bool() const noexcept
    {
        return base::get() != nullptr;
    }
    /* All processes' references, and those that dead ones have left. */
    std::uint32_t use_count() const noexcept
    {
        detail::control *c = base::get();
        return c == nullptr ? 0 : c->strong.load(std::memory_order_relaxed);
    }

private:
    detail::control *control_of() const noexcept
    {
        return base::get();
    }
    /* This named nothing but what old has: what comes back from there needs no new entry, so that it can't fail. */
    void replace_by(shared_ptr &other, shared_ptr &old)
    {
        try {
            base::take_over(other);
        } catch (...) {
            base::take_over(old);
            throw;
        }
    }
    template <class U> void copy(const shared_ptr<U> &other)
    {
        detail::control *c = other.control_of();

        other.must_be_own();
        if (c != nullptr)
            static_cast<void>(base::hold(c, [c] { return c->strong.fetch_add(1, std::memory_order_relaxed) != 0; }));
    }
};

template <class T> class weak_ptr : private detail::reference<true> {
    using base = detail::reference<true>;

public:
    using element_type = T;

    constexpr weak_ptr() noexcept
    {
    }
    weak_ptr(const weak_ptr &other)
    {
        copy(other.control_of(), other);
    }
    weak_ptr(weak_ptr &&other)
    {
        base::take_over(other);
    }
    weak_ptr(const shared_ptr<T> &other)
    {
        copy(other.control_of(), other);
    }
    ~weak_ptr()
    {
        reset();
    }
    weak_ptr &operator=(const weak_ptr &other)
    {
        if (this != &other) {
            reset();
            copy(other.control_of(), other);
        }
        return *this;
    }
    weak_ptr &operator=(weak_ptr &&other)
    {
        if (this != &other) {
            reset();
            base::take_over(other);
        }
        return *this;
    }

    void reset() noexcept
    {
        base::let_go([](detail::control *c) { detail::drop_weak(c); });
    }
    /* The object, or nullptr if it has been destroyed. */
    shared_ptr<T> lock() const
    {
        detail::control *c = base::get();
        shared_ptr<T> ret;

        base::must_be_own();
        if (c != nullptr)
            static_cast<void>(ret.hold(c, [c] { return detail::take_strong(c); }));
        return ret;
    }
    std::uint32_t use_count() const noexcept
    {
        detail::control *c = base::get();
        return c == nullptr ? 0 : c->strong.load(std::memory_order_relaxed);
    }
    bool expired() const noexcept
    {
        return use_count() == 0;
    }

private:
    detail::control *control_of() const noexcept
    {
        return base::get();
    }
    template <class Other> void copy(detail::control *c, const Other &other)
    {
        other.must_be_own();
        if (c != nullptr)
            static_cast<void>(base::hold(c, [c] { return c->weak.fetch_add(1, std::memory_order_relaxed) != 0; }));
    }
};

/*
 * Make a T in the heap, and the heap's: it outlives this session. (What its constructor allocates is this session's; in
 * one with RECLAIM, publish_graph(p.get()) before others see it.) A process that dies in here loses the object.
 */
template <class T, class... Args> shared_ptr<T> make_shared(Args &&...args)
{
    static_assert(is_shareable_v<T>, "goalloc: this type can't lie in a shared heap (goalloc::is_shareable)");
    static_assert(!std::is_array_v<T> && !std::is_const_v<T>, "goalloc: make_shared makes one object");
    using object = detail::shared_object<T>;
    void *p = detail::allocate<is_pointer_free_v<T>, object::alignment>(object::size);
    auto *c = ::new (p) detail::control{ { 1 }, { 1 }, object::tag() };
    shared_ptr<T> ret;

    try {
        ::new (static_cast<void *>(object::in(c))) T(std::forward<Args>(args)...);
    } catch (...) {
        goalloc_free(c);
        throw;
    }
    try {
        check(goalloc_publish(c), "goalloc::make_shared");
        static_cast<void>(ret.hold(c, [] { return true; }));
    } catch (...) {
        detail::drop_strong(c, object::how);
        throw;
    }
    return ret;
}

template <class T, class U> bool operator==(const shared_ptr<T> &a, const shared_ptr<U> &b) noexcept
{
    return a.get() == b.get();
}
template <class T, class U> bool operator!=(const shared_ptr<T> &a, const shared_ptr<U> &b) noexcept
{
    return a.get() != b.get();
}
template <class T> bool operator==(const shared_ptr<T> &a, std::nullptr_t) noexcept
{
    return !a;
}
template <class T> bool operator!=(const shared_ptr<T> &a, std::nullptr_t) noexcept
{
    return static_cast<bool>(a);
}
template <class T, class U> bool operator<(const shared_ptr<T> &a, const shared_ptr<U> &b) noexcept
{
    return std::less<const void *>()(a.get(), b.get());
}

} // namespace goalloc

#endif
