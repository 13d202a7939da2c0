#include "planner/what_if.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>

#include "base/error.h"
#include "base/units.h"
#include "planner/planner.h"
#include "planner/service.h"

namespace shoal {
namespace {

constexpr int kAddMax = 256;

int index_of(const PlanInput& input, const std::string& name, const char* flag) {
  std::vector<std::string> names;
  for (size_t d = 0; d < input.devices.size(); ++d) {
    if (input.devices[d].name == name) return static_cast<int>(d);
    names.push_back(input.devices[d].name);
  }
  const std::string near = nearest_name(name, names);
  throw SetupError(std::string(flag) + " " + name + ": no node has this name" +
                   (near.empty() ? "" : "; did you mean " + near + "?"));
}

// The device to copy: by name, else the first of that type that is not the head, else the first.
int model_device(const PlanInput& input, const std::string& name) {
  int found = -1;
  for (int d = 0; d < static_cast<int>(input.devices.size()); ++d) {
    const DeviceProfile& device = input.devices[static_cast<size_t>(d)];
    if (device.name == name) return d;
    if (device.type == name && (found < 0 || found == input.constraints.head)) found = d;
  }
  return found >= 0 ? found : index_of(input, name, "--add");
}

// The link that a new device like `device` would have to it: that to another of its type, else its fastest.
LinkProfile link_to_twin(const PlanInput& input, int device) {
  LinkProfile best;
  for (int d = 0; d < input.links.devices(); ++d) {
    if (d == device) continue;
    const LinkProfile& link = input.links.at(device, d);
    if (input.devices[static_cast<size_t>(d)].type == input.devices[static_cast<size_t>(device)].type)
      return link;
    if (link.bytes_per_s > best.bytes_per_s) best = link;
  }
  return best.bytes_per_s > 0 ? best : LinkProfile{1e-3, 12.5e6};  // a cluster of one: 100 Mbit/s is assumed
}

PlanInput with_added(const PlanInput& input, const WhatIfChange& change) {
  const int old_count = static_cast<int>(input.devices.size()), source = model_device(input, change.device);
  if (change.count < 1 || old_count + change.count > kPlanDevicesMax)
    throw SetupError("--add: " + std::to_string(change.count) + " more nodes are too many or too few");
  PlanInput more = input;
  for (int i = 0; i < change.count; ++i) {
    DeviceProfile device = input.devices[static_cast<size_t>(source)];
    device.name += "+" + std::to_string(i + 1);
    more.devices.push_back(device);
  }
  more.links = LinkTable(old_count + change.count, link_to_twin(input, source));
  for (int a = 0; a < old_count + change.count; ++a) {
    for (int b = 0; b < old_count + change.count; ++b) {
      const int from = a < old_count ? a : source, to = b < old_count ? b : source;
      if (from != to) more.links.set(a, b, input.links.at(from, to));
    }
  }
  return more;
}

PlanInput without(const PlanInput& input, const std::string& name) {
  const int device = index_of(input, name, "--without");
  if (device == input.constraints.head && input.constraints.keep_on_head.begins())
    throw SetupError("--without " + name + ": it is the head, where prompts come in");
  PlanInput less = input;
  less.constraints.excluded.push_back(device);
  return less;
}

std::string figure(double value, int decimals) {
  std::array<char, 32> text;
  std::snprintf(text.data(), text.size(), "%.*f", decimals, value);
  return text.data();
}

std::string percent_change(double before, double after) {
  if (before <= 0) return "";
  std::array<char, 32> text;
  std::snprintf(text.data(), text.size(), "%+.0f %%", 100 * (after / before - 1));
  return text.data();
}

WhatIfAnswer answer(const std::string& question, const PlanInput& changed, const PlanMaker& maker) {
  WhatIfAnswer result;
  result.question = question;
  try {
    const Plan plan = maker(changed);
    result.after = figures_of(plan);
    for (const StageAssignment& stage : plan.stages)
      result.devices.push_back(plan.devices[static_cast<size_t>(stage.device)]);
  } catch (const SetupError& error) {
    result.problem = error.what();
  }
  return result;
}

}  // namespace

WhatIfChange parse_add(std::string_view text) {
  WhatIfChange change;
  change.kind = WhatIfChange::Kind::kAdd;
  const std::string whole = "--add " + std::string(text);
  while (!text.empty()) {
    const size_t comma = text.find(',');
    std::string_view part = text.substr(0, comma);
    text = comma == std::string_view::npos ? std::string_view() : text.substr(comma + 1);
    if (part.starts_with("count=")) {
      part.remove_prefix(6);
      const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), change.count);
      if (error != std::errc() || end != part.data() + part.size() || change.count < 1 ||
          change.count > kAddMax)
        throw SetupError(whole + ": count is a number from 1 to " + std::to_string(kAddMax));
    } else {
      if (part.starts_with("type=")) part.remove_prefix(5);
      if (!change.device.empty()) throw SetupError(whole + ": name one type or node, and count=N");
      change.device = part;
    }
  }
  if (change.device.empty()) throw SetupError(whole + ": say what to add, e.g. type=pi5,count=2");
  return change;
}

WhatIfChange parse_link(std::string_view text) {
  WhatIfChange change;
  change.kind = WhatIfChange::Kind::kLink;
  const size_t comma = text.find(','), equals = text.find('=');
  if (comma == std::string_view::npos || equals == std::string_view::npos || comma > equals || comma == 0 ||
      equals == comma + 1)
    throw SetupError("--link " + std::string(text) + ": write it like laptop,pi-1=5Mbps");
  change.device = text.substr(0, comma);
  change.other = text.substr(comma + 1, equals - comma - 1);
  change.bytes_per_s = parse_bytes_per_second(text.substr(equals + 1), "--link");
  return change;
}

PlanInput apply_change(const PlanInput& input, const WhatIfChange& change) {
  switch (change.kind) {
    case WhatIfChange::Kind::kWithout:
      return without(input, change.device);
    case WhatIfChange::Kind::kAdd:
      return with_added(input, change);
    case WhatIfChange::Kind::kContext:
      return with_cache_for(input, std::max(1, static_cast<int>(input.model.context * change.context_factor)),
                            input.model.sequences);
    case WhatIfChange::Kind::kLink:
      break;
  }
  const int a = index_of(input, change.device, "--link"), b = index_of(input, change.other, "--link");
  if (a == b) throw SetupError("--link: a link joins two nodes, not " + change.device + " with itself");
  PlanInput changed = input;
  changed.links.set(a, b, {input.links.at(a, b).latency_s, change.bytes_per_s});
  changed.links.set(b, a, {input.links.at(b, a).latency_s, change.bytes_per_s});
  return changed;
}

std::string describe_change(const PlanInput& input, const WhatIfChange& change) {
  switch (change.kind) {
    case WhatIfChange::Kind::kWithout:
      return "without " + change.device;
    case WhatIfChange::Kind::kAdd:
      return std::to_string(change.count) + " more " + change.device;
    case WhatIfChange::Kind::kLink:
      return change.device + " - " + change.other + " at " + format_bytes_per_second(change.bytes_per_s);
    case WhatIfChange::Kind::kContext:
      return "context of " + std::to_string(static_cast<int>(input.model.context * change.context_factor)) +
             " tokens";
  }
  return "";
}

PlanFigures figures_of(const Plan& plan) {
  return {plan.predicted.first_token_seconds, plan.predicted.seconds_per_token,
          plan.predicted.tokens_per_second, plan.predicted.joules_per_token};
}

WhatIfAnswer ask_what_if(const PlanInput& input, const WhatIfChange& change, const PlanMaker& maker) {
  return answer(describe_change(input, change), apply_change(input, change), maker);
}

WhatIfAnswer ask_together(const PlanInput& input, const std::vector<WhatIfChange>& changes,
                          const PlanMaker& maker) {
  PlanInput changed = input;
  std::string question;
  for (const WhatIfChange& change : changes) {
    question += (question.empty() ? "" : ", ") + describe_change(changed, change);
    changed = apply_change(changed, change);
  }
  return answer(question, changed, maker);
}

std::vector<WhatIfChange> usual_questions(const PlanInput& input, const Plan& plan, int questions_max) {
  std::vector<WhatIfChange> questions;
  std::vector<StageAssignment> by_load = plan.stages;
  std::stable_sort(by_load.begin(), by_load.end(), [](const StageAssignment& a, const StageAssignment& b) {
    return a.full_seconds > b.full_seconds;
  });
  const auto name = [&](int device) { return input.devices[static_cast<size_t>(device)].name; };
  WhatIfChange more;
  more.kind = WhatIfChange::Kind::kAdd;
  more.device = name(by_load.front().device);
  questions.push_back(more);
  // The slowest link between stages of different devices, and the return hop's is not one: it carries little.
  const StageAssignment* slowest = nullptr;
  for (size_t i = 0; i + 1 < plan.stages.size(); ++i)
    if (!slowest || plan.stages[i].hop_out_seconds > slowest->hop_out_seconds) slowest = &plan.stages[i];
  if (slowest) {
    const int to = (slowest + 1)->device;
    WhatIfChange link;
    link.kind = WhatIfChange::Kind::kLink;
    link.device = name(slowest->device), link.other = name(to);
    link.bytes_per_s = 2 * input.links.at(slowest->device, to).bytes_per_s;
    questions.push_back(link);
  }
  if (input.model.context > 0 && input.model.sequences > 0) {
    for (const double factor : {0.5, 2.0}) {
      WhatIfChange context;
      context.kind = WhatIfChange::Kind::kContext;
      context.context_factor = factor;
      questions.push_back(context);
    }
  }
  for (const StageAssignment& stage : by_load) {
    if (static_cast<int>(questions.size()) >= questions_max) break;
    if (stage.device == plan.head) continue;
    WhatIfChange less;
    less.device = name(stage.device);
    questions.push_back(less);
  }
  return questions;
}

std::string render_answers(const Plan& before, const std::vector<WhatIfAnswer>& answers) {
  const PlanFigures now = figures_of(before);
  size_t width = 3;
  for (const WhatIfAnswer& one : answers) width = std::max(width, one.question.size());
  std::array<char, 1024> line;
  const auto row = [&](const std::string& label, const std::string& first, const std::string& token,
                       const std::string& rate) {
    std::snprintf(line.data(), line.size(), "  %-*.*s %20s %20s %20s\n",
                  static_cast<int>(std::min<size_t>(width, 100)), 100, label.c_str(), first.c_str(),
                  token.c_str(), rate.c_str());
    return std::string(line.data());
  };
  const auto cells = [&](const PlanFigures& f, bool compare) {
    const auto cell = [&](double before_value, double value, int decimals) {
      return figure(value, decimals) + (compare ? " (" + percent_change(before_value, value) + ")" : "");
    };
    return std::array<std::string, 3>{cell(now.first_token_seconds, f.first_token_seconds, 3),
                                      cell(now.seconds_per_token * 1e3, f.seconds_per_token * 1e3, 2),
                                      cell(now.tokens_per_second, f.tokens_per_second, 1)};
  };
  const auto text = cells(now, false);
  std::string table = row("", "first token, s", "one stream, ms/token", "full, tokens/s") +
                      row("now", text[0], text[1], text[2]);
  for (const WhatIfAnswer& one : answers) {
    if (!one.after) {
      table += "  " + one.question + ": " + one.problem + "\n";
      continue;
    }
    const auto after = cells(*one.after, true);
    table += row(one.question, after[0], after[1], after[2]);
  }
  return table;
}

}  // namespace shoal
