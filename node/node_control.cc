// The head's side of the control channels.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <bit>
#include <chrono>

#include "node/node.h"
#include "node/step_wire.h"

namespace shoal {

using boost::asio::awaitable;
using boost::asio::co_spawn;
using namespace std::chrono_literals;

namespace {

constexpr auto kStatsDeadline = 3s;
constexpr auto kClocksEvery = 200ms;
constexpr auto kGoodbyeDeadline = 2s;

// A node may say what it likes, and of whom it likes.
std::string told_by(const std::string& peer, const std::string& text) {
  const std::string name = fmt::format("node {} ", peer);
  return text.starts_with(name) ? text : fmt::format("{}says: {}", name, text);
}

}  // namespace

awaitable<void> Node::read_control_of(std::string peer, ChannelPtr channel) {
  HeapBufferSource none(0);
  while (true) {
    Result<IncomingMessage> incoming = co_await channel->receive(none);
    const auto current = controls_.find(peer);
    if (closing_ || current == controls_.end() || current->second != channel) co_return;  // forgotten
    if (incoming.has_error()) {
      node_lost(peer, incoming.error());
      co_return;
    }
    if (events_.heard) events_.heard(peer);
    take_from(peer, std::move(incoming->message));
  }
}

void Node::take_from(const std::string& peer, Message&& message) {
  if (auto* result = std::get_if<ResultMessage>(&message)) {
    if (result->failed) result->failure_text = told_by(peer, result->failure_text);
    note_fault(peer, *result);
    if (may_report(peer, *result) && on_outcome_) on_outcome_(from_message(*result, layout_.n_vocab));
  } else if (const auto* beat = std::get_if<Heartbeat>(&message)) {
    if (events_.beat) events_.beat(peer, *beat);
  } else if (std::holds_alternative<Shutdown>(message)) {
    const std::string why = "it was ended in order";
    if (!events_.ended) return node_lost(peer, {Errc::kPeerLost, why});
    forget(peer);
    events_.ended(peer, why);
  } else if (const auto* ready = std::get_if<Ready>(&message)) {
    if (events_.ready) events_.ready(peer, *ready);
  } else if (const auto* measured = std::get_if<Measured>(&message)) {
    if (events_.measured) events_.measured(peer, *measured);
  } else if (const auto* request = std::get_if<CertificateRequest>(&message)) {
    answer_request(peer, *request);
  } else if (const auto* examined = std::get_if<Examined>(&message)) {
    if (events_.examined) events_.examined(peer, *examined);
  } else if (const auto* fetched = std::get_if<FetchedAhead>(&message)) {
    if (events_.fetched_ahead) events_.fetched_ahead(peer, *fetched);
  } else if (const auto* ack = std::get_if<LinkProbeAck>(&message)) {
    clocks_.answered(peer, ack->sequence, static_cast<double>(ack->clock_us) * 1e-6, now_s());
  } else if (auto* stats = std::get_if<StatsMessage>(&message)) {
    const auto waiter = stats_waiters_.find(peer);
    if (waiter != stats_waiters_.end()) waiter->second(std::move(*stats));
  }
}

// Answers come from the node of the last stage alone; that a step failed may be said by any that has a stage.
bool Node::may_report(const std::string& peer, const ResultMessage& result) {
  const std::vector<std::string>& nodes = layout_.node_of_stage;
  if (nodes.empty()) return false;
  const bool has_say =
      result.failed ? std::find(nodes.begin(), nodes.end(), peer) != nodes.end() : nodes.back() == peer;
  if (has_say && result.epoch == epoch_ && linked_) return true;
  const bool late = result.epoch == epoch_ ? has_say : result.epoch < epoch_ && computed_.contains(peer);
  if (late) {  // it was under way when the pipeline was dropped
    ++late_;
    spdlog::debug("a result from node {} for step {} came after its epoch, {}", peer, result.step_id,
                  result.epoch);
    return false;
  }
  count_refused(fmt::format("a result from node {} for step {} of epoch {} was refused: {}", peer,
                            result.step_id, result.epoch,
                            has_say ? fmt::format("the present epoch is {}", epoch_)
                                    : fmt::format("node {} gives the answers", nodes.back())));
  return false;
}

// Also where another node's failure came first and the pipeline is dropped: this one says whose doing it was.
// A node tells of its own stages alone.
void Node::note_fault(const std::string& peer, const ResultMessage& result) {
  if (!result.failed || result.fault == StepFault::kNone || result.epoch != epoch_ || !events_.faulted)
    return;
  const size_t stage = result.fault_stage;
  if (stage >= layout_.node_of_stage.size() || layout_.node_of_stage[stage] != peer) return;
  events_.faulted(blamed(result.fault, static_cast<int>(stage), result.failure_text));
}

void Node::count_refused(const std::string& what) {
  const uint64_t count = ++refused_;
  if (std::has_single_bit(count))  // the 1st, 2nd, 4th, ...: whoever sends many must not fill the log
    spdlog::warn("{} (refused so far: {})", what, count);
}

void Node::ask_clocks() {
  const Clock::time_point now = Clock::now();
  if (now - clocks_asked_ < kClocksEvery) return;
  clocks_asked_ = now;
  ++clock_question_;
  for (const auto& [name, channel] : controls_) {
    clocks_.asked(name, clock_question_, now_s());
    (void)channel->post({LinkProbe{clock_question_}});
  }
}

std::optional<double> Node::clock_ahead_s(const std::string& node) const {
  if (node == identity_.name) return 0.0;
  return clocks_.ahead_s(node);
}

void Node::node_lost(const std::string& peer, const Error& error) {
  forget(peer);
  if (events_.lost) return events_.lost(peer, error.message);
  const Error lost{Errc::kPeerLost, fmt::format("node {} is lost: {}", peer, error.message)};
  if (!lost_) lost_ = lost;
  if (on_outcome_) on_outcome_({0, {}, true, lost, {}});
}

void Node::forget(const std::string& node) {
  const auto found = controls_.find(node);
  if (found == controls_.end()) return;
  const ChannelPtr channel = found->second;
  controls_.erase(found);
  stats_waiters_.erase(node);
  channel->abort();
  close_link(channel);
}

bool Node::tell(const std::string& node, Message message) {
  const auto found = controls_.find(node);
  return found != controls_.end() && found->second->post({std::move(message), {}, {}}).has_value();
}

std::string Node::address_of(const std::string& node) const {
  const auto found = controls_.find(node);
  if (found == controls_.end()) return "";
  const std::string peer = found->second->peer();  // "pi-1 at 10.0.0.5:7000"
  const size_t begin = peer.rfind(' ') == std::string::npos ? 0 : peer.rfind(' ') + 1;
  return peer.substr(begin, peer.rfind(':') - begin);
}

void Node::set_on_outcome(std::function<void(StepOutcome)> on_outcome) {
  io_.call([&] {
    on_outcome_ = std::move(on_outcome);
    if (on_outcome_ && lost_) on_outcome_({0, {}, true, *lost_, {}});
    return 0;
  });
}

void Node::end_service(std::optional<Error> error) {
  if (service_ended_) return;
  service_ended_ = true;
  building_.request_stop();
  service_end_.set_value(std::move(error));
}

void Node::serve_until_shutdown() {
  const std::optional<Error> error = service_end_.get_future().get();
  if (!error) return;
  if (error->code == Errc::kOtherModel) throw OtherModelError(error->message);
  throw SetupError(error->message, kExitFailed);
}

awaitable<void> Node::say_goodbye() {
  closing_ = true;
  const std::map<std::string, ChannelPtr> all = controls_;
  for (const auto& [name, channel] : all) {
    OutgoingMessage goodbye{Shutdown{"the work is done"}, {}, {}};
    const Result<void> sent = co_await channel->send(std::move(goodbye));
    if (sent.has_error()) spdlog::debug("{} did not hear the shutdown: {}", name, sent.error().message);
  }
}

void Node::shutdown_workers() {
  std::future<void> done = co_spawn(io_.executor(), say_goodbye(), boost::asio::use_future);
  if (done.wait_for(kGoodbyeDeadline) != std::future_status::ready)
    spdlog::debug("not every worker took the shutdown");
}

std::optional<Error> Node::lost() {
  return io_.call([this] { return lost_; });
}

std::vector<StatsMessage> Node::collect_stats() {
  std::map<std::string, std::future<StatsMessage>> answers;
  std::vector<StatsMessage> all;
  io_.call([&] {
    all.push_back(own_stats());
    for (const auto& [name, channel] : controls_) {
      auto promise = std::make_shared<std::promise<StatsMessage>>();
      answers[name] = promise->get_future();
      stats_waiters_[name] = [this, name = name, promise](StatsMessage stats) {
        promise->set_value(std::move(stats));
        stats_waiters_.erase(name);
      };
      if (channel->post({StatsRequest{}}).has_error()) {  // lost: nobody will answer
        stats_waiters_.erase(name);
        answers.erase(name);
      }
    }
    return 0;
  });
  for (auto& [name, answer] : answers) {
    try {
      if (answer.wait_for(kStatsDeadline) == std::future_status::ready) all.push_back(answer.get());
    } catch (const std::future_error&) {  // lost meanwhile
    }
  }
  return all;
}

}  // namespace shoal
