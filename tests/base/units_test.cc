#include "base/units.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "base/error.h"

namespace shoal {

TEST_CASE("bytes as people write them") {
  CHECK(parse_bytes("4096", "x") == 4096);
  CHECK(parse_bytes("2GiB", "x") == (uint64_t{2} << 30));
  CHECK(parse_bytes("1.5 KiB", "x") == 1536);
  CHECK(parse_bytes("10MB", "x") == 10'000'000);
  for (const char* bad :
       {"", "GiB", "-1GiB", "1 gib", "1GiB extra", "nan", "inf", "1e400", "0x10", "99999999TiB"}) {
    CAPTURE(bad);
    CHECK_THROWS_AS(parse_bytes(bad, "x"), SetupError);
  }
  try {
    parse_bytes("lots", "nodes.a.memory");
    FAIL("accepted");
  } catch (const SetupError& error) {
    CHECK(std::string(error.what()) == "nodes.a.memory: cannot read 'lots' (write it like 2GiB)");
    CHECK(error.exit_code() == kExitUsage);
  }
}

TEST_CASE("rates and times") {
  CHECK(parse_bytes_per_second("100Mbps", "x") == doctest::Approx(12.5e6));
  CHECK(parse_bytes_per_second("1Gbit/s", "x") == doctest::Approx(125e6));
  CHECK(parse_bytes_per_second("10MB/s", "x") == doctest::Approx(1e7));
  CHECK_THROWS_AS(parse_bytes_per_second("0Mbps", "x"), SetupError);
  CHECK_THROWS_AS(parse_bytes_per_second("100", "x"), SetupError);
  CHECK(parse_seconds("1ms", "x") == doctest::Approx(1e-3));
  CHECK(parse_seconds("250us", "x") == doctest::Approx(250e-6));
  CHECK_THROWS_AS(parse_seconds("5", "x"), SetupError);
}

TEST_CASE("quantities are printed with their unit") {
  CHECK(format_bytes(999) == "999 B");
  CHECK(format_bytes(1536) == "1.50 KiB");
  CHECK(format_bytes(uint64_t{98} << 20) == "98.0 MiB");
  CHECK(format_seconds(0.0123) == "12.3 ms");
  CHECK(format_seconds(12e-6) == "12 µs");
  CHECK(format_bytes_per_second(12.5e6) == "100 Mbit/s");
}

TEST_CASE("the nearest name, or none") {
  const std::vector<std::string> names = {"context", "sequences", "memory"};
  CHECK(nearest_name("contxt", names) == "context");
  CHECK(nearest_name("memmory", names) == "memory");
  CHECK(nearest_name("zebra", names).empty());
}

}  // namespace shoal
