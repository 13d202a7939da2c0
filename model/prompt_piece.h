// A piece of a rendered prompt, between the chat template that writes it and the tokenizer.
#pragma once

#include <string>

namespace shoal {

// Control tokens are parsed only in pieces that the template itself wrote, so that a user who types
// <|im_end|> cannot end their own turn.
struct PromptPiece {
  std::string text;
  bool trusted;
};

}  // namespace shoal
