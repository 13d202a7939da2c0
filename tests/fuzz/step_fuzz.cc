// Steps as a stage is asked to take them: whatever passes the check lies within what the stage has.
#include "tests/fuzz/fuzz.h"
#include "transport/messages.h"

namespace {

using namespace shoal;

// Mostly numbers near the limits, so that both sides of each are tried.
uint32_t near(fuzz::Input& input, uint32_t limit) {
  const uint8_t kind = input.byte();
  if (kind < 160) return limit == 0 ? kind : kind % limit;
  if (kind < 200) return limit + kind - 180;
  return input.word();
}

StepMessage step_of(fuzz::Input& input, const StepLimits& limits) {
  StepMessage step;
  step.stage = near(input, limits.stage + 1);
  step.kind = static_cast<WireStepKind>(input.byte() % 3);
  step.payload_type = input.byte() < 240 ? PayloadType::kF32 : PayloadType::kF16;
  step.candidates = near(input, limits.n_vocab);
  for (uint32_t left = near(input, 5) % 64; left > 0; --left) {
    step.cache_ops.push_back({static_cast<WireCacheOp::Kind>(input.byte() % 3), near(input, limits.slots),
                              near(input, limits.slots), near(input, limits.context)});
  }
  const uint32_t rows = near(input, static_cast<uint32_t>(limits.rows_max)) % 128;
  for (uint32_t i = 0; i < rows; ++i)
    step.rows.push_back({near(input, limits.slots), near(input, limits.context), (input.byte() & 1) != 0});
  const uint32_t tokens = limits.embeds ? near(input, rows + 1) % 128 : near(input, 1) % 128;
  for (uint32_t i = 0; i < (limits.embeds && tokens > 0 ? rows : tokens); ++i)
    step.token_ids.push_back(near(input, limits.n_vocab));
  return step;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  StepLimits limits;
  limits.stage = input.byte() & 3;
  limits.embeds = (input.byte() & 1) != 0;
  limits.rows_max = 1 + input.byte() % 64;
  limits.slots = 1 + input.byte() % 16;
  limits.context = 1 + input.word() % (1 << 20);
  limits.n_embd = 1 + input.byte();
  limits.n_vocab = 1 + input.word() % 300'000;
  limits.inputs = input.byte() < 128 ? 0 : input.byte();
  const StepMessage step = step_of(input, limits);
  const size_t expected = limits.embeds ? 0 : step.rows.size() * limits.n_embd * sizeof(float);
  const size_t payload = input.byte() < 200 ? expected : input.word();
  const Result<void> checked = check_step(step, payload, limits);
  if (!checked) {
    fuzz::require(checked.error().code == Errc::kBadFrame, "a bad step is called a bad frame");
    return 0;
  }
  const uint32_t positions =
      step.kind == WireStepKind::kDecode || limits.inputs < limits.context ? limits.context : limits.inputs;
  fuzz::require(step.rows.size() <= limits.rows_max, "rows fit the stage");
  for (const StepRow& row : step.rows)
    fuzz::require(row.slot < limits.slots && row.position < positions, "rows lie in the cache");
  for (const WireCacheOp& op : step.cache_ops) {
    fuzz::require(op.slot < limits.slots && op.length <= limits.context, "operations lie in the cache");
    if (op.kind == WireCacheOp::Kind::kFork)
      fuzz::require(op.from_slot < limits.slots && op.from_slot != op.slot, "a fork has a source");
  }
  fuzz::require(step.token_ids.size() == (limits.embeds ? step.rows.size() : 0), "a token for each row");
  for (const uint32_t token : step.token_ids)
    fuzz::require(token < limits.n_vocab, "tokens are of the vocabulary");
  fuzz::require(payload == expected, "the payload is the rows'");
  return 0;
}
