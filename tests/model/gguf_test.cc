// The GGUF reader: what is written comes back, and nothing hostile gets in.
#include "base/printable.h"
#include "model/gguf_file.h"

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <filesystem>
#include <limits>
#include <sstream>

#include "base/error.h"
#include "model/gguf_reader.h"
#include "model/inspect.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace shoal {
namespace {

using namespace shoal::test;

constexpr uint64_t kMax64 = std::numeric_limits<uint64_t>::max();

// What open says about a path; empty if it opens.
std::string refusal_of_path(const std::string& path) {
  try {
    GgufFile::open(path);
    return "";
  } catch (const SetupError& error) {
    return error.what();
  }
}

std::string refusal(const std::string& bytes) {
  TempDir dir;
  write_file(dir.file("model.gguf"), bytes);
  return refusal_of_path(dir.file("model.gguf"));
}
std::string refusal(const GgufWriter& writer) {
  return refusal(writer.bytes());
}

void check_says(const std::string& message, std::initializer_list<const char*> words) {
  for (const char* word : words) {
    CHECK_MESSAGE(message.find(word) != std::string::npos,
                  "'" << std::string(word) << "' is missing in: " << message);
  }
}

GgufFile open_bytes(const std::string& bytes) {
  TempDir dir;
  write_file(dir.file("model.gguf"), bytes);
  return GgufFile::open(dir.file("model.gguf"));
}

template <class T>
const T& value(const GgufFile& file, const std::string& key) {
  REQUIRE_MESSAGE(file.find(key) != nullptr, key);
  REQUIRE_MESSAGE(std::holds_alternative<T>(*file.find(key)), key);
  return std::get<T>(*file.find(key));
}

// One tensor of 8 rows of 32 Q8_0 elements and a few keys.
GgufWriter small_file(uint32_t version = 3) {
  GgufWriter out(version);
  out.set_string("general.architecture", "llama");
  out.set_u32("count", 7);
  out.set_strings("words", {"one", "", "three"});
  out.set_array<int32_t>("numbers", kMetaI32, {-1, 0, 1});
  uint64_t state = 5;
  out.add_tensor("a", TensorType::kF32, {6}, std::string(24, 'a'));
  out.add_tensor("b", TensorType::kQ8_0, {32, 8}, random_elements(TensorType::kQ8_0, 256, 1, state));
  return out;
}

// The bytes of a file that claims `n_kv` keys and goes on with `rest`.
std::string header(uint64_t n_tensors, uint64_t n_kv, const std::string& rest) {
  return "GGUF" + GgufWriter::pod<uint32_t>(3) + GgufWriter::pod(n_tensors) + GgufWriter::pod(n_kv) + rest;
}

TEST_CASE("every metadata type comes back, in versions 2 and 3") {
  for (uint32_t version : {2u, 3u}) {
    GgufWriter out(version);
    out.set_u8("u8", 255);
    out.set_i8("i8", -128);
    out.set_u16("u16", 65535);
    out.set_i16("i16", -32768);
    out.set_u32("u32", 4294967295u);
    out.set_i32("i32", std::numeric_limits<int32_t>::min());
    out.set_u64("u64", kMax64);
    out.set_i64("i64", std::numeric_limits<int64_t>::min());
    out.set_f32("f32", 0.1f);
    out.set_f64("f64", 0.1);
    out.set_bool("yes", true);
    out.set_bool("no", false);
    out.set_string("text", std::string("a\0b", 3));
    out.set_array<uint8_t>("u8s", kMetaU8, {0, 255});
    out.set_array<int8_t>("i8s", kMetaI8, {-128, 127});
    out.set_array<uint16_t>("u16s", kMetaU16, {65535});
    out.set_array<int16_t>("i16s", kMetaI16, {-32768});
    out.set_array<uint32_t>("u32s", kMetaU32, {4294967295u});
    out.set_array<int32_t>("i32s", kMetaI32, {-5, 5});
    out.set_array<uint64_t>("u64s", kMetaU64, {kMax64});
    out.set_array<int64_t>("i64s", kMetaI64, {-7});
    out.set_array<float>("f32s", kMetaF32, {0.5f, -0.25f});
    out.set_array<double>("f64s", kMetaF64, {0.1});
    out.set_array<uint8_t>("bools", kMetaBool, {1, 0, 1});
    out.set_strings("texts", {"x", "", std::string(1000, 'y')});
    out.set_strings("empty", {});
    const GgufFile file = open_bytes(out.bytes());
    CHECK(file.version() == version);
    CHECK(file.tensors().empty());
    CHECK(file.metadata().size() == 26);
    CHECK(value<uint64_t>(file, "u8") == 255);
    CHECK(value<int64_t>(file, "i8") == -128);
    CHECK(value<uint64_t>(file, "u16") == 65535);
    CHECK(value<int64_t>(file, "i16") == -32768);
    CHECK(value<uint64_t>(file, "u32") == 4294967295u);
    CHECK(value<int64_t>(file, "i32") == std::numeric_limits<int32_t>::min());
    CHECK(value<uint64_t>(file, "u64") == kMax64);
    CHECK(value<int64_t>(file, "i64") == std::numeric_limits<int64_t>::min());
    CHECK(value<double>(file, "f32") == static_cast<double>(0.1f));
    CHECK(value<double>(file, "f64") == 0.1);
    CHECK(value<bool>(file, "yes"));
    CHECK_FALSE(value<bool>(file, "no"));
    CHECK(value<std::string>(file, "text") == std::string("a\0b", 3));
    CHECK(value<std::vector<uint64_t>>(file, "u8s") == std::vector<uint64_t>{0, 255});
    CHECK(value<std::vector<int64_t>>(file, "i8s") == std::vector<int64_t>{-128, 127});
    CHECK(value<std::vector<uint64_t>>(file, "u16s") == std::vector<uint64_t>{65535});
    CHECK(value<std::vector<int64_t>>(file, "i16s") == std::vector<int64_t>{-32768});
    CHECK(value<std::vector<uint64_t>>(file, "u32s") == std::vector<uint64_t>{4294967295u});
    CHECK(value<std::vector<int64_t>>(file, "i32s") == std::vector<int64_t>{-5, 5});
    CHECK(value<std::vector<uint64_t>>(file, "u64s") == std::vector<uint64_t>{kMax64});
    CHECK(value<std::vector<int64_t>>(file, "i64s") == std::vector<int64_t>{-7});
    CHECK(value<std::vector<double>>(file, "f32s") == std::vector<double>{0.5, -0.25});
    CHECK(value<std::vector<double>>(file, "f64s") == std::vector<double>{0.1});
    CHECK(value<std::vector<bool>>(file, "bools") == std::vector<bool>{true, false, true});
    CHECK(value<std::vector<std::string>>(file, "texts")[2].size() == 1000);
    CHECK(value<std::vector<std::string>>(file, "empty").empty());
  }
}

TEST_CASE("typed access widens, defaults and refuses") {
  GgufWriter out;
  out.set_i32("three", 3);
  out.set_i32("minus", -3);
  out.set_f32("half", 0.5f);
  out.set_f32("infinite", std::numeric_limits<float>::infinity());
  out.set_bool("flag", true);
  out.set_string("text", "t");
  out.set_array<uint32_t>("layers", kMetaU32, {1, 2, 3});
  out.set_array<int32_t>("bad_layers", kMetaI32, {1, -2, 3});
  const GgufFile file = open_bytes(out.bytes());
  CHECK(file.get_uint("three") == 3);
  CHECK(file.get_uint("absent", 9) == 9);
  CHECK_THROWS_WITH_AS(file.get_uint("absent"), doctest::Contains("'absent' is missing"), SetupError);
  CHECK_THROWS_WITH_AS(file.get_uint("minus"), doctest::Contains("'minus' is not a non-negative integer"),
                       SetupError);
  CHECK_THROWS_AS(file.get_uint("text", 1), SetupError);
  CHECK(file.get_float("half", 1) == 0.5);
  CHECK(file.get_float("minus", 1) == -3);
  CHECK(file.get_float("absent", 1) == 1);
  CHECK_THROWS_AS(file.get_float("infinite", 1), SetupError);
  CHECK_THROWS_AS(file.get_float("layers", 1), SetupError);
  CHECK(file.get_bool("flag", false));
  CHECK_THROWS_AS(file.get_bool("three", false), SetupError);
  CHECK(file.get_string("text") == "t");
  CHECK(file.get_string("absent", "d") == "d");
  CHECK_THROWS_AS(file.get_string("three", "d"), SetupError);
  CHECK(file.get_uint_per_layer("layers", 3) == std::vector<uint64_t>{1, 2, 3});
  CHECK(file.get_uint_per_layer("three", 2) == std::vector<uint64_t>{3, 3});
  CHECK_THROWS_WITH_AS(file.get_uint_per_layer("layers", 2), doctest::Contains("3 entries for 2 layers"),
                       SetupError);
  CHECK_THROWS_AS(file.get_uint_per_layer("bad_layers", 3), SetupError);
  CHECK_THROWS_AS(file.get_uint_per_layer("text", 3), SetupError);
}

TEST_CASE("tensors: shape, size and bytes, at any alignment") {
  for (uint64_t alignment : {8u, 32u, 4096u}) {
    GgufWriter out = small_file();
    out.alignment = alignment;
    out.set_u32("general.alignment", static_cast<uint32_t>(alignment));
    TempDir dir;
    out.write(dir.file("m.gguf"));
    const GgufFile file = GgufFile::open(dir.file("m.gguf"));
    REQUIRE(file.tensors().size() == 2);
    const TensorInfo& b = file.tensor("b");
    CHECK(b.type == TensorType::kQ8_0);
    CHECK(b.cols() == 32);
    CHECK(b.rows() == 8);
    CHECK(b.bytes == 8 * 34);
    CHECK(b.offset % alignment == 0);
    CHECK(file.total_bytes() == out.bytes().size());
    std::string bytes(b.bytes - 30, '\0');
    file.read(b, 30, std::as_writable_bytes(std::span(bytes)));
    CHECK(bytes == out.tensor("b").data.substr(30));
    CHECK(file.find_tensor("c") == nullptr);
    CHECK_THROWS_WITH_AS(file.tensor("c"), doctest::Contains("tensor 'c' is missing"), SetupError);
  }
}

TEST_CASE("a file that shrinks while in use is an error, not a signal") {
  TempDir dir;
  small_file().write(dir.file("m.gguf"));
  const GgufFile file = GgufFile::open(dir.file("m.gguf"));
  std::filesystem::resize_file(dir.file("m.gguf"), file.tensor("b").offset + 10);
  std::vector<std::byte> bytes(file.tensor("b").bytes);
  try {
    file.read(file.tensor("b"), 0, bytes);
    FAIL("read past the end");
  } catch (const SetupError& error) {
    CHECK(error.exit_code() == kExitFailed);
    check_says(error.what(), {"m.gguf", "became shorter"});
  }
}

TEST_CASE("a file truncated at any byte is refused at open") {
  const std::string whole = small_file().bytes();
  TempDir dir;
  const std::string path = dir.file("m.gguf");
  write_file(path, whole);
  CHECK(refusal_of_path(path).empty());
  for (size_t size = whole.size(); size-- > 0;) {
    std::filesystem::resize_file(path, size);
    const std::string message = refusal_of_path(path);
    CHECK_MESSAGE(!message.empty(), "opened with " << size << " of " << whole.size() << " bytes");
    check_says(message, {"m.gguf", "byte"});
    if (size >= 4) CHECK_MESSAGE(message.find("truncated") != std::string::npos, size << ": " << message);
  }
  check_says(refusal(whole.substr(0, 146)), {"ends at byte 146", "'words'", "needs", "at byte"});
}

TEST_CASE("a file with any one byte changed opens or is refused, nothing else") {
  const std::string whole = small_file().bytes();
  TempDir dir;
  int refused = 0;
  for (size_t i = 0; i < whole.size() - 300; ++i) {
    for (unsigned char flip : {0x01, 0x80, 0xFF}) {
      std::string bytes = whole;
      bytes[i] = static_cast<char>(bytes[i] ^ flip);
      write_file(dir.file("m.gguf"), bytes);
      refused += !refusal_of_path(dir.file("m.gguf")).empty();
    }
  }
  CHECK(refused > 100);
}

TEST_CASE("what is not a GGUF file of version 2 or 3 is named") {
  check_says(refusal(std::string()), {"not a GGUF file", "0 bytes"});
  check_says(refusal(std::string("GG")), {"not a GGUF file"});
  check_says(refusal(std::string("<html>\n\n not found")), {"not a GGUF file", "'<htm'"});
  check_says(refusal(std::string("\x1b]0;") + std::string(50, 'x')), {"not a GGUF file", "\\x1B]0;"});
  GgufWriter writer = small_file();
  writer.version = 1;
  check_says(refusal(writer), {"version 1", "obsolete"});
  writer.version = 0x03000000;
  check_says(refusal(writer), {"big-endian"});
  writer.version = 4;
  check_says(refusal(writer), {"version 4", "versions 2 and 3"});
  writer.version = 0;
  check_says(refusal(writer), {"version 0"});
}

TEST_CASE("only regular files are opened") {
  TempDir dir;
  check_says(refusal_of_path(dir.file("none.gguf")), {"none.gguf", "No such file"});
  check_says(refusal_of_path(dir.path()), {"directory"});
  check_says(refusal_of_path("/dev/zero"), {"not a regular file", "device"});
  REQUIRE(::mkfifo(dir.file("fifo").c_str(), 0600) == 0);
  check_says(refusal_of_path(dir.file("fifo")), {"FIFO"});
  small_file().write(dir.file("m.gguf"));
  std::filesystem::create_symlink("m.gguf", dir.file("link.gguf"));
  CHECK(refusal_of_path(dir.file("link.gguf")).empty());
}

TEST_CASE("hostile counts are bounded by what remains, before anything is allocated") {
  for (uint64_t n :
       {kMax64, uint64_t{0xFFFFFFFF}, uint64_t{0x1D1D1D1D1D1D1D1D}, kMax64 / 13 + 1, uint64_t{65536}}) {
    check_says(refusal(header(0, n, "")), {"metadata", "claims ", std::to_string(n).c_str()});
    check_says(refusal(header(n, 0, "")), {"tensor", "claims ", std::to_string(n).c_str()});
  }
  const std::string key = GgufWriter::string("k");
  for (uint64_t n : {kMax64, uint64_t{1} << 30, uint64_t{1} << 20}) {
    check_says(refusal(header(0, 1, GgufWriter::pod(n) + "kkkkkkkkk")), {"key number 0"});
    check_says(
        refusal(header(0, 1, key + GgufWriter::pod<uint32_t>(kMetaString) + GgufWriter::pod(n) + "abc")),
        {"'k'"});
  }
  for (uint64_t n : {kMax64, uint64_t{1} << 61, uint64_t{1} << 60, uint64_t{1} << 20, uint64_t{3}}) {
    for (uint32_t type : {kMetaU64, kMetaString, kMetaU16, kMetaBool}) {
      const std::string array =
          GgufWriter::pod<uint32_t>(kMetaArray) + GgufWriter::pod(type) + GgufWriter::pod(n);
      check_says(refusal(header(0, 1, key + array + "x")), {"'k'", "claims"});
    }
  }
}

TEST_CASE("a sparse file of a terabyte with a huge claim costs no memory") {
  TempDir dir;
  const std::string path = dir.file("sparse.gguf");
  const std::string array = GgufWriter::pod<uint32_t>(kMetaArray) + GgufWriter::pod<uint32_t>(kMetaString);
  struct rusage before, after;
  ::getrusage(RUSAGE_SELF, &before);
  for (const std::string& claim :
       {array + GgufWriter::pod(uint64_t{1} << 36),
        GgufWriter::pod<uint32_t>(kMetaString) + GgufWriter::pod(uint64_t{1} << 38)}) {
    write_file(path, header(0, 1, GgufWriter::string("k") + claim));
    std::error_code error;
    std::filesystem::resize_file(path, uint64_t{1} << 40, error);
    if (error) return;  // a file system without files of that size
    check_says(refusal_of_path(path), {"'k'", "the limit is"});
  }
  ::getrusage(RUSAGE_SELF, &after);
  CHECK(after.ru_maxrss - before.ru_maxrss < 65536);  // KiB
}

TEST_CASE("hostile metadata is refused by name") {
  const auto with_value = [](uint32_t type, const std::string& bytes) {
    GgufWriter writer = small_file();
    writer.set_raw("odd", type, bytes);
    return refusal(writer);
  };
  for (uint32_t type : {13u, 0x80000000u, 0xFFFFFFFFu}) {
    check_says(with_value(type, std::string(8, '\0')),
               {"'odd'", "unknown value type", std::to_string(type).c_str()});
    check_says(
        with_value(kMetaArray, GgufWriter::pod(type) + GgufWriter::pod<uint64_t>(1) + std::string(8, '\0')),
        {"'odd'", "array of the unknown value type"});
  }
  std::string nested;
  for (int depth = 0; depth < 10000; ++depth) {
    nested += GgufWriter::pod<uint32_t>(kMetaArray) + GgufWriter::pod<uint64_t>(1);
  }
  check_says(with_value(kMetaArray, nested), {"'odd'", "array of arrays"});

  GgufWriter twice = small_file();
  twice.add_duplicate_key("count", kMetaU32, GgufWriter::pod<uint32_t>(8));
  check_says(refusal(twice), {"'count'", "twice"});
  GgufWriter empty = small_file();
  empty.set_u32("", 1);
  check_says(refusal(empty), {"key number 4", "empty"});
  GgufWriter escape = small_file();
  escape.add_duplicate_key("\x1b[31m\xE2\x80\xAE", 99, "");
  check_says(refusal(escape), {"'\\x1B[31m\\u{202E}'"});
}

TEST_CASE("general.alignment must be a sane power of two") {
  for (uint32_t alignment : {0u, 1u, 3u, 13u, 1u << 30, 0x80000000u}) {
    GgufWriter writer = small_file();
    writer.set_u32("general.alignment", alignment);
    check_says(refusal(writer), {"general.alignment", "power of two"});
  }
  GgufWriter writer = small_file();
  writer.set_i32("general.alignment", 32);
  check_says(refusal(writer), {"general.alignment", "unsigned"});
  writer.set_string("general.alignment", "32");
  check_says(refusal(writer), {"general.alignment", "unsigned"});
}

TEST_CASE("hostile tensor records are refused by name") {
  const auto with = [](const std::function<void(GgufWriter::Tensor&)>& edit) {
    GgufWriter writer = small_file();
    edit(writer.tensor("b"));
    return refusal(writer);
  };
  using Tensor = GgufWriter::Tensor;
  for (uint32_t n : {0u, 5u, 255u, 0xFFFFFFFFu}) {
    check_says(with([&](Tensor& t) { t.n_dims = n; }), {"'b'", std::to_string(n).c_str(), "dimensions"});
  }
  for (uint64_t dim : {uint64_t{0}, kMax64, uint64_t{1} << 63}) {
    check_says(with([&](Tensor& t) { t.dims = {32, dim}; }), {"'b'", "dimension 1"});
    check_says(with([&](Tensor& t) { t.dims = {dim, 8}; }), {"'b'", "dimension 0"});
  }
  const uint64_t large = uint64_t{1} << 32;
  check_says(with([&](Tensor& t) { t.dims = {large, large}; }), {"'b'", "overflows"});
  check_says(with([&](Tensor& t) { t.dims = {32, large, large, large}; }), {"'b'", "overflows"});
  check_says(with([&](Tensor& t) { t.type = 0, t.dims = {uint64_t{1} << 62}; }), {"'b'", "overflows"});
  check_says(with([&](Tensor& t) { t.dims = {32, (uint64_t{1} << 42) + 1}; }), {"'b'", "file ends at byte"});
  check_says(with([](Tensor& t) { t.dims = {33, 8}; }), {"'b'", "33 elements", "Q8_0"});
  for (uint32_t type : {40u, 41u, 4u, 0x7FFFFFFFu, 0xFFFFFFFFu}) {
    check_says(with([&](Tensor& t) { t.type = type; }),
               {"'b'", std::to_string(type).c_str(), "F32, F16, BF16, Q4_0"});
  }
  check_says(with([](Tensor& t) { t.type = 40; }), {"(NVFP4)"});
  check_says(with([](Tensor& t) { t.offset = 1; }), {"'b'", "alignment"});
  check_says(with([](Tensor& t) { t.offset = 64; }), {"'b'", "file ends at byte"});
  check_says(with([](Tensor& t) { t.offset = uint64_t{1} << 40; }), {"'b'", "file ends at byte"});
  check_says(with([](Tensor& t) { t.offset = kMax64 - 31; }), {"'b'", "overflows"});
  check_says(with([](Tensor& t) { t.offset = 0; }), {"overlaps tensor"});
  check_says(with([](Tensor& t) { t.name = std::string(1, 'a'); }), {"'a'", "twice"});
  check_says(with([](Tensor& t) { t.name.clear(); }), {"tensor number 1", "empty"});
  CHECK(with([](Tensor& t) { t.name = std::string(63, 'n'); }).empty());
  check_says(with([](Tensor& t) { t.name = std::string(64, 'n'); }), {"tensor number 1", "64 bytes"});
}

TEST_CASE("split files open from any part and are checked against each other") {
  TempDir dir;
  TinyModelOptions options;
  options.n_layer = 3;
  const GgufWriter whole = tiny_model(options);
  const auto paths = whole.write_split(dir.file("m"), 3);
  REQUIRE(paths.size() == 3);
  const GgufFile first = GgufFile::open(paths[0]);
  for (const std::string& path : paths) {
    const GgufFile file = GgufFile::open(path);
    CHECK(file.part_paths() == paths);
    CHECK(file.fingerprint() == first.fingerprint());
    REQUIRE(file.tensors().size() == whole.tensors.size());
    CHECK(file.get_string("general.architecture") == "llama");
    for (size_t i = 0; i < whole.tensors.size(); ++i) {
      const TensorInfo& tensor = file.tensor(whole.tensors[i].name);
      std::string bytes(tensor.bytes, '\0');
      file.read(tensor, 0, std::as_writable_bytes(std::span(bytes)));
      CHECK(bytes == whole.tensors[i].data);
    }
  }
  CHECK(first.tensors().back().part == 2);

  std::filesystem::rename(paths[1], dir.file("away"));
  for (size_t part : {size_t{0}, size_t{2}}) {
    check_says(refusal_of_path(paths[part]), {"m-00002-of-00003.gguf", "No such file", "part 2 of 3"});
  }
  std::filesystem::rename(dir.file("away"), paths[1]);
  std::filesystem::rename(paths[0], dir.file("renamed.gguf"));
  check_says(refusal_of_path(dir.file("renamed.gguf")),
             {"renamed.gguf", "split into 3", "-00001-of-00003.gguf"});
  check_says(refusal_of_path(paths[1]), {"m-00001-of-00003.gguf", "No such file"});
}

TEST_CASE("split files that contradict themselves are refused") {
  const GgufWriter whole = small_file();
  const auto spoiled = [&](const std::function<void(int, GgufWriter&)>& edit) {
    TempDir dir;
    return refusal_of_path(whole.write_split(dir.file("m"), 2, edit)[0]);
  };
  CHECK(spoiled({}).empty());
  check_says(spoiled([](int part, GgufWriter& w) {
               if (part == 1) w.set_u16("split.no", 0);
             }),
             {"m-00002-of-00002", "split.no"});
  check_says(spoiled([](int part, GgufWriter& w) {
               if (part == 1) w.set_u16("split.count", 3);
             }),
             {"m-00002-of-00002", "split.count"});
  check_says(spoiled([](int part, GgufWriter& w) {
               if (part == 0) w.set_u16("split.count", 60000);
             }),
             {"split.count"});
  check_says(spoiled([](int part, GgufWriter& w) {
               if (part == 0) w.set_string("split.count", "2");
             }),
             {"split.count", "integer"});
  check_says(spoiled([](int, GgufWriter& w) { w.erase("split.count"); }), {"name says part 1 of 2"});
  check_says(spoiled([](int, GgufWriter& w) { w.set_i32("split.tensors.count", 9); }),
             {"split.tensors.count", "9", "2"});
  check_says(spoiled([](int part, GgufWriter& w) {
               if (part == 1) w.tensor("b").name = std::string(1, 'a');
             }),
             {"'a'", "twice"});
}

TEST_CASE("the fingerprint follows the header and the sizes, not the name") {
  TempDir dir;
  GgufWriter writer = small_file();
  writer.write(dir.file("one.gguf"));
  writer.write(dir.file("two.gguf"));
  const std::string first = GgufFile::open(dir.file("one.gguf")).fingerprint();
  CHECK(first.size() == 64);
  CHECK(first == GgufFile::open(dir.file("two.gguf")).fingerprint());
  write_file(dir.file("longer.gguf"), writer.bytes() + std::string(32, '\0'));
  CHECK(first != GgufFile::open(dir.file("longer.gguf")).fingerprint());
  writer.set_u32("count", 8);
  CHECK(first != open_bytes(writer.bytes()).fingerprint());
}

TEST_CASE("text from a file is made safe for a terminal") {
  CHECK(printable("plain é 漢 😀") == "plain é 漢 😀");
  CHECK(printable("a\nb\tc\x1b[0m\x7f") == "a\\nb\\tc\\x1B[0m\\x7F");
  CHECK(printable(std::string_view("\0", 1)) == "\\x00");
  CHECK(printable("\xC2\x9B\xE2\x80\xAE\xE2\x81\xA6") == "\\u{009B}\\u{202E}\\u{2066}");
  CHECK(printable("\xFF\xC3(\xED\xA0\x80\xF4\x90\x80\x80\xC0\x80") ==
        "\\xFF\\xC3(\\xED\\xA0\\x80\\xF4\\x90\\x80\\x80\\xC0\\x80");
  CHECK(printable("\xE6\xBC") == "\\xE6\\xBC");
  CHECK(printable("abcdef", 3) == "abc...");
  CHECK(printable("ab漢", 4) == "ab...");
  CHECK(printable("abc", 3) == "abc");
}

TEST_CASE("inspect shows the model, its tensors and totals, and no control characters") {
  TinyModelOptions options;
  options.type = TensorType::kQ4_K;
  options.rope_freqs = true;
  GgufWriter writer = tiny_model(options);
  writer.set_string("general.name", "Evil \x1b]0;title\x07 name");
  writer.set_strings("odd", {"\x1b[2J", std::string(500, 'z')});
  std::ostringstream out;
  inspect_model(open_bytes(writer.bytes()), out);
  const std::string text = out.str();
  check_says(
      text, {"GGUF version 3", "architecture  llama", "384 tokens", "Evil \\x1B]0;title\\x07 name",
             "with factors", "turns marked by <|im_start|>", "'smollm'", "blk.1.ffn_down.weight", "512 x 256",
             "73728", "Q4_K", "15 tensors", "'\\x1B[2J', 'zzzzzzzzzzzzzzzzzzzz...'] (2)"});
  for (char c : text) CHECK((c == '\n' || static_cast<unsigned char>(c) >= 0x20));

  // Encoders too, which have neither windows nor rotation.
  int files = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::string(SHOAL_SOURCE_DIR) + "/tests/sharding/fixtures")) {
    if (entry.path().extension() != ".gguf") continue;
    std::ostringstream shown;
    inspect_model(GgufFile::open(entry.path().string()), shown);
    CAPTURE(entry.path().string());
    check_says(shown.str(), {"of them an encoder's", "attention     all positions", "tensors"});
    CHECK(shown.str().find("not runnable") == std::string::npos);
    ++files;
  }
  CHECK(files > 0);

  writer.set_string("general.architecture", "gemma9");
  std::ostringstream other;
  inspect_model(open_bytes(writer.bytes()), other);
  check_says(other.str(), {"not runnable", "gemma9", "blk.1.ffn_down.weight"});
}

}  // namespace
}  // namespace shoal
