// Tells the processes of a starting cluster that one of them has ended. Under plain mpirun the death of one
// ends all; with --enable-recovery the others live on and would wait for it for ever in a collective call of
// MPI, which has no word for it. So each keeps a TCP connection to rank 0 open while the cluster starts: the
// system of a process that ends closes it. Rank 0 hears of the others that way and tells them of each other.
//
// It carries no data but the number of a lost rank. Where it cannot be set up (a firewall between the
// machines) there is none, and a lost node is waited for as before. Used by one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace shoal {

class Lifeline {
 public:
  // Collective: `broadcast` gives every rank what rank 0 says. Takes at most a few seconds.
  Lifeline(int rank, int size, const std::function<std::string(const std::string&)>& broadcast);
  ~Lifeline();
  Lifeline(const Lifeline&) = delete;
  Lifeline& operator=(const Lifeline&) = delete;

  // A rank that has ended before this one, if any is known. Does not wait.
  std::optional<int> lost();

 private:
  void gather(int listener, const std::string& secret);
  void join(const std::string& invitation);

  struct Peer {
    int rank;
    int socket;
  };
  const int rank_, size_;
  std::vector<Peer> peers_;  // rank 0: all others that came; else rank 0, or nobody
  std::optional<int> lost_;
};

}  // namespace shoal
