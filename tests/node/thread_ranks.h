// Several ranks of a launcher inside one process.
#pragma once

#include <barrier>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "node/bootstrap.h"

namespace shoal::test {

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

}  // namespace shoal::test
