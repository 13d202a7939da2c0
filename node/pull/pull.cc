#include "node/pull/pull.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <csignal>
#include <cstdlib>

#include "base/printable.h"
#include "base/units.h"

namespace shoal {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;
using asio::awaitable;
using Clock = std::chrono::steady_clock;

constexpr uint64_t kBytesLeftFree = uint64_t{64} << 20;  // of the disk, for everything else

// One line that is written over on a terminal; elsewhere a line now and then.
class DownloadLine {
 public:
  DownloadLine(std::string name, uint64_t total, uint64_t already)
      : name_(std::move(name)), total_(total), first_(already), on_terminal_(isatty(STDERR_FILENO) == 1) {}
  ~DownloadLine() { clear(); }

  void update(uint64_t done) {
    const auto now = Clock::now();
    if (now - shown_ < (on_terminal_ ? std::chrono::milliseconds(200) : std::chrono::milliseconds(10'000)))
      return;
    shown_ = now;
    const double seconds = std::chrono::duration<double>(now - started_).count();
    const double rate = done > first_ && seconds > 0 ? static_cast<double>(done - first_) / seconds : 0;
    const std::string left =
        rate > 0 ? fmt::format(", {}/s, {:.0f} s left", format_bytes(static_cast<uint64_t>(rate)),
                               static_cast<double>(total_ - std::min(done, total_)) / rate)
                 : "";
    const std::string text =
        fmt::format("{}  {} %  {} of {}{}", name_, done * 100 / std::max<uint64_t>(total_, 1),
                    format_bytes(done), format_bytes(total_), left);
    std::fputs((on_terminal_ ? "\r" + text + "\x1b[K" : text + "\n").c_str(), stderr);
  }
  void clear() {
    if (on_terminal_) std::fputs("\r\x1b[K", stderr);
  }

 private:
  std::string name_;
  uint64_t total_, first_;
  bool on_terminal_;
  Clock::time_point started_ = Clock::now(), shown_ = started_ - std::chrono::hours(1);
};

void check_room(const ModelStore& store, const PulledModel& model) {
  const uint64_t here = std::min(store.bytes_here(model), model.bytes());
  std::error_code ec;
  fs::path folder = store.root();
  while (!fs::exists(folder, ec) && folder.has_parent_path() && folder != folder.parent_path())
    folder = folder.parent_path();
  const fs::space_info space = fs::space(folder, ec);
  if (ec || model.bytes() - here + kBytesLeftFree <= space.available) return;
  throw SetupError(
      fmt::format("{} needs {} more on the disk of {}, where {} are free; make room (shoal list, shoal rm "
                  "NAME) or set XDG_CACHE_HOME to another disk",
                  model.shown_name(), format_bytes(model.bytes() - here),
                  in_quotes(store.root().string(), 4096), format_bytes(space.available)),
      kExitFailed);
}

// A model of which nothing came leaves no record.
class RecordOfSomething {
 public:
  RecordOfSomething(const ModelStore& store, const PulledModel& model) : store_(store), model_(model) {
    store_.record(model_);
  }
  ~RecordOfSomething() { store_.forget_if_nothing_came(model_); }

 private:
  const ModelStore& store_;
  const PulledModel model_;  // its own: the other is moved to the caller
};

awaitable<std::vector<HubFile>> ask_for_files(const PullOptions& options, const ModelName& name) {
  for (int failures = 1;; ++failures) {
    std::optional<int> retry_after_s;
    Result<std::vector<HubFile>> listed =
        co_await list_files(options.download.http, options.hub, name, retry_after_s);
    if (listed) {
      Result<std::vector<HubFile>> chosen = choose_files(*listed, name);
      if (!chosen) throw SetupError(chosen.error().message);
      co_return std::move(*chosen);
    }
    co_await wait_or_give_up(options.download, listed.error(), failures, retry_after_s, "");
  }
}

awaitable<PulledModel> pull(const PullOptions& options, const ModelStore& store, const ModelName& name) {
  PulledModel model;
  model.files = co_await ask_for_files(options, name);
  model.name = {name.user, name.repo, quant_of(model.files.front().path), model.files.front().path};
  model.origin = options.hub.origin();
  check_room(store, model);
  // What is left of another version of this model, as the hub had it once.
  const std::optional<PulledModel> before = store.find(model.name);
  const auto same = [](const HubFile& a, const HubFile& b) {
    return a.path == b.path && a.sha256 == b.sha256;
  };
  if (before &&
      !std::equal(before->files.begin(), before->files.end(), model.files.begin(), model.files.end(), same))
    store.remove(*before);
  const RecordOfSomething record(store, model);

  uint64_t already = std::min(store.bytes_here(model), model.bytes()), earlier_files = 0;
  DownloadLine line(model.shown_name(), model.bytes(), already);
  DownloadOptions download = options.download;
  download.say = [&](const std::string& text) {
    line.clear();
    options.download.say(text);
  };
  for (const HubFile& file : model.files) {
    const fs::path path = store.path_of(model, file);
    std::error_code absent;
    if (fs::file_size(path, absent) != file.bytes || absent) {
      co_await download_file(download, file_url(options.hub, name, file.path), file, path, name,
                             [&](uint64_t bytes) { line.update(earlier_files + bytes); });
    }
    earlier_files += file.bytes;
  }
  co_return model;
}

}  // namespace

PullOptions pull_options(const std::string& mirror, bool allow_http) {
  std::string hub = mirror, source = "--mirror";
  for (const char* variable : {"SHOAL_MIRROR", "HF_ENDPOINT"}) {
    const char* value = std::getenv(variable);
    if (hub.empty() && value != nullptr && *value != '\0') hub = value, source = variable;
  }
  if (hub.empty()) hub = kDefaultHub;
  Result<Url> url = parse_url(hub);
  if (!url) throw SetupError(source + ": " + url.error().message);
  if (url->target.find('?') != std::string::npos)
    throw SetupError(source + ": an address without '?' is needed");
  PullOptions options;
  options.hub = std::move(*url);
  options.download.http.allow_http = allow_http;
  options.download.http.token_origin = options.hub;
  options.download.say = [](const std::string& text) { std::fputs((text + "\n").c_str(), stderr); };
  if (const char* token = std::getenv("HF_TOKEN"); token != nullptr) {
    options.download.http.token = token;
    const bool clean = std::all_of(options.download.http.token.begin(), options.download.http.token.end(),
                                   [](unsigned char c) { return c > ' ' && c < 0x7f; });
    if (!clean) throw SetupError("HF_TOKEN holds blanks or unusual characters: it is no token");
  }
  return options;
}

PulledModel pull_model(const PullOptions& options, const ModelStore& store, const ModelName& name) {
  asio::io_context io;
  // A second signal ends the program at once.
  asio::signal_set signals(io, SIGINT, SIGTERM);
  bool interrupted = false;
  signals.async_wait([&](const boost::system::error_code& error, int) {
    if (error) return;
    interrupted = true;
    signals.clear();
    io.stop();
  });
  std::optional<PulledModel> model;
  std::exception_ptr fault;
  asio::co_spawn(io, pull(options, store, name), [&](std::exception_ptr error, PulledModel pulled) {
    fault = error;
    if (!error) model = std::move(pulled);
    signals.cancel();
  });
  io.run();
  if (fault) std::rethrow_exception(fault);
  if (interrupted || !model) {
    throw SetupError(
        fmt::format("interrupted; what has arrived is kept, and the same command goes on from there "
                    "(shoal rm {} removes it)",
                    name.text()),
        kExitFailed);
  }
  return std::move(*model);
}

}  // namespace shoal
