#include "node/probe.h"

#include <doctest/doctest.h>

#include <cmath>

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
    CHECK(layer_rows == std::vector<int>{1, 2, 4, 8, 16});
    CHECK(head_rows == std::vector<int>{1, 4, 16});
    CHECK(profile.prefill_layer_row_seconds > 0);
    CHECK(profile.prefill_layer_row_seconds < 1);
    CHECK(profile.embedding_row_seconds > 0);
  }
}

TEST_CASE("reading memory has a finite speed") {
  const double rate = probe_memory_read(3);
  CHECK(std::isfinite(rate));
  CHECK(rate > 1e6);
}

}  // namespace shoal::test
