#include "node/revocation.h"

#include <doctest/doctest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <filesystem>
#include <memory>
#include <sstream>

#include "base/error.h"
#include "tests/node/log_lines.h"
#include "tests/support/temp_dir.h"

namespace shoal::test {
namespace {

TEST_CASE("who is revoked is read anew when the file changes") {
  TempDir dir;
  const std::string file = revocations_file(dir.path());
  Revocations revoked(file);  // not there yet
  CHECK(revoked.names().empty());
  CHECK_FALSE(revoked.look());
  CHECK(set_revoked(file, "pi-1", true));
  CHECK_FALSE(set_revoked(file, "pi-1", true));
  CHECK(set_revoked(file, "pi-2", true));
  struct stat status;
  REQUIRE(::stat(file.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0600);
  CHECK(revoked.look());
  CHECK_FALSE(revoked.look());
  CHECK(revoked.contains("pi-1"));
  CHECK(revoked.contains("pi-2"));
  CHECK_FALSE(revoked.contains("pi-3"));
  CHECK(set_revoked(file, "pi-1", false));
  CHECK_FALSE(set_revoked(file, "pi-1", false));
  CHECK(revoked.look());
  CHECK_FALSE(revoked.contains("pi-1"));
  CHECK(Revocations(file).contains("pi-2"));
}

TEST_CASE(
    "a list that is taken away or cannot be reached lets nobody in while the head runs, and is told of "
    "once") {
  TempDir dir;
  const std::string folder = dir.file("cluster"), file = folder + "/revoked";
  REQUIRE(std::filesystem::create_directory(folder));
  REQUIRE(set_revoked(file, "pi-1", true));
  Revocations revoked(file);
  LogLines log;
  SUBCASE("the file is removed") {
    std::filesystem::rename(file, dir.file("kept"));
  }
  SUBCASE("it is a link to what is not there now") {
    std::filesystem::rename(file, dir.file("kept"));
    std::filesystem::create_symlink(dir.file("disk/revoked"), file);
    CHECK_THROWS_WITH_AS(Revocations{file}, doctest::Contains("cannot be read"), SetupError);
    CHECK_THROWS_AS(set_revoked(file, "pi-2", true), SetupError);
  }
  SUBCASE("its folder is no folder now") {
    std::filesystem::rename(file, dir.file("kept"));
    std::filesystem::remove(folder);
    write_file(folder, "");
    CHECK_THROWS_AS(Revocations{file}, SetupError);
  }
  for (int i = 0; i < 3; ++i) CHECK_FALSE(revoked.look());
  CHECK(revoked.contains("pi-1"));
  CHECK(log.count("who was revoked before stays so") == 1);
  std::filesystem::remove_all(folder);
  std::filesystem::create_directory(folder);
  std::filesystem::rename(dir.file("kept"), file);
  revoked.look();
  CHECK(revoked.contains("pi-1"));
  CHECK(set_revoked(file, "pi-1", false));
  CHECK(revoked.look());
  CHECK(revoked.names().empty());
}

TEST_CASE("nobody is revoked where there is no file, and its length is bounded") {
  Revocations none("");
  CHECK_FALSE(none.look());
  CHECK_FALSE(none.contains(""));
  CHECK(revocations_file("").empty());
  TempDir dir;
  std::string many;
  for (size_t i = 0; i < kRevokedMax + 10; ++i) many += "n" + std::to_string(i) + "\n";
  write_file(dir.file("revoked"), many);
  CHECK_THROWS_WITH_AS(Revocations(dir.file("revoked")),
                       doctest::Contains("revoked:4097: there are more than 4096 names"), SetupError);
  CHECK_THROWS_AS(set_revoked(dir.file("revoked"), "pi-1", true), SetupError);
  CHECK_THROWS_AS(set_revoked("/nowhere/at/all", "pi-1", true), SetupError);
  const std::string fifo = dir.file("fifo");
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  CHECK_THROWS_WITH_AS(set_revoked(fifo, "pi-1", true), doctest::Contains("it is not a regular file"),
                       SetupError);
  const std::string large = dir.file("large");
  write_file(large, "pi-1\n");
  std::filesystem::resize_file(large, uint64_t{2} << 30);  // of zeros that take no room
  CHECK_THROWS_WITH_AS(set_revoked(large, "pi-1", true), doctest::Contains("it is larger than 1"),
                       SetupError);
}

TEST_CASE("a list with a line that is no name is refused at the start, and left as it is") {
  TempDir dir;
  const std::string file = revocations_file(dir.path());
  write_file(file, "pi-1\n\n\x1b[2J" + std::string(200'000, 'x') + "\npi 2\n");
  try {
    (void)Revocations(file);
    FAIL("it was taken");
  } catch (const SetupError& error) {
    const std::string said = error.what();
    CHECK(said.find("/revoked:3: '") != std::string::npos);
    CHECK(said.find("is no node's name: who is shut out cannot be told") != std::string::npos);
    CHECK(said.find('\x1b') == std::string::npos);
    CHECK(said.size() < 300 + file.size());
  }
  const auto bytes = std::filesystem::file_size(file);
  CHECK_THROWS_AS(set_revoked(file, "pi-3", true), SetupError);
  CHECK_THROWS_AS(set_revoked(file, "pi-1", false), SetupError);
  CHECK(std::filesystem::file_size(file) == bytes);
}

TEST_CASE("a line that is no name lets nobody in while the head runs, and is told of once") {
  TempDir dir;
  const std::string file = revocations_file(dir.path());
  write_file(file, "pi-1\n");
  Revocations revoked(file);
  std::ostringstream said;
  const std::shared_ptr<spdlog::logger> before = spdlog::default_logger();
  spdlog::set_default_logger(
      std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::ostream_sink_mt>(said)));
  write_file(file, "pi 1\npi-2\n");  // meant as pi-1, and one more
  CHECK(revoked.look());
  CHECK(revoked.names() == std::set<std::string>{"pi-1", "pi-2"});
  CHECK_FALSE(revoked.look());
  const std::string warned = said.str();
  CHECK(warned.find("/revoked:1: 'pi 1' is no node's name: who was revoked before stays so") !=
        std::string::npos);
  std::filesystem::remove(file);
  std::filesystem::create_directory(file);  // which cannot be read
  said.str("");
  for (int i = 0; i < 3; ++i) CHECK_FALSE(revoked.look());
  const std::string unread = said.str();
  spdlog::set_default_logger(before);
  CHECK(warned.find("revoked:", warned.find("revoked:") + 1) == std::string::npos);
  CHECK(unread.find("cannot be read") != std::string::npos);
  CHECK(unread.find("cannot be read", unread.find("cannot be read") + 20) == std::string::npos);
  CHECK(revoked.contains("pi-1"));
  std::filesystem::remove(file);
  write_file(file, "pi-2\n");
  CHECK(revoked.look());
  CHECK(revoked.names() == std::set<std::string>{"pi-2"});
}

TEST_CASE("only a name that a node has is shut out without force") {
  TempDir dir;
  const std::vector<std::string> in_file = {"laptop", "pi-1"};
  const auto problem = [&](const std::string& node) -> std::string {
    try {
      require_known_node(node, in_file, dir.path());
      return "";
    } catch (const SetupError& error) {
      return error.what();
    }
  };
  CHECK(problem("pi-1") == "");
  CHECK(problem("tablet").find("no node is called tablet") != std::string::npos);
  CHECK(problem("pi-1x").find("did you mean pi-1? --force takes") != std::string::npos);
  std::filesystem::create_directories(dir.file("issued"));  // as `shoal invite` keeps what it gave
  write_file(dir.file("issued/tablet.crt"), "a certificate");
  CHECK(problem("tablet") == "");
  set_revoked(revocations_file(dir.path()), "phone", true);  // to be let in again
  CHECK(problem("phone") == "");
  CHECK(problem("laptop.crt") != "");
}

}  // namespace
}  // namespace shoal::test
