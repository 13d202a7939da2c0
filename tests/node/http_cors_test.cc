#include <doctest/doctest.h>

#include <map>

#include "base/error.h"
#include "node/http/cors.h"

namespace shoal::test {
namespace {

std::map<std::string, std::string> said(const AllowedOrigins& origins, const std::string& origin,
                                        bool preflight = false, const std::string& asked = "") {
  const auto list = origins.headers(origin, preflight, asked);
  return {list.begin(), list.end()};
}

}  // namespace

TEST_CASE("no origin is allowed unless it is named") {
  CHECK(said(AllowedOrigins(), "http://evil.example").empty());
  const AllowedOrigins two = AllowedOrigins::parse("http://localhost:3000, https://chat.lan", "x");
  CHECK(said(two, "http://localhost:3000")["Access-Control-Allow-Origin"] == "http://localhost:3000");
  CHECK(said(two, "https://chat.lan").count("Access-Control-Allow-Methods") == 0);
  for (const char* other :
       {"", "null", "http://localhost:3001", "http://chat.lan", "https://chat.lan.evil.example"}) {
    CAPTURE(other);
    CHECK(said(two, other).count("Access-Control-Allow-Origin") == 0);
    CHECK(said(two, other)["Vary"] == "Origin");
  }
  CHECK(said(two, "https://chat.lan", true)["Access-Control-Allow-Headers"] == "Authorization, Content-Type");
  CHECK(said(two, "https://chat.lan", true, "x-a, b")["Access-Control-Allow-Headers"] == "x-a, b");
  CHECK(AllowedOrigins::parse("*", "x").any());
  CHECK(said(AllowedOrigins::parse("*", "x"), "http://b")["Access-Control-Allow-Origin"] == "http://b");
}

TEST_CASE("what is no origin is refused") {
  for (const char* wrong :
       {"localhost:3000", "http://", "http://a/", "http://a/b", "ftp://a", "http://u@a", "http://a, b"}) {
    CAPTURE(wrong);
    CHECK_THROWS_AS(AllowedOrigins::parse(wrong, "--allow-origin"), SetupError);
  }
}

}  // namespace shoal::test
