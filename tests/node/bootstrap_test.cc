#include "node/bootstrap.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "tests/node/thread_ranks.h"

namespace shoal::test {
namespace {

// What agree() came to on one rank.
struct Ending {
  std::vector<std::string> payloads;
  std::string message;
  int exit_code = -1;
  bool silent = false;
};

std::vector<Ending> agree_all(const std::vector<RankReport>& reports) {
  std::vector<Ending> endings(reports.size());
  ThreadRanks ranks(static_cast<int>(reports.size()));
  ranks.run([&](Bootstrap& bootstrap) {
    Ending& ending = endings[static_cast<size_t>(bootstrap.rank())];
    try {
      ending.payloads = agree(bootstrap, reports[static_cast<size_t>(bootstrap.rank())]);
    } catch (const SetupError& error) {
      ending.message = error.what();
      ending.exit_code = error.exit_code();
    } catch (const SilentExit& exit) {
      ending.silent = true;
      ending.exit_code = exit.exit_code;
    }
  });
  return endings;
}

}  // namespace

TEST_CASE("where all ranks are fine each gets every payload, by rank, whatever its bytes") {
  const std::string binary("-\0+", 3);
  for (const Ending& ending : agree_all({{"one", "", 0}, {"", "", 0}, {binary, "", 0}})) {
    CHECK(ending.payloads == std::vector<std::string>{"one", "", binary});
    CHECK(ending.exit_code == -1);
  }
}

TEST_CASE("one rank's failure is everybody's; rank 0 says it, the others end with the same code") {
  for (size_t failing = 0; failing < 3; ++failing) {
    std::vector<RankReport> reports(3, RankReport{"fine", "", 0});
    reports[failing] = {"", "no memory on pi-" + std::to_string(failing), kExitUsage};
    const std::vector<Ending> endings = agree_all(reports);
    for (size_t rank = 0; rank < 3; ++rank) {
      CHECK(endings[rank].payloads.empty());
      CHECK(endings[rank].exit_code == kExitUsage);
      CHECK(endings[rank].silent == (rank != 0));
    }
    CHECK(endings[0].message == reports[failing].error);
  }
}

TEST_CASE("several failures are told together, the same sentence once") {
  const std::vector<Ending> endings = agree_all(
      {{"", "no such file", kExitFailed}, {"", "too little memory", kExitFailed}, {"", "no such file", 1}});
  CHECK(endings[0].message == "no such file\ntoo little memory");
  CHECK(endings[2].silent);
}

TEST_CASE("without a launcher there is one process") {
  REQUIRE_FALSE(started_by_mpirun());
  const std::unique_ptr<Bootstrap> alone = make_bootstrap();
  CHECK(alone->rank() == 0);
  CHECK(alone->size() == 1);
  CHECK(alone->broadcast("x") == "x");
  CHECK(agree(*alone, {"mine", "", 0}) == std::vector<std::string>{"mine"});
  CHECK_THROWS_WITH_AS(agree(*alone, {"", "broken", 1}), "broken", SetupError);
}

}  // namespace shoal::test
