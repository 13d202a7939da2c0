// shoal pull, shoal list and shoal rm.
#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>
#include <map>
#include <optional>

#include "base/error.h"
#include "base/printable.h"
#include "base/units.h"
#include "model/gguf_file.h"
#include "node/commands.h"
#include "node/progress.h"
#include "node/pull/pull.h"
#include "tensor/format.h"

namespace shoal {
namespace {

namespace json = boost::json;

ModelName name_or_fail(const std::string& text) {
  if (const std::optional<ModelName> name = model_name_of(text)) return *name;
  std::vector<std::string> aliases;
  for (const KnownModel& model : known_models()) aliases.push_back(model.alias);
  const std::string near = nearest_name(text, aliases);
  throw SetupError(fmt::format(
      "{} is no name of a model: USER/REPO:QUANT, USER/REPO/FILE.gguf or one of {}{}", in_quotes(text),
      fmt::join(aliases, ", "), near.empty() ? "" : fmt::format("; did you mean '{}'?", near)));
}

// What a row of the table says of a model's file.
struct Listed {
  std::string format = "?", architecture = "?", problem;
  uint64_t context = 0;
};

Listed look_into(const std::string& path) {
  Listed listed;
  try {
    const GgufFile file = GgufFile::open(path);
    std::map<std::string, uint64_t> bytes;
    for (const TensorInfo& tensor : file.tensors()) bytes[format_of(tensor.type).name] += tensor.bytes;
    const auto most = std::max_element(bytes.begin(), bytes.end(),
                                       [](const auto& a, const auto& b) { return a.second < b.second; });
    if (most != bytes.end()) listed.format = most->first;
    listed.architecture = file.get_string("general.architecture", "?");
    listed.context = file.get_uint(listed.architecture + ".context_length", 0);
  } catch (const SetupError& error) {
    listed.problem = error.what();
  }
  return listed;
}

struct Row {
  std::string name, alias, path;
  uint64_t bytes = 0, bytes_here = 0;
  bool complete = false;
  std::optional<std::vector<HubFile>> damaged;  // where that was asked for
  Listed file;
};

std::vector<HubFile> damaged_files(const ModelStore& store, const PulledModel& model) {
  ProgressLine progress("checking " + model.shown_name());
  return store.damaged(model, [&](uint64_t bytes) { progress.update(bytes, model.bytes()); });
}

std::vector<Row> rows_of(const ModelStore& store, bool verify) {
  std::vector<Row> rows;
  for (const PulledModel& model : store.models()) {
    Row row;
    row.name = model.shown_name();
    for (const KnownModel& known : known_models()) {
      if (known.name == row.name) row.alias = known.alias;
    }
    row.path = store.first_path(model).string();
    row.bytes = model.bytes();
    row.bytes_here = store.bytes_here(model);
    row.complete = store.is_complete(model);
    if (row.complete && verify) row.damaged = damaged_files(store, model);
    if (row.complete) row.file = look_into(row.path);
    rows.push_back(std::move(row));
  }
  return rows;
}

void print_json(const std::vector<Row>& rows) {
  json::array list;
  for (const Row& row : rows) {
    json::object entry{
        {"name", row.name},         {"alias", row.alias.empty() ? json::value() : json::value(row.alias)},
        {"path", row.path},         {"bytes", row.bytes},
        {"complete", row.complete}, {"bytes_here", row.bytes_here}};
    if (row.complete && row.file.problem.empty()) {
      entry["format"] = row.file.format;
      entry["architecture"] = row.file.architecture;
      entry["context"] = row.file.context;
    } else if (row.complete) {
      entry["problem"] = row.file.problem;
    }
    if (row.damaged) entry["damaged"] = !row.damaged->empty();
    list.push_back(std::move(entry));
  }
  std::fputs((json::serialize(list) + "\n").c_str(), stdout);
}

void print_table(const std::vector<Row>& rows) {
  size_t width = 4;
  for (const Row& row : rows) width = std::max(width, row.name.size());
  std::fputs(fmt::format("{:<{}}  {:>9}  {:<7}  {:<12}  {:>7}\n", "name", width, "size", "format",
                         "architecture", "context")
                 .c_str(),
             stdout);
  for (const Row& row : rows) {
    std::string line = fmt::format("{:<{}}  {:>9}  ", row.name, width, format_bytes(row.bytes));
    if (!row.complete) {
      line += fmt::format("incomplete: {} here; shoal pull goes on", format_bytes(row.bytes_here));
    } else if (row.damaged && !row.damaged->empty()) {
      line += fmt::format("damaged: {} has another SHA-256 than it was pulled with; shoal pull gets it anew",
                          in_quotes(row.damaged->front().path));
    } else if (!row.file.problem.empty()) {
      line += "unreadable: " + row.file.problem;
    } else {
      line += fmt::format("{:<7}  {:<12}  {:>7}{}", row.file.format, printable(row.file.architecture, 24),
                          row.file.context, row.alias.empty() ? "" : "  (" + row.alias + ")");
    }
    std::fputs((line + "\n").c_str(), stdout);
  }
}

void print_known(bool as_json) {
  json::array list;
  if (!as_json)
    std::fputs(
        fmt::format("{:<13}  {:<48}  {:>7}  {:>7}  {}\n", "name", "model", "size", "context", "licence")
            .c_str(),
        stdout);
  for (const KnownModel& model : known_models()) {
    if (as_json) {
      list.push_back({{"name", model.alias},
                      {"model", model.name},
                      {"size", model.size},
                      {"context", model.context},
                      {"licence", model.licence}});
    } else {
      std::fputs(fmt::format("{:<13}  {:<48}  {:>7}  {:>7}  {}\n", model.alias, model.name, model.size,
                             model.context, model.licence)
                     .c_str(),
                 stdout);
    }
  }
  if (as_json) std::fputs((json::serialize(list) + "\n").c_str(), stdout);
}

}  // namespace

int pull_command(const PullFlags& flags) {
  const ModelName name = name_or_fail(flags.name);
  const ModelStore store = ModelStore::of_user();
  std::optional<PulledModel> model = store.find(name);
  bool here = model && store.is_complete(*model);
  if (here) {
    for (const HubFile& file : damaged_files(store, *model)) {
      here = false;
      std::fputs(fmt::format("{} has another SHA-256 than it was pulled with: getting it anew\n",
                             in_quotes(file.path))
                     .c_str(),
                 stderr);
      store.remove_file(*model, file);
    }
  }
  if (here) {
    std::fputs(fmt::format("{} is here already, and its SHA-256 is right\n", model->shown_name()).c_str(),
               stderr);
  } else {
    PullOptions options = pull_options(flags.mirror, flags.allow_http);
    options.download.tries = flags.tries;
    model = pull_model(options, store, name);
    std::fputs(fmt::format("{}: {}, SHA-256 as the hub says; run it with: shoal run {} -p \"...\"\n",
                           model->shown_name(), format_bytes(model->bytes()), flags.name)
                   .c_str(),
               stderr);
  }
  std::fputs((store.first_path(*model).string() + "\n").c_str(), stdout);
  return kExitDone;
}

int list_command(const ListFlags& flags) {
  if (flags.known) {
    print_known(flags.json);
    return kExitDone;
  }
  const ModelStore store = ModelStore::of_user();
  const std::vector<Row> rows = rows_of(store, flags.verify);
  if (flags.json) {
    print_json(rows);
  } else if (rows.empty()) {
    std::fputs(fmt::format("no pulled models in {}; shoal list --known names some to pull\n",
                           in_quotes(store.root().string(), 4096))
                   .c_str(),
               stderr);
  } else {
    print_table(rows);
  }
  const bool damaged = std::any_of(rows.begin(), rows.end(),
                                   [](const Row& row) { return row.damaged && !row.damaged->empty(); });
  return damaged ? kExitFailed : kExitDone;
}

int rm_command(const std::string& text) {
  const ModelStore store = ModelStore::of_user();
  std::optional<PulledModel> model;
  if (const std::optional<ModelName> name = model_name_of(text)) model = store.find(*name);
  if (!model) {
    std::vector<std::string> names;
    for (const PulledModel& each : store.models()) names.push_back(each.shown_name());
    throw SetupError(fmt::format("no pulled model is named {}; {}", in_quotes(text),
                                 names.empty() ? std::string("there are none")
                                               : fmt::format("there are: {}", fmt::join(names, ", "))));
  }
  const uint64_t bytes = store.bytes_here(*model);
  store.remove(*model);
  std::fputs(fmt::format("{} removed: {}\n", model->shown_name(), format_bytes(bytes)).c_str(), stderr);
  return kExitDone;
}

}  // namespace shoal
