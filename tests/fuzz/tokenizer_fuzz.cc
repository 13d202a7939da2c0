// Text and token ids through every kind of tokenizer: the first byte chooses it, the second whether the text
// is trusted.
#include <string>
#include <vector>

#include "model/utf8.h"
#include "tests/fuzz/fuzz.h"
#include "tests/model/sample_vocabularies.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shoal;
  static const auto& tokenizers = *new std::vector(all_tokenizers());
  fuzz::Input input(data, size);
  const auto& [name, tokenizer] = tokenizers[input.byte() % tokenizers.size()];
  const uint8_t how = input.byte();
  std::vector<int32_t> ids;
  if (how % 4 == 3) {  // ids that no text has
    while (input.left() > 0) ids.push_back(static_cast<int32_t>(input.byte() * 7) - 3);
  } else {
    const std::string text(input.text());
    ids = tokenizer.encode(text, how % 2 == 1, (how & 4) != 0);
    for (const int32_t id : ids)
      fuzz::require(id >= 0 && id < tokenizer.vocab_size(), "ids are of the vocabulary");
    const bool byte_level = tokenizer.pre_tokenizer() == name;
    if (byte_level && how % 2 == 0 && (how & 4) == 0 && is_valid_utf8(text))
      fuzz::require(tokenizer.decode(ids) == text, "text comes back as it was");
  }
  StreamDecoder decoder(tokenizer);
  std::string streamed;
  for (const int32_t id : ids) {
    const std::string part = decoder.push(id);
    fuzz::require(is_valid_utf8(part), "a stream splits no code point");
    streamed += part;
  }
  streamed += decoder.finish();
  fuzz::require(is_valid_utf8(streamed), "a stream is UTF-8");
  return 0;
}
