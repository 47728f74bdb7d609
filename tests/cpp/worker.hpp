/*
 * worker: a program in C++ that integration/test_cpp starts, again and again and several at a time, each time for one
 * part. $GOALLOC_SOCKET says where the daemon is. Exit status 0: all was right.
 */
#ifndef GOALLOC_TESTS_CPP_WORKER_HPP
#define GOALLOC_TESTS_CPP_WORKER_HPP

#include <goalloc.hpp>

#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <unistd.h>

#define CHECK(condition)                                                                              \
    do {                                                                                              \
        if (!(condition)) {                                                                           \
            (void)std::fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition);  \
            std::_Exit(1);                                                                            \
        }                                                                                             \
    } while (0)

/* The statement throws a std::system_error with that errno. */
#define CHECK_THROWS(statement, error)                                                                \
    do {                                                                                              \
        int thrown_ = 0;                                                                              \
        try {                                                                                         \
            statement;                                                                                \
        } catch (const std::system_error &e_) {                                                       \
            thrown_ = e_.code().value();                                                              \
        }                                                                                             \
        CHECK(thrown_ == (error));                                                                    \
    } while (0)

/* What follows the part's name on the command line. */
struct arguments {
    long number;        /* 0 if it is not given */
    std::uint64_t seed; /* likewise */
};

inline std::uint64_t random_number(std::uint64_t &state)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

[[noreturn]] inline void die()
{
    (void)kill(getpid(), SIGKILL);
    std::abort();
}

/* For workers of a daemon that is killed as they are. */
inline goalloc::session attach_patiently()
{
    goalloc::attach_options options;

    options.wait = true;
    return goalloc::session(options);
}

/* api.cpp */
int part_api(const arguments &);
int part_reclaim(const arguments &);
int part_stranger(const arguments &);
int part_no_daemon(const arguments &);

/* table.cpp */
int part_insert(const arguments &);
int part_extend(const arguments &);
int part_erase(const arguments &);
int part_verify(const arguments &);
int part_storm(const arguments &);
int part_calm(const arguments &);
int part_unrecovered(const arguments &);

/* objects.cpp */
int part_hold(const arguments &);
int part_keep(const arguments &);
int part_collect(const arguments &);
int part_juggle(const arguments &);
int part_recount(const arguments &);
int part_fork(const arguments &);

/* steps.cpp */
int part_steps(const arguments &);

/* names.cpp */
int part_race(const arguments &);
int part_race_result(const arguments &);
int part_throwing(const arguments &);
int part_watch(const arguments &);

#endif
