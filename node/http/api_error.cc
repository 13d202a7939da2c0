#include "node/http/api_error.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/json.hpp>

namespace shoal {

namespace json = boost::json;

void throw_exception_from_error(const ApiError& error, const boost::source_location&) {
  throw std::runtime_error(error.message);
}

std::string api_error_type(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 429:
      return "rate_limit_error";
    default:
      return status >= 500 ? "server_error" : "invalid_request_error";
  }
}

std::string to_json(const ApiError& error) {
  auto text_or_null = [](const std::string& text) {
    return text.empty() ? json::value(nullptr) : json::value(text);
  };
  json::object body{{"message", error.message},
                    {"type", api_error_type(error.status)},
                    {"param", text_or_null(error.param)},
                    {"code", text_or_null(error.code)}};
  return json::serialize(json::object{{"error", std::move(body)}});
}

ApiError to_api_error(const Error& error, int retry_after_s) {
  switch (error.code) {
    case Errc::kContextFull:
      return {400, error.message, "", "context_length_exceeded", 0};
    case Errc::kInvalidInput:
      return {400, error.message, "", "", 0};
    case Errc::kQueueFull:
      return {429, error.message, "", "queue_full", std::max(retry_after_s, 1)};
    case Errc::kDeadline:
      return {504, error.message, "timeout", "deadline_exceeded", 0};
    case Errc::kCancelled:
      return {503, error.message, "", "cancelled", 1};
    // The names of nodes stay inside: the message of a broken pipeline goes to the log, not to the client.
    default:
      return {503, "the pipeline cannot answer now", "", kPipelineUnavailable,
              retry_after_s > 0 ? retry_after_s : 5};
  }
}

void log_failure(const Error& error) {
  const int status = to_api_error(error).status;
  const auto level = status == 503 ? spdlog::level::warn : spdlog::level::debug;
  spdlog::log(level, "a request failed: {}", error.message);
}

}  // namespace shoal
