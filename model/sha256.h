// SHA-256 (FIPS 180-4) by OpenSSL. A hasher belongs to one thread; the functions are pure.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace shoal {

using Sha256 = std::array<std::byte, 32>;

Sha256 sha256(std::span<const std::byte> bytes);
std::string sha256_hex(std::string_view text);

std::string to_hex(const Sha256& digest);  // 64 small letters and digits
std::optional<Sha256> sha256_from_hex(std::string_view text);

// Of bytes that come in pieces.
class Sha256Hasher {
 public:
  Sha256Hasher();
  ~Sha256Hasher();
  void add(std::span<const std::byte> bytes);
  Sha256 finish();  // ends the digest

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace shoal
