#include "node/weight_cache.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>

#include "tests/support/temp_dir.h"

namespace shoal::test {
namespace {

std::vector<std::byte> content(size_t bytes, unsigned seed) {
  std::vector<std::byte> all(bytes);
  for (size_t i = 0; i < bytes; ++i) all[i] = static_cast<std::byte>((i * 31 + seed * 7) & 0xff);
  return all;
}

struct Tensor {
  Tensor(size_t bytes, unsigned seed) : data(content(bytes, seed)), digest(sha256(data)) {}
  std::vector<std::byte> data;
  Sha256 digest;
};

void keep(WeightCache& cache, const Tensor& tensor) {
  auto filling = cache.fill(tensor.digest);
  REQUIRE(filling.has_value());
  REQUIRE((*filling)->append(tensor.data).has_value());
  REQUIRE((*filling)->finish().has_value());
}

std::unique_ptr<WeightCache> open(const std::string& folder, uint64_t bytes_max) {
  Result<std::unique_ptr<WeightCache>> cache = WeightCache::open(folder, bytes_max);
  REQUIRE_MESSAGE(cache.has_value(), cache.error().message);
  return std::move(*cache);
}

void set_age(const WeightCache& cache, const Tensor& tensor, time_t used) {
  const std::string name = to_hex(tensor.digest);
  const timespec times[2] = {{used, 0}, {used, 0}};
  REQUIRE(utimensat(AT_FDCWD, (cache.folder() + "/" + name.substr(0, 2) + "/" + name).c_str(), times, 0) ==
          0);
}

TEST_CASE("a tensor is there when all of it is, for its owner alone, and survives the process") {
  TempDir dir;
  const std::string folder = dir.file("a/b/shards");
  const Tensor tensor(100'000, 1);
  {
    auto cache = open(folder, 1 << 20);
    auto filling = cache->fill(tensor.digest);
    REQUIRE(filling.has_value());
    REQUIRE((*filling)->append(std::span(tensor.data).first(60'000)).has_value());
    CHECK_FALSE(cache->has(tensor.digest, tensor.data.size()));
    CHECK(cache->fill(tensor.digest).error().code == Errc::kQueueFull);
  }
  auto cache = open(folder, 1 << 20);
  auto filling = cache->fill(tensor.digest);
  REQUIRE(filling.has_value());
  CHECK((*filling)->size() == 60'000);
  (*filling)->cut(50'000);
  REQUIRE((*filling)->append(std::span(tensor.data).subspan(50'000)).has_value());
  REQUIRE((*filling)->finish().has_value());
  CHECK(cache->has(tensor.digest, tensor.data.size()));
  CHECK_FALSE(cache->has(tensor.digest, tensor.data.size() + 1));
  std::vector<std::byte> read(1000);
  REQUIRE(cache->read(tensor.digest, 49'500, read));
  CHECK(std::equal(read.begin(), read.end(), tensor.data.begin() + 49'500));
  CHECK_FALSE(cache->read(tensor.digest, 99'500, read));
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    struct stat status;
    REQUIRE(stat(entry.path().c_str(), &status) == 0);
    CHECK((status.st_mode & 0077) == 0);
  }
  // Another filling of what has got its name begins with nothing.
  auto again = cache->fill(tensor.digest);
  REQUIRE(again.has_value());
  CHECK((*again)->size() == 0);
  (*again)->discard();
}

TEST_CASE("the longest unused goes first, what is in use stays, the bound holds") {
  TempDir dir;
  auto cache = open(dir.file("shards"), 300'000);
  const Tensor a(100'000, 1), b(100'000, 2), c(100'000, 3), d(100'000, 4);
  keep(*cache, a);
  keep(*cache, b);
  CHECK(cache->make_room(100'000) == 100'000);
  CHECK(cache->has(a.digest, 100'000));
  keep(*cache, c);
  set_age(*cache, a, 3000);
  set_age(*cache, b, 1000);
  set_age(*cache, c, 2000);
  CHECK(cache->make_room(100'000) == 100'000);
  CHECK(cache->has(a.digest, 100'000));
  CHECK_FALSE(cache->has(b.digest, 100'000));
  CHECK(cache->has(c.digest, 100'000));
  keep(*cache, d);
  // Another process, here another cache of the same folder, uses c: the oldest, and kept.
  {
    auto other = open(dir.file("shards"), 300'000);
    other->use({c.digest});
    set_age(*cache, c, 1);
    CHECK(cache->make_room(250'000) == 200'000);
    CHECK(cache->has(c.digest, 100'000));
    CHECK_FALSE(cache->has(a.digest, 100'000));
    CHECK_FALSE(cache->has(d.digest, 100'000));
    other->use({});
    CHECK(cache->make_room(250'000) == 250'000);
    CHECK_FALSE(cache->has(c.digest, 100'000));
  }
  cache->use({a.digest});
  keep(*cache, a);
  CHECK(cache->make_room(300'000) == 200'000);  // its own use counts as well
  CHECK(cache->make_room(1) == 1);
}

TEST_CASE("a process that died uses nothing any more") {
  TempDir dir;
  auto cache = open(dir.file("shards"), 150'000);
  const Tensor a(100'000, 1);
  keep(*cache, a);
  const pid_t child = fork();
  if (child == 0) {
    WeightCache* other = WeightCache::open(dir.file("shards"), 150'000)->release();
    other->use({a.digest});
    _exit(0);  // without a destructor, as if killed
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(cache->make_room(100'000) == 100'000);
  CHECK_FALSE(cache->has(a.digest, 100'000));
}

TEST_CASE("a disk that takes no more is an error of the write, and nothing is left half written") {
  TempDir dir;
  const Tensor tensor(100'000, 1);
  const pid_t child = fork();  // the limit is the whole process's
  if (child == 0) {
    const rlimit limit{40'000, 40'000};
    std::signal(SIGXFSZ, SIG_IGN);  // as run_cli() does
    setrlimit(RLIMIT_FSIZE, &limit);
    Result<std::unique_ptr<WeightCache>> cache = WeightCache::open(dir.file("shards"), 1 << 20);
    if (cache.has_error()) _exit(1);
    auto filling = (*cache)->fill(tensor.digest);
    if (filling.has_error()) _exit(2);
    if ((*filling)->append(std::span(tensor.data).first(30'000)).has_error()) _exit(3);
    const Result<void> refused = (*filling)->append(std::span(tensor.data).first(30'000));
    if (!refused.has_error() || refused.error().code != Errc::kIo) _exit(4);
    if ((*filling)->size() != 30'000) _exit(5);
    _exit(0);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  auto cache = open(dir.file("shards"), 1 << 20);
  auto filling = cache->fill(tensor.digest);
  REQUIRE(filling.has_value());
  CHECK((*filling)->size() == 30'000);
}

TEST_CASE("a folder that cannot be made or written to is named") {
  TempDir dir;
  write_file(dir.file("file"), "x");
  const Result<std::unique_ptr<WeightCache>> cache = WeightCache::open(dir.file("file/shards"), 0);
  REQUIRE(cache.has_error());
  CHECK(cache.error().message.find(dir.file("file/shards")) != std::string::npos);
  auto good = open(dir.file("shards"), 0);
  CHECK(good->bytes_max() > 0);  // chosen from the disk
}

TEST_CASE("a folder that a person removes is made again, and what is in use stays protected") {
  TempDir dir;
  const std::string folder = dir.file("home/shards");
  auto cache = open(folder, 150'000);
  const Tensor a(100'000, 1), b(100'000, 2);
  keep(*cache, a);
  cache->use({a.digest});
  std::filesystem::remove_all(dir.file("home"));
  CHECK_FALSE(cache->has(a.digest, 100'000));
  keep(*cache, a);
  CHECK(cache->has(a.digest, 100'000));
  cache->use({a.digest});
  auto other = open(folder, 150'000);
  CHECK(other->make_room(100'000) == 50'000);  // it is seen to be in use
  CHECK(cache->has(a.digest, 100'000));
  std::filesystem::remove_all(dir.file("home"));
  cache->use({b.digest});
  keep(*other, b);
  CHECK(other->make_room(150'000) == 50'000);
  std::filesystem::remove_all(dir.file("home"));
  write_file(dir.file("home"), "a file in its place");
  const auto filling = cache->fill(a.digest);
  REQUIRE(filling.has_error());
  CHECK(filling.error().message.find(folder) != std::string::npos);
}

TEST_CASE("a directory in the place of a tensor is moved away, with what is in it") {
  TempDir dir;
  auto cache = open(dir.file("shards"), 1 << 20);
  unsigned seed = 0;
  for (const char* ending : {"", ".partial"}) {
    for (const bool empty : {true, false}) {
      const Tensor tensor(1000, ++seed);
      const std::string name = to_hex(tensor.digest), place = cache->folder() + "/" + name.substr(0, 2) + "/";
      std::filesystem::create_directories(place + name + ending);
      if (!empty) write_file(place + name + ending + "/precious", "mine");
      CHECK_FALSE(cache->has(tensor.digest, 1000));
      auto filling = cache->fill(tensor.digest);
      REQUIRE(filling.has_value());
      REQUIRE((*filling)->append(tensor.data).has_value());
      CHECK((*filling)->finish().has_value());
      CHECK(cache->has(tensor.digest, 1000));
      CHECK(std::filesystem::exists(place + name + ending + ".aside/precious") == !empty);
    }
  }
}

TEST_CASE("links and strangers' files in the folder are left alone") {
  TempDir dir;
  auto cache = open(dir.file("shards"), 1000);
  const Tensor tensor(100'000, 1);
  const std::string name = to_hex(tensor.digest), place = cache->folder() + "/" + name.substr(0, 2);
  write_file(dir.file("precious"), std::string(100'000, 'p'));
  std::filesystem::create_directory(place);
  std::filesystem::create_symlink(dir.file("precious"), place + "/" + name);
  std::filesystem::create_symlink(dir.file("precious"), place + "/" + name + ".partial");
  write_file(place + "/notes.txt", "mine");
  std::byte one;
  CHECK_FALSE(cache->read(tensor.digest, 0, {&one, 1}));
  cache->mend(tensor.digest, 0, tensor.data);
  CHECK(cache->fill(tensor.digest).has_error());
  CHECK(cache->make_room(1000) == 1000);
  CHECK(read_whole_file(dir.file("precious")) == std::string(100'000, 'p'));
  CHECK(std::filesystem::exists(place + "/notes.txt"));
}

}  // namespace
}  // namespace shoal::test
