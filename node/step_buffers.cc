#include "node/step_buffers.h"

#include <fmt/format.h>

namespace shoal {

StepBuffers::StepBuffers(int count, int rows_max, int n_embd) : free_(std::make_shared<Free>()) {
  const size_t bytes = static_cast<size_t>(rows_max) * static_cast<size_t>(n_embd) * sizeof(float);
  for (int i = 0; i < count; ++i) free_->buffers.push_back(std::make_unique<AlignedBuffer>(bytes));
  bytes_ = bytes * static_cast<size_t>(count);
}

StepBuffer StepBuffers::take() {
  if (free_->buffers.empty()) return nullptr;
  std::unique_ptr<AlignedBuffer> buffer = std::move(free_->buffers.back());
  free_->buffers.pop_back();
  return StepBuffer(buffer.release(),
                    [pool = free_](AlignedBuffer* returned) { pool->buffers.emplace_back(returned); });
}

Result<PayloadBuffer> StepBuffers::acquire(size_t bytes) {
  StepBuffer buffer = take();
  if (!buffer) return Error{Errc::kQueueFull, "the peer has more steps in flight than agreed"};
  if (bytes > buffer->size()) {
    return Error{Errc::kBadFrame,
                 fmt::format("a step of {} bytes, more than {} agreed", bytes, buffer->size())};
  }
  const std::span<std::byte> room(buffer->data(), buffer->size());
  return PayloadBuffer{room, std::move(buffer)};
}

}  // namespace shoal
