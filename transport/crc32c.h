// CRC32C (Castagnoli, polynomial 0x1EDC6F41 reflected, RFC 3720 appendix B.4), the checksum of frames.
// Uses the processor's instruction where it has one (found at run time), else tables. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace shoal {

// `seed` is the CRC of the bytes before, so crc32c(b, crc32c(a)) is the CRC of a followed by b.
uint32_t crc32c(std::span<const std::byte> bytes, uint32_t seed = 0);

// The same by tables alone: what crc32c() is on processors without the instruction.
uint32_t crc32c_by_tables(std::span<const std::byte> bytes, uint32_t seed = 0);

}  // namespace shoal
