// shoal probe and shoal inspect: what this device can do, and what is in a model file.
#include <fmt/format.h>
#include <boost/json.hpp>

#include <cstdio>
#include <iostream>

#include "base/small_file.h"
#include "base/units.h"
#include "model/inspect.h"
#include "node/best_threads.h"
#include "node/command_support.h"
#include "node/http/openai_request.h"
#include "node/probe.h"
#include "node/process_memory.h"

namespace shoal {

int probe_command(const CommonFlags& common, bool json) {
  const Kernels& kernels = select_kernels(common.kernels);
  const int threads = common.threads > 0 ? common.threads : device_processors();
  std::string tables;
  for (const Kernels* table : available_kernels())
    tables += (tables.empty() ? "" : ", ") + std::string(table->name);
  const double read = probe_memory_read(threads);
  boost::json::object out{{"host", host_name()},       {"kernels", kernels.name},
                          {"threads", threads},        {"processors", device_processors()},
                          {"memory", device_memory()}, {"memory_read_bytes_per_second", read}};
  std::string text = fmt::format(
      "host         {}\nprocessors   {} ({} thread{} used)\nkernels      {} (available: {})\nmemory       "
      "{}\n"
      "memory read  {:.1f} GB/s\n",
      host_name(), device_processors(), threads, threads == 1 ? "" : "s", kernels.name, tables,
      format_bytes(device_memory()), read / 1e9);
  if (!common.model.empty()) {
    const GgufFile file = GgufFile::open(resolve_model_path(common.model, ""));
    const ModelConfig config = ModelConfig::from(file);
    const std::vector<ThreadCount> counts =
        measure_thread_counts(file, config, kernels, device_memory(), device_processors());
    const int best = best_thread_count(counts);
    out["best_threads"] = best;
    text += fmt::format("best threads {} (", best);
    for (const ThreadCount& count : counts) {
      text += fmt::format("{}{}: {} a token", count.threads == 1 ? "" : ", ", count.threads,
                          format_seconds(count.token_seconds));
    }
    text += ")\n";
    DeviceProfile profile = probe_device(file, config, kernels, {threads, device_memory()});
    profile.name = host_name();
    out["profile"] = boost::json::parse(device_profile_to_json(profile));
    text += fmt::format("model        {} ({} layers)\n", config.name, config.n_layer);
    for (const RowSeconds& p : profile.decode_layer) {
      text += fmt::format("  layer, {:>2} row{}   {}\n", p.rows, p.rows == 1 ? " " : "s",
                          format_seconds(p.seconds));
    }
    for (const RowSeconds& p : profile.output_head) {
      text += fmt::format("  output, {:>2} row{}  {}\n", p.rows, p.rows == 1 ? " " : "s",
                          format_seconds(p.seconds));
    }
    text +=
        fmt::format("  layer, a row of a prompt  {}\n", format_seconds(profile.prefill_layer_row_seconds));
  }
  std::fputs((json ? boost::json::serialize(out) + "\n" : text).c_str(), stdout);
  return kExitDone;
}

namespace {

constexpr size_t kConversationBytesMax = size_t{4} << 20;  // as of a request to the server

// What `shoal inspect --template` renders where no conversation is given.
constexpr const char* kSampleConversation = R"({"messages": [
  {"role": "system", "content": "You are brief."}, {"role": "user", "content": "What is a shoal?"},
  {"role": "assistant", "content": "Fish that keep together."}, {"role": "user", "content": "Why do they?"}]})";

// The prompt as the model gets it, and below it on stderr what the template can do.
void print_prompt(const GgufFile& file, const std::string& model, const std::string& conversation) {
  const Tokenizer tokenizer = Tokenizer::from(file);
  const ChatTemplate chat = ChatTemplate::from(file, tokenizer, model);
  const auto request = parse_chat_request(
      conversation.empty() ? kSampleConversation
                           : read_text_file(conversation, "conversation", kConversationBytesMax));
  if (request.has_error())
    throw SetupError(fmt::format("the conversation {}: {}", conversation, request.error().message));
  const Result<std::vector<PromptPiece>> pieces = chat.render(request->conversation);
  if (!pieces) throw SetupError(pieces.error().message);
  std::string text;
  for (const PromptPiece& piece : *pieces) text += piece.text;
  std::cout << text << std::flush;
  const auto yes_no = [](bool yes) { return yes ? "yes" : "no"; };
  std::fputs(
      fmt::format(
          "\n\n{} tokens; takes system messages: {}, tools: {}, earlier tool calls: {}; reasoning: {}\n",
          tokenizer.encode(*pieces, /*add_bos=*/true).size(),
          chat.folds_system() ? "in front of the first user message" : "yes", yes_no(chat.takes_tools()),
          yes_no(chat.takes_tool_messages()), yes_no(chat.thinks()))
          .c_str(),
      stderr);
}

}  // namespace

int inspect_command(const InspectFlags& flags) {
  const GgufFile file = GgufFile::open(resolve_model_path(flags.model, ""));
  if (flags.prompt) {
    print_prompt(file, flags.model, flags.conversation);
  } else {
    inspect_model(file, std::cout);
  }
  return kExitDone;
}

}  // namespace shoal
