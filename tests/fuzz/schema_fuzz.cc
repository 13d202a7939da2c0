// A JSON schema becomes a grammar, and a text is walked along it: a schema, a line of NUL, a text.
#include <boost/json.hpp>
#include <string>

#include "model/json_matcher.h"
#include "node/http/json_fields.h"
#include "node/http/json_schema.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shoal;
  fuzz::Input input(data, size);
  const std::string_view all = input.text();
  const size_t cut = all.find('\0');
  std::shared_ptr<const JsonGrammar> grammar;
  try {
    // As the server reads it: the schema is part of a body.
    const boost::json::object body = parse_json_body(all.substr(0, cut));
    const auto compiled = compile_json_schema(body, "schema");
    if (!compiled.has_value()) {
      fuzz::require(compiled.error().status == 400 && !compiled.error().message.empty(),
                    "a refusal says why");
      return 0;
    }
    grammar = *compiled;
  } catch (const FieldError&) {
    return 0;
  }
  JsonMatcher matcher(*grammar);
  const std::string_view text = cut == std::string_view::npos ? "" : all.substr(cut + 1);
  for (const char c : text.substr(0, 256)) {
    const uint8_t byte = static_cast<uint8_t>(c);
    const bool next = matcher.next_bytes()[byte];
    fuzz::require(matcher.allows(std::string_view(&c, 1)) == next, "both ways to ask agree");
    if (!next) break;
    matcher.accept(std::string_view(&c, 1));
  }
  // Whatever was begun can be ended: always the first byte that is allowed.
  for (int i = 0; i < 256 && !matcher.complete(); ++i) {
    const auto next = matcher.next_bytes();
    fuzz::require(next.any(), "an unfinished text can go on");
    size_t byte = next._Find_first();
    if (next['}']) byte = '}';
    if (next[']']) byte = ']';
    if (next['"']) byte = '"';
    const char c = static_cast<char>(byte);
    matcher.accept(std::string_view(&c, 1));
  }
  return 0;
}
