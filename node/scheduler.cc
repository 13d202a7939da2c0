#include "node/scheduler.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "base/check.h"

namespace shoal {
namespace {

constexpr int kWorthwhileRows =
    4;                            // of a prompt beside decoders: fewer steps in flight rather than fewer rows
constexpr int kProgressRows = 1;  // of a prompt beside decoders, whatever they wait
constexpr int kEmbeddingRows = 32;  // of a step for embeddings beside decoders
constexpr double kTie = 0.97;       // a grouping or chunk gives way to one that takes less than this share
constexpr double kNoWorse = 1.001;

StepSize part_size(int rows, int first_position) {
  return {static_cast<double>(rows), rows * (first_position + (rows + 1) / 2.0)};
}

// Every row of an input sees all of it.
StepSize input_size(int rows) {
  return {static_cast<double>(rows), static_cast<double>(rows) * rows};
}

StepSize sum(const StepSize& a, const StepSize& b) {
  return {a.rows + b.rows, a.positions + b.positions};
}

}  // namespace

StepSize ScheduledStep::size() const {
  StepSize size;
  for (const StepPart& part : parts)
    size = sum(size, whole_inputs ? input_size(part.rows) : part_size(part.rows, part.first_position));
  return size;
}

Scheduler::Scheduler(const SchedulerLimits& limits, PipelineModel model)
    : limits_(limits), model_(std::move(model)) {
  SHOAL_CHECK(limits.steps_in_flight_max >= 1 && limits.rows_max >= 1 && limits.decode_stretch >= 1);
}

void Scheduler::add(uint64_t sequence, int computed, int length, double now_s, int priority,
                    const std::string& user) {
  SHOAL_CHECK(computed < length);
  sequences_.push_back({sequence, computed, length, now_s, priority, user, length - computed});
}

void Scheduler::add_input(uint64_t sequence, StepKind kind, int rows, int length, double now_s, int priority,
                          const std::string& user) {
  SHOAL_CHECK(kind != StepKind::kDecode && rows > 0 && rows <= limits_.rows_max && length >= 0);
  Entry entry{sequence, 0, length, now_s, priority, user, rows};
  entry.input_rows = rows;
  entry.input_kind = kind;
  sequences_.push_back(entry);
}

void Scheduler::add_embedding(uint64_t sequence, int length, double now_s, int priority,
                              const std::string& user) {
  add(sequence, 0, length, now_s, priority, user);
  sequences_.back().kind = StepKind::kEmbed;
}

void Scheduler::extend(uint64_t sequence) {
  for (Entry& entry : sequences_) {
    if (entry.id == sequence) ++entry.length;
  }
}

bool Scheduler::in_flight(uint64_t sequence) const {
  return std::any_of(sequences_.begin(), sequences_.end(),
                     [&](const Entry& entry) { return entry.id == sequence && entry.in_flight > 0; });
}

void Scheduler::remove(uint64_t sequence) {
  sequences_.remove_if([&](const Entry& entry) { return entry.id == sequence; });
}

std::optional<ScheduledStep> Scheduler::next_step(double now_s, const Reserve& reserve) {
  wake_s_ = kNever;
  needy_.reset();
  if (sequences_.empty() || steps_in_flight_ >= limits_.steps_in_flight_max) return std::nullopt;
  const Grouping grouping = this->grouping();
  if (grouping.decoding > 0 && steps_in_flight_ >= grouping.steps) return std::nullopt;
  const bool texts = std::any_of(sequences_.begin(), sequences_.end(), [](const Entry& e) {
    return e.kind == StepKind::kDecode && (e.decoding || e.has_prompt());
  });
  if (!texts) owed_s_ = 0;
  const bool others_first = owed_s_ <= 0;
  ScheduledStep step;
  if (others_first) add_others(grouping, now_s, reserve, step);
  if (step.parts.empty()) {
    add_decode_rows(grouping, reserve, step);
    add_prompt_rows(grouping, now_s, reserve, step);
  }
  if (step.parts.empty() && !others_first && steps_in_flight_ == 0)  // texts cannot go on
    add_others(grouping, now_s, reserve, step);
  if (step.parts.empty()) return std::nullopt;
  ++steps_in_flight_;
  other_steps_in_flight_ += step.kind != StepKind::kDecode;
  decode_steps_in_flight_ += step.decodes;
  step.predicted_s = model_.bottleneck_seconds(step.size());
  if (step.kind == StepKind::kDecode) owed_s_ = std::max(0.0, owed_s_ - step.predicted_s);
  if (step.kind != StepKind::kDecode && texts) owed_s_ += step.predicted_s;
  bottleneck_free_s_ = now_s + backlog_seconds(now_s) + step.predicted_s;
  in_flight_s_ += step.predicted_s;
  return step;
}

// What the slowest stage has still to do, as predicted. No more than what is in flight: where steps come back
// sooner than predicted, what they had been expected to take must not pile up and keep prompts waiting.
double Scheduler::backlog_seconds(double now_s) const {
  return std::clamp(bottleneck_free_s_ - now_s, 0.0, std::max(0.0, in_flight_s_));
}

void Scheduler::step_done(const ScheduledStep& step, const std::vector<double>& stage_seconds,
                          double hops_seconds) {
  --steps_in_flight_;
  decode_steps_in_flight_ -= step.decodes;
  other_steps_in_flight_ -= step.kind != StepKind::kDecode;
  in_flight_s_ = steps_in_flight_ == 0 ? 0 : in_flight_s_ - step.predicted_s;
  for (const StepPart& part : step.parts) {
    for (Entry& entry : sequences_) {
      if (entry.id == part.sequence) --entry.in_flight;
    }
  }
  model_.observe(step.size(), stage_seconds, hops_seconds);
}

Scheduler::Grouping Scheduler::grouping() {
  Grouping best;
  double positions = 0;
  int deepest_prompt = 0;
  for (const Entry& entry : sequences_) {
    if (!entry.decoding) {
      deepest_prompt = std::max(deepest_prompt, entry.sent);
      continue;
    }
    ++best.decoding;
    positions += entry.length;
  }
  if (best.decoding == 0) return best;
  const double mean = positions / best.decoding;
  auto size_of = [&](int rows) { return StepSize{double(rows), rows * mean}; };
  auto rows_of = [&](int groups) { return (best.decoding + groups - 1) / groups; };  // of the largest
  auto lap_of = [&](int groups) { return model_.lap_seconds(size_of(rows_of(groups))); };
  auto busy_of = [&](int groups) {
    const int rows = rows_of(groups);
    const int full = groups - (groups * rows - best.decoding);  // groups of `rows`; the others have one less
    return full * model_.bottleneck_seconds(size_of(rows)) +
           (groups - full) * model_.bottleneck_seconds(size_of(rows - 1));
  };
  // Seconds between two tokens of a sequence.
  auto gap_of = [&](int groups) { return std::max(lap_of(groups), busy_of(groups)); };
  const int most = std::min(best.decoding, limits_.steps_in_flight_max);
  const int least = std::min(most, (best.decoding + limits_.rows_max - 1) / limits_.rows_max);
  groups_ = std::clamp(groups_, least, most);
  // Another number must be worth the change. Where the slowest stage is always busy fewer groups are tried
  // even if they promise only as much: how long a larger group takes is learned by running one, and a model
  // that overestimates it calls it a tie at worst.
  double gap_s = gap_of(groups_);
  const double no_worse = busy_of(groups_) >= lap_of(groups_) ? kNoWorse : kTie;
  for (int groups = least; groups <= most; ++groups) {
    const double candidate_s = gap_of(groups);
    if (candidate_s > (groups < groups_ ? no_worse : kTie) * gap_s) continue;
    gap_s = candidate_s;
    groups_ = groups;
  }
  best.groups = groups_;
  best.rows = std::min(limits_.rows_max, rows_of(groups_));
  choose_steps(best, gap_of(groups_), size_of(best.rows), deepest_prompt);
  return best;
}

// W, tau and the pace: the most steps in flight that leave prompts a few rows beside each group.
void Scheduler::choose_steps(Grouping& grouping, double gap_s, const StepSize& group,
                             int deepest_prompt) const {
  const double bottleneck = model_.bottleneck_seconds(group);
  const double stages = model_.stages_seconds(group) / bottleneck;
  const double allowed = limits_.decode_stretch * gap_s;
  const auto with_prompt = [&](int rows) {
    return model_.bottleneck_seconds(sum(group, part_size(rows, deepest_prompt)));
  };
  const double worthwhile = with_prompt(kWorthwhileRows);
  const int most = std::clamp(static_cast<int>(std::ceil(model_.lap_seconds(group) / bottleneck)),
                              grouping.groups, limits_.steps_in_flight_max);
  for (int steps = most; steps >= grouping.groups; --steps) {
    grouping.steps = steps;
    grouping.bound_s = std::min(allowed / steps, (allowed - model_.hops_seconds(group)) / stages);
    if (grouping.bound_s >= worthwhile) break;
  }
  grouping.bound_s = std::max(grouping.bound_s, with_prompt(kProgressRows));
  grouping.backlog_s = (grouping.steps <= 2 ? 2 : 1.5) * grouping.bound_s;
}

// The rows of one group: the sequences that wait for their next token are shared among the groups that are
// not under way, so that group sizes stay within one row.
void Scheduler::add_decode_rows(const Grouping& grouping, const Reserve& reserve, ScheduledStep& step) {
  const int idle_groups = grouping.groups - decode_steps_in_flight_;
  if (idle_groups <= 0) return;
  auto waits = [](const Entry& e) { return e.decoding && e.in_flight == 0 && e.sent < e.length; };
  const int ready = static_cast<int>(std::count_if(sequences_.begin(), sequences_.end(), waits));
  int rows = std::min((ready + idle_groups - 1) / idle_groups, grouping.rows);
  for (Entry& entry : sequences_) {
    if (rows == 0) break;
    if (!waits(entry)) continue;
    if (reserve_rows(entry, 1, reserve) == 0) break;
    step.decodes = true;
    step.parts.push_back({entry.id, entry.sent, 1, /*wants_logits=*/true});
    ++entry.sent;
    ++entry.in_flight;
    --rows;
  }
}

// Steps of another kind: one at a time beside decoders.
void Scheduler::add_others(const Grouping& grouping, double now_s, const Reserve& reserve,
                           ScheduledStep& step) {
  if (grouping.decoding > 0 && other_steps_in_flight_ > 0) return;
  add_inputs(now_s, step);
  if (grouping.decoding > 0) add_embedding_rows(now_s, reserve, step);
}

// What an encoder reads, of all that wait as much as one step takes.
void Scheduler::add_inputs(double now_s, ScheduledStep& step) {
  int rows_left = limits_.rows_max;
  for (Entry* const entry : prompts_by_urgency(now_s, /*inputs=*/true)) {
    if (entry->input_rows > rows_left) continue;
    if (!step.parts.empty() && entry->input_kind != step.kind) continue;
    if (step.parts.empty() && steps_in_flight_ >= steps_alone(input_size(entry->input_rows))) return;
    step.kind = entry->input_kind;
    step.whole_inputs = true;
    step.parts.push_back({entry->id, 0, entry->input_rows, step.kind == StepKind::kEmbed});
    rows_left -= entry->input_rows;
    entry->input_rows = 0;
    ++entry->in_flight;
    shares_.charge(entry->user, std::exchange(entry->unread, 0));
  }
}

// Beside decoders: a chunk of the most urgent text whose embedding is wanted, in a step of its own.
void Scheduler::add_embedding_rows(double now_s, const Reserve& reserve, ScheduledStep& step) {
  if (!step.parts.empty()) return;
  for (Entry* const entry : prompts_by_urgency(now_s, /*inputs=*/false)) {
    if (entry->kind != StepKind::kEmbed) continue;
    const int wanted = std::min({entry->length - entry->sent, limits_.rows_max, kEmbeddingRows});
    const int rows = reserve_rows(*entry, wanted, reserve);
    if (rows > 0) add_part(*entry, rows, step);
    return;
  }
}

// The next rows of a prompt.
void Scheduler::add_part(Entry& entry, int rows, ScheduledStep& step) {
  const bool last = entry.sent + rows == entry.length;
  step.kind = entry.kind;
  step.parts.push_back({entry.id, entry.sent, rows, last});
  entry.sent += rows;
  ++entry.in_flight;
  entry.decoding = last && entry.kind == StepKind::kDecode;
  shares_.charge(entry.user, rows);
  entry.unread -= rows;
}

// Prompts, or inputs, that have not been sent whole.
std::vector<Scheduler::Entry*> Scheduler::prompts_by_urgency(double now_s, bool inputs) {
  struct Prompt {
    Entry* entry;
    int turn;
    double work_s;
  };
  std::vector<Prompt> prompts;
  std::set<std::string> users;
  const double row_s = model_.bottleneck_seconds(part_size(32, 0)) / 32;
  for (Entry& e : sequences_) {
    if (e.input_rows > 0 || e.has_prompt()) users.insert(e.user);  // of either kind: they share one pipeline
    if (inputs ? e.input_rows == 0 : !e.has_prompt()) continue;
    const double work_s = (e.length - e.sent + e.input_rows) * row_s - limits_.ageing * (now_s - e.since_s);
    prompts.push_back({&e, 0, work_s});
  }
  shares_.set_waiting(users);
  const auto rank = [&](const auto& before) { std::stable_sort(prompts.begin(), prompts.end(), before); };
  rank([](const Prompt& a, const Prompt& b) {
    return a.entry->priority != b.entry->priority ? a.entry->priority > b.entry->priority
                                                  : a.work_s < b.work_s;
  });
  std::map<std::string, double> rows_before;  // of each user
  for (Prompt& prompt : prompts) {
    double& rows = rows_before[prompt.entry->user];
    prompt.turn = shares_.turn(prompt.entry->user, rows);
    rows += prompt.entry->unread;
  }
  rank([](const Prompt& a, const Prompt& b) { return a.turn < b.turn; });  // stable: within a turn as before
  std::vector<Entry*> ordered;
  for (const Prompt& prompt : prompts) ordered.push_back(prompt.entry);
  return ordered;
}

int Scheduler::reserve_rows(const Entry& entry, int rows, const Reserve& reserve) {
  if (!reserve) return rows;
  const int granted = reserve(entry.id, entry.sent, rows);
  if (granted == 0 && !needy_) needy_ = entry.id;
  return granted;
}

void Scheduler::add_prompt_rows(const Grouping& grouping, double now_s, const Reserve& reserve,
                                ScheduledStep& step) {
  if (needy_) return;
  // Decoders pace their own steps. Where these queue before one slow stage there is always a backlog, so
  // one row goes with each whatever it is, or prompts would never get on; far into a long prompt a row alone
  // may cost as much as the decoders' own.
  int progress_left = step.decodes ? kProgressRows : 0;
  StepSize size = step.size();
  for (Entry* const entry : prompts_by_urgency(now_s, /*inputs=*/false)) {
    if (!step.parts.empty() && entry->kind != step.kind) continue;
    if (grouping.decoding > 0 && entry->kind != StepKind::kDecode) continue;
    int rows = std::min(entry->length - entry->sent, limits_.rows_max - static_cast<int>(size.rows));
    if (grouping.decoding > 0) {
      const double backlog_s = backlog_seconds(now_s);
      const double room_s = std::min(grouping.bound_s, grouping.backlog_s - backlog_s);
      const int least = std::min(rows, kWorthwhileRows);
      const int progress = std::min(rows, progress_left);
      rows = std::max(progress, rows_within(room_s, size, rows, entry->sent));
      progress_left = std::max(0, progress_left - rows);
      if (rows < least && size.rows == 0) {  // too far ahead: later
        wake_s_ = now_s + std::max(1e-4, backlog_s + grouping.bound_s - grouping.backlog_s);
        rows = 0;
      }
    } else {
      const int chunk = chunk_alone(entry->length - entry->sent, entry->sent);
      if (steps_in_flight_ >= steps_alone(part_size(chunk, entry->sent))) break;
      rows = std::min(rows, chunk - static_cast<int>(size.rows));
    }
    if (rows <= 0) break;
    rows = reserve_rows(*entry, rows, reserve);
    if (rows == 0) break;
    size = sum(size, part_size(rows, entry->sent));
    add_part(*entry, rows, step);
  }
}

// Rows of a chunk with which a prompt alone in the pipeline has its first token earliest: small chunks fill
// the stages sooner, large ones cost each stage less.
int Scheduler::chunk_alone(int rows, int position) const {
  int best = std::min(rows, limits_.rows_max);
  double best_s = kNever;
  for (int chunks = (rows + limits_.rows_max - 1) / limits_.rows_max; chunks <= rows;
       chunks += 1 + chunks / 8) {
    const int chunk = (rows + chunks - 1) / chunks;
    const StepSize size = part_size(chunk, position + rows / 2);
    const double bottleneck_s = model_.bottleneck_seconds(size);
    const double total_s = (chunks - 1) * bottleneck_s + model_.lap_seconds(size);
    if (total_s > 2 * best_s) break;  // far beyond the best
    if (total_s >= kTie * best_s) continue;
    best_s = total_s;
    best = chunk;
  }
  return best;
}

int Scheduler::steps_alone(const StepSize& chunk) const {
  return static_cast<int>(std::ceil(model_.lap_seconds(chunk) / model_.bottleneck_seconds(chunk))) + 2;
}

// The most rows, up to `rows`, with which a step that carries `beside` already takes the bottleneck at most
// `seconds`.
int Scheduler::rows_within(double seconds, const StepSize& beside, int rows, int position) const {
  int fits = 0;
  for (int low = 1, high = rows; low <= high;) {
    const int middle = low + (high - low) / 2;
    if (model_.bottleneck_seconds(sum(beside, part_size(middle, position))) <= seconds) {
      fits = middle;
      low = middle + 1;
    } else {
      high = middle - 1;
    }
  }
  return fits;
}

}  // namespace shoal
