// Bodies of /v1/embeddings and /v1/rerank: what is read, what is refused and by which name.
#include <doctest/doctest.h>

#include <cmath>

#include "node/http/embedding_request.h"
#include "node/http/embedding_service.h"

namespace shoal::test {
namespace {

std::string embedding_refusal(const std::string& body) {
  const auto result = parse_embedding_request(body);
  if (result.has_value()) return "accepted";
  CHECK(result.error().status == 400);
  return result.error().param;
}
std::string rerank_refusal(const std::string& body) {
  const auto result = parse_rerank_request(body);
  if (result.has_value()) return "accepted";
  CHECK(result.error().status == 400);
  return result.error().param;
}

TEST_CASE("an embedding's input is a text, token ids, or a list of them") {
  const auto one = parse_embedding_request(R"({"input":"hello","model":"m","encoding_format":"base64"})");
  REQUIRE(one.has_value());
  CHECK(std::get<std::string>(one->inputs.at(0)) == "hello");
  CHECK_FALSE(one->several);
  CHECK(one->base64);
  CHECK(one->model == "m");
  const auto ids = parse_embedding_request(R"({"input":[5,6,7]})");
  CHECK(std::get<std::vector<int32_t>>(ids->inputs.at(0)) == std::vector<int32_t>{5, 6, 7});
  CHECK_FALSE(ids->base64);
  const auto list = parse_embedding_request(R"({"input":["a","b",[1,2]],"dimensions":384,"timeout":3})");
  REQUIRE(list.has_value());
  CHECK(list->inputs.size() == 3);
  CHECK(list->several);
  CHECK(list->dimensions == 384);
  CHECK(list->timeout_s == 3);
}

TEST_CASE("wrong embedding requests name their field") {
  CHECK(embedding_refusal(R"({})") == "input");
  CHECK(embedding_refusal(R"({"input":""})") == "input");
  CHECK(embedding_refusal(R"({"input":[]})") == "input");
  CHECK(embedding_refusal(R"({"input":7})") == "input");
  CHECK(embedding_refusal(R"({"input":"a","lora":"x"})") == "lora");
  CHECK(embedding_refusal(R"({"input":["a",""]})") == "input[1]");
  CHECK(embedding_refusal(R"({"input":["a",[]]})") == "input[1]");
  CHECK(embedding_refusal(R"({"input":[1,"a"]})") == "input");
  CHECK(embedding_refusal(R"({"input":[-1]})") == "input");
  CHECK(embedding_refusal(R"({"input":["a",{"text":"b"}]})") == "input[1]");
  CHECK(embedding_refusal(R"({"input":"a","encoding_format":"hex"})") == "encoding_format");
  CHECK(embedding_refusal(R"({"input":"a","dimensions":0})") == "dimensions");
  CHECK(embedding_refusal(R"({"input":"a","dimensions":"x"})") == "dimensions");
  std::string many = R"({"input":["a")";
  for (size_t i = 0; i < kEmbeddingInputsMax; ++i) many += R"(,"a")";
  CHECK(embedding_refusal(many + "]}") == "input");
  CHECK(embedding_refusal("[") == "");
}

TEST_CASE("a rerank request has a query and documents") {
  const auto request = parse_rerank_request(
      R"({"query":"q","documents":["a",{"text":"b"}],"top_n":1,"return_documents":true})");
  REQUIRE(request.has_value());
  CHECK(request->documents == std::vector<std::string>{"a", "b"});
  CHECK(request->top_n == 1);
  CHECK(request->return_documents);
  CHECK(rerank_refusal(R"({"documents":["a"]})") == "query");
  CHECK(rerank_refusal(R"({"query":"q"})") == "documents");
  CHECK(rerank_refusal(R"({"query":"q","documents":"a"})") == "documents");
  CHECK(rerank_refusal(R"({"query":"q","documents":[]})") == "documents");
  CHECK(rerank_refusal(R"({"query":"q","documents":["a",3]})") == "documents[1]");
  CHECK(rerank_refusal(R"({"query":"q","documents":["a",{}]})") == "documents[1].text");
  CHECK(rerank_refusal(R"({"query":"q","documents":["a"],"top_n":0})") == "top_n");
}

TEST_CASE("vectors are of length 1, in base64 as little-endian floats") {
  const std::vector<float> unit = normalised({3, 4});
  CHECK(unit[0] == 0.6f);
  CHECK(unit[1] == 0.8f);
  CHECK(normalised({0, 0}) == std::vector<float>{0, 0});
  const std::vector<float> large = normalised({3e30f, 4e30f});  // squares beyond f32
  CHECK(large[0] == doctest::Approx(0.6));
  CHECK(to_base64({}) == "");
  CHECK(to_base64({1.0f}) == "AACAPw==");             // 00 00 80 3f
  CHECK(to_base64({1.0f, -2.0f}) == "AACAPwAAAMA=");  // and 00 00 00 c0
  CHECK(to_base64({1.0f, -2.0f, 0.5f}) == "AACAPwAAAMAAAAA/");
}

}  // namespace
}  // namespace shoal::test
