// How the processes of a cluster find each other at start-up, before sockets serve.
//
// A bootstrap places the processes, says who is who, and moves a few kilobytes of set-up between all of them.
// It is never used once tokens flow. Implementations: MPI (mpirun starts one rank a node) and a single
// process. Collective calls must be made by all ranks in the same order, from the thread that made the
// bootstrap.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace shoal {

class Bootstrap {
 public:
  virtual ~Bootstrap() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // Everyone's blob, by rank.
  virtual std::vector<std::string> all_gather(const std::string& mine) = 0;
  // Rank 0's blob.
  virtual std::string broadcast(const std::string& of_rank_0) = 0;
  virtual void barrier() = 0;
  // The others may not answer any more: this process ends without waiting for them.
  virtual void abandon() {}
};

// MPI if this process was started by mpirun (and MPI is built in), otherwise a single process.
// Throws SetupError if started by mpirun but MPI is left out of this build.
std::unique_ptr<Bootstrap> make_bootstrap();

// Whether a launcher's environment variables say that this is one rank of several.
bool started_by_mpirun();

// Gathers each rank's payload, or the sentence saying why a rank cannot go on. If any rank failed, every rank
// throws: rank 0 a SetupError with all the sentences, the others SilentExit with the same exit code.
struct RankReport {
  std::string payload;
  std::string error;  // empty: this rank is fine
  int exit_code = 0;
};
std::vector<std::string> agree(Bootstrap& bootstrap, const RankReport& mine);

// Runs one part of the set-up and tells all ranks how it went; throws everywhere if it failed anywhere.
// `name` is this node's, for the sentence.
std::vector<std::string> together(Bootstrap& bootstrap, const std::string& name,
                                  const std::function<std::string()>& body);

// Ends this process without a message: another rank says it.
struct SilentExit {
  int exit_code;
};

}  // namespace shoal
