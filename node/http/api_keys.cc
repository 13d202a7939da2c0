#include "node/http/api_keys.h"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <boost/beast/core/string.hpp>
#include <sstream>

#include "base/small_file.h"
#include "base/trimmed.h"

namespace shoal {
namespace {

constexpr size_t kKeyFileBytesMax = 1 << 20;
constexpr const char* kKeyFile = "key file";

std::array<unsigned char, 32> digest_of(std::string_view key) {
  std::array<unsigned char, 32> digest;
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), digest.data());
  return digest;
}

std::vector<KeyLine> keys_of(const std::string& text) {
  std::vector<KeyLine> keys;
  std::istringstream lines(text);
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    const std::string_view key = trimmed(line);
    if (!key.empty() && key.front() != '#') keys.push_back({std::string(key), number});
  }
  return keys;
}

}  // namespace

std::vector<KeyLine> read_keys(const std::string& path) {
  return keys_of(read_text_file(path, kKeyFile, kKeyFileBytesMax));
}

void ApiKeys::add(std::string_view key, const std::string& where) {
  if (key.size() < kApiKeyBytesMin) {
    throw SetupError(
        fmt::format("{}: an API key needs at least {} characters (openssl rand -hex 24 makes one)", where,
                    kApiKeyBytesMin));
  }
  digests_.push_back(digest_of(key));
}

ApiKeys ApiKeys::from_file(const std::string& path) {
  const SmallFile file = read_named_file(path, kKeyFile, kKeyFileBytesMax);
  if (!file.is_private)
    throw SetupError(fmt::format("{}: other users may read the keys: chmod 600 {}", path, path));
  ApiKeys keys;
  for (const KeyLine& line : keys_of(file.text)) keys.add(line.key, fmt::format("{}:{}", path, line.number));
  if (keys.empty()) throw SetupError(fmt::format("{}: holds no key: write one a line", path));
  return keys;
}

std::optional<std::string> ApiKeys::user_of(std::string_view authorization) const {
  constexpr std::string_view kScheme = "bearer ";
  const bool bearer = authorization.size() > kScheme.size() &&
                      boost::beast::iequals(authorization.substr(0, kScheme.size()), kScheme);
  const Digest given = digest_of(bearer ? trimmed(authorization.substr(kScheme.size())) : std::string_view());
  int equal = 0;
  for (const Digest& digest : digests_)  // all of them: the time must not tell which
    equal |= static_cast<int>(CRYPTO_memcmp(digest.data(), given.data(), given.size()) == 0);
  if (!bearer || equal == 0) return std::nullopt;
  constexpr size_t kUserBytes = 8;
  return fmt::format("{:02x}", fmt::join(given.begin(), given.begin() + kUserBytes, ""));
}

}  // namespace shoal
