// The plan as the head signs it: which cluster and epoch it is for, the protocol, model and numeric class
// that all its nodes share, and the layout. A node takes no other, so that what it compares in a hello is the
// head's word, whoever brought it.
//
// Pure functions but for share_plan. Where the links have no TLS (--insecure) there is nobody to sign, and
// the rest is checked all the same.
#pragma once

#include <cstdint>
#include <string>

#include "node/bootstrap.h"
#include "node/node_identity.h"
#include "node/pipeline_layout.h"
#include "transport/messages.h"

namespace shoal {

LoadPlan signed_plan(const NodeIdentity& head, const PipelineLayout& layout, uint64_t epoch);

// The layout of an order that this node may follow. kRefused: it is not signed, by another than the head, for
// another cluster, model, protocol or numeric class, or its epoch is not above `present_epoch`; kBadFrame: it
// is not sound. The message names `sender`, who brought it.
Result<PipelineLayout> check_plan(const LoadPlan& order, const NodeIdentity& self, uint64_t present_epoch,
                                  const std::string& sender);

// The order that a node follows when it joins, for the head, which may have forgotten it. Errors as
// check_plan's, but its epoch may be any, and the certificate of the head that signed it may be over or
// another's by now. Where nothing is signed an epoch above kClaimMax is refused: it is no more than a claim.
inline constexpr uint64_t kClaimMax = uint64_t{1} << 62;  // no head makes so many plans
Result<PipelineLayout> check_held(const LoadPlan& order, const NodeIdentity& self);

// Collective, at the start: the head's layout of the first epoch, as all ranks follow it, and the order that
// it came by. Throws as together() does.
struct SharedPlan {
  PipelineLayout layout;
  LoadPlan order;
};
SharedPlan share_plan(Bootstrap& bootstrap, const NodeIdentity& self, const PipelineLayout& mine);

}  // namespace shoal
