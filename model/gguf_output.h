// A GGUF file being written: header, then tensors one after the other, then finish(), which gives the file
// its name, over a file that had it before. Until then it has a name that nobody else has, NAME.partial-...
// beside it, and is removed if the object dies earlier, or by remove_unfinished(). Throws SetupError with
// exit code 1 where the disk refuses, and where NAME is something else than a file. Belongs to one thread.
#pragma once

#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

#include "model/gguf_file.h"

namespace shoal {

struct TensorChange;

class GgufOutput {
 public:
  explicit GgufOutput(const std::string& path);
  ~GgufOutput();
  GgufOutput(const GgufOutput&) = delete;
  GgufOutput& operator=(const GgufOutput&) = delete;

  // The source's metadata as it lies there, with general.file_type set, and the tensors' records.
  void write_header(const GgufFile& source, const std::vector<TensorChange>& tensors, uint32_t file_type);
  void write(std::span<const std::byte> bytes);
  void pad();  // to the alignment: after each tensor
  void finish();
  // Where one is being written in this process: takes it away. For a handler of signals that end the process:
  // async-signal-safe.
  static void remove_unfinished();

 private:
  [[noreturn]] void fail(const char* what);

  std::string path_, partial_;
  std::string shown_;  // for errors: the name that was given, and where a link leads
  std::FILE* file_ = nullptr;
  uint64_t written_ = 0, alignment_ = 32;
};

}  // namespace shoal
