// What a filter of the template language is: a function of a value and arguments. They are in two files,
// those of texts and numbers and those of lists and mappings, which apply_filter (template_call.h) looks
// through. Pure; all throw TemplateError.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/template_call.h"

namespace shoal::jinja {

struct Filtered {
  const std::string& name;
  const Value& value;
  const CallArguments& arguments;
  Budget& budget;
  std::vector<const Value*> bind(std::initializer_list<std::string_view> names) const {
    return arguments.bind("the filter '" + name + "'", names);
  }
  MarkedText text() const { return to_text(value, budget); }
};

struct Filter {
  std::string_view name;
  Value (*run)(const Filtered&);
};

std::span<const Filter> list_filters();

// Nothing where the text is no whole number in base 10.
std::optional<int64_t> parse_integer(const MarkedText& text);

}  // namespace shoal::jinja
