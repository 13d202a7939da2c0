// Following the head: laying out the pipeline anew, signs of life, and calling a head that is gone.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <boost/asio/detached.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/json.hpp>

#include <algorithm>
#include <chrono>

#include "node/node.h"
#include "node/signed_plan.h"

namespace shoal {

using boost::asio::awaitable;
using boost::asio::co_spawn;
using boost::asio::detached;
using namespace std::chrono_literals;

namespace {

namespace json = boost::json;

constexpr auto kBeatEvery = 200ms;
constexpr auto kCallDeadline = 1500ms;  // of one call to the head
constexpr auto kCallPauseTaken = 60s;   // of one whose name another device has, not for the loss of its own
constexpr auto kLeavePause = 100ms;     // for the word that this node ends to be sent
constexpr size_t kPeersMax = 1024;      // of one order to measure

awaitable<void> pause_until(boost::asio::any_io_executor executor, Clock::time_point moment) {
  boost::asio::steady_timer timer(executor, moment);
  boost::system::error_code ignored;
  co_await timer.async_wait(boost::asio::redirect_error(boost::asio::use_awaitable, ignored));
}

}  // namespace

// ---- A layout ----

void Node::close_link(const ChannelPtr& channel) {
  LinkReport& past = closed_links_[channel->peer_name()];
  past.peer = channel->peer_name();
  past.bytes_sent += channel->bytes_sent();
  past.bytes_received += channel->bytes_received();
  channel->close();
}

void Node::drop_pipeline() {
  linked_ = false;
  building_.request_stop();
  const std::map<int, ChannelPtr> next = std::exchange(to_stage_, {});
  const std::vector<ChannelPtr> feeds = std::exchange(feeds_, {});
  last_step_.clear();
  for (const auto& [stage, channel] : next) close_link(channel);
  for (const ChannelPtr& channel : feeds) close_link(channel);
}

void Node::set_remake(Remake remake) {
  io_.call([&] {
    remake_ = std::move(remake);
    return 0;
  });
}

void Node::set_examination(std::function<std::string()> examination) {
  io_.call([&] {
    examination_ = std::move(examination);
    return 0;
  });
}

void Node::set_on_fetch_ahead(std::function<void(const FetchAhead&)> on_fetch_ahead) {
  io_.call([&] {
    on_fetch_ahead_ = std::move(on_fetch_ahead);
    return 0;
  });
}

void Node::tell_head(Message message) {
  io_.post([this, message = std::move(message)] {
    if (head_) (void)head_->post({message, {}, {}});
  });
}

// Gives the engine an order and waits for it; the error's text, or nothing.
awaitable<std::string> Node::on_engine(std::function<void(std::function<void(std::string)> done)> order) {
  struct Outcome {
    explicit Outcome(const boost::asio::any_io_executor& executor) : done(executor, Deadline::max()) {}
    boost::asio::steady_timer done;
    std::optional<std::string> error;
  };
  const auto outcome = std::make_shared<Outcome>(io_.executor());
  order([this, outcome](std::string error) {
    io_.post([outcome, error = std::move(error)] {
      outcome->error = error;
      outcome->done.cancel();
    });
  });
  boost::system::error_code ignored;
  if (!outcome->error)
    co_await outcome->done.async_wait(boost::asio::redirect_error(boost::asio::use_awaitable, ignored));
  co_return outcome->error.value_or("stopped");
}

awaitable<std::string> Node::rebuild_stages() {
  building_ = std::stop_source();
  std::function<void(std::function<void(std::string)>)> order = [this](auto done) {
    engine_->rebuild([remake = remake_, layout = layout_, stop = building_.get_token()](
                         Engine::Stages old) { return remake(layout, std::move(old), stop); },
                     std::move(done));
  };
  co_return co_await on_engine(std::move(order));
}

awaitable<std::string> Node::examine() {
  if (!examination_ || !engine_) co_return fmt::format("{} knows no answers", identity_.name);
  std::function<void(std::function<void(std::string)>)> order = [this](auto done) {
    // Weights that it may still hold, where there was no plan without it, are what may be wrong. Stages that
    // compute stay: then its kernels alone are in doubt.
    if (!linked_ || hosted() == 0)
      engine_->rebuild([](Engine::Stages) { return Engine::Stages(); }, [](const std::string&) {});
    engine_->run(examination_, std::move(done));
  };
  co_return co_await on_engine(std::move(order));
}

awaitable<void> Node::answer_examine(ChannelPtr channel) {
  Examined examined;
  examined.failure = co_await examine();
  (void)channel->post({std::move(examined)});
}

awaitable<Result<void>> Node::follow(PipelineLayout layout, uint64_t epoch, std::string& unreachable) {
  const auto superseded = [&] { return epoch != epoch_ || !linked_; };
  drop_pipeline();
  computed_.insert(layout_.node_of_stage.begin(), layout_.node_of_stage.end());
  layout_ = std::move(layout);
  shown_epoch_ = epoch_ = epoch;
  linked_ = true;  // those before it in the pipeline may connect while it loads
  make_buffers();
  const std::string error = co_await rebuild_stages();
  if (superseded()) co_return Error{Errc::kCancelled, "another plan came"};
  if (!error.empty()) co_return Error{Errc::kIo, error};
  for (int i = 0; i <= layout_.last_stage(); ++i) {
    const bool feeds = i == 0 ? is_head() : hosts(i - 1);
    if (!feeds || hosts(i)) continue;
    const std::string peer = layout_.node_of_stage[static_cast<size_t>(i)];
    const Endpoint endpoint = layout_.endpoints.at(peer);
    Result<ChannelPtr> channel = co_await open_again(peer, endpoint, i, epoch);
    if (superseded()) {
      if (channel) (*channel)->close();
      co_return Error{Errc::kCancelled, "another plan came"};
    }
    if (channel.has_error()) {
      unreachable = peer;
      co_return channel.error();
    }
    to_stage_[i] = *channel;
  }
  co_return boost::system::in_place_value;
}

awaitable<void> Node::answer_load(ChannelPtr channel, LoadPlan order) {
  Ready ready;
  ready.epoch = order.epoch;
  const Result<PipelineLayout> layout = check_plan(order, identity_, epoch_, channel->peer());
  if (layout.has_error()) {
    count_refused(layout.error().message);
    if (order.epoch == epoch_) co_return;  // sent twice: the first is answered
    ready.failure = layout.error().message;
  } else if (!remake_ || !engine_) {
    ready.failure = fmt::format("{} cannot load a plan while it serves", identity_.name);
  } else {
    ready.plan_hash = layout->plan_hash;
    order_ = order;
    const Result<void> followed = co_await follow(*layout, order.epoch, ready.info);
    if (followed.has_error() && followed.error().code == Errc::kCancelled) co_return;
    if (followed.has_error()) ready.failure = followed.error().message;
  }
  if (!ready.failure.empty()) spdlog::warn("plan {} could not be loaded: {}", order.epoch, ready.failure);
  (void)channel->post({std::move(ready)});
}

// One link after the other: they would disturb each other.
awaitable<void> Node::answer_measure(ChannelPtr channel, Measure order) {
  json::array links;
  json::array peers;
  try {
    peers = json::parse(order.peers_json).as_array();
    if (peers.size() > kPeersMax) peers.clear();
  } catch (const std::exception&) {
    spdlog::warn("an order to measure links from {} cannot be read: it is no JSON list", channel->peer());
  }
  for (const json::value& peer : peers) {
    const json::object* fields = peer.if_object();
    const json::string* name =
        fields != nullptr && fields->contains("name") ? fields->at("name").if_string() : nullptr;
    const json::string* address =
        fields != nullptr && fields->contains("address") ? fields->at("address").if_string() : nullptr;
    const json::value* port = fields != nullptr ? fields->if_contains("port") : nullptr;
    if (name == nullptr || address == nullptr || port == nullptr || !port->is_int64()) continue;
    const Endpoint endpoint{std::string(*address), static_cast<uint16_t>(port->as_int64())};
    const std::string to(*name);
    const Result<LinkProfile> link = co_await probe_link(to, endpoint);
    links.push_back({{"to", *name},
                     {"latency_s", link ? link->latency_s : 0.0},
                     {"bytes_per_s", link ? link->bytes_per_s : 0.0}});
  }
  (void)channel->post({Measured{json::serialize(links)}});
}

// ---- Signs of life ----

// From the io thread, so that a long computation looks alive; the counter tells whether it is. Between two of
// them this node wakes at the moment at which a silent head is lost, so that its loss is not noticed a beat
// later.
awaitable<void> Node::beat() {
  Clock::time_point next = Clock::now();
  while (!closing_) {
    const bool watches = head_ && engine_;
    if (Clock::now() >= next) {
      for (const auto& [name, channel] : controls_) (void)channel->post({Heartbeat{}});
      renew_certificate();
      end_expired();
      if (watches) (void)head_->post({Heartbeat{engine_->progress(), engine_->working()}});
      next = Clock::now() + kBeatEvery;
    }
    Clock::time_point wake = next;
    if (watches) {
      watch_head();
      constexpr double kBeatEvery_s = std::chrono::duration<double>(kBeatEvery).count();
      const double left_s = std::clamp(head_watch_.next_loss_s() - now_s(), 0.0, kBeatEvery_s);
      wake = std::min(wake, Clock::now() + std::chrono::microseconds(static_cast<int64_t>(left_s * 1e6) + 1));
    }
    co_await pause_until(io_.executor(), wake);
  }
}

// It is told by a reset: if it can hear this node, though not be heard, it knows at once.
void Node::watch_head() {
  for (const Membership::Loss& loss : head_watch_.tick(now_s())) {
    const ChannelPtr lost = head_;
    lose_head(loss.why);
    lost->abort();
  }
}

// ---- The head is gone ----

// The weights stay; what was under way is dropped.
void Node::lose_head(const std::string& why) {
  const ChannelPtr lost = std::exchange(head_, nullptr);
  if (closing_ || service_ended_) return;
  head_watch_.left("head", now_s());
  knows_revoked_ = identity_.tls == nullptr;  // until a head says it again
  drop_pipeline();
  const std::string text =
      fmt::format("the head{} is gone: {}", layout_.head.empty() ? "" : " " + layout_.head, why);
  if (!comeback_) return end_service(Error{Errc::kPeerLost, text});
  spdlog::warn("{}; its weights are kept and it is called again", text);
  if (!calling_) co_spawn(io_.executor(), call_head(), detached);
}

void Node::leave() {
  io_.post([this] { co_spawn(io_.executor(), take_leave(), detached); });
}

// Whether the head hears it or not.
awaitable<void> Node::take_leave() {
  closing_ = true;
  if (head_ && head_->post({Shutdown{"it was ended in order"}, {}, {}}).has_value())
    co_await pause_until(io_.executor(), after(kLeavePause));
  end_service(std::nullopt);
}

void Node::set_comeback(const Comeback& comeback, bool now) {
  io_.call([&] {
    comeback_ = comeback;
    if (now && !calling_) co_spawn(io_.executor(), call_head(), detached);
    return 0;
  });
}

awaitable<Result<void>> Node::join_head() {
  const Endpoint endpoint = comeback_->head;
  const std::string whoever;  // the head's name is not known to a node that joins for the first time
  Result<ChannelPtr> opened = co_await open(whoever, endpoint, LinkRole::kJoin, 0, kCallDeadline);
  if (opened.has_error()) co_return opened.error();
  const ChannelPtr channel = *opened;
  if (!is_of_head(*channel)) {
    channel->close();
    co_return Error{Errc::kRefused,
                    fmt::format("{} shows a certificate that is not the head's", channel->peer())};
  }
  Join join = comeback_->join;
  join.held = order_;
  OutgoingMessage outgoing{std::move(join), {}, {}};
  const Result<void> sent = co_await channel->send(std::move(outgoing));
  if (sent.has_error()) co_return sent.error();
  spdlog::info("{} has joined {}", identity_.name, channel->peer());
  co_spawn(io_.executor(), serve_control(channel, /*of_head=*/true), detached);
  co_return boost::system::in_place_value;
}

awaitable<void> Node::call_head() {
  calling_ = true;
  const Deadline patience =
      comeback_->patience_s > 0
          ? Clock::now() + std::chrono::milliseconds(static_cast<int64_t>(comeback_->patience_s * 1e3))
          : kNoDeadline;
  std::chrono::milliseconds pause = kCallPauseFirst;
  std::string said;
  while (!closing_ && !service_ended_) {
    const Result<void> joined = co_await join_head();
    if (joined) break;
    const auto& [code, why] = joined.error();
    if (why != said)
      spdlog::warn("the head at {}:{} did not take this node: {}", comeback_->head.address,
                   comeback_->head.port, why);
    said = why;
    // Nothing that is here is of use to it. `shoal node` begins anew (node_command.cc).
    if (code == Errc::kOtherModel) {
      end_service(joined.error());
      break;
    }
    if (Clock::now() > patience) {
      // One that answers is there: another has this node's name by now, say.
      end_service(
          Error{Errc::kPeerLost, fmt::format("the head {} within {:.0f} s: {}",
                                             is_refusal(code) ? "lost this node and did not take it back"
                                                              : "is gone and did not come back",
                                             comeback_->patience_s, why)});
      break;
    }
    co_await pause_until(io_.executor(), after(pause));
    pause = std::min<std::chrono::milliseconds>(pause * 2,
                                                code == Errc::kNameTaken ? kCallPauseTaken : kCallPauseMost);
  }
  calling_ = false;
}

}  // namespace shoal
