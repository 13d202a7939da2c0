#include "node/plain_prompt.h"

namespace shoal {

bool takes_plain_text(const Cluster& cluster) {
  return cluster.model.encodes() && cluster.model.decodes() &&
         cluster.file->find("tokenizer.chat_template") == nullptr;
}

std::vector<int32_t> text_prompt(const Cluster& cluster, const std::string& text) {
  if (cluster.model.encodes()) return cluster.tokenizer->encode_input(text, /*parse_special=*/true);
  return cluster.tokenizer->encode(text, /*parse_special=*/true, /*add_bos=*/true);
}

std::optional<std::string> last_user_text(const ChatConversation& conversation) {
  using Kind = jinja::Value::Kind;
  if (!conversation.messages.is(Kind::kList)) return std::nullopt;
  const std::vector<jinja::Value>& messages = conversation.messages.list().items;
  for (auto message = messages.rbegin(); message != messages.rend(); ++message) {
    if (!message->is(Kind::kDict)) continue;
    const jinja::Value* role = message->dict().find("role");
    const jinja::Value* content = message->dict().find("content");
    if (role == nullptr || !role->is(Kind::kString) || role->text().bytes != "user") continue;
    if (content != nullptr && content->is(Kind::kString) && !content->text().bytes.empty())
      return content->text().bytes;
  }
  return std::nullopt;
}

}  // namespace shoal
