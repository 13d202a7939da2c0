// Formats: decoding against the gguf package's values, packing and reading back, sizes, and refusals.
#include "tensor/format.h"

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <span>
#include <vector>

#include "base/error.h"
#include "tensor/half.h"
#include "tensor/weight_matrix.h"
#include "tests/tensor/fixtures/format_fixtures.h"

namespace shoal {
namespace {

// Rows of random bytes. Any bytes are a valid row of any format, but NaN would never compare equal.
std::vector<std::byte> random_rows(const Format& format, int64_t rows, int64_t cols, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> bytes(format.row_bytes(cols) * rows);
  for (auto& b : bytes)
    b = static_cast<std::byte>(random() & 0xbf);  // no half or float has all exponent bits set
  return bytes;
}

std::vector<uint32_t> bits_of(const std::vector<float>& values) {
  std::vector<uint32_t> bits;
  for (float v : values) bits.push_back(std::bit_cast<uint32_t>(v));
  return bits;
}

}  // namespace

TEST_CASE("every half converts exactly") {
  for (uint32_t h = 0; h < 65536; ++h) {
    const int exponent = (h >> 10) & 31;
    const float fraction = static_cast<float>(h & 1023);
    const float sign = h & 0x8000 ? -1.0f : 1.0f;
    const float got = half_to_float(static_cast<uint16_t>(h));
    if (exponent == 31) {
      CHECK((h & 1023 ? std::isnan(got) : got == sign * INFINITY));
    } else {
      const float magnitude =
          exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024.0f + fraction, exponent - 25);
      CHECK(got == sign * magnitude);
      CHECK(std::signbit(got) == (sign < 0));
    }
  }
}

TEST_CASE("decode gives the values of the gguf package") {
  for (const FormatFixture& fixture : kFormatFixtures) {
    const Format& format = format_of(fixture.type);
    CAPTURE(format.name);
    REQUIRE(format.row_bytes(static_cast<int64_t>(fixture.n_floats)) == fixture.n_bytes);
    std::vector<float> got(fixture.n_floats);
    format.decode(reinterpret_cast<const std::byte*>(fixture.bytes), static_cast<int64_t>(got.size()),
                  got.data());
    CHECK(bits_of(got) == std::vector<uint32_t>(fixture.floats, fixture.floats + fixture.n_floats));
  }
}

TEST_CASE("a packed row reads back as the file's row, in whatever pieces it was packed") {
  for (const std::string& name : known_formats()) {
    for (uint32_t id = 0; id < 64; ++id) {
      const Format* format = find_format(id);
      if (format == nullptr || format->name != name) continue;
      CAPTURE(name);
      const int64_t rows = 41, cols = format->block == 256 ? 512 : 96;
      const auto raw = random_rows(*format, rows, cols, id);
      const size_t row_bytes = format->row_bytes(cols);
      WeightMatrix whole(format->type, rows, cols), pieces(format->type, rows, cols);
      CHECK(whole.bytes() == row_bytes * 48);  // the file's bytes, rows rounded up to 16
      whole.pack_rows(0, rows, raw);
      const std::span<const std::byte> all(raw);
      pieces.pack_rows(32, 9, all.subspan(32 * row_bytes));
      pieces.pack_rows(0, 32, all.first(32 * row_bytes));
      CHECK(std::memcmp(whole.group(0), pieces.group(0), whole.bytes()) == 0);
      for (int64_t r = 0; r < rows; ++r) {
        std::vector<float> expected(cols), got(cols);
        format->decode(raw.data() + r * row_bytes, cols, expected.data());
        whole.decode_row(r, got.data());
        REQUIRE(bits_of(got) == bits_of(expected));
      }
    }
  }
}

TEST_CASE("packing keeps every bit: one flipped bit of the file changes one byte of the packed form") {
  for (uint32_t id = 0; id < 64; ++id) {
    const Format* format = find_format(id);
    if (format == nullptr) continue;
    CAPTURE(format->name);
    const int64_t cols = 256;
    auto raw = random_rows(*format, 16, cols, 7);
    WeightMatrix before(format->type, 16, cols), after(format->type, 16, cols);
    before.pack_rows(0, 16, raw);
    for (size_t at = 3 * format->row_bytes(cols); at < 4 * format->row_bytes(cols); ++at) {
      raw[at] ^= std::byte{0x10};
      after.pack_rows(0, 16, raw);
      raw[at] ^= std::byte{0x10};
      int different = 0;
      for (size_t i = 0; i < before.bytes(); ++i) different += before.group(0)[i] != after.group(0)[i];
      REQUIRE(different == 1);
    }
  }
}

TEST_CASE("unknown ids have no format and impossible shapes are refused by name") {
  CHECK(find_format(0) != nullptr);
  CHECK(find_format(4) == nullptr);
  CHECK(find_format(0xffffffffu) == nullptr);
  CHECK(known_formats().size() == 25);
  CHECK_THROWS_WITH_AS(WeightMatrix(TensorType::kQ4_K, 16, 288), doctest::Contains("blocks of 256"),
                       SetupError);
  CHECK_THROWS_AS(WeightMatrix(TensorType::kQ8_0, 0, 32), SetupError);
  CHECK_THROWS_AS(WeightMatrix(TensorType::kF32, INT64_MAX, 1 << 20), SetupError);
  CHECK_THROWS_AS(WeightMatrix(TensorType::kF32, 1 << 20, int64_t{1} << 42), SetupError);
}

}  // namespace shoal
