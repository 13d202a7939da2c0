// The keys that open the HTTP door. Kept as SHA-256 digests and compared in constant time, so that neither
// the time of an answer nor a core dump tells a key. Immutable; safe from any thread.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace shoal {

inline constexpr size_t kApiKeyBytesMin = 16;  // of a key: shorter ones can be guessed

// The keys of a file with their lines: one a line; empty lines and lines that begin with '#' do not count.
// Throws SetupError where it cannot be read.
struct KeyLine {
  std::string key;
  int number;
};
std::vector<KeyLine> read_keys(const std::string& path);

class ApiKeys {
 public:
  ApiKeys() = default;
  // Of read_keys(). Throws SetupError: a file that cannot be read or that others may read, no key, a key too
  // short.
  static ApiKeys from_file(const std::string& path);
  void add(std::string_view key, const std::string& where);  // throws SetupError

  bool empty() const { return digests_.empty(); }
  // `authorization`: the header's value, "Bearer KEY".
  bool opens(std::string_view authorization) const { return user_of(authorization).has_value(); }
  // Whose key it is: the beginning of the key's digest, which does not tell the key. Nothing where the key is
  // not known.
  std::optional<std::string> user_of(std::string_view authorization) const;

 private:
  using Digest = std::array<unsigned char, 32>;
  std::vector<Digest> digests_;
};

}  // namespace shoal
