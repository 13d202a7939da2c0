// Both solvers against every plan there is, priced by an evaluator of this file's own.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "planner/random_input.h"

namespace shoal {
namespace {

constexpr double kNone = std::numeric_limits<double>::infinity();

// Times and memory straight from their definitions, nothing shared with the planner.
class Oracle {
 public:
  explicit Oracle(const PlanInput& input) : in_(input) {}

  double best() {
    best_ = kNone;
    const KeepOnHead& keep = in_.constraints.keep_on_head;
    units_ = in_.model.n_layer + 2 - (keep.ends() ? 1 + keep.last : 0);
    std::vector<Part> parts;
    place(0, parts);
    return best_;
  }

 private:
  struct Part {
    int device, begin, end;  // units; 0 is the embedding, n + 1 the output head
  };

  void place(int from, std::vector<Part>& parts) {
    if (from == units_) return finish(parts);
    for (int device = 0; device < static_cast<int>(in_.devices.size()); ++device) {
      if (std::any_of(parts.begin(), parts.end(), [&](const Part& p) { return p.device == device; }))
        continue;
      for (int end = from + 1; end <= units_; ++end) {
        parts.push_back({device, from, end});
        place(end, parts);
        parts.pop_back();
      }
    }
  }

  void finish(std::vector<Part> parts) {
    const int head = in_.constraints.head, n = in_.model.n_layer;
    const KeepOnHead& keep = in_.constraints.keep_on_head;
    if (keep.first > 0 && (parts[0].device != head || parts[0].end < 1 + keep.first)) return;
    if (keep.ends()) {
      if (parts.back().device == head) {
        parts.back().end = n + 2;
      } else {
        parts.push_back({head, n + 1 - keep.last, n + 2});
      }
    }
    if (!fits(parts) || !trusted(parts)) return;
    best_ = std::min(best_, in_.objective == Objective::kLatency ? latency(parts) : bottleneck(parts));
  }

  bool fits(const std::vector<Part>& parts) const {
    const ModelProfile& m = in_.model;
    for (size_t d = 0; d < in_.devices.size(); ++d) {
      uint64_t bytes = 0;
      bool used = false, matrix = false;
      for (const Part& part : parts) {
        if (part.device != static_cast<int>(d)) continue;
        bool layers = false;
        used = true;
        bytes += m.scratch_bytes;
        for (int u = part.begin; u < part.end; ++u) {
          if (u == 0) matrix = true;
          if (u == m.n_layer + 1) {
            bytes += m.output_bytes + m.scratch_output_bytes;
            matrix = matrix || m.tied_output;
          }
          if (u >= 1 && u <= m.n_layer) {
            layers = true;
            bytes += m.layer_bytes[static_cast<size_t>(u - 1)] + m.layer_kv_bytes[static_cast<size_t>(u - 1)];
          }
        }
        if (layers) bytes += m.shared_bytes;  // each stage has its own
      }
      if (matrix) bytes += m.embedding_bytes;
      if (used && bytes + m.base_bytes > in_.devices[d].memory_bytes) return false;
    }
    return true;
  }

  // Embedding and first layers, last layers and output head: only on trusted devices.
  bool trusted(const std::vector<Part>& parts) const {
    const Constraints& c = in_.constraints;
    const int n = in_.model.n_layer;
    return std::none_of(parts.begin(), parts.end(), [&](const Part& part) {
      if (in_.devices[static_cast<size_t>(part.device)].trusted) return false;
      const bool first = c.trusted_first_layers > 0 && part.begin <= c.trusted_first_layers;
      const bool last = c.trusted_last_layers > 0 && part.end - 1 >= n + 1 - c.trusted_last_layers;
      return first || last;
    });
  }

  double at_rows(const std::vector<RowSeconds>& points, int rows) const {
    if (points.size() == 1) return points[0].seconds * std::max(1.0, double(rows) / points[0].rows);
    REQUIRE(points.size() == 2);
    if (rows <= points[0].rows) return points[0].seconds;
    return points[0].seconds + (points[1].seconds - points[0].seconds) * (rows - points[0].rows) /
                                   (points[1].rows - points[0].rows);
  }

  double compute(const Part& part, int rows) const {
    const DeviceProfile& device = in_.devices[static_cast<size_t>(part.device)];
    const ModelProfile& m = in_.model;
    double mean = 0, sum = 0;
    for (uint64_t bytes : m.layer_bytes) mean += double(bytes) / m.n_layer;
    for (int u = part.begin; u < part.end; ++u) {
      if (u == 0) {
        sum += device.embedding_row_seconds * rows;
      } else if (u == m.n_layer + 1) {
        sum += at_rows(device.output_head, rows);
      } else {
        const auto i = static_cast<size_t>(u - 1);
        sum += at_rows(device.decode_layer, rows) *
               (device.layer_scale.empty() ? double(m.layer_bytes[i]) / mean : device.layer_scale[i]);
      }
    }
    return sum;
  }

  double link(int from, int to, uint64_t bytes, bool with_latency) const {
    if (from == to) return 0;
    const LinkProfile& l = in_.links.at(from, to);
    return l.bytes_per_s <= 0 ? kNone : double(bytes) / l.bytes_per_s + (with_latency ? l.latency_s : 0);
  }

  double latency(const std::vector<Part>& parts) const {
    const ModelProfile& m = in_.model;
    const int head = in_.constraints.head;
    double sum = link(head, parts.front().device, m.token_bytes_per_row, true) +
                 link(parts.back().device, head, m.result_bytes_per_row, true);
    for (size_t i = 0; i < parts.size(); ++i) {
      sum += compute(parts[i], 1);
      if (i > 0) sum += link(parts[i - 1].device, parts[i].device, m.hidden_bytes_per_row, true);
    }
    return sum;
  }

  double bottleneck(const std::vector<Part>& parts) const {
    const ModelProfile& m = in_.model;
    const int head = in_.constraints.head, rows = in_.workload.concurrency;
    const auto r = static_cast<uint64_t>(rows);
    double worst = std::max(link(head, parts.front().device, m.token_bytes_per_row * r, false),
                            link(parts.back().device, head, m.result_bytes_per_row * r, false));
    std::vector<double> load(in_.devices.size(), 0);
    for (size_t i = 0; i < parts.size(); ++i) {
      load[static_cast<size_t>(parts[i].device)] += compute(parts[i], rows);
      if (i > 0)
        worst =
            std::max(worst, link(parts[i - 1].device, parts[i].device, m.hidden_bytes_per_row * r, false));
    }
    return std::max(worst, *std::max_element(load.begin(), load.end()));
  }

  const PlanInput& in_;
  int units_ = 0;
  double best_ = kNone;
};

sample::InputShape shape_of(unsigned seed) {
  sample::InputShape shape;
  shape.devices = 1 + static_cast<int>(seed % 5);
  shape.layers = 1 + static_cast<int>(seed / 5 % (shape.devices == 5 ? 4 : 6));
  shape.tightness = 0.9 + 0.25 * (seed / 7 % 12);
  shape.equal_layers = seed % 3 == 0;
  shape.device_scales = seed % 4 == 1;
  shape.missing_links = seed % 5 == 2;
  shape.mbps_max = seed % 2 ? 50 : 1000;
  shape.keep_layers = seed % 2 == 1;
  return shape;
}

void compare(Objective objective) {
  int planned = 0, impossible = 0;
  for (unsigned seed = 0; seed < 6000; ++seed) {
    CAPTURE(seed);
    PlanInput input = sample::random_input(shape_of(seed), seed * 7919 + 13);
    input.objective = objective;
    if (seed % 11 == 0 && input.devices.size() > 2) {  // twins: devices of one type
      input.devices[1] = input.devices[0];
      input.devices[2] = input.devices[0];
      for (int a = 0; a < input.links.devices(); ++a)
        for (int b = 0; b < input.links.devices(); ++b) input.links.set(a, b, {1e-3, 1e7});
    }
    if (seed % 13 == 0) {  // nodes that may not see the ends of the model
      input.devices.back().trusted = false;
      const int layers = input.model.n_layer;
      input.constraints.trusted_first_layers = std::min(layers, 1 + static_cast<int>(seed / 13 % 3));
      input.constraints.trusted_last_layers = std::min(layers, static_cast<int>(seed / 39 % 3));
    }
    const double best = Oracle(input).best();
    double found = kNone;
    try {
      const Plan plan = make_plan(input);
      CHECK(plan.gap == 0);
      CHECK(why_infeasible(input, plan.stages) == "");
      found = objective == Objective::kLatency ? plan.predicted.seconds_per_token
                                               : plan.predicted.bottleneck.seconds;
    } catch (const SetupError& error) {
      CHECK(std::string(error.what()).size() > 20);
    }
    if (best == kNone) {
      CHECK(found == kNone);
      ++impossible;
    } else {
      REQUIRE(found != kNone);
      CHECK(std::abs(found - best) <= 1e-9 * best);
      ++planned;
    }
  }
  MESSAGE(to_string(objective) << ": " << planned << " planned, " << impossible << " impossible");
  CHECK(planned >= 3000);
  CHECK(impossible >= 500);
}

TEST_CASE("latency plans equal brute force") {
  compare(Objective::kLatency);
}
TEST_CASE("throughput plans equal brute force") {
  compare(Objective::kThroughput);
}

}  // namespace
}  // namespace shoal
