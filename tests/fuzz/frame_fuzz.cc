// Frames as a peer sends them. The first byte says how many words of payload follow it; what is left is the
// metadata, with checksums that fit, so that the decoder and not the checksum is tried. Bytes as they are,
// too.
#include <cstring>
#include <string>
#include <variant>
#include <vector>

#include "tests/fuzz/fuzz.h"
#include "transport/crc32c.h"
#include "transport/frame.h"

namespace {

using namespace shoal;

// What was decoded can be sent on, and is then the same; a payload must be all the frame's.
void send_again(const Message& message, std::span<const std::byte> payload) {
  const Result<EncodedFrame> frame = encode_frame({message, payload, {}});
  if (!frame) return;  // larger than what is sent at once
  std::vector<uint64_t> padded((payload.size() + 7) / 8);
  if (!payload.empty()) std::memcpy(padded.data(), payload.data(), payload.size());
  const Result<FrameHeader> header = decode_header(frame->header, {});
  fuzz::require(header.has_value(), "an encoded header decodes");
  const Result<Message> back = decode_frame(*header, frame->metadata, std::as_bytes(std::span(padded)));
  fuzz::require(back.has_value(), "an encoded message decodes");
  const Result<EncodedFrame> twice = encode_frame({*back, payload, {}});
  fuzz::require(twice.has_value() && twice->metadata == frame->metadata, "decoding and encoding settle");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size >= kFrameHeaderBytes) {
    const auto bytes = std::as_bytes(std::span(data, size)).first<kFrameHeaderBytes>();
    for (const FrameLimits& limits : {FrameLimits{}, kHandshakeLimits}) {
      const Result<FrameHeader> header = decode_header(bytes, limits);
      fuzz::require(!header || (header->metadata_bytes <= limits.metadata_bytes_max &&
                                header->payload_bytes <= limits.payload_bytes_max),
                    "a header is within the limits");
    }
  }
  fuzz::Input input(data, size);
  const uint8_t shape = input.byte();
  const auto payload_bytes = input.take(shape & 63);
  std::vector<uint64_t> payload((payload_bytes.size() + 7) / 8), metadata(input.left() / 8);
  if (metadata.empty()) return 0;
  if (!payload_bytes.empty()) std::memcpy(payload.data(), payload_bytes.data(), payload_bytes.size());
  std::memcpy(metadata.data(), input.take(metadata.size() * 8).data(), metadata.size() * 8);
  FrameHeader header;
  header.metadata_bytes = static_cast<uint32_t>(metadata.size() * 8);
  header.payload_bytes = static_cast<uint32_t>(payload_bytes.size());
  header.metadata_crc = crc32c(std::as_bytes(std::span(metadata)));
  header.payload_crc = crc32c(std::as_bytes(std::span(payload)));
  const Result<Message> message = decode_frame(header, metadata, std::as_bytes(std::span(payload)));
  fuzz::require(message || message.error().code == Errc::kBadFrame, "a bad frame is called one");
  if (message) send_again(*message, std::as_bytes(std::span(payload)).first(header.payload_bytes));
  return 0;
}
