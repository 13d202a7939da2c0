#include "base/check.h"

#include <spdlog/spdlog.h>

#include <cstdlib>

namespace shoal {

void check_failed(const char* condition, const char* file, int line) {
  spdlog::critical("bug: {} is false at {}:{}; please report this", condition, file, line);
  spdlog::shutdown();
  std::abort();
}

}  // namespace shoal
