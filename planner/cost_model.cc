#include "planner/cost_model.h"

#include <algorithm>

#include "base/check.h"
#include "planner/planner.h"

namespace shoal {

double seconds_at_rows(const std::vector<RowSeconds>& points, int rows) {
  if (points.empty()) return 0;
  if (rows <= points.front().rows) return points.front().seconds;
  for (size_t i = 1; i < points.size(); ++i) {
    const RowSeconds &low = points[i - 1], &high = points[i];
    if (rows > high.rows) continue;
    const double part = static_cast<double>(rows - low.rows) / static_cast<double>(high.rows - low.rows);
    return low.seconds + part * (high.seconds - low.seconds);
  }
  const RowSeconds& last = points.back();
  if (points.size() == 1) return last.seconds * rows / last.rows;
  const RowSeconds& before = points[points.size() - 2];
  const double slope = (last.seconds - before.seconds) / static_cast<double>(last.rows - before.rows);
  return last.seconds + std::max(0.0, slope) * static_cast<double>(rows - last.rows);
}

CostModel::CostModel(const PlanInput& input) : input_(input) {
  const ModelProfile& model = input.model;
  const auto n = static_cast<size_t>(model.n_layer);
  weight_prefix_.assign(n + 1, 0);
  kv_prefix_.assign(n + 1, 0);
  for (size_t i = 0; i < n; ++i) {
    weight_prefix_[i + 1] = weight_prefix_[i] + model.layer_bytes[i];
    kv_prefix_[i + 1] = kv_prefix_[i] + model.layer_kv_bytes[i];
  }
  const double mean_bytes = n ? static_cast<double>(weight_prefix_[n]) / static_cast<double>(n) : 0;
  scale_prefix_.resize(input.devices.size());
  for (size_t d = 0; d < input.devices.size(); ++d) {
    const std::vector<double>& scale = input.devices[d].layer_scale;
    std::vector<double>& prefix = scale_prefix_[d];
    prefix.assign(n + 1, 0);
    for (size_t i = 0; i < n; ++i) {
      double average_layers = 1;
      if (!scale.empty()) {
        average_layers = scale[i];
      } else if (mean_bytes > 0) {
        average_layers = static_cast<double>(model.layer_bytes[i]) / mean_bytes;
      }
      prefix[i + 1] = prefix[i] + average_layers;
    }
  }
}

double CostModel::scaled_layers(int device, int begin, int end) const {
  const std::vector<double>& prefix = scale_prefix_[static_cast<size_t>(device)];
  return prefix[static_cast<size_t>(end)] - prefix[static_cast<size_t>(begin)];
}

double CostModel::compute_seconds(int device, const UnitRange& range, int rows) const {
  const DeviceProfile& profile = input_.devices[static_cast<size_t>(device)];
  double seconds = 0;
  if (range.embedding) seconds += profile.embedding_row_seconds * rows;
  seconds +=
      scaled_layers(device, range.layer_begin, range.layer_end) * seconds_at_rows(profile.decode_layer, rows);
  if (range.output) seconds += seconds_at_rows(profile.output_head, rows);
  return seconds;
}

double CostModel::prefill_seconds(int device, const UnitRange& range, int rows) const {
  const DeviceProfile& profile = input_.devices[static_cast<size_t>(device)];
  const double whole_chunk = profile.prefill_layer_row_seconds * kPrefillChunkRows;
  double layer = profile.prefill_layer_row_seconds * rows;
  // A small chunk reads the weights as often as a large one: like a step of so many decoding rows.
  if (rows < kPrefillChunkRows)
    layer = std::max(layer, std::min(whole_chunk, seconds_at_rows(profile.decode_layer, rows)));
  return scaled_layers(device, range.layer_begin, range.layer_end) * layer +
         (range.embedding ? profile.embedding_row_seconds * rows : 0) +
         (range.output ? seconds_at_rows(profile.output_head, 1) : 0);
}

double CostModel::message_seconds(int from, int to, uint64_t bytes) const {
  if (from == to) return 0;
  return input_.links.at(from, to).latency_s + occupancy_seconds(from, to, bytes);
}

double CostModel::occupancy_seconds(int from, int to, uint64_t bytes) const {
  if (from == to) return 0;
  const LinkProfile& link = input_.links.at(from, to);
  return link.bytes_per_s > 0 ? static_cast<double>(bytes) / link.bytes_per_s : kUnusable;
}

MemoryUse CostModel::stage_memory(const UnitRange& range) const {
  const ModelProfile& model = input_.model;
  const auto begin = static_cast<size_t>(range.layer_begin), end = static_cast<size_t>(range.layer_end);
  MemoryUse use;
  use.weights = weight_prefix_[end] - weight_prefix_[begin];
  if (range.embedding || (range.output && model.tied_output)) use.weights += model.embedding_bytes;
  if (range.output) use.weights += model.output_bytes;
  if (end > begin) use.weights += model.shared_bytes;
  use.kv = kv_prefix_[end] - kv_prefix_[begin];
  use.scratch = model.scratch_bytes + (range.output ? model.scratch_output_bytes : 0);
  return use;
}

namespace {

// Where a stage's output goes, and how many bytes a row has.
struct NextMessage {
  int to;
  uint64_t bytes_per_row;
};

NextMessage message_after(const PlanInput& input, const std::vector<StageAssignment>& stages, size_t i) {
  if (i + 1 < stages.size()) return {stages[i + 1].device, input.model.hidden_bytes_per_row};
  return {input.constraints.head, input.model.result_bytes_per_row};
}

void fill_memory(const PlanInput& input, const CostModel& cost, std::vector<StageAssignment>& stages) {
  for (size_t i = 0; i < stages.size(); ++i) {
    StageAssignment& stage = stages[i];
    stage.memory = cost.stage_memory(unit_range(stage));
    const auto first = std::find_if(stages.begin(), stages.end(),
                                    [&](const StageAssignment& s) { return s.device == stage.device; });
    const bool earlier = first != stages.begin() + static_cast<std::ptrdiff_t>(i);
    if (!earlier) {
      stage.memory.base = input.model.base_bytes;
    } else if (stage.output && input.model.tied_output && first->embedding) {
      stage.memory.weights -= input.model.embedding_bytes;  // the first stage already holds the matrix
    }
  }
}

// The full pipeline's slowest device or link. A device computes all its stages in one step's time.
Bottleneck find_bottleneck(const PlanInput& input, const std::vector<StageAssignment>& stages) {
  Bottleneck worst;
  worst.seconds = -1;
  std::vector<double> load(input.devices.size(), 0);
  for (const StageAssignment& stage : stages) load[static_cast<size_t>(stage.device)] += stage.full_seconds;
  for (const StageAssignment& stage : stages) {
    const double seconds = load[static_cast<size_t>(stage.device)];
    if (seconds > worst.seconds) worst = {false, stage.device, stage.device, seconds};
  }
  if (stages.front().full_hop_in_seconds > worst.seconds)
    worst = {true, input.constraints.head, stages.front().device, stages.front().full_hop_in_seconds};
  for (size_t i = 0; i < stages.size(); ++i) {
    const double seconds = stages[i].full_hop_out_seconds;
    if (seconds > worst.seconds)
      worst = {true, stages[i].device, message_after(input, stages, i).to, seconds};
  }
  return worst;
}

// The seconds until a prompt has been read in chunks, one behind the other down the pipeline: one lap of a
// chunk, and the others behind it at the slowest place's pace.
double read_seconds(const PlanInput& input, const CostModel& cost, const std::vector<StageAssignment>& stages,
                    int prompt, int chunk) {
  const int chunks = (prompt + chunk - 1) / chunk;
  const ModelProfile& model = input.model;
  const auto bytes = [&](uint64_t per_row) { return per_row * static_cast<uint64_t>(chunk); };
  const int head = input.constraints.head, first = stages.front().device;
  double lap = cost.message_seconds(head, first, bytes(model.token_bytes_per_row));
  double pace = cost.occupancy_seconds(head, first, bytes(model.token_bytes_per_row));
  std::vector<double> load(input.devices.size(), 0);
  for (size_t i = 0; i < stages.size(); ++i) {
    const double seconds = cost.prefill_seconds(stages[i].device, unit_range(stages[i]), chunk);
    double& device_load = load[static_cast<size_t>(stages[i].device)];
    device_load += seconds;
    pace = std::max(pace, device_load);
    lap += seconds;
    const NextMessage next = message_after(input, stages, i);
    const bool last = i + 1 == stages.size();
    const uint64_t size =
        last ? next.bytes_per_row : bytes(next.bytes_per_row);  // only the last row's result comes home
    lap += cost.message_seconds(stages[i].device, next.to, size);
    pace = std::max(pace, cost.occupancy_seconds(stages[i].device, next.to, size));
  }
  return lap + (chunks - 1) * pace;
}

// Every device with a stage idles for the whole lap and draws the rest of its busy watts while it computes.
double one_stream_joules(const PlanInput& input, const std::vector<StageAssignment>& stages, double lap) {
  double joules = 0;
  std::vector<bool> counted(input.devices.size(), false);
  for (const StageAssignment& stage : stages) {
    const DeviceProfile& device = input.devices[static_cast<size_t>(stage.device)];
    if (device.busy_watts <= 0) return 0;
    if (!counted[static_cast<size_t>(stage.device)]) joules += device.idle_watts * lap;
    counted[static_cast<size_t>(stage.device)] = true;
    joules += (device.busy_watts - device.idle_watts) * stage.seconds;
  }
  return joules;
}

}  // namespace

PromptReading read_prompt(const PlanInput& input, const CostModel& cost,
                          const std::vector<StageAssignment>& stages, int prompt_tokens) {
  const int prompt = std::max(1, prompt_tokens);
  PromptReading best{1, kUnusable};
  for (int rows : {4, 8, 16, 32, 64, 128}) {
    const int chunk = std::min(rows, prompt);
    const double seconds = read_seconds(input, cost, stages, prompt, chunk);
    if (seconds < best.seconds) best = {chunk, seconds};
  }
  return best;
}

Prediction evaluate(const PlanInput& input, std::vector<StageAssignment>& stages) {
  const int devices = static_cast<int>(input.devices.size());
  SHOAL_CHECK(!stages.empty() && stages.front().embedding && stages.back().output);
  SHOAL_CHECK(input.links.devices() == devices && input.constraints.head >= 0 &&
              input.constraints.head < devices);
  for (const StageAssignment& stage : stages) {
    SHOAL_CHECK(stage.device >= 0 && stage.device < devices && stage.layer_begin >= 0);
    SHOAL_CHECK(stage.layer_begin <= stage.layer_end && stage.layer_end <= input.model.n_layer);
  }
  const CostModel cost(input);
  const int rows = std::max(1, input.workload.concurrency);
  const ModelProfile& model = input.model;
  int from = input.constraints.head;
  uint64_t row_bytes = model.token_bytes_per_row;
  Prediction predicted;
  for (size_t i = 0; i < stages.size(); ++i) {
    StageAssignment& stage = stages[i];
    stage.seconds = cost.compute_seconds(stage.device, unit_range(stage), 1);
    stage.full_seconds = cost.compute_seconds(stage.device, unit_range(stage), rows);
    stage.hop_in_seconds = cost.message_seconds(from, stage.device, row_bytes);
    stage.full_hop_in_seconds =
        cost.occupancy_seconds(from, stage.device, row_bytes * static_cast<uint64_t>(rows));
    const NextMessage next = message_after(input, stages, i);
    stage.hop_out_seconds = cost.message_seconds(stage.device, next.to, next.bytes_per_row);
    stage.full_hop_out_seconds =
        cost.occupancy_seconds(stage.device, next.to, next.bytes_per_row * static_cast<uint64_t>(rows));
    predicted.seconds_per_token +=
        (i == 0 ? stage.hop_in_seconds : 0) + stage.seconds + stage.hop_out_seconds;
    from = stage.device;
    row_bytes = model.hidden_bytes_per_row;
  }
  fill_memory(input, cost, stages);
  predicted.bottleneck = find_bottleneck(input, stages);
  predicted.tokens_per_second = predicted.bottleneck.seconds > 0 ? rows / predicted.bottleneck.seconds : 0;
  predicted.first_token_seconds = read_prompt(input, cost, stages, input.workload.prompt_tokens).seconds;
  predicted.joules_per_token = one_stream_joules(input, stages, predicted.seconds_per_token);
  return predicted;
}

MemoryUse device_memory(const std::vector<StageAssignment>& stages, int device) {
  MemoryUse sum;
  for (const StageAssignment& stage : stages) {
    if (stage.device != device) continue;
    sum.weights += stage.memory.weights;
    sum.kv += stage.memory.kv;
    sum.scratch += stage.memory.scratch;
    sum.base += stage.memory.base;
  }
  return sum;
}

}  // namespace shoal
