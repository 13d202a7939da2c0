#include "transport/tls.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>

#include <fmt/format.h>

#include <boost/asio/error.hpp>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "base/check.h"

namespace shoal {

namespace asio = boost::asio;
using boost::system::error_code;

namespace {

constexpr size_t kRecordBytes = 16 << 10;  // of plain text in a TLS record at most (RFC 8446, section 5.1)

constexpr const char* kOwnCertificate = "this node's certificate";
constexpr const char* kAuthority = "the certificate of the cluster's authority";

// What the other side's alert says of this node's certificate, with the way out; empty: of no concern here.
std::string alert_text(unsigned long code) {
  if (ERR_GET_LIB(code) != ERR_LIB_SSL) return {};
  switch (ERR_GET_REASON(code)) {
    case SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED:
      return "this node was shut out of the cluster (shoal revoke)";
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
      return fmt::format(
          "{}: run `shoal invite -c CLUSTER.yaml` on the head and start this node with its token (where "
          "mpirun starts the nodes: start them again), and see that both clocks are right",
          kExpiredThere);
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
      return "it does not believe this node's certificate, most likely because its clock says a time before "
             "the certificate was made: see that both clocks are right";
    default:
      return {};
  }
}

std::string openssl_reason() {
  std::string text;
  while (const unsigned long code = ERR_get_error()) {
    const char* reason = ERR_reason_error_string(code);
    const std::string alert = alert_text(code);
    if (!alert.empty() || reason != nullptr) text = alert.empty() ? reason : alert;
  }
  return text;
}

// What was wrong with a certificate whose signature was found right: a node's, or the authority's own.
struct Shown {
  CertificateInfo certificate;
  bool authority = false;
};

std::string verify_text(long error, const Shown& shown) {
  const std::string& node = shown.certificate.node;
  if (error == X509_V_ERR_CERT_REVOKED)
    return fmt::format("its certificate (of node {}) was revoked (shoal revoke)", node);
  const bool early = error == X509_V_ERR_CERT_NOT_YET_VALID;
  if (!early && error != X509_V_ERR_CERT_HAS_EXPIRED)
    return std::string("its certificate: ") + X509_verify_cert_error_string(error);
  const std::string dates = dates_and_clock(shown.certificate);
  const char* const state = early ? "is not valid yet" : "has expired";
  if (shown.authority)
    return fmt::format("the certificate of the cluster's authority {}: {}; set the clock", state, dates);
  if (early || shown.certificate.head) {  // a head renews its own
    return fmt::format(
        "its certificate (of node {}) {}: {}; set the clock of the device that is wrong, and it goes on by "
        "itself",
        node, state, dates);
  }
  return fmt::format(
      "its certificate (of node {}) has expired: run `shoal invite -c CLUSTER.yaml --name {}` on the head "
      "and start {} with its token (where mpirun starts the nodes: start them again), or set the clock if it "
      "is that which is wrong: {}",
      node, node, node, dates);
}

// --- a socket as OpenSSL reads and writes it: its own kind raises SIGPIPE where the peer has gone

int socket_write(BIO* bio, const char* data, size_t size, size_t* written) {
  const ssize_t n =
      ::send(static_cast<int>(reinterpret_cast<intptr_t>(BIO_get_data(bio))), data, size, MSG_NOSIGNAL);
  BIO_clear_retry_flags(bio);
  if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) BIO_set_retry_write(bio);
  *written = n > 0 ? static_cast<size_t>(n) : 0;
  return n > 0 ? 1 : 0;
}

int socket_read(BIO* bio, char* data, size_t size, size_t* read) {
  const ssize_t n = ::recv(static_cast<int>(reinterpret_cast<intptr_t>(BIO_get_data(bio))), data, size, 0);
  BIO_clear_retry_flags(bio);
  if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) BIO_set_retry_read(bio);
  if (n == 0) BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
  *read = n > 0 ? static_cast<size_t>(n) : 0;
  return n > 0 ? 1 : 0;
}

long socket_control(BIO* bio, int command, long, void*) {
  if (command == BIO_CTRL_EOF) return BIO_test_flags(bio, BIO_FLAGS_IN_EOF) != 0 ? 1 : 0;
  return command == BIO_CTRL_FLUSH ? 1 : 0;
}

BIO_METHOD* socket_method() {
  static BIO_METHOD* const method = [] {
    BIO_METHOD* made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "socket without SIGPIPE");
    BIO_meth_set_write_ex(made, socket_write);
    BIO_meth_set_read_ex(made, socket_read);
    BIO_meth_set_ctrl(made, socket_control);
    return made;
  }();
  return method;
}

class PlainStream final : public ByteStream {
 public:
  explicit PlainStream(Socket& socket) : socket_(socket) {}
  size_t read_some(asio::mutable_buffer to, error_code& ec) override {
    wants_ = Wants::kRead;
    return socket_.read_some(to, ec);
  }
  size_t write_some(const Buffers& from, error_code& ec) override {
    wants_ = Wants::kWrite;
    return socket_.write_some(from, ec);
  }
  Wants wants() const override { return wants_; }
  bool handshake(error_code&) override { return true; }
  const CertificateInfo* peer_certificate() const override { return nullptr; }
  std::string reason() const override { return {}; }

 private:
  Socket& socket_;
  Wants wants_ = Wants::kRead;
};

class TlsStream final : public ByteStream {
 public:
  TlsStream(Socket& socket, std::shared_ptr<const TlsContext> context, TlsSide side)
      : context_(std::move(context)), ssl_(context_->new_session(), SSL_free) {
    SHOAL_CHECK(ssl_ != nullptr);
    SSL_set_app_data(ssl_.get(), this);
    BIO* bio = BIO_new(socket_method());
    SHOAL_CHECK(bio != nullptr);
    BIO_set_data(bio, reinterpret_cast<void*>(static_cast<intptr_t>(socket.native_handle())));
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl_.get(), bio, bio);
    side == TlsSide::kConnected ? SSL_set_connect_state(ssl_.get()) : SSL_set_accept_state(ssl_.get());
  }

  bool handshake(error_code& ec) override {
    if (peer_) return true;
    ERR_clear_error();
    if (const int done = SSL_do_handshake(ssl_.get()); done != 1) {
      explain(done, ec);
      if (would_block(ec)) ec = {};
      return false;
    }
    return know_peer(ec);
  }

  size_t read_some(asio::mutable_buffer to, error_code& ec) override {
    ERR_clear_error();
    size_t n = 0;
    const int done = SSL_read_ex(ssl_.get(), to.data(), to.size(), &n);
    if (done != 1) explain(done, ec);
    return n;
  }

  // A record is staged whole, so that the small parts of a frame travel in one, and stays staged until it is
  // out: OpenSSL wants to be asked again with the same bytes.
  size_t write_some(const Buffers& from, error_code& ec) override {
    if (staged_ == 0) staged_ = asio::buffer_copy(asio::buffer(record_), from);
    if (staged_ == 0) return 0;
    ERR_clear_error();
    size_t n = 0;
    const int done = SSL_write_ex(ssl_.get(), record_.data(), staged_, &n);
    if (done != 1) {
      explain(done, ec);
      return 0;
    }
    return std::exchange(staged_, 0);
  }

  Wants wants() const override { return wants_; }
  const CertificateInfo* peer_certificate() const override { return peer_ ? &*peer_ : nullptr; }
  std::string reason() const override { return reason_; }

  // OpenSSL's checks of a certificate, and ours of its owner: one that is revoked is told so by an alert.
  static int verify(int ok, X509_STORE_CTX* store) {
    const int depth = X509_STORE_CTX_get_error_depth(store), error = X509_STORE_CTX_get_error(store);
    const bool dated = error == X509_V_ERR_CERT_HAS_EXPIRED || error == X509_V_ERR_CERT_NOT_YET_VALID;
    if (ok == 1 ? depth != 0 : !dated) return ok;
    auto* ssl = static_cast<SSL*>(X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
    auto& self = *static_cast<TlsStream*>(SSL_get_app_data(ssl));
    try {
      self.shown_ = {certificate_info(X509_STORE_CTX_get_current_cert(store)), depth != 0};
    } catch (const SetupError&) {  // must not pass through OpenSSL
      return 0;
    }
    if (ok != 1 || !self.context_->is_revoked(self.shown_.certificate.node)) return ok;
    X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_REVOKED);
    return 0;
  }

 private:
  void explain(int result, error_code& ec) {
    switch (SSL_get_error(ssl_.get(), result)) {
      case SSL_ERROR_WANT_READ:
        wants_ = Wants::kRead;
        ec = asio::error::would_block;
        return;
      case SSL_ERROR_WANT_WRITE:
        wants_ = Wants::kWrite;
        ec = asio::error::would_block;
        return;
      case SSL_ERROR_ZERO_RETURN:
        ec = asio::error::eof;
        return;
      default:
        break;
    }
    const long verified = SSL_get_verify_result(ssl_.get());
    reason_ = openssl_reason();
    if (verified != X509_V_OK) reason_ = verify_text(verified, shown_);
    ec = asio::error::eof;  // where there is no reason the socket has ended
    if (!reason_.empty()) ec = asio::error::access_denied;
  }

  bool know_peer(error_code& ec) {
    if (X509* const certificate = SSL_get0_peer_certificate(ssl_.get()))
      peer_ = certificate_info(certificate);
    if (peer_) return true;
    reason_ = "it showed no certificate";
    ec = asio::error::access_denied;
    return false;
  }

  std::shared_ptr<const TlsContext> context_;
  std::unique_ptr<SSL, decltype(&SSL_free)> ssl_;
  std::optional<CertificateInfo> peer_;
  Shown shown_;  // the peer's certificate before all was checked, or the authority's
  Wants wants_ = Wants::kRead;
  std::string reason_;
  std::array<std::byte, kRecordBytes> record_;
  size_t staged_ = 0;  // bytes of record_ that OpenSSL was asked to send
};

}  // namespace

struct TlsContext::State {
  struct Watched {
    std::string node, address;
    std::function<void()> end;
  };
  explicit State(NodeCredentials own) : credentials(std::move(own)) {}
  std::mutex mutex;
  NodeCredentials credentials;
  std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context{nullptr, SSL_CTX_free};
  std::set<std::string> revoked;
  std::map<uint64_t, Watched> watched;
  uint64_t next_watch = 0;
};

namespace {

SSL_CTX* make_context(const NodeCredentials& credentials) {
  const Certificate own = read_certificate(credentials.certificate, kOwnCertificate);
  const Certificate authority = read_certificate(credentials.authority, kAuthority);
  SSL_CTX* const context = SSL_CTX_new(TLS_method());
  const bool set_up =
      context != nullptr && SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) == 1 &&
      SSL_CTX_set_ciphersuites(
          context, "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384") == 1 &&
      SSL_CTX_use_certificate(context, own.get()) == 1 &&
      SSL_CTX_use_PrivateKey(context, credentials.key.handle()) == 1 &&
      SSL_CTX_check_private_key(context) == 1 &&
      X509_STORE_add_cert(SSL_CTX_get_cert_store(context), authority.get()) == 1 &&
      SSL_CTX_add_client_CA(context, authority.get()) == 1;
  if (!set_up) {
    const std::string reason = openssl_reason();
    SSL_CTX_free(context);
    throw SetupError("this node's key and certificates do not belong together: " + reason);
  }
  // Either side of a link may connect, so what a certificate may be used for is not asked of it.
  SSL_CTX_set_purpose(context, X509_PURPOSE_ANY);
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, TlsStream::verify);
  SSL_CTX_set_verify_depth(context, 1);
  // A connection that ends without a farewell is one that ended: frames say their length.
  SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_IGNORE_UNEXPECTED_EOF);
  SSL_CTX_set_num_tickets(context, 0);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
  return context;
}

}  // namespace

TlsContext::TlsContext(const NodeCredentials& credentials) : state_(std::make_shared<State>(credentials)) {
  state_->context.reset(make_context(credentials));
}

TlsContext::~TlsContext() = default;

void TlsContext::renew(const NodeCredentials& credentials) {
  const Certificate own = read_certificate(credentials.certificate, kOwnCertificate);
  const Certificate authority = read_certificate(credentials.authority, kAuthority);
  if (X509_verify(own.get(), X509_get0_pubkey(authority.get())) != 1) {
    ERR_clear_error();
    throw SetupError("the new certificate was not signed by the cluster's authority");
  }
  SSL_CTX* const fresh = make_context(credentials);
  const std::lock_guard lock(state_->mutex);
  state_->context.reset(fresh);  // sessions keep the one that they began with
  state_->credentials = credentials;
}

NodeCredentials TlsContext::credentials() const {
  const std::lock_guard lock(state_->mutex);
  return state_->credentials;
}

SignedText TlsContext::sign(std::string_view purpose, std::string text) const {
  const std::lock_guard lock(state_->mutex);
  return sign_text(state_->credentials, purpose, std::move(text));
}

Result<CertificateInfo> TlsContext::check(std::string_view purpose, const SignedText& signed_text,
                                          SignerHeld held) const {
  const std::lock_guard lock(state_->mutex);
  return check_signed(signed_text, purpose, state_->credentials.authority, held);
}

ssl_st* TlsContext::new_session() const {
  const std::lock_guard lock(state_->mutex);
  return SSL_new(state_->context.get());
}

std::vector<std::string> TlsContext::set_revoked(std::set<std::string> nodes) {
  const std::lock_guard lock(state_->mutex);
  state_->revoked = std::move(nodes);
  std::vector<std::string> ended;
  for (const auto& [id, watched] : state_->watched) {
    if (!state_->revoked.contains(watched.node)) continue;
    ended.push_back(fmt::format("{} at {}", watched.node, watched.address));
    watched.end();
  }
  return ended;
}

std::set<std::string> TlsContext::revoked() const {
  const std::lock_guard lock(state_->mutex);
  return state_->revoked;
}

bool TlsContext::is_revoked(const std::string& node) const {
  const std::lock_guard lock(state_->mutex);
  return state_->revoked.contains(node);
}

TlsContext::Watch TlsContext::watch(const std::string& node, const std::string& address,
                                    std::function<void()> end) const {
  const std::lock_guard lock(state_->mutex);
  if (state_->revoked.contains(node)) return nullptr;
  const uint64_t id = ++state_->next_watch;
  state_->watched[id] = {node, address, std::move(end)};
  return Watch(state_.get(), [state = state_, id](void*) {
    const std::lock_guard unwatching(state->mutex);
    state->watched.erase(id);
  });
}

std::unique_ptr<ByteStream> make_plain_stream(ByteStream::Socket& socket) {
  return std::make_unique<PlainStream>(socket);
}

std::unique_ptr<ByteStream> make_tls_stream(ByteStream::Socket& socket,
                                            std::shared_ptr<const TlsContext> context, TlsSide side) {
  return std::make_unique<TlsStream>(socket, std::move(context), side);
}

}  // namespace shoal
