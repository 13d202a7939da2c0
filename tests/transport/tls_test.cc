// TLS under channels: who is let in, who is not, and that frames pass as without it.
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>

#include "tests/transport/tls_support.h"

namespace shoal::test {
namespace {

struct Greeting {
  Result<PeerInfo> caller = Error{}, callee = Error{};
  ChannelPtr from, to;
};

// pi-1 listens with one set of options, laptop calls with another; both say hello.
Greeting greet(asio::io_context& io, const ChannelOptions& laptop, const ChannelOptions& pi) {
  Greeting greeting;
  const auto listener = listen_on(io.get_executor(), "127.0.0.1", 0, pi);
  ExpectedHello expected;
  expected.node_name = "pi-1";
  const Body accept = [&]() -> asio::awaitable<void> {
    greeting.to = (co_await listener->accept()).value();
    greeting.callee = co_await answer_hello(*greeting.to, expected, {}, 1000ms);
  };
  const Body connect = [&]() -> asio::awaitable<void> {
    greeting.from = (co_await dial("127.0.0.1", listener->port(), after(2s), laptop)).value();
    greeting.caller = co_await say_hello(*greeting.from, sample_hello(), 1000ms);
  };
  run(io, {accept, connect});
  return greeting;
}

// The same certificate, valid from `days` from now on, signed anew by the authority whose key is in a file:
// what a device sees whose own clock is behind.
std::string beginning_in(int days, const std::string& certificate, const std::string& key_path) {
  BIO* const text = BIO_new_mem_buf(certificate.data(), static_cast<int>(certificate.size()));
  X509* const changed = PEM_read_bio_X509(text, nullptr, nullptr, nullptr);
  BIO* const key_text = BIO_new_file(key_path.c_str(), "r");
  EVP_PKEY* const key = PEM_read_bio_PrivateKey(key_text, nullptr, nullptr, nullptr);
  BIO* const out = BIO_new(BIO_s_mem());
  const long begin_s = long{days} * 86400;
  REQUIRE(X509_gmtime_adj(X509_getm_notBefore(changed), begin_s) != nullptr);
  REQUIRE(X509_gmtime_adj(X509_getm_notAfter(changed), begin_s + 86400) != nullptr);
  REQUIRE(X509_sign(changed, key, EVP_sha256()) > 0);
  REQUIRE(PEM_write_bio_X509(out, changed) == 1);
  char* data = nullptr;
  const long size = BIO_get_mem_data(out, &data);
  const std::string pem(data, static_cast<size_t>(size));
  for (BIO* const bio : {text, key_text, out}) BIO_free(bio);
  X509_free(changed);
  EVP_PKEY_free(key);
  return pem;
}

}  // namespace

TEST_CASE("frames of all sizes pass over TLS as they are") {
  asio::io_context io;
  const CertificateAuthority authority = CertificateAuthority::create("home");
  Greeting g = greet(io, tls_options(credentials_of(authority, "laptop")),
                     tls_options(credentials_of(authority, "pi-1")));
  REQUIRE(g.caller.has_value());
  REQUIRE(g.callee.has_value());
  CHECK(g.from->peer_certificate()->node == "pi-1");
  CHECK(g.to->peer_certificate()->node == "laptop");
  CHECK(g.to->peer_certificate()->cluster == "home");
  for (const size_t bytes : {0, 8, 4096, 16384, 16385, 1 << 20, 8 << 20}) {
    const Activations sent(bytes);
    const Body send = [&]() -> asio::awaitable<void> {
      OutgoingMessage probe{LinkProbe{bytes}, sent.bytes(), {}};
      const Result<void> done = co_await g.from->send(std::move(probe));
      CHECK(done.has_value());
    };
    const Body receive = [&]() -> asio::awaitable<void> {
      HeapBufferSource source(16 << 20);
      const Result<IncomingMessage> got = co_await g.to->receive(source);
      REQUIRE(got.has_value());
      CHECK(std::get<LinkProbe>(got->message).sequence == bytes);
      CHECK(std::equal(got->payload.bytes.begin(), got->payload.bytes.end(), sent.bytes().begin(),
                       sent.bytes().end()));
    };
    run(io, {send, receive});
  }
}

TEST_CASE("many frames in both directions at once pass over TLS in order") {
  asio::io_context io;
  const CertificateAuthority authority = CertificateAuthority::create("home");
  Greeting g = greet(io, tls_options(credentials_of(authority, "laptop")),
                     tls_options(credentials_of(authority, "pi-1")));
  REQUIRE(g.caller.has_value());
  const Activations activations(100000);
  constexpr uint64_t kFrames = 200;
  const auto sending = [&](Channel& channel) -> asio::awaitable<void> {
    for (uint64_t i = 0; i < kFrames; ++i) {
      OutgoingMessage probe{LinkProbe{i}, activations.bytes(), {}};
      const Result<void> done = co_await channel.send(std::move(probe));
      REQUIRE(done.has_value());
    }
  };
  const auto receiving = [&](Channel& channel) -> asio::awaitable<void> {
    HeapBufferSource source(1 << 20);
    for (uint64_t i = 0; i < kFrames; ++i) {
      const Result<IncomingMessage> got = co_await channel.receive(source);
      REQUIRE(got.has_value());
      REQUIRE(std::get<LinkProbe>(got->message).sequence == i);
    }
  };
  run(io, {[&] { return sending(*g.from); }, [&] { return sending(*g.to); },
           [&] { return receiving(*g.from); }, [&] { return receiving(*g.to); }});
}

TEST_CASE("a node is who its certificate says, and of this cluster, or is not let in") {
  asio::io_context io;
  const CertificateAuthority authority = CertificateAuthority::create("home");
  const CertificateAuthority foreign = CertificateAuthority::create("home");
  const ChannelOptions laptop = tls_options(credentials_of(authority, "laptop"));
  const ChannelOptions pi = tls_options(credentials_of(authority, "pi-1"));
  auto refused = [&](const ChannelOptions& caller, const ChannelOptions& callee) {
    const auto begin = Clock::now();
    const Greeting g = greet(io, caller, callee);
    CHECK(g.caller.has_error());
    CHECK(g.callee.has_error());
    CHECK(Clock::now() - begin < 1500ms);
    return std::pair(g.caller.has_error() ? g.caller.error().message : "",
                     g.callee.has_error() ? g.callee.error().message : "");
  };
  SUBCASE("another authority's") {
    NodeCredentials intruder = credentials_of(foreign, "laptop");
    intruder.authority = authority.certificate();  // so that the intruder itself has nothing against pi-1
    CHECK(refused(tls_options(intruder), pi).second.find("certificate") != std::string::npos);
    CHECK(refused(laptop, tls_options(credentials_of(foreign, "pi-1"))).first.find("certificate") !=
          std::string::npos);
  }
  SUBCASE("expired") {
    const auto [told, why] = refused(tls_options(credentials_of(authority, "laptop", -2)), pi);
    CHECK(why.find(
              "(of node laptop) has expired: run `shoal invite -c CLUSTER.yaml --name laptop` on the head") !=
          std::string::npos);
    CHECK(why.find("and this device's clock says 20") != std::string::npos);
    CHECK(told.find(std::string(kExpiredThere) + ": run `shoal invite") != std::string::npos);
    CHECK(refused(laptop, tls_options(credentials_of(authority, "pi-1", -2))).first.find("expired") !=
          std::string::npos);
  }
  SUBCASE("another node's") {
    CHECK(refused(tls_options(credentials_of(authority, "pi-7")), pi).second.find("pi-7") !=
          std::string::npos);
    CHECK(refused(laptop, tls_options(credentials_of(authority, "pi-7"))).first.find("pi-7") !=
          std::string::npos);
  }
  SUBCASE("revoked") {
    const auto context = std::make_shared<TlsContext>(credentials_of(authority, "pi-1"));
    ChannelOptions callee;
    callee.tls = context;
    CHECK(context->set_revoked({"laptop", "attic"}).empty());
    const auto [caller_was_told, why] = refused(laptop, callee);
    CHECK(caller_was_told.find("this node was shut out of the cluster (shoal revoke)") != std::string::npos);
    CHECK(why.find("(of node laptop) was revoked") != std::string::npos);
    CHECK(why.find("127.0.0.1:") != std::string::npos);
    CHECK(refused(callee, laptop).first.find("laptop") != std::string::npos);  // and is not called either
    context->set_revoked({"attic"});
    CHECK(greet(io, laptop, callee).callee.has_value());
  }
  SUBCASE("none: plain TCP, to either side") {
    refused(ChannelOptions{}, pi);
    refused(laptop, ChannelOptions{});
  }
}

TEST_CASE("where a certificate is not valid yet both sides are told of the clock") {
  asio::io_context io;
  const std::filesystem::path directory =
      std::filesystem::temp_directory_path() / ("shoal-clock-" + std::to_string(::getpid()));
  const CertificateAuthority authority = CertificateAuthority::in(directory, "home");
  NodeCredentials ahead = credentials_of(authority, "pi-1");
  ahead.certificate = beginning_in(29, ahead.certificate, directory / "authority.key");
  std::filesystem::remove_all(directory);
  const ChannelOptions laptop = tls_options(credentials_of(authority, "laptop"));
  const Greeting g = greet(io, laptop, tls_options(ahead));
  REQUIRE(g.caller.has_error());
  REQUIRE(g.callee.has_error());
  const std::string behind = g.caller.error().message, right = g.callee.error().message;
  CHECK(behind.find("(of node pi-1) is not valid yet: it is valid from 20") != std::string::npos);
  CHECK(behind.find("and this device's clock says 20") != std::string::npos);
  CHECK(right.find("its clock says a time before the certificate was made") != std::string::npos);
}

TEST_CASE("connections of a node that is revoked end at once, those of others go on") {
  asio::io_context io;
  const CertificateAuthority authority = CertificateAuthority::create("home");
  const auto context = std::make_shared<TlsContext>(credentials_of(authority, "pi-1"));
  ChannelOptions callee;
  callee.tls = context;
  const Greeting laptop = greet(io, tls_options(credentials_of(authority, "laptop")), callee);
  REQUIRE(laptop.callee.has_value());
  const auto wait = [&](Channel& channel, std::string& why) -> asio::awaitable<void> {
    HeapBufferSource none(0);
    const Result<IncomingMessage> got = co_await channel.receive(none, after(1s));
    if (got.has_error()) why = got.error().message;
  };
  std::string here, there;
  const Body revoke = [&]() -> asio::awaitable<void> {
    CHECK(context->set_revoked({"attic"}).empty());
    const std::vector<std::string> ended = context->set_revoked({"laptop"});
    REQUIRE(ended.size() == 1);
    CHECK(ended[0].find("laptop at 127.0.0.1:") == 0);
    co_return;
  };
  const auto begin = Clock::now();
  run(io, {[&] { return wait(*laptop.to, here); }, [&] { return wait(*laptop.from, there); }, revoke});
  CHECK(Clock::now() - begin < 500ms);
  CHECK(here.find("laptop") != std::string::npos);
  CHECK(here.find("was revoked") != std::string::npos);
  CHECK(there.find("closed the connection") != std::string::npos);
  CHECK_FALSE(laptop.to->is_open());
  CHECK(context->set_revoked({"laptop", "pi-2"}).empty());  // nobody is left
}

TEST_CASE("the head's certificate says so, and no other does whatever its owner asks for") {
  const CertificateAuthority authority = CertificateAuthority::create("home");
  const NodeKey key = NodeKey::create();
  const std::string request = key.request("laptop", "home");
  const auto days = std::chrono::days(90);
  CHECK(certificate_info(authority.sign(request, "laptop", days, CertificateRole::kHead).value(), "").head);
  const CertificateInfo info = certificate_info(authority.sign(request, "laptop").value(), "");
  CHECK_FALSE(info.head);
  CHECK(std::abs(info.issued_s - std::time(nullptr)) < 60);
  CHECK(std::abs(info.expires_s - info.issued_s - 90 * 86400) < 60);
}

TEST_CASE("before both have shown who they are no hello is sent") {
  asio::io_context io;
  const CertificateAuthority authority = CertificateAuthority::create("home");
  RawPeer peer(io, tls_options(credentials_of(authority, "pi-1")));
  ExpectedHello expected;
  const Body answer = [&]() -> asio::awaitable<void> {
    const Result<PeerInfo> greeted = co_await answer_hello(*peer.channel, expected, {}, 300ms);
    CHECK(greeted.has_error());
  };
  SUBCASE("silence ends at the deadline") {
    run(io, answer);
  }
  SUBCASE("plain text ends at once, and gets nothing but an alert back") {
    const Body talk = [&]() -> asio::awaitable<void> {
      const std::string request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
      co_await asio::async_write(peer.socket, asio::buffer(request), asio::use_awaitable);
      std::array<char, 4096> reply;
      boost::system::error_code ec;
      const size_t n = co_await asio::async_read(peer.socket, asio::buffer(reply),
                                                 asio::redirect_error(asio::use_awaitable, ec));
      CHECK(n <= 7);  // a TLS alert
    };
    run(io, {answer, talk});
  }
}

TEST_CASE("the head's authority is kept, for its owner's eyes only") {
  const std::filesystem::path directory =
      std::filesystem::temp_directory_path() / ("shoal-authority-" + std::to_string(::getpid()));
  const CertificateAuthority first = CertificateAuthority::in(directory, "home");
  CHECK(CertificateAuthority::in(directory, "home").certificate() == first.certificate());
  struct stat status {};
  REQUIRE(::stat((directory / "authority.key").c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0600);
  ::chmod((directory / "authority.key").c_str(), 0644);
  CHECK_THROWS_AS(CertificateAuthority::in(directory, "home"), SetupError);
  ::chmod((directory / "authority.key").c_str(), 0600);
  // One that is over by this device's clock is not replaced, nor one of which a part is missing or another's:
  // that would shut every node out.
  const std::string file = directory / "authority.crt", key_file = directory / "authority.key";
  const auto refused = [&](const char* why) {
    CHECK_THROWS_WITH_AS(CertificateAuthority::in(directory, "home"), doctest::Contains(why), SetupError);
    CHECK_THROWS_WITH_AS(CertificateAuthority::in(directory, "home"),
                         doctest::Contains("to begin with a new authority"), SetupError);
  };
  const NodeKey node = NodeKey::create();
  std::ofstream(file) << first.sign(node.request("a", "home"), "a", std::chrono::days(-2)).value();
  refused("set the clock");
  std::ofstream(file) << CertificateAuthority::create("home").certificate();
  refused("do not belong together");
  std::filesystem::remove(file);
  refused("authority.crt: No such file");
  REQUIRE(::mkfifo(file.c_str(), 0600) == 0);
  refused("authority.crt: it is not a regular file");
  std::filesystem::remove(file);
  std::filesystem::remove(key_file);
  std::ofstream(file) << first.certificate();
  refused("authority.key: No such file");
  std::filesystem::remove_all(directory);
}

TEST_CASE("a request is signed for the name that was checked, and only if its owner signed it") {
  const CertificateAuthority authority = CertificateAuthority::create("home");
  const NodeKey key = NodeKey::create();
  const std::string request = key.request("i-am-the-head", "elsewhere");
  const CertificateInfo info = certificate_info(authority.sign(request, "pi-2").value(), "");
  CHECK(info.node == "pi-2");
  CHECK(info.cluster == "home");
  CHECK(authority.sign("", "pi-2").has_error());
  CHECK(
      authority.sign("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "pi-2")
          .has_error());
  CHECK(authority.sign(std::string(kRequestBytesMax + 1, 'a'), "pi-2").has_error());
  std::string damaged = request;
  damaged[request.size() / 2] = damaged[request.size() / 2] == 'A' ? 'B' : 'A';
  CHECK(authority.sign(damaged, "pi-2").has_error());
  CHECK_THROWS_AS(
      TlsContext({NodeKey::create(), authority.sign(request, "pi-2").value(), authority.certificate()}),
      SetupError);
}

}  // namespace shoal::test
