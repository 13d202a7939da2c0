// The strings that the tokenizers' fixtures are made from, and the fixtures themselves: the C++ side of
// tools/tokenizer_strings.py, which says what they are.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace shoal {

std::vector<std::string> read_fixture_lines(const std::string& name);  // of tests/model/fixtures
std::string bytes_of_hex(std::string_view hex);
std::string ids_as_text(const std::vector<int32_t>& ids);

uint64_t splitmix64(uint64_t& state);

// Those written by hand, then the generated.
const std::vector<std::string>& fixture_strings();

// Checks encode(string) for every string against the digests of `name`, string by string where it has ids.
// Returns how many strings were compared.
int check_digests(const std::string& name,
                  const std::function<std::vector<int32_t>(std::string_view)>& encode);

}  // namespace shoal
