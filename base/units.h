// Quantities as people write them, and back. Parsers throw SetupError naming `what` (a flag or a key).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace shoal {

// "512MiB", "2GiB", "1.5 GB", "4096": bytes. Ki/Mi/Gi are powers of 1024, k/M/G powers of 1000.
uint64_t parse_bytes(std::string_view text, std::string_view what);

// "100Mbps", "1Gbit/s", "2.5 Gbps", "10MB/s": bytes per second.
double parse_bytes_per_second(std::string_view text, std::string_view what);

// "1ms", "250us", "3s": seconds.
double parse_seconds(std::string_view text, std::string_view what);

std::string format_bytes(uint64_t bytes);                 // "1.5 GiB"
std::string format_bytes_per_second(double bytes_per_s);  // "100 Mbit/s"
std::string format_seconds(double seconds);               // "12.3 ms"

// The candidate nearest to `word` by edit distance, or empty if none is near: for "did you mean" messages.
std::string nearest_name(std::string_view word, std::span<const std::string> candidates);

}  // namespace shoal
