#include <doctest/doctest.h>

#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <fstream>
#include <sstream>

#include "model/template_interpreter.h"
#include "model/template_json.h"
#include "model/template_parser.h"

namespace shoal::jinja {
namespace {

namespace json = boost::json;

const std::string kFixtures = std::string(SHOAL_SOURCE_DIR) + "/tests/model/fixtures/";

std::string read_file(const std::string& name) {
  std::ifstream in(kFixtures + name);
  REQUIRE_MESSAGE(in.good(), "cannot read " << kFixtures << name);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

std::time_t noon_of_2026_01_02() {
  std::tm date{};
  date.tm_year = 126;
  date.tm_mday = 2;
  date.tm_hour = 12;
  date.tm_isdst = -1;
  return std::mktime(&date);
}

struct Rendering {
  MarkedText text;
  std::string error;  // empty: none
  int line = 0;
};

Rendering rendered(const std::string& source, std::vector<std::pair<std::string, Value>> values = {},
                   size_t steps = 1'000'000, size_t bytes = 16 << 20) {
  Rendering result;
  try {
    Budget budget(steps, bytes);
    result.text = render(parse(source), {std::move(values), noon_of_2026_01_02()}, budget);
  } catch (const TemplateError& error) {
    result.error = error.message.empty() ? "no message" : error.message;
    result.line = error.line;
  }
  return result;
}

// What Python's Jinja made of it; null where it refused.
void check(const Rendering& result, const json::value& expected) {
  CAPTURE(result.error);
  if (expected.is_null()) {
    CHECK(!result.error.empty());
    CHECK(result.line > 0);
  } else {
    CHECK(result.error.empty());
    CHECK(result.text.bytes == std::string(expected.get_string()));
  }
}

std::string error_of(const std::string& source) {
  const Rendering result = rendered(source);
  return result.error.empty() ? "rendered: " + result.text.bytes
                              : std::to_string(result.line) + ": " + result.error;
}

}  // namespace

TEST_CASE("single constructs are rendered as Python's Jinja renders them") {
  const json::value pairs = json::parse(read_file("snippets_expected.json"));
  CHECK(pairs.get_array().size() >= 130);
  for (const json::value& pair : pairs.get_array()) {
    const std::string source(pair.at(0).get_string());
    CAPTURE(source);
    check(rendered(source), pair.at(1));
  }
}

TEST_CASE("chat templates are rendered as Python's Jinja renders them") {
  const json::value fixture = json::parse(read_file("chat_expected.json"));
  const json::array& conversations = fixture.at("conversations").get_array();
  size_t count = 0;
  for (const auto& [name, texts] : fixture.at("expected").get_object()) {
    const std::string source = read_file("chat_" + std::string(name) + ".jinja");
    CAPTURE(source.substr(0, 120));
    REQUIRE(texts.get_array().size() == conversations.size());
    for (size_t i = 0; i < conversations.size(); ++i) {
      CAPTURE(i);
      std::vector<std::pair<std::string, Value>> values = {{"tools", Value(None{})},
                                                           {"documents", Value(None{})},
                                                           {"add_generation_prompt", Value(true)},
                                                           {"bos_token", Value("<s>", true)},
                                                           {"eos_token", Value("</s>", true)}};
      for (const auto& [key, value] : conversations[i].get_object()) {
        std::erase_if(values, [&, &wanted = key](const auto& known) { return known.first == wanted; });
        values.emplace_back(std::string(key), value_of(value));
      }
      check(rendered(source, values), texts.get_array()[i]);
      ++count;
    }
  }
  CHECK(count >= 370);
}

TEST_CASE("an error names the line and what was wrong") {
  CHECK(error_of("a\n{% if x %}\n{{ y") == "3: a tag is not closed by }}");
  CHECK(error_of("a\n{% if x %}\nb") == "3: the template ends where {% endif %} is missing");
  CHECK(error_of("\n\n{{ 1 + 'a' }}") == "3: '+' does not work between an integer and a string");
  CHECK(error_of("{{ messages[0] }}") == "1: 'messages' is undefined");
  CHECK(error_of("\n{{ {'a': 1}.b.c }}") == "2: 'b' is undefined");
  CHECK(error_of("{{ raise_exception('roles must alternate') }}") ==
        "1: the template says: roles must alternate");
  CHECK(error_of("{% include 'x' %}") == "1: {% include %} is not offered");
  CHECK(error_of("{{ 'x' | nonsense }}") == "1: there is no filter 'nonsense'");
  CHECK(error_of("{{ 1 2 }}") == "1: unexpected '2' where }} should be");
  CHECK(error_of("{{ [1].append(2) }}") == "1: append() would change a list: templates cannot");
  CHECK(error_of("{% for x in [1] %}{% macro f() %}{% endmacro %}{% endfor %}") ==
        "1: a macro is defined within a loop, a macro or another scope: that is not offered");
  CHECK(error_of("{% for x in [1] recursive %}{% endfor %}") == "1: a recursive loop is not offered");
  CHECK(error_of("{{ f(*a) }}") == "1: arguments given as *list or **mapping are not offered");
  CHECK(error_of("{{ 9223372036854775807 + 1 }}") == "1: a number grows beyond 64 bits");
  CHECK(error_of("{{ 'x'.__class__ }}") == "1: the member __class__ is not open to templates");
  CHECK(error_of("{{ '\\ud800' }}") == "1: a string's \\u needs 4 hexadecimal digits of a character");
}

TEST_CASE("each byte keeps who wrote it") {
  // Upper case: from outside. Everything else is the template's.
  const std::vector<std::pair<std::string, Value>> values = {
      {"t", Value(" ABC,\nD\"É ", false)}, {"d", value_of(json::parse(R"({"K":["V\n"]})"))}};
  for (const char* source : {"x{{ t }}y",
                             "{{ 'a' + t ~ 'b' }}",
                             "{{ t | trim }}",
                             "{{ t.strip() + 'x' }}",
                             "{{ t.split(',') | join('-') }}",
                             "{{ t[1:5] }}",
                             "{{ t[::-1] }}",
                             "{{ t | list | join }}",
                             "{{ t | replace('B', 'b') }}",
                             "{{ d | tojson }}",
                             "{{ d }}",
                             "{{ d | tojson(indent=2) }}",
                             "{{ 'a' ~ d.K[0] }}",
                             "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
                             "{% set x %}[{{ t }}]{% endset %}{{ x }}",
                             "{% macro f(v) %}<{{ v }}>{% endmacro %}{{ f(t) }}",
                             "{{ [t, 'x'] | map('trim') | join(';') }}",
                             "{{ t | indent(2, true) }}",
                             "{{ t.splitlines() | first }}",
                             "{{ (t ~ 'x') * 2 }}",
                             "{{ t.partition(',') | last }}",
                             "{{ t | title }}",
                             "{{ t.upper() }}"}) {
    CAPTURE(source);
    const Rendering result = rendered(source, values);
    REQUIRE(result.error.empty());
    REQUIRE(result.text.bytes.size() == result.text.trust.size());
    bool outside = false;
    for (size_t i = 0; i < result.text.size(); ++i) {
      const char c = result.text.bytes[i];
      if (c >= 'A' && c <= 'Z') CHECK(result.text.trust[i] == MarkedText::kUntrusted);
      if ((c >= 'a' && c <= 'z' && std::string_view(source).find("title") == std::string_view::npos) ||
          c == '[' || c == '<')
        CHECK(result.text.trust[i] == MarkedText::kTrusted);
      outside = outside || result.text.trust[i] == MarkedText::kUntrusted;
    }
    CHECK(outside);
  }
}

TEST_CASE("hostile templates end at a limit, soon") {
  std::string deep_brackets, deep_blocks, long_sum, long_filters, deep_not, deep_names;
  for (int i = 0; i < 100'000; ++i) {
    deep_brackets += "[";
    deep_blocks += "{% if x %}";
    long_sum += "1+";
    long_filters += "|trim";
    deep_not += "not ";
    deep_names += ".a";
  }
  const std::string hostile[] = {
      "{% for i in range(10**9) %}{% endfor %}",
      "{% for i in range(10**18, 0, -1) %}{% endfor %}",
      "{% for a in range(1000) %}{% for b in range(1000) %}{% for c in range(1000) %}{% endfor %}{% endfor "
      "%}{% endfor %}",
      "{% for a in range(10000) %}{% for b in range(10000) %}{{ a }}{% endfor %}{% endfor %}",
      "{{ 'x' * 10**12 }}",
      "{{ '' * 10**18 }}{{ [0] * 10**18 }}",
      "{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
      "{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = ns.s | replace('x', 'xx') %}{% "
      "endfor %}",
      "{% set ns = namespace(s=[1]) %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
      "{% set ns = namespace(s=[1]) %}{% for i in range(90) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ "
      "ns.s }}",
      "{% set ns = namespace(s=[1]) %}{% for i in range(90) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ "
      "ns.s == ns.s }}",
      "{% set ns = namespace(s=[1]) %}{% for i in range(90) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ "
      "ns.s | tojson }}",
      "{% set ns = namespace(s=[1]) %}{% for i in range(100000) %}{% set ns.s = [ns.s] %}{% endfor %}",
      "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns.x }}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f('x') }}",
      "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(30) }}",
      "{{ (range(1000000) | list) ~ '' }}",
      "{{ range(400000) | map('string') | map('list') | list }}",
      "{% set s = 'a ' * 1000000 %}{{ s.split() | join(s) }}",
      "{% set s = 'é' * 1000000 %}{% for i in range(100) %}{% set x = s | upper %}{% endfor %}",
      "{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{{ s[-1] }}{% endfor %}",
      "{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{% if 'b' in s %}{% endif %}{% endfor %}",
      "{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{{ s | length }}{% endfor %}",
      "{{ range(100000) | unique | list | length }}",
      "{{ 2 ** 10 ** 9 }}",
      "{{ 'x' | indent(10**9) }}",
      "{{ [1] | tojson(indent=10**9) }}",
      "{{ [1] | batch(10**12, 0) | list }}",
      "{{ " + deep_brackets + " }}",
      deep_blocks,
      "{{ " + long_sum + "1 }}",
      "{{ x" + long_filters + " }}",
      "{{ " + deep_not + "x }}",
      "{{ x" + deep_names + " }}",
      "{{ " + std::string(100'000, '(') + " }}",
      "{{ " + std::string(100'000, '-') + "1 }}",
      "{{ x" + std::string(100'000, '[') + " }}",
      "{{ f" + std::string(100'000, '(') + " }}",
      "{{ 1 " + std::string(100'000, 'x') + " }}",
      std::string(2 << 20, 'x'),
  };
  for (const std::string& source : hostile) {
    CAPTURE(source.substr(0, 100));
    const auto start = std::chrono::steady_clock::now();
    const Rendering result = rendered(source);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    CHECK(!result.error.empty());
    // A tenth of a second or so in Release; sanitized on a loaded machine it has been more than 5.
    CHECK(took.count() < 30);
  }
}

TEST_CASE("broken bytes and cut sources are errors, not crashes") {
  for (const char* name : {"macros", "inst_tools", "think", "header_tools"}) {
    const std::string source = read_file(std::string("chat_") + name + ".jinja");
    for (size_t length = 0; length < source.size(); length += 7) (void)rendered(source.substr(0, length));
    for (size_t at = 0; at < source.size(); at += 5) {
      std::string changed = source;
      changed[at] = static_cast<char>(changed[at] ^ (1 + at % 255));
      (void)rendered(changed, {{"messages", value_of(json::parse(R"([{"role":"user","content":"x"}])"))}});
    }
  }
  const std::vector<std::pair<std::string, Value>> broken = {
      {"t", Value("\xff\xc3 \xed\xa0\x80 a\xf0\x9f", false)}};
  for (const char* source : {"{{ t }}", "{{ t[0] }}", "{{ t | upper }}", "{{ t | list }}", "{{ [t] }}",
                             "{{ t | tojson }}", "{{ t.strip() }}", "{{ t.split() }}", "{{ t | title }}"}) {
    CHECK(rendered(source, broken).error.empty());
  }
}

}  // namespace shoal::jinja
