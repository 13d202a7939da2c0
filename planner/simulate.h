// A seeded discrete-event run of a plan under a workload, on the planner's cost model: what requests would
// see, where devices wait, how busy links are, what it takes in energy. The same input gives the same report
// on any machine.
//
// What is simulated. Requests arrive at given times, wait for one of `sequences` places, are read in prompt
// chunks and then decode one token a step. A step passes link, stage, link, ... and home; devices and links
// serve in order of arrival; a link is occupied for bytes / bandwidth and delivers its latency later. The
// head forms steps by the runtime's rules (DESIGN of the scheduler, simplified): at most G steps carry decode
// rows, G as predict_service() chooses it for the sequences that decode; prompt chunks of 32 rows follow each
// other while nothing decodes, and otherwise ride along in pieces that at most double a step's time at the
// busiest place; prompts in order of arrival. Not simulated: growing attention with context, jitter, lost
// nodes, refused requests. Pure; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "planner/types.h"

namespace shoal {

inline constexpr int kSimulatedRequestsMax = 100'000;
inline constexpr int64_t kSimulatedTokensMax = 20'000'000;

struct SimulatedRequest {
  double arrival_s = 0;
  int prompt_tokens = 1;
  int output_tokens = 1;
};

struct PoissonLoad {
  uint64_t seed = 1;
  double requests_per_s = 1;  // <= 0: all at once
  int requests = 100;
  int prompt_tokens = 128;  // means; lengths are uniform from half to one and a half of them if `vary`
  int output_tokens = 128;
  bool vary = true;
};
std::vector<SimulatedRequest> poisson_requests(const PoissonLoad& load);

// A line a request: "arrival seconds, prompt tokens, output tokens"; '#' begins a comment. Sorted by arrival.
Result<std::vector<SimulatedRequest>> requests_from_trace(std::string_view text, const std::string& what);

struct Percentiles {
  double p50 = 0, p95 = 0, p99 = 0, max = 0;
};

struct SimulatedPlace {
  std::string name;  // "pi-1", or "pi-1 -> pi-2"
  bool link = false;
  double busy_share = 0;  // of the whole run; a device's bubbles are the rest
  int64_t steps = 0;
  uint64_t bytes = 0;  // links only
};

struct SimulationReport {
  int requests = 0;
  double seconds = 0;  // from the first arrival to the last token
  double tokens_per_second = 0;
  Percentiles first_token_seconds;  // from arrival, waiting included
  Percentiles seconds_per_token;    // a request's mean after its first token
  Percentiles request_seconds;
  double busiest_share = 0;
  std::vector<SimulatedPlace> places;
  double joules = 0;  // 0: some device's watts are unknown
  double joules_per_token = 0;
  int64_t steps = 0;
  int64_t prompt_tokens = 0, output_tokens = 0;
};

// `stages` as evaluate() filled them; `requests` not empty, sorted by arrival. Throws SetupError beyond the
// limits.
SimulationReport simulate(const PlanInput& input, const std::vector<StageAssignment>& stages,
                          const std::vector<SimulatedRequest>& requests, int sequences);

std::string render_simulation(const SimulationReport& report);

}  // namespace shoal
