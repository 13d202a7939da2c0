// How ranks get certificates, who was shut out, and the first plan.
#include "node/enrolment.h"

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <filesystem>

#include "base/error.h"
#include "node/revocation.h"
#include "node/signed_plan.h"
#include "tests/node/local_cluster.h"
#include "tests/node/thread_ranks.h"
#include "tests/node/tls_nodes.h"
#include "tests/support/mentions.h"
#include "tests/support/temp_dir.h"

namespace shoal::test {
namespace {

const std::vector<std::string> kNames = {"laptop", "pi-1", "pi-2"};

// What each of three ranks came to: "" or why it ended.
std::vector<std::string> each(const std::function<void(Bootstrap&, const std::string&)>& body) {
  std::vector<std::string> ends(kNames.size());
  ThreadRanks ranks(static_cast<int>(kNames.size()));
  ranks.run([&](Bootstrap& bootstrap) {
    const auto rank = static_cast<size_t>(bootstrap.rank());
    try {
      body(bootstrap, kNames[rank]);
    } catch (const SetupError& error) {
      ends[rank] = error.what();
    } catch (const SilentExit&) {
      ends[rank] = "silent";
    }
  });
  return ends;
}

constexpr const char* kOpen =
    " can be written to by others, who could put an authority, certificates or names of their own there: see "
    "that nobody did, then chmod go-w ";

void enrol_one(const std::string& directory) {
  ThreadRanks ranks(1);
  ranks.run([&](Bootstrap& bootstrap) { enrol(bootstrap, "home", "laptop", directory); });
}

std::string refusal(const std::string& directory) {
  try {
    require_kept_from_others(directory);
  } catch (const SetupError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("names that are revoked at the same time are all kept") {
  const TempDir dir;
  std::vector<std::thread> all;
  for (int i = 0; i < 12; ++i)
    all.emplace_back([&, i] { set_revoked(revocations_file(dir.path()), "pi-" + std::to_string(i), true); });
  for (std::thread& one : all) one.join();
  CHECK(Revocations(revocations_file(dir.path())).names().size() == 12);
}

TEST_CASE("each rank gets a certificate of its own name, the head's says so, and all know who was shut out") {
  const TempDir dir;
  set_revoked(revocations_file(dir.path()), "pi-9", true);
  std::vector<Enrolment> enrolments(kNames.size());
  const std::vector<std::string> ends = each([&](Bootstrap& bootstrap, const std::string& name) {
    enrolments[static_cast<size_t>(bootstrap.rank())] =
        enrol(bootstrap, "home", name, dir.path(), std::chrono::hours(5));
  });
  for (size_t i = 0; i < kNames.size(); ++i) {
    CAPTURE(kNames[i]);
    REQUIRE(ends[i] == "");
    const CertificateInfo info = certificate_info(enrolments[i].tls->credentials().certificate, "own");
    CHECK(info.node == kNames[i]);
    CHECK(info.cluster == "home");
    CHECK(info.head == (i == 0));
    CHECK(info.expires_s - info.issued_s == 5 * 3600);
    CHECK(enrolments[i].tls->revoked() == std::set<std::string>{"pi-9"});
    CHECK((enrolments[i].authority != nullptr) == (i == 0));
  }
}

TEST_CASE("a rank that was shut out gets no certificate, and the head says how it would") {
  const TempDir dir;
  set_revoked(revocations_file(dir.path()), "pi-1", true);
  const std::vector<std::string> ends = each(
      [&](Bootstrap& bootstrap, const std::string& name) { enrol(bootstrap, "home", name, dir.path()); });
  CHECK(mentions(ends[0], "node pi-1 was shut out of the cluster"));
  CHECK(mentions(ends[0], "shoal revoke --undo pi-1"));
  CHECK(ends[1] == "silent");
  CHECK(ends[2] == "silent");
}

TEST_CASE("an authority's directory that others can write to is refused by its name") {
  const TempDir dir;
  CHECK_NOTHROW(require_kept_from_others(dir.file("not there yet")));
  CHECK_NOTHROW(require_kept_from_others(dir.path()));
  for (const mode_t mode : {0777, 0770, 0702}) {
    REQUIRE(::chmod(dir.path().c_str(), mode) == 0);
    const std::vector<std::string> ends = each(
        [&](Bootstrap& bootstrap, const std::string& name) { enrol(bootstrap, "home", name, dir.path()); });
    CHECK(mentions(ends[0], dir.path() + " can be written to by others"));
    CHECK(mentions(ends[0], "chmod go-w " + dir.path()));
    CHECK(ends[1] == "silent");
  }
  REQUIRE(::chmod(dir.path().c_str(), 0755) == 0);
  CHECK_NOTHROW(require_kept_from_others(dir.path()));
}

TEST_CASE("so is what stands in it or above it, all at once") {
  const TempDir dir;
  const auto path = [&](const char* below) { return dir.file(std::string("shoal") + below); };
  const std::string directory = path("/clusters/home");
  ::umask(0);  // what is made is nobody else's all the same
  enrol_one(directory);
  std::filesystem::create_directories(path("/clusters/home/issued"));
  set_revoked(revocations_file(directory), "pi-9", true);
  ::umask(022);
  CHECK(refusal(directory) == path("/clusters/home/issued") + kOpen + path("/clusters/home/issued"));
  REQUIRE(::chmod(path("/clusters/home/issued").c_str(), 0755) == 0);
  CHECK(refusal(directory) == "");
  for (const char* below : {"", "/clusters", "/clusters/home", "/clusters/home/issued",
                            "/clusters/home/revoked", "/clusters/home/authority.crt"}) {
    CAPTURE(below);
    struct stat status;
    REQUIRE(::stat(path(below).c_str(), &status) == 0);
    for (const mode_t others : {020, 002}) {
      REQUIRE(::chmod(path(below).c_str(), status.st_mode | others) == 0);
      CHECK(refusal(directory) == path(below) + kOpen + path(below));
    }
    REQUIRE(::chmod(path(below).c_str(), status.st_mode & 07777) == 0);
  }
  REQUIRE(::chmod(path("/clusters").c_str(), 01777) == 0);  // as /tmp: nobody can put another in its place
  CHECK(refusal(directory) == "");
  REQUIRE(::chmod(path("").c_str(), 0775) == 0);
  REQUIRE(::chmod(path("/clusters").c_str(), 0775) == 0);
  CHECK(refusal(directory) ==
        path("") + ", " + path("/clusters") + kOpen + path("") + " " + path("/clusters"));
}

TEST_CASE("the first plan goes to all ranks as the head signed it") {
  const CertificateAuthority authority = CertificateAuthority::create("home"),
                             foreign = CertificateAuthority::create("home");
  ClusterShape shape;
  shape.head = "laptop";
  shape.node_of_stage = {"laptop", "pi-2"};
  PipelineLayout layout = layout_of(shape);
  for (const std::string& name : kNames) layout.endpoints[name] = {"127.0.0.1", 7000};
  for (const bool strange : {false, true}) {
    CAPTURE(strange);
    const std::vector<std::string> ends = each([&](Bootstrap& bootstrap, const std::string& name) {
      const CertificateAuthority& own = strange && name == "pi-1" ? foreign : authority;
      const NodeIdentity self{
          "home", name, "model", "exact",
          tls_of(own, name, name == "laptop" ? CertificateRole::kHead : CertificateRole::kNode)};
      PipelineLayout mine = layout;
      if (name == "pi-1") mine.context = 7;  // the head's word counts
      const PipelineLayout taken = share_plan(bootstrap, self, mine).layout;
      if (taken != layout) throw SetupError("another layout");
    });
    if (!strange) CHECK(ends == std::vector<std::string>{"", "", ""});
    if (strange) CHECK(mentions(ends[0], "the plan of epoch 1 from the head laptop was refused"));
    if (strange) CHECK(ends[2] == "silent");
  }
}

TEST_CASE("whether credentials can be kept is known before they are there, and leaves nothing") {
  TempDir dir;
  const std::string directory = dir.file("nodes/pi-1");
  require_room_for_credentials(directory);
  CHECK(std::filesystem::is_empty(directory));
  // As a disk that is full takes the first bytes and no more.
  rlimit before{}, little{};
  REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
  little = before;
  little.rlim_cur = 2048;
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  REQUIRE(setrlimit(RLIMIT_FSIZE, &little) == 0);
  std::string refusal;
  try {
    require_room_for_credentials(directory);
  } catch (const SetupError& error) {
    refusal = error.what();
  }
  REQUIRE(setrlimit(RLIMIT_FSIZE, &before) == 0);
  std::signal(SIGXFSZ, handler);
  CHECK(refusal == "cannot write " + directory + "/room/authority.crt: No space left on device");
  CHECK(std::filesystem::is_empty(directory));
}

}  // namespace shoal::test
