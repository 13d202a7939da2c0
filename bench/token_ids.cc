// token_ids MODEL.gguf: reads strings in hex, a line each, and writes their token ids (control tokens as
// text, no BOS), a line each. For tools/check_real_tokenizers.py.
#include <fmt/format.h>

#include <cstdio>
#include <iostream>
#include <string>

#include "base/error.h"
#include "model/tokenizer.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("token_ids MODEL.gguf < STRINGS\n", stderr);
    return 2;
  }
  try {
    const auto tokenizer = shoal::Tokenizer::from(shoal::GgufFile::open(argv[1]));
    for (std::string hex; std::getline(std::cin, hex);) {
      std::string text;
      for (size_t i = 0; i + 1 < hex.size(); i += 2)
        text += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
      fmt::print("{}\n", fmt::join(tokenizer.encode(text, false, false), " "));
    }
  } catch (const shoal::SetupError& error) {
    fmt::print(stderr, "token_ids: {}\n", error.what());
    return 1;
  }
  return 0;
}
