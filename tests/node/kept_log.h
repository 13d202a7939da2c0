// What is logged while it lives, instead of where it goes otherwise. From any thread.
#pragma once

#include <fmt/format.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <mutex>
#include <string>

namespace shoal::test {

class KeptLog {
 public:
  KeptLog() : before_(spdlog::default_logger()), level_(spdlog::get_level()) {
    spdlog::set_default_logger(std::make_shared<spdlog::logger>("test", sink_));
    spdlog::set_level(spdlog::level::info);
  }
  ~KeptLog() {
    spdlog::set_default_logger(before_);
    spdlog::set_level(level_);
  }
  KeptLog(const KeptLog&) = delete;
  KeptLog& operator=(const KeptLog&) = delete;

  std::string text() const { return sink_->text(); }
  bool mentions(const std::string& part) const { return text().find(part) != std::string::npos; }

 private:
  class Sink final : public spdlog::sinks::base_sink<std::mutex> {
   public:
    std::string text() {
      const std::lock_guard lock(mutex_);
      return text_;
    }

   private:
    void sink_it_(const spdlog::details::log_msg& line) override {
      text_.append(line.payload.data(), line.payload.size());
      text_ += '\n';
    }
    void flush_() override {}
    std::string text_;
  };
  std::shared_ptr<Sink> sink_ = std::make_shared<Sink>();
  std::shared_ptr<spdlog::logger> before_;
  spdlog::level::level_enum level_;
};

}  // namespace shoal::test
