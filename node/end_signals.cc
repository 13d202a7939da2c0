#include "node/end_signals.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <boost/asio/buffer.hpp>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <utility>

#include "base/check.h"
#include "base/error.h"

namespace shoal {
namespace {

using std::chrono::milliseconds;

// All that the handler touches.
std::atomic<int> heard_at{-1};  // the descriptor of who hears the next signal; -1: nobody
std::atomic<int64_t> at_once_from_ms{0}, same_signal_ms{0};
std::atomic<bool> any_came{false};
static_assert(std::atomic<int64_t>::is_always_lock_free && std::atomic<int>::is_always_lock_free);

int64_t now_ms() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

void leave_in_peace_until(int64_t ms) {
  if (at_once_from_ms < ms) at_once_from_ms = ms;
}

extern "C" void on_end_signal(int) {
  const int before = errno;
  const int64_t now = now_ms();
  // Before nobody hears any more: two threads may be here at once.
  if (heard_at >= 0) leave_in_peace_until(now + same_signal_ms);
  const int descriptor = heard_at.exchange(-1);
  if (descriptor >= 0) {
    any_came = true;
    const uint64_t one = 1;
    (void)!::write(descriptor, &one, sizeof one);
  } else if (now >= at_once_from_ms) {
    ::_exit(kExitDone);
  }
  errno = before;
}

// One for the whole process, never closed: a handler may be about to write to it.
int event_descriptor() {
  static const int descriptor = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  SHOAL_CHECK(descriptor >= 0);
  return descriptor;
}

}  // namespace

void EndSignals::end_at_once() {
  same_signal_ms = std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr ? 1000 : 250;
  for (const int number : {SIGINT, SIGTERM}) std::signal(number, on_end_signal);
}

bool EndSignals::came() {
  return any_came;
}

EndSignals::EndSignals(IoThread& io, std::function<void()> first, std::function<void()> again,
                       milliseconds patience)
    : io_(io),
      first_(std::move(first)),
      again_(std::move(again)),
      patience_(patience),
      heard_(io.executor(), event_descriptor()) {
  io_.call([this] { return wait(), 0; });
  heard_at = event_descriptor();
  end_at_once();
}

EndSignals::~EndSignals() {
  leave_in_peace_until(now_ms() + patience_.count());
  heard_at = -1;
  io_.call([this] { return heard_.release(), 0; });  // which ends the waiting too
  io_.call([] { return 0; });                        // what was on its way to tell() has been there
}

void EndSignals::wait() {
  heard_.async_read_some(boost::asio::buffer(&count_, sizeof count_),
                         [this](const boost::system::error_code& cancelled, size_t) {
                           if (!cancelled) tell();
                         });
}

void EndSignals::tell() {
  const auto now = std::chrono::steady_clock::now();
  if (!came_) {
    came_ = now;
    first_();
  } else if (now - *came_ >= milliseconds(same_signal_ms)) {
    again_();
  }
  if (!again_) return;
  wait();
  heard_at = event_descriptor();
}

}  // namespace shoal
