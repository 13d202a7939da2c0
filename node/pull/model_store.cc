#include "node/pull/model_store.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <span>

#include "base/printable.h"
#include "base/units.h"
#include "model/gguf_reader.h"
#include "model/sha256.h"
#include "node/pull/partial_file.h"

namespace shoal {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr const char* kRecordSuffix = ".pulled";
constexpr const char* kPartialSuffix = ".partial";
constexpr size_t kRecordBytesMax = size_t{1} << 20;
constexpr int kDepthMax = 8;  // folders below USER/REPO

uint64_t size_or_0(const fs::path& path) {
  std::error_code ec;
  const uint64_t bytes = fs::file_size(path, ec);
  return ec ? 0 : bytes;
}

[[noreturn]] void fail(const fs::path& path, const std::string& what, const std::error_code& error) {
  const bool forbidden = error == std::errc::permission_denied || error == std::errc::read_only_file_system;
  throw SetupError(fmt::format("{} {}: {}{}", what, in_quotes(path.string(), 4096), error.message(),
                               forbidden ? "; set XDG_CACHE_HOME to a folder that can be written" : ""),
                   kExitFailed);
}

void remove_one(const fs::path& path) {
  std::error_code ec;
  fs::remove(path, ec);
  if (ec) fail(path, "cannot remove", ec);
}

// A record names only files of its own folder: it may have been written by anybody who can write there.
std::optional<PulledModel> read_record(const fs::path& path, const std::string& user, const std::string& repo,
                                       const std::string& first_file) {
  std::ifstream in(path, std::ios::binary);
  std::string text(std::min<uint64_t>(size_or_0(path), kRecordBytesMax), '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  boost::system::error_code malformed;
  const json::value value = json::parse(text, malformed);
  const json::object* record = malformed ? nullptr : value.if_object();
  const json::value* files = record != nullptr ? record->if_contains("files") : nullptr;
  if (files == nullptr || !files->is_array() || files->get_array().empty()) return std::nullopt;
  PulledModel model;
  model.name = {user, repo, quant_of(first_file), first_file};
  if (const json::value* origin = record->if_contains("origin"); origin != nullptr && origin->is_string())
    model.origin = origin->get_string();
  for (const json::value& entry : files->get_array()) {
    const json::object* fields = entry.if_object();
    const json::value* file = fields != nullptr ? fields->if_contains("path") : nullptr;
    const json::value* bytes = fields != nullptr ? fields->if_contains("bytes") : nullptr;
    const json::value* sha256 = fields != nullptr ? fields->if_contains("sha256") : nullptr;
    if (file == nullptr || !file->is_string() || bytes == nullptr || !bytes->is_number() ||
        sha256 == nullptr || !sha256->is_string())
      return std::nullopt;
    boost::system::error_code inexact;
    HubFile part{std::string(file->get_string()), bytes->to_number<uint64_t>(inexact),
                 std::string(sha256->get_string())};
    if (inexact || !is_safe_path(part.path)) return std::nullopt;
    model.files.push_back(std::move(part));
  }
  if (model.files.front().path != first_file) return std::nullopt;
  return model;
}

}  // namespace

std::string PulledModel::shown_name() const {
  return name.quant.empty() ? name.text() : name.repository() + ":" + name.quant;
}

uint64_t PulledModel::bytes() const {
  uint64_t sum = 0;
  for (const HubFile& file : files) sum += file.bytes;
  return sum;
}

fs::path cache_folder() {
  const char* xdg = std::getenv("XDG_CACHE_HOME");
  if (xdg != nullptr && *xdg != '\0') return fs::path(xdg) / "shoal";
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home == '\0')
    throw SetupError("neither XDG_CACHE_HOME nor HOME is set: nowhere to keep models");
  return fs::path(home) / ".cache" / "shoal";
}

ModelStore ModelStore::of_user() {
  return ModelStore(cache_folder() / "models");
}

fs::path ModelStore::path_of(const PulledModel& model, const HubFile& file) const {
  return folder_of(model.name) / file.path;
}

fs::path ModelStore::record_of(const PulledModel& model) const {
  return first_path(model).string() + kRecordSuffix;
}

std::vector<PulledModel> ModelStore::models() const {
  std::vector<PulledModel> found;
  std::error_code ec;
  for (const fs::directory_entry& user : fs::directory_iterator(root_, ec)) {
    if (!user.is_directory(ec)) continue;
    for (const fs::directory_entry& repo : fs::directory_iterator(user.path(), ec)) {
      if (!repo.is_directory(ec)) continue;
      fs::recursive_directory_iterator entry(repo.path(), ec), end;
      for (; !ec && entry != end; entry.increment(ec)) {
        if (entry.depth() >= kDepthMax) entry.disable_recursion_pending();
        std::string file = entry->path().lexically_relative(repo.path()).generic_string();
        if (!file.ends_with(kRecordSuffix) || !entry->is_regular_file(ec)) continue;
        file.resize(file.size() - std::strlen(kRecordSuffix));
        auto model = read_record(entry->path(), user.path().filename().string(),
                                 repo.path().filename().string(), file);
        if (model) {
          found.push_back(std::move(*model));
        } else {
          spdlog::warn("{} is no record of a pulled model; ignored", in_quotes(entry->path().string(), 4096));
        }
      }
    }
  }
  std::sort(found.begin(), found.end(),
            [](const PulledModel& a, const PulledModel& b) { return a.name.text() < b.name.text(); });
  return found;
}

std::optional<PulledModel> ModelStore::find(const ModelName& name) const {
  std::vector<PulledModel> found;
  for (PulledModel& model : models()) {
    if (model.name.user != name.user || model.name.repo != name.repo) continue;
    const bool is_part = std::any_of(model.files.begin(), model.files.end(),
                                     [&](const HubFile& file) { return file.path == name.file; });
    if (!name.file.empty() ? is_part : name.quant.empty() || model.name.quant == name.quant)
      found.push_back(std::move(model));
  }
  if (found.empty()) return std::nullopt;
  if (found.size() > 1) {
    std::string list;
    for (const PulledModel& model : found) list += (list.empty() ? "" : ", ") + model.name.text();
    throw SetupError(
        fmt::format("'{}' means several pulled models: {}; write the one that is meant", name.text(), list));
  }
  return found.front();
}

bool ModelStore::is_complete(const PulledModel& model) const {
  return std::all_of(model.files.begin(), model.files.end(),
                     [&](const HubFile& file) { return size_or_0(path_of(model, file)) == file.bytes; });
}

uint64_t ModelStore::bytes_here(const PulledModel& model) const {
  uint64_t sum = 0;
  for (const HubFile& file : model.files) {
    const fs::path path = path_of(model, file);
    sum += std::max(size_or_0(path), size_or_0(path.string() + kPartialSuffix));
  }
  return sum;
}

std::vector<HubFile> ModelStore::damaged(const PulledModel& model,
                                         const std::function<void(uint64_t)>& progress) const {
  std::vector<HubFile> found;
  std::vector<std::byte> piece(kHashedAtOnce);
  uint64_t earlier_files = 0;
  for (const HubFile& file : model.files) {
    const RegularFile there(path_of(model, file).string());
    Sha256Hasher hasher;
    for (uint64_t done = 0; done < there.size();) {
      const std::span<std::byte> part(piece.data(), std::min<uint64_t>(piece.size(), there.size() - done));
      there.read_at(done, part);
      hasher.add(part);
      done += part.size();
      progress(earlier_files + done);
    }
    earlier_files += there.size();
    if (to_hex(hasher.finish()) != file.sha256) found.push_back(file);
  }
  return found;
}

void ModelStore::record(const PulledModel& model) const {
  json::array files;
  for (const HubFile& file : model.files)
    files.push_back({{"path", file.path}, {"bytes", file.bytes}, {"sha256", file.sha256}});
  const json::object record{{"origin", model.origin}, {"files", std::move(files)}};
  // A name of its own: another process may be writing the same record.
  const fs::path path = record_of(model), written = fmt::format("{}.{}", path.string(), ::getpid());
  std::error_code ec;
  fs::create_directories(path.parent_path(), ec);
  if (ec) fail(path.parent_path(), "cannot make the folder", ec);
  errno = 0;
  std::ofstream out(written, std::ios::binary | std::ios::trunc);
  out << json::serialize(record) << '\n';
  out.close();
  if (!out) fail(written, "cannot write", std::error_code(errno, std::generic_category()));
  fs::rename(written, path, ec);
  if (ec) fail(path, "cannot write", ec);
}

void ModelStore::remove_file(const PulledModel& model, const HubFile& file) const {
  const fs::path path = path_of(model, file);
  remove_one(path.string() + kPartialSuffix);
  remove_one(path);
}

void ModelStore::remove(const PulledModel& model) const {
  for (const HubFile& file : model.files) remove_file(model, file);
  remove_one(record_of(model));
  remove_empty_folders(model);
}

void ModelStore::forget_if_nothing_came(const PulledModel& model) const noexcept {
  std::error_code ec;
  // Also an empty partial file counts: another process has it.
  const auto is_here = [&](const HubFile& file) {
    const fs::path path = path_of(model, file);
    return fs::exists(path, ec) || fs::exists(path.string() + kPartialSuffix, ec);
  };
  if (std::any_of(model.files.begin(), model.files.end(), is_here)) return;
  fs::remove(record_of(model), ec);
  remove_empty_folders(model);
}

void ModelStore::remove_empty_folders(const PulledModel& model) const {
  for (const HubFile& file : model.files) {
    for (fs::path folder = path_of(model, file).parent_path();
         folder != root_ && folder != folder.parent_path(); folder = folder.parent_path()) {
      std::error_code not_empty;
      if (!fs::remove(folder, not_empty)) break;
    }
  }
}

std::optional<std::string> pulled_path(const std::string& text) {
  const std::optional<ModelName> name = model_name_of(text);
  if (!name) return std::nullopt;
  const ModelStore store = ModelStore::of_user();
  const std::optional<PulledModel> model = store.find(*name);
  if (model && store.is_complete(*model)) return store.first_path(*model).string();
  throw SetupError(
      fmt::format("model '{}': {}; get it with: shoal pull {}", text,
                  model ? "only a part of it is here" : "no file and no pulled model has this name", text));
}

}  // namespace shoal
