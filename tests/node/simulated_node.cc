#include "tests/node/simulated_node.h"

#include <algorithm>

namespace shoal::test {

uint64_t next_state(uint64_t state, int32_t token) {
  uint64_t z =
      state + 0x9e3779b97f4a7c15u + static_cast<uint64_t>(static_cast<uint32_t>(token)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

std::vector<Candidate> candidates_of(uint64_t state, int wanted) {
  const int count = wanted == 0 ? kSimulatedVocabulary : std::min(wanted, kSimulatedVocabulary);
  std::vector<Candidate> candidates;
  for (int i = 0; i < count; ++i)
    candidates.push_back(
        {static_cast<int32_t>((state % kSimulatedVocabulary + static_cast<uint64_t>(i) * 101) %
                              kSimulatedVocabulary),
         5.0f - static_cast<float>(i)});
  return candidates;
}

LinkPtr SimWorld::connect(Link::End a, Link::End b) {
  auto link = std::make_shared<Link>(network, std::move(a), std::move(b));
  links.push_back(link);
  return link;
}

void SimWorld::kill(const std::string& host) {
  SimNode* const node = nodes.at(host);
  const uint64_t incarnation = node->incarnation();
  network.kill(host);
  std::erase_if(links, [](const auto& link) { return link.expired(); });
  for (const auto& weak : links) {
    if (const LinkPtr link = weak.lock()) link->killed(host, incarnation);
  }
}

// Timers of a process: they wait while it is stopped and are gone with it.
void SimNode::later(double seconds, Network::Handler handler) {
  world_.network.after(seconds, [this, incarnation = incarnation_, handler = std::move(handler)] {
    world_.network.on(name_, incarnation, handler);
  });
}

void SimNode::start() {
  incarnation_ = world_.network.start(name_);
  head_ = nullptr;
  head_watch_ = {};
  epoch_ = progress_ = 0;
  linked_ = loading_ = computing_ = false;
  layout_ = {};
  next_.clear(), feeds_.clear(), last_step_.clear(), queue_.clear(), caches_.clear();
  later(world_.network.uniform(0.01, 0.1), [this] { call_head(0.1); });
  later(0.2, [this] { beat(); });
}

void SimNode::start_as_head(std::function<void(SimMessage)> home) {
  incarnation_ = world_.network.start(name_);
  home_ = std::move(home);
}

// ---- The head's side ----

void SimNode::call_head(double pause_s) {
  if (head_) return;
  const auto again = [this, pause_s] {
    later(pause_s, [this, pause_s] { call_head(std::min(2 * pause_s, 2.0)); });
  };
  Network& network = world_.network;
  if (network.is_cut(name_, world_.head) || network.is_cut(world_.head, name_)) return later(1.5, again);
  const auto mine = std::make_shared<std::weak_ptr<Link>>();
  Link::End here{name_, incarnation_,
                 [this, mine](const SimMessage& message) {
                   if (head_ == mine->lock()) on_head(message);
                 },
                 [this, mine] {
                   if (head_ == mine->lock()) lose_head();
                 }};
  Link::End there{world_.head, world_.head_incarnation, [](const SimMessage&) {}, [] {}};
  const LinkPtr link = world_.connect(std::move(here), std::move(there));
  *mine = link;
  head_ = link;
  head_watch_.joined("head", network.now(), /*beats=*/false);
  SimMessage hello;
  hello.kind = SimMessage::Kind::kHello;
  hello.node = name_;
  hello.epoch = epoch_;
  hello.text = epoch_ > 0 ? layout_to_json(layout_) : "";
  world_.on_hello(name_, link);
  link->send(0, hello);
}

void SimNode::on_head(const SimMessage& message) {
  head_watch_.heard("head", world_.network.now());
  switch (message.kind) {
    case SimMessage::Kind::kBeat:
      head_watch_.heartbeat("head", 0, false, world_.network.now());
      break;
    case SimMessage::Kind::kRefused:
      head_->close(0);
      lose_head();
      break;
    case SimMessage::Kind::kLoadPlan: {
      const Result<PipelineLayout> layout = layout_from_json(message.text);
      if (layout.has_error()) {
        world_.wrong.push_back("a plan that cannot be read: " + layout.error().message);
      } else if (message.epoch > epoch_) {
        follow(message.epoch, *layout);
      }
      break;
    }
    case SimMessage::Kind::kExamine: {
      SimMessage examined;
      examined.kind = SimMessage::Kind::kExamined;
      examined.node = name_;
      examined.text = broken_ ? "its products are wrong" : "";
      head_->send(0, examined);
      break;
    }
    default:
      break;
  }
}

void SimNode::lose_head() {
  head_ = nullptr;
  head_watch_.left("head", world_.network.now());
  drop_pipeline();
  later(0.1, [this] { call_head(0.1); });
}

void SimNode::beat() {
  if (head_) {
    SimMessage beat;
    beat.kind = SimMessage::Kind::kBeat;
    beat.progress = progress_;
    beat.working = computing_ || loading_;
    head_->send(0, beat);
    for (const Membership::Loss& loss : head_watch_.tick(world_.network.now())) {
      (void)loss;
      const LinkPtr lost = head_;
      lose_head();
      lost->close(0);
    }
  }
  later(0.2, [this] { beat(); });
}

// ---- Plans ----

void SimNode::drop_pipeline() {
  linked_ = false;
  for (const auto& [stage, link] : next_) link->close(0);
  for (const LinkPtr& link : feeds_) link->close(1);
  next_.clear(), feeds_.clear(), last_step_.clear(), queue_.clear();
}

void SimNode::follow(uint64_t epoch, const PipelineLayout& layout) {
  drop_pipeline();
  epoch_ = epoch;
  layout_ = layout;
  linked_ = true;
  caches_.clear();
  for (int stage = 0; stage <= layout_.last_stage(); ++stage)
    if (hosts(stage)) caches_[stage].resize(static_cast<size_t>(layout_.slots));
  loading_ = true;
  constexpr int kParts = 5;  // in which it makes progress
  const double part_s = load_seconds * slow_ / kParts;
  for (int part = 1; part < kParts; ++part) later(part * part_s, [this] { ++progress_; });
  later(load_seconds * slow_, [this, epoch] {
    ++progress_;
    if (epoch != epoch_ || !linked_) return;
    loading_ = false;
    connect_next(epoch, 0, world_.network.now() + Membership::kRelink_s);
  });
}

// Links to the stages after its own, one after the other, from `stage` on.
void SimNode::connect_next(uint64_t epoch, int stage, double deadline_s) {
  if (epoch != epoch_ || !linked_) return;
  Network& network = world_.network;
  for (; stage <= layout_.last_stage(); ++stage) {
    const bool feeds = stage == 0 ? name_ == layout_.head : hosts(stage - 1);
    if (!feeds || hosts(stage) || next_.contains(stage)) continue;
    const std::string peer = layout_.node_of_stage[static_cast<size_t>(stage)];
    SimNode* const other = world_.nodes.at(peer);
    const bool reached = network.is_up(peer) && !network.is_stopped(peer) && !network.is_cut(name_, peer) &&
                         !network.is_cut(peer, name_);
    if (!reached || !other->takes(stage, epoch)) {
      if (network.now() > deadline_s) return ready(epoch, name_ + " cannot connect to " + peer, peer);
      return later(0.03, [this, epoch, stage, deadline_s] { connect_next(epoch, stage, deadline_s); });
    }
    Link::End here{name_, incarnation_, [](const SimMessage&) {},
                   [this, epoch, peer] { fail(epoch, name_ + " lost its link to " + peer); }};
    Link::End there{
        peer, other->incarnation(),
        [other, stage, epoch, from = name_](const SimMessage& message) {
          other->receive(stage, epoch, from, message);
        },
        [other, epoch] { other->fail(epoch, other->name_ + " lost its link from the stage before"); }};
    const LinkPtr link = world_.connect(std::move(here), std::move(there));
    next_[stage] = link;
    other->attach(stage, link);
  }
  ready(epoch, "", "");
}

void SimNode::receive(int stage, uint64_t epoch, const std::string& from, const SimMessage& message) {
  if (!takes(stage, epoch) || !last_step_.contains(stage)) return;
  if (world_.bad_wires.contains({from, name_}) || std::exchange(damages_, 0) > 0) {
    last_step_.erase(stage);  // the link has ended
    return fail(epoch, name_ + " got a damaged frame from " + from, StepFault::kDamaged, stage);
  }
  auto job = std::make_shared<StepJob>(*message.job);
  if (job->step_id != ++last_step_[stage]) {
    if (!world_.faulty_epochs.contains(epoch)) world_.wrong.push_back(name_ + ": a gap in the steps");
    return fail(epoch, "a gap in the steps");
  }
  submit(std::move(job));
}

void SimNode::attach(int stage, const LinkPtr& link) {
  last_step_[stage] = 0;
  feeds_.push_back(link);
}

void SimNode::ready(uint64_t epoch, const std::string& failure, const std::string& unreachable) {
  SimMessage message;
  message.kind = SimMessage::Kind::kReady;
  message.node = name_;
  message.epoch = epoch;
  message.text = failure;
  message.unreachable = unreachable;
  if (home_) home_(message);
  if (head_) head_->send(0, message);
}

// ---- Steps ----

void SimNode::submit(std::shared_ptr<StepJob> job) {
  if (job->epoch != epoch_ || !linked_) return;
  if (!hosts(job->stage)) return forward(job);
  if (swallows_) return void(++progress_);
  queue_.push_back(std::move(job));
  compute();
}

void SimNode::compute() {
  if (computing_ || queue_.empty()) return;
  computing_ = true;
  const std::shared_ptr<StepJob> job = queue_.front();
  queue_.pop_front();
  const int layers =
      job->epoch == epoch_ ? layout_.shard_of_stage[static_cast<size_t>(job->stage)].layers.size() : 1;
  const double seconds =
      1e-3 + world_.seconds_per_row_layer * static_cast<double>(job->rows.size()) * (layers + 1);
  later(seconds * slow_, [this, job] {
    computing_ = false;
    ++progress_;
    if (job->epoch == epoch_ && linked_) done(job);
    compute();
  });
}

// What a stage checks and does with its cache; what is wrong, or nothing.
std::string SimNode::apply(StepJob& job) {
  std::vector<std::vector<uint64_t>>& cache = caches_[job.stage];
  const auto slot_of = [&](int32_t slot) -> std::vector<uint64_t>& {
    return cache[static_cast<size_t>(slot)];
  };
  for (const CacheOp& op : job.ops) {
    const auto length = static_cast<size_t>(std::max(op.length, 0));
    if (op.kind == CacheOpKind::kFork) {
      if (slot_of(op.from_slot).size() < length) return "a fork of what the slot does not hold";
      const std::vector<uint64_t> copy(slot_of(op.from_slot).begin(),
                                       slot_of(op.from_slot).begin() + op.length);
      slot_of(op.slot) = copy;
    } else {
      slot_of(op.slot).resize(std::min(slot_of(op.slot).size(), op.kind == CacheOpKind::kFree ? 0 : length));
    }
  }
  job.outputs.clear();
  for (size_t row = 0; row < job.rows.size(); ++row) {
    const BatchRow& each = job.rows[row];
    std::vector<uint64_t>& states = slot_of(each.slot);
    if (static_cast<size_t>(each.position) > states.size()) return "a row beyond what the slot holds";
    states.resize(static_cast<size_t>(each.position));
    states.push_back(next_state(states.empty() ? 0 : states.back(), each.token));
    if (each.wants_logits)
      job.outputs.push_back({static_cast<int32_t>(row), 6.0f, candidates_of(states.back(), job.candidates)});
  }
  return "";
}

void SimNode::done(const std::shared_ptr<StepJob>& job) {
  if (const std::string wrong = apply(*job); !wrong.empty()) {
    if (!world_.faulty_epochs.contains(job->epoch)) world_.wrong.push_back(name_ + ": " + wrong);
    return fail(job->epoch, wrong);
  }
  if (broken_ || std::exchange(glitches_, 0) > 0)
    return fail(job->epoch, name_ + " computed what is not finite", StepFault::kOutput, job->stage);
  job->times.push_back({0, static_cast<uint32_t>(1e3), 0});
  if (job->stage < layout_.last_stage()) {
    ++job->stage;
    if (hosts(job->stage)) return submit(job);
    return forward(job);
  }
  SimMessage message;
  message.kind = SimMessage::Kind::kResult;
  message.node = name_;
  message.epoch = job->epoch;
  message.job = job;
  if (home_) home_(message);
  if (head_) head_->send(0, message);
}

void SimNode::forward(const std::shared_ptr<StepJob>& job) {
  const auto link = next_.find(job->stage);
  if (link == next_.end()) {
    world_.wrong.push_back(name_ + ": no link to the next stage");
    return;
  }
  SimMessage message;
  message.kind = SimMessage::Kind::kStep;
  message.epoch = job->epoch;
  message.job = job;
  link->second->send(0, message);
}

void SimNode::fail(uint64_t epoch, const std::string& why, StepFault fault, int stage) {
  if (epoch != epoch_ || !linked_) return;
  if (fault != StepFault::kNone) world_.faulty_epochs.insert(epoch);
  SimMessage message;
  message.kind = SimMessage::Kind::kResult;
  message.node = name_;
  message.epoch = epoch;
  message.text = why;
  message.fault = fault;
  message.stage = stage;
  if (home_) home_(message);
  if (head_) head_->send(0, message);
}

}  // namespace shoal::test
