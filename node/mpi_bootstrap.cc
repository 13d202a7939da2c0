#include "node/mpi_bootstrap.h"

#include "base/error.h"

#ifdef SHOAL_MPI

#include <dlfcn.h>
#include <fmt/format.h>
#include <link.h>
#include <mpi.h>

#include <chrono>
#include <cstdlib>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "node/lifeline.h"

namespace shoal {
namespace {

// Whether mpirun lets the others live when one process dies: set by its --enable-recovery.
bool others_live_on() {
  const char* set = std::getenv("OMPI_MCA_orte_enable_recovery");
  return set != nullptr && std::string(set) == "1";
}

// The one door where MPI's codes become our errors.
void check_mpi(int code, const char* what) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw SetupError(std::string("MPI: ") + what + " failed: " + std::string(text, static_cast<size_t>(length)),
                   kExitFailed);
}

// MPI_Finalize unloads Open MPI's plug-ins while threads of theirs may still run in them, which ends the
// process with a fault, seldom, on a loaded machine. Libraries that are pinned stay where they are.
void pin_libraries() {
  std::vector<std::string> loaded;  // named first: dlopen must not be called while they are gone through
  dl_iterate_phdr(
      [](dl_phdr_info* library, size_t, void* names) {
        if (library->dlpi_name != nullptr && *library->dlpi_name != 0)
          static_cast<std::vector<std::string>*>(names)->push_back(library->dlpi_name);
        return 0;
      },
      &loaded);
  for (const std::string& library : loaded) dlopen(library.c_str(), RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
}

class MpiBootstrap : public Bootstrap {
 public:
  MpiBootstrap() {
    int provided = 0;
    check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &rank_), "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &size_), "MPI_Comm_size");
    if (size_ > 1 && others_live_on())
      lifeline_.emplace(rank_, size_, [this](const std::string& of_rank_0) { return broadcast(of_rank_0); });
  }
  // MPI_Finalize waits for all ranks, for ever where one has died and mpirun let the others live
  // (--enable-recovery). So all meet first, for a limited time. A rank that ends without MPI_Finalize makes
  // mpirun end the others, also one that hangs.
  ~MpiBootstrap() override {
    if (abandoned_ || !all_are_here()) return;
    pin_libraries();
    MPI_Finalize();
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  std::vector<std::string> all_gather(const std::string& mine) override {
    const int count = static_cast<int>(mine.size());
    std::vector<int> counts(static_cast<size_t>(size_)), offsets(static_cast<size_t>(size_));
    MPI_Request request;
    check_mpi(MPI_Iallgather(&count, 1, MPI_INT, counts.data(), 1, MPI_INT, MPI_COMM_WORLD, &request),
              "gather");
    wait_asleep(&request, "gather");
    int total = 0;
    for (size_t i = 0; i < counts.size(); ++i) offsets[i] = total, total += counts[i];
    std::string all(static_cast<size_t>(total), '\0');
    check_mpi(MPI_Iallgatherv(mine.data(), count, MPI_CHAR, all.data(), counts.data(), offsets.data(),
                              MPI_CHAR, MPI_COMM_WORLD, &request),
              "gather");
    wait_asleep(&request, "gather");
    std::vector<std::string> blobs;
    for (size_t i = 0; i < counts.size(); ++i) {
      blobs.push_back(all.substr(static_cast<size_t>(offsets[i]), static_cast<size_t>(counts[i])));
    }
    return blobs;
  }

  std::string broadcast(const std::string& of_rank_0) override {
    std::string blob = rank_ == 0 ? of_rank_0 : "";
    int count = static_cast<int>(blob.size());
    MPI_Request request;
    check_mpi(MPI_Ibcast(&count, 1, MPI_INT, 0, MPI_COMM_WORLD, &request), "broadcast");
    wait_asleep(&request, "broadcast");
    blob.resize(static_cast<size_t>(count));
    check_mpi(MPI_Ibcast(blob.data(), count, MPI_CHAR, 0, MPI_COMM_WORLD, &request), "broadcast");
    wait_asleep(&request, "broadcast");
    return blob;
  }

  void barrier() override {
    MPI_Request request;
    check_mpi(MPI_Ibarrier(MPI_COMM_WORLD, &request), "barrier");
    wait_asleep(&request, "barrier");
  }

  void abandon() override { abandoned_ = true; }

 private:
  // Open MPI waits by spinning, which would steal the processor from a rank that is measuring beside us; so
  // every collective is the non-blocking form, polled with sleeps.
  void wait_asleep(MPI_Request* request, const char* what) {
    constexpr auto kAskEvery = std::chrono::milliseconds(50);
    auto asked = std::chrono::steady_clock::now();
    int done = 0;
    while (true) {
      check_mpi(MPI_Test(request, &done, MPI_STATUS_IGNORE), what);
      if (done != 0) return;
      std::this_thread::sleep_for(std::chrono::microseconds(500));
      if (!lifeline_ || std::chrono::steady_clock::now() - asked < kAskEvery) continue;
      asked = std::chrono::steady_clock::now();
      if (const std::optional<int> lost = lifeline_->lost()) give_up(*lost);
    }
  }

  [[noreturn]] void give_up(int lost) {
    abandoned_ = true;
    if (rank_ != 0 && lost != 0) throw SilentExit{kExitFailed};  // rank 0 says it
    throw SetupError(fmt::format("the process of rank {} (counted from 0, as mpirun does) ended while the "
                                 "cluster was starting; what "
                                 "it or mpirun said before this line tells why",
                                 lost),
                     kExitFailed);
  }

  bool all_are_here() {
    MPI_Request request;
    if (MPI_Ibarrier(MPI_COMM_WORLD, &request) != MPI_SUCCESS) return false;
    const auto deadline = std::chrono::steady_clock::now() + kEndDeadline;
    int done = 0;
    while (MPI_Test(&request, &done, MPI_STATUS_IGNORE) == MPI_SUCCESS) {
      if (done != 0) return true;
      if (std::chrono::steady_clock::now() > deadline || (lifeline_ && lifeline_->lost())) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }

  static constexpr std::chrono::seconds kEndDeadline{10};  // for the slowest rank to put its memory away
  int rank_ = 0, size_ = 1;
  bool abandoned_ = false;
  std::optional<Lifeline> lifeline_;
};

}  // namespace

std::unique_ptr<Bootstrap> make_mpi_bootstrap() {
  return std::make_unique<MpiBootstrap>();
}

}  // namespace shoal

#else

namespace shoal {

std::unique_ptr<Bootstrap> make_mpi_bootstrap() {
  throw SetupError(
      "this build of shoal has no MPI (SHOAL_MPI=OFF), so mpirun cannot start a cluster with it");
}

}  // namespace shoal

#endif
