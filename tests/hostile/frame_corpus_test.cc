// Hostile frames, rows F1 to F11, each with its refusal. What needs a socket or a session is elsewhere: F10's
// stalls and slow senders in tests/transport/tcp_test.cc, F11's order of steps and epochs and F13's crowds in
// tests/node/node_test.cc, F12's certificates in tests/transport/tls_test.cc, and all of it against running
// processes in tests/cluster/links_test.py. There is no segment table on our wire (F1), no address, handle or
// stride (F5, F7), and no code (F8): those rows show that their bytes are refused as what they are not.
#include <doctest/doctest.h>

#include <cstring>

#include "tests/hostile/corpus.h"
#include "tests/transport/wire_words.h"

namespace shoal::test {
namespace {

using Words = std::vector<uint64_t>;

std::string refusal_of(const std::vector<std::byte>& bytes, const FrameLimits& limits = {}) {
  const Result<Message> decoded = decode_bytes(bytes, limits);
  if (decoded) return "";
  CHECK(decoded.error().code == Errc::kBadFrame);
  return decoded.error().message;
}

std::function<std::string()> frame(Words metadata, Words payload = {}) {
  return [=] { return refusal_of(frame_of(metadata, payload)); };
}

// A header with four bytes changed, its checksum right; nothing follows that could be read instead.
std::function<std::string()> head(size_t offset, uint32_t value, FrameLimits limits = {}) {
  return [=] {
    FrameHeader good;
    good.metadata_bytes = 8;
    auto bytes = encode_header(good);
    std::memcpy(bytes.data() + offset, &value, 4);
    const uint32_t crc = crc32c(std::span(bytes).first(28));
    std::memcpy(bytes.data() + 28, &crc, 4);
    const Result<FrameHeader> header = decode_header(bytes, limits);
    if (header) return std::string();
    CHECK(header.error().code == Errc::kBadFrame);
    return header.error().message;
  };
}

// A step whose pointer number `index` is this word; `more` follows the step.
Words step_with(size_t index, uint64_t pointer, Words more = {}) {
  Words words = step_words();
  words[kStepPointers + index] = pointer;
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

TEST_CASE("hostile frames: headers (F1, F10)") {
  REQUIRE(head(8, 8)().empty());
  check_hostile({
      {"F1 all ones", head(0, 0xffffffffu), {"bad magic"}},
      {"F1 513 segments of Cap'n Proto's own framing", head(0, 512), {"bad magic"}},
      {"F10 HTTP", head(0, 0x20544547u), {"bad magic"}},
      {"F10 version + 1", head(4, 2), {"frame version 2"}},
      {"F10 version - 1", head(4, 0), {"frame version 0"}},
      {"F10 an unknown flag", head(4, 1 | (1u << 16)), {"flags"}},
      {"F10 reserved bits", head(24, 1), {"flags"}},
      {"F10 length 0", head(8, 0), {"0 metadata bytes"}},
      {"F10 length 1", head(8, 1), {"1 metadata bytes"}},
      {"F10 metadata of 4 GiB", head(8, 0xfffffff8u), {"4294967288 metadata"}},
      {"F10 metadata of max + 1", head(8, kMetadataBytesMax + 8), {"at most 67108864"}},
      {"F10 a payload of 4 GiB", head(12, 0xffffffffu), {"4294967295 payload"}},
      {"F10 a payload of max + 1", head(12, kPayloadBytesMax + 1), {"67108865 payload"}},
      {"F10 a large frame before the hello",
       head(8, kHandshakeBytesMax + 8, kHandshakeLimits),
       {"at most 16384"}},
      {"F10 a payload before the hello", head(12, 1, kHandshakeLimits), {"1 payload bytes"}},
      {"F10 the largest frame before the hello", head(8, kHandshakeBytesMax, kHandshakeLimits), {}},
      {"F10 a wrong checksum of the header",
       [] {
         auto bytes = frame_of(step_words());
         bytes[29] ^= std::byte{1};
         return refusal_of(bytes);
       },
       {"header is damaged"}},
      {"F10 a wrong checksum of the metadata",
       [] {
         auto bytes = frame_of(step_words());
         bytes[40] ^= std::byte{1};
         return refusal_of(bytes);
       },
       {"metadata is damaged"}},
  });
}

TEST_CASE("hostile frames: structures (F1 to F4)") {
  REQUIRE(frame(step_words())().empty());  // otherwise these would be refused for another reason
  constexpr uint32_t kMany = (1u << 29) - 1;
  std::vector<HostileRow> rows = {
      {"F1 a metadata of one word of ones", frame({~uint64_t{0}}), {"does not decode"}},
      {"F2 2^29 - 1 elements without size", frame(step_with(0, list_pointer(5, 0, kMany))), {"frame"}},
      {"F2 2^29 - 1 structures without size",
       frame(step_with(0, list_pointer(5, 7, 0), {uint64_t{kMany} << 2})),
       {"frame"}},
      {"F3 a list past the segment", frame(step_with(1, list_pointer(5, 4, 1u << 20))), {"does not decode"}},
      {"F3 structures where numbers belong",
       frame(step_with(1, list_pointer(4, 7, 1), {(uint64_t{1} << 2) | (uint64_t{1} << 48), 0})),
       {"frame"}},
      {"F3 a text without its NUL",
       frame([] {
         Words words = message_words(7, 0, 1);  // shutdown
         words[3] = list_pointer(0, 2, 0);
         return words;
       }()),
       {"does not decode"}},
      {"F4 a list that is its own pointer, long",
       frame(step_with(0, list_pointer(-1, 6, 1u << 20))),
       {"frame"}},
  };
  for (const int32_t offset : {-100, 100, (1 << 29) - 1, -(1 << 29)}) {
    rows.push_back(
        {"F3 a pointer out of the segment", frame(step_with(1, list_pointer(offset, 4, 1))), {"frame"}});
    Words words = step_words();
    words[2] = struct_pointer(offset, 4, 6);
    rows.push_back({"F3 a structure out of the segment", frame(words), {"frame"}});
  }
  for (const bool two_words : {false, true}) {
    rows.push_back(
        {"F3 a far pointer to nowhere", frame(step_with(0, far_pointer(1, 0, two_words))), {"frame"}});
    rows.push_back({"F3 a far pointer to the end of all segments",
                    frame(step_with(0, far_pointer(0xffffffffu, kMany, two_words))),
                    {"frame"}});
  }
  constexpr uint32_t kRows = 100, kLogits = 2000;
  Words shared = message_words(kResult, 3, 1);
  shared[6] = list_pointer(0, 7, kRows * 3);
  shared.push_back((uint64_t{kRows} << 2) | (uint64_t{1} << 32) | (uint64_t{2} << 48));
  const size_t list = shared.size() + kRows * 3;
  for (uint32_t i = 0; i < kRows; ++i) {
    shared.push_back(i);
    shared.push_back(0);
    shared.push_back(list_pointer(static_cast<int32_t>(list - shared.size() - 1), 4, kLogits));
  }
  shared.resize(list + kLogits / 2);
  rows.push_back({"F4 a hundred rows that share one long list", frame(shared), {"does not decode"}});
  check_hostile(rows);

  // Read as one cache operation without fields, and not followed.
  const Result<Message> decoded = decode_bytes(frame_of(step_with(0, list_pointer(-1, 6, 1))));
  REQUIRE(decoded);
  CHECK(std::get<StepMessage>(*decoded).cache_ops == std::vector<WireCacheOp>(1));
}

// A message whose Data, pointer `index`, is this much of the frame's payload of two words.
Words payload_of(uint16_t kind, uint16_t data_words, uint16_t pointers, size_t index, uint32_t bytes,
                 uint32_t first_word = 0) {
  Words words = message_words(kind, data_words, pointers);
  const size_t at = 3 + data_words + index;
  words[at] = far_pointer(0, static_cast<uint32_t>(words.size()), true);
  words.push_back(far_pointer(1, first_word, false));
  words.push_back(list_pointer(0, 2, bytes));
  return words;
}

TEST_CASE("hostile frames: numbers that contradict each other (F5 to F9)") {
  const Words two = {1, 2};
  Words odd_type = step_words();
  odd_type[3 + 3] = 255;
  Words inside = message_words(kWeightsData, 2, 2);
  inside[6] = list_pointer(0, 2, 8);
  inside.push_back(1);
  Words probe_inside = message_words(kLinkProbe, 1, 1);
  probe_inside[4] = list_pointer(0, 2, 8);
  probe_inside.push_back(1);
  check_hostile({
      {"F6 a payload type of 255", frame(odd_type), {"payload type"}},
      {"F7 lists of rows of different length",
       frame(step_with(1, list_pointer(4, 4, 2), {0})),
       {"lists differ in length"}},
      {"F8 an unknown kind of message", frame(message_words(99, 4, 6)), {"unknown kind 99"}},
      {"F8 a kind of 65535", frame(message_words(0xffff, 4, 6)), {"unknown kind 65535"}},
      {"F9 a payload that no message refers to", frame(step_words(), two), {"payload"}},
      {"F9 a probe that does not refer to it", frame(message_words(kLinkProbe, 1, 1), two), {"payload"}},
      {"F9 all of it", frame(payload_of(kLinkProbe, 1, 1, 0, 16), two), {}},
      {"F9 a byte less", frame(payload_of(kLinkProbe, 1, 1, 0, 15), two), {"payload"}},
      {"F9 a byte more", frame(payload_of(kLinkProbe, 1, 1, 0, 17), two), {"frame"}},
      {"F9 from its second word", frame(payload_of(kLinkProbe, 1, 1, 0, 16, 1), two), {"frame"}},
      {"F9 of the metadata instead", frame(probe_inside), {"frame"}},
      {"F9 weights, all of it", frame(payload_of(kWeightsData, 2, 2, 1, 16), two), {}},
      {"F9 weights that refer to nothing", frame(message_words(kWeightsData, 2, 2), two), {"payload"}},
      {"F9 weights, a byte less", frame(payload_of(kWeightsData, 2, 2, 1, 15), two), {"payload"}},
      {"F9 weights, 256 MiB", frame(payload_of(kWeightsData, 2, 2, 1, 1u << 28), two), {"frame"}},
      {"F9 weights of the metadata", frame(inside), {"frame"}},
  });
}

// What a stage of 64 rows, 8 slots of 256 positions and 96 floats a row says of a step of four rows.
std::function<std::string()> step(const std::function<void(StepMessage&)>& change,
                                  size_t payload_bytes = 4 * 96 * 4) {
  return [=] {
    StepMessage message = sample_step(4, false);
    change(message);
    const Result<void> checked = check_step(message, payload_bytes, {1, false, 64, 8, 256, 96, 1000});
    if (checked) return std::string();
    CHECK(checked.error().code == Errc::kBadFrame);
    return checked.error().message;
  };
}

TEST_CASE("hostile frames: steps that a stage cannot take (F5, F7, F11)") {
  const auto first = [](uint32_t token) {
    return [=] {
      StepMessage message = sample_step(1, false);
      message.token_ids = {token};
      const Result<void> checked = check_step(message, 0, {1, true, 64, 8, 256, 96, 1000});
      return checked ? std::string() : checked.error().message;
    };
  };
  check_hostile({
      {"a good one", step([](StepMessage&) {}), {}},
      {"F5 slot 0x41414141", step([](StepMessage& s) { s.rows[0].slot = 0x41414141; }), {"slot 1094795585"}},
      {"F5 a fork from slot 0x41414141",
       step([](StepMessage& s) { s.cache_ops[1].from_slot = 0x41414141; }),
       {"slot 1094795585"}},
      {"F5 a fork from itself",
       step([](StepMessage& s) { s.cache_ops[1].from_slot = s.cache_ops[1].slot; }),
       {"forked from itself"}},
      {"F6 f16 where f32 was agreed",
       step([](StepMessage& s) { s.payload_type = PayloadType::kF16; }),
       {"not f32"}},
      {"F7 a payload of no row", step([](StepMessage&) {}, 0), {"payload of 0 bytes", "1536"}},
      {"F7 a payload of a row more", step([](StepMessage&) {}, 5 * 96 * 4), {"payload of 1920 bytes"}},
      {"F7 a payload a byte short", step([](StepMessage&) {}, 4 * 96 * 4 - 1), {"1535 bytes"}},
      {"F11 for another stage", step([](StepMessage& s) { s.stage = 2; }), {"this is stage 1"}},
      {"F11 a position past the context",
       step([](StepMessage& s) { s.rows[3].position = 256; }),
       {"position 256"}},
      {"F11 position 2^32 - 1",
       step([](StepMessage& s) { s.rows[3].position = ~0u; }),
       {"position 4294967295"}},
      {"F11 a cache of more than the context",
       step([](StepMessage& s) { s.cache_ops[2].length = 257; }),
       {"257 positions"}},
      {"F11 nothing to do",
       step([](StepMessage& s) { s.rows.clear(), s.cache_ops.clear(); }, 0),
       {"nothing to do"}},
      {"F11 more rows than agreed",
       step([](StepMessage& s) { s.rows.resize(65, s.rows[0]); }, 65 * 96 * 4),
       {"at most 64"}},
      {"F11 tokens at a stage without an embedding",
       step([](StepMessage& s) {
         s.token_ids = {1, 2, 3, 4};
       }),
       {"4 token ids"}},
      {"F11 the hash of each stage before",
       step([](StepMessage& s) { s.verify_slot = 8, s.digests.resize(kDigestBytes); }),
       {}},
      {"F11 a slot to be hashed that is not there",
       step([](StepMessage& s) { s.verify_slot = 9, s.digests.resize(kDigestBytes); }),
       {"slot 8 to be hashed"}},
      {"F11 hashes nobody wanted",
       step([](StepMessage& s) { s.digests.resize(kDigestBytes); }),
       {"32 bytes of digests where 0 belong"}},
      {"F11 a stage's hash too many",
       step([](StepMessage& s) { s.verify_slot = 1, s.digests.resize(2 * kDigestBytes); }),
       {"64 bytes of digests where 32 belong"}},
      {"F11 a row that overflowed behind no adapter",
       step([](StepMessage& s) { s.rows[2].overflowed = true; }),
       {"passes through no adapter"}},
      {"F11 token 999 of 1000", first(999), {}},
      {"F11 token 1000 of 1000", first(1000), {"token 1000"}},
      {"F11 token -1", first(~0u), {"token 4294967295"}},
  });
}

}  // namespace
}  // namespace shoal::test
