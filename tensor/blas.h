// The numeric class `blas`: products of F32, F16 and BF16 weights with several rows by OpenBLAS, all else by
// the fastest table of the class `exact`.
//
// A library's sums depend on the shape of a product, on its version and on the processor, so an answer may
// depend on how a prompt is cut into batches and where a layer runs. Hence a class of its own, chosen by name
// and never mixed with another. OpenBLAS computes on the calling thread alone: the thread pool cuts a matrix
// into panels whose borders depend on nothing but the matrix, so one machine repeats its own bits.
//
// The library is opened when the class is first asked for. A program that does not ask neither needs it nor
// pays for its memory, and the processor's kernels can be chosen, which OpenBLAS reads from the environment
// as it is loaded.
#pragma once

#include <string>

#include "tensor/kernels.h"

namespace shoal {

// Throws SetupError where OpenBLAS is not installed. The first call sets environment variables: no other
// thread may be reading them.
const Kernels& blas_kernels();

// What OpenBLAS says of itself: version and processor. Only after blas_kernels().
std::string blas_description();

}  // namespace shoal
