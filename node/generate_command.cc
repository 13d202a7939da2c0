// shoal run and shoal chat.
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>

#include "model/chat_template.h"
#include "node/command_support.h"
#include "node/commands.h"
#include "node/plain_prompt.h"
#include "node/session.h"

namespace shoal {
namespace {

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

// One answer, streamed, and then the table of what each node did for it.
std::string answer_measured(Cluster& cluster, const CommonFlags& common, GenerationRequest request) {
  const int prompt_tokens = static_cast<int>(request.prompt.size());
  std::vector<StatsMessage> before, generating;
  if (!common.quiet) before = generating = cluster.node->collect_stats();
  TraceSession trace(common.trace, cluster);
  TextStream stream(*cluster.tokenizer);
  bool first = true;
  const Answer answer = generate(cluster, std::move(request), [&](int32_t token) {
    stream.push(token);
    trace.write();
    if (first && !common.quiet) generating = cluster.node->collect_stats();
    first = false;
  });
  const std::string text = stream.finish();
  std::fputs("\n", stdout);
  std::fflush(stdout);
  if (answer.reason == FinishReason::kContextFull) {
    spdlog::warn(
        "the answer ends because the context is full: {} tokens of prompt and {} of answer fill its {} "
        "(raise it with --context, or context: in the cluster file)",
        prompt_tokens, answer.tokens.size(), cluster.config.context);
  }
  if (common.quiet) return text;

  const int steps = static_cast<int>(answer.tokens.size()) - 1;  // the first token belongs to the prompt
  const double generation_s = answer.total_s - answer.first_token_s;
  std::string table = "\n" + render_report(report_nodes(before, generating, cluster.node->collect_stats(),
                                                        layout_now(cluster)),
                                           generation_s, steps);
  if (!answer.tokens.empty()) {
    table += fmt::format("prompt {} tokens", prompt_tokens);
    if (answer.prompt_rows < prompt_tokens)
      table += fmt::format(" ({} in the cache)", prompt_tokens - answer.prompt_rows);
    table += fmt::format(", {:.1f} tokens/s", answer.prompt_rows / answer.first_token_s);
  }
  if (steps > 0) {
    table += fmt::format("; generation {} tokens, {:.1f} tokens/s", steps + 1, steps / generation_s);
    const double predicted = cluster.plan.predicted.seconds_per_token;
    if (predicted > 0) {
      table += fmt::format("; {:.2f} ms a token, the plan said {:.2f}", generation_s / steps * 1e3,
                           predicted * 1e3);
    }
  }
  std::fputs((table + "\n").c_str(), stderr);
  return text;
}

GenerationRequest request_of(const Cluster& cluster, const CommonFlags& common, const RunFlags& flags,
                             std::vector<int32_t> prompt) {
  GenerationRequest request;
  request.adapter =
      choose_adapter(cluster.config, common.lora).value();  // checked before anything was loaded
  request.prompt = std::move(prompt);
  request.max_tokens = flags.max_tokens;
  request.sampling = flags.sampling;
  request.ignore_end = flags.ignore_eos;
  return request;
}

void answer_once(Cluster& cluster, const CommonFlags& common, const RunFlags& flags) {
  std::vector<int32_t> prompt;
  if (!cluster.model.decodes())
    throw SetupError("the model generates no text: shoal serve offers its embeddings or scores");
  if (flags.raw || takes_plain_text(cluster)) {
    if (!flags.raw && !flags.system.empty())
      throw SetupError("--system: the model has no chat template; write it into the prompt");
    prompt = text_prompt(cluster, flags.prompt);
  } else {
    std::vector<ChatMessage> messages;
    if (!flags.system.empty()) messages.push_back({"system", flags.system});
    messages.push_back({"user", flags.prompt});
    prompt = chat_prompt(*cluster.tokenizer, chat_template_of(cluster), messages);
  }
  answer_measured(cluster, common, request_of(cluster, common, flags, std::move(prompt)));
}

void converse(Cluster& cluster, const CommonFlags& common, const RunFlags& flags) {
  const ChatTemplate chat = chat_template_of(cluster);
  std::vector<ChatMessage> messages;
  if (!flags.system.empty()) messages.push_back({"system", flags.system});
  const bool terminal = isatty(STDIN_FILENO) == 1;
  if (terminal)
    std::fputs("Type a message; /clear forgets the conversation, /exit or Ctrl-D ends.\n", stderr);
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
    try {
      std::vector<int32_t> prompt = chat_prompt(*cluster.tokenizer, chat, messages);
      messages.push_back(
          {"assistant",
           answer_measured(cluster, common, request_of(cluster, common, flags, std::move(prompt)))});
    } catch (const SetupError& error) {  // too long for the context; the conversation goes on without it
      if (error.exit_code() != kExitUsage) throw;
      std::fputs(fmt::format("shoal: {} (/clear forgets the conversation)\n", error.what()).c_str(), stderr);
      messages.pop_back();
    }
  }
}

}  // namespace

int run_command(const CommonFlags& common, const RunFlags& flags) {
  return with_cluster(
      common,
      [&](bool) {
        flags.sampling.validate();
        if (flags.prompt.empty() && !flags.raw) throw SetupError("-p (--prompt) is empty: say what to ask");
      },
      [&](Cluster& cluster) {
        answer_once(cluster, common, flags);
        if (!common.quiet) print_fidelity(cluster);
      });
}

int chat_command(const CommonFlags& common, const RunFlags& flags) {
  return with_cluster(
      common, [&](bool) { flags.sampling.validate(); },
      [&](Cluster& cluster) {
        converse(cluster, common, flags);
        if (!common.quiet) print_fidelity(cluster);
      });
}

}  // namespace shoal
