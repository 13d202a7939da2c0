#include "node/http/http_server.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <future>
#include <thread>

#include "base/error.h"
#include "node/http/notifier.h"
#include "tests/support/comes_true.h"
#include "tests/support/mentions.h"

namespace shoal::test {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using namespace std::chrono_literals;

// /echo answers its body; /wait until released or its client is gone; /flood streams as fast as it is taken,
// /drip a little every few milliseconds.
class Handler : public HttpHandler {
 public:
  explicit Handler(IoThread& io) : io_(io) {}

  std::optional<HttpResponse> refuse_early(const HttpRequest& head) override {
    if (head.path != "/refused") return std::nullopt;
    return HttpResponse{404, "text/plain", "refused", {}};
  }
  asio::awaitable<void> handle(HttpExchange& exchange) override {
    if (exchange.request().path == "/wait") {
      const auto released = std::make_shared<Notifier>(io_.executor());
      waiters_.push_back(released);
      exchange.on_gone([this, released] {
        ++gone;
        released->notify();
      });
      ++waiting;
      co_await released->wait();
    }
    if (exchange.request().path == "/flood") {
      bool open = co_await exchange.begin_stream("text/plain");
      while (open) {
        std::string part(64 << 10, 'x');
        open = co_await exchange.send(std::move(part));
      }
      ++gone;
      co_return;
    }
    if (exchange.request().path == "/drip") {
      asio::steady_timer pause(io_.executor());
      bool open = co_await exchange.begin_stream("text/plain");
      while (open) {
        open = co_await exchange.send(std::string(256, 'x'));
        pause.expires_after(2ms);
        co_await pause.async_wait(asio::use_awaitable);
      }
      ++gone;
      co_return;
    }
    if (exchange.request().path == "/stream") {
      bool open = co_await exchange.begin_stream("text/plain");
      for (int i = 0; i < 3 && open; ++i) open = co_await exchange.send("part");
      if (open) co_await exchange.end_stream();
      co_return;
    }
    if (exchange.request().path == "/where") {
      HttpResponse response{
          200, "text/plain", exchange.request().from_this_device ? "here" : "elsewhere", {}};
      co_await exchange.respond(std::move(response));
      co_return;
    }
    if (exchange.request().path == "/throw") throw std::runtime_error("a fault of the handler");
    HttpResponse response{200, "text/plain", exchange.request().body + exchange.request().query, {}};
    co_await exchange.respond(std::move(response));
  }
  HttpResponse refusal(int status, const std::string& problem) override {
    return {status, "text/plain", problem, {}};
  }
  void release() {
    for (const auto& waiter : waiters_) waiter->notify();
  }

  std::atomic<int> gone{0}, waiting{0};

 private:
  IoThread& io_;
  std::vector<std::shared_ptr<Notifier>> waiters_;
};

HttpLimits small_limits() {
  HttpLimits limits;
  limits.header_bytes = 1024;
  limits.body_bytes = 4096;
  limits.bodies_bytes = 8192;
  limits.connections = 3;
  limits.linger = 200ms;
  return limits;
}

struct Running {
  explicit Running(const HttpLimits& limits = small_limits())
      : server(io, handler, limits), port(server.listen({asio::ip::make_address("127.0.0.1"), 0}).port()) {}
  HttpCounters counters() {
    return io.call([this] { return server.counters(); });
  }
  IoThread io;
  Handler handler{io};
  HttpServer server;
  uint16_t port;
};

// A client that sends what it is told and never waits for more than 5 s.
class Client {
 public:
  explicit Client(uint16_t port, bool connects = true) : socket_(io_), port_(port) {
    socket_.open(tcp::v4());
    const timeval limit{5, 0};
    setsockopt(socket_.native_handle(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (connects) connect();
  }
  Client& connect() {
    socket_.connect({asio::ip::make_address("127.0.0.1"), port_});
    return *this;
  }
  Client& send(const std::string& text) {
    boost::system::error_code ignored;  // the server may have closed already
    asio::write(socket_, asio::buffer(text), ignored);
    return *this;
  }
  // Until `end` has been read.
  std::string read_until(const std::string& end) {
    while (text_.find(end) == std::string::npos && read_more()) {
    }
    return text_;
  }
  // Until the server closes; `closed` tells whether it did.
  std::string read_all(bool* closed = nullptr) {
    while (read_more()) {
    }
    if (closed != nullptr) *closed = closed_;
    return text_;
  }
  // A small window, so that a client that stops reading is noticed within a few kilobytes.
  void read_little() {
    const int bytes = 4096;
    setsockopt(socket_.native_handle(), SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
  }
  bool read_some() { return read_more(); }
  void close() { socket_.close(); }

 private:
  bool read_more() {
    char part[4096];
    const ssize_t n = recv(socket_.native_handle(), part, sizeof part, 0);
    closed_ = n == 0 || (n < 0 && errno == ECONNRESET);
    if (n <= 0) return false;
    text_.append(part, static_cast<size_t>(n));
    return true;
  }
  asio::io_context io_;
  tcp::socket socket_;
  uint16_t port_;
  std::string text_;
  bool closed_ = false;
};

std::string get(const std::string& path, const std::string& more = "") {
  return "GET " + path + " HTTP/1.1\r\nHost: localhost\r\n" + more + "\r\n";
}
std::string post(const std::string& path, const std::string& more, const std::string& body) {
  return "POST " + path + " HTTP/1.1\r\nHost: localhost\r\n" + more + "\r\n" + body;
}
// The status of the answer to `request`, and that the server closes after it.
std::string refused_with(Running& running, const std::string& request) {
  Client client(running.port);
  bool closed = false;
  const std::string text = client.send(request).read_all(&closed);
  CHECK(closed);
  return text.substr(0, 12);
}

}  // namespace

TEST_CASE("an address to listen on is an IP address and a port") {
  CHECK(parse_listen("127.0.0.1:8080", "x").port() == 8080);
  CHECK(parse_listen("localhost:0", "x").address().is_loopback());
  CHECK(parse_listen("[::1]:99", "x").address().is_v6());
  for (const char* wrong : {"", "127.0.0.1", ":80", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1",
                            "host:80", "1.2.3:80", "127.0.0.1:80x"}) {
    CAPTURE(wrong);
    CHECK_THROWS_AS(parse_listen(wrong, "--listen"), SetupError);
  }
}

TEST_CASE("requests are answered one after the other on one connection") {
  Running running;
  Client client(running.port);
  client.send(get("/echo?one") + get("/echo?two") + post("/echo", "Content-Length: 5\r\n", "three"));
  const std::string text = client.read_until("three");
  CHECK(text.find("one") < text.find("two"));
  CHECK(text.find("two") < text.find("three"));
  CHECK(mentions(text, "Connection: keep-alive"));
  CHECK(running.counters().accepted == 1);
}

TEST_CASE("HEAD has no body, HTTP/1.0 and Connection: close end the connection") {
  Running running;
  bool closed = false;
  const std::string head = Client(running.port)
                               .send("HEAD /echo?abc HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                               .read_all(&closed);
  CHECK(closed);
  CHECK(mentions(head, "Content-Length: 3"));
  CHECK(head.ends_with("\r\n\r\n"));
  const std::string old = Client(running.port).send("GET /stream HTTP/1.0\r\n\r\n").read_all(&closed);
  CHECK(closed);
  CHECK(!mentions(old, "chunked"));
  CHECK(old.ends_with("partpartpart"));
}

TEST_CASE("a target may be a whole URI") {
  Running running;
  Client client(running.port);
  for (const char* target : {"http://localhost/echo?one", "HTTP://a.example:80/echo?one"})
    CHECK(
        mentions(client.send("GET " + std::string(target) + " HTTP/1.1\r\nHost: b\r\n\r\n").read_until("one"),
                 "200 OK"));
  CHECK(refused_with(running,
                     "GET http://localhost/refused HTTP/1.1\r\nHost: b\r\nContent-Length: 9\r\n\r\n") ==
        "HTTP/1.1 404");
}

TEST_CASE("what comes through a proxy does not count as from this device") {
  Running running;
  CHECK(
      Client(running.port).send(get("/where", "Connection: close\r\n")).read_all().ends_with("\r\n\r\nhere"));
  for (const char* sign :
       {"Forwarded: for=10.0.0.9", "Via: 1.1 door", "X-Forwarded-For: 10.0.0.9", "X-Real-IP: 10.0.0.9"}) {
    CAPTURE(sign);
    const std::string text =
        Client(running.port).send(get("/where", std::string(sign) + "\r\nConnection: close\r\n")).read_all();
    CHECK(text.ends_with("elsewhere"));
  }
}

TEST_CASE("a stream is chunked and the connection goes on after it") {
  Running running;
  Client client(running.port);
  const std::string text = client.send(get("/stream") + get("/echo?next")).read_until("next");
  CHECK(mentions(text, "Transfer-Encoding: chunked"));
  CHECK(mentions(text, "4\r\npart\r\n4\r\npart\r\n4\r\npart\r\n0\r\n\r\n"));
}

TEST_CASE("a client that waits to send its body is told to go on") {
  Running running;
  Client client(running.port);
  client.send(post("/echo", "Content-Length: 2\r\nExpect: 100-continue\r\n", ""));
  CHECK(mentions(client.read_until("\r\n\r\n"), "100 Continue"));
  CHECK(mentions(client.send("ok").read_until("ok"), "200 OK"));
  CHECK(refused_with(running, post("/echo", "Content-Length: 2\r\nExpect: money\r\n", "")) == "HTTP/1.1 417");
  CHECK(refused_with(running, get("/echo", "Host: evil\r\n")) == "HTTP/1.1 400");
  CHECK(refused_with(running, "GET /echo HTTP/1.1\r\n\r\n") == "HTTP/1.1 400");
  CHECK(refused_with(running, post("/echo", "Transfer-Encoding: gzip\r\n", "")) == "HTTP/1.1 501");
  CHECK(refused_with(running, post("/echo", "Content-Encoding: gzip\r\nContent-Length: 2\r\n", "")) ==
        "HTTP/1.1 415");
}

TEST_CASE("what is refused early need not be sent") {
  Running running;
  CHECK(refused_with(running, post("/refused", "Content-Length: 4000\r\n", "")) == "HTTP/1.1 404");
  Client client(running.port);  // without a body the connection goes on
  CHECK(mentions(client.send(get("/refused") + get("/echo?zebra")).read_until("zebra"), "200 OK"));
}

TEST_CASE("malformed requests get 400 and the connection ends") {
  Running running;
  for (const std::string& request : std::vector<std::string>{
           "nonsense\r\n\r\n", "GET /echo HTTP/9.9\r\n\r\n", "GET  /echo HTTP/1.1\r\n\r\n",
           get("/echo", "no colon\r\n"),
           std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11) + "\r\n\r\n",
           post("/echo", "Content-Length: -1\r\n", ""),
           post("/echo", "Content-Length: 99999999999999999999\r\n", ""),
           post("/echo", "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
           post("/echo", "Content-Length: 3\r\nContent-Length: 4\r\n", "abcd"),
           post("/echo", "Transfer-Encoding: chunked\r\n", "10000000000000000\r\nx\r\n0\r\n\r\n"),
           post("/echo", "Transfer-Encoding: chunked\r\n", "zz\r\nx\r\n0\r\n\r\n")}) {
    CAPTURE(request);
    CHECK(refused_with(running, request) == "HTTP/1.1 400");
  }
  CHECK(mentions(Client(running.port).send(get("/echo?zebra")).read_until("zebra"), "200 OK"));
}

TEST_CASE("headers and bodies that are too large are refused, however they are sent") {
  Running running;
  CHECK(refused_with(running, get("/echo", "A: " + std::string(2000, 'a') + "\r\n")) == "HTTP/1.1 431");
  std::string many;
  for (int i = 0; i < 200; ++i) many += "A: aaaaa\r\n";
  CHECK(refused_with(running, get("/echo", many)) == "HTTP/1.1 431");
  CHECK(refused_with(running, "GET /" + std::string(5000, 'a')) == "HTTP/1.1 431");
  CHECK(refused_with(running, post("/echo", "Content-Length: 4097\r\n", "")) == "HTTP/1.1 413");
  std::string chunks;
  for (int i = 0; i < 2000; ++i) chunks += "6\r\nabcdef\r\n";
  CHECK(refused_with(running, post("/echo", "Transfer-Encoding: chunked\r\n", chunks)) == "HTTP/1.1 413");
  chunks.resize(11 * 600);
  Client client(running.port);
  CHECK(mentions(
      client.send(post("/echo", "Transfer-Encoding: chunked\r\n", chunks + "0\r\n\r\n")).read_until("abcdef"),
      "Content-Length: 3600"));
}

#ifndef __SANITIZE_ADDRESS__  // UBSan itself needs files to look at types
// Lets the process open `more` files beyond those it has.
class FewFiles {
 public:
  explicit FewFiles(int more) {
    getrlimit(RLIMIT_NOFILE, &before_);
    const int next = ::open("/dev/null", O_RDONLY | O_CLOEXEC);  // the lowest number that is free
    ::close(next);
    rlimit few = before_;
    few.rlim_cur = static_cast<rlim_t>(next + more);
    setrlimit(RLIMIT_NOFILE, &few);
  }
  ~FewFiles() { setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_{};
};

TEST_CASE("where no file is left to open, those who idle make room, and a newcomer is not left waiting") {
  HttpLimits limits = small_limits();
  limits.connections = 100;
  Running running(limits);
  Client a(running.port), b(running.port);
  a.send(get("/wait"));
  b.send(get("/wait"));
  REQUIRE(comes_true([&] { return running.handler.waiting == 2; }));
  {
    Client c(running.port, /*connects=*/false), d(running.port, /*connects=*/false);
    const FewFiles none(0);
    CHECK(mentions(c.connect().read_all(), "503"));
    running.handler.release();
    CHECK(mentions(a.read_until("200 OK"), "200 OK"));
    CHECK(mentions(b.read_until("200 OK"), "200 OK"));
    std::this_thread::sleep_for(100ms);  // until the server knows that they idle
    CHECK(mentions(d.connect().send(get("/echo?zebra")).read_until("zebra"), "200 OK"));
  }
  CHECK(running.counters().refused == 1);
}
#endif

TEST_CASE("bodies are bounded in sum") {
  Running running;
  Client a(running.port), b(running.port);
  a.send(post("/echo", "Content-Length: 4000\r\n", std::string(3900, 'a')));
  b.send(post("/echo", "Content-Length: 4000\r\n", std::string(3900, 'b')));
  std::this_thread::sleep_for(100ms);
  CHECK(refused_with(running, post("/echo", "Content-Length: 4000\r\n", std::string(4000, 'c'))) ==
        "HTTP/1.1 503");
  CHECK(mentions(a.send(std::string(100, 'a')).read_until(std::string(100, 'a')), "200 OK"));
}

TEST_CASE("the slow are dropped: header, body, reader, idle") {
  HttpLimits limits = small_limits();
  limits.connections = 10;
  limits.header = limits.body = limits.write = limits.idle = 150ms;
  Running running(limits);
  bool closed = false;
  Client(running.port).read_all(&closed);  // nothing sent
  CHECK(closed);
  Client(running.port).send("GET /echo HT").read_all(&closed);
  CHECK(closed);
  Client(running.port).send(post("/echo", "Content-Length: 9\r\n", "abc")).read_all(&closed);
  CHECK(closed);
  Client reader(running.port);
  reader.send(get("/flood"));  // and never reads
  CHECK(comes_true([&] { return running.handler.gone == 1; }));
  CHECK(comes_true([&] { return running.counters().connections == 0; }));
  CHECK(running.counters().dropped == 4);
}

TEST_CASE("a stream's client that stops reading is dropped soon, one that reads slowly is not") {
  HttpLimits limits = small_limits();
  limits.stream_stall = 200ms;  // the limit for a write stays at 30 s, and the stream never fills the buffers
  Running running(limits);
  Client silent(running.port), slow(running.port);
  slow.read_little();
  slow.send(get("/drip"));
  const auto begun = std::chrono::steady_clock::now();
  silent.read_little();
  silent.send(get("/drip"));
  const auto passed = [&] { return std::chrono::steady_clock::now() - begun; };
  while (passed() < 1s || (running.handler.gone == 0 && passed() < 60s)) {
    REQUIRE(slow.read_some());
    std::this_thread::sleep_for(20ms);
  }
  CHECK(running.handler.gone == 1);
  CHECK(running.counters().dropped == 1);
  CHECK(running.counters().connections == 1);
  CHECK(slow.read_some());
}

TEST_CASE("a handler hears at once that its client is gone") {
  Running running;
  auto client = std::make_unique<Client>(running.port);
  client->send(get("/wait"));
  REQUIRE(comes_true([&] { return running.handler.waiting == 1; }));
  client.reset();
  CHECK(comes_true([&] { return running.handler.gone == 1; }));
  CHECK(comes_true([&] { return running.counters().connections == 0; }));
}

TEST_CASE("a handler that fails answers 500 and ends its connection alone") {
  Running running;
  CHECK(refused_with(running, get("/throw")) == "HTTP/1.1 500");
  CHECK(mentions(Client(running.port).send(get("/echo?zebra")).read_until("zebra"), "200 OK"));
}

TEST_CASE("those who send slowly keep nobody out") {
  Running running;
  std::vector<std::unique_ptr<Client>> slow;
  for (int i = 0; i < 3; ++i) {
    slow.push_back(std::make_unique<Client>(running.port));
    slow.back()->send("GET /echo HTTP/1.1\r\nHos");
  }
  REQUIRE(comes_true([&] { return running.counters().connections == 3; }));
  CHECK(mentions(Client(running.port).send(get("/echo?zebra")).read_until("zebra"), "200 OK"));
  bool closed = false;
  slow[0]->read_all(&closed);
  CHECK(closed);
  CHECK(running.counters().refused == 0);
}

TEST_CASE("beyond the limit an idle connection makes room, a busy one does not") {
  Running running;
  Client idle(running.port), busy(running.port), busy_too(running.port);
  busy.send(get("/wait"));
  REQUIRE(comes_true([&] { return running.handler.waiting == 1; }));
  CHECK(mentions(busy_too.send(get("/echo?zebra")).read_until("zebra"), "200 OK"));
  busy_too.send(get("/wait"));
  REQUIRE(comes_true([&] { return running.handler.waiting == 2; }));
  Client fourth(running.port);
  bool closed = false;
  idle.read_all(&closed);
  CHECK(closed);
  fourth.send(get("/wait"));
  REQUIRE(comes_true([&] { return running.handler.waiting == 3; }));
  CHECK(Client(running.port).read_all().substr(0, 12) == "HTTP/1.1 503");
  CHECK(running.counters().refused == 1);
}

TEST_CASE("stopping lets what is under way finish, and no longer than it may") {
  Running running;
  Client idle(running.port), busy(running.port);
  busy.send(get("/wait?answered"));
  REQUIRE(comes_true([&] { return running.handler.waiting == 1; }));
  auto stopped = std::async(std::launch::async, [&] { running.server.stop(5s); });
  bool closed = false;
  idle.read_all(&closed);
  CHECK(closed);
  running.io.call([&] { return running.handler.release(), 0; });
  const std::string text = busy.read_all(&closed);
  CHECK(mentions(text, "answered"));
  CHECK(mentions(text, "Connection: close"));
  stopped.get();

  Running other;
  Client endless(other.port);
  endless.send(get("/wait"));
  REQUIRE(comes_true([&] { return other.handler.waiting == 1; }));
  bool hurried = false;
  other.server.stop(50ms, [&] { hurried = true; });  // the handler does not listen: it is cut off
  CHECK(hurried);
  CHECK(other.handler.gone == 1);
}

}  // namespace shoal::test
