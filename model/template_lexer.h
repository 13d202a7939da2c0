// Cuts a template's source into tokens, with the white-space rules that model publishers assume: the line
// break after a block tag is dropped (trim_blocks), so are the spaces before one at the beginning of its line
// (lstrip_blocks), `-` inside a tag takes all white space on its side and `+` none; one line break at the end
// of the source is dropped. Syntax: Jinja 3's template designer documentation. Pure function.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "model/template_value.h"

namespace shoal::jinja {

struct Token {
  enum class Kind {
    kText,
    kBlockBegin,
    kBlockEnd,
    kOutputBegin,
    kOutputEnd,
    kName,
    kString,
    kInteger,
    kFloat,
    kOperator,
    kEnd
  };
  Kind kind = Kind::kEnd;
  int line = 1;
  std::string text;  // of a text, name, string (decoded) or operator
  int64_t integer = 0;
  double number = 0;
};

// The last token is kEnd. Throws TemplateError.
std::vector<Token> tokenize(std::string_view source);

}  // namespace shoal::jinja
