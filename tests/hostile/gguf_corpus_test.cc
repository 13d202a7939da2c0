// Hostile model files, rows G1 to G18: the recipes behind the published holes of GGUF readers, each with the
// refusal that must come. The doors: opening the file, reading the model's shape, its tokenizer, its chat
// template, and computing with its weights.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <cstring>
#include <filesystem>
#include <limits>
#include <span>

#include "base/error.h"
#include "model/chat_template.h"
#include "model/gguf_file.h"
#include "model/model_config.h"
#include "model/tokenizer.h"
#include "model/weight_manifest.h"
#include "sharding/stage.h"
#include "tests/hostile/corpus.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace shoal::test {
namespace {

constexpr uint64_t kMax64 = std::numeric_limits<uint64_t>::max();

// What the reader, and then whoever uses what it read, says of a file.
std::string refusal_of_path(const std::string& path, const std::function<void(const GgufFile&)>& use = {}) {
  try {
    const GgufFile file = GgufFile::open(path);
    if (use) use(file);
    return "";
  } catch (const SetupError& error) {
    return error.what();
  }
}

using Door = std::function<void(const GgufFile&)>;
using Edit = std::function<void(GgufWriter&)>;

std::function<std::string()> bytes(std::string content, Door door = {}) {
  return [content = std::move(content), door = std::move(door)] {
    TempDir dir;
    write_file(dir.file("m.gguf"), content);
    return refusal_of_path(dir.file("m.gguf"), door);
  };
}

TinyModelOptions small_model() {
  TinyModelOptions options;
  options.n_embd = 64;
  options.n_ff = 96;
  options.n_vocab = 300;
  return options;
}

// A whole small model, one thing of it changed.
std::function<std::string()> model(const Edit& edit, Door door = {}) {
  GgufWriter writer = tiny_model(small_model());
  edit(writer);
  return bytes(writer.bytes(), std::move(door));
}

void shape(const GgufFile& file) {
  ModelConfig::from(file);
}
void words(const GgufFile& file) {
  Tokenizer::from(file);
}

std::string u32(uint32_t value) {
  return GgufWriter::pod(value);
}
std::string u64(uint64_t value) {
  return GgufWriter::pod(value);
}
std::string header(uint64_t n_tensors, uint64_t n_kv, const std::string& rest = "") {
  return "GGUF" + u32(3) + u64(n_tensors) + u64(n_kv) + rest;
}
std::string key(const std::string& value) {  // a file of one key, its value these bytes
  return header(0, 1, GgufWriter::string("k") + value);
}
std::string array(uint32_t type, uint64_t count) {
  return u32(kMetaArray) + u32(type) + u64(count);
}
// The first matrix of the small model, changed.
std::function<std::string()> tensor(const std::function<void(GgufWriter::Tensor&)>& edit, Door door = {}) {
  return model([&](GgufWriter& w) { edit(w.tensor("blk.0.attn_q.weight")); }, std::move(door));
}

TEST_CASE("hostile model files: counts and lengths (G1 to G5)") {
  std::string deep;
  for (int i = 0; i < 10'000; ++i) deep += u32(kMetaArray) + u64(1);
  check_hostile({
      {"G1 four bytes", bytes("GGUF"), {"truncated", "version"}},
      {"G1 an empty file", bytes(""), {"not a GGUF file"}},
      {"G1 a header and nothing", bytes(header(1, 1).substr(0, 23)), {"truncated"}},
      {"G2 2^64 - 1 keys", bytes(header(0, kMax64)), {"metadata", "claims 18446744073709551615"}},
      {"G2 2^32 - 1 keys", bytes(header(0, 0xffffffffu)), {"claims 4294967295"}},
      {"G2 keys whose records wrap past 2^64", bytes(header(0, kMax64 / 13 + 1)), {"claims"}},
      {"G3 2^64 - 1 tensors", bytes(header(kMax64, 0)), {"tensor", "claims 18446744073709551615"}},
      {"G3 0x1D1D... tensors", bytes(header(0x1D1D1D1D1D1D1D1Du, 0)), {"claims 2097865012304223517"}},
      {"G4 a string of 2^64 - 1 bytes",
       bytes(key(u32(kMetaString) + u64(kMax64) + "abc")),
       {"'k'", "claims"}},
      {"G4 a string of 1 GiB in a short file",
       bytes(key(u32(kMetaString) + u64(uint64_t{1} << 30) + std::string(100, 'x'))),
       {"'k'", "the limit is"}},
      {"G4 a string of 15 MiB in a short file",
       bytes(key(u32(kMetaString) + u64(uint64_t{15} << 20) + "x")),
       {"truncated", "'k'"}},
      {"G4 a key of 2^64 - 1 bytes", bytes(header(0, 1, u64(kMax64) + "kkkkkkkkk")), {"key number 0"}},
      {"G5 2^61 numbers", bytes(key(array(kMetaU64, uint64_t{1} << 61) + "x")), {"'k'", "claims"}},
      {"G5 2^60 strings", bytes(key(array(kMetaString, uint64_t{1} << 60) + "x")), {"'k'", "claims"}},
      {"G5 2^22 strings in a short file",
       bytes(key(array(kMetaString, uint64_t{1} << 22) + "x")),
       {"'k'", "only 1 bytes follow"}},
      {"G5 arrays 10,000 deep", bytes(key(u32(kMetaArray) + deep)), {"'k'", "array of arrays"}},
      {"G5 type 13", bytes(key(u32(13) + u64(0))), {"'k'", "unknown value type 13"}},
      {"G5 type 2^31", bytes(key(u32(0x80000000u) + u64(0))), {"unknown value type 2147483648"}},
      {"G5 type -1", bytes(key(u32(0xffffffffu) + u64(0))), {"unknown value type 4294967295"}},
      {"G5 an array of type 13", bytes(key(array(13, 1) + u64(0))), {"array of the unknown value type 13"}},
  });
}

TEST_CASE("hostile model files: shapes, sizes and places (G6 to G11)") {
  std::vector<HostileRow> rows;
  for (const uint32_t n : {0u, 5u, 255u, 0xffffffffu})
    rows.push_back({"G6 a number of dimensions",
                    tensor([=](auto& t) { t.n_dims = n; }),
                    {"'blk.0.attn_q.weight'", std::to_string(n) + " dimensions"}});
  using Tensor = GgufWriter::Tensor;
  const uint64_t wide = uint64_t{1} << 32;
  const std::string name = "'blk.0.attn_q.weight'";
  const std::vector<HostileRow> dims = {
      {"G7 a dimension of 0",
       tensor([](Tensor& t) {
         t.dims = {64, 0};
       }),
       {name, "dimension 1 of size 0"}},
      {"G7 a dimension of -1",
       tensor([](Tensor& t) {
         t.dims = {kMax64, 64};
       }),
       {name, "size -1"}},
      {"G7 2^32 by 2^32",
       tensor([=](Tensor& t) {
         t.dims = {wide, wide};
       }),
       {name, "overflows"}},
      {"G7 bytes past 2^63", tensor([](Tensor& t) { t.dims = {uint64_t{1} << 62}; }), {name, "overflows"}},
      {"G7 one dimension of 2^42 + 1",
       tensor([](Tensor& t) {
         t.dims = {64, (uint64_t{1} << 42) + 1};
       }),
       {name, "the file ends at byte"}},
      {"G7 an exabyte",
       tensor([](Tensor& t) {
         t.dims = {64, uint64_t{1} << 52};
       }),
       {name, "file ends"}},
      {"G10 past the end", tensor([](Tensor& t) { t.offset = uint64_t{1} << 40; }), {name, "file ends"}},
      {"G10 an offset of 2^64 - 32", tensor([](Tensor& t) { t.offset = kMax64 - 31; }), {name, "overflows"}},
      {"G10 not aligned", tensor([](Tensor& t) { t.offset = 33; }), {name, "alignment 32"}},
      {"G10 overlapping", tensor([](Tensor& t) { t.offset = 0; }), {"overlaps tensor"}},
      {"G10 a name twice", tensor([](Tensor& t) { t.name = "token_embd.weight"; }), {"occurs twice"}},
      {"G10 a name of 64 bytes", tensor([](Tensor& t) { t.name = std::string(64, 'n'); }), {"64 bytes"}},
      {"G10 no name", tensor([](Tensor& t) { t.name.clear(); }), {"an empty name"}},
      {"G11 a type that there is not", tensor([](Tensor& t) { t.type = 4096; }), {name, "element type 4096"}},
      {"G11 a negative type", tensor([](Tensor& t) { t.type = 0xffffffffu; }), {name, "4294967295"}},
      {"G11 a removed type", tensor([](Tensor& t) { t.type = 4; }), {name, "Q4_2"}},
      {"G11 a row that is no whole block",
       tensor([](Tensor& t) {
         t.type = 8, t.dims = {33, 64};
       }),
       {name, "33 elements", "Q8_0"}},
  };
  rows.insert(rows.end(), dims.begin(), dims.end());
  GgufWriter many;  // each of them legal, their sum is not
  for (int i = 0; i < 64; ++i)
    many.add_tensor("t" + std::to_string(i), TensorType::kF32, {uint64_t{1} << 58}, std::string(32, 'x'));
  rows.push_back({"G8 tensors that sum past 2^64", bytes(many.bytes()), {"'t0'", "the file ends at byte"}});
  for (const uint32_t alignment : {0u, 3u, 13u, 1u << 30, 0x80000000u})
    rows.push_back({"G9 an alignment",
                    model([=](GgufWriter& w) { w.set_u32("general.alignment", alignment); }),
                    {"general.alignment", "power of two"}});
  rows.push_back({"G9 an alignment of another type",
                  model([](GgufWriter& w) { w.set_i32("general.alignment", 32); }),
                  {"not an unsigned integer"}});
  rows.push_back({"G10 an empty key", model([](GgufWriter& w) { w.set_u32("", 1); }), {"is empty"}});
  rows.push_back({"G10 a key twice",
                  model([](GgufWriter& w) { w.add_duplicate_key("general.name", kMetaU32, u32(8)); }),
                  {"'general.name'", "twice"}});
  check_hostile(rows);
}

TEST_CASE("hostile model files: keys that lie (G12 to G14)") {
  const std::string p = "llama.";
  const auto number = [&](const char* name, uint32_t value) {
    return model([&, value](GgufWriter& w) { w.set_u32(p + name, value); }, shape);
  };
  const auto special = [](const char* name, int64_t id) {
    return model([=](GgufWriter& w) { w.set_i64(std::string("tokenizer.ggml.") + name, id); }, words);
  };
  std::vector<HostileRow> rows = {
      {"G12 the architecture as a number",
       model([](GgufWriter& w) { w.set_u32("general.architecture", 7); }, shape),
       {"general.architecture"}},
      {"G12 no architecture",
       model([](GgufWriter& w) { w.erase("general.architecture"); }, shape),
       {"general.architecture", "missing"}},
      {"G12 an array as a scalar",
       model([](GgufWriter& w) { w.set_u32("tokenizer.ggml.tokens", 5); }, words),
       {"tokenizer.ggml.tokens", "not an array of strings"}},
      {"G12 no vocabulary",
       model([](GgufWriter& w) { w.erase("tokenizer.ggml.tokens"); }, words),
       {"tokenizer.ggml.tokens", "missing"}},
      {"G13 bos beyond the vocabulary", special("bos_token_id", 300), {"bos_token_id"}},
      {"G13 eos of 2^31 - 1", special("eos_token_id", INT32_MAX), {"eos_token_id"}},
      {"G13 eos of -2", special("eos_token_id", -2), {"eos_token_id", "not a token id"}},
      {"G13 types of another length",
       model(
           [](GgufWriter& w) {
             w.set_array<int32_t>("tokenizer.ggml.token_type", kMetaI32, {1, 1});
           },
           words),
       {"token_type has 2 entries"}},
      {"G13 scores of another length",
       model([](GgufWriter& w) { w.set_array<float>("tokenizer.ggml.scores", kMetaF32, {1}); }, words),
       {"scores has 1 entries"}},
      {"G14 no heads", number("attention.head_count", 0), {"attention.head_count", "is 0"}},
      {"G14 heads that do not divide", number("attention.head_count", 5), {"attention.head_count", "5"}},
      {"G14 2^31 layers", number("block_count", 0x80000000u), {"block_count"}},
      {"G14 no layers", number("block_count", 0), {"block_count", "is 0"}},
      {"G14 more layers than tensors", number("block_count", 3), {"blk.2.attn_norm.weight", "missing"}},
      {"G14 rope of more than a head", number("rope.dimension_count", 64), {"rope.dimension_count", "16"}},
      {"G14 an embedding of another length", number("embedding_length", 128), {"token_embd.weight", "shape"}},
      {"G14 a context of 2^32 - 1", number("context_length", 0xffffffffu), {"context_length"}},
      {"G14 a matrix of another shape",
       tensor(
           [](GgufWriter::Tensor& t) {
             t.dims = {64, 65};
             t.data.resize(64 * 65 * 4);
           },
           shape),
       {"'blk.0.attn_q.weight'", "shape"}},
  };
  for (const char* token : {"<0x-1>", "<0xZZ>", "<0x100>", ""}) {
    rows.push_back({"G13 a byte token that is no byte",
                    model(
                        [=](GgufWriter& w) {
                          std::vector<std::string> tokens(300);
                          for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = "t" + std::to_string(i);
                          std::vector<int32_t> types(300, 1);
                          tokens[9] = token;
                          types[9] = 6;
                          w.set_string("tokenizer.ggml.model", "llama");
                          w.set_strings("tokenizer.ggml.tokens", tokens);
                          w.set_array("tokenizer.ggml.token_type", kMetaI32, types);
                          w.set_array("tokenizer.ggml.scores", kMetaF32, std::vector<float>(300));
                        },
                        words),
                    {"of type byte"}});
  }
  check_hostile(rows);
}

TEST_CASE("a vocabulary entry longer than the reader takes, in a sparse file (G13)") {
  TempDir dir;
  const std::string path = dir.file("sparse.gguf");
  write_file(path, header(0, 1,
                          GgufWriter::string("tokenizer.ggml.tokens") + array(kMetaString, 1) +
                              u64(uint64_t{INT32_MAX} + 2)));
  std::error_code error;
  std::filesystem::resize_file(path, uint64_t{3} << 30, error);
  if (error) return;  // a file system without files of that size
  check_hostile({{"G13 a token of 2 GiB",
                  [&] { return refusal_of_path(path, words); },
                  {"tokenizer.ggml.tokens", "2147483649 bytes"}}});
}

// One step of three tokens through a model whose output head or layers were spoilt.
std::string step_refusal(uint16_t scale) {
  TinyModelOptions options = small_model();
  options.type = TensorType::kQ8_0;
  GgufWriter writer = tiny_model(options);
  std::string& data = writer.tensor("blk.1.ffn_down.weight").data;
  for (size_t block = 0; block < data.size(); block += 34) std::memcpy(data.data() + block, &scale, 2);
  TempDir dir;
  writer.write(dir.file("m.gguf"));
  const GgufFile file = GgufFile::open(dir.file("m.gguf"));
  const ModelConfig config = ModelConfig::from(file);
  ThreadPool pool(1);
  Stage stage(config, load_shard(file, config, {true, {0, 2}, true}, pool), {40, 2, 16}, select_kernels(),
              pool);
  AlignedBuffer hidden(sizeof(float) * 16 * config.n_embd);
  std::vector<RowOutput> outputs;
  const std::vector<BatchRow> rows = {{5, 0, 0, false}, {6, 1, 0, false}, {7, 2, 0, true}};
  const Result<void> done = stage.run({}, rows, 4, hidden.as<float>(), outputs);
  if (done.has_error()) {
    CHECK(outputs.empty());
    CHECK(stage.cache().length(0) == 0);
    return done.error().message;
  }
  return "";
}

TEST_CASE("hostile model files: scales that are no numbers, and templates (G15, G16)") {
  const auto chat = [](const char* source) {
    return [=] {
      const ChatTemplate made({source, "", "hostile", "", ""});
      const auto text = made.render(conversation_of({{"user", "hi"}}));
      return text.has_error() ? text.error().message : "";
    };
  };
  std::string deep;
  for (int i = 0; i < 10'000; ++i) deep += "{% if x %}";
  const auto unparsable = [](std::string source) -> std::function<std::string()> {
    return [source = std::move(source)]() -> std::string {
      try {
        const ChatTemplate made({source, "", "hostile", "", ""});
        return "";
      } catch (const SetupError& error) {
        return error.what();
      }
    };
  };
  check_hostile({
      {"G15 NaN scales", [] { return step_refusal(0x7e00); }, {"not finite"}},
      {"G15 infinite scales", [] { return step_refusal(0x7c00); }, {"not finite"}},
      {"G15 denormal scales do no harm", [] { return step_refusal(0x0001); }, {}},
      {"G16 a loop of 10^9", chat("{% for i in range(10**9) %}{% endfor %}"), {"line 1"}},
      {"G16 the interpreter's own objects",
       chat("{{ ''.__class__.__mro__[1].__subclasses__() }}"),
       {"line 1"}},
      {"G16 a call of what is no function",
       chat("{{ cycler.__init__.__globals__.os.popen('id').read() }}"),
       {"line 1"}},
      {"G16 blocks 10,000 deep", unparsable(deep), {"line 1"}},
      {"G16 an include", unparsable("{% include '/etc/passwd' %}"), {"include"}},
  });
}

TEST_CASE("hostile model files: what is no file of its own (G17, G18)") {
  TempDir dir;
  REQUIRE(::mkfifo(dir.file("fifo").c_str(), 0600) == 0);
  GgufWriter split = tiny_model(small_model());
  const auto paths = split.write_split(dir.file("m"), 2, [](int part, GgufWriter& w) {
    if (part == 1) w.set_u32("split.no", 7);
  });
  // A name is made from the path that was opened, never from what a file says; so no key leads elsewhere.
  check_hostile({
      {"G17 a FIFO", [&] { return refusal_of_path(dir.file("fifo")); }, {"FIFO"}},
      {"G17 /dev/zero", [] { return refusal_of_path("/dev/zero"); }, {"not a regular file", "device"}},
      {"G17 a folder", [&] { return refusal_of_path(dir.path()); }, {"directory"}},
      {"G17 a part that says it is another", [&] { return refusal_of_path(paths[0]); }, {"split.no"}},
      {"G17 a part that is not there",
       [&] { return refusal_of_path(dir.file("../x-00001-of-00002.gguf")); },
       {"No such file"}},
  });
  tiny_model(small_model()).write(dir.file("whole.gguf"));
  const GgufFile file = GgufFile::open(dir.file("whole.gguf"));
  ThreadPool pool(1);
  const WeightManifest manifest = WeightManifest::of(file, pool);
  const size_t index = manifest.find("blk.0.attn_q.weight").value();
  const TensorInfo& info = file.tensor("blk.0.attn_q.weight");
  std::vector<std::byte> block(bytes_of_block(info, 0));
  file.read(info, 0, block);
  CHECK(manifest.vouches_for(index, 0, block));
  for (size_t bit = 0; bit < 8 * block.size(); bit += 4099) {  // G18: one bit, after the manifest was made
    block[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    CHECK_FALSE(manifest.vouches_for(index, 0, block));
    block[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
  }
  std::filesystem::resize_file(dir.file("whole.gguf"), info.offset + 10);
  check_hostile({{"G18 cut short while it is in use",
                  [&]() -> std::string {
                    try {
                      file.read(info, 0, block);
                      return "";
                    } catch (const SetupError& error) {
                      return error.what();
                    }
                  },
                  {"became shorter"}}});
}

}  // namespace
}  // namespace shoal::test
