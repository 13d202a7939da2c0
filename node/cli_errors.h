// What the command line says when it cannot be taken: one sentence that names the flag or command and where
// help is. And the checks of single values, whose messages say what was expected.
#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <string>

namespace shoal {

// A whole number from `low` to `high`, checked as text: nothing wraps around, nothing is cut off.
// `short_name`: of a flag that is better known by it ("-n").
CLI::Validator whole_number(int64_t low, uint64_t high, const std::string& short_name = {});

// Any number; the owner of the value knows its range.
CLI::Validator number();

// What is said of a "--flag=" with nothing behind it, before CLI11 takes the next word for its value, which
// may be a flag; empty where there is none.
std::string no_value_text(const CLI::App& app, int argc, const char* const* argv);

std::string usage_text(const CLI::App& app, const CLI::ParseError& error, int argc, const char* const* argv);

}  // namespace shoal
