/*
 * session: this process's time with the heap, from its construction to its end.
 */
#ifndef GOALLOC_SESSION_HPP
#define GOALLOC_SESSION_HPP

#include <goalloc/duration.hpp>
#include <goalloc/error.hpp>
#include <goalloc/references.hpp>

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>

namespace goalloc {

/* goalloc_options, with defaults. An empty text is none. */
struct attach_options {
    std::string socket_path; /* none: $GOALLOC_SOCKET, else the default */
    std::string label;       /* none: the program's name */
    std::string group;       /* sessions that own together */
    bool reclaim = false;    /* what this session allocates and does not publish goes with it */
    bool read_only = false;
    bool dump = false;       /* core dumps hold what is in use of the heap */
    bool wait = false;       /* for a daemon that is just starting */
    std::uint64_t limit_bytes = 0;          /* the most that this session may hold; 0: the daemon's default */
    std::chrono::milliseconds timeout{ 0 }; /* of the attach, and of each request; 0: 5 s; at most 24 days */
};

/*
 * One a process, as goalloc_attach(). Pointers into the heap are invalid after its end, so what holds some ends before.
 * In a forked child the copy of its parent's session stands for the child's own.
 */
class session {
public:
    /* Attach. Throws std::system_error: what() says why, with the socket's path. */
    explicit session(const attach_options &options = {})
    {
        goalloc_options o = GOALLOC_OPTIONS_INIT;

        o.socket_path = options.socket_path.empty() ? nullptr : options.socket_path.c_str();
        o.label = options.label.empty() ? nullptr : options.label.c_str();
        o.group = options.group.empty() ? nullptr : options.group.c_str();
        o.flags = (options.reclaim ? GOALLOC_ATTACH_RECLAIM : 0) | (options.read_only ? GOALLOC_ATTACH_READONLY : 0) |
                  (options.dump ? GOALLOC_ATTACH_DUMP : 0) | (options.wait ? GOALLOC_ATTACH_WAIT : 0);
        o.limit_bytes = options.limit_bytes;
        o.timeout_ms = options.timeout.count() < 0 ? -1 : detail::milliseconds_of(options.timeout); /* -1: refused */
        int r = goalloc_attach(&o);
        if (r < 0)
            throw_error(r, *goalloc_attach_error() != '\0' ? goalloc_attach_error() : "goalloc::session");
        attached_ = true;
    }
    session(session &&other) noexcept : attached_(std::exchange(other.attached_, false))
    {
    }
    session &operator=(session &&other) noexcept
    {
        if (this != &other) {
            detach();
            attached_ = std::exchange(other.attached_, false);
        }
        return *this;
    }
    session(const session &) = delete;
    session &operator=(const session &) = delete;
    ~session()
    {
        detach();
    }

    /* Leave the heap now. Nothing happens if it has been left, or if this was moved from. */
    void detach() noexcept
    {
        if (!std::exchange(attached_, false))
            return;
        detail::leave_references();
        static_cast<void>(goalloc_detach());
    }
    explicit operator bool() const noexcept
    {
        return attached_;
    }
    /* False: the heap is nobody's any more. Detach, and attach again: "When the daemon goes" in the guide. */
    bool is_current() const noexcept
    {
        return attached_ && goalloc_is_current() == 1;
    }
    std::uint64_t heap_id() const noexcept
    {
        return goalloc_heap_id();
    }
    void set_label(const std::string &label)
    {
        check(goalloc_set_label(label.c_str()), "goalloc::session::set_label");
    }
    goalloc_stats_t stats() const
    {
        goalloc_stats_t ret = {};

        ret.struct_size = sizeof(ret);
        check(goalloc_stats(&ret), "goalloc::session::stats");
        return ret;
    }
    /* Give back what is held idle. */
    void trim()
    {
        check(goalloc_trim(), "goalloc::session::trim");
    }

private:
    bool attached_ = false;
};

} // namespace goalloc

#endif
