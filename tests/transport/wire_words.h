// Frames made by hand, word by word, for tests that send what no encoder would write.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tests/transport/support.h"
#include "transport/crc32c.h"

namespace shoal::test {

// A frame around hand-made metadata, with checksums that fit.
inline std::vector<std::byte> frame_of(const std::vector<uint64_t>& metadata,
                                       const std::vector<uint64_t>& payload = {}) {
  FrameHeader header;
  header.metadata_bytes = static_cast<uint32_t>(metadata.size() * 8);
  header.payload_bytes = static_cast<uint32_t>(payload.size() * 8);
  header.metadata_crc = crc32c(std::as_bytes(std::span(metadata)));
  header.payload_crc = crc32c(std::as_bytes(std::span(payload)));
  EncodedFrame frame{encode_header(header), metadata, std::as_bytes(std::span(payload)), nullptr};
  return bytes_of(frame);
}

// Cap'n Proto pointers, https://capnproto.org/encoding.html
inline uint64_t struct_pointer(int32_t offset, uint16_t data_words, uint16_t pointers) {
  return (static_cast<uint32_t>(offset) << 2) | (uint64_t{data_words} << 32) | (uint64_t{pointers} << 48);
}
inline uint64_t list_pointer(int32_t offset, unsigned element_size, uint32_t count) {
  return ((static_cast<uint32_t>(offset) << 2) | 1) | (uint64_t{element_size} << 32) |
         (uint64_t{count} << 35);
}
inline uint64_t far_pointer(uint32_t segment, uint32_t offset, bool two_words) {
  return (2 | (two_words ? 4 : 0) | (offset << 3)) | (uint64_t{segment} << 32);
}

// Message of kind `kind` whose struct has these words.
inline std::vector<uint64_t> message_words(uint16_t kind, uint16_t data_words, uint16_t pointers) {
  std::vector<uint64_t> words = {struct_pointer(0, 1, 1), kind, struct_pointer(0, data_words, pointers)};
  words.resize(words.size() + data_words + pointers);
  return words;
}
inline constexpr uint16_t kStep = 2, kResult = 3, kLinkProbe = 9, kWeightsData = 14;
inline constexpr size_t kStepPointers = 3 + 4;  // word index of the step's first pointer
inline std::vector<uint64_t> step_words() {
  return message_words(kStep, 4, 6);
}

}  // namespace shoal::test
