// A chat template from a model file, with a conversation from a user.
#include <string>

#include "base/error.h"
#include "model/chat_template.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shoal;
  fuzz::Input input(data, size);
  const std::string_view all = input.text();
  const size_t cut = all.find('\0');
  const std::string said(cut == std::string_view::npos ? "hi" : all.substr(cut + 1));
  try {
    const ChatTemplate chat({std::string(all.substr(0, cut)), "", "fuzz", "<s>", "</s>"});
    const auto rendered = chat.render(conversation_of({{"system", "Be brief."}, {"user", said}}));
    if (rendered.has_error())
      fuzz::require(rendered.error().code == Errc::kInvalidInput && !rendered.error().message.empty(),
                    "a refusal says why");
  } catch (const SetupError&) {
  }
  return 0;
}
