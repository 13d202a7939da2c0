#include "node/pull/download.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "base/printable.h"
#include "base/units.h"
#include "node/pull/partial_file.h"

namespace shoal {
namespace {

namespace asio = boost::asio;
using asio::awaitable;
using asio::use_awaitable;

constexpr auto kWaitMax = std::chrono::milliseconds(30'000);
constexpr int kRetryAfterMaxS = 120;
constexpr uint64_t kBytesOfProgress = uint64_t{1}
                                      << 20;  // what makes a broken transfer count as one that went on

awaitable<void> sleep_for(std::chrono::milliseconds time) {
  asio::steady_timer timer(co_await asio::this_coro::executor, time);
  co_await timer.async_wait(use_awaitable);
}

// Puts a body into the partial file, wherever the server makes it begin.
class FileSink : public BodySink {
 public:
  FileSink(PartialFile& partial, const HubFile& file, const std::function<void(uint64_t)>& progress)
      : partial_(partial), file_(file), progress_(progress) {}

  Result<void> begin(const HttpHead& head) override {
    if (head.status == 206) {
      if (head.range_first != partial_.bytes() || head.range_total.value_or(file_.bytes) != file_.bytes)
        return wrong(head.url, "sends another part than was asked for");
    } else if (partial_.bytes() > 0) {
      partial_.clear();  // it has no parts: all of it comes
    }
    if (head.length && *head.length != file_.bytes - partial_.bytes())
      return wrong(head.url, fmt::format("is about to send {} bytes where {} are missing", *head.length,
                                         file_.bytes - partial_.bytes()));
    return boost::system::in_place_value;
  }

  Result<void> write(std::span<const char> bytes) override {
    if (bytes.size() > file_.bytes - partial_.bytes()) {
      partial_.clear();  // it is of another file
      return Error{Errc::kRefused, fmt::format("the server sends more than the {} bytes of {}", file_.bytes,
                                               in_quotes(file_.path))};
    }
    partial_.write(bytes);
    progress_(partial_.bytes());
    return boost::system::in_place_value;
  }

 private:
  Error wrong(const Url& url, const std::string& what) const {
    return {Errc::kRefused, fmt::format("{} {} of {}", url.origin(), what, in_quotes(file_.path))};
  }

  PartialFile& partial_;
  const HubFile& file_;
  const std::function<void(uint64_t)>& progress_;
};

// Opens PATH.partial, waiting for another process that has it. False where the file is there by now.
awaitable<bool> open_partial(const DownloadOptions& options, PartialFile& partial,
                             const std::filesystem::path& path) {
  bool told = false;
  while (!partial.try_open()) {
    if (!told) options.say("another shoal pull is at work on this file; waiting for it");
    told = true;
    co_await sleep_for(std::chrono::milliseconds(300));
    std::error_code ec;
    if (std::filesystem::exists(path, ec)) co_return false;
  }
  co_return true;
}

// What one request for the rest of the file came to.
awaitable<Result<HttpHead>> get_rest(const DownloadOptions& options, const Url& url, const HubFile& file,
                                     PartialFile& partial, const ModelName& name,
                                     const std::function<void(uint64_t)>& progress) {
  FileSink sink(partial, file, progress);
  Result<HttpHead> head = co_await http_get(options.http, url, partial.bytes(), sink);
  if (!head) co_return head;
  if (head->status == 416) partial.clear();  // it has not even as much as is here
  if (head->status != 200 && head->status != 206 && head->status != 416) {
    if (!is_temporary(head->status)) co_return refusal(*head, name, !options.http.token.empty());
  } else if (partial.bytes() < file.bytes && head->status != 416) {
    co_return Error{Errc::kPeerLost, fmt::format("{}: the connection ended early", head->url.origin())};
  }
  co_return head;
}

}  // namespace

awaitable<void> wait_or_give_up(const DownloadOptions& options, const Error& error, int failures,
                                std::optional<int> retry_after_s, const std::string& more) {
  const bool again =
      error.code == Errc::kPeerLost || error.code == Errc::kTimeout || error.code == Errc::kQueueFull;
  if (!again || failures >= options.tries || retry_after_s.value_or(0) > kRetryAfterMaxS) {
    throw SetupError(error.message + (again ? more : ""), kExitFailed);
  }
  auto wait = std::min(options.first_wait * (1 << std::min(failures - 1, 10)), kWaitMax);
  if (retry_after_s) wait = std::chrono::seconds(*retry_after_s);
  options.say(
      fmt::format("{}; trying again in {:.1f} s", error.message, static_cast<double>(wait.count()) / 1000));
  co_await sleep_for(wait);
}

awaitable<void> download_file(const DownloadOptions& options, const Url& url, const HubFile& file,
                              const std::filesystem::path& path, const ModelName& name,
                              const std::function<void(uint64_t)>& progress) {
  PartialFile partial(path);
  if (!co_await open_partial(options, partial, path)) co_return;
  if (partial.bytes() > file.bytes) partial.clear();
  bool resumed = partial.bytes() > 0;
  while (partial.hash_more()) co_await asio::post(use_awaitable);  // an interrupt is noticed between
  int failures = 0;
  for (uint64_t counted = partial.bytes();;) {
    progress(partial.bytes());
    Error error{Errc::kIo, ""};
    std::optional<int> retry_after_s;
    if (partial.bytes() < file.bytes) {
      const Result<HttpHead> head = co_await get_rest(options, url, file, partial, name, progress);
      if (!head) {
        error = head.error();
      } else if (partial.bytes() < file.bytes) {
        error = refusal(*head, name, !options.http.token.empty());
        error.code = Errc::kQueueFull;
        retry_after_s = head->retry_after_s;
      }
    }
    if (partial.bytes() == file.bytes && error.message.empty()) {
      const std::string sha256 = partial.sha256();
      if (sha256 == file.sha256) break;
      if (!resumed) {
        partial.clear();
        throw SetupError(
            fmt::format(
                "{}: what arrived has another SHA-256 ({}) than the hub says ({}); it was removed. Try "
                "again, or another --mirror",
                in_quotes(file.path), sha256, file.sha256),
            kExitFailed);
      }
      options.say("what was left of an earlier download does not belong to this file; beginning anew");
      resumed = false;
      partial.clear();
      continue;
    }
    failures = partial.bytes() >= counted + kBytesOfProgress ? 1 : failures + 1;
    counted = std::max(counted, partial.bytes());
    const std::string kept = partial.bytes() == 0
                                 ? ""
                                 : fmt::format("; {} of {} are kept, and the same command goes on from there",
                                               format_bytes(partial.bytes()), format_bytes(file.bytes));
    co_await wait_or_give_up(options, error, failures, retry_after_s, kept);
  }
  partial.finish();
}

}  // namespace shoal
