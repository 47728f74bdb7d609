/*
 * The containers of the standard library with goalloc's allocator, and hash<T> for their keys.
 *
 * std::hash of a string is the same in all processes that use the same standard library; a hash with a seed of its
 * process (as some libraries outside the standard have) would look in other places in each.
 */
#ifndef GOALLOC_CONTAINERS_HPP
#define GOALLOC_CONTAINERS_HPP

#include <goalloc/allocator.hpp>

#include <deque>
#include <forward_list>
#include <functional>
#include <list>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace goalloc {

template <class C, class Traits = std::char_traits<C>>
using basic_string = std::basic_string<C, Traits, allocator<C>>;
using string = basic_string<char>;
using wstring = basic_string<wchar_t>;
using u16string = basic_string<char16_t>;
using u32string = basic_string<char32_t>;

/* std::hash, for strings with this allocator too. */
template <class T> struct hash : std::hash<T> {};

template <class C, class Traits> struct hash<basic_string<C, Traits>> {
    std::size_t operator()(const basic_string<C, Traits> &s) const /* not noexcept: so libstdc++ keeps it with the key */
    {
        return std::hash<std::basic_string_view<C, Traits>>()({ s.data(), s.size() });
    }
};

template <class T> using vector = std::vector<T, allocator<T>>;
template <class T> using deque = std::deque<T, allocator<T>>;
template <class T> using list = std::list<T, allocator<T>>;
template <class T> using forward_list = std::forward_list<T, allocator<T>>;
template <class K, class Less = std::less<K>> using set = std::set<K, Less, allocator<K>>;
template <class K, class Less = std::less<K>> using multiset = std::multiset<K, Less, allocator<K>>;
template <class K, class V, class Less = std::less<K>>
using map = std::map<K, V, Less, allocator<std::pair<const K, V>>>;
template <class K, class V, class Less = std::less<K>>
using multimap = std::multimap<K, V, Less, allocator<std::pair<const K, V>>>;
template <class K, class Hash = hash<K>, class Equal = std::equal_to<K>>
using unordered_set = std::unordered_set<K, Hash, Equal, allocator<K>>;
template <class K, class Hash = hash<K>, class Equal = std::equal_to<K>>
using unordered_multiset = std::unordered_multiset<K, Hash, Equal, allocator<K>>;
template <class K, class V, class Hash = hash<K>, class Equal = std::equal_to<K>>
using unordered_map = std::unordered_map<K, V, Hash, Equal, allocator<std::pair<const K, V>>>;
template <class K, class V, class Hash = hash<K>, class Equal = std::equal_to<K>>
using unordered_multimap = std::unordered_multimap<K, V, Hash, Equal, allocator<std::pair<const K, V>>>;

} // namespace goalloc

#endif
