// Who runs and who waits: requests come in, get a cache slot, give it up when the cache is full, and run out
// of time.
#include <algorithm>

#include "base/check.h"
#include "node/coordinator.h"

namespace shoal {

void Coordinator::start(uint64_t id, GenerationRequest request) {
  auto refuse = [&](Errc code, std::string text) {
    request.on_event({id, -1, true, FinishReason::kError, {code, std::move(text)}});
  };
  if (refusal_) {
    GenerationEvent event{id, -1, true, FinishReason::kError, *refusal_};
    event.retry_after_s = refusal_retry_s_;
    return request.on_event(event);
  }
  const Result<void> checked = check_request(request, layout_);
  if (checked.has_error()) return refuse(checked.error().code, checked.error().message);
  const int length = static_cast<int>(request.prompt.size());
  const double now = host_.now_s();
  const double deadline_s = request.deadline_s > 0 ? now + request.deadline_s : Scheduler::kNever;
  const Result<void> queued =
      queue_.offer({id, request.user, request.priority, length, now, deadline_s, request.together,
                    request.follows, request.embeds ? 1 : request.max_tokens},
                   row_seconds());
  if (queued.has_error()) {
    GenerationEvent event{id, -1, true, FinishReason::kError, queued.error()};
    event.retry_after_s = queue_.retry_after_s(request.user, length, row_seconds());
    return request.on_event(event);
  }
  mark(id, TracedRequest::Mark::kArrived, length);
  waiting_.emplace(id, Waiting{std::move(request), deadline_s, now});
  admit();
  watch_deadlines();
  pump();
}

// The tokens that a decoder has to compute before its first answer: the prompt, or where an encoder reads
// that, what answers begin after. An encoder alone computes none.
std::vector<int32_t> Coordinator::first_tokens(const GenerationRequest& request) const {
  return layout_.inputs > 0 ? std::vector<int32_t>{std::max(0, layout_.decoder_start_token)} : request.prompt;
}

int Coordinator::prompt_positions(const GenerationRequest& request) const {
  return layout_.inputs > 0 ? 1 : static_cast<int>(request.prompt.size());
}

// K and V of a decoder behind an encoder depend on all of its input, and a pooled embedding on all rows: then
// no cached beginning serves.
CacheSlots::Prefix Coordinator::prefix_of(const GenerationRequest& request,
                                          std::span<const int32_t> tokens) const {
  const bool reuses = layout_.inputs == 0 && !request.embeds;
  return cache_.best_prefix(reuses ? tokens : tokens.first(1), cache_owner(request));
}

// Seconds a prompt row takes the pipeline when it is full.
double Coordinator::row_seconds() const {
  constexpr double kRows = 32;
  return scheduler_.model().bottleneck_seconds({kRows, 0}) / kRows;
}

// Gives waiting requests the free slots, as far as the cache has room: first those who were taken off.
void Coordinator::admit() {
  while (!suspended_) {
    const Sequence* const taken_off = readmit();
    const std::optional<uint64_t> id = queue_.next(host_.now_s(), row_seconds());
    if (!id) return;
    const auto waiting = waiting_.find(*id);
    SHOAL_CHECK(waiting != waiting_.end());
    const GenerationRequest& request = waiting->second.request;
    if (taken_off != nullptr && !goes_before(*id, request, *taken_off)) return;
    const std::vector<int32_t> tokens = first_tokens(request);
    const int length = static_cast<int>(tokens.size());
    CacheSlots::Prefix prefix = prefix_of(request, tokens);
    if (prefix.slot < 0 || !cache_.has_room(prefix, length)) {
      if (!make_way(waiting->second, length)) return;
      prefix = prefix_of(request, tokens);
    }
    queue_.take(*id);
    Waiting taken = std::move(waiting->second);
    waiting_.erase(waiting);
    run(*id, std::move(taken), prefix);
  }
}

// Lets those who were taken off go on, the first in rank first; the first that is left, if one is. After a
// loss that is all of them: who begins as another does that is being computed just now waits, and takes that
// from it.
const Coordinator::Sequence* Coordinator::readmit() {
  const bool all_run =
      std::all_of(running_.begin(), running_.end(), [](const auto& r) { return r.second->slot >= 0; });
  if (all_run) return nullptr;
  const Sequence* left = nullptr;
  int kept_room = 0;  // for those that wait
  for (const Resident& resident : residents()) {
    if (resident.holds) continue;
    Sequence& sequence = *running_.at(resident.id);
    const int length = static_cast<int>(sequence.tokens.size());
    const CacheSlots::Prefix prefix = prefix_of(sequence.request, sequence.tokens);
    const bool fits = prefix.slot >= 0 && cache_.has_room(prefix, kept_room + length);
    const bool waits = fits && is_being_computed(sequence, prefix.length);
    if (!fits || waits) {
      if (left == nullptr) left = &sequence;
      if (!fits) return left;
      kept_room += length;
      continue;
    }
    begin(sequence, prefix);
    if (std::exchange(sequence.was_lost, false)) replayed_ += static_cast<uint64_t>(length - prefix.length);
  }
  return left;
}

// Whether another sequence will hold more of this one's beginning than the cache does now, and enough to be
// forked.
bool Coordinator::is_being_computed(const Sequence& sequence, int held) const {
  if (layout_.inputs > 0 || sequence.request.embeds) return false;
  const std::string owner = cache_owner(sequence.request);
  for (const auto& [id, other] : running_) {
    if (other->slot < 0 || cache_owner(other->request) != owner) continue;
    const size_t limit = std::min(sequence.tokens.size() - 1, other->tokens.size());
    const auto end = sequence.tokens.begin() + static_cast<long>(limit);
    const auto same = std::mismatch(sequence.tokens.begin(), end, other->tokens.begin()).first;
    const int common = static_cast<int>(same - sequence.tokens.begin());
    if (common >= CacheSlots::kForkGain && common > held && cache_.held(other->slot) < common) return true;
  }
  return false;
}

// Whether a request that waits may begin while an answer that was taken off finds no room: another user's
// may, where it is that user's turn for pages. A user's own new ones do not: they might take its room for
// ever.
bool Coordinator::goes_before(uint64_t id, const GenerationRequest& request,
                              const Sequence& taken_off) const {
  if (request.user == taken_off.request.user) return false;
  std::vector<Resident> all = residents();
  all.push_back({id, request.user, request.priority, false, false});
  for (const Resident& resident : by_rank(std::move(all))) {
    if (resident.id == id) return true;
    if (resident.id == taken_off.id) return false;
  }
  return false;
}

void Coordinator::run(uint64_t id, Waiting waiting, const CacheSlots::Prefix& prefix) {
  auto sequence = std::make_unique<Sequence>(
      Sequence{id, std::move(waiting.request), Sampler(SamplerOptions{}), {}, -1, 0, waiting.deadline_s});
  sequence->sampler = Sampler(sequence->request.sampling);
  if (sequence->request.grammar.json) sequence->grammar.emplace(sequence->request.grammar);
  sequence->tokens = first_tokens(sequence->request);
  if (layout_.inputs == 0)
    for (const int32_t token : sequence->tokens) sequence->sampler.accept(token);
  begin(*sequence, prefix);
  running_[id] = std::move(sequence);
}

// From here on the sequence's tokens are computed, but for those of the prefix.
void Coordinator::begin(Sequence& sequence, const CacheSlots::Prefix& prefix) {
  const int length = static_cast<int>(sequence.tokens.size());
  cache_.take(prefix, cache_owner(sequence.request), length);
  sequence.slot = prefix.slot;
  sequence.reused = prefix.length;
  sequence.first_step = next_step_;
  const GenerationRequest& request = sequence.request;
  if (layout_.inputs > 0) {
    scheduler_.add_input(sequence.id, request.embeds ? StepKind::kEmbed : StepKind::kEncode,
                         static_cast<int>(request.prompt.size()), layout_.decodes ? length : 0, host_.now_s(),
                         request.priority, request.user);
  } else if (request.embeds) {
    scheduler_.add_embedding(sequence.id, length, host_.now_s(), request.priority, request.user);
  } else {
    scheduler_.add(sequence.id, prefix.length, length, host_.now_s(), request.priority, request.user);
  }
  if (sequence.answered == 0) mark(sequence.id, TracedRequest::Mark::kStarted, sequence.reused);
}

// All that have begun, as they rank for the cache's pages.
std::vector<Resident> Coordinator::residents() const {
  std::vector<Resident> all;
  for (const auto& [id, sequence] : running_) {
    const GenerationRequest& request = sequence->request;
    const bool in_flight = scheduler_.in_flight(id) || sequence->begins_anew;
    all.push_back({id, request.user, request.priority, sequence->slot >= 0, in_flight});
  }
  return by_rank(std::move(all));
}

// The cache is full: a sequence gives its pages to another, and its tokens are computed again when there is
// room. What it has said so far stands: computed again they are the same. Whether one could be taken off now.
bool Coordinator::take_one_off(uint64_t needy) {
  const std::optional<uint64_t> chosen = victim(residents(), needy);
  if (!chosen) return false;
  take_off(*chosen);
  return true;
}

void Coordinator::take_off(uint64_t id) {
  Sequence& sequence = *running_.at(id);
  if (sequence.answered == 0) mark(id, TracedRequest::Mark::kTakenOff);
  scheduler_.remove(id);
  cache_.give_back(sequence.slot);
  sequence.slot = -1;
  ++preempted_;
}

// A request whose turn it is finds no place, or no pages: those of a later turn give theirs (cache_slots.h).
bool Coordinator::make_way(const Waiting& waiting, int length) {
  const auto again_s = [&](uint64_t id) {
    return static_cast<double>(running_.at(id)->tokens.size()) * row_seconds();
  };
  const auto is_enough = [&](std::span<const uint64_t> ids) {
    std::vector<int> slots;
    for (const uint64_t id : ids) slots.push_back(running_.at(id)->slot);
    return cache_.would_have_room(length, slots);
  };
  const double waited_s = host_.now_s() - waiting.since_s;
  const auto chosen = who_makes_way(residents(), waiting.request.user, waited_s, again_s, is_enough);
  for (const uint64_t id : chosen) take_off(id);
  return !chosen.empty();
}

// Ends requests whose deadline has passed, and waits for the next one's.
void Coordinator::watch_deadlines() {
  const double now = host_.now_s();
  const Error late{Errc::kDeadline, "the request's deadline has passed"};
  for (const uint64_t id : queue_.expire(now)) {
    const auto found = waiting_.find(id);
    mark(id, TracedRequest::Mark::kEnded, 0);
    found->second.request.on_event({id, -1, true, FinishReason::kError, late});
    waiting_.erase(found);
  }
  std::vector<uint64_t> over;
  double next_s = Scheduler::kNever;
  for (const auto& [id, sequence] : running_) {
    if (sequence->deadline_s <= now) over.push_back(id);
    if (sequence->deadline_s > now) next_s = std::min(next_s, sequence->deadline_s);
  }
  for (const uint64_t id : over) finish(id, FinishReason::kError, late);
  for (const auto& [id, waiting] : waiting_) next_s = std::min(next_s, waiting.deadline_s);
  if (!over.empty()) {
    admit();
    pump();
  }
  if (next_s == Scheduler::kNever) return;
  host_.set_timer(PipelineHost::Timer::kDeadlines, next_s + 1e-3, [this, alive = std::weak_ptr<int>(alive_)] {
    if (!alive.expired()) watch_deadlines();
  });
}

}  // namespace shoal
