/*
 * What may lie in a shared heap, and what of it holds no pointers: two traits, for the compiler to refuse what it can
 * see, and for the allocator to choose noscan memory.
 *
 * An object in the heap is used by processes that have other code at other addresses. So nothing in it may lead to
 * code or to a process's private memory: no table of virtual functions, no pointer to a function, no std::allocator, no
 * lock that is made for one process. is_shareable sees that of types, through pairs, tuples, arrays and the arguments of
 * templates. It does not see into a class of yours: say what that is made of, and the same is looked at there.
 *
 *     template <> struct goalloc::is_shareable<account> : goalloc::all_shareable<goalloc::string, ledger> {};
 *     template <> struct goalloc::is_pointer_free<point> : std::true_type {};
 *
 * A pointer or reference to an object is taken for one into the heap.
 */
#ifndef GOALLOC_SHAREABLE_HPP
#define GOALLOC_SHAREABLE_HPP

#include <any>
#include <array>
#include <atomic>
#include <complex>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <filesystem>
#include <functional>
#include <locale>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <system_error>
#include <thread>
#include <tuple>
#include <type_traits>
#include <typeindex>
#include <utility>

#if __has_include(<memory_resource>)
#include <memory_resource>
#endif

/* Iterators of these containers enter their addresses, which are a process's private ones, into the container. */
#if (defined(_GLIBCXX_DEBUG) || (defined(_LIBCPP_DEBUG) && _LIBCPP_DEBUG > 0)) && !defined(GOALLOC_ONE_PROCESS)
#error "goalloc: containers of the library's debug mode can't be shared; _GLIBCXX_ASSERTIONS can (docs/CPP.md)"
#endif

/* The reference counted std::string of the old ABI has its empty string in the program, at another address in each. */
#if defined(_GLIBCXX_USE_CXX11_ABI) && !_GLIBCXX_USE_CXX11_ABI
#error "goalloc: strings of libstdc++'s old ABI (_GLIBCXX_USE_CXX11_ABI=0) can't be shared"
#endif

namespace goalloc {

template <class T> class allocator;

namespace detail {

template <class T> struct is_private_class : std::false_type {};
#define GOALLOC_IS_PRIVATE(...) \
    template <> struct is_private_class<__VA_ARGS__> : std::true_type {}
GOALLOC_IS_PRIVATE(std::any);
GOALLOC_IS_PRIVATE(std::mutex);
GOALLOC_IS_PRIVATE(std::timed_mutex);
GOALLOC_IS_PRIVATE(std::recursive_mutex);
GOALLOC_IS_PRIVATE(std::recursive_timed_mutex);
GOALLOC_IS_PRIVATE(std::shared_mutex);
GOALLOC_IS_PRIVATE(std::shared_timed_mutex);
GOALLOC_IS_PRIVATE(std::condition_variable);
GOALLOC_IS_PRIVATE(std::condition_variable_any);
GOALLOC_IS_PRIVATE(std::once_flag);
GOALLOC_IS_PRIVATE(std::thread);
GOALLOC_IS_PRIVATE(std::thread::id);
GOALLOC_IS_PRIVATE(std::exception_ptr);
GOALLOC_IS_PRIVATE(std::error_code);
GOALLOC_IS_PRIVATE(std::error_condition);
GOALLOC_IS_PRIVATE(std::filesystem::path);
GOALLOC_IS_PRIVATE(std::locale);
GOALLOC_IS_PRIVATE(std::type_index);
#undef GOALLOC_IS_PRIVATE

} // namespace detail

/* True if a T may lie in the heap, as far as a trait can see. To be specialised for classes of yours. */
template <class T>
struct is_shareable
    : std::bool_constant<!std::is_reference_v<T> && !std::is_function_v<T> && !std::is_member_function_pointer_v<T> &&
                         !std::is_polymorphic_v<T> && !detail::is_private_class<T>::value> {};

template <class T> inline constexpr bool is_shareable_v = is_shareable<T>::value;

/* For specialisations: true if all of these are. */
template <class... T> struct all_shareable : std::bool_constant<(is_shareable_v<T> && ...)> {};

template <class T> struct is_shareable<const T> : is_shareable<T> {};
template <class T> struct is_shareable<volatile T> : is_shareable<T> {};
template <class T> struct is_shareable<const volatile T> : is_shareable<T> {};
template <class T> struct is_shareable<T[]> : is_shareable<T> {};
template <class T, std::size_t N> struct is_shareable<T[N]> : is_shareable<T> {};
template <class T, std::size_t N> struct is_shareable<const T[N]> : is_shareable<T> {};
template <class T, std::size_t N> struct is_shareable<std::array<T, N>> : is_shareable<T> {};
template <class T> struct is_shareable<T *> : std::bool_constant<!std::is_function_v<T>> {};

/* A container is what its arguments are: its elements, its comparison, its allocator. */
template <template <class...> class C, class... A>
struct is_shareable<C<A...>> : std::bool_constant<!std::is_polymorphic_v<C<A...>> && all_shareable<A...>::value> {};

/* libstdc++'s nodes of hash tables. */
template <template <class, bool> class C, class T, bool B> struct is_shareable<C<T, B>> : is_shareable<T> {};

template <class T> struct is_shareable<std::allocator<T>> : std::false_type {};
#if defined(__cpp_lib_memory_resource) || defined(__cpp_lib_polymorphic_allocator)
template <class T> struct is_shareable<std::pmr::polymorphic_allocator<T>> : std::false_type {};
#endif
template <class T> struct is_shareable<allocator<T>> : std::true_type {};
template <class T> struct is_shareable<std::default_delete<T>> : std::false_type {};
template <class T> struct is_shareable<std::shared_ptr<T>> : std::false_type {};
template <class T> struct is_shareable<std::weak_ptr<T>> : std::false_type {};
template <class T> struct is_shareable<std::function<T>> : std::false_type {};
/* An atomic that takes a lock takes one of its process. */
template <class T> struct is_shareable<std::atomic<T>> : std::bool_constant<std::atomic<T>::is_always_lock_free> {};

/* True if no byte of a T is part of a pointer into the heap: then its memory is noscan. To be specialised as well. */
template <class T> struct is_pointer_free : std::bool_constant<std::is_arithmetic_v<T> || std::is_enum_v<T>> {};

template <class T> inline constexpr bool is_pointer_free_v = is_pointer_free<T>::value;

template <class T> struct is_pointer_free<const T> : is_pointer_free<T> {};
template <class T> struct is_pointer_free<volatile T> : is_pointer_free<T> {};
template <class T> struct is_pointer_free<const volatile T> : is_pointer_free<T> {};
template <class T, std::size_t N> struct is_pointer_free<T[N]> : is_pointer_free<T> {};
template <class T, std::size_t N> struct is_pointer_free<const T[N]> : is_pointer_free<T> {};
template <class T, std::size_t N> struct is_pointer_free<std::array<T, N>> : is_pointer_free<T> {};
template <class T> struct is_pointer_free<std::atomic<T>> : is_pointer_free<T> {};
template <class T> struct is_pointer_free<std::complex<T>> : is_pointer_free<T> {};
template <class A, class B>
struct is_pointer_free<std::pair<A, B>> : std::bool_constant<is_pointer_free_v<A> && is_pointer_free_v<B>> {};
template <class... A>
struct is_pointer_free<std::tuple<A...>> : std::bool_constant<(is_pointer_free_v<A> && ...)> {};

} // namespace goalloc

#endif
