// UTF-8, as tokenizers meet it: bytes from outside that may be anything.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace shoal {

inline constexpr char32_t kReplacementCharacter = 0xFFFD;

void append_utf8(char32_t code_point, std::string& out);

// One code point at the front of `bytes` (not empty), read as llama.cpp reads it for byte-level BPE: overlong
// forms and surrogates are accepted and decoded; anything else that is not UTF-8, and values above U+10FFFF,
// is one byte long and becomes U+FFFD. `length` is set to the bytes taken.
char32_t decode_lenient(std::string_view bytes, size_t& length);

// True for well-formed UTF-8 (Unicode, table 3-7).
bool is_valid_utf8(std::string_view bytes);

// `bytes` with every code point replaced by its shortest form under decode_lenient. The result is well formed
// but for surrogates, which are kept as three bytes each. Sets `has_surrogates`.
std::string normalise_lenient(std::string_view bytes, bool& has_surrogates);

enum class Utf8Prefix { kComplete, kUnfinished, kBroken };

// What stands at the front of `bytes` (not empty) under Unicode's "maximal subpart" practice: a complete code
// point, the beginning of one that more bytes may complete, or a broken sequence. `length` is set to its
// bytes.
Utf8Prefix classify_utf8(std::string_view bytes, size_t& length);

}  // namespace shoal
