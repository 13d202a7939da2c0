// The kernels of one instruction set, as tables of functions chosen once at start-up.
//
// Numeric class `exact`: every table gives the same bits. A lane is an output element, its sum runs over the
// 32-element blocks in order, integers inside a block; explicit fma only, no fast-math; the few true
// reductions use a fixed tree of 16 virtual lanes. See docs/numerics.md for the rules and why they hold.
#pragma once

#include <string_view>
#include <vector>

namespace shoal {

struct FloatOps;  // tensor/float_ops.h: norms, rope, attention, activation functions, quantising activations
struct ProductOps;  // tensor/product_ops.h: weight matrix times activation rows, per format

struct Kernels {
  const char* name;  // "generic", "avx2", "avxvnni", "avx512", "neon", "neondot"; "blas"
  const FloatOps* floats;
  const ProductOps* products;
  const char* numeric_class = "exact";  // nodes of different classes do not compute together
};

// The tables of the class `exact` compiled in that this processor can run, slowest first; never empty
// (generic is always there).
const std::vector<const Kernels*>& available_kernels();

// The fastest available table, or the one called `name`; "blas" is tensor/blas.h's. Throws SetupError naming
// what is available.
const Kernels& select_kernels(std::string_view name = {});

}  // namespace shoal
