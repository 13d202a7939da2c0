#include "node/engine.h"

#include <doctest/doctest.h>

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <functional>
#include <future>
#include <string>
#include <thread>

#include "tests/node/local_cluster.h"

namespace shoal::test {
namespace {

// A single-stage engine whose every finished job waits until the gate opens.
struct Gated {
  explicit Gated(size_t queue_max)
      : file(GgufFile::open(small_model_file())),
        layout(layout_of({})),
        pool(1),
        engine(queue_max, [this](auto job) {
          thread = pthread_self();
          thread_id = gettid();
          last = std::move(job);
          if (++done == 1) first_done.set_value();
          opened.wait();
        }) {
    engine.start([this] { return stages_of("a", layout, file, pool); });
  }

  std::unique_ptr<StepJob> job(int position) {
    auto made = std::make_unique<StepJob>();
    made->step_id = static_cast<uint64_t>(position) + 1;
    made->rows = {{5, position, 0, true}};
    made->buffer = std::make_shared<AlignedBuffer>(static_cast<size_t>(layout.n_embd) * sizeof(float));
    return made;
  }

  // Whether the engine waits for something to do, and so holds no lock. Not before its first job is done.
  bool sleeps() const {
    std::ifstream in("/proc/self/task/" + std::to_string(thread_id) + "/stat");
    std::string text;
    std::getline(in, text);
    const size_t end = text.rfind(')');
    return !engine.working() && end != std::string::npos && text.compare(end, 3, ") S") == 0;
  }

  GgufFile file;
  PipelineLayout layout;
  ThreadPool pool;
  std::promise<void> gate, first_done;
  std::shared_future<void> opened = gate.get_future().share();
  std::atomic<int> done{0};
  pthread_t thread{};  // the engine's, once a job is done
  pid_t thread_id = 0;
  std::unique_ptr<StepJob> last;
  Engine engine;
};

std::atomic<bool> holds{false}, held{false};

// Keeps the thread that gets the signal where it is.
void hold(int) {
  held = true;
  while (holds) std::this_thread::yield();
  held = false;
}

}  // namespace

TEST_CASE("the engine's queue is bounded; a job refused stays with the caller") {
  Gated gated(2);
  std::unique_ptr<StepJob> job = gated.job(0);
  REQUIRE(gated.engine.submit(job));
  gated.first_done.get_future().get();  // it is out of the queue
  for (int i = 1; i <= 2; ++i) {
    job = gated.job(i);
    CHECK(gated.engine.submit(job));
    CHECK(job == nullptr);
  }
  job = gated.job(3);
  CHECK_FALSE(gated.engine.submit(job));
  REQUIRE(job != nullptr);
  gated.gate.set_value();
  while (gated.done < 3) std::this_thread::yield();
  CHECK(gated.engine.submit(job));
  while (gated.done < 4) std::this_thread::yield();
  const StageStats stats = gated.engine.stats(0);
  CHECK(stats.steps == 4);
  CHECK(stats.rows == 4);
  CHECK(stats.busy_ns > 0);
  CHECK(gated.engine.stats(1).steps == 0);
  CHECK(gated.engine.memory().weights > 0);
  CHECK(gated.engine.memory().kv > 0);
}

TEST_CASE("an engine that stops finishes the step it computes and drops those that wait") {
  std::weak_ptr<AlignedBuffer> waiting;
  std::thread opener;
  {
    auto gated = std::make_unique<Gated>(4);
    std::unique_ptr<StepJob> job = gated->job(0);
    REQUIRE(gated->engine.submit(job));
    gated->first_done.get_future().get();
    job = gated->job(1);
    waiting = job->buffer;
    REQUIRE(gated->engine.submit(job));
    CHECK_FALSE(waiting.expired());
    // The engine is destroyed first, and waits for the gate.
    opener = std::thread([gate = std::move(gated->gate)]() mutable {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      gate.set_value();
    });
  }
  CHECK(waiting.expired());
  opener.join();
}

TEST_CASE("what waits for an engine that hangs between two steps is work, and none of it gets done") {
  Gated gated(4);
  gated.gate.set_value();
  std::unique_ptr<StepJob> job = gated.job(0);
  REQUIRE(gated.engine.submit(job));
  while (gated.done < 1) std::this_thread::yield();
  struct sigaction action {
  }, before{};
  action.sa_handler = hold;
  sigaction(SIGUSR1, &action, &before);
  const auto while_it_hangs = [&](const std::function<void()>& order) {
    while (!gated.sleeps()) std::this_thread::yield();
    holds = true;
    pthread_kill(gated.thread, SIGUSR1);
    while (!held) std::this_thread::yield();
    CHECK_FALSE(gated.engine.working());
    const uint64_t progress = gated.engine.progress();
    order();
    CHECK(gated.engine.working());
    CHECK(gated.engine.progress() == progress);
    holds = false;
    while (gated.engine.working()) std::this_thread::yield();
    CHECK(gated.engine.progress() == progress + 1);
  };
  while_it_hangs([&] {
    job = gated.job(1);
    CHECK(gated.engine.submit(job));
  });
  while_it_hangs([&] { gated.engine.run([] { return std::string(); }, [](const std::string&) {}); });
  while_it_hangs(
      [&] { gated.engine.rebuild([](Engine::Stages stages) { return stages; }, [](const std::string&) {}); });
  sigaction(SIGUSR1, &before, nullptr);
}

TEST_CASE("what make_stages throws comes out of start()") {
  Engine engine(1, [](std::unique_ptr<StepJob>) {});
  const Engine::MakeStages fail = []() -> std::vector<std::pair<int, std::unique_ptr<Stage>>> {
    throw SetupError("layer 3 is not in the file", kExitUsage);
  };
  CHECK_THROWS_WITH_AS(engine.start(fail), "layer 3 is not in the file", SetupError);
}

TEST_CASE("a step that the stage refuses comes back as failed, one for another stage too") {
  Gated gated(8);
  gated.gate.set_value();
  auto outcome_of = [&](std::unique_ptr<StepJob> job) {
    const int before = gated.done;
    REQUIRE(gated.engine.submit(job));
    while (gated.done == before) std::this_thread::yield();
    return gated.done == before + 1 ? gated.last.get() : nullptr;
  };
  std::unique_ptr<StepJob> gap = gated.job(7);  // the slot is empty
  const StepJob* outcome = outcome_of(std::move(gap));
  REQUIRE(outcome != nullptr);
  CHECK(outcome->failed);
  CHECK(outcome->error.code == Errc::kInvalidInput);
  std::unique_ptr<StepJob> elsewhere = gated.job(0);
  elsewhere->stage = 3;
  outcome = outcome_of(std::move(elsewhere));
  CHECK(outcome->failed);
  CHECK(outcome->error.message.find("stage 3") != std::string::npos);
  // Cache operations alone need no buffer.
  auto ops_only = std::make_unique<StepJob>();
  ops_only->ops = {{CacheOpKind::kFree, 1, 0, 0}};
  outcome = outcome_of(std::move(ops_only));
  CHECK_FALSE(outcome->failed);
  outcome = outcome_of(gated.job(0));
  CHECK_FALSE(outcome->failed);
  REQUIRE(outcome->outputs.size() == 1);
  CHECK(outcome->outputs[0].candidates.size() == 1);
}

}  // namespace shoal::test
