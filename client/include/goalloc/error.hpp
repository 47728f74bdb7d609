/*
 * Errors of goalloc.h as C++ exceptions.
 *
 * What goalloc.h returns as a negative errno is thrown as a std::system_error whose code is of goalloc::category(): its
 * message is goalloc_strerror()'s, and it compares equal to std::errc of the same number. Memory that cannot be had is
 * a goalloc::bad_alloc, which is a std::bad_alloc and says why.
 */
#ifndef GOALLOC_ERROR_HPP
#define GOALLOC_ERROR_HPP

#if __cplusplus < 201703L
#error "goalloc.hpp takes C++17: -std=c++17"
#endif

#include <goalloc.h>

#include <cerrno>
#include <new>
#include <string>
#include <system_error>

namespace goalloc {

namespace detail {

class category_type final : public std::error_category {
public:
    const char *name() const noexcept override
    {
        return "goalloc";
    }
    std::string message(int error) const override
    {
        return goalloc_strerror(error);
    }
    std::error_condition default_error_condition(int error) const noexcept override
    {
        return { error, std::generic_category() };
    }
};

} // namespace detail

/* The category of all codes that are thrown here; their values are positive errno values. */
inline const std::error_category &category() noexcept
{
    static const detail::category_type the_one;
    return the_one;
}

/* Throw what goalloc.h has returned: a negative errno. */
[[noreturn]] inline void throw_error(int r, const std::string &what)
{
    throw std::system_error(r < 0 ? -r : r, category(), what);
}

/* The same if it is negative; else r. */
inline int check(int r, const char *what)
{
    if (r < 0)
        throw_error(r, what);
    return r;
}

/* The heap has no memory, or cannot be asked for any: code() says which. */
class bad_alloc : public std::bad_alloc {
public:
    explicit bad_alloc(int error) noexcept : error_(error)
    {
    }
    const char *what() const noexcept override
    {
        return goalloc_strerror(error_);
    }
    std::error_code code() const noexcept
    {
        return { error_, category() };
    }

private:
    int error_;
};

} // namespace goalloc

#endif
