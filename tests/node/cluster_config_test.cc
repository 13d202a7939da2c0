#include "node/cluster_config.h"

#include <doctest/doctest.h>

#include <string>

#include "base/error.h"
#include "tests/support/mentions.h"
#include "tests/support/temp_dir.h"

namespace shoal {
namespace {

using test::mentions;

constexpr const char* kWhole = R"(
cluster: home
model: models/m.gguf
context: 2048
sequences: 3
kv-cache: q8_0
head: laptop
nodes:
  laptop: {address: 127.0.0.1, memory: 2GiB, threads: 1}
  pi-1:   {address: 10.0.0.2, port: 7000, memory: 1GiB, kernels: generic, pin: true, weights: fetch, cache-size: 8GiB}
links:
  - {between: [laptop, pi-1], bandwidth: 100Mbps, latency: 1ms}
plan: {objective: throughput, keep-on-head: ends, layers: {laptop: 0-9, pi-1: 10}}
serve: {listen: 0.0.0.0:8080, api-key-file: keys, allow-origin: "http://a:1"}
)";

std::string problem(const std::string& yaml) {
  try {
    parse_cluster_config(yaml, "c.yaml");
  } catch (const SetupError& error) {
    return error.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("watts and targets are read, and refused where they make no sense") {
  const ClusterConfig config = parse_cluster_config(
      "nodes: {a: {memory: 1GiB, idle-watts: 2.7, busy-watts: 8 W}}\n"
      "plan: {objective: energy, ttft-ms: 900, ms-per-token: 80ms, power-cap: 40W}\n",
      "c.yaml");
  CHECK(config.nodes[0].idle_watts == 2.7);
  CHECK(config.nodes[0].busy_watts == 8);
  CHECK(config.plan.objective == "energy");
  CHECK(config.plan.ttft_ms == 900);
  CHECK(config.plan.ms_per_token == 80);
  CHECK(config.plan.power_cap == 40);
  CHECK(mentions(problem("nodes: {a: {memory: 1GiB, idle-watts: 9, busy-watts: 8}}"), "busy-watts"));
  CHECK(mentions(problem("nodes: {a: {memory: 1GiB, idle-watts: -1}}"), "idle-watts"));
  CHECK(mentions(problem("nodes: {a: {memory: 1GiB, busy-watts: warm}}"), "busy-watts"));
  CHECK(mentions(problem("nodes: {a: {memory: 1GiB}}\nplan: {ms-per-token: nan}"), "ms-per-token"));
}

TEST_CASE("a cluster has so many nodes and its file so many bytes, and no more") {
  const auto nodes = [](int count) {
    std::string text = "nodes:\n";
    for (int i = 0; i < count; ++i) text += "  n" + std::to_string(i) + ": {memory: 1GiB}\n";
    return text;
  };
  CHECK(problem(nodes(256)) == "accepted");
  CHECK(mentions(problem(nodes(257)), "257 nodes are more than 256"));
  const test::TempDir dir;
  const std::string path = dir.file("c.yaml"), whole = nodes(1);
  test::write_file(path, whole + std::string((1 << 20) - whole.size(), '\n'));
  CHECK_NOTHROW(load_cluster_config(path, "any"));
  test::write_file(path, whole + std::string((1 << 20) - whole.size() + 1, '\n'));
  CHECK_THROWS_WITH_AS(load_cluster_config(path, "any"), doctest::Contains("larger than 1 MiB"), SetupError);
}

TEST_CASE("every key of the cluster file is read") {
  const ClusterConfig config = parse_cluster_config(kWhole, "c.yaml");
  CHECK(config.cluster == "home");
  CHECK(config.model == "models/m.gguf");
  CHECK(config.context == 2048);
  CHECK(config.sequences == 3);
  CHECK(config.kv_cache == KvType::kQ8_0);
  CHECK(config.nodes[1].pin);
  CHECK_FALSE(config.nodes[0].pin);
  CHECK_FALSE(config.nodes[1].own_file);
  CHECK(config.nodes[0].own_file);
  CHECK_FALSE(config.nodes[0].needs_file);
  CHECK(config.nodes[1].cache_bytes == uint64_t{8} << 30);
  CHECK(config.nodes[0].cache_bytes == 0);
  REQUIRE(config.nodes.size() == 2);
  CHECK(config.head_index() == 0);
  CHECK(config.nodes[1].name == "pi-1");
  CHECK(config.nodes[1].address == "10.0.0.2");
  CHECK(config.nodes[1].port == 7000);
  CHECK(config.nodes[1].memory_bytes == uint64_t{1} << 30);
  CHECK(config.nodes[1].threads == 0);
  CHECK(config.nodes[1].kernels == "generic");
  REQUIRE(config.links.size() == 1);
  CHECK(config.links[0].bytes_per_second.value() == doctest::Approx(12.5e6));
  CHECK(config.links[0].latency_s.value() == doctest::Approx(1e-3));
  CHECK(config.plan.objective == "throughput");
  CHECK(config.plan.keep_on_head == "ends");
  CHECK(config.plan.layers.at("laptop").last == 9);
  CHECK(config.plan.layers.at("pi-1").first == 10);
  CHECK(config.plan.layers.at("pi-1").last == 10);
  CHECK(config.serve.listen == "0.0.0.0:8080");
  CHECK(config.serve.api_key_file == "keys");
  CHECK(config.serve.allow_origin == "http://a:1");
  CHECK(parse_cluster_config(kWhole, "/etc/shoal/c.yaml").serve.api_key_file == "/etc/shoal/keys");
}

TEST_CASE("who is trusted, and what is kept on the head and from the others") {
  const auto trusted = [](const std::string& a, const std::string& b, const std::string& c) {
    const ClusterConfig config = parse_cluster_config(
        "nodes: {a: {memory: 1GiB" + a + "}, b: {memory: 1GiB" + b + "}, c: {memory: 1GiB" + c + "}}",
        "c.yaml");
    std::string text;
    for (const NodeConfig& node : config.nodes) text += node.trusted ? 'T' : '-';
    return text;
  };
  CHECK(trusted("", "", "") == "TTT");
  CHECK(trusted("", ", trusted: false", "") == "T-T");
  CHECK(trusted("", ", trusted: true", "") == "TT-");  // who is not named is not trusted then
  CHECK(trusted("", ", trusted: true", ", trusted: false") == "TT-");
  CHECK(trusted(", trusted: true", "", "") == "T--");
  CHECK(mentions(problem("nodes:\n  a: {memory: 1GiB, trusted: false}"), "c.yaml:2: node 'a' is the head"));
  CHECK(mentions(problem("nodes: {a: {memory: 1GiB, trusted: perhaps}}"),
                 "nodes.a.trusted must be true or false"));
  const std::string node = "nodes: {a: {memory: 1GiB}}\n";
  const ClusterConfig config = parse_cluster_config(
      node + "plan: {keep-on-head: 'first:2,last:1', keep-on-trusted: first:3}", "c.yaml");
  CHECK(config.plan.keep_on_head == "first:2,last:1");
  CHECK(config.plan.keep_on_trusted == "first:3");
  // Kept from those who join as soon as the file says a word of trust.
  const auto kept = [](const std::string& text) {
    return parse_cluster_config(text, "c.yaml").plan.keep_on_trusted;
  };
  CHECK(kept(node).empty());
  CHECK(kept("nodes: {a: {memory: 1GiB, trusted: true}}") == "ends");
  CHECK(kept("nodes: {a: {memory: 1GiB}, b: {memory: 1GiB, trusted: false}}\nplan: {objective: latency}") ==
        "ends");
  CHECK(kept("nodes: {a: {memory: 1GiB, trusted: true}}\nplan: {keep-on-trusted: none}") == "none");
  CHECK(
      mentions(problem(node + "plan: {keep-on-head: first:2,last:1}"),
               "c.yaml:2: 'last:1' stands where a key belongs: in braces a value with a comma needs quotes"));
  for (const char* wrong : {"first", "first:0", "first:-1", "first:2,", "last:1", "first:2,last:-1",
                            "first:2,last:1,", "first:99999", "first: 2", "ends,first:1"}) {
    CHECK(mentions(problem(node + "plan: {keep-on-head: '" + wrong + "'}"),
                   "c.yaml:2: plan.keep-on-head is none"));
  }
  CHECK(mentions(problem(node + "plan: {keep-on-trusted: all}"), "plan.keep-on-trusted is none"));
  CHECK(parse_cluster_config(node, "c.yaml").canonical() !=
        parse_cluster_config(node + "plan: {keep-on-trusted: none}", "c.yaml").canonical());
}

TEST_CASE("defaults: the first node is the head, everything listens on loopback") {
  const ClusterConfig config =
      parse_cluster_config("nodes: {a: {memory: 1GiB}, b: {memory: 1GiB}}", "c.yaml");
  CHECK(config.head == "a");
  CHECK(config.nodes[0].address == "127.0.0.1");
  CHECK(config.plan.keep_on_head == "first-layer");
  CHECK(config.kv_cache == KvType::kF16);
}

TEST_CASE("what is wrong is named with its line and the way out") {
  CHECK(problem("nodes: {a: {memory: 1GiB}}\nlinkz: []") ==
        "c.yaml:2: unknown key 'linkz'; did you mean 'links'?");
  CHECK(mentions(problem("nodes: {a: {memory: 1GiB, zzz: 1}}"),
                 "known: address, port, memory, threads, kernels, pin"));
  CHECK(mentions(problem("kv-cache: q4_0\nnodes: {a: {memory: 1GiB}}"),
                 "c.yaml:1: kv-cache is f16 or q8_0, not 'q4_0'"));
  CHECK(mentions(problem("nodes: {a: {memory: 1GiB, pin: maybe}}"), "nodes.a.pin must be true or false"));
  CHECK(mentions(problem("nodes: {a: {memory: 1GiB, weights: here}}"),
                 "nodes.a.weights must be any, file or fetch"));
  CHECK(mentions(problem("nodes: {a: {memory: 1GiB, cache-size: much}}"), "nodes.a.cache-size"));
  const ClusterConfig none =
      parse_cluster_config("nodes: {a: {memory: 1GiB, weights: file, cache-size: none}}", "c.yaml");
  CHECK_FALSE(none.nodes[0].cache);
  CHECK(none.nodes[0].needs_file);
  CHECK(mentions(problem("nodes: {a: {threads: 1}}"), "node 'a' has no memory"));
  CHECK(
      mentions(problem("nodes:\n  a: {memory: 1GiB}\n  a: {memory: 1GiB}"), "c.yaml:3: 'a' is given twice"));
  CHECK(mentions(problem("nodes: {a: {memory: 1GiB, port: 70000}}"), "nodes.a.port must be a whole number"));
  for (const char* name : {"a b", "'.'", "'..'"})
    CHECK(mentions(problem(std::string("nodes: {") + name + ": {memory: 1GiB}}"), "a node's name is"));
  CHECK(mentions(problem("nodes: {}"), "nodes is empty"));
  CHECK(mentions(problem("context: 4096"), "nodes"));
  CHECK(mentions(problem("nodes: 7"), "must be a map"));
  CHECK(mentions(problem("- 1\n- 2"), "must be a map"));
  CHECK(mentions(problem("nodes: {a: {memory: 1GiB}}\nlinks: [{between: [a, a]}]"), "with itself"));
  CHECK(mentions(problem("nodes: {a: {memory: 1GiB}}\nplan: {layers: {a: x}}"), "write layers like 0-9"));
  CHECK(mentions(problem("nodes: {a: {memory: [1]}}"), "nodes.a.memory"));
  const std::string two = "nodes: {a: {memory: 1GiB}, b: {memory: 1GiB}}\n";
  for (const char* again : {"[a, b]", "[b, a]"}) {
    CHECK(mentions(problem(two + "links:\n  - {between: [a, b], latency: 1ms}\n  - {between: " + again + "}"),
                   "c.yaml:4: the link between"));
  }
  CHECK(problem("") == "c.yaml: the cluster file is empty (see configs/ for examples)");
  CHECK(mentions(problem("nodes:\n"), "nodes must be a map"));
  CHECK(mentions(problem("---\n" + two + "---\n" + two), "more than one document"));
  CHECK(mentions(problem("# a comment\n,#\n" + two), "more than one document"));  // yaml-cpp never ends there
  CHECK(mentions(problem("nodes: " + std::string(100000, '[')), "nested too deeply"));
  CHECK(mentions(problem("nodes: &n {a: {memory: *n}}"), "nodes.a.memory must be a text"));
  CHECK(mentions(problem(two + "links: [{between: [[1], {b: 2}]}]"), "c.yaml:2: a plain text or number"));
  for (const char* wrong : {"0s", "500ms", "2000000s", "fast"})
    CHECK(mentions(problem(two + "stall-timeout: " + wrong), "c.yaml:2: stall-timeout"));
  CHECK(parse_cluster_config(two + "stall-timeout: 5s", "c.yaml").stall_timeout_s == 5);
  CHECK(mentions(problem("nodes: {a: {memory: 1GiB}}\nserve: {listen: [1]}"), "serve.listen must be a text"));
  CHECK(mentions(problem("nodes: {a: {memory: 1GiB}, ? [1, 2] : {memory: 1GiB}}"), "c.yaml"));
  CHECK(mentions(problem("nodes: {a: *missing}"), "c.yaml:1"));
}

TEST_CASE("nodes agree on what matters and not on where the file lies") {
  ClusterConfig one = parse_cluster_config(kWhole, "here.yaml"),
                other = parse_cluster_config(kWhole, "there.yaml");
  CHECK(one.canonical() == other.canonical());
  other.nodes[1].memory_bytes += 1;
  CHECK(one.canonical() != other.canonical());
}

}  // namespace shoal
