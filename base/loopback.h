// Whether an address means this device and no other. Safe from any thread; asks no name server.
#pragma once

#include <string>

namespace shoal {

// "localhost", a number of 127.0.0.0/8, or ::1.
bool is_loopback_host(const std::string& host);

}  // namespace shoal
