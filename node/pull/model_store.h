// The models that `shoal pull` made, in ${XDG_CACHE_HOME:-~/.cache}/shoal/models/: the files of USER/REPO
// under a folder of that name, as the hub has them, and beside a model's first file FILE.gguf.pulled, a
// record (JSON) of what belongs to it. A file under its own name is complete and its SHA-256 was right;
// FILE.gguf.partial is one under way.
//
// Throws SetupError where the disk does not let it. Several processes may use a store at once.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "node/pull/hub.h"

namespace shoal {

struct PulledModel {
  ModelName name;              // with `file` the first file, and `quant` where its name tells
  std::vector<HubFile> files;  // by part
  std::string origin;          // where it came from

  // "USER/REPO:QUANT", or with the file's name where that tells no quant.
  std::string shown_name() const;
  uint64_t bytes() const;
};

class ModelStore {
 public:
  explicit ModelStore(std::filesystem::path root) : root_(std::move(root)) {}
  static ModelStore of_user();

  const std::filesystem::path& root() const { return root_; }
  std::filesystem::path path_of(const PulledModel& model, const HubFile& file) const;
  std::filesystem::path first_path(const PulledModel& model) const {
    return path_of(model, model.files.front());
  }

  // By name; what has begun to be pulled counts.
  std::vector<PulledModel> models() const;
  // Throws SetupError where several fit.
  std::optional<PulledModel> find(const ModelName& name) const;
  bool is_complete(const PulledModel& model) const;
  uint64_t bytes_here(const PulledModel& model) const;  // partial files count

  // Which of a complete model's files have another SHA-256 than when they were pulled. `progress`: bytes
  // read.
  std::vector<HubFile> damaged(const PulledModel& model, const std::function<void(uint64_t)>& progress) const;

  void record(const PulledModel& model) const;
  void remove_file(const PulledModel& model, const HubFile& file) const;  // and a partial one
  // Its files, partial ones and the record, and folders that are empty then.
  void remove(const PulledModel& model) const;
  // The record and such folders where nothing of the model is here, nor on its way, and so far as the disk
  // lets it.
  void forget_if_nothing_came(const PulledModel& model) const noexcept;

 private:
  std::filesystem::path folder_of(const ModelName& name) const { return root_ / name.user / name.repo; }
  std::filesystem::path record_of(const PulledModel& model) const;
  void remove_empty_folders(const PulledModel& model) const;

  std::filesystem::path root_;
};

// ${XDG_CACHE_HOME:-~/.cache}/shoal
std::filesystem::path cache_folder();

// The file of a pulled model where `text` is its name; nothing where it is no name of a model. Throws
// SetupError that says how to get it where it is not there.
std::optional<std::string> pulled_path(const std::string& text);

}  // namespace shoal
