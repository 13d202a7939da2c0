#include "transport/messages.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <new>

#include "base/check.h"

namespace shoal {

std::string_view message_name(const Message& message) {
  static constexpr std::string_view kNames[] = {"hello",
                                                "hello acknowledgement",
                                                "step",
                                                "result",
                                                "statistics request",
                                                "statistics",
                                                "heartbeat",
                                                "shutdown",
                                                "cancel",
                                                "link probe",
                                                "link probe acknowledgement",
                                                "load plan",
                                                "ready",
                                                "request for weights",
                                                "weights",
                                                "join",
                                                "measure",
                                                "measured",
                                                "list of who was shut out",
                                                "request for a certificate",
                                                "certificate",
                                                "examine",
                                                "examined",
                                                "order to fetch ahead",
                                                "report of what was fetched ahead"};
  static_assert(std::size(kNames) == std::variant_size_v<Message>);
  return kNames[message.index()];
}

Result<PayloadBuffer> HeapBufferSource::acquire(size_t bytes) {
  if (bytes > bytes_max_) {
    return Error{Errc::kBadFrame, "a payload of " + std::to_string(bytes) + " bytes is more than the " +
                                      std::to_string(bytes_max_) + " expected here"};
  }
  const size_t rounded = (bytes / kPayloadAlignment + 1) * kPayloadAlignment;
  void* memory = std::aligned_alloc(kPayloadAlignment, rounded);
  if (memory == nullptr) throw std::bad_alloc();
  return PayloadBuffer{std::span(static_cast<std::byte*>(memory), bytes),
                       std::shared_ptr<void>(memory, [](void* p) { std::free(p); })};
}

namespace {

Error bad_step(const StepMessage& step, std::string what) {
  return Error{Errc::kBadFrame, "step " + std::to_string(step.step_id) + ": " + std::move(what)};
}

Result<void> check_cache_ops(const StepMessage& step, const StepLimits& limits) {
  for (const WireCacheOp& op : step.cache_ops) {
    const bool fork = op.kind == WireCacheOp::Kind::kFork;
    if (op.slot >= limits.slots || (fork && op.from_slot >= limits.slots)) {
      return bad_step(step, "a cache operation on slot " + std::to_string(op.slot) + " from slot " +
                                std::to_string(op.from_slot) + ", the cache has " +
                                std::to_string(limits.slots));
    }
    if (fork && op.slot == op.from_slot) return bad_step(step, "a slot is forked from itself");
    if (op.length > limits.context) {
      return bad_step(step, "a cache operation on " + std::to_string(op.length) +
                                " positions, a slot holds " + std::to_string(limits.context));
    }
  }
  return {};
}

Result<void> check_rows(const StepMessage& step, const StepLimits& limits) {
  if (step.kind == WireStepKind::kEncode && limits.inputs == 0)
    return bad_step(step, "it encodes, and the model has no encoder");
  const uint32_t positions =
      step.kind == WireStepKind::kDecode ? limits.context : std::max(limits.context, limits.inputs);
  if (step.rows.size() > limits.rows_max) {
    return bad_step(step, std::to_string(step.rows.size()) + " rows, this stage takes at most " +
                              std::to_string(limits.rows_max));
  }
  for (const StepRow& row : step.rows) {
    if (row.slot >= limits.slots || row.position >= positions) {
      return bad_step(step, "a row at slot " + std::to_string(row.slot) + ", position " +
                                std::to_string(row.position) + "; the cache has " +
                                std::to_string(limits.slots) + " slots of " + std::to_string(positions) +
                                " positions");
    }
    if (row.adapter > limits.adapters) {
      return bad_step(step, "a row for adapter " + std::to_string(row.adapter) + ", this stage has " +
                                std::to_string(limits.adapters));
    }
    if (row.overflowed && row.adapter == 0) {
      return bad_step(step, "a row of slot " + std::to_string(row.slot) +
                                " is said to have overflowed, and passes through no adapter");
    }
    if (!(std::abs(row.adapter_scale) <= kAdapterScaleMax)) {
      return bad_step(step, "an adapter's scale of " + std::to_string(row.adapter_scale));
    }
  }
  return {};
}

}  // namespace

Result<void> check_step(const StepMessage& step, size_t payload_bytes, const StepLimits& limits) {
  SHOAL_CHECK(limits.n_embd > 0 && limits.slots > 0 && limits.context > 0);
  if (step.stage != limits.stage) {
    return bad_step(step, "it is for stage " + std::to_string(step.stage) + ", this is stage " +
                              std::to_string(limits.stage));
  }
  if (step.rows.empty() && step.cache_ops.empty()) return bad_step(step, "nothing to do");
  if (step.payload_type != PayloadType::kF32) return bad_step(step, "its payload is not f32");
  if (Result<void> ok = check_cache_ops(step, limits); !ok) return ok;
  if (Result<void> ok = check_rows(step, limits); !ok) return ok;
  if (step.verify_slot > limits.slots) {
    return bad_step(step, "slot " + std::to_string(step.verify_slot - 1) + " to be hashed, the cache has " +
                              std::to_string(limits.slots));
  }
  const size_t digests = step.verify_slot > 0 ? step.stage * kDigestBytes : 0;
  if (step.digests.size() != digests) {
    return bad_step(step, std::to_string(step.digests.size()) + " bytes of digests where " +
                              std::to_string(digests) + " belong");
  }
  if (step.token_ids.size() != (limits.embeds ? step.rows.size() : 0)) {
    return bad_step(step, std::to_string(step.token_ids.size()) + " token ids for " +
                              std::to_string(step.rows.size()) + " rows at a stage that " +
                              (limits.embeds ? "embeds" : "takes none"));
  }
  for (const uint32_t token : step.token_ids) {
    if (token >= limits.n_vocab) {
      return bad_step(
          step, "token " + std::to_string(token) + ", the vocabulary has " + std::to_string(limits.n_vocab));
    }
  }
  const size_t expected = limits.embeds ? 0 : step.rows.size() * limits.n_embd * sizeof(float);
  if (payload_bytes != expected) {
    return bad_step(step, "a payload of " + std::to_string(payload_bytes) + " bytes where " +
                              std::to_string(expected) + " belong to its rows");
  }
  return {};
}

}  // namespace shoal
