// What the operating system says of this process and device.
#pragma once

#include <cstdint>
#include <string>

namespace shoal {

uint64_t resident_bytes();  // of this process now
uint64_t device_memory();   // physical memory, or the cgroup's limit where that is lower
int device_processors();    // that this process may run on
std::string host_name();

}  // namespace shoal
