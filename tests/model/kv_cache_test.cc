#include "model/kv_cache.h"

#include <doctest/doctest.h>

#include <random>
#include <set>
#include <vector>

namespace shoal {
namespace {

ModelConfig small_config() {
  ModelConfig c;
  c.n_layer = 4;
  c.head_dim_k = 8;
  c.head_dim_v = 16;
  c.n_head = {4, 4, 4, 4};
  c.n_head_kv = {2, 1, 2, 2};
  return c;
}

// Where the tests keep a mark of a position: the first element of its lane in layer `layer`.
uint16_t& k_mark(KvCache& cache, int layer, int slot, int position) {
  const int in_page = position % kKvPageTokens;
  return reinterpret_cast<uint16_t*>(
      cache.k_page(layer, slot, position))[in_page / 16 * 16 * 8 + in_page % 16];
}
uint16_t& v_mark(KvCache& cache, int layer, int slot, int position) {
  return reinterpret_cast<uint16_t*>(cache.v_page(layer, slot, position))[position % kKvPageTokens * 16 + 15];
}

TEST_CASE("bytes counts K and V of the layers, in whole pages") {
  const ModelConfig c = small_config();
  // Layers 1 and 2: 1 and 2 KV heads of 8 + 16 f16; 40 positions take two pages.
  CHECK(KvCache::bytes(c, 1, 3, 40, 3) == 3 * 64 * (1 + 2) * (8 + 16) * 2);
  CHECK(KvCache::bytes(c, 2, 2, 40, 3) == 0);
  // In q8_0 K has a byte a dimension and a half a block of 32; V is kept in whole blocks.
  CHECK(KvCache::bytes(c, 1, 3, 40, 3, KvType::kQ8_0) == 3 * 64 * (1 + 2) * ((8 + 2) + (32 + 2)));
  CHECK(KvCache::bytes(c, 2, 2, 40, 3, KvType::kQ8_0) == 0);
}

TEST_CASE(
    "fewer cells than slots x context: extend stops when the pages are gone, and shared pages count once") {
  const ModelConfig c = small_config();
  CHECK(KvCache::bytes(c, 1, 3, 40, 3, KvType::kF16, 70) == 3 * 32 * (1 + 2) * (8 + 16) * 2);
  CHECK(KvCache::bytes(c, 1, 3, 40, 3, KvType::kF16, 1) == KvCache::bytes(c, 1, 3, 40, 1));
  CHECK(KvCache::bytes(c, 1, 3, 40, 3, KvType::kF16, 1000) == KvCache::bytes(c, 1, 3, 40, 3));
  KvCache cache(c, 0, 4, 40, 3, KvType::kF16, 96);
  CHECK(cache.pages() == 3);
  REQUIRE(cache.extend(0, 40).has_value());
  REQUIRE(cache.fork(0, 1, 40).has_value());
  CHECK(cache.pages_held({true, true, false}) == 2);
  CHECK(cache.pages_to_extend(2, 33) == 2);
  const Result<void> over = cache.extend(2, 33);
  REQUIRE(over.has_error());
  CHECK(over.error().code == Errc::kContextFull);
  CHECK(cache.length(2) == 0);
  cache.trim(1, 35);
  CHECK(cache.pages_to_extend(1, 1) == 1);  // a page that another slot holds too is copied
  REQUIRE(cache.extend(1, 1).has_value());
  CHECK(cache.free_pages() == 0);
  CHECK(cache.pages_to_extend(0, 0) == 0);
}

TEST_CASE("extend stops at the context and then changes nothing") {
  KvCache cache(small_config(), 0, 4, 40, 2);
  CHECK(cache.free_pages() == 4);
  REQUIRE(cache.extend(1, 33).has_value());
  CHECK(cache.length(1) == 33);
  CHECK(cache.free_pages() == 2);
  const Result<void> over = cache.extend(1, 8);
  REQUIRE(over.has_error());
  CHECK(over.error().code == Errc::kContextFull);
  CHECK(over.error().message.find("slot 1") != std::string::npos);
  CHECK(cache.length(1) == 33);
  CHECK(cache.free_pages() == 2);
  CHECK(cache.extend(1, 7).has_value());
  CHECK(cache.extend(1, 0).has_value());
  CHECK(cache.extend(1, 1).has_error());
  CHECK(cache.extend(0, 40).has_value());
  CHECK(cache.free_pages() == 0);
}

TEST_CASE("fork refuses more than the source holds") {
  KvCache cache(small_config(), 0, 4, 64, 3);
  REQUIRE(cache.extend(0, 10).has_value());
  REQUIRE(cache.extend(1, 3).has_value());
  CHECK(cache.fork(0, 1, 11).error().code == Errc::kInvalidInput);
  CHECK(cache.fork(0, 1, -1).has_error());
  CHECK(cache.length(1) == 3);
  REQUIRE(cache.fork(0, 1, 10).has_value());
  CHECK(cache.length(1) == 10);
  CHECK(cache.k_page(0, 0, 0) == cache.k_page(0, 1, 0));  // shared until one side writes
  REQUIRE(cache.extend(1, 1).has_value());
  CHECK(cache.k_page(0, 0, 0) != cache.k_page(0, 1, 0));
  REQUIRE(cache.fork(0, 0, 4).has_value());  // onto itself: a trim
  CHECK(cache.length(0) == 4);
}

TEST_CASE("a stage without layers keeps lengths") {
  KvCache cache(small_config(), 2, 2, 64, 2);
  CHECK(cache.extend(0, 64).has_value());
  CHECK(cache.fork(0, 1, 40).has_value());
  CHECK(cache.extend(1, 2).has_value());
  CHECK(cache.length(1) == 42);
}

// What every slot should hold: the mark of each position.
struct Mirror {
  std::vector<std::vector<uint16_t>> slots;

  void check(KvCache& cache, int layer_begin, int layer_end) const {
    std::set<const std::byte*> pages;
    for (int slot = 0; slot < cache.slots(); ++slot) {
      REQUIRE(cache.length(slot) == static_cast<int>(slots[slot].size()));
      for (int p = 0; p < cache.length(slot); ++p) {
        pages.insert(cache.k_page(layer_begin, slot, p));
        for (int layer = layer_begin; layer < layer_end; ++layer) {
          REQUIRE(k_mark(cache, layer, slot, p) == static_cast<uint16_t>(slots[slot][p] + layer));
          REQUIRE(v_mark(cache, layer, slot, p) == static_cast<uint16_t>(slots[slot][p] - layer));
          const KvPages view = cache.view(layer, slot);
          REQUIRE(view.k + view.k_page_bytes * view.pages[p / kKvPageTokens] == cache.k_page(layer, slot, p));
          REQUIRE(view.v + view.v_page_bytes * view.pages[p / kKvPageTokens] == cache.v_page(layer, slot, p));
        }
      }
    }
    const int all = cache.slots() * ((cache.context() + kKvPageTokens - 1) / kKvPageTokens);
    REQUIRE(cache.free_pages() == all - static_cast<int>(pages.size()));
  }
};

TEST_CASE("random extends, trims, frees and forks keep every slot's contents") {
  KvType type = KvType::kF16;
  SUBCASE("f16") {}
  SUBCASE("q8_0") {
    type = KvType::kQ8_0;  // the marks are two bytes somewhere in a position's page
  }
  constexpr int kContext = 100, kSlots = 5, kBegin = 1, kEnd = 4;
  std::mt19937 random(7);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  KvCache cache(small_config(), kBegin, kEnd, kContext, kSlots, type);
  Mirror mirror{std::vector<std::vector<uint16_t>>(kSlots)};
  for (int step = 0; step < 1500; ++step) {
    const int slot = below(kSlots);
    std::vector<uint16_t>& held = mirror.slots[slot];
    switch (below(5)) {
      case 0:
      case 1: {
        const int n = below(40), first = cache.length(slot);
        const bool fits = first + n <= kContext;
        REQUIRE(cache.extend(slot, n).has_value() == fits);
        for (int p = first; fits && p < first + n; ++p) {
          held.push_back(static_cast<uint16_t>(random()));
          for (int layer = kBegin; layer < kEnd; ++layer) {
            k_mark(cache, layer, slot, p) = static_cast<uint16_t>(held.back() + layer);
            v_mark(cache, layer, slot, p) = static_cast<uint16_t>(held.back() - layer);
          }
        }
        break;
      }
      case 2: {
        const int length = below(kContext);
        cache.trim(slot, length);
        if (length < static_cast<int>(held.size())) held.resize(length);
        break;
      }
      case 3: {
        const int from = below(kSlots), length = below(kContext + 1);
        const bool fits = length <= cache.length(from);
        REQUIRE(cache.fork(from, slot, length).has_value() == fits);
        if (fits) {
          const std::vector<uint16_t> source = mirror.slots[from];
          held.assign(source.begin(), source.begin() + length);
        }
        break;
      }
      default:
        if (below(4) == 0) {
          cache.free(slot);
          held.clear();
        }
    }
    mirror.check(cache, kBegin, kEnd);
  }
}

}  // namespace
}  // namespace shoal
