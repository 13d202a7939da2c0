// The messages of transport/wire.capnp as plain values. Cap'n Proto's own types stay inside transport/.
//
// Read wire.capnp for what each message means, who sends it and what a receiver must check: it is the
// protocol document. The structs here carry the same fields under the same names. Ownership: every message
// owns its lists and texts; only a payload (activations, probe bytes) is a view, described at OutgoingMessage
// and IncomingMessage. Positions and slots are in tokens and cache slots, times in nanoseconds, sizes in
// bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/error.h"

namespace shoal {

// The version of the messages that this build speaks. Two nodes must speak the same one.
inline constexpr uint32_t kProtocolVersion = 1;

// Limits of the wire, checked on both sides before anything is allocated. wire.capnp repeats them in prose.
inline constexpr float kAdapterScaleMax = 100;                  // and -100
inline constexpr size_t kStepRowsMax = 4096;                    // rows of a step
inline constexpr size_t kCacheOpsMax = 4096;                    // cache operations of a step
inline constexpr size_t kTextBytesMax = size_t{1} << 20;        // any text: a name, a reason, a plan
inline constexpr size_t kProseBytesMax = size_t{4} << 10;       // of a sentence for a person; the rest is cut
inline constexpr size_t kNameBytesMax = 255;                    // a node's or cluster's name, a hash
inline constexpr size_t kStatsEntriesMax = 256;                 // stages or links in one stats message
inline constexpr size_t kStageTimesMax = 256;                   // stages that tell of one step
inline constexpr size_t kDigestBytes = 32;                      // of one stage's rows (SHA-256)
inline constexpr uint64_t kArrivalsEvery = 4;                   // steps, of which one tells when it arrived
inline constexpr size_t kMetadataBytesMax = size_t{64} << 20;   // a frame without its payload
inline constexpr size_t kPayloadBytesMax = size_t{64} << 20;    // activations or probe bytes of a frame
inline constexpr size_t kHandshakeBytesMax = size_t{16} << 10;  // a whole frame before the hello is accepted
inline constexpr size_t kWeightsBytesMax = size_t{8} << 20;     // of one request for weights
inline constexpr size_t kWeightsRequestsMax = 16;               // not answered yet, on one link
inline constexpr size_t kRevokedMax = 4096;                     // nodes shut out of a cluster
inline constexpr size_t kPayloadAlignment = 64;                 // of a receiver's payload buffer, in bytes

// What a connection is for.
enum class LinkRole : uint8_t {
  kControl,   // from the head to a worker: set-up, statistics, shutdown; results come home on it
  kPipeline,  // from stage i to stage i + 1 (stage 0 is fed by the head): steps
  kWeights,   // from a node that lacks weights to one that has them
  kProbe,     // between any two nodes: link probes alone
  kJoin,      // from a node that wants to come in to the head: becomes its control connection
};

// Why a hello was refused.
enum class Refusal : uint8_t {
  kNone,
  kProtocolVersion,
  kClusterName,
  kNodeName,  // the node that answers is not the one that was called, or the caller is not in the cluster
  kDuplicateName,  // another node already holds the caller's name
  kModel,
  kPlan,
  kNumericClass,
  kRole,   // the answerer does not serve such a link, or has one already
  kStage,  // the answerer does not compute that stage
  kEpoch,  // the caller is behind
  kBusy,
  kOther,
};

// The first message of a connection, from the side that connected. An empty text (or epoch 0) means "not
// known yet" and is not compared, so the same hello serves before and after a plan was loaded.
struct Hello {
  uint32_t protocol_version = kProtocolVersion;
  LinkRole role = LinkRole::kControl;
  std::string cluster_name;
  std::string node_name;          // who speaks
  std::string peer_node_name;     // whom it means to reach
  std::string model_fingerprint;  // hash of the model file
  std::string plan_hash;
  std::string numeric_class;  // e.g. "exact": nodes of one class compute the same bits
  uint64_t epoch = 0;
  uint32_t stage = 0;  // pipeline: the stage index that the link feeds
  bool operator==(const Hello&) const = default;
};

struct HelloAck {
  bool accepted = false;
  Refusal refusal = Refusal::kNone;
  std::string text;  // why, and which side to change
  uint32_t protocol_version = kProtocolVersion;
  std::string node_name;  // who answers
  std::string model_fingerprint;
  std::string plan_hash;
  uint64_t epoch = 0;
  bool operator==(const HelloAck&) const = default;
};

struct WireCacheOp {
  enum class Kind : uint8_t {
    kTrim,  // keep the first `length` positions of `slot`
    kFree,  // forget `slot`
    kFork,  // `slot` becomes a copy of the first `length` positions of `from_slot`
  };
  Kind kind = Kind::kTrim;
  uint32_t slot = 0;
  uint32_t from_slot = 0;
  uint32_t length = 0;
  bool operator==(const WireCacheOp&) const = default;
};

struct StepRow {
  uint32_t slot = 0;
  uint32_t position = 0;
  bool wants_logits = false;
  uint16_t adapter = 0;     // from 1; 0: none
  float adapter_scale = 1;  // of what it adds
  bool overflowed = false;  // behind its adapter, in a stage before
  bool operator==(const StepRow&) const = default;
};

// How activations are written in a payload.
enum class PayloadType : uint8_t { kF32, kF16, kQ8 };

// What a step cost one stage.
struct StageTime {
  uint32_t waited_us = 0;   // in the stage's queue
  uint32_t busy_us = 0;     // computing
  uint64_t arrived_us = 0;  // when the step reached that, by the node's own steady clock; 0: not told
  bool operator==(const StageTime&) const = default;
};

// What a step's rows are; wire.capnp says what each kind carries.
enum class WireStepKind : uint8_t { kDecode, kEncode, kEmbed };

// One batch on its way through the pipeline. Its payload is hidden [rows, n_embd], empty on the way to the
// stage that embeds, which gets token_ids instead.
struct StepMessage {
  uint64_t epoch = 0;
  uint64_t step_id = 0;
  uint32_t stage = 0;                  // the destination
  std::vector<WireCacheOp> cache_ops;  // applied in order, before the rows
  std::vector<StepRow> rows;
  std::vector<uint32_t> token_ids;  // [rows], or empty
  uint32_t candidates = 0;  // how many candidates a row that wants logits gets; 0: the whole vocabulary
  PayloadType payload_type = PayloadType::kF32;
  WireStepKind kind = WireStepKind::kDecode;
  std::vector<StageTime> stage_times;  // of the stages that have computed the step
  uint16_t verify_slot = 0;            // from 1: whose rows each stage hashes; 0: none
  std::string digests = {};            // kDigestBytes of each stage that has
  bool operator==(const StepMessage&) const = default;
};

// The candidates of one row, best first; tokens is empty when logits holds the whole vocabulary in token
// order.
struct RowResult {
  uint32_t row = 0;       // index into the step's rows
  float log_sum_exp = 0;  // over the whole vocabulary
  std::vector<uint32_t> tokens;
  std::vector<float> logits;
  std::vector<float> embedding = {};  // of an embed step, instead of the three above
  bool operator==(const RowResult&) const = default;
};

// Whether numbers were to blame for a failed step; wire.capnp says what each means.
enum class StepFault : uint8_t { kNone, kDamaged, kInput, kOutput };

struct ResultMessage {
  uint64_t epoch = 0;
  uint64_t step_id = 0;
  bool failed = false;
  std::vector<RowResult> rows;         // where failed is false
  std::vector<StageTime> stage_times;  // of all stages, where failed is false
  Errc failure_code = Errc::kIo;       // where failed is true
  std::string failure_text;
  StepFault fault = StepFault::kNone;
  uint32_t fault_stage = 0;               // that found it, where there is one
  std::string digests = {};               // of all stages, as in StepMessage
  std::vector<uint16_t> overflowed = {};  // rows behind adapters, of each slot at least the first
  bool operator==(const ResultMessage&) const = default;
};

struct StatsRequest {
  bool operator==(const StatsRequest&) const = default;
};

struct StageReport {
  uint32_t stage = 0;
  uint32_t layer_begin = 0, layer_end = 0;  // half-open, global
  uint64_t steps = 0, rows = 0;
  uint64_t busy_ns = 0, waiting_ns = 0;
  uint64_t weight_bytes = 0, kv_bytes = 0, scratch_bytes = 0;
  bool operator==(const StageReport&) const = default;
};

struct LinkReport {
  std::string peer;
  uint64_t bytes_sent = 0, bytes_received = 0;
  bool operator==(const LinkReport&) const = default;
};

struct StatsMessage {
  std::string node_name;
  uint64_t resident_bytes = 0;
  std::vector<StageReport> stages;
  std::vector<LinkReport> links;
  bool operator==(const StatsMessage&) const = default;
};

// Sent both ways on control while a node is alive; the counter grows only when its engine gets something
// done.
struct Heartbeat {
  uint64_t progress = 0;
  bool working = false;  // its engine has something to do
  bool operator==(const Heartbeat&) const = default;
};

struct Shutdown {
  std::string reason;
  bool operator==(const Shutdown&) const = default;
};

// Advice that a stage may take between layers: rows of `slot` in steps of an epoch below `min_epoch` are not
// wanted.
struct CancelAdvice {
  uint32_t slot = 0;
  uint64_t min_epoch = 0;
  bool operator==(const CancelAdvice&) const = default;
};

// Link measurement: small payloads show latency, large ones bandwidth. The payload is not sent back.
struct LinkProbe {
  uint64_t sequence = 0;
  bool operator==(const LinkProbe&) const = default;
};

struct LinkProbeAck {
  uint64_t sequence = 0;
  uint64_t clock_us = 0;  // the answering node's steady clock when the probe came
  bool operator==(const LinkProbeAck&) const = default;
};

struct LoadPlan {
  uint64_t epoch = 0;
  std::string plan_json;
  std::string certificate = {};  // of the head that signed plan_json, PEM
  std::string signature = {};    // hexadecimal
  bool operator==(const LoadPlan&) const = default;
};

// The answer to LoadPlan: the stages are in memory and linked to the next, or why not.
struct Ready {
  uint64_t epoch = 0;
  std::string plan_hash;
  std::string failure;  // empty: ready
  std::string info;     // the node that could not be reached, where that is why
  bool operator==(const Ready&) const = default;
};

// The head asks whether a node's kernels still give the known answers.
struct Examine {
  bool operator==(const Examine&) const = default;
};

struct Examined {
  std::string failure;  // empty: they do
  bool operator==(const Examined&) const = default;
};

// What a node without a stage would get if another were lost, for it to have on its disk by then.
struct FetchAhead {
  std::string shards_json;
  bool operator==(const FetchAhead&) const = default;
};

struct FetchedAhead {
  uint64_t wanted_bytes = 0;
  uint64_t held_bytes = 0;
  bool operator==(const FetchedAhead&) const = default;
};

// Asks for a range of a tensor, in bytes, or of the manifest.
struct WeightsRequest {
  static constexpr uint32_t kManifest = UINT32_MAX;
  uint64_t id = 0;
  uint32_t tensor = kManifest;  // index into the manifest's tensors
  uint32_t length = 0;
  uint64_t offset = 0;
  uint16_t adapter = 0;  // whose manifest: an adapter's, counted from 1; 0: the model's
  bool operator==(const WeightsRequest&) const = default;
};

// The answer: its payload has the bytes, or `failure` says why there are none.
struct WeightsData {
  uint64_t id = 0;
  uint64_t total_bytes = 0;  // of the tensor or the manifest
  std::string failure;
  bool operator==(const WeightsData&) const = default;
};

// The first message on a connection of role kJoin: what the node is and has.
struct Join {
  std::string address;  // where it listens
  uint16_t port = 0;
  uint64_t memory_bytes = 0;
  uint32_t threads = 0;
  std::string profile_json;  // what it measured of itself
  LoadPlan held;             // the last order it followed, whose weights it still has; epoch 0: none
  bool operator==(const Join&) const = default;
};

// Who was shut out of the cluster: all of them, each time.
struct Revoked {
  std::vector<std::string> nodes;
  bool operator==(const Revoked&) const = default;
};

// A node asks the head for another certificate before its own ends: PKCS#10, in PEM.
struct CertificateRequest {
  std::string pem;
  bool operator==(const CertificateRequest&) const = default;
};

struct NewCertificate {
  std::string certificate;  // PEM
  std::string failure;      // why there is none
  bool operator==(const NewCertificate&) const = default;
};

// The head asks a node to measure its links to others: JSON texts, as wire.capnp says.
struct Measure {
  std::string peers_json;
  bool operator==(const Measure&) const = default;
};

struct Measured {
  std::string links_json;
  bool operator==(const Measured&) const = default;
};

using Message = std::variant<Hello, HelloAck, StepMessage, ResultMessage, StatsRequest, StatsMessage,
                             Heartbeat, Shutdown, CancelAdvice, LinkProbe, LinkProbeAck, LoadPlan, Ready,
                             WeightsRequest, WeightsData, Join, Measure, Measured, Revoked,
                             CertificateRequest, NewCertificate, Examine, Examined, FetchAhead, FetchedAhead>;

// "step", "hello acknowledgement", ...: for error messages.
std::string_view message_name(const Message& message);

// A message to send. `payload` (StepMessage, LinkProbe and WeightsData only) is sent from where it lies: it
// must be 8-byte aligned and unchanged until the send is done. `keep_alive`, where set, is released then (or
// when the channel gives the message up), so a pool's deleter gets its buffer back at the right moment.
struct OutgoingMessage {
  Message message;
  std::span<const std::byte> payload = {};
  std::shared_ptr<const void> keep_alive = {};
};

// Room for a payload, handed out by a BufferSource. `bytes` is aligned to kPayloadAlignment.
struct PayloadBuffer {
  std::span<std::byte> bytes;
  std::shared_ptr<void> keep_alive;
};

// A message received; `payload.bytes` has exactly the payload's size and lies in the buffer that the source
// gave.
struct IncomingMessage {
  Message message;
  PayloadBuffer payload;
};

// Where received payloads go. Called on the io thread once per frame that has a payload, after the frame's
// header and metadata were verified and before a payload byte is read.
class BufferSource {
 public:
  virtual ~BufferSource() = default;
  // Room for at least `bytes` bytes (a multiple of 8, at most kPayloadBytesMax), aligned to
  // kPayloadAlignment. An error refuses the frame and ends the channel.
  virtual Result<PayloadBuffer> acquire(size_t bytes) = 0;
};

// Allocates each buffer anew, up to a size. For set-up messages, probes and tests.
class HeapBufferSource : public BufferSource {
 public:
  explicit HeapBufferSource(size_t bytes_max) : bytes_max_(bytes_max) {}
  Result<PayloadBuffer> acquire(size_t bytes) override;

 private:
  size_t bytes_max_;
};

// What a stage may be asked for; a step outside it is refused before anything reads it.
struct StepLimits {
  uint32_t stage = 0;
  bool embeds = false;  // this stage turns token ids into hidden
  size_t rows_max = kStepRowsMax;
  uint32_t slots = 0;
  uint32_t context = 0;  // positions per slot
  uint32_t n_embd = 0;
  uint32_t n_vocab = 0;
  uint32_t inputs = 0;  // rows of a whole input that an encoder takes; 0: the model has no encoder
  uint32_t adapters = 0;
};

// Checks every index and size of a step against the limits and its payload's size against rows * n_embd * 4.
// Whether the epoch and step id continue the session is the caller's to check.
Result<void> check_step(const StepMessage& step, size_t payload_bytes, const StepLimits& limits);

}  // namespace shoal
