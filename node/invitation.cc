#include "node/invitation.h"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/use_future.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>
#include <cctype>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <vector>

#include "base/uptime.h"
#include "node/cluster_config.h"
#include "transport/endpoint_text.h"

namespace shoal {

namespace asio = boost::asio;
namespace beast = boost::beast;
using asio::awaitable;
using asio::redirect_error;
using asio::use_awaitable;
using asio::ip::tcp;
using boost::system::error_code;
using namespace std::chrono_literals;
using TlsStream = beast::ssl_stream<beast::tcp_stream>;

namespace {

constexpr std::string_view kTokenBegin = "shoal1";
constexpr size_t kSecretDigits = 32, kFingerprintDigits = 64;
constexpr auto kExchangeDeadline = 10s;  // of one device, all told
constexpr int kWrongMax = 8;             // secrets that are another's
constexpr size_t kCallersMax = 16;       // at a time
constexpr auto kAcceptPause = 100ms;     // after an accept that failed
constexpr uint32_t kTextsBytesMax = 32 << 10;
constexpr size_t kTokenFileBytesMax = 256;  // of its first line

bool is_hex(const std::string& text, size_t digits) {
  return text.size() == digits &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isxdigit(c) != 0; });
}

bool same_secret(const std::string& a, const std::string& b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

// Several texts as one: their bytes' number (4, the lowest first), and each followed by a zero byte.
awaitable<error_code> write_texts(TlsStream& stream, const std::vector<std::string>& texts) {
  std::string all;
  for (const std::string& text : texts) all += text + '\0';
  const auto size = static_cast<uint32_t>(all.size());
  std::string frame;
  for (int i = 0; i < 4; ++i) frame += static_cast<char>(size >> (8 * i) & 0xff);
  frame += all;
  error_code error;
  co_await asio::async_write(stream, asio::buffer(frame), redirect_error(use_awaitable, error));
  co_return error;
}

awaitable<Result<std::vector<std::string>>> read_texts(TlsStream& stream) {
  error_code error;
  std::array<unsigned char, 4> head{};
  co_await asio::async_read(stream, asio::buffer(head), redirect_error(use_awaitable, error));
  if (error) co_return Error{Errc::kPeerLost, error.message()};
  uint32_t size = 0;
  for (size_t i = 0; i < 4; ++i) size |= static_cast<uint32_t>(head[i]) << (8 * i);
  if (size > kTextsBytesMax) co_return Error{Errc::kBadFrame, "it says too much"};
  std::string all(size, '\0');
  co_await asio::async_read(stream, asio::buffer(all), redirect_error(use_awaitable, error));
  if (error) co_return Error{Errc::kPeerLost, error.message()};
  std::vector<std::string> texts;
  for (size_t begin = 0; begin < all.size();) {
    const size_t end = all.find('\0', begin);
    if (end == std::string::npos) co_return Error{Errc::kBadFrame, "it breaks off"};
    texts.push_back(all.substr(begin, end - begin));
    begin = end + 1;
  }
  co_return texts;
}

std::string fingerprint_of(SSL* ssl) {
  X509* certificate = SSL_get1_peer_certificate(ssl);
  if (certificate == nullptr) return "";
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  X509_digest(certificate, EVP_sha256(), digest, &size);
  X509_free(certificate);
  std::string hex;
  for (unsigned int i = 0; i < size; ++i) hex += fmt::format("{:02x}", digest[i]);
  return hex;
}

asio::ssl::context tls13(asio::ssl::context::method method) {
  asio::ssl::context context(method);
  SSL_CTX_set_min_proto_version(context.native_handle(), TLS1_3_VERSION);
  return context;
}

awaitable<Result<NodeCredentials>> ask(std::string address, InvitationToken token, std::string node) {
  const std::string where = fmt::format("{}:{}", address, token.port);
  error_code error;
  tcp::resolver resolver(co_await asio::this_coro::executor);
  const auto found = co_await resolver.async_resolve(address, std::to_string(token.port),
                                                     redirect_error(use_awaitable, error));
  if (error) co_return Error{Errc::kPeerLost, fmt::format("host '{}': {}", address, error.message())};
  asio::ssl::context context = tls13(asio::ssl::context::tls_client);
  context.set_verify_mode(asio::ssl::verify_none);  // the fingerprint below is stricter
  TlsStream stream(co_await asio::this_coro::executor, context);
  beast::get_lowest_layer(stream).expires_after(kExchangeDeadline);
  co_await beast::get_lowest_layer(stream).async_connect(found, redirect_error(use_awaitable, error));
  if (error) {
    co_return Error{Errc::kPeerLost,
                    fmt::format("nobody waits for this token at {} ({}): run shoal invite on the head again, "
                                "and use its token while it waits",
                                where, error.message())};
  }
  co_await stream.async_handshake(asio::ssl::stream_base::client, redirect_error(use_awaitable, error));
  if (error) co_return Error{Errc::kPeerLost, fmt::format("{}: {}", where, error.message())};
  if (fingerprint_of(stream.native_handle()) != token.fingerprint) {
    co_return Error{Errc::kRefused,
                    fmt::format("what answers at {} is not the head that made the token: it shows another "
                                "certificate. Nothing was sent to it",
                                where)};
  }
  const NodeKey key = NodeKey::create();
  const std::vector<std::string> asked{token.secret, node, key.request(node, "")};
  error = co_await write_texts(stream, asked);
  if (error) co_return Error{Errc::kPeerLost, fmt::format("{}: {}", where, error.message())};
  const Result<std::vector<std::string>> answer = co_await read_texts(stream);
  if (answer.has_error())
    co_return Error{Errc::kPeerLost, fmt::format("{} ended: {}", where, answer.error().message)};
  if (answer->size() == 2 && answer->front() == "no") co_return Error{Errc::kRefused, answer->at(1)};
  if (answer->size() != 3 || answer->front() != "yes")
    co_return Error{Errc::kBadFrame, fmt::format("{} gave no sensible answer", where)};
  co_return NodeCredentials{key, answer->at(1), answer->at(2)};
}

}  // namespace

std::string InvitationToken::text() const {
  return fmt::format("{}.{}.{}.{}", kTokenBegin, port, secret, fingerprint);
}

Result<InvitationToken> InvitationToken::parse(const std::string& text) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == '.') {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  const Error wrong{Errc::kInvalidInput,
                    "this is no token: copy it whole from shoal invite (it begins with shoal1.)"};
  if (parts.size() != 4 || parts[0] != kTokenBegin || !is_hex(parts[2], kSecretDigits) ||
      !is_hex(parts[3], kFingerprintDigits) || parts[1].empty() || parts[1].size() > 5)
    return wrong;
  uint32_t port = 0;
  for (const char c : parts[1]) {
    if (c < '0' || c > '9') return wrong;
    port = port * 10 + static_cast<uint32_t>(c - '0');
  }
  if (port == 0 || port > 65535) return wrong;
  return InvitationToken{static_cast<uint16_t>(port), parts[2], parts[3]};
}

Invitation::Invitation(const CertificateAuthority& authority, Options options)
    : authority_(authority),
      options_(std::move(options)),
      revoked_(options_.revoked),
      key_(NodeKey::create()) {
  if (!options_.node.empty()) {
    if (const std::string why = refusal_of(options_.node); !why.empty()) throw SetupError("--name: " + why);
  }
  const Result<std::string> certificate =
      authority_.sign(key_.request(options_.head, authority_.cluster()), options_.head, std::chrono::days(1));
  if (certificate.has_error()) throw SetupError(certificate.error().message, kExitFailed);
  certificate_ = *certificate;
  unsigned char secret[kSecretDigits / 2];
  if (RAND_bytes(secret, sizeof secret) != 1)
    throw SetupError("the system gives no random numbers", kExitFailed);
  for (const unsigned char byte : secret) token_.secret += fmt::format("{:02x}", byte);
  token_.fingerprint = certificate_info(certificate_, "the head's certificate").fingerprint;
  error_code error;
  tcp::resolver resolver(io_);
  const auto found = resolver.resolve(options_.address, std::to_string(options_.port), error);
  if (!error) {
    const tcp::endpoint endpoint = found.begin()->endpoint();
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(kCallersMax, error);
  }
  if (error) {
    throw SetupError(
        fmt::format("cannot listen at {}:{}: {}", options_.address, options_.port, error.message()),
        kExitFailed);
  }
  token_.port = acceptor_.local_endpoint().port();
}

std::string Invitation::refusal_of(const std::string& node) const {
  if (!is_node_name(node)) return "a node's name is 1 to 63 letters, digits, '-', '_' or '.'";
  if (node == options_.head) return fmt::format("{} is the head's name: give another --name", node);
  if (!revoked_.contains(node)) return "";
  return fmt::format(
      "{} was shut out of the cluster: let it in again first, on the head (shoal revoke --undo {})", node,
      node);
}

Result<std::string> Invitation::certify(const std::string& secret, const std::string& node,
                                        const std::string& request) {
  if (!same_secret(secret, token_.secret)) {
    if (++wrong_ >= kWrongMax) outcome_ = Error{Errc::kRefused, "several devices came with other tokens"};
    return Error{Errc::kRefused, "the head waits for another token"};
  }
  const auto refused = [&](const std::string& why) { return Error{Errc::kRefused, why}; };
  revoked_.look();  // it may have been shut out since the invitation
  if (const std::string why = refusal_of(node); !why.empty()) return refused(why);
  if (!options_.node.empty() && node != options_.node)
    return refused(fmt::format("the token is for node {} (--name {})", options_.node, options_.node));
  const std::filesystem::path kept = std::filesystem::path(options_.issued) / (node + ".crt");
  std::error_code ignored;
  if (options_.node.empty() && !options_.issued.empty() && std::filesystem::exists(kept, ignored)) {
    return refused(
        fmt::format("{} has a certificate already: if this is the same device, invite it by its name "
                    "(shoal invite --name {}), else give it another --name",
                    node, node));
  }
  Result<std::string> certificate = authority_.sign(request, node, options_.life);
  if (certificate.has_error() || options_.issued.empty()) return certificate;
  if (std::filesystem::create_directories(options_.issued, ignored))  // whatever the umask
    std::filesystem::permissions(options_.issued, std::filesystem::perms::owner_all, ignored);
  std::ofstream file(kept);
  if (!(file << *certificate << std::flush))
    return refused(fmt::format("the head cannot write {}", kept.string()));
  return certificate;
}

void Invitation::warn_of_caller(const std::string& peer, const std::string& why) {
  lines_.warn(peer, fmt::format("a caller from {} was not heard: {}", peer, why), uptime_s());
}

awaitable<void> Invitation::serve(tcp::socket socket) {
  error_code ignored;
  const tcp::endpoint remote = socket.remote_endpoint(ignored);
  const std::string from = remote.address().to_string();
  const std::string peer = endpoint_text(remote);
  asio::ssl::context context = tls13(asio::ssl::context::tls_server);
  const std::string key = key_.pem();
  context.use_certificate(asio::buffer(certificate_), asio::ssl::context::pem);
  context.use_private_key(asio::buffer(key), asio::ssl::context::pem);
  TlsStream stream(beast::tcp_stream(std::move(socket)), context);
  beast::tcp_stream& connection = beast::get_lowest_layer(stream);
  struct Guest {  // in callers_ for as long as it is served
    Guest(std::deque<Caller>& all, const Caller& own) : callers(all), self(own) { callers.push_back(own); }
    ~Guest() {
      std::erase_if(callers, [this](const Caller& caller) { return caller.connection == self.connection; });
    }
    std::deque<Caller>& callers;
    const Caller self;
  } const guest(callers_, {&connection, from});
  connection.expires_after(kExchangeDeadline);
  error_code error;
  co_await stream.async_handshake(asio::ssl::stream_base::server, redirect_error(use_awaitable, error));
  if (error) co_return warn_of_caller(peer, error.message());
  const Result<std::vector<std::string>> asked = co_await read_texts(stream);
  if (asked.has_error()) co_return warn_of_caller(peer, asked.error().message);
  if (asked->size() != 3)
    co_return warn_of_caller(peer, fmt::format("it sent {} texts where 3 are due", asked->size()));
  if (outcome_) co_return;
  const std::string& node = asked->at(1);
  const Result<std::string> certificate = certify(asked->at(0), node, asked->at(2));
  const std::vector<std::string> answer =
      certificate ? std::vector<std::string>{"yes", *certificate, authority_.certificate()}
                  : std::vector<std::string>{"no", certificate.error().message};
  if (certificate) {
    outcome_ = node;  // before it is sent: nobody comes twice
  } else {
    spdlog::warn("a device at {} was turned away: {}", peer, certificate.error().message);
  }
  error = co_await write_texts(stream, answer);
  if (!error) co_await stream.async_shutdown(redirect_error(use_awaitable, error));
  if (outcome_) io_.stop();
}

awaitable<void> Invitation::accept_all() {
  while (true) {
    error_code error;
    tcp::socket socket = co_await acceptor_.async_accept(redirect_error(use_awaitable, error));
    if (error == asio::error::operation_aborted) co_return;
    if (error) {  // the reason may last: no file is left to open
      asio::steady_timer pause(io_, kAcceptPause);
      co_await pause.async_wait(redirect_error(use_awaitable, error));
      continue;
    }
    if (callers_.size() >= kCallersMax) {  // those who stay silent must not keep others out
      std::vector<std::string> addresses;
      for (const Caller& caller : callers_) addresses.push_back(caller.address);
      const auto goes = callers_.begin() + static_cast<std::ptrdiff_t>(first_of_most_frequent(addresses));
      goes->connection->close();
      callers_.erase(goes);
    }
    asio::co_spawn(io_, serve(std::move(socket)), [](const std::exception_ptr&) {});
  }
}

Result<std::string> Invitation::wait(std::chrono::milliseconds patience) {
  asio::co_spawn(io_, accept_all(), asio::detached);
  io_.run_for(patience);
  acceptor_.close();
  if (outcome_) return *outcome_;
  return Error{Errc::kTimeout, "no device came with the token in time"};
}

std::string read_token(const std::string& file) {
  std::ifstream opened;
  if (file != "-") {
    std::error_code failed;
    if (!std::filesystem::is_regular_file(file, failed))
      throw SetupError(fmt::format("{}: no such file with a token, or not a regular one", file));
    opened.open(file);
  }
  std::istream& in = file == "-" ? std::cin : opened;
  std::string token(kTokenFileBytesMax, '\0');
  in.getline(token.data(), static_cast<std::streamsize>(token.size()));
  if (in.bad() || (in.fail() && in.gcount() == 0 && !in.eof())) throw SetupError(file + ": cannot be read");
  token.resize(token.find('\0'));
  while (!token.empty() && std::isspace(static_cast<unsigned char>(token.back()))) token.pop_back();
  if (token.empty())
    throw SetupError(fmt::format("{}: holds no token", file == "-" ? "standard input" : file));
  return token;
}

Result<NodeCredentials> accept_invitation(const std::string& address, const InvitationToken& token,
                                          const std::string& node) {
  asio::io_context io;
  Result<NodeCredentials> answer = Error{};
  const auto work = [&]() -> awaitable<void> { answer = co_await ask(address, token, node); };
  std::future<void> done = asio::co_spawn(io, work, asio::use_future);
  io.run();
  done.get();
  return answer;
}

}  // namespace shoal
