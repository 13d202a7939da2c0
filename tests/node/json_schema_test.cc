#include "node/http/json_schema.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <optional>
#include <random>
#include <string>

#include "model/grammar_filter.h"
#include "model/json_matcher.h"
#include "tests/node/local_cluster.h"

namespace shoal::test {
namespace {

namespace json = boost::json;

ApiResult<std::shared_ptr<const JsonGrammar>> compile(const std::string& schema) {
  return compile_json_schema(json::parse(schema), "schema");
}

bool takes(const std::string& schema, const std::string& text) {
  const auto grammar = compile(schema);
  REQUIRE_MESSAGE(grammar.has_value(), schema);
  JsonMatcher matcher(**grammar);
  if (!matcher.allows(text)) return false;
  matcher.accept(text);
  return matcher.complete();
}

std::string refusal(const std::string& schema) {
  const auto grammar = compile(schema);
  if (grammar.has_value()) return "accepted";
  CHECK(grammar.error().status == 400);
  return grammar.error().message;
}

// ---- An independent reading of JSON Schema, for what the random schemas below use ----

size_t characters(const json::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

bool has_type(const json::value& value, const json::string& type) {
  if (type == "integer") return value.is_int64() || value.is_uint64();
  if (type == "number") return value.is_number();
  if (type == "string") return value.is_string();
  if (type == "array") return value.is_array();
  if (type == "object") return value.is_object();
  if (type == "boolean") return value.is_bool();
  return value.is_null();
}

bool valid(const json::value& value, const json::value& schema, const json::value& root) {
  if (schema.is_bool()) return schema.get_bool();
  const json::object& s = schema.get_object();
  const auto number = [&](const char* word, int64_t fallback) {
    const json::value* found = s.if_contains(word);
    return static_cast<size_t>(found == nullptr ? fallback : found->get_int64());
  };
  if (const auto* ref = s.if_contains("$ref")) {
    json::error_code code;
    return valid(value, *root.find_pointer(ref->get_string().subview(1), code), root);
  }
  if (const auto* any = s.if_contains("anyOf")) {
    const json::array& list = any->get_array();
    return std::any_of(list.begin(), list.end(),
                       [&](const auto& other) { return valid(value, other, root); });
  }
  if (const auto* constant = s.if_contains("const")) return value == *constant;
  if (const auto* values = s.if_contains("enum")) {
    const json::array& list = values->get_array();
    return std::find(list.begin(), list.end(), value) != list.end();
  }
  if (const auto* type = s.if_contains("type")) {
    if (!has_type(value, type->get_string())) return false;
  }
  if (value.is_string()) {
    const size_t length = characters(value.get_string());
    return length >= number("minLength", 0) && length <= number("maxLength", 1 << 30);
  }
  if (value.is_array()) {
    const json::array& list = value.get_array();
    if (list.size() < number("minItems", 0) || list.size() > number("maxItems", 1 << 30)) return false;
    return !s.contains("items") || std::all_of(list.begin(), list.end(), [&](const auto& item) {
      return valid(item, s.at("items"), root);
    });
  }
  if (!value.is_object()) return true;
  if (const auto* required = s.if_contains("required")) {
    for (const json::value& name : required->get_array()) {
      if (!value.get_object().contains(name.get_string())) return false;
    }
  }
  for (const auto& member : value.get_object()) {
    const auto* properties = s.if_contains("properties");
    const auto* named = properties == nullptr ? nullptr : properties->get_object().if_contains(member.key());
    if (named == nullptr) named = s.if_contains("additionalProperties");
    if (named != nullptr && !valid(member.value(), *named, root)) return false;
  }
  return true;
}

// ---- Random schemas ----

class Schemas {
 public:
  explicit Schemas(uint64_t seed) : random_(seed) {}
  int below(int n) { return static_cast<int>(random_() % static_cast<uint64_t>(n)); }

  json::value any(int depth) {
    switch (below(depth > 0 ? 12 : 7)) {
      case 0:
        return json::object{{"type", "integer"}};
      case 1:
        return json::object{{"type", below(2) ? "number" : "boolean"}};
      case 2:
        return json::object{{"enum", json::array{1, "one", nullptr, 1.5, json::array{2, "x"}, 12, "on"}}};
      case 3:
        return json::object{{"const", below(2) ? json::value("\"q\\\n\xC3\xA9") : json::value(false)}};
      case 4: {
        const int least = below(4);
        return json::object{{"type", "string"}, {"minLength", least}, {"maxLength", least + below(6)}};
      }
      case 5:
        return json::object{{"type", "string"}};
      case 6:
        return json::object{{"$ref", below(2) ? "#/$defs/list" : "#/$defs/pair"}};
      case 7:
      case 8: {
        const int least = below(3);
        return json::object{{"type", "array"},
                            {"items", any(depth - 1)},
                            {"minItems", least},
                            {"maxItems", least + below(3)}};
      }
      case 9: {
        json::array list;
        for (int i = 0; i <= below(3); ++i) list.push_back(any(depth - 1));
        return json::object{{"anyOf", std::move(list)}};
      }
      default:
        return object(depth);
    }
  }
  json::value object(int depth) {
    json::object properties;
    json::array required;
    for (const char* name : {"a", "ab", "b\"c", "\xC3\xA9", "\n"}) {
      if (below(2)) continue;
      properties[name] = any(depth - 1);
      if (below(2)) required.push_back(json::string(name));
    }
    json::object schema{
        {"type", "object"}, {"properties", std::move(properties)}, {"required", std::move(required)}};
    if (below(3) == 0) schema["additionalProperties"] = any(depth - 1);
    return schema;
  }
  json::value root() {
    json::object schema = object(3).get_object();
    schema["$defs"] = json::parse(R"({
      "list": {"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#/$defs/list"}, "maxItems": 3}]},
      "pair": {"type": "object", "properties": {"left": {"$ref": "#/$defs/list"}, "right": {"type": "string"}},
               "required": ["right"], "additionalProperties": false}})");
    return schema;
  }
  // A byte of those allowed: mostly what ends something, so that texts end.
  char pick(const std::bitset<256>& allowed) {
    if (below(5)) {
      for (const char* ending = "}]\""; *ending != 0; ++ending) {
        if (allowed[static_cast<uint8_t>(*ending)] && below(3)) return *ending;
      }
    }
    int n = below(static_cast<int>(allowed.count()));
    for (int byte = 0; byte < 256; ++byte) {
      if (allowed[static_cast<size_t>(byte)] && n-- == 0) return static_cast<char>(byte);
    }
    return 0;
  }

 private:
  std::mt19937_64 random_;
};

}  // namespace

TEST_CASE("schemas of one kind each") {
  CHECK(takes(R"({"type":"integer"})", "-12"));
  CHECK_FALSE(takes(R"({"type":"integer"})", "1.5"));
  CHECK_FALSE(takes(R"({"type":"integer"})", "1e2"));
  CHECK(takes(R"({"type":["string","null"]})", "null"));
  CHECK(takes(R"({"type":["string","null"]})", "\"x\""));
  CHECK_FALSE(takes(R"({"type":["string","null"]})", "1"));
  CHECK(takes(R"({"enum":["a","ab",1.5,{"k":[1]}]})", "1.5"));
  CHECK(takes(R"({"enum":["a","ab",1.5,{"k":[1]}]})", R"({"k":[1]})"));
  CHECK_FALSE(takes(R"({"type":"string","enum":["a",1]})", "1"));
  CHECK(takes(R"({"const":null})", "null"));
  CHECK(takes("true", "[1]"));
  CHECK(takes(R"({"description":"anything"})", "[1]"));
  CHECK(takes(R"({"properties":{"a":{"type":"integer"}}})", "{}"));
  CHECK_FALSE(takes(R"({"properties":{"a":{"type":"integer"}}})", R"({"b":1})"));
  CHECK(takes(R"({"type":"object"})", R"({"b":{}})"));
  CHECK(takes(R"({"required":["a"]})", R"({"b":1,"a":2})"));
  CHECK_FALSE(takes(R"({"required":["a"]})", R"({"b":1})"));
  CHECK(takes(R"({"minItems":1,"maxItems":2})", "[1,[]]"));
  CHECK(takes(R"({"$ref":"#/$defs/a~1b","$defs":{"a/b":{"const":7}}})", "7"));
  CHECK(takes(
      R"({"type":"object","properties":{"next":{"anyOf":[{"$ref":"#"},{"type":"null"}]}},"required":["next"]})",
      R"({"next":{"next":null}})"));
  CHECK(takes(R"({"anyOf":[{"type":"string"},{"anyOf":[{"$ref":"#"},{"const":1}]}]})", "1"));
}

TEST_CASE("what is not offered is refused by its name and place") {
  for (const auto& [schema, part] : std::vector<std::pair<std::string, std::string>>{
           {R"({"type":"string","pattern":"a+"})", "\"pattern\""},
           {R"({"properties":{"a":{"type":"integer","minimum":3}}})",
            "schema.properties.a: the keyword \"minimum\""},
           {R"({"oneOf":[true]})", "\"oneOf\""},
           {R"({"type":"object","patternProperties":{}})", "\"patternProperties\""},
           {R"({"type":"text"})", "schema.type"},
           {R"({"type":[]})", "schema.type"},
           {R"({"anyOf":[]})", "schema.anyOf"},
           {R"({"anyOf":[true],"type":"string"})", "alone"},
           {R"({"enum":[]})", "schema.enum"},
           {R"({"type":"string","enum":[1]})", "schema.enum"},
           {R"({"$ref":"http://example.org/s"})", "schema.$ref"},
           {R"({"$ref":"#/$defs/none"})", "not there"},
           {R"({"$ref":5})", "schema.$ref"},
           {R"({"$ref":"#"})", "no value"},
           {R"(false)", "no value"},
           {R"(7)", "a schema is"},
           {R"({"items":5})", "schema.items"},
           {R"({"properties":5})", "schema.properties"},
           {R"({"required":["a",1]})", "schema.required"},
           {R"({"minItems":-1})", "schema.minItems"},
           {R"({"minItems":3,"maxItems":2})", "schema.minItems"},
           {R"({"minLength":1e9,"type":"string"})", "schema.minLength"},
           {R"({"enum":[1e999]})", "schema.enum"},
           {R"({"required":["a"],"properties":{},"additionalProperties":false})", "no value"},
           {R"({"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]})", "no value"}}) {
    CAPTURE(schema);
    const std::string said = refusal(schema);
    CHECK_MESSAGE(said.find(part) != std::string::npos, said);
  }
}

TEST_CASE("hostile schemas are refused, or taken, quickly") {
  const auto repeated = [](const std::string& begin, const std::string& part, int count,
                           const std::string& end) {
    std::string text = begin;
    for (int i = 0; i < count; ++i) text += (i > 0 ? "," : "") + part;
    return text + end;
  };
  std::string many_names = R"({"properties":{)", web = R"({"$defs":{)";
  for (int i = 0; i < 1000; ++i) {
    many_names += (i > 0 ? "," : "") + ("\"n" + std::to_string(i) + "\":true");
    web += (i > 0 ? "," : "") + ("\"d" + std::to_string(i) + "\":");
    web +=
        repeated(R"({"anyOf":[)", "{\"$ref\":\"#/$defs/d" + std::to_string((i + 1) % 1000) + "\"}", 3, "]}");
  }
  const auto begin = std::chrono::steady_clock::now();
  CHECK(refusal(many_names + "}}").find("128") != std::string::npos);
  CHECK(refusal(web + R"(},"$ref":"#/$defs/d0"})").find("no value") != std::string::npos);
  CHECK(refusal(repeated(R"({"anyOf":[)", "true", 10000, "]}")).find("4096") != std::string::npos);
  CHECK(refusal(repeated(R"({"anyOf":[)", R"({"type":"string"})", 200, "]}")).find("alternatives") !=
        std::string::npos);
  CHECK(refusal(repeated(R"({"enum":[)", "1", 10000, "]}")).find("1024") != std::string::npos);
  CHECK(refusal(repeated(R"({"enum":[)", '"' + std::string(9000, 'x') + '"', 100, "]}")).find("bytes") !=
        std::string::npos);
  CHECK(refusal(repeated(R"({"anyOf":[)", R"({"anyOf":[true,true,true,true]})", 800, "]}")) == "accepted");
  CHECK(std::chrono::steady_clock::now() - begin <
        std::chrono::seconds(20));  // milliseconds, but for slow builds
  // Alternatives that multiply are followed up to a number, and what is kept can still be ended.
  const std::string deep = R"({"$defs":{"t":{"anyOf":[)" +
                           repeated("", R"({"type":"array","items":{"$ref":"#/$defs/t"}})", 8, "") +
                           R"(,{"type":"null"}]}},"$ref":"#/$defs/t"})";
  CHECK(takes(deep, std::string(60, '[') + "null" + std::string(60, ']')));
}

TEST_CASE("whatever is drawn from what is allowed ends, and is valid") {
  int ended = 0;
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    Schemas random(seed);
    const json::value schema = random.root();
    CAPTURE(json::serialize(schema));
    const auto grammar = compile_json_schema(schema, "schema");
    REQUIRE(grammar.has_value());
    JsonMatcher matcher(**grammar);
    std::string text;
    while (!matcher.ended() && text.size() < 1000) {
      const std::bitset<256> allowed = matcher.next_bytes();
      REQUIRE_MESSAGE((allowed.any() || matcher.complete()), text);
      text += random.pick(allowed);
      matcher.accept({&text.back(), 1});
    }
    if (!matcher.ended()) continue;
    ++ended;
    json::error_code code;
    const json::value value = json::parse(text, code);
    REQUIRE_MESSAGE(!code, text);
    CHECK_MESSAGE(valid(value, schema, schema), text);
  }
  CHECK(ended > 120);
}

TEST_CASE("the pipeline answers within a grammar, whatever its model would say") {
  LocalCluster cluster({.node_of_stage = {"a", "b"}, .context = 1024});
  const Tokenizer tokenizer = Tokenizer::from(GgufFile::open(small_model_file()));
  const auto bytes = std::make_shared<const TokenBytes>(tokenizer);
  const std::string schema =
      R"({"type":"object","properties":{"n":{"enum":["yes","no"]},"k":{"type":"boolean"}},
                                 "required":["n","k"]})";
  std::vector<GenerationRequest> requests;
  for (uint64_t seed = 0; seed < 6; ++seed) {
    GenerationRequest request =
        greedy({5, static_cast<int32_t>(7 + seed)}, 900);  // white space may go on for a while
    request.sampling.temperature = seed == 0 ? 0 : 2;
    request.sampling.seed = seed;
    request.sampling.top_k = seed % 2 ? 0 : 5;
    request.sampling.min_p = 0;
    request.grammar = {*compile(schema), bytes};
    requests.push_back(request);
  }
  for (const Reply& reply : answers(cluster, requests)) {
    REQUIRE(reply.reason == FinishReason::kStop);
    const std::string text = tokenizer.decode(reply.tokens);
    json::error_code code;
    const json::value value = json::parse(text, code);
    REQUIRE_MESSAGE(!code, text);
    CHECK_MESSAGE(valid(value, json::parse(schema), {}), text);
  }
}

}  // namespace shoal::test
