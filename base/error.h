// Errors in three kinds, and which one to use.
//
//   A bug                 SHOAL_CHECK (base/check.h): logs and aborts. Never for input from outside.
//   Set-up is impossible  throw SetupError: flags, cluster file, model file, no feasible plan. Caught once,
//                         in main(), which prints the message and exits with the error's code.
//   Run time              [[nodiscard]] Result<T>: a peer lost, a timeout, a bad frame, a queue full, a
//                         cancel.
//
// Foreign errors (kj exceptions, MPI codes, OpenSSL) are translated at the door of the one file that calls
// them. A message names the file, key, node or layer concerned and says what to do.
#pragma once

#include <boost/system/result.hpp>
#include <stdexcept>
#include <string>
#include <string_view>

namespace shoal {

enum class Errc {
  kPeerLost,      // the connection to a peer ended
  kTimeout,       // a deadline passed
  kBadFrame,      // a frame that breaks the wire format or the session's state
  kRefused,       // the peer or this node refused: another plan, version, cluster, what it does not have
  kOtherModel,    // refused: the peer holds other weights
  kNameTaken,     // refused: another node with this one's name is there
  kQueueFull,     // a bounded queue is full; try again later
  kCancelled,     // the caller cancelled
  kContextFull,   // a sequence would exceed the context
  kInvalidInput,  // input from outside is malformed
  kIo,            // a file or socket operation failed
  kDeadline,      // a request's own time limit passed; only between callers of one process, never on the wire
};

std::string_view to_string(Errc code);

// Whether somebody was there, and said no.
constexpr bool is_refusal(Errc code) {
  return code == Errc::kRefused || code == Errc::kOtherModel || code == Errc::kNameTaken;
}

// A run-time error: what kind, and a sentence for a person.
struct Error {
  Errc code = Errc::kIo;
  std::string message;
};

template <class T>
using Result = boost::system::result<T, Error>;

// Called by boost::system::result when value() is asked of an error: throws std::runtime_error.
[[noreturn]] void throw_exception_from_error(const Error& error, const boost::source_location& where);

// Exit codes of the program.
inline constexpr int kExitDone = 0;
inline constexpr int kExitFailed = 1;  // failed while running
inline constexpr int kExitUsage = 2;   // wrong usage or configuration

// Set-up cannot be completed. `what()` names the thing and the way out.
class SetupError : public std::runtime_error {
 public:
  explicit SetupError(const std::string& message, int exit_code = kExitUsage)
      : std::runtime_error(message), exit_code_(exit_code) {}
  int exit_code() const { return exit_code_; }

 private:
  int exit_code_;
};

}  // namespace shoal
