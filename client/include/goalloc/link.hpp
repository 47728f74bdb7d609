/*
 * link, unlink_free and the rest of what makes a structure survive deaths: goalloc_link() and its kin, with types.
 *
 * These are the ways to change a linked structure so that a process may be killed at any instruction: see goalloc.h,
 * and "Whose an object is" in the guide. The containers of the standard library don't use them. All throw
 * std::system_error with the errors of goalloc.h; the slot is as it was then.
 */
#ifndef GOALLOC_LINK_HPP
#define GOALLOC_LINK_HPP

#include <goalloc/error.hpp>
#include <goalloc/unique_ptr.hpp>

#include <cstddef>
#include <type_traits>

namespace goalloc {

namespace detail {

/* The slot as goalloc.h takes it. The library reads and writes it as one word. */
template <class T> void **slot_of(T *&slot) noexcept
{
    static_assert(!std::is_const_v<T>, "goalloc: an object that is linked or freed is not const");
    return reinterpret_cast<void **>(&slot);
}

} // namespace detail

/* Publish p and store it into a slot in the heap: both or neither, whenever this process dies. */
template <class T> void link(T *&slot, T *p)
{
    check(goalloc_link(detail::slot_of(slot), p), "goalloc::link");
}

/* The same; the slot has it afterwards. After an error p has it still. */
template <class T> void link(T *&slot, unique_ptr<T> &&p)
{
    link(slot, p.get());
    static_cast<void>(p.release());
}

/*
 * Take the object out of slot, store next there, and free the object: exactly once, whoever dies when. Its destructor
 * is not called, since nobody could say later whether it was: so it has none.
 */
template <class T> void unlink_free(T *&slot, T *next)
{
    static_assert(std::is_trivially_destructible_v<T>, "goalloc: unlink_free calls no destructor");
    check(goalloc_unlink_free(detail::slot_of(slot), next), "goalloc::unlink_free");
}

/* What dead processes had begun to link or unlink is finished when it returns. */
inline void settle()
{
    check(goalloc_settle(), "goalloc::settle");
}

/* Make the object the heap's: it stays when the session ends. */
template <class T> void publish(T *p)
{
    check(goalloc_publish(p), "goalloc::publish");
}

/* The same for p and all that it reaches; how many were published. */
template <class T> std::size_t publish_graph(T *p)
{
    std::size_t n = 0;

    check(goalloc_publish_graph(p, &n), "goalloc::publish_graph");
    return n;
}

/* Make the object this session's, or its group's. */
template <class T> void adopt(T *p)
{
    check(goalloc_adopt(p), "goalloc::adopt");
}

} // namespace goalloc

#endif
