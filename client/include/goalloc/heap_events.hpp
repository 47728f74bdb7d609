/*
 * heap_events: what happens to the heap, for a program's loop: sessions that end, roots, a stop, the heap's end.
 *
 *     goalloc::heap_events events;                      // subscribes
 *     ... poll events.fd() for reading; when it is readable:
 *     events.dispatch([](const goalloc::heap_event &e) {
 *         if (e.kind() == goalloc::heap_event_kind::session_end)
 *             goalloc::collect_references();
 *     });
 *
 * The descriptor is the process's, and stays until the session is detached: see goalloc_event_fd().
 */
#ifndef GOALLOC_HEAP_EVENTS_HPP
#define GOALLOC_HEAP_EVENTS_HPP

#include <goalloc/error.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace goalloc {

/* One that is not named here is to be passed over: a later daemon's. */
enum class heap_event_kind : std::uint32_t {
    session_end = GOALLOC_EVENT_SESSION_END,
    root_set = GOALLOC_EVENT_ROOT_SET,
    root_removed = GOALLOC_EVENT_ROOT_REMOVED,
    heap_gone = GOALLOC_EVENT_HEAP_GONE,
    memory_short = GOALLOC_EVENT_MEMORY_SHORT,
    lost = GOALLOC_EVENT_LOST,
    stopping = GOALLOC_EVENT_STOPPING,
};

/* One event: goalloc_event, with its texts. */
class heap_event {
public:
    heap_event() noexcept : event_{}
    {
        event_.struct_size = sizeof(event_);
    }
    heap_event_kind kind() const noexcept
    {
        return static_cast<heap_event_kind>(event_.kind);
    }
    std::uint64_t session() const noexcept
    {
        return event_.session;
    }
    int pid() const noexcept
    {
        return event_.pid;
    }
    /* session_end: it has not said goodbye. */
    bool died() const noexcept
    {
        return event_.cause == GOALLOC_CAUSE_DIED;
    }
    std::string_view label() const noexcept
    {
        return event_.label;
    }
    std::string_view group() const noexcept
    {
        return event_.group;
    }
    std::string_view root() const noexcept
    {
        return event_.root;
    }

private:
    friend class heap_events;
    goalloc_event event_;
};

class heap_events {
public:
    /* Subscribe. Throws std::system_error: the errors of goalloc_event_fd(). */
    heap_events() : fd_(check(goalloc_event_fd(), "goalloc::heap_events"))
    {
    }

    /* To be polled for reading; nobody else reads or closes it. */
    int fd() const noexcept
    {
        return fd_;
    }

    /*
     * The next event, or none now. Never waits. A daemon that is away is no error: the descriptor is readable again
     * every 100 ms, and a call then looks. Throws ESTALE when the heap is gone, and has been told of.
     */
    std::optional<heap_event> next()
    {
        heap_event e;
        int r = goalloc_next_event(&e.event_);

        if (r == -ETIMEDOUT)
            return std::nullopt;
        check(r, "goalloc::heap_events::next");
        return r == 1 ? std::optional<heap_event>(e) : std::nullopt;
    }

    /* Call f with each event that there is now; how many there were. */
    template <class F> std::size_t dispatch(F &&f)
    {
        std::size_t n = 0;

        for (auto e = next(); e; e = next(), n++)
            f(*e);
        return n;
    }

private:
    int fd_;
};

} // namespace goalloc

#endif
