// The 16 values, not evenly spaced, that the nibbles of IQ4_NL and IQ4_XS choose from.
#pragma once

#include "tensor/format.h"

namespace shoal {

inline constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                          1,    13,   25,  38,  53,  69,  89,  113};

// A nibble plane as values + 128.
inline void unpack_iq4_values(const uint8_t* nibbles, Panel* out) {
  uint8_t* q = &out->q[0][0][0];
  for (int n = 0; n < 256; ++n) {
    q[n] = static_cast<uint8_t>(kIq4Values[nibbles[n] & 15] + 128);
    q[256 + n] = static_cast<uint8_t>(kIq4Values[nibbles[n] >> 4] + 128);
  }
}

}  // namespace shoal
