// Somebody between two nodes who can do anything to the bytes but read them: repeats, swaps, drops or changes
// records. What was sent before arrives, nothing after, and the link ends at once.
#include <algorithm>

#include "tests/transport/tls_support.h"

namespace shoal::test {
namespace {

constexpr size_t kRecordHeader = 5;  // RFC 8446, section 5.1

enum class Tamper { kNone, kRepeat, kSwap, kDrop, kFlip, kReplayLater, kPlain };

// Passes a connection on, and from `armed` on does something to the caller's records.
class Middle {
 public:
  Middle(asio::io_context& io, uint16_t to, Tamper tamper)
      : acceptor_(io, tcp::endpoint(asio::ip::make_address("127.0.0.1"), 0)),
        near_(io),
        far_(io),
        to_(to),
        tamper_(tamper) {}
  uint16_t port() const { return acceptor_.local_endpoint().port(); }

  asio::awaitable<void> connect() {
    co_await acceptor_.async_accept(near_, asio::use_awaitable);
    co_await far_.async_connect(tcp::endpoint(asio::ip::make_address("127.0.0.1"), to_), asio::use_awaitable);
    asio::co_spawn(far_.get_executor(), back(), asio::detached);
    asio::co_spawn(far_.get_executor(), forth(), asio::detached);
  }
  void close() {
    boost::system::error_code ignored;
    near_.close(ignored);
    far_.close(ignored);
  }
  bool armed = false;

 private:
  asio::awaitable<void> back() {
    std::array<char, 4096> part;
    boost::system::error_code ec;
    while (!ec) {
      const size_t n =
          co_await far_.async_read_some(asio::buffer(part), asio::redirect_error(asio::use_awaitable, ec));
      if (n > 0)
        co_await asio::async_write(near_, asio::buffer(part, n),
                                   asio::redirect_error(asio::use_awaitable, ec));
    }
  }
  asio::awaitable<void> forth() {
    boost::system::error_code ec;
    std::string held, first;
    while (true) {
      std::string record(kRecordHeader, '\0');
      co_await asio::async_read(near_, asio::buffer(record), asio::redirect_error(asio::use_awaitable, ec));
      if (ec) co_return;
      const size_t body = static_cast<uint8_t>(record[3]) * 256u + static_cast<uint8_t>(record[4]);
      record.resize(kRecordHeader + body);
      co_await asio::async_read(near_, asio::buffer(record.data() + kRecordHeader, body),
                                asio::redirect_error(asio::use_awaitable, ec));
      if (ec) co_return;
      const int number = armed ? ++seen_ : 0;
      std::string out = record;
      if (number == 1) first = record;
      if (number == 2) {
        if (tamper_ == Tamper::kRepeat) out = record + record;
        if (tamper_ == Tamper::kDrop) out.clear();
        if (tamper_ == Tamper::kFlip) out[kRecordHeader + body / 2] ^= 1;
        if (tamper_ == Tamper::kSwap) held = std::exchange(out, "");
        if (tamper_ == Tamper::kPlain) out = std::string("\x17\x03\x03\x00\x20", 5) + std::string(32, 'S');
      }
      if (number == 3 && tamper_ == Tamper::kSwap) out += held;
      if (number == 4 && tamper_ == Tamper::kReplayLater) out = first + record;
      co_await asio::async_write(far_, asio::buffer(out), asio::redirect_error(asio::use_awaitable, ec));
      if (ec) co_return;
    }
  }

  tcp::acceptor acceptor_;
  tcp::socket near_, far_;
  uint16_t to_;
  Tamper tamper_;
  int seen_ = 0;
};

struct Arrived {
  std::vector<uint64_t> numbers;  // of the probes, in the order they came
  std::string end;                // why no more came
  Clock::duration took{};         // from the first sending to the end
};

// Six probes in a record each.
Arrived send_through(Tamper tamper) {
  asio::io_context io;
  const CertificateAuthority authority = CertificateAuthority::create("home");
  const ChannelOptions laptop = tls_options(credentials_of(authority, "laptop"));
  const auto listener =
      listen_on(io.get_executor(), "127.0.0.1", 0, tls_options(credentials_of(authority, "pi-1")));
  Middle middle(io, listener->port(), tamper);
  ChannelPtr from, to;
  ExpectedHello expected;
  expected.node_name = "pi-1";
  const Body answer = [&]() -> asio::awaitable<void> {
    to = (co_await listener->accept()).value();
    const Result<PeerInfo> greeted = co_await answer_hello(*to, expected, {}, 2000ms);
    REQUIRE(greeted.has_value());
  };
  const Body call = [&]() -> asio::awaitable<void> {
    from = (co_await dial("127.0.0.1", middle.port(), after(2s), laptop)).value();
    const Result<PeerInfo> greeted = co_await say_hello(*from, sample_hello(), 2000ms);
    REQUIRE(greeted.has_value());
  };
  run(io, {[&] { return middle.connect(); }, answer, call});
  middle.armed = true;
  Arrived arrived;
  const auto begin = Clock::now();
  const Body send = [&]() -> asio::awaitable<void> {
    for (uint64_t i = 1; i <= 6; ++i) {
      OutgoingMessage probe{LinkProbe{i}, {}, {}};
      const Result<void> sent = co_await from->send(std::move(probe));
      if (!sent) break;
      asio::steady_timer pause(io, 5ms);  // so that each is a record of its own
      co_await pause.async_wait(asio::use_awaitable);
    }
  };
  const Body receive = [&]() -> asio::awaitable<void> {
    HeapBufferSource source(1 << 20);
    while (arrived.numbers.size() < 6) {
      const Result<IncomingMessage> got = co_await to->receive(source, after(8s));
      if (!got) {
        arrived.end = got.error().message;
        break;
      }
      arrived.numbers.push_back(std::get<LinkProbe>(got->message).sequence);
    }
    arrived.took = Clock::now() - begin;
  };
  run(io, {send, receive});
  from->close();
  to->close();
  middle.close();
  io.poll();
  return arrived;
}

TEST_CASE("records that are repeated, swapped, dropped, replayed, changed or made up end the link at once") {
  const Arrived whole = send_through(Tamper::kNone);
  CHECK(whole.numbers == std::vector<uint64_t>{1, 2, 3, 4, 5, 6});
  struct Case {
    const char* what;
    Tamper tamper;
    size_t arrive;
  };
  for (const Case& c :
       {Case{"repeated", Tamper::kRepeat, 2}, Case{"swapped", Tamper::kSwap, 1},
        Case{"dropped", Tamper::kDrop, 1}, Case{"a bit changed", Tamper::kFlip, 1},
        Case{"replayed later", Tamper::kReplayLater, 3}, Case{"made up", Tamper::kPlain, 1}}) {
    CAPTURE(std::string(c.what));
    const Arrived arrived = send_through(c.tamper);
    CAPTURE(arrived.end);
    CHECK(arrived.numbers.size() == c.arrive);
    CHECK(std::is_sorted(arrived.numbers.begin(), arrived.numbers.end()));
    CHECK_FALSE(arrived.end.empty());
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    CHECK(arrived.took < 5s);
#else
    CHECK(arrived.took < 1s);  // by the record, not by a deadline
#endif
  }
}

}  // namespace
}  // namespace shoal::test
