#include "node/admission.h"

#include <doctest/doctest.h>

#include <algorithm>

namespace shoal {
namespace {

constexpr double kRowS = 1e-3;

WaitingRequest request(uint64_t id, int rows, const std::string& user = "", int priority = 0,
                       double since_s = 0) {
  WaitingRequest r;
  r.id = id, r.prompt_rows = rows, r.user = user, r.priority = priority, r.since_s = since_s;
  return r;
}

std::vector<uint64_t> drain(AdmissionQueue& queue, double now_s = 0) {
  std::vector<uint64_t> order;
  while (const auto id = queue.next(now_s, kRowS)) {
    queue.take(*id);
    order.push_back(*id);
  }
  return order;
}

}  // namespace

TEST_CASE("the shortest prompt first, unless a longer one has waited") {
  AdmissionQueue queue({});
  REQUIRE(queue.offer(request(1, 1000), kRowS).has_value());
  REQUIRE(queue.offer(request(2, 10), kRowS).has_value());
  REQUIRE(queue.offer(request(3, 500), kRowS).has_value());
  CHECK(drain(queue) == std::vector<uint64_t>{2, 3, 1});

  REQUIRE(queue.offer(request(4, 1000, "", 0, 0), kRowS).has_value());
  REQUIRE(queue.offer(request(5, 10, "", 0, 100), kRowS).has_value());
  CHECK(queue.next(100, kRowS) == 4);
}

TEST_CASE("one user's urgent requests do not keep another's out") {
  AdmissionQueue queue({});
  for (uint64_t id = 1; id <= 4; ++id) REQUIRE(queue.offer(request(id, 10, "urgent", 3), kRowS).has_value());
  REQUIRE(queue.offer(request(5, 900, "modest"), kRowS).has_value());
  CHECK(drain(queue) == std::vector<uint64_t>{1, 5, 2, 3, 4});
}

TEST_CASE("users take turns, and priority orders a user's own requests") {
  AdmissionQueue queue({});
  for (uint64_t id = 1; id <= 4; ++id) REQUIRE(queue.offer(request(id, 10, "greedy"), kRowS).has_value());
  REQUIRE(queue.offer(request(5, 900, "modest"), kRowS).has_value());
  REQUIRE(queue.offer(request(6, 900, "urgent", 1), kRowS).has_value());
  CHECK(drain(queue) == std::vector<uint64_t>{1, 5, 6, 2, 3, 4});
  for (int i = 0; i < 4; ++i) queue.ended("greedy", 0, 0);
  REQUIRE(queue.offer(request(7, 20, "modest"), kRowS).has_value());
  REQUIRE(queue.offer(request(8, 30, "greedy"), kRowS).has_value());
  CHECK(queue.next(0, kRowS) == 8);  // modest has one running still
  REQUIRE(queue.offer(request(9, 900, "greedy", 1), kRowS).has_value());
  CHECK(queue.next(0, kRowS) == 9);
}

TEST_CASE("whoever asks urgently and always again lets others have their turn") {
  AdmissionQueue queue({});
  REQUIRE(queue.offer(request(1, 900, "modest"), kRowS).has_value());
  uint64_t id = 2;
  double now = 0;
  for (;; now += 0.5, ++id) {  // one at a time, so that both have none running whenever the next is chosen
    REQUIRE(id < 10);
    REQUIRE(queue.offer(request(id, 10, "urgent", 3, now), kRowS).has_value());
    const std::optional<uint64_t> next = queue.next(now, kRowS);
    if (next == 1) break;
    queue.take(*next);
    queue.ended("urgent", now, 0);
  }
  CHECK(id == 3);  // the first turn is the short one's, the second the other user's
}

TEST_CASE("a backlog of short prompts keeps another user's long one waiting for one turn") {
  AdmissionQueue queue({});
  uint64_t id = 100;
  for (int i = 0; i < 160; ++i) REQUIRE(queue.offer(request(++id, 10, "flood"), kRowS).has_value());
  for (int round = 0; round < 3; ++round) {
    // Each ends before the next is chosen, as where the long one needs nearly the whole cache.
    const uint64_t last_of_flood = *queue.next(0, kRowS);
    queue.take(last_of_flood);
    REQUIRE(queue.offer(request(static_cast<uint64_t>(round), 30000, "modest"), kRowS).has_value());
    queue.ended("flood", 0, 0);
    CHECK(queue.next(0, kRowS) == static_cast<uint64_t>(round));
    queue.take(static_cast<uint64_t>(round));
    queue.ended("modest", 0, 0);
  }
  CHECK(queue.size() == 157);
}

TEST_CASE("of three users who wait, each has every third turn") {
  AdmissionQueue queue({});
  uint64_t id = 0;
  for (const char* user : {"a", "b", "c"})
    for (int i = 0; i < 3; ++i)
      REQUIRE(queue.offer(request(++id, user[0] == 'b' ? 500 : 10, user), kRowS).has_value());
  std::vector<uint64_t> order;
  while (const auto next = queue.next(0, kRowS)) {
    queue.take(*next);
    queue.ended(std::string(1, "abc"[(*next - 1) / 3]), 0, 0);
    order.push_back(*next);
  }
  CHECK(order == std::vector<uint64_t>{1, 7, 4, 2, 8, 5, 3, 9, 6});
}

TEST_CASE("a refusal says when there is room, and who has no time for the queue is refused at once") {
  AdmissionQueue queue({.waiting_max = 3, .wait_max_s = 2});
  CHECK(queue.retry_after_s("", 100000, kRowS) == 0);
  REQUIRE(queue.offer(request(1, 1000), kRowS).has_value());  // 1.3 s
  CHECK(queue.retry_after_s("", 100, kRowS) == 0);
  REQUIRE(queue.offer(request(2, 500), kRowS).has_value());
  CHECK(queue.offer(request(3, 500), kRowS).error().code == Errc::kQueueFull);
  CHECK(queue.retry_after_s("", 500, kRowS) == doctest::Approx(1.3 * 2 - 2));
  WaitingRequest hasty = request(4, 10, "", 0, 100);
  hasty.deadline_s = 101.5;
  CHECK(queue.offer(hasty, kRowS).error().code == Errc::kQueueFull);
  hasty.deadline_s = 102.5;
  REQUIRE(queue.offer(hasty, kRowS).has_value());
  CHECK(queue.offer(request(5, 1), kRowS).error().code == Errc::kQueueFull);  // by count
  CHECK(queue.retry_after_s("", 1, kRowS) == doctest::Approx(1.3 * 1.51 / 3));
}

TEST_CASE("what a request takes itself counts against the time it is given") {
  AdmissionQueue queue({});
  REQUIRE(queue.offer(request(1, 1000), kRowS).has_value());  // 1.3 s
  WaitingRequest hasty = request(2, 1000);
  hasty.deadline_s = 2;  // enough for what waits, not for its own prompt after it
  CHECK(queue.offer(hasty, kRowS).error().code == Errc::kQueueFull);
  hasty.prompt_rows = 100;
  CHECK(queue.offer(hasty, kRowS).has_value());
}

TEST_CASE("long answers before it count too, as often as turns have ended while others waited") {
  AdmissionQueue queue({.wait_max_s = 60});
  uint64_t id = 0;
  const auto wait = [&](int times, double now_s) {
    for (int i = 0; i < times; ++i) REQUIRE(queue.offer(request(++id, 10, "", 0, now_s), kRowS).has_value());
  };
  const auto turn = [&](double now_s) {  // one ends, and the next has its place
    queue.ended("", now_s, 0);
    queue.take(*queue.next(now_s, kRowS));
  };
  wait(2, 0);
  drain(queue);
  queue.ended("", 100, 0);  // nobody waited: that says nothing of how long turns take
  wait(1, 100);
  queue.take(*queue.next(100, kRowS));
  CHECK(queue.predicted_wait_s("", kRowS) == 0);
  wait(4, 200);
  CHECK(queue.predicted_wait_s("", kRowS) < 1);  // nothing is known but the prompts
  for (double now_s = 210; now_s <= 230; now_s += 10) turn(now_s);
  CHECK(queue.predicted_wait_s("", kRowS) == doctest::Approx(10));
  wait(5, 230);
  CHECK(queue.predicted_wait_s("", kRowS) == doctest::Approx(60));
  CHECK(queue.offer(request(++id, 10), kRowS).error().code == Errc::kQueueFull);
  CHECK(queue.retry_after_s("", 10, kRowS) == doctest::Approx(0.013));
  // A slow spell passes: quick turns are believed as they come, and an empty queue refuses nobody.
  for (int i = 1; i <= 4; ++i) turn(230 + 0.1 * i);
  CHECK(queue.predicted_wait_s("", kRowS) < 10);
  CHECK(queue.offer(request(++id, 10, "", 0, 231), kRowS).has_value());
  drain(queue, 231);
  CHECK(queue.predicted_wait_s("", kRowS) == 0);
}

TEST_CASE("who asks for fewer tokens than answers had lately takes less of a turn") {
  AdmissionQueue queue({.wait_max_s = 60});
  const auto asks = [](uint64_t id, int tokens) {
    WaitingRequest r = request(id, 1);
    r.answer_tokens = tokens;
    return r;
  };
  for (uint64_t id = 1; id <= 3; ++id) REQUIRE(queue.offer(asks(id, 400), kRowS).has_value());
  queue.take(*queue.next(0, kRowS));
  queue.ended("", 10, 200);
  queue.take(*queue.next(10, kRowS));
  queue.ended("", 20, 200);
  CHECK(queue.predicted_wait_s("", kRowS) ==
        doctest::Approx(10));  // one waits, for as much as the others had
  for (uint64_t id = 10; id < 60; ++id) CHECK(queue.offer(asks(id, 8), kRowS).has_value());
  CHECK(queue.predicted_wait_s("", kRowS) == doctest::Approx(10 + 50 * 10 * 8 / 200.0));
  CHECK(queue.offer(asks(99, 0), kRowS).has_value());  // nobody knows how many: a turn
  CHECK(queue.predicted_wait_s("", kRowS) == doctest::Approx(20 + 50 * 10 * 8 / 200.0));
}

TEST_CASE("time in which nothing is computed is nobody's turn") {
  AdmissionQueue queue({.wait_max_s = 60});
  for (uint64_t id = 1; id <= 4; ++id) REQUIRE(queue.offer(request(id, 10), kRowS).has_value());
  queue.take(*queue.next(0, kRowS));
  queue.stood_still(1, 31);
  queue.ended("", 32, 0);  // after 2 s of work
  CHECK(queue.predicted_wait_s("", kRowS) == doctest::Approx(3 * 2));
  queue.take(*queue.next(32, kRowS));
  queue.stood_still(20, 34);  // it was told late: of the time before the last end nothing is taken off again
  queue.ended("", 38, 0);
  CHECK(queue.predicted_wait_s("", kRowS) == doctest::Approx(2 * 3));
}

TEST_CASE("refused when the queue is full by count or by time; one long prompt alone is not") {
  AdmissionQueue queue({.waiting_max = 3, .wait_max_s = 2});
  REQUIRE(queue.offer(request(1, 100000), kRowS).has_value());  // 100 s of its own
  CHECK(queue.offer(request(2, 10), kRowS).error().code == Errc::kQueueFull);
  REQUIRE(queue.remove(1));
  CHECK_FALSE(queue.remove(1));
  for (uint64_t id = 1; id <= 3; ++id) REQUIRE(queue.offer(request(id, 10), kRowS).has_value());
  CHECK(queue.offer(request(4, 10), kRowS).error().code == Errc::kQueueFull);
  drain(queue);
  CHECK(queue.size() == 0);
  CHECK(queue.predicted_wait_s("", kRowS) == 0);
}

TEST_CASE("a request whose deadline has passed leaves the queue") {
  AdmissionQueue queue({});
  WaitingRequest hasty = request(1, 10);
  hasty.deadline_s = 5;
  REQUIRE(queue.offer(hasty, kRowS).has_value());
  REQUIRE(queue.offer(request(2, 10), kRowS).has_value());
  CHECK(queue.expire(4.9).empty());
  CHECK(queue.expire(5) == std::vector<uint64_t>{1});
  CHECK(queue.next(5, kRowS) == 2);
}

TEST_CASE("one user does not fill the queue; where nobody is named all may") {
  AdmissionQueue queue({.waiting_max = 8, .waiting_of_user_max = 3});
  uint64_t id = 0;
  auto offer = [&](const char* user) { return queue.offer({++id, user, 0, 1, 0}, 1e-6).has_value(); };
  for (int i = 0; i < 3; ++i) CHECK(offer("anna"));
  CHECK_FALSE(offer("anna"));
  CHECK(offer("bert"));
  for (int i = 0; i < 4; ++i) CHECK(offer(""));
  CHECK_FALSE(offer(""));
  CHECK(queue.retry_after_s("", 1, kRowS) > 0);
  CHECK(queue.retry_after_s("carl", 1, kRowS) == 0);
  CHECK(offer("carl"));  // a user who is named finds a few places beyond
}

TEST_CASE("another user's backlog refuses nobody") {
  AdmissionQueue queue({.waiting_of_user_max = 1000});
  uint64_t id = 0;
  while (queue.offer(request(++id, 800, "flood"), kRowS).has_value()) {
  }
  CHECK(queue.retry_after_s("flood", 800, kRowS) > 0);
  CHECK(queue.predicted_wait_s("flood", kRowS) > 55);
  // One of the others' goes before it, where neither has any running; with those of a flood running, none.
  CHECK(queue.predicted_wait_s("modest", kRowS) == doctest::Approx(1.3 * 0.8));
  WaitingRequest hasty = request(1000, 800, "modest");
  hasty.deadline_s = 3;
  CHECK(queue.offer(hasty, kRowS).has_value());
  CHECK(queue.retry_after_s("modest", 800, kRowS) == 0);
  queue.take(*queue.next(0, kRowS));
  CHECK(queue.predicted_wait_s("other", kRowS) == doctest::Approx(1.3 * 0.8));  // of the modest one
  REQUIRE(queue.remove(1000));
  CHECK(queue.predicted_wait_s("modest", kRowS) == 0);  // the flood has one running
  // A user's own backlog counts whole, and the turns of others between them.
  for (int i = 0; i < 3; ++i) REQUIRE(queue.offer(request(2000 + i, 100, "modest"), kRowS).has_value());
  CHECK(queue.predicted_wait_s("modest", kRowS) == doctest::Approx(1.3 * (0.3 + 3 * 0.8)));
}

TEST_CASE("answers that come together are not refused for one another's time") {
  AdmissionQueue queue({.wait_max_s = 2});
  WaitingRequest one = request(1, 1000);
  one.together = 4, one.deadline_s = 3;
  REQUIRE(queue.offer(one, kRowS).has_value());
  for (uint64_t id = 2; id <= 4; ++id) {
    WaitingRequest next = one;
    next.id = id, next.together = static_cast<int>(5 - id), next.follows = true;
    CHECK(queue.offer(next, kRowS).has_value());
  }
  CHECK_FALSE(queue.offer(request(5, 1000), kRowS).has_value());
}

TEST_CASE(
    "answers that come together find places together or none; who fills the queue is told when to come") {
  AdmissionQueue queue({.waiting_max = 100, .waiting_of_user_max = 4});
  const auto offer = [&](uint64_t id, int together) {
    WaitingRequest r = request(id, 100, "anna");
    r.together = together;
    return queue.offer(r, kRowS).has_value();
  };
  CHECK_FALSE(offer(1, 5));
  CHECK(queue.size() == 0);
  CHECK(offer(2, 3));
  CHECK(offer(3, 2));
  CHECK_FALSE(offer(5, 3));
  CHECK(offer(4, 2));
  CHECK(offer(6, 1));
  CHECK_FALSE(offer(7, 1));
  CHECK(queue.retry_after_s("anna", 1, kRowS) == doctest::Approx(1.3 * 0.4 / 4));  // one of her four
  CHECK(queue.retry_after_s("bert", 1, kRowS) == 0);
}

}  // namespace shoal
