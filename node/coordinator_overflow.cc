// Answers whose numbers overflow behind an adapter: with a large scale a sound adapter makes some, so neither
// the pipeline nor a node is at fault, and nobody else's answer is to suffer. The answer is computed once
// more, since it may have been chance after all, and ends when it happens again.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <bit>

#include "node/coordinator.h"

namespace shoal {
namespace {

constexpr int kOverflowsMax = 1;  // of an answer, and it is computed again

// Whose row of the step it is; null: there is no such row.
const StepPart* part_of(const ScheduledStep& step, int32_t row) {
  if (row < 0) return nullptr;
  for (const StepPart& part : step.parts) {
    if (row < part.rows) return &part;
    row -= part.rows;
  }
  return nullptr;
}

}  // namespace

std::string Coordinator::why_overflow_unusable(const StepInFlight& in_flight,
                                               std::span<const int32_t> rows) const {
  for (const int32_t row : rows) {
    const StepPart* const part = part_of(in_flight.step, row);
    if (part == nullptr) return fmt::format("it says that row {} overflowed, which is not there", row);
    if (!in_flight.cache_owners.contains(part->sequence))
      return fmt::format("it says that row {} overflowed, which passes through no adapter", row);
  }
  return "";
}

void Coordinator::take_overflows(const StepInFlight& in_flight, uint64_t step_id,
                                 std::span<const int32_t> rows) {
  for (const int32_t row : rows) {
    const uint64_t id = part_of(in_flight.step, row)->sequence;
    const std::string& owner = in_flight.cache_owners.at(id);
    if (const auto found = running_.find(id); found != running_.end()) {
      if (found->second->begins_anew) continue;  // this was sent before that
      take_overflow(*found->second);
    }
    // Who has taken the beginning of its cache since may have taken what is worthless, also where it has
    // ended.
    for (const auto& [other_id, other] : running_) {
      const bool begun = other->slot >= 0 && !other->begins_anew;
      const bool after = other->reused > 0 && other->first_step > step_id;
      if (begun && after && cache_owner(other->request) == owner) compute_anew(*other);
    }
    cache_.forget(owner);
  }
}

// Computes it again, or ends it.
void Coordinator::take_overflow(Sequence& sequence) {
  compute_anew(sequence);
  if (++sequence.overflows <= kOverflowsMax) return;
  const AdapterChoice adapter = sequence.request.adapter;
  if (std::has_single_bit(++overflowed_))  // the 1st, 2nd, 4th, ...: clients can make as many as they like
    spdlog::warn(
        "an answer behind adapter number {} at scale {:g} ended, since its numbers were not finite (so far: "
        "{})",
        adapter.index, adapter.scale, overflowed_);
  finish(sequence.id, FinishReason::kError,
         {Errc::kInvalidInput,
          fmt::format("behind this adapter, at scale {:g}, the numbers are not finite: ask for "
                      "a smaller scale",
                      adapter.scale)});
  if (keeper_.overflowed) keeper_.overflowed();
}

void Coordinator::compute_anew(Sequence& sequence) {
  sequence.begins_anew = true;
  scheduler_.remove(sequence.id);
  cache_.reserve(sequence.slot, 0, 0);
}

// Those of which nothing is under way any more wait for a slot again.
void Coordinator::begin_anew() {
  for (const auto& [id, sequence] : running_) {
    if (!sequence->begins_anew) continue;
    const bool under_way = std::any_of(steps_.begin(), steps_.end(), [&, id = id](const auto& step) {
      const std::vector<StepPart>& parts = step.second.step.parts;
      return std::any_of(parts.begin(), parts.end(), [&](const auto& part) { return part.sequence == id; });
    });
    if (under_way) continue;
    sequence->begins_anew = false;
    if (sequence->answered == 0) mark(id, TracedRequest::Mark::kTakenOff);
    cache_.give_back(std::exchange(sequence->slot, -1));
  }
}

}  // namespace shoal
