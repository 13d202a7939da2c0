#include "node/cli_errors.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <span>
#include <string_view>
#include <vector>

#include "base/units.h"

namespace shoal {
namespace {

template <class Number>
bool reads_as(const std::string& text, Number& value) {
  const auto [rest, errc] = std::from_chars(text.data(), text.data() + text.size(), value);
  return errc == std::errc() && rest == text.data() + text.size();
}

std::string did_you_mean(const std::string& word, const std::vector<std::string>& known) {
  const std::string near = nearest_name(word, known);
  return near.empty() ? "" : fmt::format("; did you mean '{}'?", near);
}

// The first word that is no flag, nor the value of the one flag that may stand before the command.
std::string command_word(int argc, const char* const* argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--log-level") ++i;
    if (!word.starts_with('-')) return word;
  }
  return {};
}

// The application itself where it has no such command.
const CLI::App* command_named(const CLI::App& app, const std::string& name) {
  const std::vector<const CLI::App*> commands = app.get_subcommands({});
  const auto found = std::find_if(commands.begin(), commands.end(),
                                  [&](const CLI::App* command) { return command->get_name() == name; });
  return found == commands.end() ? &app : *found;
}

std::vector<std::string> command_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands({})) names.push_back(command->get_name());
  return names;
}

// The words of a command line.
using Words = std::span<const char* const>;

// Behind "--" every word is an argument.
bool stands_behind_mark(Words words, std::string_view word) {
  const auto mark = std::find(words.begin(), words.end(), std::string_view("--"));
  return std::find(words.begin(), mark, word) == mark && std::find(mark, words.end(), word) != words.end();
}

// What no flag and no argument took; "--" itself is not meant to be taken.
std::vector<std::string> leftover_of(const CLI::App& app, bool with_command = false) {
  std::vector<std::string> leftover = app.remaining(with_command);
  std::erase(leftover, "--");
  return leftover;
}

// What is left over: an unknown flag if there is one, otherwise a word too many.
std::string leftover_text(const CLI::App& command, const std::vector<std::string>& leftover, Words words) {
  const auto flag =
      std::find_if(leftover.begin(), leftover.end(), [](const std::string& s) { return s.starts_with('-'); });
  if (flag == leftover.end()) {
    return fmt::format("'{}' is one argument too many (a text of several words needs quotes)",
                       leftover.front());
  }
  if (stands_behind_mark(words, *flag)) {
    return fmt::format(
        "'{0}' is one argument too many: behind '--' no word is a flag, so put {0} before the '--'", *flag);
  }
  const std::string name = flag->substr(0, flag->find('='));
  std::vector<std::string> known;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& each : option->get_lnames()) known.push_back("--" + each);
  }
  return fmt::format("unknown flag '{}'{}", name, did_you_mean(name, known));
}

}  // namespace

CLI::Validator whole_number(int64_t low, uint64_t high, const std::string& short_name) {
  const auto check = [=](const std::string& text) -> std::string {
    int64_t negative = 0;
    uint64_t positive = 0;
    const bool good = text.starts_with('-') ? reads_as(text, negative) && negative >= low
                                            : reads_as(text, positive) && positive <= high &&
                                                  (low < 0 || positive >= static_cast<uint64_t>(low));
    if (good) return {};
    return fmt::format("must be a whole number from {} to {}, not '{}'{}", low, high, text,
                       short_name.empty() ? "" : " (" + short_name + ")");
  };
  return CLI::Validator(check, "");
}

CLI::Validator number() {
  const auto check = [](const std::string& text) -> std::string {
    double value = 0;
    return reads_as(text, value) && std::isfinite(value) ? ""
                                                         : fmt::format("must be a number, not '{}'", text);
  };
  return CLI::Validator(check, "");
}

std::string no_value_text(const CLI::App& app, int argc, const char* const* argv) {
  const CLI::App* command = &app;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--") break;
    if (!word.starts_with('-')) {
      if (command == &app) command = command_named(app, word);
      continue;
    }
    const std::string name = word.substr(0, word.find('='));
    const CLI::Option* option = command->get_option_no_throw(name);
    if (option == nullptr) option = app.get_option_no_throw(name);
    if (option == nullptr) continue;
    if (word == name + "=" && name.starts_with("--")) {
      return fmt::format(
          "{0}= has no value: write one behind the '=', or leave {0} out (see shoal {1}--help)", name,
          command == &app ? "" : command->get_name() + " ");
    }
    if (word == name && option->get_items_expected_min() > 0) ++i;  // its value, whatever that looks like
  }
  return {};
}

std::string usage_text(const CLI::App& app, const CLI::ParseError& error, int argc, const char* const* argv) {
  const Words words(argv, static_cast<size_t>(argc));
  const std::vector<CLI::App*> chosen = app.get_subcommands();
  if (chosen.empty()) {
    const std::vector<std::string> names = command_names(app);
    const std::string word = command_word(argc, argv), list = fmt::format("{}", fmt::join(names, ", "));
    const std::vector<std::string> leftover = leftover_of(app);
    if (!word.empty() && std::find(names.begin(), names.end(), word) == names.end()) {
      return fmt::format("unknown command '{}'{} (commands: {}; see shoal --help)", word,
                         did_you_mean(word, names), list);
    }
    if (!leftover.empty()) return leftover_text(app, leftover, words) + " (see shoal --help)";
    if (word.empty()) return fmt::format("no command given (commands: {}; see shoal --help)", list);
  }
  const CLI::App& command = chosen.empty() ? app : *chosen.back();
  const std::vector<std::string> leftover = leftover_of(app, /*with_command=*/true);
  std::string text = leftover.empty() ? error.what() : leftover_text(command, leftover, words);
  std::replace(text.begin(), text.end(), '\n', ' ');
  return fmt::format("{} (see shoal {}--help)", text, chosen.empty() ? "" : command.get_name() + " ");
}

}  // namespace shoal
