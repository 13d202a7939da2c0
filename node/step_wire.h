// A step as the engine knows it, to and from the messages of transport/messages.h.
#pragma once

#include "node/engine.h"
#include "node/node.h"
#include "transport/messages.h"

namespace shoal {

CacheOp from_wire(const WireCacheOp& op);
std::vector<Sha256> digests_from_wire(const std::string& bytes);
StepMessage to_message(const StepJob& job);
ResultMessage to_message(const StepJob& job, std::vector<RowOutput>&& outputs);
// A row without tokens has the logits of the whole vocabulary, or no candidates.
StepOutcome from_message(const ResultMessage& message, int n_vocab);

}  // namespace shoal
