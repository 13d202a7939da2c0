#include "node/revocation.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include "base/error.h"
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
  std::remove(file.c_str());  // everybody is believed again
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
  CHECK(Revocations(dir.file("revoked")).names().size() == kRevokedMax);
  CHECK_THROWS_AS(set_revoked(dir.file("revoked"), "pi-1", true), SetupError);
  CHECK_THROWS_AS(set_revoked("/nowhere/at/all", "pi-1", true), SetupError);
}

}  // namespace
}  // namespace shoal::test
