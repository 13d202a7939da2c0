// A cluster inside one process that is kept running (node/pipeline_keeper.h) while its numbers go wrong: a
// head a and nodes on loopback, any one of which holds with the head the tiny model; weights in a node's
// memory can be spoiled, and what comes to it can be damaged on the way.
#pragma once

#include <doctest/doctest.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>

#include <atomic>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "node/pipeline_keeper.h"
#include "node/pipeline_setup.h"
#include "planner/planner.h"
#include "tests/node/local_cluster.h"
#include "tests/support/temp_dir.h"
#include "transport/frame.h"

namespace shoal::test {

// Passes bytes on to a node, and flips a bit in the payload of the next frames that have one: steps.
class Flipper {
 public:
  explicit Flipper(uint16_t to) : to_(to), acceptor_(io_.executor()) {
    using boost::asio::ip::tcp;
    io_.call([this] {
      const tcp::endpoint any(boost::asio::ip::address_v4::loopback(), 0);
      acceptor_.open(any.protocol());
      acceptor_.bind(any);
      acceptor_.listen();
      boost::asio::co_spawn(io_.executor(), accept(), boost::asio::detached);
      return 0;
    });
  }
  ~Flipper() {
    io_.call([this] {
      acceptor_.close();
      for (const auto& socket : sockets_) socket->close();
      return 0;
    });
    io_.stop();
  }
  uint16_t port() { return acceptor_.local_endpoint().port(); }
  void flip(int frames) { left_ = frames; }
  int flipped() const { return flipped_; }

 private:
  using Socket = std::shared_ptr<boost::asio::ip::tcp::socket>;
  boost::asio::awaitable<void> accept() {
    boost::system::error_code failed;
    while (true) {
      auto near = std::make_shared<boost::asio::ip::tcp::socket>(io_.executor());
      auto far = std::make_shared<boost::asio::ip::tcp::socket>(io_.executor());
      co_await acceptor_.async_accept(*near, boost::asio::redirect_error(boost::asio::use_awaitable, failed));
      if (failed) co_return;
      far->connect({boost::asio::ip::address_v4::loopback(), to_}, failed);
      sockets_.insert(sockets_.end(), {near, far});
      boost::asio::co_spawn(io_.executor(), pass(near, far, true), boost::asio::detached);
      boost::asio::co_spawn(io_.executor(), pass(far, near, false), boost::asio::detached);
    }
  }
  boost::asio::awaitable<void> pass(Socket from, Socket to, bool flips) {
    std::vector<uint8_t> bytes(1 << 16);
    boost::system::error_code failed;
    while (!failed) {
      const size_t n = co_await from->async_read_some(
          boost::asio::buffer(bytes), boost::asio::redirect_error(boost::asio::use_awaitable, failed));
      if (failed) break;
      uint32_t magic = 0, payload = 0;
      if (n > kFrameHeaderBytes) {
        std::memcpy(&magic, bytes.data(), sizeof magic);
        std::memcpy(&payload, bytes.data() + 12, sizeof payload);
      }
      if (flips && magic == kFrameMagic && payload > 0 && left_ > 0) {
        --left_, ++flipped_;
        bytes[n - 3] ^= 4;
      }
      co_await boost::asio::async_write(*to, boost::asio::buffer(bytes.data(), n),
                                        boost::asio::redirect_error(boost::asio::use_awaitable, failed));
    }
    boost::system::error_code ignored;
    from->close(ignored), to->close(ignored);
  }

  const uint16_t to_;
  std::atomic<int> left_{0}, flipped_{0};
  IoThread io_;
  boost::asio::ip::tcp::acceptor acceptor_;
  std::vector<Socket> sockets_;
};

// The tiny model with one weight of one layer's norm changed, by its bits.
inline std::string spoiled_model(const std::string& path, int layer, uint32_t flip) {
  write_file(path, read_whole_file(small_model_file()));
  const GgufFile file = GgufFile::open(path);
  const TensorInfo& norm = file.tensor("blk." + std::to_string(layer) + ".ffn_norm.weight");
  REQUIRE(norm.type == TensorType::kF32);
  std::fstream stream(path, std::ios::in | std::ios::out | std::ios::binary);
  uint32_t bits = 0;
  stream.seekg(static_cast<std::streamoff>(norm.offset));
  stream.read(reinterpret_cast<char*>(&bits), sizeof bits);
  bits = flip == 0 ? 0x7fc00000u : bits ^ flip;  // 0: not a number
  stream.seekp(static_cast<std::streamoff>(norm.offset));
  stream.write(reinterpret_cast<const char*>(&bits), sizeof bits);
  return path;
}

class KeptCluster {
 public:
  // `spoiled`: that node has `flip` in its weights of every layer that it can get, for its first `times`
  // plans. `adapters`: small_lora() of 1, 2, ...
  KeptCluster(std::vector<std::string> names, const std::string& spoiled = "", uint32_t flip = 0,
              int times = 1 << 20, int adapters = 0)
      : names_(std::move(names)),
        sound_(GgufFile::open(small_model_file())),
        spoiled_(
            GgufFile::open(spoiled_model(folder_.file("spoiled.gguf"), small_model().n_layer - 1, flip))),
        loads_left_(times) {
    spdlog::set_level(spdlog::level::off);
    ClusterShape shape;
    shape.adapters = adapters;
    base_ = layout_of(shape);
    base_.node_of_stage.clear(), base_.shard_of_stage.clear();
    base_.steps_in_flight_max = 3;
    std::map<std::string, Endpoint> endpoints;
    for (const std::string& name : names_) {
      nodes_[name] = std::make_unique<Node>(NodeIdentity{"home", name, sound_.fingerprint()}, "127.0.0.1", 0);
      pools_[name] = std::make_unique<ThreadPool>(1);
      wires_[name] = std::make_unique<Flipper>(nodes_[name]->port());
      endpoints[name] = {"127.0.0.1", wires_[name]->port()};
    }
    input_ = devices();
    const Plan plan = make_plan(input_);
    layout_ = lay_out(base_, plan, endpoints, 0);
    for (const std::string& name : names_) {
      const auto make = [this, name, bad = name == spoiled](const PipelineLayout& layout, Engine::Stages old,
                                                            const std::stop_token&) {
        old.clear();
        const bool spoil = bad && loads_left_.fetch_sub(1) > 0;
        return stages_of(name, layout, spoil ? spoiled_ : sound_, *pools_.at(name));
      };
      nodes_[name]->load(layout_, [&] { return make(layout_, {}, {}); });
      nodes_[name]->set_remake(make);
      nodes_[name]->set_examination(
          [this, name] { return failing_.contains(name) ? failing_.at(name) : ""; });
    }
    for (const std::string& name : names_) nodes_[name]->connect();
    coordinator_ = std::make_unique<Coordinator>(head(), layout_, scheduler_limits(layout_),
                                                 any_model(layout_), nullptr);
    PipelineKeeper::Settings settings;
    settings.config.sequences = layout_.slots;
    settings.base = base_;
    settings.base.head = "a";
    settings.known = input_;
    settings.endpoints = endpoints;
    keeper_ = std::make_unique<PipelineKeeper>(
        head(), *coordinator_, settings, plan,
        [this](const PlanInput&, const Plan&, const PipelineLayout& layout) { layout_ = layout; });
  }
  ~KeptCluster() {
    keeper_.reset();
    coordinator_.reset();
    nodes_.clear();  // before what their engines read
  }

  Node& head() { return node("a"); }
  Node& node(const std::string& name) { return *nodes_.at(name); }
  Coordinator& coordinator() { return *coordinator_; }
  PipelineKeeper& keeper() { return *keeper_; }
  Flipper& wire_to(const std::string& node) { return *wires_.at(node); }
  void fail_exams(const std::string& node) { failing_[node] = "its products"; }  // before anything goes wrong
  const GgufFile& sound() const { return sound_; }

  template <class Body>
  auto on_io(Body body) {
    return head().io().call(body);
  }
  std::vector<std::string> stage_nodes() {
    return on_io([this] { return layout_.node_of_stage; });
  }
  std::string state_of(const std::string& node) {
    return on_io([&] {
      for (const PipelineKeeper::Member& member : keeper_->members())
        if (member.name == node) return member.state;
      return std::string();
    });
  }
  PipelineKeeper::Counters counters() {
    return on_io([this] { return keeper_->counters(); });
  }
  std::string told(ClusterEvent::Kind kind) {  // the last event of its kind
    return on_io([&] {
      std::string text;
      for (const ClusterEvent& event : keeper_->events())
        if (event.kind == kind) text = event.text;
      return text;
    });
  }

 private:
  PlanInput devices() const {
    constexpr uint64_t kMiB = 1 << 20;
    PlanInput input;
    const int n_layer = small_model().n_layer;
    input.model.n_layer = n_layer;
    input.model.n_embd = base_.n_embd;
    input.model.layer_bytes.assign(static_cast<size_t>(n_layer), 10 * kMiB);
    input.model.layer_kv_bytes.assign(static_cast<size_t>(n_layer), 0);
    input.model.hidden_bytes_per_row = 256;
    for (const std::string& name : names_) {
      DeviceProfile device;
      device.name = name;
      device.memory_bytes = (name == "a" ? 35 : 45) * kMiB;
      device.decode_layer = {{1, 1e-3}};
      device.output_head = {{1, 1e-3}};
      device.prefill_layer_row_seconds = 5e-4;
      input.devices.push_back(device);
    }
    input.links = LinkTable(static_cast<int>(names_.size()), {1e-3, 1e8});
    return input;
  }

  const TempDir folder_;
  const std::vector<std::string> names_;
  const GgufFile sound_, spoiled_;
  std::atomic<int> loads_left_;
  std::map<std::string, std::string> failing_;
  PipelineLayout base_, layout_;
  PlanInput input_;
  std::map<std::string, std::unique_ptr<ThreadPool>> pools_;
  std::map<std::string, std::unique_ptr<Node>> nodes_;
  std::map<std::string, std::unique_ptr<Flipper>> wires_;
  std::unique_ptr<Coordinator> coordinator_;
  std::unique_ptr<PipelineKeeper> keeper_;
};

}  // namespace shoal::test
