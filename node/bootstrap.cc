#include "node/bootstrap.h"

#include <fmt/format.h>

#include <cstdlib>
#include <exception>
#include <new>
#include <set>

#include "base/error.h"
#include "node/mpi_bootstrap.h"

namespace shoal {
namespace {

class SingleProcess : public Bootstrap {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::vector<std::string> all_gather(const std::string& mine) override { return {mine}; }
  std::string broadcast(const std::string& of_rank_0) override { return of_rank_0; }
  void barrier() override {}
};

}  // namespace

bool started_by_mpirun() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"}) {
    if (std::getenv(name) != nullptr) return true;
  }
  return false;
}

std::unique_ptr<Bootstrap> make_bootstrap() {
  if (started_by_mpirun()) return make_mpi_bootstrap();
  return std::make_unique<SingleProcess>();
}

std::vector<std::string> agree(Bootstrap& bootstrap, const RankReport& mine) {
  // One byte says whether the rest is a payload or an error.
  const std::string blob = mine.error.empty()
                               ? "+" + mine.payload
                               : "-" + std::string(1, static_cast<char>(mine.exit_code)) + mine.error;
  std::vector<std::string> all = bootstrap.all_gather(blob);
  std::set<std::string> errors;
  int exit_code = 0;
  for (std::string& text : all) {
    if (!text.empty() && text[0] == '+') {
      text.erase(0, 1);
    } else if (text.size() >= 2) {
      exit_code = static_cast<int>(text[1]);
      errors.insert(text.substr(2));
    }
  }
  if (errors.empty()) return all;
  if (bootstrap.rank() != 0) throw SilentExit{exit_code};
  std::string message;
  for (const std::string& error : errors) message += (message.empty() ? "" : "\n") + error;
  throw SetupError(message, exit_code);
}

std::vector<std::string> together(Bootstrap& bootstrap, const std::string& name,
                                  const std::function<std::string()>& body) {
  RankReport report;
  try {
    report.payload = body();
  } catch (const SetupError& error) {
    report.error = bootstrap.size() > 1 ? fmt::format("node {}: {}", name, error.what()) : error.what();
    report.exit_code = error.exit_code();
  } catch (const std::bad_alloc&) {
    report = {"", fmt::format("node {}: out of memory", name), kExitFailed};
  } catch (const std::exception& error) {  // whatever it is, the others must not wait for this rank
    report = {"", fmt::format("node {}: {}", name, error.what()), kExitFailed};
  }
  return agree(bootstrap, report);
}

}  // namespace shoal
