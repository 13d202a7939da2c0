// A fixed number of step buffers, taken once. Belongs to the io thread; a buffer comes back when its last
// handle goes, which must be on the io thread too.
#pragma once

#include <memory>
#include <vector>

#include "node/engine.h"
#include "transport/messages.h"

namespace shoal {

class StepBuffers : public BufferSource {
 public:
  StepBuffers(int count, int rows_max, int n_embd);
  // Null if all are in use: the peer has more steps in flight than was agreed.
  StepBuffer take();
  // For received payloads: the buffer's handle is the payload's keep_alive.
  Result<PayloadBuffer> acquire(size_t bytes) override;
  // The buffer that acquire() gave for this payload, as a step's buffer; null if the payload is not one of
  // ours.
  static StepBuffer of_payload(const PayloadBuffer& payload) {
    return std::static_pointer_cast<AlignedBuffer>(payload.keep_alive);
  }
  uint64_t bytes() const { return bytes_; }

 private:
  struct Free {
    std::vector<std::unique_ptr<AlignedBuffer>> buffers;
  };
  std::shared_ptr<Free> free_;  // outlives the pool while handles exist
  uint64_t bytes_;
};

}  // namespace shoal
