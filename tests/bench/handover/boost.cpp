/*
 * The peer Boost.Interprocess: managed_shared_memory with its default algorithm, inherited by the child. A name is a
 * handle, as for processes that map the segment elsewhere.
 */
#include <boost/interprocess/managed_shared_memory.hpp>
#include <new>
#include <string>
#include <unistd.h>

#include "tests/bench/handover/handover.h"

namespace ipc = boost::interprocess;

namespace {

ipc::managed_shared_memory *segment;
std::string name;

void open_segment(size_t size)
{
    name = "goalloc-handover." + std::to_string(getpid());
    segment = new ipc::managed_shared_memory(ipc::create_only, name.c_str(),
                                             (size + 64) * HANDOVER_OBJECTS * 2 + (1 << 20));
}

void *take(size_t size, uint64_t *ret_name)
{
    void *p = segment->allocate(size, std::nothrow);

    if (p != nullptr)
        *ret_name = static_cast<uint64_t>(segment->get_handle_from_address(p));
    return p;
}

void *see(uint64_t handle)
{
    return segment->get_address_from_handle(static_cast<ipc::managed_shared_memory::handle_t>(handle));
}

void drop(uint64_t handle)
{
    segment->deallocate(see(handle));
}

void close_segment()
{
    delete segment;
    ipc::shared_memory_object::remove(name.c_str());
}

} // namespace

const handover_peer handover_boost = { "Boost.Interprocess", open_segment, take, see, drop, close_segment };
