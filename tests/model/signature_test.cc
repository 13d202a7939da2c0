#include "model/signature.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include "base/error.h"
#include "tensor/thread_pool.h"
#include "tests/support/mentions.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace shoal {
namespace {

using namespace shoal::test;

struct Signed {
  Signed() : pool(1) {
    TinyModelOptions options;
    options.n_embd = 64;
    options.n_ff = 96;
    options.n_vocab = 300;
    writer = tiny_model(options);
    path = dir.file("m.gguf");
    writer.write(path);
    key = dir.file("me.key");
    open_key = make_signing_key(key);
    sign();
  }
  void sign() { write_file(path + kSignatureSuffix, with(key)); }
  std::string with(const std::string& private_key) {
    const GgufFile file = GgufFile::open(path);
    return sign_model(file, WeightManifest::of(file, pool), private_key);
  }
  std::string refusal(const std::string& public_key) {
    const GgufFile file = GgufFile::open(path);
    try {
      require_signature(file, WeightManifest::of(file, pool), public_key);
      return "";
    } catch (const SetupError& error) {
      return error.what();
    }
  }
  TempDir dir;
  ThreadPool pool;
  GgufWriter writer;
  std::string path, key, open_key;
};

TEST_CASE_FIXTURE(Signed, "a signature is of one model by one key, and of nothing else") {
  CHECK(refusal(open_key) == "");
  const std::string other = make_signing_key(dir.file("other.key"));
  CHECK(mentions(refusal(other), "was not made with the key of"));
  // A bit of a weight, of the vocabulary, and of what else the header says.
  const std::string whole = read_whole_file(path);
  for (const size_t at : {whole.size() - 1, whole.find("im_start"), whole.find("Tiny llama")}) {
    std::string changed = whole;
    changed[at] = static_cast<char>(changed[at] ^ 1);
    write_file(path, changed);
    CHECK(mentions(refusal(open_key), "is of another model"));
  }
  write_file(path, whole);
  CHECK(refusal(open_key) == "");
}

TEST_CASE_FIXTURE(Signed, "any changed byte of a signature is found") {
  const std::string good = read_whole_file(path + kSignatureSuffix);
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 1);
    write_file(path + kSignatureSuffix, bad);
    CHECK_FALSE(refusal(open_key).empty());
    write_file(path + kSignatureSuffix, good.substr(0, i));
    CHECK_FALSE(refusal(open_key).empty());
  }
  write_file(path + kSignatureSuffix, std::string(100'000, 'x'));
  CHECK(mentions(refusal(open_key), "it is larger than 4.00 KiB"));
  std::remove((path + kSignatureSuffix).c_str());
  CHECK(mentions(refusal(open_key), "cannot read the model's signature"));
}

TEST_CASE_FIXTURE(Signed, "a private key is for its owner's eyes, and never overwritten") {
  struct stat status;
  REQUIRE(::stat(key.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0600);
  const std::string secret = read_whole_file(key);
  CHECK_THROWS_WITH_AS(make_signing_key(key), doctest::Contains("cannot be made"), SetupError);
  CHECK(read_whole_file(key) == secret);
  ::chmod(key.c_str(), 0640);
  CHECK_THROWS_WITH_AS(with(key), doctest::Contains("can be read by others"), SetupError);
  ::chmod(key.c_str(), 0600);
  CHECK_THROWS_WITH_AS(with(open_key), doctest::Contains("read by others"), SetupError);
  ::chmod(open_key.c_str(), 0600);
  CHECK_THROWS_WITH_AS(with(open_key), doctest::Contains("is not a private key"), SetupError);
  CHECK(mentions(refusal(key), "is not a public key"));
  CHECK(mentions(refusal(dir.file("none")), "cannot read a public key"));
  write_file(open_key, secret.substr(0, 40) + "x" + secret.substr(41));
  const std::string said = refusal(open_key);
  CHECK(mentions(said, "is not a public key"));
  CHECK_FALSE(mentions(said, secret.substr(28, 20).c_str()));  // nothing of a key in a message
}

// At each of the three places a FIFO that nobody writes to would be waited for; the test would not end.
TEST_CASE_FIXTURE(Signed,
                  "a FIFO or a folder where a key or a signature belongs is refused, not waited for") {
  const std::string fifo = dir.file("fifo");
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  CHECK_THROWS_WITH_AS(with(fifo), doctest::Contains("cannot read a private key: it is not a regular file"),
                       SetupError);
  CHECK(mentions(refusal(fifo), "cannot read a public key: it is not a regular file"));
  CHECK(mentions(refusal(dir.path()), "cannot read a public key: it is not a regular file"));
  std::remove((path + kSignatureSuffix).c_str());
  REQUIRE(::mkfifo((path + kSignatureSuffix).c_str(), 0600) == 0);
  CHECK(mentions(refusal(open_key), "m.gguf.sig': cannot read the model's signature"));
  CHECK(mentions(refusal(open_key), "it is not a regular file"));
}

}  // namespace
}  // namespace shoal
