// shoal drain: takes a node's layers off it before it is unplugged, or lets it have some again.
#include <fmt/format.h>

#include <boost/json.hpp>
#include <chrono>
#include <cstdio>
#include <thread>

#include "base/error.h"
#include "node/cluster_config.h"
#include "node/commands.h"
#include "node/server_client.h"

namespace shoal {
namespace {

namespace json = boost::json;

constexpr auto kLook = std::chrono::milliseconds(200);

std::string field(const json::value& object, const char* key) {
  const json::object* fields = object.if_object();
  const json::value* value = fields == nullptr ? nullptr : fields->if_contains(key);
  return value != nullptr && value->is_string() ? std::string(value->get_string()) : "";
}

std::string state_of(const json::value& status, const std::string& node) {
  const json::object* fields = status.if_object();
  const json::value* nodes = fields == nullptr ? nullptr : fields->if_contains("nodes");
  if (nodes == nullptr || !nodes->is_array()) return "";
  for (const json::value& each : nodes->get_array()) {
    if (field(each, "name") == node) return field(each, "state");
  }
  return "";
}

}  // namespace

int drain_command(const TopFlags& server, const std::string& node, bool undo, double timeout_s) {
  if (!is_node_name(node))
    throw SetupError(fmt::format("shoal drain '{}': 1 to 63 letters, digits, '-', '_' or '.'", node));
  const ServerClient client(server.url, server.api_key_file);
  const ServerClient::Answer answer =
      client.post("/cluster/drain", json::object{{"node", node}, {"undo", undo}});
  if (answer.status != 202) {
    const json::object* body = answer.body.if_object();
    const json::value* error = body == nullptr ? nullptr : body->if_contains("error");
    throw SetupError(
        error == nullptr ? fmt::format("the server answered {}", answer.status) : field(*error, "message"),
        kExitFailed);
  }
  if (undo) {
    std::fputs(fmt::format("node {} may take layers again\n", node).c_str(), stderr);
    return kExitDone;
  }
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(timeout_s);
  while (std::chrono::steady_clock::now() < deadline) {
    const std::string state = state_of(client.status(), node);
    if (state == "drained" || state == "lost" || state == "quarantined") {
      std::fputs(fmt::format("node {} has no layers any more\n", node).c_str(), stderr);
      return kExitDone;
    }
    if (state != "draining")
      throw SetupError(
          fmt::format("node {} keeps its layers: the others cannot hold them (see the server's log)", node),
          kExitFailed);
    std::this_thread::sleep_for(kLook);
  }
  throw SetupError(fmt::format("node {} still had layers after {:g} s", node, timeout_s), kExitFailed);
}

}  // namespace shoal
