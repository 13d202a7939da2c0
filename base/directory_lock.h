// Keeps other processes of this program out of a directory's files while they are read, changed and written
// again (flock(2) on the directory). One thread. Where the file system has no locks, or the directory is not
// there, it keeps nobody out and says nothing.
#pragma once

#include <fcntl.h>
#include <sys/file.h>

#include <string>

#include "base/descriptor.h"

namespace shoal {

class DirectoryLock {
 public:
  explicit DirectoryLock(const std::string& directory)
      : file_(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    if (file_.get() >= 0) (void)::flock(file_.get(), LOCK_EX);
  }

 private:
  const Descriptor file_;
};

}  // namespace shoal
