// What a model hub that speaks the Hugging Face Hub's API says: which files a repository has, and where each
// is. Nothing it says is trusted: names that would leave their folder, and sizes and hashes that are none,
// are refused. https://huggingface.co/docs/hub/api
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "node/pull/http_client.h"
#include "node/pull/model_name.h"

namespace shoal {

struct HubFile {
  std::string path;  // within the repository
  uint64_t bytes = 0;
  std::string sha256;  // hex
};

inline constexpr const char* kDefaultHub = "https://huggingface.co";

// Adds the GGUF files of one page of /api/models/USER/REPO/tree/main?recursive=true.
Result<void> read_listing(std::string_view json, std::vector<HubFile>& files);

// The files, in order of their parts, that `name` means. The error lists what there is.
Result<std::vector<HubFile>> choose_files(const std::vector<HubFile>& files, const ModelName& name);

Url listing_url(const Url& hub, const ModelName& name);
Url file_url(const Url& hub, const ModelName& name, const std::string& path);

// What a status other than 200 and 206 means for a person.
Error refusal(const HttpHead& head, const ModelName& name, bool with_token);
// Whether asking again later may help.
bool is_temporary(unsigned status);

// All pages of the listing. kQueueFull: worth another try, after `retry_after_s` where the hub says so.
boost::asio::awaitable<Result<std::vector<HubFile>>> list_files(const HttpGetOptions& options, const Url& hub,
                                                                const ModelName& name,
                                                                std::optional<int>& retry_after_s);

}  // namespace shoal
