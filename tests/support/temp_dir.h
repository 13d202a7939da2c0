// A fresh directory for one test's files, removed with all it holds when the object goes.
#pragma once

#include <string>
#include <string_view>

namespace shoal::test {

class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string file(std::string_view name) const { return path_ + "/" + std::string(name); }

 private:
  std::string path_;
};

void write_file(const std::string& path, std::string_view bytes);
std::string read_whole_file(const std::string& path);

}  // namespace shoal::test
