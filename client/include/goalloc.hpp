/*
 * goalloc for C++17: containers of the standard library, and what goes with them, in a heap of several processes.
 *
 * Headers only, over goalloc.h; gcc and clang, libstdc++ and libc++. docs/CPP.md says what can lie in the heap and what
 * a death does to it. Each of these can be included alone:
 *
 *   error         errors as std::system_error
 *   session       attach and detach
 *   shareable     what can lie in a shared heap, for the compiler to refuse the rest
 *   allocator     allocator<T>
 *   containers    string, vector, map and the others with it
 *   unique_ptr    unique_ptr, make_unique
 *   shared_ptr    shared_ptr, weak_ptr, make_shared
 *   references    what dead processes held of these: collect_references
 *   root          root<T>: a T with a name
 *   link          link, unlink_free, settle, publish, adopt
 *   mutex         mutex whose holder may die, scoped_lock
 *   event         waiting for something to change
 *   heap_events   what happens to the heap, for a program's loop
 */
#ifndef GOALLOC_HPP
#define GOALLOC_HPP

#include <goalloc/allocator.hpp>
#include <goalloc/containers.hpp>
#include <goalloc/error.hpp>
#include <goalloc/event.hpp>
#include <goalloc/heap_events.hpp>
#include <goalloc/link.hpp>
#include <goalloc/mutex.hpp>
#include <goalloc/references.hpp>
#include <goalloc/root.hpp>
#include <goalloc/session.hpp>
#include <goalloc/shareable.hpp>
#include <goalloc/shared_ptr.hpp>
#include <goalloc/unique_ptr.hpp>

#endif
