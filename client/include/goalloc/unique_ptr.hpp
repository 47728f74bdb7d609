/*
 * unique_ptr: std::unique_ptr for one object in the heap. It is one word, and may lie in the heap itself.
 */
#ifndef GOALLOC_UNIQUE_PTR_HPP
#define GOALLOC_UNIQUE_PTR_HPP

#include <goalloc/allocator.hpp>

#include <memory>
#include <utility>

namespace goalloc {

template <class T> struct deleter {
    constexpr deleter() noexcept = default;
    template <class U, class = std::enable_if_t<std::is_convertible_v<U *, T *>>>
    constexpr deleter(const deleter<U> &) noexcept
    {
        static_assert(sizeof(U) == sizeof(T), "goalloc: what is freed through a base class is its object's beginning");
    }
    void operator()(T *p) const noexcept
    {
        p->~T();
        goalloc_free(const_cast<std::remove_cv_t<T> *>(p));
    }
};

template <class T> using unique_ptr = std::unique_ptr<T, deleter<T>>;

/* Make a T in the heap. Throws goalloc::bad_alloc, and what T throws. */
template <class T, class... Args> unique_ptr<T> make_unique(Args &&...args)
{
    static_assert(!std::is_array_v<T>, "goalloc: an array is a goalloc::vector");
    allocator<T> memory;
    T *p = memory.allocate(1);

    try {
        return unique_ptr<T>(::new (static_cast<void *>(p)) T(std::forward<Args>(args)...));
    } catch (...) {
        memory.deallocate(p, 1);
        throw;
    }
}

} // namespace goalloc

#endif
