// shoal probe and shoal inspect: what this device can do, and what is in a model file.
#include <fmt/format.h>
#include <boost/json.hpp>

#include <cstdio>
#include <iostream>

#include "base/units.h"
#include "model/inspect.h"
#include "node/best_threads.h"
#include "node/command_support.h"
#include "node/probe.h"
#include "node/process_memory.h"

namespace shoal {

int probe_command(const CommonFlags& common, bool json) {
  const Kernels& kernels = select_kernels(common.kernels);
  const int threads = common.threads > 0 ? common.threads : device_processors();
  std::string tables;
  for (const Kernels* table : available_kernels())
    tables += (tables.empty() ? "" : ", ") + std::string(table->name);
  const double read = probe_memory_read(threads);
  boost::json::object out{{"host", host_name()},       {"kernels", kernels.name},
                          {"threads", threads},        {"processors", device_processors()},
                          {"memory", device_memory()}, {"memory_read_bytes_per_second", read}};
  std::string text = fmt::format(
      "host         {}\nprocessors   {} ({} thread{} used)\nkernels      {} (available: {})\nmemory       "
      "{}\n"
      "memory read  {:.1f} GB/s\n",
      host_name(), device_processors(), threads, threads == 1 ? "" : "s", kernels.name, tables,
      format_bytes(device_memory()), read / 1e9);
  if (!common.model.empty()) {
    const GgufFile file = GgufFile::open(resolve_model_path(common.model, ""));
    const ModelConfig config = ModelConfig::from(file);
    const std::vector<ThreadCount> counts =
        measure_thread_counts(file, config, kernels, device_memory(), device_processors());
    const int best = best_thread_count(counts);
    out["best_threads"] = best;
    text += fmt::format("best threads {} (", best);
    for (const ThreadCount& count : counts) {
      text += fmt::format("{}{}: {} a token", count.threads == 1 ? "" : ", ", count.threads,
                          format_seconds(count.token_seconds));
    }
    text += ")\n";
    DeviceProfile profile = probe_device(file, config, kernels, {threads, device_memory()});
    profile.name = host_name();
    out["profile"] = boost::json::parse(device_profile_to_json(profile));
    text += fmt::format("model        {} ({} layers)\n", config.name, config.n_layer);
    for (const RowSeconds& p : profile.decode_layer) {
      text += fmt::format("  layer, {:>2} row{}   {}\n", p.rows, p.rows == 1 ? " " : "s",
                          format_seconds(p.seconds));
    }
    for (const RowSeconds& p : profile.output_head) {
      text += fmt::format("  output, {:>2} row{}  {}\n", p.rows, p.rows == 1 ? " " : "s",
                          format_seconds(p.seconds));
    }
    text +=
        fmt::format("  layer, a row of a prompt  {}\n", format_seconds(profile.prefill_layer_row_seconds));
  }
  std::fputs((json ? boost::json::serialize(out) + "\n" : text).c_str(), stdout);
  return kExitDone;
}

int inspect_command(const std::string& model) {
  const GgufFile file = GgufFile::open(resolve_model_path(model, ""));
  inspect_model(file, std::cout);
  return kExitDone;
}

}  // namespace shoal
