#include "transport/frame.h"

#include <capnp/message.h>
#include <kj/exception.h>

#include <bit>
#include <cstring>
#include <string>

#include "base/check.h"
#include "transport/crc32c.h"
#include "transport/wire.capnp.h"
#include "transport/wire_codec.h"

namespace shoal {

static_assert(std::endian::native == std::endian::little,
              "payloads and headers are written as they lie in memory");

namespace {

constexpr std::array<std::byte, 8> kPadding{};

struct HeaderFields {
  uint32_t magic = kFrameMagic;
  uint16_t version = kFrameVersion;
  uint16_t flags = 0;
  uint32_t metadata_bytes = 0;
  uint32_t payload_bytes = 0;
  uint32_t metadata_crc = 0;
  uint32_t payload_crc = 0;
  uint32_t reserved = 0;
  uint32_t header_crc = 0;
};
static_assert(sizeof(HeaderFields) == kFrameHeaderBytes);
constexpr size_t kHeaderCrcOffset = 28;

Error bad(std::string what) {
  return Error{Errc::kBadFrame, std::move(what)};
}

uint32_t payload_crc_of(std::span<const std::byte> payload) {
  const size_t padding = (8 - payload.size() % 8) % 8;
  return crc32c(std::span(kPadding).first(padding), crc32c(payload));
}

}  // namespace

std::array<std::byte, kFrameHeaderBytes> encode_header(const FrameHeader& header) {
  HeaderFields fields;
  fields.metadata_bytes = header.metadata_bytes;
  fields.payload_bytes = header.payload_bytes;
  fields.metadata_crc = header.metadata_crc;
  fields.payload_crc = header.payload_crc;
  std::array<std::byte, kFrameHeaderBytes> bytes;
  std::memcpy(bytes.data(), &fields, sizeof fields);
  const uint32_t crc = crc32c(std::span(bytes).first(kHeaderCrcOffset));
  std::memcpy(bytes.data() + kHeaderCrcOffset, &crc, sizeof crc);
  return bytes;
}

Result<FrameHeader> decode_header(std::span<const std::byte, kFrameHeaderBytes> bytes,
                                  const FrameLimits& limits) {
  HeaderFields fields;
  std::memcpy(&fields, bytes.data(), sizeof fields);
  if (fields.magic != kFrameMagic)
    return bad("not a shoal frame (bad magic): is that port another service's?");
  if (fields.version != kFrameVersion) {
    return bad("the peer writes frame version " + std::to_string(fields.version) +
               ", this node reads version " + std::to_string(kFrameVersion) +
               ": upgrade the older of the two");
  }
  if (fields.header_crc != crc32c(bytes.first(kHeaderCrcOffset))) return bad("a frame's header is damaged");
  if (fields.flags != 0 || fields.reserved != 0)
    return bad("a frame uses flags that this version does not know");
  if (fields.metadata_bytes < 8 || fields.metadata_bytes % 8 != 0) {
    return bad("a frame claims " + std::to_string(fields.metadata_bytes) +
               " metadata bytes, not a multiple of 8");
  }
  if (fields.metadata_bytes > limits.metadata_bytes_max || fields.payload_bytes > limits.payload_bytes_max) {
    return bad("a frame claims " + std::to_string(fields.metadata_bytes) + " metadata and " +
               std::to_string(fields.payload_bytes) + " payload bytes, at most " +
               std::to_string(limits.metadata_bytes_max) + " and " +
               std::to_string(limits.payload_bytes_max) + " are taken now");
  }
  return FrameHeader{fields.metadata_bytes, fields.payload_bytes, fields.metadata_crc, fields.payload_crc};
}

std::array<boost::asio::const_buffer, 4> EncodedFrame::buffers() const {
  const size_t padding = (8 - payload.size() % 8) % 8;
  return {boost::asio::const_buffer(header.data(), header.size()),
          boost::asio::const_buffer(metadata.data(), metadata.size() * 8),
          boost::asio::const_buffer(payload.data(), payload.size()),
          boost::asio::const_buffer(kPadding.data(), padding)};
}

size_t EncodedFrame::size_bytes() const {
  return kFrameHeaderBytes + metadata.size() * 8 + (payload.size() + 7) / 8 * 8;
}

Result<EncodedFrame> encode_frame(const OutgoingMessage& outgoing) {
  if (Result<void> ok = check_outgoing(outgoing); !ok) return ok.error();
  EncodedFrame frame;
  frame.payload = outgoing.payload;
  frame.keep_alive = outgoing.keep_alive;
  frame.metadata.assign(metadata_words_bound(outgoing.message), 0);
  size_t used_words = 0;
  {
    // A flat builder writes into our vector and leaves it as it is when destroyed.
    capnp::FlatMessageBuilder builder(
        kj::arrayPtr(reinterpret_cast<capnp::word*>(frame.metadata.data()), frame.metadata.size()));
    write_message(outgoing, builder.initRoot<wire::Message>());
    const auto segments = builder.getSegmentsForOutput();
    SHOAL_CHECK(segments.size() == (outgoing.payload.empty() ? 1 : 2));
    used_words = segments[0].size();
  }
  frame.metadata.resize(used_words);
  if (used_words * 8 > kMetadataBytesMax) {
    return Error{Errc::kInvalidInput, "a message needs " + std::to_string(used_words * 8) +
                                          " bytes, at most " + std::to_string(kMetadataBytesMax) +
                                          " fit: ask for fewer candidates or rows a step"};
  }
  FrameHeader header;
  header.metadata_bytes = static_cast<uint32_t>(used_words * 8);
  header.payload_bytes = static_cast<uint32_t>(outgoing.payload.size());
  header.metadata_crc = crc32c(std::as_bytes(std::span(frame.metadata)));
  header.payload_crc = payload_crc_of(outgoing.payload);
  frame.header = encode_header(header);
  return frame;
}

Result<void> check_metadata(const FrameHeader& header, std::span<const uint64_t> metadata) {
  SHOAL_CHECK(metadata.size_bytes() == header.metadata_bytes);
  if (crc32c(std::as_bytes(metadata)) != header.metadata_crc) return bad("a frame's metadata is damaged");
  return {};
}

Result<Message> decode_frame(const FrameHeader& header, std::span<const uint64_t> metadata,
                             std::span<const std::byte> payload) {
  SHOAL_CHECK(payload.size() == header.padded_payload_bytes());
  if (Result<void> ok = check_metadata(header, metadata); !ok) return ok.error();
  if (crc32c(payload) != header.payload_crc) return bad("a frame's payload is damaged");
  const kj::ArrayPtr<const capnp::word> segments[2] = {
      kj::arrayPtr(reinterpret_cast<const capnp::word*>(metadata.data()), metadata.size()),
      kj::arrayPtr(reinterpret_cast<const capnp::word*>(payload.data()), payload.size() / 8)};
  capnp::ReaderOptions options;
  // Every byte is read at most once, plus a little for pointers: overlapping pointers do not multiply work.
  options.traversalLimitInWords = metadata.size() + payload.size() / 8 + 64;
  options.nestingLimit = 16;
  try {
    capnp::SegmentArrayMessageReader reader(kj::arrayPtr(segments, payload.empty() ? 1 : 2), options);
    return read_message(reader.getRoot<wire::Message>(), payload.first(header.payload_bytes),
                        header.metadata_bytes);
  } catch (const kj::Exception& exception) {
    return bad("a frame does not decode: " + std::string(exception.getDescription().cStr()));
  }
}

}  // namespace shoal
