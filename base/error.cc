#include "base/error.h"

namespace shoal {

std::string_view to_string(Errc code) {
  switch (code) {
    case Errc::kPeerLost:
      return "peer lost";
    case Errc::kTimeout:
      return "timeout";
    case Errc::kBadFrame:
      return "bad frame";
    case Errc::kRefused:
      return "refused";
    case Errc::kOtherModel:
      return "another model";
    case Errc::kNameTaken:
      return "name taken";
    case Errc::kQueueFull:
      return "queue full";
    case Errc::kCancelled:
      return "cancelled";
    case Errc::kContextFull:
      return "context full";
    case Errc::kInvalidInput:
      return "invalid input";
    case Errc::kIo:
      return "input/output error";
    case Errc::kDeadline:
      return "deadline passed";
  }
  return "unknown error";
}

void throw_exception_from_error(const Error& error, const boost::source_location&) {
  throw std::runtime_error(std::string(to_string(error.code)) + ": " + error.message);
}

}  // namespace shoal
