#include "node/trace.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <string_view>
#include <utility>

#include "base/small_file.h"

namespace shoal {
namespace {

constexpr int kProcess = 1;  // all tracks belong to one
constexpr std::string_view kEnd = "\n]\n";

std::string in_quotes(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return result + '"';
}

}  // namespace

Trace::Trace(const std::string& path, const PipelineLayout& layout)
    : path_(path),
      layout_(layout),
      out_(open_output(path, "--trace")),
      stage_free_s_(layout.node_of_stage.size()) {
  begin_s_ = std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  seeks_ = out_.tellp() >= 0;
  out_ << "[";
  put_tracks();
}

Trace::~Trace() {
  write();
  if (dropped_ > 0) {
    put(fmt::format(R"({{"name":"{} records were dropped","ph":"i","s":"g","ts":0,"pid":{},"tid":0}})",
                    dropped_, kProcess));
    spdlog::warn("{}: {} records came faster than they could be written and are missing", path_, dropped_);
  }
  out_ << kEnd;
  out_.close();
  if (!out_) spdlog::warn("{}: the trace could not be written whole (disk full?)", path_);
}

void Trace::add(TracedStep step) {
  const std::lock_guard lock(mutex_);
  if (steps_.size() + requests_.size() >= kRecordsMax) {
    ++dropped_;
  } else {
    steps_.push_back(std::move(step));
  }
}

void Trace::add(const TracedRequest& request) {
  const std::lock_guard lock(mutex_);
  if (steps_.size() + requests_.size() >= kRecordsMax) {
    ++dropped_;
  } else {
    requests_.push_back(request);
  }
}

void Trace::add(TracedEvent event) {
  const std::lock_guard lock(mutex_);
  if (events_.size() < kRecordsMax) events_.push_back(std::move(event));
}

void Trace::lay_out(const PipelineLayout& layout) {
  const std::lock_guard lock(mutex_);
  layouts_.emplace_back(steps_.size(), layout);
}

void Trace::write() {
  std::vector<TracedStep> steps;
  std::vector<TracedRequest> requests;
  std::vector<TracedEvent> events;
  std::vector<std::pair<size_t, PipelineLayout>> layouts;
  {
    const std::lock_guard lock(mutex_);
    steps.swap(steps_);
    requests.swap(requests_);
    events.swap(events_);
    layouts.swap(layouts_);
  }
  auto next = layouts.begin();
  for (size_t i = 0; i <= steps.size(); ++i) {
    for (; next != layouts.end() && next->first == i; ++next) {
      layout_ = std::move(next->second);
      stage_free_s_.assign(layout_.node_of_stage.size(), 0);
      put_tracks();
    }
    if (i < steps.size()) put_step(steps[i]);
  }
  for (const TracedEvent& event : events) {
    put(fmt::format(R"({{"name":{},"ph":"i","s":"g","ts":{},"pid":{},"tid":0}})", in_quotes(event.text),
                    microseconds(event.time_s), kProcess));
  }
  for (const TracedRequest& request : requests) put_request(request);
  // Whole at all times, so that a process that is killed leaves a file that can be read; what follows goes
  // over the end.
  if (seeks_) out_ << kEnd;
  out_.flush();
  if (seeks_) out_.seekp(-static_cast<std::streamoff>(kEnd.size()), std::ios::cur);
}

int64_t Trace::microseconds(double time_s) {
  return std::llround((time_s - begin_s_) * 1e6);
}

void Trace::put(const std::string& event) {
  out_ << (first_event_ ? "\n" : ",\n") << event;
  first_event_ = false;
}

void Trace::put_tracks() {
  put(fmt::format(R"({{"name":"process_name","ph":"M","pid":{},"tid":0,"args":{{"name":"pipeline"}}}})",
                  kProcess));
  for (int stage = 0; stage <= layout_.last_stage(); ++stage) {
    put(fmt::format(R"({{"name":"thread_name","ph":"M","pid":{},"tid":{},"args":{{"name":{}}}}})", kProcess,
                    stage + 1, in_quotes(fmt::format("stage {}: {}", stage, layout_.stage_text(stage)))));
  }
}

void Trace::put_step(const TracedStep& step) {
  if (step.times.size() != layout_.node_of_stage.size()) return;  // a message came from outside
  double rest_s = step.answered_s - step.sent_s;
  for (const StageTime& time : step.times) rest_s -= (time.waited_us + time.busy_us) * 1e-6;
  std::vector<std::string> way{layout_.head};  // the nodes that the step was on
  way.insert(way.end(), layout_.node_of_stage.begin(), layout_.node_of_stage.end());
  way.push_back(layout_.head);
  int links = 0;
  for (size_t i = 1; i < way.size(); ++i) links += way[i] != way[i - 1] ? 1 : 0;
  const double hop_s = links == 0 ? 0 : std::max(0.0, rest_s) / links;

  // Steps overlap on a link and in a queue: asynchronous events, which may.
  const auto put_span = [&](const std::string& category, const std::string& name, double begin_s,
                            double end_s) {
    for (const auto& [kind, time_s] : {std::pair("b", begin_s), std::pair("e", end_s)}) {
      put(fmt::format(R"({{"name":{},"cat":"{}","ph":"{}","id":"{}","ts":{},"pid":{},"tid":0}})",
                      in_quotes(name), category, kind, step.id, microseconds(time_s), kProcess));
    }
  };
  double now_s = step.sent_s;
  for (size_t i = 0; i <= step.times.size(); ++i) {
    if (way[i + 1] != way[i]) {
      put_span("link", fmt::format("{} to {}", way[i], way[i + 1]), now_s, now_s + hop_s);
      now_s += hop_s;
    }
    if (i == step.times.size()) break;
    const StageTime& time = step.times[i];
    // A stage computes one step after the other; where the estimate of the links says otherwise it is wrong.
    const double begin_s = std::max(now_s + time.waited_us * 1e-6, stage_free_s_[i]);
    if (begin_s > now_s) put_span("queue", fmt::format("waits for stage {}", i), now_s, begin_s);
    put(fmt::format(R"({{"name":"step {}","cat":"stage","ph":"X","ts":{},"dur":{},"pid":{},"tid":{},"args":)"
                    R"({{"decode rows":{},"prompt rows":{},"waited us":{},"requests":[{}]}}}})",
                    step.id, microseconds(begin_s), time.busy_us, kProcess, i + 1, step.decode_rows,
                    step.prompt_rows, time.waited_us, fmt::join(step.requests, ",")));
    now_s = stage_free_s_[i] = begin_s + time.busy_us * 1e-6;
  }
}

// A request's span holds those of its parts: waiting, its prompt, generating.
void Trace::put_request(const TracedRequest& request) {
  using Mark = TracedRequest::Mark;
  const auto put_mark = [&](const char* name, char kind, const std::string& more = "") {
    put(fmt::format(R"({{"name":"{}","cat":"request","ph":"{}","id":"{}","ts":{},"pid":{},"tid":0{}}})", name,
                    kind, request.id, microseconds(request.time_s), kProcess, more));
  };
  const auto part = [](Mark since) {
    return since == Mark::kArrived ? "waiting" : since == Mark::kStarted ? "prompt" : "generating";
  };
  const std::string whole = fmt::format("request {}", request.id);
  switch (request.mark) {
    case Mark::kArrived:
      put_mark(whole.c_str(), 'b', fmt::format(R"(,"args":{{"prompt tokens":{}}})", request.tokens));
      put_mark(part(Mark::kArrived), 'b');
      break;
    case Mark::kStarted:
      put_mark(part(Mark::kArrived), 'e');
      put_mark(part(Mark::kStarted), 'b', fmt::format(R"(,"args":{{"cached tokens":{}}})", request.tokens));
      break;
    case Mark::kTakenOff:
      put_mark(part(Mark::kStarted), 'e');
      put_mark(part(Mark::kArrived), 'b');
      break;
    case Mark::kFirstToken:
      put_mark(part(Mark::kStarted), 'e');
      put_mark(part(Mark::kFirstToken), 'b');
      break;
    case Mark::kEnded:
      put_mark(part(request.reached), 'e');
      put_mark(whole.c_str(), 'e', fmt::format(R"(,"args":{{"answer tokens":{}}})", request.tokens));
      break;
  }
}

}  // namespace shoal
