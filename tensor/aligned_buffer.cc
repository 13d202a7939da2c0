#include "tensor/aligned_buffer.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>

#include "base/error.h"

namespace shoal {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

// The mapping of a large buffer starts on a huge page. mmap only promises small pages, so more is asked for
// and the surplus on both sides given back.
std::byte* map_zeroed(size_t bytes) {
  const size_t align = bytes >= kHugePage ? kHugePage : 0;
  if (bytes > SIZE_MAX - align) {
    errno = ENOMEM;
    return nullptr;
  }
  void* map = mmap(nullptr, bytes + align, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) return nullptr;
  auto* begin = static_cast<std::byte*>(map);
  if (align == 0) return begin;
  const size_t skip = (align - reinterpret_cast<uintptr_t>(begin) % align) % align;
  constexpr size_t kPage = 4096;
  const size_t used = (bytes + kPage - 1) / kPage * kPage;
  if (skip > 0) munmap(begin, skip);
  if (align > skip && used < bytes + align - skip) munmap(begin + skip + used, bytes + align - skip - used);
#ifdef MADV_HUGEPAGE
  madvise(begin + skip, bytes, MADV_HUGEPAGE);
#endif
  return begin + skip;
}

}  // namespace

AlignedBuffer::AlignedBuffer(size_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  data_ = map_zeroed(bytes);
  if (data_ == nullptr) {
    throw SetupError("cannot get " + std::to_string(bytes) + " bytes of memory: " + std::strerror(errno) +
                         "; use a smaller model, a shorter context, or give this node fewer layers",
                     kExitFailed);
  }
}

AlignedBuffer::~AlignedBuffer() {
  if (data_ != nullptr) munmap(data_, size_);
}

}  // namespace shoal
