// Encoders of the lattice formats: what encode_test.cc's hashes do not say. Importance helps where it is
// large, zeros stay in their place, and no finite row is too large or too small.
#include <doctest/doctest.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "tensor/format.h"
#include "tensor/formats/lattice_points.h"

namespace shoal {
namespace {

constexpr TensorType kLattices[] = {TensorType::kIQ1_S,  TensorType::kIQ1_M, TensorType::kIQ2_XXS,
                                    TensorType::kIQ2_XS, TensorType::kIQ2_S, TensorType::kIQ3_XXS,
                                    TensorType::kIQ3_S};

std::vector<float> normal_row(int n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<float> row(static_cast<size_t>(n));
  for (float& v : row) v = normal(random);
  return row;
}

std::vector<std::byte> encoded(const Format& format, const std::vector<float>& x, const float* importance) {
  std::vector<std::byte> bytes(format.row_bytes(static_cast<int64_t>(x.size())));
  format.encode(x.data(), static_cast<int64_t>(x.size()), importance, bytes.data());
  return bytes;
}

std::vector<float> round_trip(const Format& format, const std::vector<float>& x, const float* importance) {
  const std::vector<std::byte> bytes = encoded(format, x, importance);
  std::vector<float> back(x.size());
  format.decode(bytes.data(), static_cast<int64_t>(x.size()), back.data());
  return back;
}

// Relative to the values, over columns k with chosen(k).
template <class Chosen>
double error_over(const std::vector<float>& x, const std::vector<float>& back, Chosen chosen) {
  double error = 0, total = 0;
  for (size_t k = 0; k < x.size(); ++k) {
    if (!chosen(k)) continue;
    error += std::pow(double{back[k]} - x[k], 2);
    total += std::pow(double{x[k]}, 2);
  }
  return std::sqrt(error / total);
}

}  // namespace

TEST_CASE("lattice encoders: the error of normal weights is that of the format") {
  // A little above what they leave; a scalar format of as many bits leaves more.
  const double bounds[] = {0.66, 0.62, 0.42, 0.38, 0.33, 0.27, 0.22};
  for (size_t i = 0; i < std::size(kLattices); ++i) {
    const Format& format = format_of(kLattices[i]);
    const std::vector<float> x = normal_row(4096, 3), ones(x.size(), 1.0f);
    for (const float* importance : {static_cast<const float*>(nullptr), ones.data()}) {
      const double error = error_over(x, round_trip(format, x, importance), [](size_t) { return true; });
      CAPTURE(std::string(format.name));
      CAPTURE(error);
      CHECK(error < bounds[i]);
      CHECK(error > bounds[i] / 2);
    }
  }
}

TEST_CASE("lattice encoders: columns that matter are nearer, others pay for it") {
  for (TensorType type : kLattices) {
    const Format& format = format_of(type);
    CAPTURE(std::string(format.name));
    const std::vector<float> x = normal_row(4096, 5), even(x.size(), 1.0f);
    std::vector<float> uneven(x.size(), 1.0f);
    const auto matters = [](size_t k) { return k % 4 == 1; };
    for (size_t k = 0; k < x.size(); ++k) {
      if (matters(k)) uneven[k] = 100;
    }
    const std::vector<float> plain = round_trip(format, x, even.data());
    const std::vector<float> weighted = round_trip(format, x, uneven.data());
    CHECK(error_over(x, weighted, matters) < 0.95 * error_over(x, plain, matters));
    CHECK(error_over(x, weighted, [&](size_t k) { return !matters(k); }) >
          error_over(x, plain, [&](size_t k) { return !matters(k); }));
  }
}

TEST_CASE("lattice encoders: zeros before, between and after other values leave those where they are") {
  for (TensorType type : kLattices) {
    const Format& format = format_of(type);
    CAPTURE(std::string(format.name));
    std::vector<float> x = normal_row(768, 7);
    const auto zero = [](size_t k) { return k < 32 || (k >= 96 && k < 160) || k >= 512; };
    for (size_t k = 0; k < x.size(); ++k) {
      if (zero(k)) x[k] = 0;
    }
    const std::vector<float> ones(x.size(), 1.0f), back = round_trip(format, x, ones.data());
    CHECK(error_over(x, back, [&](size_t k) { return !zero(k); }) < 0.7);
    CHECK(std::all_of(back.begin() + 512, back.end(), [](float v) { return v == 0; }));
    const float largest = *std::max_element(back.begin(), back.end());
    for (size_t k = 0; k < 512; ++k) {
      if (zero(k)) CHECK(std::fabs(back[k]) < 0.1f * largest);
    }
  }
}

TEST_CASE("lattice encoders: absent importance counts every column alike where the reference wants one") {
  const std::vector<float> x = normal_row(1024, 9), ones(x.size(), 1.0f);
  for (TensorType type : {TensorType::kIQ1_S, TensorType::kIQ2_XXS, TensorType::kIQ2_XS}) {
    CHECK(encoded(format_of(type), x, nullptr) == encoded(format_of(type), x, ones.data()));
  }
}

TEST_CASE("lattice encoders: any finite row is encoded, with any importance") {
  for (TensorType type : kLattices) {
    const Format& format = format_of(type);
    CAPTURE(std::string(format.name));
    const std::vector<float> x = normal_row(256, 11), none(x.size(), 0.0f), huge(x.size(), FLT_MAX);
    for (float factor : {0.0f, 1e-45f, 1e-38f, 1e-20f, 1.0f, 1e15f, 1e30f, FLT_MAX}) {
      std::vector<float> scaled = x;
      for (float& v : scaled) v = std::clamp(v * factor, -FLT_MAX, FLT_MAX);
      for (const float* importance : {static_cast<const float*>(nullptr), none.data(), huge.data()}) {
        CHECK(encoded(format, scaled, importance).size() == static_cast<size_t>(format.block_bytes));
      }
    }
  }
}

TEST_CASE("lattice points: a cell's candidates are all points at its least distances, nearest first") {
  const LatticePoints& lattice = lattice_points_iq2_xs();
  int held = 0;
  for (size_t cell = 0; cell < 6561; cell += lattice.holds(cell) ? 1 : 37) {
    float own[8];
    size_t rest = cell;
    for (float& v : own) {
      v = static_cast<float>(2 * (rest % 3) + 1);
      rest /= 3;
    }
    std::vector<std::pair<float, uint16_t>> all;
    for (uint16_t p = 0; p < 512; ++p) {
      float distance = 0;
      for (int i = 0; i < 8; ++i) distance += std::pow(lattice.values(p)[i] - own[i], 2.0f);
      all.emplace_back(distance, p);
    }
    std::sort(all.begin(), all.end());
    std::set<float> shells;
    std::vector<uint16_t> want;
    for (const auto& [distance, p] : all) {
      shells.insert(distance);
      if (shells.size() > (all[0].first == 0 ? 1u : 2u)) break;
      want.push_back(p);
    }
    held += lattice.holds(cell);
    REQUIRE(lattice.holds(cell) == (all[0].first == 0));
    REQUIRE(std::vector<uint16_t>(lattice.near(cell).begin(), lattice.near(cell).end()) == want);
  }
  CHECK(held > 10);
}

}  // namespace shoal
