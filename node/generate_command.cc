// shoal run and shoal chat.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>

#include "model/chat_template.h"
#include "node/command_support.h"
#include "node/commands.h"
#include "node/session.h"

namespace shoal {
namespace {

ChatTemplate chat_template_of(const Cluster& cluster) {
  const Tokenizer& tokenizer = *cluster.tokenizer;
  return ChatTemplate::recognise(cluster.file->get_string("tokenizer.chat_template", ""), cluster.config.model,
                                 tokenizer.piece(tokenizer.eos(), /*show_special=*/true));
}

// Streams an answer to stdout as it comes. A closed pipe ends the program quietly, as it should.
class TextStream {
 public:
  explicit TextStream(const Tokenizer& tokenizer) : decoder_(tokenizer) {}
  void push(int32_t token) { write(decoder_.push(token)); }
  std::string finish() {
    write(decoder_.finish());
    return text_;
  }

 private:
  void write(const std::string& text) {
    text_ += text;
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }
  StreamDecoder decoder_;
  std::string text_;
};

// One answer with its table of what each node did.
class MeasuredAnswer {
 public:
  explicit MeasuredAnswer(Cluster& cluster) : cluster_(cluster), before_(cluster.node->collect_stats()) {}

  void print(const Answer& answer, int prompt_tokens, int tokens) const {
    const std::vector<NodeReport> nodes = report_since(before_, cluster_.node->collect_stats(), cluster_.layout);
    std::string text = "\n" + render_report(nodes, answer.total_s, prompt_tokens + tokens - 1);
    const double generation_s = answer.total_s - answer.first_token_s;
    text += fmt::format("prompt {} tokens, {:.1f} tokens/s", prompt_tokens, prompt_tokens / answer.first_token_s);
    if (tokens > 1) {
      text += fmt::format("; generation {} tokens, {:.1f} tokens/s", tokens, (tokens - 1) / generation_s);
      const double predicted = cluster_.plan.predicted.seconds_per_token;
      if (predicted > 0) {
        text += fmt::format("; {:.2f} ms a token, the plan said {:.2f}", generation_s / (tokens - 1) * 1e3, predicted * 1e3);
      }
    }
    std::fputs((text + "\n").c_str(), stderr);
  }

 private:
  Cluster& cluster_;
  std::vector<StatsMessage> before_;
};

GenerationRequest request_of(const RunFlags& flags, std::vector<int32_t> prompt) {
  GenerationRequest request;
  request.prompt = std::move(prompt);
  request.max_tokens = flags.max_tokens;
  request.sampling = flags.sampling;
  request.ignore_end = flags.ignore_eos;
  return request;
}

void answer_once(Cluster& cluster, const CommonFlags& common, const RunFlags& flags) {
  std::vector<int32_t> prompt;
  if (flags.raw) {
    prompt = cluster.tokenizer->encode(flags.prompt, /*parse_special=*/true, /*add_bos=*/true);
  } else {
    std::vector<ChatMessage> messages;
    if (!flags.system.empty()) messages.push_back({"system", flags.system});
    messages.push_back({"user", flags.prompt});
    prompt = cluster.tokenizer->encode(chat_template_of(cluster).render(messages), /*add_bos=*/true);
  }
  const int prompt_tokens = static_cast<int>(prompt.size());
  const MeasuredAnswer measured(cluster);
  TextStream stream(*cluster.tokenizer);
  const Answer answer =
      generate(cluster, request_of(flags, std::move(prompt)), [&](int32_t token) { stream.push(token); });
  stream.finish();
  std::fputs("\n", stdout);
  std::fflush(stdout);
  if (!common.quiet) measured.print(answer, prompt_tokens, static_cast<int>(answer.tokens.size()));
}

void converse(Cluster& cluster, const CommonFlags& common, const RunFlags& flags) {
  const ChatTemplate chat = chat_template_of(cluster);
  std::vector<ChatMessage> messages;
  if (!flags.system.empty()) messages.push_back({"system", flags.system});
  const bool terminal = isatty(STDIN_FILENO) == 1;
  if (terminal) std::fputs("Type a message; /clear forgets the conversation, /exit or Ctrl-D ends.\n", stderr);
  std::string line;
  while (true) {
    if (terminal) std::fputs("> ", stderr);
    if (!std::getline(std::cin, line) || line == "/exit") return;
    if (line.empty()) continue;
    if (line == "/clear") {
      std::erase_if(messages, [](const ChatMessage& m) { return m.role != "system"; });
      continue;
    }
    messages.push_back({"user", line});
    std::vector<int32_t> prompt = cluster.tokenizer->encode(chat.render(messages), /*add_bos=*/true);
    const int prompt_tokens = static_cast<int>(prompt.size());
    const MeasuredAnswer measured(cluster);
    TextStream stream(*cluster.tokenizer);
    const Answer answer =
        generate(cluster, request_of(flags, std::move(prompt)), [&](int32_t token) { stream.push(token); });
    messages.push_back({"assistant", stream.finish()});
    std::fputs("\n", stdout);
    std::fflush(stdout);
    if (!common.quiet) measured.print(answer, prompt_tokens, static_cast<int>(answer.tokens.size()));
  }
}

}  // namespace

int run_command(const CommonFlags& common, const RunFlags& flags) {
  flags.sampling.validate();
  return with_cluster(common, [&](Cluster& cluster) { answer_once(cluster, common, flags); });
}

int chat_command(const CommonFlags& common, const RunFlags& flags) {
  flags.sampling.validate();
  return with_cluster(common, [&](Cluster& cluster) { converse(cluster, common, flags); });
}

}  // namespace shoal
