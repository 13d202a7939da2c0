// SHOAL_CHECK(condition): a bug if false; logs the place and aborts, in every build type.
#pragma once

namespace shoal {
[[noreturn]] void check_failed(const char* condition, const char* file, int line);
}  // namespace shoal

#define SHOAL_CHECK(condition)                               \
  do {                                                       \
    if (!(condition)) [[unlikely]]                           \
      ::shoal::check_failed(#condition, __FILE__, __LINE__); \
  } while (false)
