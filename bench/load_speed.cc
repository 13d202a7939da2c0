// load_speed MODEL.gguf [threads [rounds]]: how fast a model is read and packed, against reading its file
// with the same threads, in turns, and the most memory that took beside the packed weights.
// load_speed --packers: packing alone, on one thread and in the cache, by format.
//
// Reading is measured into small buffers that stay in the caches, and into new memory, which is what a loader
// does that packs nothing: the system must find and zero every page. Both with the file in the page cache and
// after its pages have been dropped from there. The very first load stands apart: a virtual machine may
// have to get the memory from its host first, which the later ones find there.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

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
#include "tensor/aligned_buffer.h"
#include "tensor/format.h"

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

constexpr uint64_t kPiece = 1 << 20;

struct Piece {
  const TensorInfo* tensor;
  uint64_t at, bytes;
  uint64_t place;  // among all bytes
};

std::vector<Piece> pieces_of(const GgufFile& file) {
  std::vector<Piece> pieces;
  uint64_t place = 0;
  for (const TensorInfo& tensor : file.tensors()) {
    for (uint64_t at = 0; at < tensor.bytes; at += kPiece) {
      pieces.push_back({&tensor, at, std::min(kPiece, tensor.bytes - at), place});
      place += pieces.back().bytes;
    }
  }
  return pieces;
}

class LoadSpeed {
 public:
  LoadSpeed(const std::string& path, int threads)
      : pool_(threads),
        file_(GgufFile::open(path)),
        config_(ModelConfig::from(file_)),
        pieces_(pieces_of(file_)),
        buffers_(static_cast<size_t>(threads), std::vector<std::byte>(kPiece)) {}

  uint64_t bytes() const { return pieces_.back().place + pieces_.back().bytes; }
  double most_beyond_mib() const { return most_beyond_mib_; }
  double shard_mib() const { return shard_mib_; }

  // Asks the system to forget the file's pages; those not written to the disk yet stay.
  void drop_from_cache() const {
    for (const std::string& path : file_.part_paths()) {
      const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
      if (fd < 0) throw SetupError(path + " cannot be opened");
      const int rc = ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
      ::close(fd);
      if (rc != 0) throw SetupError(path + " cannot be dropped from the page cache");
    }
  }

  double read() {
    const auto begin = Clock::now();
    pool_.for_each(static_cast<int64_t>(pieces_.size()), [&](int64_t i, int thread) {
      const Piece& piece = pieces_[static_cast<size_t>(i)];
      file_.read(*piece.tensor, piece.at,
                 std::span(buffers_[static_cast<size_t>(thread)]).first(piece.bytes));
    });
    return seconds_since(begin);
  }

  double read_to_new_memory() {
    const auto begin = Clock::now();
    AlignedBuffer memory(bytes());
    pool_.for_each(static_cast<int64_t>(pieces_.size()), [&](int64_t i, int) {
      const Piece& piece = pieces_[static_cast<size_t>(i)];
      file_.read(*piece.tensor, piece.at, std::span(memory.data() + piece.place, piece.bytes));
    });
    return seconds_since(begin);
  }

  double load() {
    const double before = status_mib("VmRSS");
    const auto begin = Clock::now();
    const ShardWeights weights = load_shard(file_, config_, {true, {0, config_.n_layer}, true}, pool_);
    const double seconds = seconds_since(begin);
    shard_mib_ = static_cast<double>(weights.bytes()) / (1 << 20);
    most_beyond_mib_ = std::max(most_beyond_mib_, status_mib("VmHWM") - before - shard_mib_);
    return seconds;
  }

 private:
  ThreadPool pool_;
  GgufFile file_;
  ModelConfig config_;
  std::vector<Piece> pieces_;
  std::vector<std::vector<std::byte>> buffers_;
  double shard_mib_ = 0, most_beyond_mib_ = 0;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void run(const std::string& path, int threads, int rounds) {
  LoadSpeed speed(path, threads);
  const double first = speed.load();  // before anything else that could raise the most memory
  std::vector<double> cold_read, cold_load, read, new_memory, load;
  for (int i = 0; i < rounds; ++i) {
    speed.drop_from_cache();
    cold_read.push_back(speed.read());
    speed.drop_from_cache();
    cold_load.push_back(speed.load());
    read.push_back(speed.read());
    load.push_back(speed.load());
    new_memory.push_back(speed.read_to_new_memory());
  }
  const auto rate = [&](double seconds) { return static_cast<double>(speed.bytes()) / seconds / 1e9; };
  fmt::print(
      "{}, {} threads, median of {}; shard {:.0f} MiB, at most {:.1f} MiB beyond; first load {:.2f} GB/s\n",
      path.substr(path.rfind('/') + 1), threads, rounds, speed.shard_mib(), speed.most_beyond_mib(),
      rate(first));
  const double cold_r = median(cold_read), cold_l = median(cold_load), warm_r = median(read),
               warm_l = median(load), warm_n = median(new_memory);
  fmt::print("| from disk: read {:.2f} GB/s | loaded {:.2f} | {:.2f} of reading |\n", rate(cold_r),
             rate(cold_l), cold_r / cold_l);
  fmt::print(
      "| from the page cache: read {:.2f} GB/s | to new memory {:.2f} | loaded {:.2f} | {:.2f} of reading, "
      "{:.2f} "
      "of reading to new memory |\n",
      rate(warm_r), rate(warm_n), rate(warm_l), warm_r / warm_l, warm_n / warm_l);
}

// 16 rows that fit the second-level cache with their packed form, again and again; the best of many.
void measure_packers() {
  constexpr int64_t kCols = 4096;
  for (const std::string& name : known_formats()) {
    for (uint32_t id = 0; id < 64; ++id) {
      const Format* format = find_format(id);
      if (format == nullptr || name != format->name) continue;
      const std::vector<std::byte> rows(format->row_bytes(kCols) * kRowGroup, std::byte{0x2a});
      WeightMatrix packed(format->type, kRowGroup, kCols);
      double best = 1e9;
      for (int i = 0; i < 300; ++i) {
        const auto begin = Clock::now();
        packed.pack_rows(0, kRowGroup, rows);
        best = std::min(best, seconds_since(begin));
      }
      fmt::print("{} {:.1f} GB/s\n", name, static_cast<double>(rows.size()) / best / 1e9);
    }
  }
}

}  // namespace
}  // namespace shoal

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fputs("load_speed MODEL.gguf [threads [rounds]] | --packers\n", stderr);
    return 2;
  }
  if (std::string(argv[1]) == "--packers") {
    shoal::measure_packers();
    return 0;
  }
  try {
    const auto number = [&](int i, int fallback) {
      return argc > i ? std::clamp(std::atoi(argv[i]), 1, 1000) : fallback;
    };
    shoal::run(argv[1], number(2, 1), number(3, 3));
  } catch (const shoal::SetupError& error) {
    fmt::print(stderr, "load_speed: {}\n", error.what());
    return 1;
  }
  return 0;
}
