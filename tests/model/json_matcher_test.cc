#include "model/json_matcher.h"

#include <doctest/doctest.h>

#include <ostream>
#include <string>

namespace shoal::test {
namespace {

// Whether the text is a whole value; and that it is the same however it is cut into pieces.
bool takes(const JsonGrammar& grammar, std::string_view text) {
  JsonMatcher whole(grammar), bytes(grammar);
  const bool allowed = whole.allows(text);
  bool allowed_by_bytes = true;
  for (const char byte : text) {
    const std::string_view piece(&byte, 1);
    CHECK(bytes.next_bytes()[static_cast<uint8_t>(byte)] == bytes.allows(piece));
    if (!bytes.allows(piece)) {
      allowed_by_bytes = false;
      break;
    }
    bytes.accept(piece);
  }
  CHECK(allowed == allowed_by_bytes);
  if (!allowed) return false;
  whole.accept(text);
  CHECK(whole.complete() == bytes.complete());
  return whole.complete();
}

JsonGrammar any_value() {
  JsonGrammar grammar;
  std::string problem;
  REQUIRE(grammar.finish(JsonGrammar::kAny, problem));
  return grammar;
}

JsonGrammar with_shape(JsonShape shape) {
  JsonGrammar grammar;
  const int root = grammar.add_type();
  grammar.add_shape(root, std::move(shape));
  std::string problem;
  REQUIRE(grammar.finish(root, problem));
  return grammar;
}

}  // namespace

TEST_CASE("JSON is taken, and nothing else") {
  const JsonGrammar any = any_value();
  for (const char* text :
       {"{}", "[]", " \n{ \"a\" : 1 , \"b\":[ true,false , null ] }", "\"\"", "0", "-1", "10.25", "1e5",
        "-0.5E-07", "[[[]]]", "{\"\":{\"\":{}}}", R"("\"\\\/\b\f\n\r\t\u00e9")", R"("\ud83d\ude00")",
        "\"\xC3\xA9 \xE6\xBC\xA2 \xF0\x9F\x98\x80\"", "true"}) {
    CAPTURE(text);
    CHECK(takes(any, text));
  }
  for (const char* text : {"",
                           "{",
                           "{,}",
                           "{\"a\"}",
                           "{\"a\":}",
                           "{\"a\":1,}",
                           "{a:1}",
                           "[1,]",
                           "[,1]",
                           "[1 2]",
                           "01",
                           "-",
                           "1.",
                           ".5",
                           "+1",
                           "1e",
                           "1e+",
                           "1e400",
                           "tru",
                           "nul",
                           "True",
                           "\"",
                           "\"\n\"",
                           R"("\x41")",
                           R"("\u12g4")",
                           R"("\ud83d")",
                           R"("\ude00")",
                           R"("\ud83d\u0041")",
                           "{} ",
                           "{}{}",
                           "1 ",
                           "'a'",
                           "\"\xC3\"",
                           "\"\xC0\x80\"",
                           "\"\xED\xA0\x80\"",
                           "\"\xF4\x90\x80\x80\"",
                           "\"\xFF\"",
                           "NaN"}) {
    CAPTURE(text);
    CHECK_FALSE(takes(any, text));
  }
}

TEST_CASE("the end: what is complete, and what nothing can follow") {
  const JsonGrammar any = any_value();
  JsonMatcher object(any), number(any), word(any);
  object.accept("{");
  CHECK_FALSE(object.complete());
  object.accept("}");
  CHECK(object.ended());
  CHECK(object.next_bytes().none());
  number.accept("12");
  CHECK(number.complete());
  CHECK_FALSE(number.ended());  // another digit may come
  word.accept("tru");
  CHECK(word.next_bytes() == (std::bitset<256>().set('e')));
  word.accept("e");
  CHECK(word.ended());
}

TEST_CASE("nesting and white space are bounded, and what was begun can be ended") {
  const JsonGrammar any = any_value();
  JsonMatcher matcher(any);
  int depth = 0;
  while (matcher.allows("[")) matcher.accept("["), ++depth;
  CHECK(depth == kNestingMax);
  matcher.accept(std::string(static_cast<size_t>(depth), ']'));
  CHECK(matcher.ended());
  JsonMatcher blank(any);
  int blanks = 0;
  while (blank.allows(" ")) blank.accept(" "), ++blanks;
  CHECK(blanks < 100);
  CHECK(blank.allows("{"));
}

TEST_CASE("names of an object: required, once, and no other spelling of them") {
  JsonShape object;
  object.kind = JsonShape::Kind::kObject;
  object.bytes.add("a", 0);
  object.bytes.add("ab", 1);
  object.property_types = {JsonGrammar::kAny, JsonGrammar::kAny};
  object.required.set(1);
  const JsonGrammar closed = with_shape(object);
  CHECK(takes(closed, R"({"ab":1})"));
  CHECK(takes(closed, R"({"ab":1,"a":2})"));
  CHECK(takes(closed, R"({"a":1, "ab":2})"));
  for (const char* text :
       {"{}", R"({"a":1})", R"({"ab":1,"ab":2})", R"({"ab":1,"c":2})", R"({"ab":1,"abc":2})",
        R"({"ab":1,"":2})", R"({"ab":1,"a":2,"a":3})", R"({"\u0061b":1})"}) {
    CAPTURE(text);
    CHECK_FALSE(takes(closed, text));
  }
  JsonMatcher all(closed);
  all.accept(R"({"ab":1,"a":2)");
  CHECK_FALSE(all.allows(","));  // no member is left
  object.additional = JsonGrammar::kAny;
  const JsonGrammar open = with_shape(object);
  CHECK(takes(open, "{\"ab\":1,\"c\":2,\"abc\":3,\"\xC3\xA9\":4,\"\":5}"));
  for (const char* text : {R"({"abc":1})", R"({"ab":1,"ab":2})", R"({"ab":1,"\u0061":2})",
                           R"({"ab":1,"x\ny":2})", "{\"ab\":1,\"\xC3\":2}"}) {
    CAPTURE(text);
    CHECK_FALSE(takes(open, text));
  }
}

TEST_CASE("characters are counted, not bytes") {
  JsonShape string;
  string.kind = JsonShape::Kind::kString;
  string.least = string.most = 2;
  const JsonGrammar two = with_shape(string);
  for (const char* text : {"\"ab\"", "\"\xC3\xA9\xF0\x9F\x98\x80\"", R"("\n\u0041")", R"("\ud83d\ude00x")"})
    CHECK(takes(two, text));
  for (const char* text : {"\"a\"", "\"abc\"", "\"\xC3\xA9\"", R"("\ud83d\ude00")", "\"\""})
    CHECK_FALSE(takes(two, text));
}

TEST_CASE("alternatives that begin alike are followed together") {
  JsonGrammar grammar;
  const int root = grammar.add_type(), word = grammar.add_type(), again = grammar.add_type();
  JsonShape literals;
  for (const char* text : {"1", "12", "\"on\"", "\"once\""}) literals.bytes.add(text, 0);
  grammar.add_shape(word, literals);
  JsonShape list;
  list.kind = JsonShape::Kind::kArray;
  list.items = word, list.least = 1, list.most = 2;
  JsonShape nested;
  nested.kind = JsonShape::Kind::kArray;
  nested.items = root, nested.least = 1;
  grammar.add_shape(root, list);
  grammar.add_shape(again, nested);
  grammar.add_alternative(root, again);
  grammar.add_alternative(again, root);
  std::string problem;
  REQUIRE(grammar.finish(root, problem));
  for (const char* text : {"[1]", "[12]", "[1,12]", "[\"on\",\"once\"]", "[[1],[[12]],[\"on\"]]"})
    CHECK(takes(grammar, text));
  for (const char* text : {"[]", "[2]", "[1,1,1]", "[123]", "[1,[1]]", "[\"onc\"]", "1"})
    CHECK_FALSE(takes(grammar, text));
}

TEST_CASE("alternatives that accept the same are one") {
  JsonGrammar grammar;
  const int root = grammar.add_type();
  JsonShape text, longer;
  text.kind = longer.kind = JsonShape::Kind::kString;
  text.most = 1, longer.most = 2;
  for (int i = 0; i < 100; ++i) grammar.add_shape(root, i % 2 == 0 ? text : longer);
  std::string problem;
  REQUIRE(grammar.finish(root, problem));
  CHECK(grammar.shapes_of(root).size() == 2);
  CHECK(takes(grammar, "\"ab\""));
  CHECK_FALSE(takes(grammar, "\"abc\""));
}

TEST_CASE("a grammar without a value that ends is refused") {
  JsonGrammar grammar;
  const int root = grammar.add_type();
  JsonShape endless;
  endless.kind = JsonShape::Kind::kArray;
  endless.items = root, endless.least = 1;
  grammar.add_shape(root, endless);
  std::string problem;
  CHECK_FALSE(grammar.finish(root, problem));
  CHECK(problem.find("no value") != std::string::npos);
}

}  // namespace shoal::test
