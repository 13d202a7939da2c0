// Files that a person names, read and written without waiting for somebody who may never come: whoever opens
// a FIFO waits for its other end. All functions are safe from any thread.
#pragma once

#include <sys/types.h>

#include <fstream>
#include <string>

#include "base/error.h"

namespace shoal {

// "a directory", "a FIFO", ...: what a path leads to that is no regular file, by its mode (stat(2)).
const char* kind_of_file(mode_t mode);

struct SmallFile {
  std::string text;
  bool is_private = false;  // by its mode its owner alone may read and write it
};

// kTaken: read to its end where somebody has it open for writing, or has left something in it.
enum class Pipes { kRefused, kTaken };

// The whole of a regular file, or of a pipe. kIo, with the reason alone, for the caller to say what it was to
// be: absent, neither of these, larger than `bytes_max`, unreadable. Allocates for a file's bytes once.
Result<SmallFile> read_small_file(const std::string& path, size_t bytes_max, Pipes pipes = Pipes::kRefused);

// The same; throw SetupError that names the file and calls it a `what`. The second takes pipes.
SmallFile read_named_file(const std::string& path, const std::string& what, size_t bytes_max,
                          Pipes pipes = Pipes::kRefused);
std::string read_text_file(const std::string& path, const std::string& what, size_t bytes_max);

// A file opened to be written from its beginning: made, emptied, or a pipe or FIFO that somebody reads from
// now. Throws SetupError (exit 1) that names the file, and `flag`, by which it was named.
std::ofstream open_output(const std::string& path, const char* flag);

}  // namespace shoal
