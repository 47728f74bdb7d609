/*
 * Durations of std::chrono as numbers, for mutex, event, root and session: whatever the unit and the type, nothing
 * overflows. Without state.
 */
#ifndef GOALLOC_DURATION_HPP
#define GOALLOC_DURATION_HPP

#include <chrono>
#include <cstdint>
#include <limits>
#include <ratio>

namespace goalloc::detail {

/*
 * Nanoseconds: 0 for what is not above 0 (a negative one, or no number), and INT64_MAX for a million hours and more,
 * which is 114 years. Compared as floating point, which holds each duration that there is.
 */
template <class Rep, class Period>
constexpr std::int64_t nanoseconds_of(std::chrono::duration<Rep, Period> d) noexcept
{
    double hours = std::chrono::duration<double, std::ratio<3600>>(d).count();

    if (!(hours > 0))
        return 0;
    if (hours >= 1e6)
        return std::numeric_limits<std::int64_t>::max();
    return std::chrono::duration_cast<std::chrono::duration<std::int64_t, std::nano>>(d).count();
}

/* Milliseconds, rounded up; INT_MAX for what is longer. */
template <class Rep, class Period> constexpr int milliseconds_of(std::chrono::duration<Rep, Period> d) noexcept
{
    constexpr std::int64_t most = std::numeric_limits<int>::max();
    std::int64_t ns = nanoseconds_of(d);
    std::int64_t ms = ns / 1000000 + (ns % 1000000 != 0 ? 1 : 0);

    return static_cast<int>(ms < most ? ms : most);
}

} // namespace goalloc::detail

#endif
