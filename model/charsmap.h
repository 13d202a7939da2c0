// A SentencePiece normalisation table (tokenizer.ggml.precompiled_charsmap): which sequences of bytes are
// replaced by which text, the longest match first. The format is SentencePiece's (normalizer.cc,
// "Format of Precompiled mapping"): the byte length of a double-array trie, little endian in 32 bits, the
// trie as Darts-clone lays it out in 32-bit units, then the replacements, each ending in NUL. Immutable after
// construction, safe from several threads.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace shoal {

class CharsMap {
 public:
  // `bytes`: the key's content; empty for a tokenizer that replaces nothing. Throws SetupError when the trie
  // or a replacement does not lie within it.
  explicit CharsMap(std::string_view bytes);

  // The longest beginning of `text` that the table replaces: its bytes in `length`, 0 if there is none.
  std::string_view replacement(std::string_view text, size_t& length) const;

 private:
  // A unit of the trie: bits 0-7 the byte that leads to it, bit 8 whether a replacement ends here, bits 10-30
  // the distance to its children (times 256 if bit 9 is set). A unit with bit 31 set is a replacement's
  // position.
  static constexpr uint32_t kIsPosition = 1u << 31;
  static uint32_t offset(uint32_t unit) { return (unit >> 10) << ((unit & (1u << 9)) >> 6); }
  static bool has_replacement(uint32_t unit) { return ((unit >> 8) & 1) != 0; }
  void check_reachable() const;

  std::vector<uint32_t> units_;
  std::string replacements_;
};

}  // namespace shoal
