// Each run adds an entry to a map in the shared heap, which stays when the program has ended.
#include <goalloc.hpp>
#include <iostream>

using index_map = goalloc::map<goalloc::string, goalloc::vector<int>>;

int main()
{
    goalloc::session heap; // the socket is $GOALLOC_SOCKET
    auto &words = goalloc::root<index_map>("words").find_or_construct();
    words["run"].push_back(static_cast<int>(words["run"].size()));
    for (const auto &[word, places] : words)
        std::cout << word << ": " << places.size() << " at " << &places << '\n';
}
