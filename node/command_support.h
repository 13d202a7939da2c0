// What the subcommands share: flags to configuration, and bringing a cluster up around the head's work.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "model/chat_template.h"
#include "node/commands.h"

namespace shoal {

// The configuration that the flags mean: the cluster file with the flags' changes, or a cluster of one.
// Throws SetupError.
ClusterConfig config_of(const CommonFlags& common);
ClusterOptions options_of(const CommonFlags& common);

// What --insecure without --trust-network asks of the address of each node. Throws SetupError.
void refuse_off_loopback(const std::string& who, const std::string& address);

// check(), which throws SetupError where other flags are wrong or the head could not do its work, then
// config_of(), on every rank; where it fails on any, all end, and rank 0 says it once.
void load_config_together(Cluster& cluster, Bootstrap& bootstrap, const CommonFlags& common,
                          const std::function<void(bool is_head)>& check);

// Starts the cluster and does `work` on the head; the other nodes serve until the head is done, after
// `on_worker`. Returns the exit code.
int with_cluster(const CommonFlags& common, const std::function<void(bool is_head)>& check,
                 const std::function<void(Cluster&)>& work,
                 const std::function<void(Cluster&)>& on_worker = {});

// "NAME" or "NAME:SCALE" of the cluster's adapters; nothing for "". kInvalidInput where there is none of that
// name.
Result<AdapterChoice> choose_adapter(const ClusterConfig& config, const std::string& text);

// On the head: what decoding took beside what the plan said, on stderr; nothing where there is no prediction.
void print_fidelity(Cluster& cluster);

// On the head. Throws SetupError where the model's template is not of a known family.
ChatTemplate chat_template_of(const Cluster& cluster);
// Throws SetupError where the template refuses the messages.
std::vector<int32_t> chat_prompt(const Tokenizer& tokenizer, const ChatTemplate& chat,
                                 const std::vector<ChatMessage>& messages);

// Records what the coordinator does for as long as it lives; nothing where `path` is empty.
class TraceSession {
 public:
  TraceSession(const std::string& path, Cluster& cluster);  // throws SetupError
  ~TraceSession();
  TraceSession(const TraceSession&) = delete;
  TraceSession& operator=(const TraceSession&) = delete;
  void write() {  // now and then, from this thread
    if (trace_) trace_->write();
  }

 private:
  Cluster& cluster_;
  std::optional<Trace> trace_;
};

}  // namespace shoal
