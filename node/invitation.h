// A way in for a device that no launcher vouches for: a token, good for one device and a short time.
//
//     on the head                                   on the device
//     Invitation invitation(...);                   accept_invitation(head_address, token, name)
//     print(invitation.token());  -- a person carries it over -->
//     invitation.wait();                            -> NodeCredentials
//
// The token has the port where the head waits, a random secret, and the SHA-256 of the certificate that the
// head shows there. The device connects by TLS 1.3, goes on only if the certificate is that one, and then
// sends the secret with a certificate request for a key that never leaves it; the head's authority signs
// (transport/certificates.h). So a stranger between them learns nothing and can pass for neither. The head
// listens only while it waits; several wrong secrets end it.
//
// Both block, each with an io_context of its own; one call at a time.
#pragma once

#include <array>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>

#include "base/error.h"
#include "node/revocation.h"
#include "node/strangers.h"
#include "transport/certificates.h"

namespace shoal {

struct InvitationToken {
  uint16_t port = 0;
  std::string secret;       // 32 hexadecimal digits
  std::string fingerprint;  // 64: as in CertificateInfo

  std::string text() const;
  static Result<InvitationToken> parse(const std::string& text);
};

class Invitation {
 public:
  struct Options {
    std::string address;  // where to listen
    uint16_t port = 0;    // 0: any
    std::string head;     // whose name no device may take
    std::string node;     // the name that the device must have; empty: any that was not given away before
    std::string issued;   // directory of the certificates given so far; empty: none are kept
    std::chrono::seconds life =
        std::chrono::days(kCertificateDays);  // of the certificate; then it is renewed
    std::string revoked = {};                 // file of who was shut out (node/revocation.h); empty: nobody
  };
  // The authority outlives it. Throws SetupError where it cannot listen, and where options.node is a name
  // that no device could come in by.
  Invitation(const CertificateAuthority& authority, Options options);

  std::string token() const { return token_.text(); }
  // The name of the device that has come. Ends with an error when the time is over.
  Result<std::string> wait(std::chrono::milliseconds patience);

 private:
  struct Caller {
    boost::beast::tcp_stream* connection;
    std::string address;
  };
  boost::asio::awaitable<void> accept_all();
  boost::asio::awaitable<void> serve(boost::asio::ip::tcp::socket socket);
  void warn_of_caller(const std::string& peer, const std::string& why);
  std::string refusal_of(const std::string& node) const;  // empty: it may be called so
  Result<std::string> certify(const std::string& secret, const std::string& node, const std::string& request);

  const CertificateAuthority& authority_;
  const Options options_;
  Revocations revoked_;
  NodeKey key_;
  std::string certificate_;
  InvitationToken token_;
  StrangerLines lines_;
  std::deque<Caller> callers_;  // being served, the oldest first; outlives io_, which holds them
  boost::asio::io_context io_;
  boost::asio::ip::tcp::acceptor acceptor_{io_};
  int wrong_ = 0;
  std::optional<Result<std::string>> outcome_;
};

// What stands in a file with a token, or for "-" comes from standard input, up to the first line's end.
// Throws SetupError naming the file.
std::string read_token(const std::string& file);

// Asks the head that `token` is of. The certificate's node name is `node`.
Result<NodeCredentials> accept_invitation(const std::string& address, const InvitationToken& token,
                                          const std::string& node);

}  // namespace shoal
