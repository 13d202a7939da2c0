// Frames: how a message becomes bytes and back, without a socket. A frame is a fixed header, a metadata
// segment and a payload; transport/wire.capnp tells the layout and the rules. Encoding never copies the
// payload: a frame refers to the caller's bytes. Decoding checks every size before it is used, and the
// header, the metadata and the payload have a CRC32C each, so a damaged frame is an error (Errc::kBadFrame),
// never a wrong number. This is the one door where Cap'n Proto's exceptions become errors. Functions here are
// pure and thread-safe.
#pragma once

#include <array>
#include <boost/asio/buffer.hpp>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/error.h"
#include "transport/messages.h"

namespace shoal {

inline constexpr size_t kFrameHeaderBytes = 32;
inline constexpr uint32_t kFrameMagic = 0x314c4853;  // "SHL1" as little-endian bytes
inline constexpr uint16_t kFrameVersion = 1;
inline constexpr size_t kFrameBytesMax = kFrameHeaderBytes + kMetadataBytesMax + kPayloadBytesMax;

// What a receiver takes at this moment of the session.
struct FrameLimits {
  size_t metadata_bytes_max = kMetadataBytesMax;
  size_t payload_bytes_max = kPayloadBytesMax;
};
inline constexpr FrameLimits kHandshakeLimits = {kHandshakeBytesMax, 0};

struct FrameHeader {
  uint32_t metadata_bytes = 0;  // a multiple of 8, at least 8
  uint32_t payload_bytes = 0;   // without the zero bytes that pad it to a multiple of 8
  uint32_t metadata_crc = 0;
  uint32_t payload_crc = 0;
  // The payload's size on the wire.
  size_t padded_payload_bytes() const { return (size_t{payload_bytes} + 7) / 8 * 8; }
};

std::array<std::byte, kFrameHeaderBytes> encode_header(const FrameHeader& header);
Result<FrameHeader> decode_header(std::span<const std::byte, kFrameHeaderBytes> bytes,
                                  const FrameLimits& limits);

// A message ready to be written: send the buffers in order.
struct EncodedFrame {
  std::array<std::byte, kFrameHeaderBytes> header;
  std::vector<uint64_t> metadata;      // one Cap'n Proto segment
  std::span<const std::byte> payload;  // the caller's bytes
  std::shared_ptr<const void> keep_alive;

  // Header, metadata, payload, padding. The first views point into this object.
  std::array<boost::asio::const_buffer, 4> buffers() const;
  size_t size_bytes() const;
};

// Refuses (Errc::kInvalidInput) a message beyond the limits of the wire.
Result<EncodedFrame> encode_frame(const OutgoingMessage& outgoing);

// Verifies the metadata's checksum alone: before room for the payload is asked for.
Result<void> check_metadata(const FrameHeader& header, std::span<const uint64_t> metadata);

// Verifies both checksums and decodes. `metadata` has header.metadata_bytes / 8 words; `payload` is 8-byte
// aligned and has header.padded_payload_bytes() bytes.
Result<Message> decode_frame(const FrameHeader& header, std::span<const uint64_t> metadata,
                             std::span<const std::byte> payload);

}  // namespace shoal
