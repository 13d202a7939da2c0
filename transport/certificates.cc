#include "transport/certificates.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <utility>

#include "base/directory_lock.h"
#include "base/small_file.h"

namespace shoal {
namespace {

template <auto Free>
struct Freeing {
  template <class T>
  void operator()(T* p) const {
    Free(p);
  }
};
using Bio = std::unique_ptr<BIO, Freeing<BIO_free>>;
using Request = std::unique_ptr<X509_REQ, Freeing<X509_REQ_free>>;
using Key = std::unique_ptr<EVP_PKEY, Freeing<EVP_PKEY_free>>;

constexpr long kBackdateSeconds = 24 * 3600;  // clocks of small devices differ, and some start in the past
constexpr int kNameBytesOfX509 = 64;          // ub-common-name of RFC 5280
constexpr const char* kHeadUnit = "head";     // OU of the head's certificate
constexpr const char* kKindOfKey = "EC on prime256v1";  // as OpenSSL calls P-256
constexpr size_t kPemBytesMax = 1 << 20;                // of a file with keys and certificates

// OpenSSL's reason for its last failure; its queue of errors is empty afterwards.
std::string openssl_reason() {
  const unsigned long code = ERR_get_error();
  ERR_clear_error();
  const char* reason = code == 0 ? nullptr : ERR_reason_error_string(code);
  return reason == nullptr ? "unknown reason" : reason;
}

// What only fails for want of memory or of a working OpenSSL.
void require(bool done, const char* doing) {
  if (!done) throw SetupError(fmt::format("{} failed: {}", doing, openssl_reason()), kExitFailed);
}

std::string text_of(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  return std::string(data, static_cast<size_t>(size));
}

// OpenSSL would ask for one at the terminal, and so wait for ever in a service.
int no_passphrase(char*, int, int, void*) {
  return -1;
}

// At most kPemBytesMax of it: then OpenSSL finds that its end is missing.
Bio reading(const std::string& text) {
  Bio bio(BIO_new_mem_buf(text.data(), static_cast<int>(std::min(text.size(), kPemBytesMax))));
  require(bio != nullptr, "reading a certificate");
  return bio;
}

std::string write_certificate(X509* certificate) {
  const Bio bio(BIO_new(BIO_s_mem()));
  require(bio && PEM_write_bio_X509(bio.get(), certificate) == 1, "writing a certificate");
  return text_of(bio.get());
}

// One attribute of a subject, as UTF-8; empty where it is missing or has a zero byte in it.
std::string attribute(X509_NAME* name, int nid) {
  const int index = X509_NAME_get_index_by_NID(name, nid, -1);
  if (index < 0) return {};
  unsigned char* utf8 = nullptr;
  const int size = ASN1_STRING_to_UTF8(&utf8, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, index)));
  if (size < 0) return {};
  std::string text(reinterpret_cast<char*>(utf8), static_cast<size_t>(size));
  OPENSSL_free(utf8);
  return text.find('\0') == std::string::npos ? text : std::string();
}

// "EC on prime256v1", "ED25519", "RSA"
std::string kind_of_key(EVP_PKEY* key) {
  const char* const type = EVP_PKEY_get0_type_name(key);
  char curve[64];
  size_t size = 0;
  const bool on_curve = EVP_PKEY_get_group_name(key, curve, sizeof curve, &size) == 1;
  ERR_clear_error();  // a type of key that has no curve
  std::string kind = type == nullptr ? "of an unknown type" : type;
  return on_curve ? kind + " on " + curve : kind;
}

void set_name(X509_NAME* name, const std::string& node, const std::string& cluster,
              const std::string& unit = {}) {
  auto add = [&](const char* field, const std::string& value) {
    if (value.empty()) return;
    if (value.size() > kNameBytesOfX509) {
      throw SetupError(
          fmt::format("'{}' has {} bytes: names of nodes and clusters have at most {} (or use --insecure)",
                      value, value.size(), kNameBytesOfX509));
    }
    require(X509_NAME_add_entry_by_txt(name, field, MBSTRING_UTF8,
                                       reinterpret_cast<const unsigned char*>(value.data()),
                                       static_cast<int>(value.size()), -1, 0) == 1,
            "naming a certificate");
  };
  add("O", cluster);
  add("OU", unit);
  add("CN", node);
}

void add_extension(X509* certificate, X509* issuer, int nid, const char* value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, nid, value);
  require(extension != nullptr, "extending a certificate");
  const bool added = X509_add_ext(certificate, extension, -1) == 1;
  X509_EXTENSION_free(extension);
  require(added, "extending a certificate");
}

// A certificate of `subject` with a random serial number and a lifetime, not yet signed.
Certificate new_certificate(EVP_PKEY* subject, const std::string& node, const std::string& cluster,
                            std::chrono::seconds life, const std::string& unit = {}) {
  Certificate certificate(X509_new());
  unsigned char serial[16];
  require(certificate && RAND_bytes(serial, sizeof serial) == 1, "making a certificate");
  serial[0] &= 0x7f;  // positive
  BIGNUM* number = BN_bin2bn(serial, sizeof serial, nullptr);
  const bool numbered =
      number && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate.get())) != nullptr;
  BN_free(number);
  require(numbered && X509_set_version(certificate.get(), X509_VERSION_3) == 1 &&
              X509_gmtime_adj(X509_getm_notBefore(certificate.get()), -kBackdateSeconds) != nullptr &&
              X509_time_adj_ex(X509_getm_notAfter(certificate.get()), 0, life.count(), nullptr) != nullptr &&
              X509_set_pubkey(certificate.get(), subject) == 1,
          "making a certificate");
  set_name(X509_get_subject_name(certificate.get()), node, cluster, unit);
  return certificate;
}

std::string read_file(const std::string& path) {
  Result<SmallFile> read = read_small_file(path, kPemBytesMax);
  if (read.has_error()) throw SetupError(fmt::format("cannot read {}: {}", path, read.error().message));
  return std::move(read->text);
}

// A new file with a mode of its own from the first byte on; whole or not there at all.
void write_file(const std::string& path, const std::string& text, mode_t mode) {
  const std::string partial = path + ".partial";
  ::unlink(partial.c_str());
  const int fd = ::open(partial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
  const ssize_t bytes = fd >= 0 ? ::write(fd, text.data(), text.size()) : -1;
  if (bytes >= 0 && bytes < static_cast<ssize_t>(text.size())) errno = ENOSPC;
  bool written = bytes == static_cast<ssize_t>(text.size()) && ::fsync(fd) == 0;
  const int reason = errno;
  if (fd >= 0) ::close(fd);
  if (written) written = ::rename(partial.c_str(), path.c_str()) == 0;
  if (!written) {
    ::unlink(partial.c_str());
    throw SetupError(fmt::format("cannot write {}: {}", path, std::strerror(reason)), kExitFailed);
  }
}

// With the folders above it that are missing: they are as private, whatever the umask, since who can write to
// one of them can put another directory there. Those that are there already stay as they are.
void make_private_directory(const std::filesystem::path& directory) {
  std::error_code failed;
  const std::filesystem::path above = directory.parent_path();
  if (!above.empty() && above != directory && !std::filesystem::exists(above, failed))
    make_private_directory(above);
  failed.clear();
  if (::mkdir(directory.c_str(), 0700) == 0) {
    std::filesystem::permissions(directory, std::filesystem::perms::owner_all, failed);
  } else if (errno != EEXIST) {
    failed.assign(errno, std::generic_category());
  }
  if (failed)
    throw SetupError(fmt::format("cannot make {}: {}", directory.string(), failed.message()), kExitFailed);
}

// False where there is no such file.
bool is_kept_private(const std::string& path, const char* danger) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) return false;
  if ((status.st_mode & 077) == 0) return true;
  throw SetupError(
      fmt::format("{} can be read by others, who could then {}: chmod 600 {}", path, danger, path));
}

}  // namespace

void FreeCertificate::operator()(x509_st* certificate) const {
  X509_free(certificate);
}

Certificate read_certificate(const std::string& pem, const std::string& source) {
  Certificate certificate(PEM_read_bio_X509(reading(pem).get(), nullptr, no_passphrase, nullptr));
  if (!certificate)
    throw SetupError(fmt::format("{}: no certificate in PEM form: {}", source, openssl_reason()));
  ERR_clear_error();
  return certificate;
}

CertificateInfo certificate_info(const std::string& pem, const std::string& source) {
  return certificate_info(read_certificate(pem, source).get());
}

CertificateInfo certificate_info(x509_st* certificate) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  require(X509_digest(certificate, EVP_sha256(), digest, &size) == 1, "hashing a certificate");
  CertificateInfo info;
  X509_NAME* subject = X509_get_subject_name(certificate);
  info.node = attribute(subject, NID_commonName);
  info.cluster = attribute(subject, NID_organizationName);
  for (unsigned int i = 0; i < size; ++i) info.fingerprint += fmt::format("{:02x}", digest[i]);
  info.head = attribute(subject, NID_organizationalUnitName) == kHeadUnit;
  std::tm time{};
  if (ASN1_TIME_to_tm(X509_get0_notBefore(certificate), &time) == 1)
    info.issued_s = timegm(&time) + kBackdateSeconds;
  if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &time) == 1) info.expires_s = timegm(&time);
  return info;
}

std::string dates_and_clock(const CertificateInfo& certificate) {
  const auto date = [](int64_t time_s) {
    std::tm time{};
    const auto unix_time = static_cast<std::time_t>(time_s);
    ::gmtime_r(&unix_time, &time);
    char text[32];
    const size_t size = std::strftime(text, sizeof text, "%Y-%m-%d %H:%M", &time);
    return std::string(text, size);
  };
  return fmt::format("it is valid from {} to {}, and this device's clock says {} (UTC)",
                     date(certificate.issued_s - kBackdateSeconds), date(certificate.expires_s),
                     date(std::time(nullptr)));
}

NodeKey::NodeKey(EVP_PKEY* key) : key_(key, EVP_PKEY_free) {}

NodeKey NodeKey::create() {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  require(key != nullptr, "making a key");
  return NodeKey(key);
}

NodeKey NodeKey::from_pem(const std::string& pem, const std::string& source) {
  EVP_PKEY* key = PEM_read_bio_PrivateKey(reading(pem).get(), nullptr, no_passphrase, nullptr);
  if (key == nullptr) {
    throw SetupError(
        fmt::format("{}: no private key in PEM form without a passphrase: {}", source, openssl_reason()));
  }
  ERR_clear_error();
  NodeKey read(key);
  if (const std::string kind = kind_of_key(key); kind != kKindOfKey) {
    throw SetupError(
        fmt::format("{}: this key is {}, and what belongs there is {}, as openssl genpkey -algorithm EC "
                    "-pkeyopt ec_paramgen_curve:P-256 makes it, with a certificate of just that key",
                    source, kind, kKindOfKey));
  }
  return read;
}

std::string NodeKey::pem() const {
  const Bio bio(BIO_new(BIO_s_mem()));
  require(bio && PEM_write_bio_PrivateKey(bio.get(), key_.get(), nullptr, nullptr, 0, nullptr, nullptr) == 1,
          "writing a key");
  return text_of(bio.get());
}

std::string NodeKey::request(const std::string& node, const std::string& cluster) const {
  const Request request(X509_REQ_new());
  require(request && X509_REQ_set_pubkey(request.get(), key_.get()) == 1, "making a certificate request");
  set_name(X509_REQ_get_subject_name(request.get()), node, cluster);
  const Bio bio(BIO_new(BIO_s_mem()));
  require(X509_REQ_sign(request.get(), key_.get(), EVP_sha256()) > 0 && bio &&
              PEM_write_bio_X509_REQ(bio.get(), request.get()) == 1,
          "making a certificate request");
  return text_of(bio.get());
}

namespace {

Result<Request> read_request(const std::string& request) {
  if (request.size() > kRequestBytesMax)
    return Error{Errc::kInvalidInput, "a certificate request of that size"};
  Request parsed(PEM_read_bio_X509_REQ(reading(request).get(), nullptr, no_passphrase, nullptr));
  EVP_PKEY* subject = parsed ? X509_REQ_get0_pubkey(parsed.get()) : nullptr;
  if (subject == nullptr || X509_REQ_verify(parsed.get(), subject) != 1) {
    return Error{Errc::kInvalidInput,
                 "no certificate request, or one whose signature does not hold: " + openssl_reason()};
  }
  if (const std::string kind = kind_of_key(subject); kind != kKindOfKey) {
    return Error{Errc::kInvalidInput,
                 fmt::format("a certificate request of a key that is {}: a node's is {}", kind, kKindOfKey)};
  }
  return parsed;
}

}  // namespace

Result<std::string> requested_name(const std::string& request) {
  const Result<Request> parsed = read_request(request);
  if (parsed.has_error()) return parsed.error();
  return attribute(X509_REQ_get_subject_name(parsed->get()), NID_commonName);
}

CertificateAuthority::CertificateAuthority(NodeKey key, std::string certificate, std::string cluster)
    : key_(std::move(key)), certificate_(std::move(certificate)), cluster_(std::move(cluster)) {}

CertificateAuthority CertificateAuthority::create(const std::string& cluster) {
  NodeKey key = NodeKey::create();
  const Certificate certificate =
      new_certificate(key.handle(), "authority of " + cluster, cluster, std::chrono::days(kAuthorityDays));
  X509* self = certificate.get();
  require(X509_set_issuer_name(self, X509_get_subject_name(self)) == 1, "making an authority");
  add_extension(self, self, NID_basic_constraints, "critical,CA:TRUE,pathlen:0");
  add_extension(self, self, NID_key_usage, "critical,keyCertSign,cRLSign");
  add_extension(self, self, NID_subject_key_identifier, "hash");
  require(X509_sign(self, key.handle(), EVP_sha256()) > 0, "making an authority");
  return CertificateAuthority(std::move(key), write_certificate(self), cluster);
}

CertificateAuthority CertificateAuthority::in(const std::string& directory, const std::string& cluster) {
  const std::string key_path = directory + "/authority.key", certificate_path = directory + "/authority.crt";
  const auto is_there = [](const std::string& path) { return ::access(path.c_str(), F_OK) == 0; };
  if (!is_there(directory)) make_private_directory(directory);
  const DirectoryLock lock(directory);
  // A new authority would shut every node out: where there was one before, its owner decides.
  if (is_kept_private(key_path, "join the cluster") || is_there(certificate_path) ||
      is_there(directory + "/issued")) {
    try {
      const std::string certificate = read_file(certificate_path);
      const CertificateInfo info = certificate_info(certificate, certificate_path);
      if (info.expires_s <= std::time(nullptr))
        throw SetupError(
            fmt::format("{} is over: {}; set the clock", certificate_path, dates_and_clock(info)));
      NodeKey key = NodeKey::from_pem(read_file(key_path), key_path);
      const bool fits =
          X509_check_private_key(read_certificate(certificate, certificate_path).get(), key.handle()) == 1;
      ERR_clear_error();
      if (!fits)
        throw SetupError(fmt::format("{} and {} do not belong together: put back what was there", key_path,
                                     certificate_path));
      return CertificateAuthority(std::move(key), certificate, cluster);
    } catch (const SetupError& error) {
      throw SetupError(
          fmt::format("{}, or remove {} to begin with a new authority, to which every node is invited again",
                      error.what(), directory));
    }
  }
  CertificateAuthority made = create(cluster);
  write_file(certificate_path, made.certificate(), 0644);
  write_file(key_path, made.key_.pem(), 0600);
  return made;
}

Result<std::string> CertificateAuthority::sign(const std::string& request, const std::string& node,
                                               std::chrono::seconds life, CertificateRole role) const {
  const Result<Request> parsed = read_request(request);
  if (parsed.has_error()) return parsed.error();
  EVP_PKEY* subject = X509_REQ_get0_pubkey(parsed->get());
  const Certificate issuer = read_certificate(certificate_, "the authority's certificate");
  const Certificate certificate =
      new_certificate(subject, node, cluster_, life, role == CertificateRole::kHead ? kHeadUnit : "");
  require(X509_set_issuer_name(certificate.get(), X509_get_subject_name(issuer.get())) == 1,
          "signing a certificate");
  add_extension(certificate.get(), issuer.get(), NID_basic_constraints, "critical,CA:FALSE");
  add_extension(certificate.get(), issuer.get(), NID_key_usage, "critical,digitalSignature");
  add_extension(certificate.get(), issuer.get(), NID_ext_key_usage, "serverAuth,clientAuth");
  require(X509_sign(certificate.get(), key_.handle(), EVP_sha256()) > 0, "signing a certificate");
  return write_certificate(certificate.get());
}

void store_credentials(const std::string& directory, const NodeCredentials& credentials) {
  make_private_directory(directory);
  write_file(directory + "/authority.crt", credentials.authority, 0644);
  write_file(directory + "/node.crt", credentials.certificate, 0644);
  // Last: a key there means that all are.
  write_file(directory + "/node.key", credentials.key.pem() + credentials.certificate, 0600);
}

std::optional<NodeCredentials> stored_credentials(const std::string& directory) {
  const std::string key_path = directory + "/node.key";
  if (!is_kept_private(key_path, "pass for this node")) return std::nullopt;
  try {
    const std::string key = read_file(key_path);
    const size_t begin = key.find("-----BEGIN CERTIFICATE-----");
    const bool beside = begin == std::string::npos;
    const std::string certificate_path = beside ? directory + "/node.crt" : key_path;
    const std::string authority_path = directory + "/authority.crt";
    NodeCredentials credentials{NodeKey::from_pem(key, key_path),
                                beside ? read_file(certificate_path) : key.substr(begin),
                                read_file(authority_path)};
    (void)read_certificate(credentials.certificate, certificate_path);
    (void)read_certificate(credentials.authority, authority_path);
    return credentials;
  } catch (const SetupError& error) {
    throw SetupError(
        fmt::format("{}; remove {} to join anew, with a token from shoal invite", error.what(), directory));
  }
}

}  // namespace shoal
