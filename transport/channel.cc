#include "transport/channel.h"

namespace shoal {

std::string Channel::peer() const {
  return peer_name_.empty() ? peer_address_ : peer_name_ + " at " + peer_address_;
}

}  // namespace shoal
