// Small files and pipes, of which none is waited for in vain.
#include "base/small_file.h"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <thread>

namespace shoal {
namespace {

struct Folder {
  Folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "shoal-small-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    path = pattern;
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string file(const char* name) const { return path + "/" + name; }
  std::string fifo(const char* name) const {
    REQUIRE(::mkfifo(file(name).c_str(), 0600) == 0);
    return file(name);
  }
  std::string path;
};

std::string refusal(const std::string& path, size_t bytes_max, Pipes pipes = Pipes::kRefused) {
  const Result<SmallFile> read = read_small_file(path, bytes_max, pipes);
  return read ? "" : read.error().message;
}

}  // namespace

TEST_CASE("a small file is read whole up to its limit") {
  const Folder folder;
  const std::string path = folder.file("text");
  for (const size_t size : {0, 1, 4095, 4096, 4097, 100'000}) {
    CAPTURE(size);
    std::string text(size, 'x');
    if (size > 0) text.back() = '\0';
    std::ofstream(path, std::ios::binary) << text;
    CHECK(read_small_file(path, size).value().text == text);
    CHECK(read_small_file(path, 1 << 20).value().text == text);
    if (size > 0) CHECK(refusal(path, size - 1).starts_with("it is larger than "));
  }
  for (const mode_t mode : {0600, 0400, 0640, 0604, 0622}) {
    CAPTURE(mode);
    REQUIRE(::chmod(path.c_str(), mode) == 0);
    CHECK(read_small_file(path, 1 << 20).value().is_private == ((mode & 077) == 0));
  }
  CHECK(read_small_file("/proc/self/status", 1 << 20).value().text.find("Name:") == 0);  // of size 0 to stat
  CHECK_THROWS_WITH_AS(read_text_file(path, "profile", 10),
                       (path + ": cannot be read as a profile: it is larger than 10 B").c_str(), SetupError);
}

TEST_CASE("what is no small file is refused by what it is, and not waited for") {
  const Folder folder;
  const std::string fifo = folder.fifo("fifo");
  CHECK(refusal(folder.file("none"), 10) == "No such file or directory");
  CHECK(refusal(folder.path, 10) == "it is not a regular file but a directory");
  CHECK(refusal(fifo, 10) == "it is not a regular file but a FIFO");
  CHECK(refusal("/dev/zero", 10, Pipes::kTaken) == "it is not a regular file but a device");
  CHECK(refusal(fifo, 10, Pipes::kTaken) == "it is a FIFO that nobody writes to");
  CHECK_THROWS_WITH_AS(read_text_file(folder.file("none"), "profile", 10),
                       (folder.file("none") + ": no such profile").c_str(), SetupError);
  CHECK_THROWS_WITH_AS(open_output(fifo, "--trace"), doctest::Contains("(--trace): it is a FIFO that nobody"),
                       SetupError);
  CHECK_THROWS_WITH_AS(open_output(folder.file("none/there"), "--csv"),
                       doctest::Contains("No such file or directory"), SetupError);
}

TEST_CASE("a pipe is read to its end while somebody writes, and written while somebody reads") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const std::string text(300'000, 'y');  // more than a pipe holds
  std::thread writer([&] {
    std::ofstream out("/dev/fd/" + std::to_string(ends[1]));
    ::close(ends[1]);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // it is waited for
    out << text;
  });
  CHECK(read_text_file("/dev/fd/" + std::to_string(ends[0]), "text", 1 << 20) == text);
  writer.join();
  ::close(ends[0]);

  const Folder folder;
  const std::string fifo = folder.fifo("fifo");
  std::string got;
  std::thread reader([&] {
    std::stringstream all;
    all << std::ifstream(fifo).rdbuf();
    got = all.str();
  });
  std::optional<std::ofstream> out;
  while (!out) {
    try {
      out = open_output(fifo, "--trace");
    } catch (const SetupError&) {  // the reader is not there yet
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  *out << text;
  out.reset();
  reader.join();
  CHECK(got == text);

  std::ofstream(folder.file("old")) << "what was there before";
  open_output(folder.file("old"), "--csv") << "new";
  CHECK(read_text_file(folder.file("old"), "text", 100) == "new");
  const mode_t before = ::umask(0);
  open_output(folder.file("made"), "--csv") << "new";
  ::umask(before);
  struct stat made {};
  REQUIRE(::stat(folder.file("made").c_str(), &made) == 0);
  CHECK((made.st_mode & 0777) == 0644);
}

}  // namespace shoal
