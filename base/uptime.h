// The steady clock as seconds since an arbitrary moment, for limits over time. Safe from any thread.
#pragma once

#include <chrono>

namespace shoal {

inline double uptime_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace shoal
