// Renders a conversation as the prompt a chat model was trained on. The families ChatML, Llama 3 and Zephyr
// are recognised from the markers in the file's own template (tokenizer.chat_template); the template itself
// is not run, so nothing in a file can make the program loop or call anything. Immutable; safe from several
// threads.
//
// Left to the tokenizer: BOS. Not rendered: tools, and the dates that Llama 3.1 and later write into the
// system turn.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace shoal {

struct ChatMessage {
  std::string role;  // "system", "user" or "assistant"
  std::string content;
};

// A piece of a rendered prompt. Control tokens are parsed only in pieces that the template itself wrote, so
// that a user who types <|im_end|> cannot end their own turn.
struct PromptPiece {
  std::string text;
  bool trusted;
};

class ChatTemplate {
 public:
  // `eos_text`: the text of the EOS token, which Zephyr templates write as `eos_token`.
  // Throws SetupError when the template is absent or of a family not known: names what was seen, lists the
  // known families and says that --raw sends the prompt as it is.
  static ChatTemplate recognise(std::string_view jinja, std::string_view model_name,
                                std::string_view eos_text = "</s>");

  // Pieces up to and including the opening of the assistant's turn; no two neighbours are equally trusted.
  // The default system text of the file's template is used when the template has one and the conversation
  // does not begin with a system message. A role other than the three is written as untrusted text.
  std::vector<PromptPiece> render(const std::vector<ChatMessage>& messages) const;
  std::string_view family() const;

 private:
  enum class Family { kChatMl, kLlama3, kZephyr };
  Family family_ = Family::kChatMl;
  std::string
      default_system_;  // found in the template between its system marker and the end marker; may be empty
  std::string end_of_turn_;     // what ends a turn
  bool trims_content_ = false;  // the template writes `content | trim`
};

}  // namespace shoal
