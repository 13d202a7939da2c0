#include "transport/frame.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>

#include "tests/transport/support.h"
#include "tests/transport/wire_words.h"
#include "transport/crc32c.h"

namespace shoal::test {
namespace {

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
  CHECK(overhead <= 256);                                        // of eight stages, without adapters
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
  CHECK(std::get<Shutdown>(decode_bytes(bytes_of(*frame)).value()).reason == "bye\\x1B[2J\\nnow");
  const auto told = [](const std::string& text) {
    ResultMessage result;
    result.failed = true;
    result.failure_text = text;
    const Result<EncodedFrame> encoded = encode_frame({result, {}, {}});
    REQUIRE(encoded);
    return std::get<ResultMessage>(decode_bytes(bytes_of(*encoded)).value()).failure_text;
  };
  CHECK(told("x\nshoal: error: FORGED\r") == "x\\nshoal: error: FORGED\\x0D");
  CHECK(told("\xc2\x9b[31m \xe2\x80\xae \xe2\x80\xa8 \xe2\x80\x8b \xff") ==
        "\\u{009B}[31m \\u{202E} \\u{2028} \\u{200B} \\xFF");
  CHECK(told("der Knoten pi-1 ist voll: \xc3\xbc") == "der Knoten pi-1 ist voll: \xc3\xbc");
  Hello hello = sample_hello();
  for (const char* name : {"pi\x1b-1", "pi\xc2\x9b-1", "pi\xe2\x80\xae-1", "pi\n-1", "pi\xff-1"}) {
    hello.node_name = name;
    frame = encode_frame({hello, {}, {}});
    REQUIRE(frame);
    CHECK_FALSE(decode_bytes(bytes_of(*frame)));
  }
  Ready ready;
  ready.failure = "it cannot be reached";
  ready.info = "pi-2\nshoal: error: FORGED";
  frame = encode_frame({ready, {}, {}});
  REQUIRE(frame);
  CHECK_FALSE(decode_bytes(bytes_of(*frame)));
}

TEST_CASE("a sentence that is none any more is cut between two characters") {
  std::string most(kProseBytesMax - 1, 'x');
  Result<EncodedFrame> frame =
      encode_frame({Shutdown{most + "\xc3\xa4" + std::string(100'000, 'y')}, {}, {}});
  REQUIRE(frame);
  CHECK(std::get<Shutdown>(decode_bytes(bytes_of(*frame)).value()).reason == most + "...");
  most += 'x';
  frame = encode_frame({Shutdown{most}, {}, {}});
  REQUIRE(frame);
  CHECK(std::get<Shutdown>(decode_bytes(bytes_of(*frame)).value()).reason == most);
}

TEST_CASE("the largest step arrives whole, with adapters and without") {
  for (const bool adapted : {false, true}) {
    StepMessage step = sample_step(kStepRowsMax, true);
    for (size_t i = 0; i < step.rows.size() && adapted; ++i) {
      step.rows[i].adapter = static_cast<uint16_t>(i % 3);
      step.rows[i].adapter_scale = static_cast<float>(i) / 100;
    }
    const Result<EncodedFrame> frame = encode_frame({step, {}, {}});
    REQUIRE(frame);
    const auto decoded = decode_bytes(bytes_of(*frame));
    REQUIRE_MESSAGE(decoded.has_value(), (decoded.has_error() ? decoded.error().message : ""));
    CHECK(std::get<StepMessage>(*decoded) == step);
  }
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
  refused([](StepMessage& s) { s.rows[1].adapter = 1; }, bytes, limits);
  StepLimits adapted = limits;
  adapted.adapters = 2;
  StepMessage through = good;
  through.rows[1].adapter = 2;
  through.rows[1].adapter_scale = -kAdapterScaleMax;
  CHECK(check_step(through, bytes, adapted));
  through.rows[1].overflowed = true;
  CHECK(check_step(through, bytes, adapted));
  refused([](StepMessage& s) { s.rows[0].overflowed = true; }, bytes, adapted);
  refused([](StepMessage& s) { s.rows[1].adapter = 3; }, bytes, adapted);
  for (const float scale : {101.0f, -1e30f, INFINITY, NAN}) {
    refused([&](StepMessage& s) { s.rows[2].adapter = 1, s.rows[2].adapter_scale = scale; }, bytes, adapted);
  }
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
