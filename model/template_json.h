// JSON from outside as values of the template language. All texts are untrusted. Objects nested deeper than
// kValueDepthMax fail with TemplateError; the doors that read JSON allow less. Pure function.
#pragma once

#include <boost/json/value.hpp>

#include "model/template_value.h"

namespace shoal::jinja {

Value value_of(const boost::json::value& json);

}  // namespace shoal::jinja
