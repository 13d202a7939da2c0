// load_speed MODEL.gguf [threads]: how fast a model is read and packed, against reading its file alone with
// the same threads, and the most memory that took beside the packed weights. The file is in the page cache
// when it has just been read; drop the cache (or use a file larger than memory) for the disk's figure.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "model/gguf_file.h"
#include "sharding/shard.h"

namespace shoal {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// MiB of a line of /proc/self/status, or 0 where there is none.
double status_mib(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(field + ":")) return std::strtod(line.c_str() + field.size() + 1, nullptr) / 1024;
  }
  return 0;
}

// Seconds to read every tensor in pieces of 1 MiB, the pieces dealt out among the threads.
double read_all(const GgufFile& file, ThreadPool& pool) {
  constexpr uint64_t kPiece = 1 << 20;
  std::vector<std::vector<std::byte>> buffers(static_cast<size_t>(pool.size()),
                                              std::vector<std::byte>(kPiece));
  const auto begin = Clock::now();
  for (const TensorInfo& tensor : file.tensors()) {
    pool.run([&](int thread) {
      const uint64_t stride = kPiece * static_cast<uint64_t>(pool.size());
      for (uint64_t at = kPiece * static_cast<uint64_t>(thread); at < tensor.bytes; at += stride) {
        const uint64_t n = std::min(kPiece, tensor.bytes - at);
        file.read(tensor, at, std::span(buffers[static_cast<size_t>(thread)]).first(n));
      }
    });
  }
  return seconds_since(begin);
}

void run(const std::string& path, int threads) {
  ThreadPool pool(threads);
  const GgufFile file = GgufFile::open(path);
  const ModelConfig config = ModelConfig::from(file);
  const ShardSpec all{true, {0, config.n_layer}, true};
  uint64_t bytes = 0;
  for (const TensorInfo& tensor : file.tensors()) bytes += tensor.bytes;
  const double first = read_all(file, pool), again = read_all(file, pool);
  const double before = status_mib("VmRSS");
  const auto begin = Clock::now();
  const ShardWeights weights = load_shard(file, config, all, pool);
  const double load = seconds_since(begin);
  const double beyond = status_mib("VmHWM") - before - static_cast<double>(weights.bytes()) / (1 << 20);
  const auto rate = [&](double seconds) { return static_cast<double>(bytes) / seconds / 1e9; };
  fmt::print(
      "| {} | {} | first read {:.2f} GB/s, again {:.2f} | read and packed {:.2f} GB/s | {:.2f} of reading | "
      "{:.0f} MiB, at most {:.1f} MiB beyond |\n",
      path.substr(path.rfind('/') + 1), threads, rate(first), rate(again), rate(load), again / load,
      static_cast<double>(weights.bytes()) / (1 << 20), beyond);
}

}  // namespace
}  // namespace shoal

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fputs("load_speed MODEL.gguf [threads]\n", stderr);
    return 2;
  }
  try {
    shoal::run(argv[1], argc > 2 ? std::max(1, std::atoi(argv[2])) : 1);
  } catch (const shoal::SetupError& error) {
    fmt::print(stderr, "load_speed: {}\n", error.what());
    return 1;
  }
  return 0;
}
