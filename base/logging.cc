#include "base/logging.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <unistd.h>

#include <map>

#include "base/error.h"

namespace shoal {

void init_logging(const std::string& name, const std::string& level) {
  static const std::map<std::string, spdlog::level::level_enum> levels = {
      {"trace", spdlog::level::trace},  {"debug", spdlog::level::debug}, {"info", spdlog::level::info},
      {"warning", spdlog::level::warn}, {"error", spdlog::level::err},   {"off", spdlog::level::off}};
  const auto found = levels.find(level);
  if (found == levels.end()) {
    throw SetupError("--log-level: unknown level '" + level + "' (trace, debug, info, warning, error, off)");
  }
  auto logger = std::make_shared<spdlog::logger>(name, std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_level(found->second);
  // Like a Unix tool: "shoal: warning: text". At debug level the time and thread help.
  logger->set_pattern(found->second <= spdlog::level::debug ? "%H:%M:%S.%f %n[%t]: %l: %v" : "%n: %l: %v");
  logger->flush_on(spdlog::level::warn);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace shoal
