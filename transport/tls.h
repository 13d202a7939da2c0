// TLS 1.3 under a channel: both sides show a certificate of the cluster's authority, or nothing is said.
//
// A TlsContext holds a node's credentials and who it no longer believes, and is shared by its connections; it
// may be used from any thread. A ByteStream is what a channel reads and writes: the socket itself, or TLS
// over it. It belongs to the channel's io thread, never waits, and refers to the channel's socket, which
// outlives it. Errors are asio's error codes; would_block says that the socket must be waited for, and
// `wants()` for what.
//
// Only TLS 1.3 (RFC 8446), without session tickets, early data or renegotiation: AES-128-GCM first, ChaCha20
// for boards without AES instructions. In TLS 1.3 the side that connected sees success before the other has
// looked at its certificate, so nothing private may be sent before the hello was answered.
#pragma once

#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/system/error_code.hpp>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "transport/certificates.h"
#include "transport/signed_text.h"

struct ssl_st;

namespace shoal {

// Part of the error's text where a peer says that this node's certificate is over.
inline constexpr std::string_view kExpiredThere = "this node's certificate has expired there";

class TlsContext {
 public:
  // Throws SetupError where the credentials do not belong together.
  explicit TlsContext(const NodeCredentials& credentials);
  ~TlsContext();
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;

  // Connections made from now on show these; those that exist go on. Throws SetupError where they do not
  // belong together, or the authority did not sign.
  void renew(const NodeCredentials& credentials);
  NodeCredentials credentials() const;

  // Nodes that are no longer believed, by the name in their certificates; replaces those named before. Their
  // handshakes fail, and their connections end, whichever thread has them. Whose did, for the log: "pi-2 at
  // 10.0.0.5:7000".
  std::vector<std::string> set_revoked(std::set<std::string> nodes);
  std::set<std::string> revoked() const;
  bool is_revoked(const std::string& node) const;
  // As long as the watch lives, `end` is called when the node is revoked: in the thread that says so, under a
  // lock, to post and return. Null: it is revoked already.
  using Watch = std::shared_ptr<void>;
  Watch watch(const std::string& node, const std::string& address, std::function<void()> end) const;

  // In this node's name, and whose name a text is in (transport/signed_text.h).
  SignedText sign(std::string_view purpose, std::string text) const;
  Result<CertificateInfo> check(std::string_view purpose, const SignedText& signed_text,
                                SignerHeld held = SignerHeld::kNow) const;

  ssl_st* new_session() const;  // the caller frees it

 private:
  struct State;
  std::shared_ptr<State> state_;
};

enum class TlsSide { kConnected, kAccepted };

class ByteStream {
 public:
  using Socket = boost::asio::ip::tcp::socket;
  using Buffers = std::array<boost::asio::const_buffer, 4>;
  enum class Wants { kRead, kWrite };

  virtual ~ByteStream() = default;
  // One attempt each, without waiting: bytes moved. 0 with ec would_block: wait for wants(), then call again
  // with the same bytes.
  virtual size_t read_some(boost::asio::mutable_buffer to, boost::system::error_code& ec) = 0;
  virtual size_t write_some(const Buffers& from, boost::system::error_code& ec) = 0;
  virtual Wants wants() const = 0;
  // Until both sides have shown who they are. True when done; false: wait for wants(). A plain socket is done
  // at once.
  virtual bool handshake(boost::system::error_code& ec) = 0;
  // Of the peer, once the handshake is done; null without TLS.
  virtual const CertificateInfo* peer_certificate() const = 0;
  // What a handshake or read failed for, in words; empty where the error code says it all.
  virtual std::string reason() const = 0;
};

// Whether an attempt has to wait.
inline bool would_block(const boost::system::error_code& ec) {
  return ec == boost::asio::error::would_block || ec == boost::asio::error::try_again;
}

std::unique_ptr<ByteStream> make_plain_stream(ByteStream::Socket& socket);
// The socket is non-blocking and connected.
std::unique_ptr<ByteStream> make_tls_stream(ByteStream::Socket& socket,
                                            std::shared_ptr<const TlsContext> context, TlsSide side);

}  // namespace shoal
