// Prompts of a model whose encoder reads them (T5): text as it is, with the tokens that the model expects
// around it. Such models have no chat template, and no conversation: of one the last user message is the
// prompt. Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/chat_template.h"
#include "model/tokenizer.h"
#include "node/cluster.h"

namespace shoal {

// Whether the model generates from plain text: an encoder reads it and the file has no chat template.
bool takes_plain_text(const Cluster& cluster);
// A text's tokens: whole for an encoder, otherwise to be continued.
std::vector<int32_t> text_prompt(const Cluster& cluster, const std::string& text);
// The last message of the role "user"; nothing where none says anything.
std::optional<std::string> last_user_text(const ChatConversation& conversation);

}  // namespace shoal
