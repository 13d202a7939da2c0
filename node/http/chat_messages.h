// What a chat request says: its messages, the tools that the model may call, and variables of the chat
// template, in the values that templates take (model/chat_template.h). Fields and limits are those of
// OpenAI's reference for chat completions; `content` may be a string or text parts, a call's `arguments` JSON
// text or an object.
//
// Pure functions on any thread. They throw FieldError (json_fields.h), which guarded() catches.
#pragma once

#include "node/http/json_fields.h"
#include "node/http/openai_request.h"

namespace shoal {

// Sets the request's conversation, answer_form, message_bytes and has_tool_messages.
void read_conversation(const Fields& fields, CompletionRequest& request);

}  // namespace shoal
