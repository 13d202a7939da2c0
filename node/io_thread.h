// The one thread of a process that does I/O: it runs the io_context that all channels, timers and the
// coordinator belong to. Everything that touches them is posted here.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_future.hpp>
#include <thread>
#include <utility>

namespace shoal {

class IoThread {
 public:
  IoThread() : work_(context_.get_executor()), thread_([this] { context_.run(); }) {}
  ~IoThread() { stop(); }
  IoThread(const IoThread&) = delete;
  IoThread& operator=(const IoThread&) = delete;

  auto executor() { return context_.get_executor(); }

  // Runs a coroutine there and waits for its result; from any other thread.
  template <class T>
  T run(boost::asio::awaitable<T> coroutine) {
    return boost::asio::co_spawn(context_, std::move(coroutine), boost::asio::use_future).get();
  }
  // Runs a function there and waits for it.
  template <class Function>
  auto call(Function function) {
    return boost::asio::post(context_, boost::asio::use_future(std::move(function))).get();
  }
  template <class Function>
  void post(Function&& function) {
    boost::asio::post(context_, std::forward<Function>(function));
  }
  // Ends the thread; what was still waiting is dropped.
  void stop() {
    work_.reset();
    context_.stop();
    if (thread_.joinable()) thread_.join();
  }

 private:
  boost::asio::io_context context_{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_;
  std::thread thread_;
};

}  // namespace shoal
