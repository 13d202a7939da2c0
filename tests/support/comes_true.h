// Waits for what another thread brings about.
#pragma once

#include <chrono>
#include <functional>
#include <thread>

namespace shoal::test {

// Whether the condition came true within `patience`; a sanitized run beside others is slow.
inline bool comes_true(const std::function<bool()>& condition,
                       std::chrono::milliseconds patience = std::chrono::seconds(60)) {
  const auto end = std::chrono::steady_clock::now() + patience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

}  // namespace shoal::test
