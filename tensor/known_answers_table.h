// Constant data of known_answers.cc: what the class `exact` gives, on any instruction set. Made by
//   SHOAL_PRINT_KNOWN_ANSWERS=1 build/release/test_tensor -tc="every table gives*"
// which is to be run again, with a reason, where the numbers' definition (docs/numerics.md) or that file
// changes.
#pragma once

#include "tensor/known_answers.h"

namespace shoal {

inline constexpr KnownAnswer kKnownAnswers[] = {
    {"F32", 0xc1e928e149ff71eeu},
    {"F16", 0x72a5512abf5f7340u},
    {"Q4_0", 0xf649c83eecba9958u},
    {"Q4_1", 0xd0c1aa106ecbdf2bu},
    {"Q5_0", 0xbb5b73e91c69a9c3u},
    {"Q5_1", 0x452c4cceafe7137du},
    {"Q8_0", 0xf76bed28d0376a40u},
    {"Q2_K", 0xa3cb97f851bbbc14u},
    {"Q3_K", 0xdf788ac0dd9c031fu},
    {"Q4_K", 0x8acd181eb2ec67cdu},
    {"Q5_K", 0x34784ab33747ba95u},
    {"Q6_K", 0x593675fc6d1d758du},
    {"IQ2_XXS", 0xc71c6d197b409d70u},
    {"IQ2_XS", 0xfd0a8c82b57ebd7cu},
    {"IQ3_XXS", 0x0ace0a33f4aad94cu},
    {"IQ1_S", 0xc5c69948725bc99au},
    {"IQ4_NL", 0x5f59540a01760081u},
    {"IQ3_S", 0x69a182af6e28d1abu},
    {"IQ2_S", 0x1b7b237002d11c57u},
    {"IQ4_XS", 0x36bb5eb47d146cb4u},
    {"IQ1_M", 0x174fb63df92383e1u},
    {"BF16", 0x935719410f566bb9u},
    {"TQ1_0", 0x297b4bbb49204c45u},
    {"TQ2_0", 0x2d6a8db0a9eefa2cu},
    {"MXFP4", 0x955598e0d9fab95cu},
    {"attention over f16", 0x47b087acaf82f0adu},
    {"attention over q8_0", 0x5b744fef56379622u},
    {"rope", 0x043f51967249a068u},
    {"quantize", 0xac5d7911e4f2c177u},
    {"halves", 0x49d27ab000a1274au},
    {"softmax", 0xb3232f257cd0053bu},
    {"rms_norm", 0x1e5cf50e2b6af45cu},
    {"layer_norm", 0xd84e45a3d6791b5fu},
    {"silu_mul", 0x213dbdfe22750dc1u},
    {"gelu_mul", 0x6a47623c56163a6fu},
    {"gelu", 0x0b3b69748c7f18e8u},
    {"add", 0x3ecd0084d7e83765u},
    {"add_scaled", 0x63e9279ff03de764u},
    {"scale", 0xf2d0fdc338144ab6u},
    {"soft_cap", 0x070ca2cce27d8a62u},
};

}  // namespace shoal
