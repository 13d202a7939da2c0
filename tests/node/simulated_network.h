// Time, processes and connections of a simulated cluster (simulated_cluster.h). A connection is as TCP makes
// it: each direction in order; what is sent over a cut link waits, and is given up after kPeerTimeout; a
// process that is killed closes its connections, one that is stopped takes nothing until it goes on.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace shoal::test {

class Network {
 public:
  using Handler = std::function<void()>;
  explicit Network(uint64_t seed) : random_(seed) {}

  double now() const { return now_s_; }
  void at(double time_s, Handler handler) { events_.push({time_s, order_++, std::move(handler)}); }
  void after(double seconds, Handler handler) { at(now_s_ + seconds, std::move(handler)); }
  bool step() {
    if (events_.empty()) return false;
    const Event event = events_.top();
    events_.pop();
    now_s_ = event.time_s;
    event.handler();
    return true;
  }

  double uniform(double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(random_);
  }
  int whole(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }
  bool chance(double share) { return uniform(0, 1) < share; }

  // ---- Links between hosts, by direction ----
  void cut(const std::string& from, const std::string& to) { cut_.insert({from, to}); }
  void mend(const std::string& from, const std::string& to) { cut_.erase({from, to}); }
  bool is_cut(const std::string& from, const std::string& to) const { return cut_.contains({from, to}); }

  // ---- Processes: an incarnation is one run of a program on a host ----
  uint64_t start(const std::string& host) { return running_[host] = ++incarnations_; }
  void kill(const std::string& host) { running_.erase(host), stopped_.erase(host); }
  void stop(const std::string& host) { stopped_.insert(host); }
  void go_on(const std::string& host) {
    stopped_.erase(host);
    std::vector<Handler> kept;
    kept.swap(kept_[host]);
    for (Handler& handler : kept) after(0, std::move(handler));
  }
  bool runs(const std::string& host, uint64_t incarnation) const {
    const auto found = running_.find(host);
    return found != running_.end() && found->second == incarnation;
  }
  bool is_up(const std::string& host) const { return running_.contains(host); }
  bool is_stopped(const std::string& host) const { return stopped_.contains(host); }
  // Does something on a host, later where it is stopped, never where it is another process by then.
  void on(const std::string& host, uint64_t incarnation, const Handler& handler) {
    if (!runs(host, incarnation)) return;
    if (is_stopped(host)) {
      kept_[host].push_back([this, host, incarnation, handler] { on(host, incarnation, handler); });
    } else {
      handler();
    }
  }

 private:
  struct Event {
    double time_s;
    uint64_t order;
    Handler handler;
    bool operator<(const Event& other) const {
      return time_s != other.time_s ? time_s > other.time_s : order > other.order;
    }
  };
  std::mt19937_64 random_;
  double now_s_ = 0;
  uint64_t order_ = 0, incarnations_ = 0;
  std::priority_queue<Event> events_;
  std::set<std::pair<std::string, std::string>> cut_;
  std::map<std::string, uint64_t> running_;
  std::set<std::string> stopped_;
  std::map<std::string, std::vector<Handler>> kept_;
};

// One end's view of a connection. `receive` is what the other end's sends call; `ended` is called once, when
// it ends without close() having been called here.
template <class Message>
class Connection : public std::enable_shared_from_this<Connection<Message>> {
 public:
  struct End {
    std::string host;
    uint64_t incarnation = 0;
    std::function<void(const Message&)> receive;
    std::function<void()> ended;
    bool open = true;
    double unacknowledged_s = -1;  // since when something that it sent has been waiting
  };
  static constexpr double kPeerTimeout_s = 2.5;

  Connection(Network& network, End a, End b) : network_(network), ends_{std::move(a), std::move(b)} {}

  // What the far end, side 1, does: set when the near end has called it.
  void set_far_end(std::function<void(const Message&)> receive, std::function<void()> ended) {
    ends_[1].receive = std::move(receive);
    ends_[1].ended = std::move(ended);
  }
  bool is_open(int side) const { return ends_[side].open; }
  // The system closes what a process that is killed had open.
  void killed(const std::string& host, uint64_t incarnation) {
    for (int side : {0, 1}) {
      if (ends_[side].host == host && ends_[side].incarnation == incarnation) close(side);
    }
  }

  void send(int side, Message message) {
    if (!ends_[side].open) return;
    carry(side, [side, message = std::move(message)](Connection& self) {
      End& to = self.ends_[1 - side];
      if (to.open) to.receive(message);
    });
  }
  // By the program, or by the system when the process ended.
  void close(int side) {
    if (!ends_[side].open) return;
    ends_[side].open = false;
    carry(side, [side](Connection& self) { self.end(1 - side); });
  }

 private:
  void end(int side) {
    End& end = ends_[side];
    if (!end.open) return;
    end.open = false;
    if (end.ended) end.ended();
  }
  // What side `side` sends waits its turn. What waits does not own the connection, which owns it.
  using Arrival = std::function<void(Connection&)>;
  void carry(int side, Arrival arrival) {
    waiting_[side].push_back(std::move(arrival));
    if (waiting_[side].size() == 1) pump(side, network_.uniform(0.2e-3, 3e-3));
  }
  void pump(int side, double delay_s) {
    network_.after(delay_s, [self = this->shared_from_this(), side] { self->arrive(side); });
  }
  void arrive(int side) {
    End &from = ends_[side], &to = ends_[1 - side];
    const bool lost = network_.is_cut(from.host, to.host), unheard = network_.is_cut(to.host, from.host);
    if (lost || unheard) {
      // Nothing is acknowledged: the sender's system tries again, and gives up after a while.
      if (from.unacknowledged_s < 0) from.unacknowledged_s = network_.now();
      if (network_.now() - from.unacknowledged_s > kPeerTimeout_s) {
        waiting_[side].clear();
        network_.on(from.host, from.incarnation,
                    [self = this->shared_from_this(), side] { self->end(side); });
        return;
      }
    } else {
      from.unacknowledged_s = -1;
    }
    if (lost) return pump(side, 0.2);
    Arrival arrival = std::move(waiting_[side].front());
    waiting_[side].pop_front();
    if (!waiting_[side].empty()) pump(side, network_.uniform(0.05e-3, 1e-3));
    network_.on(to.host, to.incarnation,
                [self = this->shared_from_this(), arrival = std::move(arrival)] { arrival(*self); });
  }

  std::deque<Arrival> waiting_[2];
  Network& network_;
  End ends_[2];
};

}  // namespace shoal::test
