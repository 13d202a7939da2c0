#include "model/signature.h"

#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "base/error.h"
#include "base/printable.h"
#include "base/small_file.h"
#include "model/gguf_reader.h"

namespace shoal {
namespace {

constexpr size_t kTextBytesMax = 4096;  // of a key or a signature
constexpr size_t kSignatureBytes = 64;  // RFC 8032, section 5.1.6
constexpr const char* kTitle = "shoal model signature 1\n";
constexpr const char* kSignatureLine = "ed25519 ";

using KeyPtr = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;
using BioPtr = std::unique_ptr<BIO, decltype(&BIO_free)>;
using ContextPtr = std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)>;

// OpenSSL's own words stay out: they may quote what was read.
[[noreturn]] void fail(const std::string& path, const std::string& problem) {
  ERR_clear_error();
  throw SetupError(in_quotes(path, 4096) + ": " + problem);
}

// `for_owner`: refused where others may read it.
std::string read_small(const std::string& path, const char* what, bool for_owner) {
  Result<SmallFile> read = read_small_file(path, kTextBytesMax);
  if (read.has_error()) fail(path, std::string("cannot read ") + what + ": " + read.error().message);
  if (for_owner && !read->is_private) fail(path, "this private key can be read by others: chmod 600 it");
  return std::move(read->text);
}

KeyPtr read_key(const std::string& path, bool private_key) {
  const char* const what = private_key ? "a private key" : "a public key";
  std::string text = read_small(path, what, private_key);
  const BioPtr bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())), BIO_free);
  // No prompt for a passphrase: an empty one is given.
  KeyPtr key(private_key ? PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, const_cast<char*>(""))
                         : PEM_read_bio_PUBKEY(bio.get(), nullptr, nullptr, const_cast<char*>("")),
             EVP_PKEY_free);
  OPENSSL_cleanse(text.data(), text.size());
  if (!key || EVP_PKEY_get_base_id(key.get()) != EVP_PKEY_ED25519)
    fail(path, std::string("is not ") + what +
                   " of Ed25519 in PEM without a passphrase (shoal sign --new-key makes one)");
  return key;
}

// Writes a file that is not there yet.
void write_new(const std::string& path, const BioPtr& bio, mode_t mode) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
  if (fd < 0) fail(path, std::string("cannot be made: ") + std::strerror(errno));
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  const bool written = ::write(fd, data, static_cast<size_t>(size)) == size;
  if (::close(fd) != 0 || !written) fail(path, std::string("cannot be written: ") + std::strerror(errno));
}

// What is signed.
std::string statement(const GgufFile& file, const WeightManifest& manifest) {
  return std::string(kTitle) + "weights " + manifest.digest() + "\nfile " + file.fingerprint() + "\n";
}

std::string hex_of(const unsigned char* bytes, size_t n) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (size_t i = 0; i < n; ++i) {
    text += kDigits[bytes[i] >> 4];
    text += kDigits[bytes[i] & 15];
  }
  return text;
}

bool bytes_of(std::string_view text, unsigned char* out, size_t n) {
  const auto digit = [](char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
  };
  if (text.size() != 2 * n) return false;
  for (size_t i = 0; i < n; ++i) {
    const int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);
    if (high < 0 || low < 0) return false;
    out[i] = static_cast<unsigned char>(high << 4 | low);
  }
  return true;
}

}  // namespace

std::string make_signing_key(const std::string& path) {
  const KeyPtr key(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"), EVP_PKEY_free);
  const BioPtr secret(BIO_new(BIO_s_secmem()), BIO_free), open(BIO_new(BIO_s_mem()), BIO_free);
  if (!key ||
      PEM_write_bio_PKCS8PrivateKey(secret.get(), key.get(), nullptr, nullptr, 0, nullptr, nullptr) != 1 ||
      PEM_write_bio_PUBKEY(open.get(), key.get()) != 1) {
    fail(path, "no key could be made");
  }
  write_new(path, secret, 0600);
  write_new(path + ".pub", open, 0644);
  return path + ".pub";
}

std::string sign_model(const GgufFile& file, const WeightManifest& manifest, const std::string& key_path) {
  const KeyPtr key = read_key(key_path, true);
  const std::string text = statement(file, manifest);
  unsigned char signature[kSignatureBytes];
  size_t size = sizeof signature;
  const ContextPtr context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  if (EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr, key.get()) != 1 ||
      EVP_DigestSign(context.get(), signature, &size, reinterpret_cast<const unsigned char*>(text.data()),
                     text.size()) != 1 ||
      size != kSignatureBytes) {
    fail(key_path, "signing failed");
  }
  return text + kSignatureLine + hex_of(signature, size) + "\n";
}

void require_signature(const GgufFile& file, const WeightManifest& manifest,
                       const std::string& public_key_path) {
  const std::string path = file.path() + kSignatureSuffix;
  const KeyPtr key = read_key(public_key_path, false);
  const std::string text =
      read_small(path, "the model's signature, which is asked for (shoal sign makes it)", false);
  const std::string said = statement(file, manifest);
  if (!text.starts_with(kTitle)) fail(path, "is not a signature of a model");
  const size_t at = text.rfind(kSignatureLine);
  unsigned char signature[kSignatureBytes];
  if (at == std::string::npos || !text.ends_with('\n') ||
      !bytes_of(std::string_view(text).substr(at + std::strlen(kSignatureLine),
                                              text.size() - at - std::strlen(kSignatureLine) - 1),
                signature, sizeof signature)) {
    fail(path, "is not a signature of a model: its last line is damaged");
  }
  const std::string signed_text = text.substr(0, at);
  const ContextPtr context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  const bool by_owner =
      EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key.get()) == 1 &&
      EVP_DigestVerify(context.get(), signature, sizeof signature,
                       reinterpret_cast<const unsigned char*>(signed_text.data()), signed_text.size()) == 1;
  if (!by_owner) fail(path, "was not made with the key of " + in_quotes(public_key_path, 4096));
  if (signed_text != said) {
    fail(path, "is of another model: " + in_quotes(file.path(), 4096) +
                   " was changed since it was signed, or is another file; fetch it again or sign it anew");
  }
}

}  // namespace shoal
