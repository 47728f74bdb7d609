/*
 * mutex: a lock in the heap whose holder may be killed, and scoped_lock, which holds it.
 *
 * pthread's robust, process-shared mutex. When the thread that holds it dies, the next one that locks it has it, and is
 * told so: lock_state::owner_died. What it guards may be half changed then. Who has it repairs that, beginning with
 * goalloc::settle() if anything is linked there, and says recovered(). If it unlocks without having said so, the mutex
 * is not recoverable: every later lock throws ENOTRECOVERABLE, in every process. So a death that a program does not
 * look at stops it with an error, and never lets it read what is torn.
 *
 *     goalloc::scoped_lock lock(table->mutex);
 *     if (lock.owner_died()) {
 *         table->repair();
 *         lock.recovered();
 *     }
 *
 * If a process dies in its repair, the next one is told owner_died again. There is no condition variable: glibc's blocks
 * a signaller for ever once a waiter was killed. Take a goalloc::event.
 *
 * An object with a mutex in it is freed only when nobody can be in lock or unlock any more, and unlock comes before
 * detach: the guide has these rules, with reasons. A process that is stopped while it holds the mutex is alive: where
 * that matters, lock with a time-out.
 */
#ifndef GOALLOC_MUTEX_HPP
#define GOALLOC_MUTEX_HPP

#include <goalloc/duration.hpp>
#include <goalloc/error.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <ctime>
#include <pthread.h>

namespace goalloc {

enum class [[nodiscard]] lock_state {
    locked,     /* it is this thread's, and what it guards is as the last holder left it */
    owner_died, /* it is this thread's, and what it guards may be half changed: repair it, then recovered() */
    busy,       /* it is not this thread's: another one had it each time that this one has looked */
};

class mutex {
public:
    mutex()
    {
        pthread_mutexattr_t attributes;
        int r = pthread_mutexattr_init(&attributes);

        if (r == 0) {
            r = pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
            if (r == 0)
                r = pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
            if (r == 0)
                r = pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
            if (r == 0)
                r = pthread_mutex_init(&mutex_, &attributes);
            static_cast<void>(pthread_mutexattr_destroy(&attributes));
        }
        check(-r, "goalloc::mutex");
    }
    ~mutex() = default; /* pthread's has nothing to destroy, and would complain of a dead holder */
    mutex(const mutex &) = delete;
    mutex &operator=(const mutex &) = delete;

    /* Wait for it. Throws ENOTRECOVERABLE, EDEADLK (this thread has it). */
    lock_state lock()
    {
        int r = look(); /* most find it free, and need no clock */

        while (r == ETIMEDOUT)
            r = wait(slice_ns);
        return state_of(r);
    }
    lock_state try_lock()
    {
        return state_of(look());
    }
    /* It looks when it begins and when the time is over. A million hours and more are for ever. */
    template <class Rep, class Period> lock_state try_lock_for(std::chrono::duration<Rep, Period> timeout)
    {
        std::int64_t left = detail::nanoseconds_of(timeout);
        int r = look();

        for (; left > 0 && r == ETIMEDOUT; left -= slice_ns)
            r = wait(std::min(left, slice_ns));
        return r == ETIMEDOUT ? try_lock() : state_of(r);
    }

    /* What it guards is whole again. By the thread that has been told owner_died, once, before unlock. */
    void recovered()
    {
        check(-pthread_mutex_consistent(&mutex_), "goalloc::mutex::recovered");
    }

    /* By the thread that has it. After owner_died without recovered() the mutex is not recoverable. */
    void unlock()
    {
        check(-pthread_mutex_unlock(&mutex_), "goalloc::mutex::unlock");
    }

private:
    friend class scoped_lock;

    /*
     * Who sleeps looks again after so long. A waiter that unlock has woken may be killed before it has the mutex; if
     * somebody else has taken it meanwhile, glibc (2.36) wakes none of those that still sleep.
     */
    static constexpr std::int64_t slice_ns = 50000000;

    /*
     * Lock it if nobody has it, else ETIMEDOUT: by a time that is over, which takes a system call if somebody has it.
     * pthread_mutex_trylock() won't do: of a mutex that is not recoverable, glibc's (2.36) says ENOTRECOVERABLE and
     * keeps it locked. Then all others wait for ever, who were to be told.
     */
    int look()
    {
        static constexpr timespec over = {};

        return pthread_mutex_clocklock(&mutex_, CLOCK_MONOTONIC, &over);
    }

    /* Lock it within ns, a slice at most, else ETIMEDOUT. */
    int wait(std::int64_t ns)
    {
        timespec until = {};

        static_cast<void>(clock_gettime(CLOCK_MONOTONIC, &until));
        ns += until.tv_nsec;
        until.tv_sec += static_cast<std::time_t>(ns / 1000000000);
        until.tv_nsec = static_cast<long>(ns % 1000000000);
        return pthread_mutex_clocklock(&mutex_, CLOCK_MONOTONIC, &until);
    }

    /* In a forked child, whose parent has the lock, nothing happens. */
    void release() noexcept
    {
        static_cast<void>(pthread_mutex_unlock(&mutex_));
    }
    static lock_state state_of(int r)
    {
        if (r == 0)
            return lock_state::locked;
        if (r == EOWNERDEAD)
            return lock_state::owner_died;
        if (r != ETIMEDOUT)
            throw_error(r, "goalloc::mutex");
        return lock_state::busy;
    }

    pthread_mutex_t mutex_;
};

/* Holds a mutex from its construction to its end. */
class [[nodiscard]] scoped_lock {
public:
    explicit scoped_lock(mutex &m) : mutex_(m), state_(m.lock())
    {
    }
    /* If the last holder has died: repair(), then recovered(). If repair throws, the mutex is not recoverable. */
    template <class Repair> scoped_lock(mutex &m, Repair &&repair) : mutex_(m), state_(m.lock())
    {
        if (state_ != lock_state::owner_died)
            return;
        try {
            repair();
            recovered();
        } catch (...) {
            mutex_.release();
            throw;
        }
    }
    ~scoped_lock()
    {
        mutex_.release();
    }
    scoped_lock(const scoped_lock &) = delete;
    scoped_lock &operator=(const scoped_lock &) = delete;

    /* locked, or owner_died until recovered() was said. */
    lock_state state() const noexcept
    {
        return state_;
    }
    [[nodiscard]] bool owner_died() const noexcept
    {
        return state_ == lock_state::owner_died;
    }
    void recovered()
    {
        mutex_.recovered();
        state_ = lock_state::locked;
    }

private:
    mutex &mutex_;
    lock_state state_;
};

} // namespace goalloc

#endif
