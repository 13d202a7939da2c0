#include "node/http/embedding_request.h"

#include <fmt/format.h>

#include <limits>

#include "node/http/json_fields.h"

namespace shoal {

namespace json = boost::json;

namespace {

void read_common(const Fields& fields, PoolingRequest& request) {
  request.model = fields.text("model");
  if (!fields.text("lora").empty())
    refuse_field("lora", "is for answers: adapters change no embeddings here");
  (void)fields.text("user");
  request.priority = fields.integer("priority", -kPriorityMax, kPriorityMax).value_or(0);
  request.timeout_s = fields.number("timeout", 0, kTimeoutMinS, kTimeoutMaxS);
}

std::vector<int32_t> tokens_of(const json::array& list, const std::string& path) {
  std::vector<int32_t> tokens;
  tokens.reserve(list.size());
  for (const json::value& item : list) {
    const int64_t* token = item.if_int64();
    if (token == nullptr) refuse_field(path, fmt::format("an array of token ids holds {}", kind_name(item)));
    if (*token < 0 || *token > std::numeric_limits<int32_t>::max())
      refuse_field(path, fmt::format("{} is not a token id", *token));
    tokens.push_back(static_cast<int32_t>(*token));
  }
  return tokens;
}

PromptInput input_of(const json::value& value, const std::string& path) {
  if (value.is_string()) {
    if (value.get_string().empty()) refuse_field(path, "is empty");
    return std::string(value.get_string());
  }
  if (!value.is_array())
    refuse_field(path, fmt::format("must be a string or token ids, not {}", kind_name(value)));
  if (value.get_array().empty()) refuse_field(path, "is empty");
  return tokens_of(value.get_array(), path);
}

EmbeddingRequest read_embedding(std::string_view body) {
  const json::object object = parse_json_body(body);
  const Fields fields(object, "");
  EmbeddingRequest request;
  read_common(fields, request);
  const json::value* input = fields.find("input");
  if (input == nullptr) refuse_field("input", "is missing");
  const json::array* list = input->if_array();
  request.several = list != nullptr && !list->empty() && !list->front().is_number();
  if (request.several) {
    if (list->size() > kEmbeddingInputsMax)
      refuse_field("input", fmt::format("holds more than {} texts", kEmbeddingInputsMax));
    for (size_t i = 0; i < list->size(); ++i)
      request.inputs.push_back(input_of((*list)[i], fmt::format("input[{}]", i)));
  } else {
    request.inputs.push_back(input_of(*input, "input"));
  }
  const std::string format = fields.text("encoding_format");
  if (!format.empty() && format != "float" && format != "base64")
    refuse_field("encoding_format",
                 fmt::format("must be \"float\" or \"base64\", not \"{}\"", brief(format)));
  request.base64 = format == "base64";
  request.dimensions = fields.integer("dimensions", 1, std::numeric_limits<int>::max());
  return request;
}

// A document is a text, or as some clients send it an object with one.
std::string document_of(const json::value& value, const std::string& path) {
  const json::value* text = &value;
  if (const json::object* object = value.if_object()) {
    text = object->if_contains("text");
    if (text == nullptr) refuse_field(path + ".text", "is missing");
  }
  if (!text->is_string()) refuse_field(path, fmt::format("must be a string, not {}", kind_name(*text)));
  return std::string(text->get_string());
}

RerankRequest read_rerank(std::string_view body) {
  const json::object object = parse_json_body(body);
  const Fields fields(object, "");
  RerankRequest request;
  read_common(fields, request);
  request.query = fields.required_text("query");
  const json::value* documents = fields.find("documents");
  if (documents == nullptr) refuse_field("documents", "is missing");
  const json::array* list = documents->if_array();
  if (list == nullptr)
    refuse_field("documents", fmt::format("must be an array, not {}", kind_name(*documents)));
  if (list->empty()) refuse_field("documents", "is empty");
  if (list->size() > kDocumentsMax)
    refuse_field("documents", fmt::format("holds more than {} documents", kDocumentsMax));
  for (size_t i = 0; i < list->size(); ++i)
    request.documents.push_back(document_of((*list)[i], fmt::format("documents[{}]", i)));
  request.top_n =
      static_cast<size_t>(fields.integer("top_n", 1, std::numeric_limits<int>::max()).value_or(0));
  request.return_documents = fields.boolean("return_documents", false);
  return request;
}

}  // namespace

ApiResult<EmbeddingRequest> parse_embedding_request(std::string_view body) {
  return guarded(read_embedding, body);
}

ApiResult<RerankRequest> parse_rerank_request(std::string_view body) {
  return guarded(read_rerank, body);
}

}  // namespace shoal
