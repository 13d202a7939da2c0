#include "node/step_wire.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>

namespace shoal {
namespace {

WireCacheOp to_wire(const CacheOp& op) {
  const WireCacheOp::Kind kind = op.kind == CacheOpKind::kTrim   ? WireCacheOp::Kind::kTrim
                                 : op.kind == CacheOpKind::kFree ? WireCacheOp::Kind::kFree
                                                                 : WireCacheOp::Kind::kFork;
  return {kind, static_cast<uint32_t>(op.slot), static_cast<uint32_t>(op.from_slot),
          static_cast<uint32_t>(op.length)};
}

std::string to_wire(std::span<const Sha256> digests) {
  std::string bytes(digests.size() * kDigestBytes, '\0');
  for (size_t i = 0; i < digests.size(); ++i)
    std::memcpy(bytes.data() + i * kDigestBytes, digests[i].data(), kDigestBytes);
  return bytes;
}

// A logit of each token, that can be brought in order.
bool is_vocabulary(const std::vector<float>& logits, int n_vocab) {
  return logits.size() == static_cast<size_t>(n_vocab) &&
         std::none_of(logits.begin(), logits.end(), [](float x) { return std::isnan(x); });
}

}  // namespace

std::vector<Sha256> digests_from_wire(const std::string& bytes) {
  std::vector<Sha256> digests(bytes.size() / kDigestBytes);
  for (size_t i = 0; i < digests.size(); ++i)
    std::memcpy(digests[i].data(), bytes.data() + i * kDigestBytes, kDigestBytes);
  return digests;
}

CacheOp from_wire(const WireCacheOp& op) {
  const CacheOpKind kind = op.kind == WireCacheOp::Kind::kTrim   ? CacheOpKind::kTrim
                           : op.kind == WireCacheOp::Kind::kFree ? CacheOpKind::kFree
                                                                 : CacheOpKind::kFork;
  return {kind, static_cast<int32_t>(op.slot), static_cast<int32_t>(op.from_slot),
          static_cast<int32_t>(op.length)};
}

StepMessage to_message(const StepJob& job) {
  StepMessage step;
  step.epoch = job.epoch;
  step.step_id = job.step_id;
  step.stage = static_cast<uint32_t>(job.stage);
  step.candidates = static_cast<uint32_t>(job.candidates);
  step.kind = static_cast<WireStepKind>(job.kind);  // the same order
  step.stage_times = job.times;
  step.verify_slot = static_cast<uint16_t>(job.verify_slot + 1);
  step.digests = to_wire(job.digests);
  for (const CacheOp& op : job.ops) step.cache_ops.push_back(to_wire(op));
  for (const BatchRow& row : job.rows) {
    step.rows.push_back({static_cast<uint32_t>(row.slot), static_cast<uint32_t>(row.position),
                         row.wants_logits, static_cast<uint16_t>(row.adapter), row.adapter_scale});
    if (job.stage == 0) step.token_ids.push_back(static_cast<uint32_t>(row.token));
  }
  for (const int32_t row : job.overflowed) step.rows[static_cast<size_t>(row)].overflowed = true;
  return step;
}

ResultMessage to_message(const StepJob& job, std::vector<RowOutput>&& outputs) {
  ResultMessage result;
  result.epoch = job.epoch;
  result.step_id = job.step_id;
  result.stage_times = job.times;
  result.digests = to_wire(job.digests);
  result.overflowed.assign(job.overflowed.begin(), job.overflowed.end());
  for (const RowOutput& output : outputs) {
    RowResult row{static_cast<uint32_t>(output.row), output.log_sum_exp, {}, {}, output.embedding};
    for (const Candidate& c : output.candidates) {
      row.tokens.push_back(static_cast<uint32_t>(c.token));
      row.logits.push_back(c.logit);
    }
    result.rows.push_back(std::move(row));
  }
  return result;
}

StepOutcome from_message(const ResultMessage& message, int n_vocab) {
  StepOutcome outcome{
      message.step_id, {}, message.failed, {message.failure_code, message.failure_text}, message.stage_times};
  outcome.digests = digests_from_wire(message.digests);
  outcome.overflowed.assign(message.overflowed.begin(), message.overflowed.end());
  for (const RowResult& row : message.rows) {
    RowOutput output{static_cast<int32_t>(row.row), row.log_sum_exp, {}, row.embedding};
    for (size_t i = 0; i < row.tokens.size(); ++i)
      output.candidates.push_back({static_cast<int32_t>(row.tokens[i]), row.logits[i]});
    if (row.tokens.empty() && is_vocabulary(row.logits, n_vocab)) {
      for (size_t i = 0; i < row.logits.size(); ++i)
        output.candidates.push_back({static_cast<int32_t>(i), row.logits[i]});
      std::sort(output.candidates.begin(), output.candidates.end(), better);
    }
    outcome.rows.push_back(std::move(output));
  }
  return outcome;
}

}  // namespace shoal
