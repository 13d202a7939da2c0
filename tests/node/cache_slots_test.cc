#include "node/cache_slots.h"

#include <doctest/doctest.h>

#include <numeric>
#include <random>

#include "tests/node/simulated_pipeline.h"

namespace shoal {
namespace {

constexpr int kPage = kKvPageTokens;

std::vector<int32_t> tokens_of(int length, int32_t first = 0) {
  std::vector<int32_t> tokens(static_cast<size_t>(length));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

// Computes a sequence's rows; how many the cache had room for.
int compute(CacheSlots& cache, int slot, const std::vector<int32_t>& tokens, int from) {
  const int rows = cache.reserve(slot, from, static_cast<int>(tokens.size()) - from);
  for (int i = from; i < from + rows; ++i) cache.hold(slot, i, tokens[static_cast<size_t>(i)]);
  return rows;
}

int start(CacheSlots& cache, const std::vector<int32_t>& tokens, const std::string& user = "") {
  const CacheSlots::Prefix prefix = cache.best_prefix(tokens, user);
  REQUIRE(prefix.slot >= 0);
  cache.take(prefix, user, static_cast<int>(tokens.size()));
  return prefix.slot;
}

}  // namespace

TEST_CASE("rows are granted as far as pages go, and whoever ended gives its pages first") {
  CacheSlots cache(3, 8 * kPage, 8 * kPage);
  REQUIRE(cache.pages() == 8);
  const auto long_one = tokens_of(5 * kPage);
  const int first = start(cache, long_one);
  CHECK(compute(cache, first, long_one, 0) == 5 * kPage);
  cache.give_back(first);
  CHECK(cache.free_pages() == 3);  // kept for who asks again
  const auto other = tokens_of(6 * kPage, 100'000);
  const int second = start(cache, other);
  CHECK(second != first);
  CHECK(compute(cache, second, other, 0) == 6 * kPage);
  const auto ops = cache.take_ops();
  REQUIRE(ops.size() == 1);  // the oldest gave pages from its end; its beginning is there still
  CHECK(ops[0].slot == first);
  CHECK(ops[0].length == 2 * kPage);
  CHECK(cache.best_prefix(long_one, "").length == 2 * kPage);
  const auto third = tokens_of(3 * kPage, 200'000);
  const int last = start(cache, third);
  CHECK(compute(cache, last, third, 0) == 2 * kPage);  // no more, whatever is dropped
  CHECK(cache.reserve(last, 2 * kPage, 1) == 0);
}

TEST_CASE(
    "admission counts what runs, what it has still to compute, and a little more; one alone always fits") {
  CacheSlots cache(4, 40 * kPage, 40 * kPage);
  const auto first = tokens_of(30 * kPage);
  CHECK(cache.has_room(cache.best_prefix(first, ""), 40 * kPage - 1));
  const int slot = start(cache, first);  // nothing computed yet: 31 pages are spoken for, 2 kept free
  auto fits = [&](int length) {
    const auto tokens = tokens_of(length, 100'000);
    return cache.has_room(cache.best_prefix(tokens, ""), length);
  };
  CHECK(fits(7 * kPage - 1));
  CHECK_FALSE(fits(7 * kPage));
  CHECK(compute(cache, slot, first, 0) == 30 * kPage);
  CHECK(fits(7 * kPage - 1));
  CHECK_FALSE(fits(7 * kPage));
  // A prompt that begins alike shares those pages: they count once.
  const auto alike = tokens_of(30 * kPage + 1);
  CHECK(cache.best_prefix(alike, "").length == 30 * kPage);
  CHECK(cache.has_room(cache.best_prefix(alike, ""), static_cast<int>(alike.size())));
  CHECK_FALSE(cache.has_room(cache.best_prefix(alike, "another"), static_cast<int>(alike.size())));
  const int free_before = cache.free_pages();
  const int forked = start(cache, alike);
  CHECK(compute(cache, forked, alike, 30 * kPage) == 1);
  CHECK(cache.free_pages() == free_before - 1);
}

TEST_CASE(
    "pages of a beginning that nobody runs with are no room: the prompt that takes them needs them all") {
  CacheSlots cache(4, 40 * kPage, 40 * kPage);
  const auto earlier = tokens_of(20 * kPage);
  const int ended = start(cache, earlier);
  CHECK(compute(cache, ended, earlier, 0) == 20 * kPage);
  cache.give_back(ended);
  const auto running = tokens_of(20 * kPage, 100'000);
  CHECK(compute(cache, start(cache, running), running, 0) == 20 * kPage);
  const auto alike = tokens_of(20 * kPage + 1);
  CHECK(cache.best_prefix(alike, "").length == 20 * kPage);
  CHECK_FALSE(cache.has_room(cache.best_prefix(alike, ""), static_cast<int>(alike.size())));
}

TEST_CASE("who is taken off: the last in rank, never the first, and nobody whose rows are under way") {
  const auto resident = [](uint64_t id, int priority, bool in_flight = false, const char* user = "") {
    Resident r;
    r.id = id, r.priority = priority, r.in_flight = in_flight, r.user = user;
    return r;
  };
  const auto running = by_rank({resident(1, 0), resident(2, 1), resident(3, 0), resident(4, 0, true)});
  CHECK(victim(running, 1) == 3);  // 4 came later but is in flight
  CHECK(victim(running, 2) == 3);
  CHECK_FALSE(victim(running, 3));  // 4 ranks below and must come back first
  CHECK(victim(by_rank({resident(1, 0), resident(2, 1, true)}), 1) == 1);  // the last itself
  CHECK(victim(by_rank({resident(1, 0), resident(2, 1)}), 2) == 1);

  // One user's urgent requests take nothing from another's only one, but from their own user's others.
  auto shared = by_rank({resident(1, 0, false, "modest"), resident(2, 3, false, "urgent"),
                         resident(3, 3, false, "urgent"), resident(4, 1, false, "urgent")});
  std::vector<uint64_t> order;
  for (const Resident& r : shared) order.push_back(r.id);
  CHECK(order == std::vector<uint64_t>{1, 2, 3, 4});
  CHECK(victim(shared, 3) == 4);
  CHECK(victim(shared, 1) == 4);
  shared[3].holds = false;  // taken off already: it has nothing to give
  CHECK(victim(shared, 1) == 3);
  CHECK(victim(shared, 3) == 3);
  // Nor is it last again and again, as one urgent answer follows the other.
  CHECK(by_rank({resident(1, 0, false, "modest"), resident(9, 3, false, "urgent")}).front().id == 1);
  CHECK(by_rank({resident(1, 0, false, "zoe"), resident(9, 3, false, "anna")}).front().id == 1);
}

TEST_CASE(
    "who makes way for a first answer: of later turns, as few as it takes, after waiting for their "
    "recomputation") {
  std::vector<Resident> running(5);
  for (size_t i = 0; i < 5; ++i) running[i].id = i + 1, running[i].user = i < 4 ? "many" : "few";
  running[2].in_flight = true;
  const std::vector<Resident> ranked = by_rank(running);
  const auto ask = [&](const char* user, double waited_s, size_t places) {
    return who_makes_way(
        ranked, user, waited_s, [](uint64_t id) { return static_cast<double>(id); },
        [&](std::span<const uint64_t> ids) { return ids.size() >= places; });
  };
  using Ids = std::vector<uint64_t>;
  CHECK(ask("new", 4, 1) == Ids{4});  // the last turn's; 4 s to compute again
  CHECK(ask("new", 3.9, 1) == Ids{});
  CHECK(ask("new", 6, 2) == Ids{4, 2});  // not 3, whose rows are under way
  CHECK(ask("new", 5.9, 2) == Ids{});
  CHECK(ask("new", 100, 3) == Ids{});  // each keeps its first answer
  CHECK(ask("few", 100, 1) == Ids{4});
  CHECK(ask("few", 100, 2) == Ids{});  // turns of its own second one give nothing
  CHECK(ask("many", 100, 1) == Ids{});
}

TEST_CASE("a cache much too small for all: everybody ends, nothing is sent without a page") {
  size_t taken_off = 0, reused = 0;
  for (unsigned seed = 0; seed < 40; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    auto up_to = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
    SimulatedHardware hardware;
    hardware.shares.clear();
    for (int stage = 0, stages = 1 + up_to(5); stage < stages; ++stage)
      hardware.shares.push_back(0.1 + 0.1 * up_to(5));
    const SchedulerLimits limits{.steps_in_flight_max = 1 + up_to(10), .rows_max = 16 << up_to(5)};
    const SimulatedCache cache{2 + up_to(12), 640, 640 + 32 * up_to(20)};
    std::vector<SimulatedRequest> requests(150);
    double now = 0;
    for (SimulatedRequest& request : requests) {
      now += 0.01 * up_to(60);
      request = {now, 1 + up_to(up_to(4) == 0 ? 500 : 90), 1 + up_to(120)};
      if (up_to(3) == 0) request.common = up_to(200);
      if (up_to(8) == 0) request.cancel_s = now + 0.05 * up_to(100);
      request.priority = up_to(6) == 0;
    }
    const SimulatedRun run =
        simulate(hardware, limits, hardware.model(0.5 + 0.1 * up_to(15)), requests, cache);
    taken_off += run.taken_off;
    reused += run.reused;
    for (size_t i = 0; i < requests.size(); ++i) {
      if (run.answers[i].cancelled) continue;
      CHECK(run.answers[i].token_s.size() == static_cast<size_t>(requests[i].output));
    }
  }
  CHECK(taken_off > 300);  // or the test would not have tried it
  CHECK(reused > 10'000);
}

}  // namespace shoal
