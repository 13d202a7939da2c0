// Parses the template language: Jinja 3's statements set, if, for, macro, filter, with, break, continue, raw
// and generation, and all of its expressions. What reaches outside of the template (include, import, extends,
// block) and what chat templates have no use for (call blocks, recursive loops, *args) is refused by name.
#pragma once

#include <string_view>

#include "model/template_ast.h"

namespace shoal::jinja {

inline constexpr size_t kTemplateSourceMax = 1 << 20;  // bytes
inline constexpr int kTemplateDepthMax = 120;          // of what is nested in a source

// Throws TemplateError.
Block parse(std::string_view source);

}  // namespace shoal::jinja
