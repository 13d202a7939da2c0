// SIGINT and SIGTERM of a process that ends in order. Its handlers are never taken off again: in a moment
// without them a second signal would kill the process while it ends, and its status would say so.
//
// What comes within a moment of the first is the same signal: timeout(1) sends one to the process and to its
// group, mpirun passes one on several times for a second.
#pragma once

#include <boost/asio/posix/stream_descriptor.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>

#include "node/io_thread.h"

namespace shoal {

class EndSignals {
 public:
  // From now on a signal ends the process at once with kExitDone, unless an object of this class hears it.
  static void end_at_once();
  // Whether one was heard: a process that was told to end begins nothing anew.
  static bool came();

  // While it lives, calls `first` on the io thread at the first signal, and `again` at later ones; without
  // `again` those end the process at once. `patience`: what may still be done in order after it, before a
  // signal ends the process at once.
  EndSignals(IoThread& io, std::function<void()> first, std::function<void()> again = {},
             std::chrono::milliseconds patience = {});
  ~EndSignals();
  EndSignals(const EndSignals&) = delete;
  EndSignals& operator=(const EndSignals&) = delete;

 private:
  void wait();
  void tell();

  IoThread& io_;
  const std::function<void()> first_, again_;
  const std::chrono::milliseconds patience_;
  boost::asio::posix::stream_descriptor heard_;
  uint64_t count_ = 0;
  std::optional<std::chrono::steady_clock::time_point> came_;
};

}  // namespace shoal
