/*
 * root<T>: a T with a name, by which processes find it.
 *
 *     auto &words = goalloc::root<index_map>("words").find_or_construct();
 *
 * However many processes ask at the same time, one constructs it, and the others wait; if that one dies in the
 * constructor, another one constructs it. The T lies at the beginning of the root's object, so a program in C finds it
 * by goalloc_root_get(). Behind it lies what it is:
 *
 *     T, padded to 16 | text of the type (type.hpp), zeros up to 16 | tag of the text | text's place, magic number
 *
 * All of that is written before the daemon makes the root known, and never again. A program that has another type for
 * the name, or the same type of another standard library, gets a goalloc::wrong_type that says both.
 */
#ifndef GOALLOC_ROOT_HPP
#define GOALLOC_ROOT_HPP

#include <goalloc/duration.hpp>
#include <goalloc/error.hpp>
#include <goalloc/shareable.hpp>
#include <goalloc/type.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <limits>
#include <pthread.h>
#include <string>
#include <tuple>
#include <utility>

namespace goalloc {

/* The root has another type than the one that was asked for. */
class wrong_type : public std::system_error {
public:
    wrong_type(const std::string &name, const std::string &found, const std::string &wanted)
        : std::system_error(EMEDIUMTYPE, category(),
                            "goalloc::root \"" + name + "\" is " + found + ", and was asked for as " + wanted),
          found_(found), wanted_(wanted)
    {
    }
    const std::string &found() const noexcept
    {
        return found_;
    }
    const std::string &wanted() const noexcept
    {
        return wanted_;
    }

private:
    std::string found_;
    std::string wanted_;
};

namespace detail {

struct root_footer {
    std::uint64_t tag;
    std::uint32_t text_offset; /* from the T */
    std::uint32_t magic;
};

inline constexpr std::uint32_t root_magic = 0x2b2b4347; /* "GC++" */

constexpr std::size_t round_up(std::size_t n) noexcept
{
    return (n + 15) / 16 * 16;
}

inline void write_footer(void *p, std::size_t size, std::size_t text_offset, const std::string &text)
{
    root_footer footer = { tag_of(text), static_cast<std::uint32_t>(text_offset), root_magic };

    std::memcpy(static_cast<char *>(p) + text_offset, text.c_str(), text.size() + 1);
    std::memcpy(static_cast<char *>(p) + size - sizeof(footer), &footer, sizeof(footer));
}

/* The footer of what was made with that size; magic is 0 if there is none. The words are others', so nothing is trusted. */
inline root_footer read_footer(const void *p, std::size_t size)
{
    root_footer footer = {};

    if (size >= sizeof(footer) && goalloc_usable_size(p) >= size)
        std::memcpy(&footer, static_cast<const char *>(p) + size - sizeof(footer), sizeof(footer));
    if (footer.magic != root_magic || footer.text_offset > size - sizeof(footer))
        footer = {};
    return footer;
}

/* What a root's object is, for people. */
inline std::string describe_object(const goalloc_root_info &info)
{
    root_footer footer = read_footer(info.p, info.size);

    if (footer.magic != root_magic)
        return "no C++ object (" + std::to_string(info.size) + " bytes, type tag " + std::to_string(info.type_tag) +
               ")";
    const char *text = static_cast<const char *>(info.p) + footer.text_offset;

    return readable(std::string(text, strnlen(text, info.size - sizeof(footer) - footer.text_offset)));
}

/* What a root of that name is, for people. */
inline std::string describe_root(const std::string &name)
{
    struct search {
        const std::string &name;
        std::string found;
    } s = { name, "gone by now" };
    auto each = [](const goalloc_root_info *info, void *arg) noexcept -> int { /* called through C */
        search &mine = *static_cast<search *>(arg);

        if (mine.name != info->name)
            return 0;
        try {
            mine.found = describe_object(*info);
        } catch (...) {
            return -ENOMEM;
        }
        return 1;
    };

    return check(goalloc_root_list(name.c_str(), each, &s), "goalloc::root"), s.found;
}

/* No cancellation in a constructor that is called through C. */
class uncancelled {
public:
    uncancelled() noexcept
    {
        static_cast<void>(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before_));
    }
    ~uncancelled()
    {
        static_cast<void>(pthread_setcancelstate(before_, nullptr));
    }
    uncancelled(const uncancelled &) = delete;
    uncancelled &operator=(const uncancelled &) = delete;

private:
    int before_ = PTHREAD_CANCEL_ENABLE;
};

} // namespace detail

template <class T> class root {
    static_assert(is_shareable_v<T>, "goalloc: this type can't lie in a shared heap (goalloc::is_shareable)");
    static_assert(alignof(T) <= 16, "goalloc: a root's object is aligned to 16; more than that is a unique_ptr's");

public:
    explicit root(std::string name) : name_(std::move(name))
    {
    }
    const std::string &name() const noexcept
    {
        return name_;
    }

    /* nullptr: there is none. Throws wrong_type; std::system_error with the errors of goalloc_root_get(). */
    T *find() const
    {
        void *p = nullptr;
        int r = goalloc_root_get(name_.c_str(), &p);

        if (r == -ENOENT)
            return nullptr;
        check(r, "goalloc::root::find");
        return checked(p);
    }

    /* Wait until there is one; nullptr: not within the time. More than 24 days are for ever. */
    template <class Rep, class Period> T *wait(std::chrono::duration<Rep, Period> timeout) const
    {
        int ms = detail::milliseconds_of(timeout);
        void *p = nullptr;
        int r = goalloc_root_wait(name_.c_str(), ms == std::numeric_limits<int>::max() ? -1 : ms, &p);

        if (r == -ETIMEDOUT)
            return nullptr;
        check(r, "goalloc::root::wait");
        return checked(p);
    }

    /*
     * The root's T; if there is none, it is constructed from args (which are copied: if the daemon was replaced
     * meanwhile, it may take a second construction; what the first one had allocated besides is lost then). What the
     * constructor has allocated is the heap's, too. Throws wrong_type, what T's constructor throws, and
     * std::system_error with the errors of goalloc_root_get_or_create(): ETIMEDOUT if the one that constructs it does
     * not come to its end.
     */
    template <class... Args> T &find_or_construct(const Args &...args)
    {
        construction<Args...> c = { { args... }, nullptr };
        void *p = nullptr;
        int is_new = 0;
        int r = goalloc_root_get_or_create(name_.c_str(), size(), detail::type_tag<T>(), construct<Args...>, &c, &p,
                                           &is_new);

        if (r < 0 && c.error)
            std::rethrow_exception(c.error);
        if (r == -EMEDIUMTYPE)
            throw_wrong_type();
        check(r, "goalloc::root::find_or_construct");
        created_ = is_new == 1;
        return *checked(p);
    }

    /* True if the last find_or_construct() of this object has constructed it. */
    bool created() const noexcept
    {
        return created_;
    }

    /*
     * Take the name away, then destroy the T: by one process, if several try; false in the others, and if there is none.
     * The caller sees to it that nobody uses the T any more. A process that dies in between leaves the T, without name.
     */
    bool destroy()
    {
        T *p = find();

        if (p == nullptr)
            return false;
        int r = goalloc_root_compare_and_set(name_.c_str(), p, nullptr);
        if (r == -EEXIST)
            return false;
        check(r, "goalloc::root::destroy");
        p->~T();
        goalloc_free(p);
        return true;
    }

private:
    template <class... Args> struct construction {
        std::tuple<const Args &...> args;
        std::exception_ptr error;
    };

    static std::size_t size()
    {
        return detail::round_up(sizeof(T)) + detail::round_up(detail::type_text<T>().size() + 1) +
               sizeof(detail::root_footer);
    }

    /* Called by goalloc_root_get_or_create(): neither throws nor jumps. */
    template <class... Args> static int construct(void *p, std::size_t size, void *arg) noexcept
    {
        auto &c = *static_cast<construction<Args...> *>(arg);
        detail::uncancelled during;
        T *made = nullptr;

        try {
            made = std::apply([p](const Args &...args) { return ::new (p) T(args...); }, c.args);
            detail::write_footer(p, size, detail::round_up(sizeof(T)), detail::type_text<T>());
            check(goalloc_publish_graph(p, nullptr), "goalloc::root::find_or_construct"); /* what it has allocated */
            return 0;
        } catch (...) {
            c.error = std::current_exception();
            if (made != nullptr)
                made->~T();
            return -ECANCELED;
        }
    }

    T *checked(void *p) const
    {
        if (detail::read_footer(p, size()).tag != detail::type_tag<T>())
            throw_wrong_type();
        return static_cast<T *>(p);
    }

    [[noreturn]] void throw_wrong_type() const
    {
        throw wrong_type(name_, detail::describe_root(name_), detail::readable(detail::type_text<T>()));
    }

    std::string name_;
    bool created_ = false;
};

} // namespace goalloc

#endif
