// Sets of used devices, as the solvers keep them: how many devices of each type are used, packed into words.
// Plain values; a SetLayout is immutable once built and must match the chain that it was built from.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <vector>

#include "planner/chain.h"

namespace shoal {

template <size_t kWords>
struct DeviceSet {
  std::array<uint64_t, kWords> words{};
  bool operator==(const DeviceSet&) const = default;
  uint64_t hash() const {
    uint64_t sum = 0;
    for (uint64_t word : words) sum = (sum ^ word ^ sum >> 29) * 0x9E3779B97F4A7C15ull;  // Fibonacci hashing
    return sum;
  }
};

class SetLayout {
 public:
  explicit SetLayout(const Chain& chain) {
    size_t bit = 0;
    for (int t = 0; t < chain.types; ++t) {
      const auto count = static_cast<uint64_t>(chain.later_count(t));
      const auto width = static_cast<size_t>(std::bit_width(count));
      if (bit % 64 + width > 64) bit = (bit + 63) / 64 * 64;  // no count across two words
      fields_.push_back({static_cast<uint16_t>(bit / 64), static_cast<uint16_t>(bit % 64), count,
                         (uint64_t{1} << width) - 1});
      bit += width;
    }
    words_ = std::max<size_t>(1, (bit + 63) / 64);
  }

  size_t words() const { return words_; }  // that a DeviceSet needs
  template <size_t kWords>
  int used(const DeviceSet<kWords>& set, int type) const {
    const Field& field = fields_[static_cast<size_t>(type)];
    return static_cast<int>(set.words[field.word] >> field.shift & field.mask);
  }
  // Is a device of `type` free to follow another? The head never is where it must be first.
  template <size_t kWords>
  bool has_room(const DeviceSet<kWords>& set, int type) const {
    const Field& field = fields_[static_cast<size_t>(type)];
    return (set.words[field.word] >> field.shift & field.mask) < field.count;
  }
  template <size_t kWords>
  void add(DeviceSet<kWords>& set, int type) const {
    const Field& field = fields_[static_cast<size_t>(type)];
    if (field.count > 0) set.words[field.word] += uint64_t{1} << field.shift;
  }

 private:
  struct Field {
    uint16_t word, shift;
    uint64_t count, mask;
  };
  std::vector<Field> fields_;
  size_t words_ = 1;
};

}  // namespace shoal
