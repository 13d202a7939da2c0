#include "tensor/known_answers.h"

#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tensor/float_ops.h"
#include "tensor/format.h"
#include "tensor/product_ops.h"

namespace shoal {
namespace {

TEST_CASE("every table gives the known answers, and there is one for every format") {
  for (const Kernels* kernels : available_kernels()) {
    CAPTURE(std::string(kernels->name));
    CHECK(wrong_answer(*kernels) == "");
  }
  const std::vector<KnownAnswer> answers = answers_of(*available_kernels().front());
  CHECK(answers.size() == known_formats().size() + 15);
  if (std::getenv("SHOAL_PRINT_KNOWN_ANSWERS") != nullptr) {  // how known_answers_table.h is made
    for (const KnownAnswer& answer : answers)
      std::printf("    {\"%s\", 0x%016llxu},\n", answer.what, static_cast<unsigned long long>(answer.digest));
  }
}

TEST_CASE("a kernel that computes one bit wrongly is found and named") {
  const Kernels& right = *available_kernels().front();
  const auto refused = [&](auto spoil) {
    FloatOps floats = *right.floats;
    ProductOps products = *right.products;
    spoil(floats, products);
    const Kernels wrong{"generic", &floats, &products};
    return wrong_answer(wrong);
  };
  static const Kernels* table = &right;
  CHECK(refused([](FloatOps&, ProductOps&) {}) == "");
  CHECK(refused([](FloatOps& floats, ProductOps&) {
          floats.gelu = [](float* x, int n) {
            table->floats->gelu(x, n);
            uint32_t bits;
            std::memcpy(&bits, x + n - 1, 4);
            bits ^= 1;
            std::memcpy(x + n - 1, &bits, 4);
          };
        }) == "the kernels generic compute gelu wrongly here");
  CHECK(refused([](FloatOps&, ProductOps& products) {
          products.multiply = [](const Format& format, const ProductArgs& args) {
            table->products->multiply(format, args);
            if (format.type == TensorType::kQ4_K && args.rows == 11) args.y[args.outputs - 1] *= 1 + 0x1p-23f;
          };
        }) == "the kernels generic compute Q4_K wrongly here");
}

}  // namespace
}  // namespace shoal
