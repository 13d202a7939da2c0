#include "tests/model/tokenizer_strings.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <sstream>

namespace shoal {
namespace {

constexpr size_t kGenerated = 1000, kBlock = 50;

std::string generated(uint64_t number, const std::vector<std::string>& pieces) {
  uint64_t state = number;
  std::string text;
  for (uint64_t left = 1 + splitmix64(state) % 24; left > 0; --left)
    text += pieces[splitmix64(state) % pieces.size()];
  return text;
}

uint64_t fnv1a(std::string_view bytes) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (const char byte : bytes) hash = (hash ^ static_cast<uint8_t>(byte)) * 0x100000001B3u;
  return hash;
}

}  // namespace

std::vector<std::string> read_fixture_lines(const std::string& name) {
  std::ifstream in(std::string(SHOAL_SOURCE_DIR) + "/tests/model/fixtures/" + name);
  REQUIRE_MESSAGE(in.good(), "cannot read " << name);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::string bytes_of_hex(std::string_view hex) {
  std::string out;
  for (size_t i = 0; i + 1 < hex.size(); i += 2)
    out += static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16));
  return out;
}

std::string ids_as_text(const std::vector<int32_t>& ids) {
  std::string out;
  for (const int32_t id : ids) out += (out.empty() ? "" : " ") + std::to_string(id);
  return out;
}

uint64_t splitmix64(uint64_t& state) {
  state += 0x9E3779B97F4A7C15u;
  uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

const std::vector<std::string>& fixture_strings() {
  static const std::vector<std::string> all = [] {
    std::vector<std::string> strings, pieces;
    for (const std::string& hex : read_fixture_lines("tokenizer_strings.txt"))
      strings.push_back(bytes_of_hex(hex));
    for (const std::string& hex : read_fixture_lines("tokenizer_pieces.txt"))
      pieces.push_back(bytes_of_hex(hex));
    for (uint64_t i = 0; i < kGenerated; ++i) strings.push_back(generated(i, pieces));
    return strings;
  }();
  return all;
}

int check_digests(const std::string& name,
                  const std::function<std::vector<int32_t>(std::string_view)>& encode) {
  const std::vector<std::string> lines = read_fixture_lines(name);
  const auto& strings = fixture_strings();
  const size_t blocks = (strings.size() + kBlock - 1) / kBlock;
  const auto digests = std::find(lines.begin(), lines.end(), "digests:");
  REQUIRE(static_cast<size_t>(lines.end() - digests) == blocks + 1);
  std::vector<bool> skipped(strings.size(), false);
  std::istringstream skip(lines.at(1).substr(lines.at(1).find(':') + 1));
  for (size_t i; skip >> i;) skipped.at(i) = true;

  int compared = 0;
  std::vector<std::string> rows;
  for (size_t i = 0; i < strings.size(); ++i) {
    rows.push_back(skipped[i] ? "" : ids_as_text(encode(strings[i])));
    compared += skipped[i] ? 0 : 1;
  }
  const size_t first = strings.size() - kGenerated;
  for (size_t i = 0; lines.begin() + 2 + static_cast<ptrdiff_t>(i) < digests; ++i) {
    CHECK_MESSAGE(rows[first + i] == lines[2 + i], name << ": string '" << strings[first + i] << "'");
  }
  for (size_t block = 0; block < blocks; ++block) {
    std::string text;
    for (size_t i = block * kBlock; i < std::min(strings.size(), (block + 1) * kBlock); ++i)
      text += rows[i] + "\n";
    char hex[17];
    std::snprintf(hex, sizeof(hex), "%016lx", static_cast<unsigned long>(fnv1a(text)));
    CHECK_MESSAGE(hex == *(digests + 1 + static_cast<ptrdiff_t>(block)),
                  name << ": ids of strings " << block * kBlock << " to " << (block + 1) * kBlock - 1);
  }
  return compared;
}

}  // namespace shoal
