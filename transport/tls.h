// TLS 1.3 under a channel: both sides show a certificate of the cluster's authority, or nothing is said.
//
// A TlsContext holds a node's credentials and settings and is shared by its connections; it may be used from
// any thread. A ByteStream is what a channel reads and writes: the socket itself, or TLS over it. It belongs
// to the channel's io thread, never waits, and refers to the channel's socket, which outlives it. Errors are
// asio's error codes; would_block says that the socket must be waited for, and `wants()` for what.
//
// Only TLS 1.3 (RFC 8446), without session tickets, early data or renegotiation: AES-128-GCM first, ChaCha20
// for boards without AES instructions. In TLS 1.3 the side that connected sees success before the other has
// looked at its certificate, so nothing private may be sent before the hello was answered.
#pragma once

#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/system/error_code.hpp>
#include <memory>
#include <string>
#include <vector>

#include "transport/certificates.h"

struct ssl_ctx_st;

namespace shoal {

class TlsContext {
 public:
  // Throws SetupError where the credentials do not belong together.
  explicit TlsContext(const NodeCredentials& credentials);
  ~TlsContext();
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;

  // Certificates that are no longer believed, by fingerprint; replaces those set before. Connections that are
  // open stay open: their owner closes them.
  void set_revoked(std::vector<std::string> fingerprints);
  bool is_revoked(const std::string& fingerprint) const;
  ssl_ctx_st* handle() const { return context_; }

 private:
  ssl_ctx_st* context_;
  std::string authority_;
  struct Revoked;
  std::unique_ptr<Revoked> revoked_;
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

std::unique_ptr<ByteStream> make_plain_stream(ByteStream::Socket& socket);
// The socket is non-blocking and connected.
std::unique_ptr<ByteStream> make_tls_stream(ByteStream::Socket& socket,
                                            std::shared_ptr<const TlsContext> context, TlsSide side);

}  // namespace shoal
