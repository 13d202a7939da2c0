// shoal bench: llama-bench's table (ppN reads a prompt of N tokens, tgN generates N tokens, "tgN @ dD" after
// D tokens of context), mean and standard deviation over repetitions; with --concurrency several sequences
// generate at once and their tokens are added up. The JSON also tells, of the same runs: time to the first
// token and between tokens, how busy each stage was, and bytes a token on each link.
#include <fmt/format.h>
#include <boost/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <map>

#include "base/units.h"
#include "node/command_support.h"
#include "node/progress.h"
#include "node/session.h"
#include "planner/service.h"

namespace shoal {
namespace {

struct BenchRow {
  std::string test;
  int prompt = 0, generate = 0, depth = 0;
  int concurrency = 1;
  std::vector<double> tokens_per_s;
  double mean = 0, deviation = 0;
  double predicted = 0;                // tokens/s by the plan; 0: it says nothing of this test
  std::vector<FidelityFigure> places;  // of a decoding step, where it does
  std::string places_text;
  std::vector<double> first_token_s, gaps_s;   // of all repetitions
  std::vector<double> busy_share;              // by stage, of the last repetition
  std::vector<NodeReport> nodes;               // what they sent in the last repetition
  std::map<std::string, uint64_t> link_bytes;  // likewise, by "sender to receiver"
  int tokens = 0;                              // positions computed in it
};

struct BenchRun {
  double tokens_per_s = 0, total_s = 0;
  std::vector<double> first_token_s, gaps_s;  // gaps: after every sequence has its first token
};

double percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const auto at = static_cast<size_t>(share * static_cast<double>(values.size()));
  return values[std::min(values.size() - 1, at)];
}

// Tokens/s that the plan promises for a test, or 0.
double predicted_tokens_per_s(const Cluster& cluster, const BenchRow& row) {
  if (cluster.plan_input.devices.empty()) return 0;
  if (row.generate > 0)
    return predict_service(cluster.plan_input, cluster.plan.stages, row.concurrency).tokens_per_second;
  if (row.concurrency > 1) return 0;  // prompts one after the other, and the first of them alone is planned
  PlanInput input = cluster.plan_input;
  input.workload.prompt_tokens = row.prompt;
  std::vector<StageAssignment> stages = cluster.plan.stages;
  return row.prompt / evaluate(input, stages).first_token_seconds;
}

// Forgets what was compared so far; the next figures are the coming test's alone.
void begin_comparing(Cluster& cluster) {
  if (!cluster.fidelity) return;
  cluster.node->io().call([&] { return cluster.fidelity->reset(), 0; });
}

void end_comparing(Cluster& cluster, BenchRow& row) {
  if (!cluster.fidelity || row.generate == 0) return;
  cluster.node->io().call([&] {
    row.places = cluster.fidelity->figures();
    row.places.push_back(cluster.fidelity->lap());
    row.places_text = render_fidelity(*cluster.fidelity);
    return 0;
  });
}

// Tokens that look like text to the caches: a fixed pseudo-random walk over the vocabulary (llama-bench draws
// random ones).
std::vector<int32_t> bench_tokens(int n, int n_vocab, uint64_t seed) {
  std::vector<int32_t> tokens;
  uint64_t state = seed * 0x9E3779B97F4A7C15u + 1;
  for (int i = 0; i < n; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    tokens.push_back(static_cast<int32_t>((state >> 33) % static_cast<uint64_t>(n_vocab)));
  }
  return tokens;
}

// Tokens per second of `concurrency` equal requests: of their prompts, until the last of them has its first
// token; or where more than one is generated, of the answers from then to their end.
BenchRun run_once(Cluster& cluster, int prompt, int generate, int concurrency, uint64_t seed) {
  const auto queue = std::make_shared<EventQueue>();
  const auto begin = std::chrono::steady_clock::now();
  auto elapsed = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  for (int i = 0; i < concurrency; ++i) {
    GenerationRequest request;
    request.prompt = bench_tokens(prompt, cluster.model.n_vocab, seed * 131 + static_cast<uint64_t>(i));
    request.user = fmt::format("bench {} {}", prompt, seed);  // no other test's cache holds its beginning
    request.max_tokens = generate;
    request.sampling.temperature = 0;
    request.ignore_end = true;
    request.on_event = [queue](const GenerationEvent& event) { queue->push(event); };
    cluster.coordinator->submit(std::move(request));
  }
  int first_tokens = 0, finished = 0, generated = 0;
  double prompts_read = 0;
  BenchRun run;
  std::map<uint64_t, double> last_token;
  while (finished < concurrency) {
    const GenerationEvent event = queue->pop();
    if (event.token >= 0 && first_tokens == concurrency) ++generated;
    if (event.token >= 0) {
      const double now = elapsed();
      const auto [last, first] = last_token.emplace(event.request, now);
      if (first) run.first_token_s.push_back(now);
      if (!first && first_tokens == concurrency) run.gaps_s.push_back(now - last->second);
      last->second = now;
      if (first && ++first_tokens == concurrency) prompts_read = now;
    }
    if (!event.finished) continue;
    if (event.reason == FinishReason::kError) throw SetupError(event.error.message, kExitFailed);
    ++finished;
  }
  run.total_s = elapsed();
  run.tokens_per_s =
      generate <= 1 ? prompt * concurrency / prompts_read : generated / (run.total_s - prompts_read);
  return run;
}

std::map<uint32_t, double> busy_seconds(const std::vector<StatsMessage>& stats) {
  std::map<uint32_t, double> busy;
  for (const StatsMessage& node : stats) {
    for (const StageReport& stage : node.stages)
      busy[stage.stage] = static_cast<double>(stage.busy_ns) * 1e-9;
  }
  return busy;
}

std::map<std::string, uint64_t> link_bytes(const std::vector<StatsMessage>& stats) {
  std::map<std::string, uint64_t> bytes;  // two nodes may share more than one link
  for (const StatsMessage& node : stats) {
    for (const LinkReport& link : node.links)
      bytes[fmt::format("{} to {}", node.node_name, link.peer)] += link.bytes_sent;
  }
  return bytes;
}

// `begin_run` hears of each run of the test before it begins.
BenchRow measure(Cluster& cluster, const BenchFlags& flags, int prompt, int generate, int concurrency,
                 const std::function<void(const std::string&)>& begin_run) {
  BenchRow row;
  row.prompt = prompt;
  row.generate = generate;
  row.depth = generate > 0 ? flags.depth : 0;
  row.test = generate > 0 ? fmt::format("tg{}", generate) : fmt::format("pp{}", prompt);
  if (row.depth > 0) row.test += fmt::format(" @ d{}", row.depth);
  const int read = generate > 0 ? std::max(1, row.depth) : prompt;
  row.concurrency = concurrency;
  for (int i = 0; i <= flags.repetitions; ++i) {
    begin_run(fmt::format("{}, {} at once", row.test, concurrency));
    // One token more is generated: the first belongs to the prompt.
    const std::vector<StatsMessage> before = cluster.node->collect_stats();
    const BenchRun run =
        run_once(cluster, read, generate > 0 ? generate + 1 : 1, concurrency, static_cast<uint64_t>(i) + 1);
    if (i == 0) {  // the first run warms up
      begin_comparing(cluster);
      continue;
    }
    row.tokens_per_s.push_back(run.tokens_per_s);
    row.first_token_s.insert(row.first_token_s.end(), run.first_token_s.begin(), run.first_token_s.end());
    row.gaps_s.insert(row.gaps_s.end(), run.gaps_s.begin(), run.gaps_s.end());
    const std::vector<StatsMessage> after = cluster.node->collect_stats();
    row.nodes = report_nodes(before, before, after, layout_now(cluster));
    row.link_bytes = link_bytes(after);
    for (const auto& [link, bytes] : link_bytes(before)) row.link_bytes[link] -= bytes;
    row.tokens = (read + std::max(0, generate)) * concurrency;
    row.busy_share.clear();
    std::map<uint32_t, double> busy_before = busy_seconds(before);
    for (const auto& [stage, seconds] : busy_seconds(after))
      row.busy_share.push_back((seconds - busy_before[stage]) / run.total_s);
  }
  end_comparing(cluster, row);
  row.predicted = predicted_tokens_per_s(cluster, row);
  for (const double t : row.tokens_per_s) row.mean += t / static_cast<double>(row.tokens_per_s.size());
  for (const double t : row.tokens_per_s) row.deviation += (t - row.mean) * (t - row.mean);
  const size_t n = row.tokens_per_s.size();
  row.deviation = n > 1 ? std::sqrt(row.deviation / static_cast<double>(n - 1)) : 0;
  return row;
}

boost::json::array places_json(const BenchRow& row) {
  boost::json::array places;
  for (const FidelityFigure& place : row.places) {
    if (place.samples == 0) continue;
    places.push_back({{"name", place.name},
                      {"kind", place.link            ? "link"
                               : place.hop           ? "hand-over"
                               : place.name == "lap" ? "lap"
                                                     : "stage"},
                      {"predicted_seconds", place.predicted_s},
                      {"measured_seconds", place.measured_s},
                      {"samples", place.samples}});
  }
  return places;
}

// The weights that products read for each token, all stages together: every matrix, the embedding only where
// it is the output head too.
struct WeightsPerToken {
  int64_t count = 0;
  uint64_t bytes = 0;
};

WeightsPerToken weights_per_token(const Cluster& cluster) {
  WeightsPerToken weights;
  for (const TensorInfo& tensor : cluster.file->tensors()) {
    const bool looked_up = tensor.name == "token_embd.weight" && !cluster.model.tied_output;
    if (tensor.dims.size() < 2 || looked_up) continue;
    weights.count += tensor.rows() * tensor.cols();
    weights.bytes += tensor.bytes;
  }
  return weights;
}

boost::json::object times_json(const std::vector<double>& seconds) {
  return {{"p50", 1e3 * percentile(seconds, 0.5)}, {"p99", 1e3 * percentile(seconds, 0.99)}};
}

// By the node that sends, over all its links.
boost::json::object bytes_json(const BenchRow& row) {
  boost::json::object bytes;
  for (const NodeReport& node : row.nodes)
    bytes[node.name] = static_cast<double>(node.bytes_sent) / std::max(1, row.tokens);
  return bytes;
}

boost::json::object link_bytes_json(const BenchRow& row) {
  boost::json::object per_token;
  for (const auto& [link, bytes] : row.link_bytes)
    per_token[link] = static_cast<double>(bytes) / std::max(1, row.tokens);
  return per_token;
}

std::string render(const Cluster& cluster, const BenchFlags& flags, const std::vector<BenchRow>& rows) {
  uint64_t bytes = 0;
  for (const TensorInfo& tensor : cluster.file->tensors()) bytes += tensor.bytes;
  const NodeConfig& head = cluster.config.nodes[static_cast<size_t>(cluster.config.head_index())];
  const int threads = cluster.pool->size();
  const size_t nodes = layout_now(cluster).node_of_stage.size();
  if (flags.output == "json") {
    const WeightsPerToken weights = weights_per_token(cluster);
    boost::json::array list;
    for (const BenchRow& row : rows) {
      list.push_back({{"model", cluster.model.name},
                      {"model_size", bytes},
                      {"weights_per_token", weights.count},
                      {"weight_bytes_per_token", weights.bytes},
                      {"backend", cluster.kernels->name},
                      {"n_threads", threads},
                      {"nodes", nodes},
                      {"head", head.name},
                      {"test", row.test},
                      {"n_prompt", row.prompt},
                      {"n_gen", row.generate},
                      {"n_depth", row.depth},
                      {"concurrency", row.concurrency},
                      {"first_token_ms", times_json(row.first_token_s)},
                      {"between_tokens_ms", times_json(row.gaps_s)},
                      {"stage_busy", boost::json::value_from(row.busy_share)},
                      {"bytes_per_token", bytes_json(row)},
                      {"link_bytes_per_token", link_bytes_json(row)},
                      {"avg_ts", row.mean},
                      {"stddev_ts", row.deviation},
                      {"samples_ts", boost::json::value_from(row.tokens_per_s)},
                      {"predicted_ts", row.predicted},
                      {"places", places_json(row)}});
    }
    return boost::json::serialize(list) + "\n";
  }
  if (flags.output == "csv") {
    std::string text = "model,size,backend,threads,nodes,test,concurrency,avg_ts,stddev_ts\n";
    for (const BenchRow& row : rows) {
      text += fmt::format("\"{}\",{},{},{},{},{},{},{:.3f},{:.3f}\n", cluster.model.name, bytes,
                          cluster.kernels->name, threads, nodes, row.test, row.concurrency, row.mean,
                          row.deviation);
    }
    return text;
  }
  std::string text =
      fmt::format("| {:<30} | {:>10} | {:<8} | {:>7} | {:>5} | {:>14} | {:>11} | {:>20} |\n", "model", "size",
                  "backend", "threads", "nodes", "test", "concurrency", "t/s");
  text += fmt::format("| {:-<30} | {:->9}: | {:-<8} | {:->6}: | {:->4}: | {:->13}: | {:->10}: | {:->19}: |\n",
                      "", "", "", "", "", "", "", "");
  for (const BenchRow& row : rows) {
    text += fmt::format("| {:<30.30} | {:>10} | {:<8} | {:>7} | {:>5} | {:>14} | {:>11} | {:>20} |\n",
                        cluster.model.name, format_bytes(bytes), cluster.kernels->name, threads, nodes,
                        row.test, row.concurrency, fmt::format("{:.2f} ± {:.2f}", row.mean, row.deviation));
  }
  return text;
}

std::vector<BenchRow> run_all(Cluster& cluster, const BenchFlags& flags, bool tell) {
  const auto real = [](int n) { return n > 0; };
  const auto tests = std::count_if(flags.prompt.begin(), flags.prompt.end(), real) +
                     std::count_if(flags.generate.begin(), flags.generate.end(), real);
  const auto runs =
      static_cast<uint64_t>(tests) * flags.concurrency.size() * static_cast<uint64_t>(flags.repetitions + 1);
  uint64_t done = 0;
  ProgressLine progress("benchmarking", tell);
  const auto begin_run = [&](const std::string& test) {
    progress.update("benchmarking " + test, done++, runs);
  };
  std::vector<BenchRow> rows;
  for (const int concurrency : flags.concurrency) {
    for (const int n : flags.prompt) {
      if (n > 0) rows.push_back(measure(cluster, flags, n, 0, concurrency, begin_run));
    }
    for (const int n : flags.generate) {
      if (n > 0) rows.push_back(measure(cluster, flags, 0, n, concurrency, begin_run));
    }
  }
  return rows;
}

}  // namespace

int bench_command(const CommonFlags& common, const BenchFlags& flags) {
  CommonFlags fitted = common;
  fitted.quiet = true;
  int longest = 0, most = 1;
  for (const int n : flags.prompt) longest = std::max(longest, n + 2);
  for (const int n : flags.generate) longest = std::max(longest, std::max(1, flags.depth) + n + 2);
  for (const int n : flags.concurrency) most = std::max(most, n);
  if (fitted.config.empty()) {
    if (fitted.context == 0) fitted.context = std::max(longest, 16);
    if (fitted.sequences == 0) fitted.sequences = most;
  }
  const auto check = [&](bool) {
    const auto none = [](const std::vector<int>& lengths) {
      return std::all_of(lengths.begin(), lengths.end(), [](int n) { return n == 0; });
    };
    if (none(flags.prompt) && none(flags.generate))
      throw SetupError(
          "-p 0 and -n 0 leave nothing to measure: give a prompt length (-p) or tokens to generate (-n)");
  };
  return with_cluster(fitted, check, [&](Cluster& cluster) {
    if (longest > cluster.config.context || most > cluster.config.sequences) {
      throw SetupError(
          fmt::format("{}: the benchmark needs a context of {} and {} sequences; the cluster file has {} "
                      "and {} (--context and --sequences override it)",
                      cluster.config.path, longest, most, cluster.config.context, cluster.config.sequences));
    }
    const TraceSession trace(common.trace, cluster);
    const std::vector<BenchRow> rows = run_all(cluster, flags, !common.quiet);
    std::fputs(render(cluster, flags, rows).c_str(), stdout);
    if (common.quiet) return;
    for (const BenchRow& row : rows) {
      if (!row.places_text.empty())
        std::fputs(fmt::format("{}, {} at once\n{}", row.test, row.concurrency, row.places_text).c_str(),
                   stderr);
    }
  });
}

}  // namespace shoal
