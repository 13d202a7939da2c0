// Renders a conversation as the prompt a chat model was trained on, by running the template in the model's
// file (tokenizer.chat_template, written in Jinja) in a sandbox with limits on steps, bytes and depth
// (model/template_interpreter.h). What the template wrote and what came from outside stay apart in the
// result. Immutable; safe from several threads.
//
// What a template can do is found when it is loaded, by rendering short conversations: one that refuses or
// drops system messages gets them in front of the first user message, with a blank line between. A template
// that cannot be parsed is an error, never a guess.
//
// Definitions of tools go, if the template looks for them there, into the system message (Phi-4-mini), and
// earlier calls that it does not write itself into the content, in the form that the model writes them
// (Granite 3).
//
// Where a file has a second template for tools (tokenizer.chat_template.tool_use) that one renders the
// conversations that have tools.
#pragma once

#include <ctime>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "model/prompt_piece.h"
#include "model/template_value.h"

namespace shoal {

class GgufFile;
class Tokenizer;

struct ChatMessage {
  std::string role;  // "system", "user" or "assistant"
  std::string content;
};

// What a template is given. Texts that are not marked as trusted can hold no control tokens.
struct ChatConversation {
  // A list of mappings with role, content (a text or none) and, as the Hugging Face templates expect them,
  // tool_calls (their function.arguments being mappings), tool_call_id and name.
  jinja::Value messages;
  jinja::Value tools = jinja::Value(jinja::None{});                  // a list of definitions, or none
  std::vector<std::pair<std::string, jinja::Value>> variables = {};  // the request's own, as enable_thinking
  bool add_generation_prompt = true;                                 // opens the assistant's turn
  std::time_t now = 0;                                               // for strftime_now(); 0: the clock's
};
ChatConversation conversation_of(const std::vector<ChatMessage>& messages);
// A role's text: trusted if it is one of the four that templates know.
jinja::Value role_value(std::string_view role);

// How a model writes tool calls: known by what its template writes.
enum class ToolCallForm {
  kNone,     // no form that is known: calls stay text
  kHermes,   // <tool_call>{"name": ..., "arguments": {...}}</tool_call> (Hermes, Qwen)
  kLlama,    // {"name": ..., "parameters": {...}}, perhaps behind <|python_tag|> (Llama 3.1)
  kMistral,  // [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...], or [TOOL_CALLS]NAME[ARGS]{...} for each
  kMarked,   // <|tool_call|>[{"name": ..., "arguments": {...}}, ...] (Granite 3), and <|/tool_call|>
             // (Phi-4-mini)
};

struct ChatTemplateSource {
  std::string jinja;
  std::string jinja_for_tools;  // empty: the same
  std::string model_name;       // for messages
  std::string bos_text, eos_text;
};

class ChatTemplate {
 public:
  // Throws SetupError when the template is absent or cannot be parsed: names the model, the line and what is
  // wrong, and says that --raw sends the prompt as it is.
  explicit ChatTemplate(ChatTemplateSource source);
  static ChatTemplate from(const GgufFile& file, const Tokenizer& tokenizer, const std::string& model_name);
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // No two neighbouring pieces are equally trusted. Fails with kInvalidInput, a sentence that says the line
  // and the reason, when the template refuses the conversation or exceeds its limits.
  Result<std::vector<PromptPiece>> render(const ChatConversation& conversation) const;

  bool takes_tools() const;          // definitions of tools reach the prompt
  bool takes_tool_messages() const;  // so do earlier calls and their results
  bool folds_system() const;         // system messages are put in front of the first user message
  bool thinks() const;               // it knows <think>: answers may begin with reasoning
  ToolCallForm tool_call_form() const;

 private:
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

}  // namespace shoal
