/*
 * event: processes wait until something has changed, and any of them may be killed at any time.
 *
 * A counter in the heap that goes up with each change, and a futex on it. No word says who waits, so a dead waiter
 * leaves nothing behind, and a signaller waits for nobody.
 *
 *     waiter                                            signaller
 *     1. seen = e.now()                                 1. change the state, under its lock
 *     2. look at the state, under its lock              2. e.signal()
 *     3. not yet: e.wait(seen, timeout), and again
 *
 * If the change comes after 2, the counter is not `seen` any more, and the wait ends at once. A signaller that is
 * killed between its two steps wakes nobody: that is why a wait has a time-out, after which the state is looked at.
 */
#ifndef GOALLOC_EVENT_HPP
#define GOALLOC_EVENT_HPP

#include <goalloc/duration.hpp>

#include <atomic>
#include <chrono>
#include <climits>
#include <cstdint>
#include <ctime>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace goalloc {

class event {
public:
    event() noexcept = default;
    event(const event &) = delete;
    event &operator=(const event &) = delete;

    /* The counter, for wait(). */
    std::uint32_t now() const noexcept
    {
        return count_.load(std::memory_order_seq_cst);
    }

    /* Something has changed: all who wait look. Never waits; a system call. */
    void signal() noexcept
    {
        static_assert(sizeof(count_) == sizeof(std::uint32_t) && std::atomic<std::uint32_t>::is_always_lock_free);
        count_.fetch_add(1, std::memory_order_seq_cst);
        static_cast<void>(syscall(SYS_futex, &count_, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0)); /* not _PRIVATE */
    }

    /*
     * Until a signal since now() gave `seen`, the time-out, or a signal handler. True if there was a signal. The state
     * is to be looked at in any case.
     */
    template <class Rep, class Period>
    bool wait(std::uint32_t seen, std::chrono::duration<Rep, Period> timeout) const noexcept
    {
        std::int64_t ns = detail::nanoseconds_of(timeout);
        timespec left = {};

        if (ns > 0 && now() == seen) {
            left.tv_sec = static_cast<std::time_t>(ns / 1000000000);
            left.tv_nsec = static_cast<long>(ns % 1000000000);
            static_cast<void>(syscall(SYS_futex, &count_, FUTEX_WAIT, seen, &left, nullptr, 0));
        }
        return now() != seen;
    }

private:
    std::atomic<std::uint32_t> count_{ 0 };
};

} // namespace goalloc

#endif
