#include "transport/frame.h"

#include <doctest/doctest.h>

#include <cstring>
#include <random>
#include <string>

#include "tests/transport/support.h"
#include "transport/crc32c.h"

namespace shoal::test {
namespace {

// A frame around hand-made metadata, with checksums that fit.
std::vector<std::byte> frame_of(const std::vector<uint64_t>& metadata,
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
uint64_t struct_pointer(int32_t offset, uint16_t data_words, uint16_t pointers) {
  return (static_cast<uint32_t>(offset) << 2) | (uint64_t{data_words} << 32) | (uint64_t{pointers} << 48);
}
uint64_t list_pointer(int32_t offset, unsigned element_size, uint32_t count) {
  return ((static_cast<uint32_t>(offset) << 2) | 1) | (uint64_t{element_size} << 32) |
         (uint64_t{count} << 35);
}
uint64_t far_pointer(uint32_t segment, uint32_t offset, bool two_words) {
  return (2 | (two_words ? 4 : 0) | (offset << 3)) | (uint64_t{segment} << 32);
}

// Message of kind `kind` whose struct has these words.
std::vector<uint64_t> message_words(uint16_t kind, uint16_t data_words, uint16_t pointers) {
  std::vector<uint64_t> words = {struct_pointer(0, 1, 1), kind, struct_pointer(0, data_words, pointers)};
  words.resize(words.size() + data_words + pointers);
  return words;
}
constexpr uint16_t kStep = 2, kResult = 3, kLinkProbe = 9, kWeightsData = 14;
constexpr size_t kStepPointers = 3 + 4;  // word index of the step's first pointer
std::vector<uint64_t> step_words() {
  return message_words(kStep, 4, 6);
}

TEST_CASE("CRC32C has the published values, by instruction and by tables") {
  const std::string digits = "123456789";
  const auto bytes = std::as_bytes(std::span(digits));
  CHECK(crc32c(bytes) == 0xe3069283u);  // RFC 3720 B.4's polynomial, the usual check value
  const std::vector<std::byte> zeros(32);
  CHECK(crc32c(zeros) == 0x8a9136aau);  // RFC 3720 B.4
  CHECK(crc32c({}) == 0u);
  std::mt19937 random(1);
  std::vector<std::byte> data(1000);
  for (std::byte& b : data) b = static_cast<std::byte>(random());
  for (size_t begin = 0; begin < 9; ++begin) {
    for (size_t n : {0, 1, 7, 8, 9, 63, 900}) {
      const auto part = std::span(data).subspan(begin, n);
      CHECK(crc32c(part) == crc32c_by_tables(part));
      CHECK(crc32c(part.subspan(n / 3), crc32c(part.first(n / 3))) == crc32c(part));
    }
  }
}

TEST_CASE("every message decodes to what was encoded") {
  for (const Message& message : sample_messages()) {
    CAPTURE(message_name(message));
    const Result<EncodedFrame> frame = encode_frame({message, {}, {}});
    REQUIRE(frame);
    const Result<Message> decoded = decode_bytes(bytes_of(*frame));
    REQUIRE_MESSAGE(decoded, decoded.error().message);
    CHECK(*decoded == message);
  }
}

TEST_CASE("a payload is sent from where it lies") {
  const Activations hidden(576 * 4);
  const Result<EncodedFrame> frame = encode_frame({sample_step(1, false), hidden.bytes(), {}});
  REQUIRE(frame);
  CHECK(frame->buffers()[2].data() == hidden.bytes().data());
  CHECK(frame->buffers()[2].size() == hidden.bytes().size());
  CHECK(decode_bytes(bytes_of(*frame)));
}

TEST_CASE("a decode step costs at most 256 bytes beyond its payload") {
  const Activations hidden(2048 * 4);
  StepMessage step = sample_step(1, false);
  step.cache_ops.clear();
  step.stage_times.assign(7, {17, 4711, 0});  // on its way to the eighth stage
  const Result<EncodedFrame> frame = encode_frame({step, hidden.bytes(), {}});
  REQUIRE(frame);
  const size_t overhead = frame->size_bytes() - hidden.bytes().size();
  MESSAGE("one decode row: " << overhead << " bytes beyond the payload");
  CHECK(overhead <= 256);
  for (StageTime& time : step.stage_times) time.arrived_us = 1;  // one step in kArrivalsEvery
  const Result<EncodedFrame> telling = encode_frame({step, hidden.bytes(), {}});
  REQUIRE(telling);
  CHECK(telling->size_bytes() - frame->size_bytes() <= 8 * step.stage_times.size());
  CHECK(frame->header.size() == 32);
}

TEST_CASE("payloads of any size survive, padded on the wire") {
  for (size_t bytes = 1; bytes <= 33; ++bytes) {
    const Activations payload(bytes);
    const Result<EncodedFrame> frame = encode_frame({LinkProbe{bytes}, payload.bytes(), {}});
    REQUIRE(frame);
    CHECK(frame->size_bytes() % 8 == 0);
    const Result<Message> decoded = decode_bytes(bytes_of(*frame));
    REQUIRE_MESSAGE(decoded, decoded.error().message);
    CHECK(std::get<LinkProbe>(*decoded).sequence == bytes);
  }
}

TEST_CASE("any truncation and any flipped bit is an error") {
  const Activations hidden(40);
  const Result<EncodedFrame> frame = encode_frame({sample_step(2, false), hidden.bytes(), {}});
  REQUIRE(frame);
  std::vector<std::byte> bytes = bytes_of(*frame);
  REQUIRE(decode_bytes(bytes));
  for (size_t n = 0; n < bytes.size(); ++n) CHECK_FALSE(decode_bytes(std::span(bytes).first(n)));
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      bytes[i] ^= static_cast<std::byte>(1 << bit);
      CHECK_FALSE(decode_bytes(bytes));
      bytes[i] ^= static_cast<std::byte>(1 << bit);
    }
  }
}

TEST_CASE("hostile headers are refused, each for its reason, before anything is allocated") {
  struct Case {
    const char* why;
    size_t offset;
    uint32_t value;
    const char* text;
  };
  const Case cases[] = {
      {"all ones (F1)", 0, 0xffffffffu, "bad magic"},
      {"HTTP", 0, 0x20544547u, "bad magic"},
      {"frame version + 1", 4, 2, "frame version 2"},
      {"frame version 0", 4, 0, "frame version 0"},
      {"unknown flag", 4, 1 | (1u << 16), "flags"},
      {"no metadata", 8, 0, "0 metadata bytes"},
      {"one byte of metadata", 8, 1, "1 metadata bytes"},
      {"metadata of 4 GiB", 8, 0xfffffff8u, "4294967288 metadata"},
      {"metadata one word too long", 8, kMetadataBytesMax + 8, "at most 67108864"},
      {"payload of 4 GiB", 12, 0xffffffffu, "4294967295 payload"},
      {"payload one byte too long", 12, kPayloadBytesMax + 1, "67108865 payload"},
      {"reserved", 24, 1, "flags"},
  };
  for (const Case& c : cases) {
    CAPTURE(c.why);
    FrameHeader good;
    good.metadata_bytes = 8;
    auto bytes = encode_header(good);
    std::memcpy(bytes.data() + c.offset, &c.value, 4);
    const uint32_t crc = crc32c(std::span(bytes).first(28));
    std::memcpy(bytes.data() + 28, &crc, 4);
    const Result<FrameHeader> header = decode_header(bytes, {});
    REQUIRE_FALSE(header);
    CHECK(header.error().code == Errc::kBadFrame);
    CHECK(header.error().message.find(c.text) != std::string::npos);
  }
  FrameHeader header;
  header.metadata_bytes = kHandshakeBytesMax;
  CHECK(decode_header(encode_header(header), kHandshakeLimits));
  header.payload_bytes = 1;
  CHECK_FALSE(decode_header(encode_header(header), kHandshakeLimits));
  header.payload_bytes = 0;
  header.metadata_bytes += 8;
  CHECK_FALSE(decode_header(encode_header(header), kHandshakeLimits));
}

void check_refused(const std::vector<uint64_t>& metadata, const std::vector<uint64_t>& payload = {}) {
  const auto start = Clock::now();
  const Result<Message> decoded = decode_bytes(frame_of(metadata, payload));
  REQUIRE_FALSE(decoded);
  CHECK(decoded.error().code == Errc::kBadFrame);
  CHECK(Clock::now() - start < 1s);
}

TEST_CASE("hand-made step words are what the encoder would write") {
  // Otherwise the attacks below would be refused for the wrong reason.
  const Result<Message> decoded = decode_bytes(frame_of(step_words()));
  REQUIRE_MESSAGE(decoded, decoded.error().message);
  CHECK(*decoded == Message(StepMessage{}));
}

TEST_CASE("hostile Cap'n Proto structures are refused") {
  SUBCASE("2^29 - 1 elements without size (F2)") {
    auto words = step_words();
    words[kStepPointers] = list_pointer(5, 0, (1u << 29) - 1);
    check_refused(words);
  }
  SUBCASE("2^29 - 1 structs without size (F2)") {
    auto words = step_words();
    words[kStepPointers] = list_pointer(5, 7, 0);
    words.push_back(uint64_t{(1u << 29) - 1} << 2);
    check_refused(words);
  }
  SUBCASE("a list past the segment (F3)") {
    auto words = step_words();
    words[kStepPointers + 1] = list_pointer(5, 4, 1u << 20);
    check_refused(words);
  }
  SUBCASE("a pointer out of the segment, both ways (F3)") {
    for (int32_t offset : {-100, 100, (1 << 29) - 1, -(1 << 29)}) {
      auto words = step_words();
      words[kStepPointers + 1] = list_pointer(offset, 4, 1);
      check_refused(words);
      words = step_words();
      words[2] = struct_pointer(offset, 4, 6);
      check_refused(words);
    }
  }
  SUBCASE("far pointers to nowhere (F3)") {
    for (bool two_words : {false, true}) {
      auto words = step_words();
      words[kStepPointers] = far_pointer(1, 0, two_words);
      check_refused(words);
      words[kStepPointers] = far_pointer(0xffffffffu, (1u << 29) - 1, two_words);
      check_refused(words);
    }
  }
  SUBCASE("a list of structs where numbers belong (F3)") {
    auto words = step_words();
    words[kStepPointers + 1] = list_pointer(4, 7, 1);
    words.push_back((uint64_t{1} << 2) | (uint64_t{1} << 48));  // one struct with one pointer and no data
    words.push_back(0);
    check_refused(words);
  }
  SUBCASE("a hundred rows that share one long list (F4)") {
    constexpr uint32_t kRows = 100, kLogits = 2000;
    auto words = message_words(kResult, 3, 1);
    words[6] = list_pointer(0, 7, kRows * 3);
    words.push_back((uint64_t{kRows} << 2) | (uint64_t{1} << 32) | (uint64_t{2} << 48));
    const size_t list = words.size() + kRows * 3;
    for (uint32_t i = 0; i < kRows; ++i) {
      words.push_back(i);
      words.push_back(0);
      words.push_back(list_pointer(static_cast<int32_t>(list - words.size() - 1), 4, kLogits));
    }
    words.resize(list + kLogits / 2);
    check_refused(words);
  }
  SUBCASE("a pointer to itself (F4)") {
    auto words = step_words();
    // A list of one pointer, which is the list's own: read as one cache operation without fields, not
    // followed.
    words[kStepPointers] = list_pointer(-1, 6, 1);
    const Result<Message> decoded = decode_bytes(frame_of(words));
    REQUIRE(decoded);
    CHECK(std::get<StepMessage>(*decoded).cache_ops == std::vector<WireCacheOp>(1));
    words[kStepPointers] = list_pointer(-1, 6, 1u << 20);
    check_refused(words);
  }
  SUBCASE("an unknown kind") {
    check_refused(message_words(99, 4, 6));
  }
  SUBCASE("an unknown payload type (F6)") {
    auto words = step_words();
    words[3 + 3] = 255;
    check_refused(words);
  }
  SUBCASE("row lists of different length (F7)") {
    auto words = step_words();
    words[kStepPointers + 1] = list_pointer(4, 4, 2);
    words.push_back(0);
    check_refused(words);
  }
  SUBCASE("a payload that the message does not refer to, or not wholly") {
    check_refused(step_words(), {1, 2});
    check_refused(message_words(kLinkProbe, 1, 1), {1, 2});
    auto words = message_words(kLinkProbe, 1, 1);
    words[4] = far_pointer(0, 5, true);
    words.push_back(far_pointer(1, 0, false));
    words.push_back(list_pointer(0, 2, 16));
    CHECK(decode_bytes(frame_of(words, {1, 2})));
    words.back() = list_pointer(0, 2, 15);
    check_refused(words, {1, 2});
    words.back() = list_pointer(0, 2, 17);
    check_refused(words, {1, 2});
    words[5] = far_pointer(1, 1, false);
    check_refused(words, {1, 2});
  }
  SUBCASE("weights that are not the frame's payload, or not wholly") {
    auto words = message_words(kWeightsData, 2, 2);
    CHECK(decode_bytes(frame_of(words)));
    check_refused(words, {1, 2});
    words[6] = far_pointer(0, 7, true);
    words.push_back(far_pointer(1, 0, false));
    words.push_back(list_pointer(0, 2, 16));
    CHECK(decode_bytes(frame_of(words, {1, 2})));
    words.back() = list_pointer(0, 2, 15);
    check_refused(words, {1, 2});
    words.back() = list_pointer(0, 2, 1u << 28);
    check_refused(words, {1, 2});
    words = message_words(kWeightsData, 2, 2);
    words[6] = list_pointer(0, 2, 8);  // inside the metadata
    words.push_back(1);
    check_refused(words);
  }
  SUBCASE("a Data inside the metadata instead of the payload") {
    auto words = message_words(kLinkProbe, 1, 1);
    words[4] = list_pointer(0, 2, 8);
    words.push_back(1);
    check_refused(words);
  }
}

TEST_CASE("mutated messages with fitting checksums never crash, hang or carry a wrong payload") {
  std::mt19937 random(20240607);
  const Activations hidden(64);
  size_t refused = 0, taken = 0;
  for (const Message& message : sample_messages()) {
    if (std::holds_alternative<LoadPlan>(message)) continue;  // large and one text: nothing to learn
    const bool has_payload = std::holds_alternative<StepMessage>(message);
    const Result<EncodedFrame> frame =
        encode_frame({message, has_payload ? hidden.bytes() : std::span<const std::byte>(), {}});
    REQUIRE(frame);
    std::vector<uint64_t> payload(has_payload ? 8 : 0);
    for (int i = 0; i < 2000; ++i) {
      std::vector<uint64_t> words = frame->metadata;
      const int changes = 1 + static_cast<int>(random() % 3);
      for (int k = 0; k < changes; ++k) {
        uint64_t& word = words[random() % words.size()];
        switch (random() % 4) {
          case 0:
            word ^= uint64_t{1} << (random() % 64);
            break;
          case 1:
            word = words[random() % words.size()];
            break;
          case 2:
            word = (uint64_t{random()} << 32) | random();
            break;
          default:
            word += random() % 16;
            break;
        }
      }
      const auto start = Clock::now();
      const Result<Message> decoded = decode_bytes(frame_of(words, payload));
      REQUIRE(Clock::now() - start < 1s);
      ++(decoded ? taken : refused);
      if (decoded) {
        const bool takes_payload = std::holds_alternative<StepMessage>(*decoded) ||
                                   std::holds_alternative<LinkProbe>(*decoded) ||
                                   std::holds_alternative<WeightsData>(*decoded);
        CHECK((payload.empty() || takes_payload));
      } else {
        CHECK(decoded.error().code == Errc::kBadFrame);
      }
    }
  }
  CHECK(refused > 1000);
  CHECK(taken > 100);  // many changes only alter a number: those are for the session's own checks
}

TEST_CASE("what exceeds a limit is not sent") {
  StepMessage step;
  step.rows.resize(kStepRowsMax + 1);
  CHECK(encode_frame({step, {}, {}}).error().code == Errc::kInvalidInput);
  step.rows.resize(kStepRowsMax);
  CHECK(encode_frame({step, {}, {}}));
  step.token_ids.resize(3);
  CHECK_FALSE(encode_frame({step, {}, {}}));
  CHECK_FALSE(encode_frame({Shutdown{std::string(kTextBytesMax + 1, 'x')}, {}, {}}));
  Hello hello = sample_hello();
  hello.node_name.assign(kNameBytesMax + 1, 'n');
  CHECK_FALSE(encode_frame({hello, {}, {}}));
  ResultMessage result;
  result.rows.resize(1);
  result.rows[0].tokens = {1};
  CHECK_FALSE(encode_frame({result, {}, {}}));
}

TEST_CASE("control characters do not reach a terminal") {
  Result<EncodedFrame> frame = encode_frame({Shutdown{"bye\x1b[2J\nnow"}, {}, {}});
  REQUIRE(frame);
  CHECK(std::get<Shutdown>(decode_bytes(bytes_of(*frame)).value()).reason == "bye [2J\nnow");
  Hello hello = sample_hello();
  hello.node_name = "pi\x1b-1";
  frame = encode_frame({hello, {}, {}});
  REQUIRE(frame);
  CHECK_FALSE(decode_bytes(bytes_of(*frame)));
}

TEST_CASE("a step is checked against the stage before it is computed") {
  const StepLimits limits{1, false, 64, 8, 256, 96, 1000};
  const StepMessage good = sample_step(4, false);
  const size_t bytes = 4 * 96 * 4;
  REQUIRE(check_step(good, bytes, limits));
  const auto refused = [&](auto change, size_t payload_bytes, const StepLimits& with) {
    StepMessage step = good;
    change(step);
    const Result<void> ok = check_step(step, payload_bytes, with);
    REQUIRE_FALSE(ok);
    CHECK(ok.error().code == Errc::kBadFrame);
  };
  const auto nothing = [](StepMessage&) {};
  for (size_t wrong : {size_t{0}, bytes - 4, bytes - 1, bytes + 4, 2 * bytes})
    refused(nothing, wrong, limits);
  refused([](StepMessage& s) { s.stage = 2; }, bytes, limits);
  refused([](StepMessage& s) { s.rows[0].slot = 8; }, bytes, limits);
  refused([](StepMessage& s) { s.rows[3].position = 256; }, bytes, limits);
  refused([](StepMessage& s) { s.cache_ops[0].slot = 8; }, bytes, limits);
  refused([](StepMessage& s) { s.cache_ops[1].from_slot = 0xffffffffu; }, bytes, limits);
  refused([](StepMessage& s) { s.cache_ops[1].from_slot = s.cache_ops[1].slot; }, bytes, limits);
  refused([](StepMessage& s) { s.cache_ops[2].length = 257; }, bytes, limits);
  refused([](StepMessage& s) { s.payload_type = PayloadType::kF16; }, bytes, limits);
  refused([](StepMessage& s) { s.token_ids = {1, 2, 3, 4}; }, bytes, limits);
  refused([](StepMessage& s) { s.rows.resize(65, s.rows[0]); }, 65 * 96 * 4, limits);
  refused([](StepMessage& s) { s.rows.clear(), s.cache_ops.clear(); }, 0, limits);
  refused([](StepMessage& s) { s.kind = WireStepKind::kEncode; }, bytes, limits);  // the model has no encoder

  StepLimits encodes = limits;
  encodes.inputs = 400;
  StepMessage input = good;
  input.kind = WireStepKind::kEncode;
  input.rows[3].position = 399;  // beyond what a slot holds of answers
  CHECK(check_step(input, bytes, encodes));
  input.kind = WireStepKind::kEmbed;
  CHECK(check_step(input, bytes, encodes));
  input.rows[3].position = 400;
  CHECK_FALSE(check_step(input, bytes, encodes));
  input.rows[3].position = 399;
  input.kind = WireStepKind::kDecode;
  CHECK_FALSE(check_step(input, bytes, encodes));

  StepLimits embeds = limits;
  embeds.embeds = true;
  StepMessage first = sample_step(4, true);
  first.token_ids = {0, 999, 5, 6};
  CHECK(check_step(first, 0, embeds));
  CHECK_FALSE(check_step(first, bytes, embeds));
  first.token_ids[2] = 1000;
  CHECK_FALSE(check_step(first, 0, embeds));
  CHECK_FALSE(check_step(good, 0, embeds));
}

}  // namespace
}  // namespace shoal::test
