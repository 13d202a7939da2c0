// What the fuzz targets share. A target is one file with LLVMFuzzerTestOneInput
// (https://llvm.org/docs/LibFuzzer.html): it gives bytes to a door of the program, lets pass the refusals
// that belong to that door, and stops the process (require) where a promise is broken: crash, sanitizer
// report, any other exception, or a time of over a second (tools/fuzz.sh) are findings.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace shoal::fuzz {

inline void require(bool holds, const char* promise) {
  if (holds) return;
  std::fprintf(stderr, "a promise is broken: %s\n", promise);
  std::abort();
}

// Reads an input from its front; what is beyond its end is 0.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : bytes_(data, size) {}
  uint8_t byte() {
    if (bytes_.empty()) return 0;
    const uint8_t first = bytes_.front();
    bytes_ = bytes_.subspan(1);
    return first;
  }
  uint32_t word() {
    uint32_t value = 0;
    for (int i = 0; i < 4; ++i) value |= uint32_t{byte()} << (8 * i);
    return value;
  }
  size_t left() const { return bytes_.size(); }
  std::span<const uint8_t> take(size_t n) {
    const auto taken = bytes_.first(n < bytes_.size() ? n : bytes_.size());
    bytes_ = bytes_.subspan(taken.size());
    return taken;
  }
  std::string_view text(size_t n = SIZE_MAX) {
    const auto taken = take(n);
    return {reinterpret_cast<const char*>(taken.data()), taken.size()};
  }

 private:
  std::span<const uint8_t> bytes_;
};

}  // namespace shoal::fuzz
