// shoal quantize.
#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>
#include <thread>

#include "base/printable.h"
#include "base/small_file.h"
#include "base/units.h"
#include "model/gguf_output.h"
#include "model/model_config.h"
#include "model/quantize.h"
#include "node/cluster_config.h"
#include "node/commands.h"
#include "node/progress.h"
#include "node/quality_report.h"
#include "tensor/format.h"

namespace shoal {
namespace {

constexpr size_t kReportBytesMax = size_t{1} << 30;  // of the text that is predicted; days of work

std::string read_text(const std::string& path) {
  Result<SmallFile> read = read_small_file(path, kReportBytesMax, Pipes::kTaken);
  if (read) return std::move(read->text);
  throw SetupError("the text " + in_quotes(path, 4096) +
                   " of --report cannot be read: " + read.error().message);
}

// A model half written is gigabytes that nobody wants.
extern "C" void end_without_remains(int signal) {
  GgufOutput::remove_unfinished();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

// "Q4_K 168, Q6_K 43, F32 61": tensors of each type.
std::string types_of(const GgufFile& file) {
  std::map<std::string, int> counts;
  for (const TensorInfo& tensor : file.tensors()) ++counts[format_of(tensor.type).name];
  std::string text;
  for (const auto& [name, n] : counts) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", name, n);
  return text;
}

}  // namespace

int quantize_command(const QuantizeFlags& flags) {
  std::optional<std::string> text;
  if (!flags.report.empty()) text = read_text(flags.report);  // before the long work
  const GgufFile source = GgufFile::open(resolve_model_path(flags.in, ""));
  if (text && ModelConfig::from(source).encodes()) {
    throw SetupError("--report: how well a text is predicted can be told of models that only decode, and " +
                     in_quotes(flags.in, 4096) + " has an encoder; leave --report out");
  }
  if (text) check_report_text(source, *text);
  for (const std::string& read : {flags.imatrix, flags.report}) {
    std::error_code absent;
    if (!read.empty() && std::filesystem::equivalent(read, flags.out, absent))
      throw SetupError("the output " + in_quotes(flags.out, 4096) + " is read too; give another name");
  }
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT}) {
    if (std::signal(signal, end_without_remains) == SIG_IGN) std::signal(signal, SIG_IGN);  // as nohup asks
  }
  QuantizeOptions options;
  options.type = flags.type;
  options.pure = flags.pure;
  options.allow_requantize = flags.allow_requantize;
  if (!flags.imatrix.empty()) options.importance = read_importance(flags.imatrix);
  const int threads =
      flags.threads > 0 ? flags.threads : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  ThreadPool pool(threads);
  {
    ProgressLine progress("quantizing");
    quantize_model(source, flags.out, options, pool,
                   [&](uint64_t done, uint64_t total) { progress.update(done, total); });
  }
  const GgufFile result = GgufFile::open(flags.out);
  std::fputs(fmt::format("{}: {} -> {}: {} ({})\n", flags.type, format_bytes(source.total_bytes()),
                         in_quotes(flags.out, 4096), format_bytes(result.total_bytes()), types_of(result))
                 .c_str(),
             stderr);
  if (!text) return kExitDone;
  QualityReport report;
  {
    ProgressLine progress("comparing");
    report = compare_quality(source, result, *text, pool,
                             [&](uint64_t done, uint64_t total) { progress.update(done, total); });
  }
  std::fputs(render(report).c_str(), stdout);
  return kExitDone;
}

}  // namespace shoal
