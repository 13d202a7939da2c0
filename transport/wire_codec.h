// Between the plain messages and wire.capnp's builders and readers. Internal to transport/: only frame.cc
// calls it.
//
// Reading may throw kj::Exception (frame.cc translates it); what Cap'n Proto does not check (counts, enum
// values, lists that belong together, names) is checked here and returned as kBadFrame.
#pragma once

#include <cstddef>
#include <span>

#include "base/error.h"
#include "transport/messages.h"
#include "transport/wire.capnp.h"

namespace shoal {

// kInvalidInput if the message breaks a limit of the wire.
Result<void> check_outgoing(const OutgoingMessage& outgoing);

// An upper bound of the metadata segment, in 8-byte words.
size_t metadata_words_bound(const Message& message);

// `outgoing` passed check_outgoing. The payload is referred to, not copied.
void write_message(const OutgoingMessage& outgoing, wire::Message::Builder builder);

// `payload` is the second segment's bytes without padding: a message's Data must be exactly that.
Result<Message> read_message(wire::Message::Reader reader, std::span<const std::byte> payload,
                             size_t metadata_bytes);

}  // namespace shoal
