// A JSON schema becomes a grammar that answers are kept within. The part of JSON Schema (draft 2020-12) that
// is taken: type, properties, required, additionalProperties, items, minItems, maxItems, minLength,
// maxLength, enum, const, anyOf, $defs (definitions) and $ref into the schema itself, true and false.
// Annotations (title, description, default, examples, ...) have no effect; any other keyword is refused by
// its name, never ignored. What the grammar allows is valid by the schema, but not all that is valid is
// allowed: where properties are listed and additionalProperties is not, there are no others; a keyword of one
// type means that type where `type` is absent. Pure function; safe from any thread. Bounded: the limits here
// and of JsonGrammar.
#pragma once

#include <boost/json/value.hpp>
#include <memory>
#include <string>

#include "model/json_grammar.h"
#include "node/http/api_error.h"

namespace shoal {

inline constexpr size_t kEnumValuesMax = 1024;     // of one enum
inline constexpr int kSchemaCountMax = 1'000'000;  // of items or characters that a schema may count to

// `path`: the field that holds the schema; an error names the place below it.
ApiResult<std::shared_ptr<const JsonGrammar>> compile_json_schema(const boost::json::value& schema,
                                                                  const std::string& path);
// Any JSON object.
std::shared_ptr<const JsonGrammar> any_json_object();

}  // namespace shoal
