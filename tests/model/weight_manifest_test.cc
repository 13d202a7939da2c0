#include "model/weight_manifest.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <random>
#include <thread>

#include "base/error.h"
#include "tensor/thread_pool.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace shoal::test {
namespace {

std::string problem(std::vector<std::byte> bytes) {
  try {
    (void)WeightManifest::parse(std::move(bytes), "m.gguf");
  } catch (const SetupError& error) {
    return error.what();
  }
  return "";
}

std::vector<std::byte> copy_of(const WeightManifest& manifest) {
  return {manifest.bytes().begin(), manifest.bytes().end()};
}

// A time of the last change that is long past, and one of the inode's, which nobody can set, that is over: so
// that a manifest may be kept.
void age(const std::string& path) {
  const timespec times[2] = {{1'000'000'000, 0}, {1'000'000'000, 0}};
  REQUIRE(utimensat(AT_FDCWD, path.c_str(), times, 0) == 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(120));
}

struct Model {
  explicit Model(TinyModelOptions options = {}) {
    write_tiny_model(path, options);
    age(path);
    file = GgufFile::open(path);
  }
  TempDir dir;
  std::string path = dir.file("tiny.gguf");
  GgufFile file;
  ThreadPool pool{2};
};

TEST_CASE("a digest is SHA-256's") {
  CHECK(sha256_hex("abc") ==
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");  // FIPS 180-4
  CHECK(to_hex(*sha256_from_hex(sha256_hex("x"))) == sha256_hex("x"));
  CHECK_FALSE(sha256_from_hex(sha256_hex("x").substr(1)));
  CHECK_FALSE(sha256_from_hex(std::string(64, 'G')));
}

TEST_CASE("a manifest describes every tensor and vouches for every block, and for nothing else") {
  TinyModelOptions options;
  options.type = TensorType::kQ4_0;
  options.n_vocab = 2000;  // an embedding of several blocks
  Model model(options);
  const WeightManifest manifest = WeightManifest::of(model.file, model.pool);
  REQUIRE(manifest.size() == model.file.tensors().size());
  uint64_t several = 0;
  for (size_t i = 0; i < manifest.size(); ++i) {
    const TensorInfo& tensor = model.file.tensors()[i];
    CHECK(manifest.tensor(i).name == tensor.name);
    CHECK(manifest.tensor(i).dims == tensor.dims);
    CHECK(manifest.tensor(i).type == tensor.type);
    CHECK(manifest.tensor(i).bytes == tensor.bytes);
    CHECK(manifest.find(tensor.name) == i);
    uint64_t end = 0;
    several += block_count(tensor) > 1;
    for (uint64_t block = 0; block < block_count(tensor); ++block) {
      std::vector<std::byte> bytes(bytes_of_block(tensor, block));
      model.file.read(tensor, end, bytes);
      end += bytes.size();
      CHECK(manifest.vouches_for(i, block, bytes));
      bytes.back() ^= std::byte{1};
      CHECK_FALSE(manifest.vouches_for(i, block, bytes));
      bytes.pop_back();
      CHECK_FALSE(manifest.vouches_for(i, block, bytes));
    }
    CHECK(end == tensor.bytes);
  }
  CHECK(several > 0);
  CHECK_FALSE(manifest.find("nobody.weight"));
  // The header is all that a worker needs, without the tokenizer and without the weights.
  CHECK(manifest.model().find("tokenizer.ggml.tokens") == nullptr);
  CHECK(manifest.model().get_string("general.architecture") == "llama");
  std::byte one;
  CHECK_THROWS_WITH_AS(manifest.model().read(manifest.tensor(0), 0, {&one, 1}),
                       doctest::Contains("only the header"), SetupError);
  const WeightManifest again = WeightManifest::parse(copy_of(manifest), "m.gguf");
  CHECK(again.digest() == manifest.digest());
  CHECK(again.tensor_digest(3) == manifest.tensor_digest(3));
}

TEST_CASE("how the file is split does not matter, any bit of a tensor does") {
  TempDir dir;
  GgufWriter writer = tiny_model({});
  writer.write(dir.file("whole.gguf"));
  const std::vector<std::string> parts = writer.write_split(dir.file("split"), 3);
  ThreadPool pool(1);
  const WeightManifest whole = WeightManifest::of(GgufFile::open(dir.file("whole.gguf")), pool);
  CHECK(WeightManifest::of(GgufFile::open(parts[0]), pool).digest() == whole.digest());
  writer.tensors.back().data.back() ^= 1;
  writer.write(dir.file("other.gguf"));
  const WeightManifest other = WeightManifest::of(GgufFile::open(dir.file("other.gguf")), pool);
  CHECK(other.digest() != whole.digest());
  CHECK(other.tensor_digest(other.size() - 1) != whole.tensor_digest(whole.size() - 1));
  CHECK(other.tensor_digest(0) == whole.tensor_digest(0));
}

TEST_CASE("a manifest that lies is refused by name, whatever its bytes") {
  Model model;
  const WeightManifest manifest = WeightManifest::of(model.file, model.pool);
  const std::vector<std::byte> good = copy_of(manifest);
  CHECK(problem(good) == "");
  for (size_t n = 0; n < good.size(); n += n < 4096 ? 1 : 509) {
    CHECK(problem({good.begin(), good.begin() + static_cast<ptrdiff_t>(n)}) != "");
  }
  const auto with = [&](size_t at, uint64_t value) {
    std::vector<std::byte> bytes = good;
    std::memcpy(bytes.data() + at, &value, sizeof value);
    return problem(std::move(bytes));
  };
  for (const uint64_t value :
       {uint64_t{0}, uint64_t{1} << 32, uint64_t{1} << 61, UINT64_MAX, UINT64_MAX - 7}) {
    CHECK(with(0, value) != "");
    CHECK(with(8, value) != "");                                   // the header's size
    CHECK(with(16, value == UINT64_MAX ? 0 : value >> 40) != "");  // the file's: tensors lie outside
    CHECK(with(24, value) != "");                                  // the digests' number
  }
  std::vector<std::byte> longer = good;
  longer.resize(longer.size() + 32);
  CHECK(problem(longer).find("claims") != std::string::npos);
  // Anything may be said, but nothing crashes.
  std::mt19937 random(20261128);
  for (int i = 0; i < 3000; ++i) {
    std::vector<std::byte> bytes = good;
    for (int k = 0; k < 4; ++k) bytes[random() % bytes.size()] = static_cast<std::byte>(random());
    (void)problem(std::move(bytes));
  }
}

TEST_CASE("a huge tensor in a small manifest allocates nothing and is refused") {
  TempDir dir;
  GgufWriter writer = tiny_model({});
  Model model;
  WeightManifest manifest = WeightManifest::of(model.file, model.pool);
  std::vector<std::byte> bytes = copy_of(manifest);
  // The first tensor's first dimension becomes 2^50 elements of one row, in a file said to be large enough.
  const std::string name = manifest.tensor(0).name;
  const auto at = std::search(bytes.begin(), bytes.end(), reinterpret_cast<const std::byte*>(name.data()),
                              reinterpret_cast<const std::byte*>(name.data()) + name.size());
  REQUIRE(at != bytes.end());
  const uint64_t size = uint64_t{1} << 50, file = uint64_t{1} << 62, one = 1;
  std::memcpy(&*at + name.size() + 4, &size, 8);
  std::memcpy(&*at + name.size() + 12, &one, 8);
  std::memcpy(bytes.data() + 16, &file, 8);
  CHECK(problem(bytes) != "");
}

TEST_CASE("a kept manifest serves until the file changes, and damage to it is noticed") {
  Model model;
  const std::string folder = model.dir.file("manifests");
  int read = 0;
  const auto progress = [&](uint64_t, uint64_t) { ++read; };
  ThreadPool pool(1);
  const std::string digest = manifest_of(model.file, folder, pool, progress).digest();
  CHECK(read > 0);
  const std::string kept = std::filesystem::directory_iterator(folder)->path().string();
  struct stat status;
  REQUIRE(stat(kept.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0600);
  REQUIRE(stat(folder.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0700);
  read = 0;
  CHECK(manifest_of(model.file, folder, pool, progress).digest() == digest);
  CHECK(read == 0);
  // A folder that was open to others is closed to them, and a file that others could write is not believed.
  REQUIRE(::chmod(folder.c_str(), 0777) == 0);
  REQUIRE(::chmod(kept.c_str(), 0666) == 0);
  CHECK(manifest_of(model.file, folder, pool, progress).digest() == digest);
  CHECK(read > 0);
  REQUIRE(stat(folder.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0700);
  REQUIRE(stat(kept.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0600);
  // Where a link leads (to /etc, say) stays as it is, and nothing is kept there.
  const std::string elsewhere = model.dir.file("elsewhere"), link = model.dir.file("link");
  REQUIRE(::mkdir(elsewhere.c_str(), 0755) == 0);
  REQUIRE(::chmod(elsewhere.c_str(), 0755) == 0);
  REQUIRE(::symlink(elsewhere.c_str(), link.c_str()) == 0);
  CHECK(manifest_of(model.file, link, pool, progress).digest() == digest);
  REQUIRE(stat(elsewhere.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0755);
  CHECK(std::filesystem::is_empty(elsewhere));
  std::string bytes = read_whole_file(kept);
  for (const size_t at : {size_t{0}, bytes.size() / 2, bytes.size() - 1}) {
    std::string bad = bytes;
    bad[at] = static_cast<char>(bad[at] ^ 4);
    write_file(kept, bad);
    read = 0;
    CHECK(manifest_of(model.file, folder, pool, progress).digest() == digest);
    CHECK(read > 0);
  }
  // A bit flipped in place, with the size and, were it not for the time, everything else as before.
  std::string changed = read_whole_file(model.path);
  changed.back() = static_cast<char>(changed.back() ^ 1);
  write_file(model.path, changed);
  CHECK_THROWS_WITH_AS(model.file.require_unchanged(), doctest::Contains("was changed while"), SetupError);
  CHECK_THROWS_AS(WeightManifest::of(model.file, pool), SetupError);
  const GgufFile now = GgufFile::open(model.path);
  CHECK(now.stamp() == "");  // too new: its time may not tell a further change
  CHECK(manifest_of(now, folder, pool, progress).digest() != digest);
  CHECK(manifest_of(now, "", pool).digest() != digest);
  CHECK(manifest_of(now, "/proc/no/such/folder", pool).digest() != digest);
  age(model.path);  // the very time that it had before
  const GgufFile disguised = GgufFile::open(model.path);
  CHECK(disguised.stamp() != "");
  CHECK(manifest_of(disguised, folder, pool, progress).digest() != digest);
}

}  // namespace
}  // namespace shoal::test
