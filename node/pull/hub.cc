#include "node/pull/hub.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cctype>
#include <set>

#include "base/printable.h"

namespace shoal {
namespace {

namespace json = boost::json;

constexpr size_t kListingBytesMax = size_t{8} << 20;
constexpr size_t kFilesMax = 10'000;
constexpr int kPagesMax = 50;
constexpr uint64_t kFileBytesMax = uint64_t{1} << 50;  // beyond any disk; sums stay far from overflow

Error bad_listing(const std::string& why) {
  return {Errc::kInvalidInput, "the hub's list of files is not to be used: " + why};
}

const json::value* field(const json::object& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() ? nullptr : &found->value();
}

std::string text_of(const json::object& object, const char* key) {
  const json::value* value = field(object, key);
  return value != nullptr && value->is_string() ? std::string(value->get_string()) : "";
}

bool is_sha256(std::string_view text) {
  return text.size() == 64 && std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return std::isdigit(c) || (c >= 'a' && c <= 'f');
         });
}

Result<HubFile> read_file(const json::object& entry) {
  HubFile file;
  file.path = text_of(entry, "path");
  if (!is_safe_path(file.path)) return bad_listing(fmt::format("it names a file {}", in_quotes(file.path)));
  const json::value* lfs = field(entry, "lfs");
  if (lfs == nullptr || !lfs->is_object())
    return bad_listing(fmt::format("it gives no SHA-256 for {}", in_quotes(file.path)));
  file.sha256 = text_of(lfs->get_object(), "oid");
  if (file.sha256.starts_with("sha256:")) file.sha256.erase(0, 7);  // as some mirrors write it
  const json::value* size = field(lfs->get_object(), "size");
  if (size == nullptr) size = field(entry, "size");
  if (size == nullptr || !(size->is_int64() || size->is_uint64()))
    return bad_listing(fmt::format("it gives no size for {}", in_quotes(file.path)));
  boost::system::error_code inexact;
  file.bytes = size->to_number<uint64_t>(inexact);
  if (inexact || file.bytes == 0 || file.bytes > kFileBytesMax)
    return bad_listing(fmt::format("it gives an impossible size for {}", in_quotes(file.path)));
  if (!is_sha256(file.sha256))
    return bad_listing(fmt::format("the SHA-256 of {} is malformed", in_quotes(file.path)));
  return file;
}

// What belongs beside a model, by its name: a projector of images, or the importance matrix that it was
// quantised with. A model may be called after its matrix, and then its name has a quant.
bool is_companion(std::string_view path) {
  std::string name(path.substr(path.rfind('/') + 1));
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
  return name.find("mmproj") != std::string::npos ||
         (name.find("imatrix") != std::string::npos && quant_of(name).empty());
}

// Collects a body up to a limit.
class TextSink : public BodySink {
 public:
  Result<void> begin(const HttpHead&) override { return boost::system::in_place_value; }
  Result<void> write(std::span<const char> bytes) override {
    if (text_.size() + bytes.size() > kListingBytesMax)
      return bad_listing(fmt::format("it is longer than {} MiB", kListingBytesMax >> 20));
    text_.append(bytes.data(), bytes.size());
    return boost::system::in_place_value;
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

// "Q4_K_M, Q8_0" or, where the names hold no quant, the file names.
std::string offered(const std::vector<HubFile>& files) {
  std::set<std::string> names;
  for (const HubFile& file : files) {
    const std::string quant = quant_of(file.path);
    names.insert(quant.empty() ? in_quotes(file.path) : quant);
  }
  std::vector<std::string> list(names.begin(), names.end());
  const size_t more = list.size() > 40 ? list.size() - 40 : 0;
  list.resize(list.size() - more);
  return fmt::format("{}{}", fmt::join(list, ", "), more > 0 ? fmt::format(" and {} more", more) : "");
}

// The files of the same model as `first`, by part; an error where a part is missing.
Result<std::vector<HubFile>> all_parts(const std::vector<HubFile>& files, const PartName& wanted) {
  std::vector<HubFile> parts(static_cast<size_t>(wanted.parts));
  for (const HubFile& file : files) {
    const PartName name = part_name(file.path);
    if (name.stem != wanted.stem || name.parts != wanted.parts) continue;
    if (name.part >= 1 && name.part <= wanted.parts) parts[static_cast<size_t>(name.part - 1)] = file;
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].path.empty())
      return Error{Errc::kRefused, fmt::format("part {} of {} of {} is not on the hub", i + 1, parts.size(),
                                               in_quotes(wanted.stem))};
  }
  return parts;
}

}  // namespace

Result<void> read_listing(std::string_view text, std::vector<HubFile>& files) {
  boost::system::error_code malformed;
  json::parse_options options;
  options.max_depth = 16;
  const json::value value = json::parse(json::string_view(text.data(), text.size()), malformed, {}, options);
  if (malformed || !value.is_array()) return bad_listing("it is no JSON list (is this a hub?)");
  for (const json::value& entry : value.get_array()) {
    if (!entry.is_object()) return bad_listing("it holds what is no file");
    if (text_of(entry.get_object(), "type") != "file" || !ends_in_gguf(text_of(entry.get_object(), "path")))
      continue;
    Result<HubFile> file = read_file(entry.get_object());
    if (!file) return file.error();
    files.push_back(std::move(*file));
    if (files.size() > kFilesMax) return bad_listing(fmt::format("it has more than {} files", kFilesMax));
  }
  return boost::system::in_place_value;
}

Result<std::vector<HubFile>> choose_files(const std::vector<HubFile>& files, const ModelName& name) {
  if (files.empty()) return Error{Errc::kRefused, name.repository() + " has no GGUF file"};
  std::vector<HubFile> models;
  for (const HubFile& file : files) {
    if (!is_companion(file.path)) models.push_back(file);
  }
  std::vector<PartName> found;
  for (const HubFile& file : name.file.empty() ? models : files) {
    const PartName part = part_name(file.path);
    const bool fits = !name.file.empty()    ? file.path == name.file
                      : !name.quant.empty() ? quant_of(file.path) == name.quant
                                            : true;
    const bool seen = std::any_of(found.begin(), found.end(), [&](const PartName& other) {
      return other.stem == part.stem && other.parts == part.parts;
    });
    if (fits && !seen) found.push_back(part);
  }
  if (found.empty()) {
    return Error{Errc::kRefused, fmt::format("{} has no {}; it has {}", name.repository(),
                                             name.file.empty() ? name.quant : "file " + in_quotes(name.file),
                                             offered(models))};
  }
  if (found.size() == 1) return all_parts(files, found.front());
  if (name.quant.empty()) {
    return Error{Errc::kRefused, fmt::format("{} has several models; say which: {}:QUANT with one of {}",
                                             name.repository(), name.repository(), offered(models))};
  }
  std::string stems;
  for (const PartName& part : found) stems += (stems.empty() ? "" : ", ") + in_quotes(part.stem + ".gguf");
  return Error{Errc::kRefused,
               fmt::format("{} has {} models in {}: {}; name one as {}/FILE.gguf", name.repository(),
                           found.size(), name.quant, stems, name.repository())};
}

Url listing_url(const Url& hub, const ModelName& name) {
  Url url = hub;
  url.target += fmt::format("{}api/models/{}/{}/tree/main?recursive=true",
                            url.target.ends_with('/') ? "" : "/", name.user, name.repo);
  return url;
}

Url file_url(const Url& hub, const ModelName& name, const std::string& path) {
  Url url = hub;
  url.target += fmt::format("{}{}/{}/resolve/main/{}", url.target.ends_with('/') ? "" : "/", name.user,
                            name.repo, percent_encoded(path));
  return url;
}

bool is_temporary(unsigned status) {
  return status == 408 || status == 429 || status >= 500;
}

Error refusal(const HttpHead& head, const ModelName& name, bool with_token) {
  const std::string hub = head.url.origin();
  switch (head.status) {
    case 401:
    case 403:
      return {Errc::kRefused,
              fmt::format("{} does not give access to {} ({}): there is no such repository, or it is "
                          "private, or its terms "
                          "must be accepted at {}/{}; {}",
                          hub, name.repository(), head.status, hub, name.repository(),
                          with_token ? "the token in HF_TOKEN was sent" : "a token is taken from HF_TOKEN")};
    case 404:
      return {Errc::kRefused, fmt::format("{} has no such thing: {}", hub, head.url.shown())};
    case 429:
      return {Errc::kRefused,
              fmt::format("{} has had too many requests from here{}", hub,
                          head.retry_after_s ? fmt::format(": it asks to wait {} s", *head.retry_after_s)
                                             : ": try again later")};
    default:
      return {Errc::kRefused, fmt::format("{} answers with status {}{}", head.url.shown(), head.status,
                                          head.status >= 500 ? ": trouble of its own; try again later" : "")};
  }
}

boost::asio::awaitable<Result<std::vector<HubFile>>> list_files(const HttpGetOptions& options, const Url& hub,
                                                                const ModelName& name,
                                                                std::optional<int>& retry_after_s) {
  std::vector<HubFile> files;
  Url url = listing_url(hub, name);
  for (int page = 0;; ++page) {
    if (page == kPagesMax) co_return bad_listing(fmt::format("it has more than {} pages", kPagesMax));
    TextSink sink;
    Result<HttpHead> head = co_await http_get(options, url, 0, sink);
    if (!head) co_return head.error();
    if (head->status != 200) {
      Error error = refusal(*head, name, !options.token.empty());
      if (is_temporary(head->status)) error.code = Errc::kQueueFull;
      retry_after_s = head->retry_after_s;
      co_return error;
    }
    if (Result<void> read = read_listing(sink.text(), files); !read) co_return read.error();
    if (head->next_page.empty()) co_return files;
    Result<Url> next = resolve_url(head->url, head->next_page);
    if (!next) co_return bad_listing(next.error().message);
    url = std::move(*next);
  }
}

}  // namespace shoal
