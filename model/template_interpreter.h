// Renders a parsed template. Sandboxed: a template sees the variables it is given and a handful of functions
// (range, namespace, dict, raise_exception, strftime_now), can change nothing but its own variables, and is
// held to a budget of steps and bytes and to a depth.
#pragma once

#include <ctime>
#include <string>
#include <utility>
#include <vector>

#include "model/template_ast.h"

namespace shoal::jinja {

inline constexpr int kEvaluationDepthMax = 400;  // of expressions, blocks and macros within each other

struct Variables {
  std::vector<std::pair<std::string, Value>> values;
  std::time_t now = 0;  // that strftime_now() tells, in local time
};

// The text with its marks. Throws TemplateError.
MarkedText render(const Block& block, const Variables& variables, Budget& budget);

}  // namespace shoal::jinja
