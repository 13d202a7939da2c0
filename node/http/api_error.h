// A refusal at the HTTP door, as OpenAI's clients read it: a status and an object {"error": {message, type,
// param, code}}. Plain values; safe from any thread.
#pragma once

#include <boost/assert/source_location.hpp>
#include <boost/system/result.hpp>
#include <string>

#include "base/error.h"

namespace shoal {

inline constexpr const char* kPipelineUnavailable = "pipeline_unavailable";  // the code of a broken pipeline

struct ApiError {
  int status = 400;
  std::string message;
  std::string param;      // the field that is wrong; empty: none
  std::string code;       // for programs, e.g. "context_length_exceeded"; empty: none
  int retry_after_s = 0;  // 0: no Retry-After header
};

template <class T>
using ApiResult = boost::system::result<T, ApiError>;

[[noreturn]] void throw_exception_from_error(const ApiError& error, const boost::source_location& where);

// The kind that OpenAI's clients know for a status: "invalid_request_error", "server_error", ...
std::string api_error_type(int status);
std::string to_json(const ApiError& error);

// What a failed generation is to the client: a full queue is 429, its own time limit passed 504, a lost
// pipeline 503, too long a prompt 400. `retry_after_s`: of a full queue, where that is known.
ApiError to_api_error(const Error& error, int retry_after_s = 0);

// In the log: a warning where something is broken, no line for a refusal, which the client is told and
// /metrics counts.
void log_failure(const Error& error);

}  // namespace shoal
