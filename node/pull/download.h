// One file from a hub to the disk: by way of PATH.partial, which a later try goes on with, checked against
// its SHA-256, then renamed. Throws SetupError, with what there is kept unless it is wrong.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "node/pull/hub.h"

namespace shoal {

struct DownloadOptions {
  HttpGetOptions http;
  int tries = 6;                                // in a row that bring nothing new
  std::chrono::milliseconds first_wait{500};    // doubled with each
  std::function<void(const std::string&)> say;  // a line for the person who waits
};

// Waits before another try after `error`, or throws it as SetupError where that is no use. `failures`: in a
// row, from 1.
boost::asio::awaitable<void> wait_or_give_up(const DownloadOptions& options, const Error& error, int failures,
                                             std::optional<int> retry_after_s, const std::string& more);

// `progress`: bytes of this file so far. `name`: of the model, for messages.
boost::asio::awaitable<void> download_file(const DownloadOptions& options, const Url& url,
                                           const HubFile& file, const std::filesystem::path& path,
                                           const ModelName& name,
                                           const std::function<void(uint64_t)>& progress);

}  // namespace shoal
