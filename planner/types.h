// What the planner reads and what it returns: plain values, no behaviour but small accessors, no threads, no
// I/O.
//
// A model is a row of *units*: the embedding, each layer, the output head. A plan cuts that row into
// contiguous stages and gives each stage to one device; a device holds at most one stage, except that where
// KeepOnHead::ends() the head device also holds the last stage: the output head with exactly the last layers
// that were asked for. Layer indices are global and ranges half-open. Devices are indices into
// PlanInput::devices.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace shoal {

inline constexpr int kPlanDevicesMax = 1024;  // devices named in one plan
inline constexpr int kPlanLayersMax = 4096;   // layers of one model
inline constexpr int kPlanRowsMax = 1 << 20;  // rows of a step, tokens of a prompt
inline constexpr int kPrefillChunkRows = 32;  // rows of the prompt chunk that a device is measured with

enum class Objective {
  kLatency,     // least time per token of one stream
  kThroughput,  // least bottleneck of a full pipeline
  kEnergy,      // least joules per token of one stream
};

// Which units must be on the head device (the one prompts come in at).
struct KeepOnHead {
  int first = 1;  // the embedding and at least so many first layers: token ids never leave the head. 0: any
                  // device may be first, and token ids travel to it
  int last = -1;  // the output head and exactly so many last layers: hidden comes home, no logits reach
                  // another device. -1: the output head may be anywhere
  bool begins() const { return first > 0; }
  bool ends() const { return last >= 0; }
  bool operator==(const KeepOnHead&) const = default;
  static const KeepOnHead kNone, kFirstLayer, kEnds;
};
inline constexpr KeepOnHead KeepOnHead::kNone{0, -1};
inline constexpr KeepOnHead KeepOnHead::kFirstLayer{1, -1};
inline constexpr KeepOnHead KeepOnHead::kEnds{1, 0};

// One model as cut by the planner. Bytes are resident bytes.
struct ModelProfile {
  std::string name;
  int n_layer = 0;
  int n_embd = 0;
  int context = 0;    // tokens a sequence that layer_kv_bytes is for; 0: not known
  int sequences = 0;  // concurrent sequences that it is for; 0: not known
  uint64_t embedding_bytes = 0;
  std::vector<uint64_t> layer_bytes;     // [n_layer] weights
  std::vector<uint64_t> layer_kv_bytes;  // [n_layer] KV cache for the chosen context and sequences
  uint64_t output_bytes = 0;             // output norm, and the head matrix unless tied
  bool tied_output = false;    // the head's matrix is the embedding: a device with the output head needs
                               // embedding_bytes too, once
  uint64_t shared_bytes = 0;   // for every device with at least one layer (rope factors, ...)
  uint64_t scratch_bytes = 0;  // activations and scratch of one stage
  uint64_t scratch_output_bytes = 0;    // more of it in the stage with the output head (logits)
  uint64_t base_bytes = 0;              // one process before it holds any of the model
  uint64_t hidden_bytes_per_row = 0;    // what crosses a link between stages (n_embd * 4 with f32)
  uint64_t token_bytes_per_row = 8;     // what reaches a first stage that is not on the head
  uint64_t result_bytes_per_row = 256;  // what the last stage sends home
};

// A measured time for a number of rows.
struct RowSeconds {
  int rows = 1;
  double seconds = 0;
  bool operator==(const RowSeconds&) const = default;
};

// Times are linear between the points of a list, constant per row before the first point's rows are reached
// (a step of fewer rows costs as much as the first point), and continue the last two points' slope beyond the
// last; a single point is proportional to rows beyond itself.
struct DeviceProfile {
  std::string name;
  std::string type;                      // for people only ("pi5"); never decides anything
  uint64_t memory_bytes = 0;             // budget for everything the process holds
  std::vector<RowSeconds> decode_layer;  // one average layer, decode, by rows of the step
  std::vector<RowSeconds> output_head;   // by rows that ask for logits
  double embedding_row_seconds = 0;
  double prefill_layer_row_seconds = 0;  // one average layer, one row of a prompt chunk
  std::vector<double>
      layer_scale;              // [n_layer] or empty: layer i costs scale[i] average layers; empty: by bytes
  double load_bytes_per_s = 0;  // weights from its disk into a stage; 0: not known, and nothing in a move
  double idle_watts = 0;        // drawn while it waits
  double busy_watts = 0;        // drawn while it computes; 0: unknown
  bool trusted = true;
  int layers_max = 0;   // 0: as many as fit
  bool allowed = true;  // false: this device takes no stage
  bool operator==(const DeviceProfile&) const = default;
};

// One direction of a link. bytes_per_s <= 0: the link cannot be used.
struct LinkProfile {
  double latency_s = 0;
  double bytes_per_s = 0;
  bool operator==(const LinkProfile&) const = default;
};

// Every directed link between `devices` devices; what is never set is `fallback`. A device to itself costs
// nothing.
class LinkTable {
 public:
  LinkTable() = default;
  LinkTable(int devices, LinkProfile fallback)
      : devices_(devices), links_(static_cast<size_t>(devices) * static_cast<size_t>(devices), fallback) {}
  int devices() const { return devices_; }
  void set(int from, int to, LinkProfile link) { links_[index(from, to)] = link; }
  void set_both(int a, int b, LinkProfile link) { set(a, b, link), set(b, a, link); }
  const LinkProfile& at(int from, int to) const { return links_[index(from, to)]; }

 private:
  size_t index(int from, int to) const {
    return static_cast<size_t>(from) * static_cast<size_t>(devices_) + static_cast<size_t>(to);
  }
  int devices_ = 0;
  std::vector<LinkProfile> links_;
};

struct Workload {
  int prompt_tokens = 128;
  int output_tokens = 128;
  int concurrency = 1;  // decode rows of one step while the pipeline is full
};

struct ManualRange {
  int device = 0;
  int layer_begin = 0;
  int layer_end = 0;
};

struct Constraints {
  int head = 0;  // device index
  KeepOnHead keep_on_head = KeepOnHead::kFirstLayer;
  std::vector<ManualRange> manual;  // empty: the planner chooses. Else complete: every layer exactly once.
  std::vector<int> excluded;        // devices that take no stage
  int trusted_first_layers = 0;     // so many first layers (with the embedding) only on trusted devices
  int trusted_last_layers = 0;      // so many last layers (with the output head) only on trusted devices
};

struct PlanInput {
  ModelProfile model;
  std::vector<DeviceProfile> devices;
  LinkTable links;
  Workload workload;
  Constraints constraints;
  Objective objective = Objective::kLatency;
};

struct MemoryUse {
  uint64_t weights = 0;
  uint64_t kv = 0;
  uint64_t scratch = 0;
  uint64_t base = 0;
  uint64_t total() const { return weights + kv + scratch + base; }
  bool operator==(const MemoryUse&) const = default;
};

// One stage, in pipeline order. `device` to `output` are the decision; the rest is what evaluate() predicts.
struct StageAssignment {
  int device = 0;
  bool embedding = false;
  int layer_begin = 0;
  int layer_end = 0;
  bool output = false;

  double seconds = 0;              // computing a step of 1 row
  double full_seconds = 0;         // computing a step of `concurrency` rows
  double hop_in_seconds = 0;       // the message that reaches this stage, 1 row: latency + bytes / bandwidth
  double hop_out_seconds = 0;      // the message it sends on (from the last stage: to the head), 1 row
  double full_hop_in_seconds = 0;  // how long `concurrency` rows occupy the link: bytes / bandwidth
  double full_hop_out_seconds = 0;
  MemoryUse memory;  // of this stage; a device's base, and a tied embedding, count in its first stage
  int layers() const { return layer_end - layer_begin; }
  bool operator==(const StageAssignment&) const = default;
};

struct Bottleneck {
  bool link = false;  // a link from `from` to `to`; else the device `from` computing
  int from = 0;
  int to = 0;
  double seconds = 0;  // per step
  bool operator==(const Bottleneck&) const = default;
};

struct Prediction {
  double seconds_per_token = 0;    // one stream: all computing and all hops of one lap, with the return hop
  double tokens_per_second = 0;    // pipeline full of steps of `concurrency` rows: concurrency / bottleneck
  double first_token_seconds = 0;  // a prompt of the workload's length, in chunks, alone
  double joules_per_token = 0;     // one stream, all devices with a stage; 0: some device's watts are unknown
  Bottleneck bottleneck;           // of the full pipeline
  bool operator==(const Prediction&) const = default;
};

struct DeviceReason {
  int device = 0;
  bool used = false;
  std::string text;  // why, for a person
  bool operator==(const DeviceReason&) const = default;
};

struct Plan {
  Objective objective = Objective::kLatency;
  KeepOnHead keep_on_head = KeepOnHead::kFirstLayer;
  bool manual = false;
  bool for_targets = false;  // chosen among candidates for a service's targets (planner/pareto.h)
  int head = 0;
  int n_layer = 0;
  std::vector<std::string> devices;     // names, by device index
  std::vector<StageAssignment> stages;  // pipeline order
  Prediction predicted;
  double gap = 0;  // 0: proven best. Else the objective may be this fraction above the best possible.
  std::vector<DeviceReason> reasons;  // one a device, in device order
  bool operator==(const Plan&) const = default;
};

}  // namespace shoal
