#include "node/bootstrap.h"

#include <doctest/doctest.h>

#include <barrier>
#include <functional>
#include <thread>

#include "base/error.h"

namespace shoal::test {
namespace {

// Ranks are threads that share a row of blobs.
class ThreadRanks {
 public:
  explicit ThreadRanks(int size) : blobs_(static_cast<size_t>(size)), together_(size) {}

  void run(const std::function<void(Bootstrap&)>& body) {
    std::vector<std::thread> threads;
    for (int i = 0; i < static_cast<int>(blobs_.size()); ++i) {
      threads.emplace_back([this, i, &body] {
        Rank rank(*this, i);
        body(rank);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

 private:
  class Rank : public Bootstrap {
   public:
    Rank(ThreadRanks& all, int rank) : all_(all), rank_(rank) {}
    int rank() const override { return rank_; }
    int size() const override { return static_cast<int>(all_.blobs_.size()); }
    std::vector<std::string> all_gather(const std::string& mine) override {
      all_.blobs_[static_cast<size_t>(rank_)] = mine;
      barrier();
      std::vector<std::string> copy = all_.blobs_;
      barrier();
      return copy;
    }
    std::string broadcast(const std::string& of_rank_0) override { return all_gather(of_rank_0)[0]; }
    void barrier() override { all_.together_.arrive_and_wait(); }

   private:
    ThreadRanks& all_;
    int rank_;
  };

  std::vector<std::string> blobs_;
  std::barrier<> together_;
};

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
