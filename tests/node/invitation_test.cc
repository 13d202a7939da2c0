#include "node/invitation.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <atomic>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>
#include <filesystem>
#include <future>
#include <thread>
#include <vector>

#include "node/revocation.h"
#include "tests/node/log_lines.h"
#include "tests/support/mentions.h"
#include "tests/support/temp_dir.h"

namespace shoal {
namespace {

using test::mentions;

using namespace std::chrono_literals;
using test::TempDir;

struct Inviting {
  explicit Inviting(const std::string& node = "", std::chrono::milliseconds patience = 20s) {
    invitation = std::make_unique<Invitation>(
        authority,
        Invitation::Options{"127.0.0.1", 0, "laptop", node, dir.file("issued"), std::chrono::hours(2)});
    token = *InvitationToken::parse(invitation->token());
    outcome = std::async(std::launch::async, [this, patience] { return invitation->wait(patience); });
  }
  Result<NodeCredentials> come(const std::string& name) {
    return accept_invitation("127.0.0.1", token, name);
  }

  TempDir dir;
  CertificateAuthority authority = CertificateAuthority::create("home");
  std::unique_ptr<Invitation> invitation;
  InvitationToken token;
  std::future<Result<std::string>> outcome;
};

}  // namespace

TEST_CASE("a device with the token gets a certificate of the cluster, once") {
  Inviting head;
  const Result<NodeCredentials> given = head.come("pi-2");
  REQUIRE_MESSAGE(given.has_value(), given.error().message);
  CHECK(*head.outcome.get() == "pi-2");
  const CertificateInfo info = certificate_info(given->certificate, "given");
  CHECK(info.node == "pi-2");
  CHECK(info.cluster == "home");
  CHECK(given->authority == head.authority.certificate());
  CHECK(mentions(head.come("pi-3").error().message, "nobody waits for this token"));
  struct stat issued {};
  REQUIRE(::stat(head.dir.file("issued").c_str(), &issued) == 0);
  CHECK((issued.st_mode & 0777) == 0700);  // others must not put names there, whatever the umask

  // What was given is kept for the next start, and only for its owner to read.
  const std::string kept = head.dir.file("kept");
  CHECK_FALSE(stored_credentials(kept).has_value());
  store_credentials(kept, *given);
  CHECK(stored_credentials(kept)->certificate == given->certificate);
  CHECK(stored_credentials(kept)->key.pem() == given->key.pem());
  CHECK(certificate_info(given->certificate, "given").expires_s -
            certificate_info(given->certificate, "given").issued_s ==
        7200);
  // The two never come apart, whatever was cut off while they were written; an older program kept them in
  // two.
  test::write_file(kept + "/node.crt", head.authority.certificate());
  CHECK(stored_credentials(kept)->certificate == given->certificate);
  test::write_file(kept + "/node.crt", given->certificate);
  test::write_file(kept + "/node.key", given->key.pem());
  CHECK(stored_credentials(kept)->certificate == given->certificate);
  store_credentials(kept, *given);
  struct stat status {};
  REQUIRE(::stat((kept + "/node.key").c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0600);
  std::filesystem::permissions(kept + "/node.key", std::filesystem::perms(0644));
  CHECK_THROWS_AS((void)stored_credentials(kept), SetupError);
}

TEST_CASE("who brings another secret, or a name that is not theirs, is turned away") {
  Inviting head;
  InvitationToken wrong = head.token;
  wrong.secret[0] = wrong.secret[0] == '0' ? '1' : '0';
  CHECK(mentions(accept_invitation("127.0.0.1", wrong, "pi-2").error().message, "another token"));
  CHECK(mentions(head.come("laptop").error().message, "the head's name"));
  CHECK(mentions(head.come("../pi").error().message, "a node's name is"));
  CHECK(mentions(head.come("").error().message, "a node's name is"));
  REQUIRE(head.come("pi-2").has_value());
  CHECK(head.outcome.get().has_value());

  // A name that was given away is given again only on purpose.
  const auto again = [&](const std::string& node) {
    Invitation invitation(head.authority, {"127.0.0.1", 0, "laptop", node, head.dir.file("issued")});
    auto outcome = std::async(std::launch::async, [&] { return invitation.wait(1500ms); });
    const auto come = accept_invitation("127.0.0.1", *InvitationToken::parse(invitation.token()), "pi-2");
    (void)outcome.get();
    return come;
  };
  CHECK(mentions(again("").error().message, "has a certificate already"));
  CHECK(mentions(again("pi-9").error().message, "the token is for node pi-9"));
  CHECK(again("pi-2").has_value());
}

TEST_CASE("a name that no device could come in by is not invited, and one that was shut out is turned away") {
  const TempDir dir;
  const CertificateAuthority authority = CertificateAuthority::create("home");
  const std::string revoked = revocations_file(dir.path());
  const auto problem = [&](const std::string& node) -> std::string {
    try {
      Invitation(authority,
                 {"127.0.0.1", 0, "laptop", node, dir.file("issued"), std::chrono::hours(2), revoked});
      return "";
    } catch (const SetupError& error) {
      return error.what();
    }
  };
  CHECK(problem("pi-2") == "");
  CHECK(mentions(problem("laptop"), "--name: laptop is the head's name"));
  CHECK(mentions(problem("../pi"), "a node's name is"));
  Invitation open(authority,
                  {"127.0.0.1", 0, "laptop", "", dir.file("issued"), std::chrono::hours(2), revoked});
  auto outcome = std::async(std::launch::async, [&] { return open.wait(20s); });
  set_revoked(revoked, "pi-2", true);  // while the invitation stands
  CHECK(mentions(problem("pi-2"), "pi-2 was shut out of the cluster"));
  CHECK(mentions(problem("pi-2"), "shoal revoke --undo pi-2"));
  const InvitationToken token = *InvitationToken::parse(open.token());
  CHECK(
      mentions(accept_invitation("127.0.0.1", token, "pi-2").error().message, "was shut out of the cluster"));
  CHECK_FALSE(std::filesystem::exists(dir.file("issued/pi-2.crt")));
  CHECK(accept_invitation("127.0.0.1", token, "pi-3").has_value());
  CHECK(outcome.get().has_value());
}

TEST_CASE("a token is read from a file, without what a line ends on") {
  const TempDir dir;
  const std::string file = dir.file("token");
  const auto problem = [&](const std::string& path) -> std::string {
    try {
      (void)read_token(path);
      return "";
    } catch (const SetupError& error) {
      return error.what();
    }
  };
  for (const char* text :
       {"shoal1.7000.ab", "shoal1.7000.ab\n", "shoal1.7000.ab \r\n", "shoal1.7000.ab\nmore\n"}) {
    test::write_file(file, text);
    CHECK(read_token(file) == "shoal1.7000.ab");
  }
  test::write_file(file, "\n");
  CHECK(mentions(problem(file), "token: holds no token"));
  test::write_file(file, "");
  CHECK(mentions(problem(file), "token: holds no token"));
  test::write_file(file, std::string(100'000, 'x'));
  CHECK(read_token(file).size() < 300);  // which is no token
  CHECK(mentions(problem(dir.file("none")), "no such file with a token"));
  REQUIRE(::mkfifo(dir.file("fifo").c_str(), 0600) == 0);
  CHECK(mentions(problem(dir.file("fifo")), "not a regular one"));
}

TEST_CASE("guessing ends the invitation") {
  Inviting head;
  InvitationToken wrong = head.token;
  for (int i = 0; i < 8; ++i) {
    wrong.secret = std::string(31, 'a') + "0123456789abcdef"[i];
    CHECK(accept_invitation("127.0.0.1", wrong, "pi-2").has_error());
  }
  CHECK(mentions(head.outcome.get().error().message, "other tokens"));
  CHECK(head.come("pi-2").has_error());
}

TEST_CASE("a head that is not the token's is told nothing") {
  Inviting real, other;
  InvitationToken mixed = real.token;
  mixed.port = other.token.port;
  CHECK(mentions(accept_invitation("127.0.0.1", mixed, "pi-2").error().message, "Nothing was sent to it"));
  CHECK(real.come("pi-2").has_value());
  CHECK(other.come("pi-2").has_value());
}

TEST_CASE("strangers that say nothing, or nonsense, do not keep a device out, and stand in the log") {
  const test::LogLines log;
  Inviting head;
  boost::asio::io_context io;
  std::vector<boost::asio::ip::tcp::socket> strangers;
  for (int i = 0; i < 8; ++i) {
    strangers.emplace_back(io).connect({boost::asio::ip::make_address("127.0.0.1"), head.token.port});
    if (i % 2 == 1) boost::asio::write(strangers.back(), boost::asio::buffer("GET / HTTP/1.1\r\n\r\n", 18));
  }
  CHECK(head.come("pi-2").has_value());
  CHECK(head.outcome.get().has_value());
  const std::string said =
      fmt::format("a caller from 127.0.0.1:{} was not heard: ", strangers[1].local_endpoint().port());
  CHECK(log.count(said) == 1);
}

TEST_CASE("connections that stay silent, and come again when they are closed, do not keep a device out") {
  Inviting head;
  // As one at another address would: one that is closed is opened again at once.
  std::atomic<bool> over = false;
  std::thread crowd([&] {
    boost::asio::io_context io;
    std::vector<boost::asio::ip::tcp::socket> sockets;
    const auto connect = [&](boost::asio::ip::tcp::socket& socket) {
      boost::system::error_code ignored;
      socket.close(ignored);
      socket.open(boost::asio::ip::tcp::v4(), ignored);
      socket.bind({boost::asio::ip::make_address("127.0.0.2"), 0}, ignored);
      socket.connect({boost::asio::ip::make_address("127.0.0.1"), head.token.port}, ignored);
      socket.non_blocking(true, ignored);
    };
    for (int i = 0; i < 40; ++i) connect(sockets.emplace_back(io));
    while (!over) {
      for (boost::asio::ip::tcp::socket& socket : sockets) {
        char byte;
        boost::system::error_code ec;
        socket.read_some(boost::asio::buffer(&byte, 1), ec);
        if (ec != boost::asio::error::would_block) connect(socket);
      }
    }
  });
  std::this_thread::sleep_for(200ms);
  const Result<NodeCredentials> given = head.come("pi-2");
  over = true;
  crowd.join();
  REQUIRE_MESSAGE(given.has_value(), given.error().message);
}

TEST_CASE("an invitation ends by itself") {
  Inviting head("", 50ms);
  CHECK(mentions(head.outcome.get().error().message, "in time"));
}

TEST_CASE("what is no token is refused") {
  const std::string good = "shoal1.7000." + std::string(32, 'a') + "." + std::string(64, 'b');
  CHECK(InvitationToken::parse(good)->port == 7000);
  CHECK(InvitationToken::parse(good)->text() == good);
  for (const std::string& bad : {std::string(), good.substr(1), good + "0", "shoal1.0." + good.substr(12),
                                 "shoal1.70000." + good.substr(12), "shoal1.-1." + good.substr(12),
                                 "shoal1.." + good.substr(12), good.substr(0, 30), good + ".x"})
    CHECK_MESSAGE(InvitationToken::parse(bad).has_error(), bad);
}

}  // namespace shoal
