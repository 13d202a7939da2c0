// Encoders: the bytes of ggml's reference methods, exact rounding to the 16-bit floats, and small errors.
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "tensor/format.h"
#include "tensor/half.h"
#include "tests/tensor/fixtures/encode_fixtures.h"

namespace shoal {
namespace {

constexpr int kRows = 64, kCols = 512;

// The generator and the rows of tools/make_encode_fixtures.py.
std::vector<float> units(size_t count, uint64_t seed) {
  std::vector<float> out(count);
  for (float& value : out) {
    uint64_t z = seed += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    value = static_cast<float>(static_cast<int64_t>(z) >> 40) * 0x1p-23f;
  }
  return out;
}

std::vector<float> make_rows() {
  std::vector<float> x = units(size_t{kRows} * kCols, 1);
  for (float& v : x) v = v * v * v;
  for (int k = 0; k < kCols; ++k) {
    const auto at = [&](int row) -> float& { return x[row * kCols + k]; };
    at(1) = 0;
    at(2) = 0.25f;
    at(3) = std::fabs(at(3));
    at(4) = -std::fabs(at(4));
    at(5) *= 0x1p-20f;
    at(6) *= 0x1p9f;
    if (k > 0) at(7) = 0;
    if (k < 256) at(8) = 0;
  }
  return x;
}

std::vector<float> make_importance() {
  std::vector<float> importance = units(kCols, 2);
  for (float& v : importance) v = std::fabs(v) + 0x1p-10f;
  return importance;
}

std::vector<std::byte> encode_rows(const Format& format, const std::vector<float>& x,
                                   const float* importance) {
  const size_t row_bytes = format.row_bytes(kCols);
  std::vector<std::byte> out(row_bytes * kRows);
  for (int r = 0; r < kRows; ++r) format.encode(&x[r * kCols], kCols, importance, &out[r * row_bytes]);
  return out;
}

uint64_t fnv(const std::vector<std::byte>& bytes) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (std::byte b : bytes) hash = (hash ^ static_cast<uint8_t>(b)) * 0x100000001B3u;
  return hash;
}

// Root of the mean squared error over that of the values.
double relative_error(const Format& format, const std::vector<float>& x, const std::vector<std::byte>& rows) {
  double error = 0, total = 0;
  std::vector<float> back(kCols);
  for (int r = 0; r < kRows; ++r) {
    format.decode(&rows[r * format.row_bytes(kCols)], kCols, back.data());
    for (int k = 0; k < kCols; ++k) {
      error += std::pow(double{back[k]} - x[r * kCols + k], 2);
      total += std::pow(double{x[r * kCols + k]}, 2);
    }
  }
  return std::sqrt(error / total);
}

}  // namespace

TEST_CASE("encoders write the bytes of ggml's quantisers, with and without importance") {
  const std::vector<float> x = make_rows(), importance = make_importance();
  for (const EncodeFixture& fixture : kEncodeFixtures) {
    const Format& format = format_of(fixture.type);
    CAPTURE(std::string(format.name));
    const bool has_encoder = format.encode != nullptr;
    REQUIRE(has_encoder);
    CHECK(fnv(encode_rows(format, x, nullptr)) == fixture.plain);
    CHECK(fnv(encode_rows(format, x, importance.data())) == fixture.weighted);
  }
}

TEST_CASE("what was encoded reads back close to what it was") {
  const std::vector<float> x = make_rows();
  for (const EncodeFixture& fixture : kEncodeFixtures) {
    const Format& format = format_of(fixture.type);
    CAPTURE(std::string(format.name));
    const double bits = 8.0 * format.block_bytes / format.block;
    const double error = relative_error(format, x, encode_rows(format, x, nullptr));
    // Halving with each bit; the two floats have 11 and 8 bits of fraction whatever their size.
    const double bound = format.is_float ? (format.type == TensorType::kF16 ? 0x1p-11 : 0x1p-8)
                                         : (bits < 2.1 ? 1.0 : 2 * std::exp2(-(bits - 2)));
    CHECK(error > 0);
    CHECK(error < bound);
  }
}

TEST_CASE("rounding to a half is to nearest even for every pair of neighbours and their middle") {
  for (uint32_t h = 0; h < 0x7c00; ++h) {
    const float low = half_to_float(static_cast<uint16_t>(h));
    const float high = h == 0x7bff ? 65536.0f : half_to_float(static_cast<uint16_t>(h + 1));
    const float middle = low + (high - low) / 2;
    const uint16_t even = static_cast<uint16_t>(h + (h & 1));
    REQUIRE(float_to_half(low) == h);
    REQUIRE(float_to_half(-low) == (h | 0x8000));
    REQUIRE(float_to_half(middle) == even);
    REQUIRE(float_to_half(std::nextafter(middle, 0.0f)) == h);
    REQUIRE(float_to_half(std::nextafter(middle, INFINITY)) == h + 1);
  }
  CHECK(float_to_half(INFINITY) == 0x7c00);
  CHECK(float_to_half(1e30f) == 0x7c00);
  CHECK(std::isnan(half_to_float(float_to_half(NAN))));
}

TEST_CASE("rounding to a bfloat is to nearest even") {
  for (uint32_t b = 0; b < 0x7f80; b += 3) {
    const uint32_t bits = b << 16;
    REQUIRE(float_to_bfloat(std::bit_cast<float>(bits)) == b);
    REQUIRE(float_to_bfloat(std::bit_cast<float>(bits + 0x8000)) == b + (b & 1));
    REQUIRE(float_to_bfloat(std::bit_cast<float>(bits + 0x7fff)) == b);
    REQUIRE(float_to_bfloat(std::bit_cast<float>(bits + 0x8001)) == b + 1);
  }
  CHECK(std::isnan(bfloat_to_float(float_to_bfloat(NAN))));
}

}  // namespace shoal
