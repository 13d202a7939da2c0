// What the template language does with strings, as Python's str does it, on texts that keep their marks.
// Positions are in bytes unless "code point" is said. Pure functions; those that can make much from little
// charge the budget.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>
#include <vector>

#include "model/template_value.h"

namespace shoal::jinja {

// Where each code point begins, and the end.
std::vector<size_t> code_point_starts(std::string_view text);
size_t count_code_points(std::string_view text);

bool is_python_space(char32_t c);  // as str.isspace() has it
bool is_printable(char32_t c);     // as str.isprintable() has it

// str.strip() and its kin; `chars`: what is taken off, white space where none are given.
MarkedText strip(const MarkedText& text, std::optional<std::string_view> chars, bool left, bool right);

// str.split(separator, most) and str.rsplit(); most < 0: all.
std::vector<MarkedText> split(const MarkedText& text, std::string_view separator, int64_t most,
                              bool from_right, Budget& budget);
std::vector<MarkedText> split_at_spaces(const MarkedText& text, int64_t most, bool from_right,
                                        Budget& budget);
std::vector<MarkedText> split_lines(const MarkedText& text, bool keep_ends, Budget& budget);

// str.replace(); most < 0: all.
MarkedText replace(const MarkedText& text, std::string_view from, const MarkedText& to, int64_t most,
                   Budget& budget);

// Each code point by Unicode's one-to-one mapping, and U+00DF; the other few that Python lengthens
// (ligatures) stay as they are.
enum class Case { kUpper, kLower, kCapitalise, kTitle };
MarkedText change_case(const MarkedText& text, Case to, Budget& budget);
// Whether the letters of `text` are of one case, and there is one.
bool has_case(std::string_view text, Case which, Budget& budget);

}  // namespace shoal::jinja
