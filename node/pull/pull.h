// Getting a model from a hub into the store: list, choose, download, check. Runs its own io_context until
// done.
#pragma once

#include <optional>
#include <string>

#include "node/pull/download.h"
#include "node/pull/model_store.h"

namespace shoal {

struct PullOptions {
  DownloadOptions download;
  Url hub;
};

// The mirror of --mirror, SHOAL_MIRROR or HF_ENDPOINT, or the default hub; the token of HF_TOKEN. Throws
// SetupError.
PullOptions pull_options(const std::string& mirror, bool allow_http);

// Returns the model, complete. SIGINT and SIGTERM end it with what has arrived kept. Throws SetupError.
PulledModel pull_model(const PullOptions& options, const ModelStore& store, const ModelName& name);

}  // namespace shoal
