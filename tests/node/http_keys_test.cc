#include <doctest/doctest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "node/http/api_keys.h"
#include "tests/support/temp_dir.h"

namespace shoal::test {
namespace {

std::string key_file(const TempDir& folder, const std::string& text, bool open = false) {
  namespace fs = std::filesystem;
  const std::string path = folder.path() + "/keys";
  std::ofstream(path) << text;
  fs::permissions(path, fs::perms::owner_read | fs::perms::owner_write |
                            (open ? fs::perms::group_read : fs::perms::none));
  return path;
}

}  // namespace

TEST_CASE("a key of the file opens, nothing else does") {
  const TempDir folder;
  const ApiKeys keys =
      ApiKeys::from_file(key_file(folder, "# ours\n\n  first-key-of-the-file \r\nsecond-key-of-the-file\n"));
  CHECK(!keys.empty());
  CHECK(keys.opens("Bearer first-key-of-the-file"));
  CHECK(keys.opens("bearer  second-key-of-the-file"));
  for (const char* wrong :
       {"", "Bearer", "Bearer ", "first-key-of-the-file", "Basic first-key-of-the-file",
        "Bearer first-key-of-the-fil", "Bearer first-key-of-the-file2", "Bearer # ours"}) {
    CAPTURE(wrong);
    CHECK(!keys.opens(wrong));
  }
  CHECK(!ApiKeys().opens("Bearer "));
  const auto first = keys.user_of("Bearer first-key-of-the-file");
  REQUIRE(first.has_value());
  CHECK(*first == "d5a8520f4eaa1c72");  // the beginning of sha256("first-key-of-the-file")
  CHECK(keys.user_of("bearer   first-key-of-the-file ") == first);
  CHECK(keys.user_of("Bearer second-key-of-the-file") != first);
  CHECK(!keys.user_of("Bearer third-key-of-the-file").has_value());
}

TEST_CASE("a key file that is absent, open to others, empty or weak is refused") {
  const TempDir folder;
  CHECK_THROWS_AS(ApiKeys::from_file(folder.path() + "/none"), SetupError);
  CHECK_THROWS_AS(ApiKeys::from_file(folder.path()), SetupError);
  CHECK_THROWS_WITH_AS(ApiKeys::from_file(key_file(folder, "first-key-of-the-file", true)),
                       doctest::Contains("chmod 600"), SetupError);
  CHECK_THROWS_WITH_AS(ApiKeys::from_file(key_file(folder, "# none\n")), doctest::Contains("holds no key"),
                       SetupError);
  CHECK_THROWS_WITH_AS(ApiKeys::from_file(key_file(folder, "first-key-of-the-file\nshort\n")),
                       doctest::Contains(":2"), SetupError);
  const std::string fifo = folder.file("fifo");
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  CHECK_THROWS_WITH_AS(ApiKeys::from_file(fifo), doctest::Contains("not a regular file but a FIFO"),
                       SetupError);
  CHECK_THROWS_WITH_AS(read_keys(fifo), doctest::Contains("a FIFO that nobody writes to"), SetupError);
}

}  // namespace shoal::test
