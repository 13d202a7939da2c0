// The cluster file.
#include <string>

#include "base/error.h"
#include "node/cluster_config.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shoal;
  fuzz::Input input(data, size);
  try {
    const ClusterConfig config = parse_cluster_config(std::string(input.text()), "fuzz.yaml");
    fuzz::require(config.head_index() >= 0, "the head is one of the nodes");
    for (const LinkConfig& link : config.links)
      fuzz::require(config.node_index(link.a) >= 0 && config.node_index(link.b) >= 0, "links join nodes");
    fuzz::require(!config.canonical().empty(), "there is something to agree on");
  } catch (const SetupError& refused) {
    fuzz::require(std::string(refused.what()).find("fuzz.yaml") != std::string::npos,
                  "a refusal names the file");
  }
  return 0;
}
