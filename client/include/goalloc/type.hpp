/*
 * What a type is called where several programs must mean the same by it: its name, its size and alignment, and the
 * standard library that it is made with. root<T> and shared_ptr<T> keep a tag of that in the heap.
 *
 * The name is the mangled one, which gcc and clang agree on; libstdc++ and libc++ have different names for what is laid
 * out differently, and the text says which of them it was, with its ABI and its debug mode. So a program of the one
 * never takes an object of the other for its own. A class of yours that has changed and kept its name and size is yours
 * to tell apart: by another name, or another name of the root. A type of an anonymous namespace has the same name in
 * each program that has one of that name there: what programs share is of a named namespace.
 */
#ifndef GOALLOC_TYPE_HPP
#define GOALLOC_TYPE_HPP

#include <goalloc.h>

#include <cstdint>
#include <cstdlib>
#include <cxxabi.h>
#include <string>
#include <typeinfo>

namespace goalloc::detail {

#define GOALLOC_TEXT_OF(x) GOALLOC_TEXT_OF_VALUE(x)
#define GOALLOC_TEXT_OF_VALUE(x) #x

/* The standard library, its ABI, its debug mode. */
inline std::string standard_library()
{
#if defined(_LIBCPP_VERSION)
    std::string text = "libc++ with ABI " GOALLOC_TEXT_OF(_LIBCPP_ABI_VERSION);
#elif defined(_GLIBCXX_USE_CXX11_ABI)
    std::string text = "libstdc++ with C++11 ABI " GOALLOC_TEXT_OF(_GLIBCXX_USE_CXX11_ABI);
#else
    std::string text = "an unknown standard library";
#endif
#if defined(_GLIBCXX_DEBUG) || (defined(_LIBCPP_DEBUG) && _LIBCPP_DEBUG > 0)
    text += ", debug mode";
#endif
    return text;
}

template <class T> std::string type_name()
{
#if defined(__GXX_RTTI) || defined(__cpp_rtti)
    return typeid(T).name();
#else
    return __PRETTY_FUNCTION__; /* of another form: programs with and without RTTI don't agree, and are told so */
#endif
}

/* The name, a new line, and all else that has to agree. */
template <class T> const std::string &type_text()
{
    static const std::string text = type_name<T>() + "\n" + std::to_string(sizeof(T)) + " bytes, aligned to " +
                                    std::to_string(alignof(T)) + ", " + standard_library();
    return text;
}

/* The same for people. */
inline std::string readable(const std::string &text)
{
    std::string::size_type end = text.find('\n');
    std::string name = text.substr(0, end);
    int status = 0;
    char *plain = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status);

    if (plain != nullptr)
        name = plain;
    std::free(plain);
    return end == std::string::npos ? name : name + " (" + text.substr(end + 1) + ")";
}

/* FNV-1a of the text, without the bit that goalloc.h has taken; never 0. */
inline std::uint64_t tag_of(const std::string &text)
{
    std::uint64_t tag = UINT64_C(0xcbf29ce484222325);

    for (char c : text)
        tag = (tag ^ static_cast<unsigned char>(c)) * UINT64_C(0x100000001b3);
    tag &= ~GOALLOC_ROOT_REINIT;
    return tag != 0 ? tag : 1;
}

template <class T> std::uint64_t type_tag()
{
    static const std::uint64_t tag = tag_of(type_text<T>());
    return tag;
}

} // namespace goalloc::detail

#endif
