#include "node/probe.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "tensor/float_ops.h"
#include "tests/node/local_cluster.h"

namespace shoal::test {

TEST_CASE("the probe measures every row count that the planner asks for") {
  const GgufFile file = GgufFile::open(small_model_file(TensorType::kQ4_0));
  const ModelConfig config = ModelConfig::from(file);
  for (const uint64_t memory :
       {uint64_t{1} << 30, uint64_t{1}}) {  // one layer is measured whatever the budget
    const DeviceProfile profile = probe_device(file, config, select_kernels(), {2, memory});
    CHECK(profile.memory_bytes == memory);
    CHECK(profile.type == select_kernels().name);
    std::vector<int> layer_rows, head_rows;
    for (const RowSeconds& point : profile.decode_layer) {
      layer_rows.push_back(point.rows);
      CHECK(point.seconds > 0);
      CHECK(point.seconds < 1);
    }
    for (const RowSeconds& point : profile.output_head) {
      head_rows.push_back(point.rows);
      CHECK(point.seconds > 0);
      CHECK(point.seconds < 1);
    }
    // Whatever else the machine does meanwhile: more rows never take less time.
    const auto faster = [](const RowSeconds& a, const RowSeconds& b) { return a.seconds < b.seconds; };
    CHECK(std::is_sorted(profile.decode_layer.begin(), profile.decode_layer.end(), faster));
    CHECK(std::is_sorted(profile.output_head.begin(), profile.output_head.end(), faster));
    CHECK(layer_rows == std::vector<int>{1, 2, 4, 8, 16});
    CHECK(head_rows == std::vector<int>{1, 4, 16});
    CHECK(profile.prefill_layer_row_seconds > 0);
    CHECK(profile.prefill_layer_row_seconds < 1);
    CHECK(profile.embedding_row_seconds > 0);
  }
}

TEST_CASE("a device whose kernels compute wrongly does not take part") {
  const GgufFile file = GgufFile::open(small_model_file(TensorType::kQ4_0));
  FloatOps floats = *select_kernels("generic").floats;
  floats.add = [](float* x, const float* y, int n) {
    for (int i = 0; i < n; ++i) x[i] = i == 100 ? x[i] : x[i] + y[i];
  };
  Kernels wrong = select_kernels("generic");
  wrong.floats = &floats;
  CHECK_THROWS_WITH_AS(
      probe_device(file, ModelConfig::from(file), wrong, {1, 1}),
      doctest::Contains("the kernels generic compute add wrongly here: this device must not take part"),
      SetupError);
}

TEST_CASE("reading memory has a finite speed") {
  const double rate = probe_memory_read(3);
  CHECK(std::isfinite(rate));
  CHECK(rate > 1e6);
}

}  // namespace shoal::test
