/*
 * allocator<T>: the heap for the containers of the standard library, and the containers with it.
 *
 * It has no state: the heap is the process's, and every object is at the same address in every process. So a container
 * in the heap is one for all of them, and iterators, pointers and references into it are, too. It does no locking: a
 * container that several processes change lies behind a goalloc::mutex. Elements that hold no pointers get noscan
 * memory (is_pointer_free).
 *
 * A process that is killed while it changes a container leaves that as it was in the middle: who gets the mutex with
 * lock_state::owner_died has to throw it away, or to make it anew from something else (docs/CPP.md).
 */
#ifndef GOALLOC_ALLOCATOR_HPP
#define GOALLOC_ALLOCATOR_HPP

#include <goalloc.h>
#include <goalloc/error.hpp>
#include <goalloc/shareable.hpp>

#include <cstddef>
#include <limits>
#include <type_traits>

namespace goalloc {

namespace detail {

/* Memory for bytes that are a multiple of alignment. Throws bad_alloc. */
template <bool NoScan, std::size_t Alignment> void *allocate(std::size_t bytes)
{
    void *p;

    if constexpr (Alignment > 16)
        p = goalloc_aligned_alloc(Alignment, bytes);
    else if constexpr (NoScan)
        p = goalloc_malloc_noscan(bytes);
    else
        p = goalloc_malloc(bytes);
    if (p == nullptr)
        throw bad_alloc(errno);
    return p;
}

} // namespace detail

template <class T> class allocator {
public:
    using value_type = T;
    using is_always_equal = std::true_type;
    using propagate_on_container_move_assignment = std::true_type;

    constexpr allocator() noexcept = default;
    template <class U> constexpr allocator(const allocator<U> &) noexcept
    {
    }

    /* Room for n objects. Throws goalloc::bad_alloc; std::bad_array_new_length if no heap can have so many. */
    [[nodiscard]] T *allocate(std::size_t n)
    {
        static_assert(is_shareable_v<T>, "goalloc: this type can't lie in a shared heap (goalloc::is_shareable)");
        if (n > std::numeric_limits<std::size_t>::max() / sizeof(T))
            throw std::bad_array_new_length();
        return static_cast<T *>(detail::allocate<is_pointer_free_v<T>, alignof(T)>(n * sizeof(T)));
    }
    void deallocate(T *p, std::size_t) noexcept
    {
        goalloc_free(p);
    }
};

template <class T, class U> constexpr bool operator==(const allocator<T> &, const allocator<U> &) noexcept
{
    return true;
}
template <class T, class U> constexpr bool operator!=(const allocator<T> &, const allocator<U> &) noexcept
{
    return false;
}

} // namespace goalloc

#endif
