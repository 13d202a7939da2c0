// The known-answer test of a kernel table: every product and every float operation on made-up numbers, its
// bits compared with those that the class `exact` gives everywhere. A processor, compiler or memory that
// computes wrongly is found before it takes part. Takes some ten milliseconds; allocates.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tensor/kernels.h"

namespace shoal {

struct KnownAnswer {
  const char* what;  // a format's name: its product; otherwise a float operation
  uint64_t digest;   // FNV-1a of the result's bits
};

// What this table computes, in a fixed order.
std::vector<KnownAnswer> answers_of(const Kernels& kernels);

// The first answer that is not the known one, for a message; empty where all are right. Tables of another
// numeric class than `exact` have no known answers, and so nothing to say.
std::string wrong_answer(const Kernels& kernels);

}  // namespace shoal
