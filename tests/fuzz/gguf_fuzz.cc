// A model file: its header, the model's shape, its tokenizer, what `shoal inspect` prints of it; and the same
// bytes as a manifest of weights, which comes from a peer.
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "model/gguf_file.h"
#include "model/gguf_reader.h"
#include "model/inspect.h"
#include "model/model_config.h"
#include "model/tokenizer.h"
#include "model/weight_manifest.h"
#include "tests/fuzz/fuzz.h"

namespace {

using namespace shoal;

std::vector<std::byte> copy_of(const uint8_t* data, size_t size) {
  const auto* begin = reinterpret_cast<const std::byte*>(data);
  return {begin, begin + size};
}

template <class Use>
bool taken(Use use) {
  try {
    use();
    return true;
  } catch (const SetupError& refused) {
    fuzz::require(refused.what()[0] != '\0', "a refusal says why");
    return false;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  taken([&] { WeightManifest::parse(copy_of(data, size), "manifest"); });
  taken([&] {
    // As long as its tensors may need it to be; only the header is here.
    const GgufFile file = GgufFile::from_header("fuzz.gguf", copy_of(data, size), uint64_t{1} << 40);
    for (const TensorInfo& tensor : file.tensors()) {
      fuzz::require(tensor.offset + tensor.bytes <= uint64_t{1} << 40, "a tensor lies in its file");
    }
    taken([&] { ModelConfig::from(file); });
    taken([&] {
      const Tokenizer tokenizer = Tokenizer::from(file);
      for (const int32_t id : tokenizer.encode("The <|x|> 12 \xc3\xa9\n", true, true))
        fuzz::require(id >= 0 && id < tokenizer.vocab_size(), "ids are of the vocabulary");
    });
    std::ostringstream shown;
    taken([&] { inspect_model(file, shown); });
    for (const char c : shown.str())
      fuzz::require(c == '\n' || static_cast<unsigned char>(c) >= 0x20, "no control character is printed");
  });
  return 0;
}
