// Certificates and keys as texts: what is none is refused by the name of where it came from.
#include "transport/certificates.h"

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/transport/tls_support.h"
#include "transport/signed_text.h"

namespace shoal::test {

TEST_CASE(
    "what is no certificate or key is refused by name, and leaves nothing in OpenSSL's queue of errors") {
  const CertificateAuthority authority = CertificateAuthority::create("home");
  const NodeCredentials own = credentials_of(authority, "pi-1");
  const std::string good = own.certificate;
  std::string damaged = good;
  damaged[good.size() / 2] = damaged[good.size() / 2] == '*' ? 'A' : '*';
  const std::string
      locked =  // as `openssl rsa -des3` writes it: with a passphrase, which nobody is asked for
      "-----BEGIN CERTIFICATE-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: DES-EDE3-CBC,0102030405060708\n\n" +
      good.substr(good.find('\n') + 1);
  std::vector<std::string> bad = {
      "", "junk", own.key.pem(), damaged, locked, good.substr(0, good.size() / 2), std::string(3 << 20, '-')};
  for (const std::string& pem : bad) {
    CAPTURE(pem.substr(0, 200));
    CHECK_THROWS_WITH_AS(read_certificate(pem, "/there/pi.crt"),
                         doctest::Contains("/there/pi.crt: no certificate in PEM form: "), SetupError);
    CHECK(ERR_peek_error() == 0);
    const Result<CertificateInfo> checked =
        check_signed({"text", pem, "00"}, "purpose", authority.certificate());
    CHECK(checked.error().code == Errc::kRefused);
    CHECK(ERR_peek_error() == 0);
    CHECK_THROWS_AS(TlsContext({own.key, pem, authority.certificate()}), SetupError);
    CHECK_THROWS_AS(TlsContext(own).renew({own.key, pem, authority.certificate()}), SetupError);
    CHECK(ERR_peek_error() == 0);
    if (pem == bad[2]) continue;  // a key
    CHECK_THROWS_WITH_AS(NodeKey::from_pem(pem, "/there/pi.key"),
                         doctest::Contains("/there/pi.key: no private key"), SetupError);
    CHECK(ERR_peek_error() == 0);
  }
  CHECK(certificate_info(read_certificate("more\n" + good, "").get()).node == "pi-1");
  CHECK(NodeKey::from_pem(own.key.pem() + good, "").pem() == own.key.pem());
  CHECK(ERR_peek_error() == 0);
}

TEST_CASE("a key of another kind than ours is refused by its kind, and what is expected is said") {
  const std::string directory =
      std::filesystem::temp_directory_path() / ("shoal-other-key-" + std::to_string(::getpid()));
  (void)CertificateAuthority::in(directory, "home");
  const std::string path = directory + "/authority.key";
  const auto pem_of = [](EVP_PKEY* key) {
    const std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> owner(key, EVP_PKEY_free);
    const std::unique_ptr<BIO, decltype(&BIO_free)> bio(BIO_new(BIO_s_mem()), BIO_free);
    REQUIRE(PEM_write_bio_PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr) == 1);
    char* data = nullptr;
    const long size = BIO_get_mem_data(bio.get(), &data);
    return std::string(data, static_cast<size_t>(size));
  };
  const std::pair<EVP_PKEY*, const char*> others[] = {
      {EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"), "ED25519"},
      {EVP_RSA_gen(2048), "RSA"},
      {EVP_EC_gen("P-384"), "EC on secp384r1"}};
  for (const auto& [key, kind] : others) {
    CAPTURE(kind);
    std::ofstream(path) << pem_of(key);
    CHECK_THROWS_WITH_AS(
        CertificateAuthority::in(directory, "home"),
        doctest::Contains((path + ": this key is " + kind +
                           ", and what belongs there is EC on prime256v1, as "
                           "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 makes it")
                              .c_str()),
        SetupError);
    CHECK(ERR_peek_error() == 0);
  }
  std::ofstream(path) << pem_of(EVP_EC_gen("P-256"));
  CHECK_THROWS_WITH_AS(CertificateAuthority::in(directory, "home"),
                       doctest::Contains("do not belong together"), SetupError);
  std::filesystem::remove_all(directory);
}

TEST_CASE("a request for a key of another kind is not signed") {
  const CertificateAuthority authority = CertificateAuthority::create("home");
  const std::pair<EVP_PKEY*, const char*> others[] = {{EVP_RSA_gen(1024), "RSA"},
                                                      {EVP_EC_gen("P-384"), "EC on secp384r1"}};
  for (const auto& [key, kind] : others) {
    const std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> owner(key, EVP_PKEY_free);
    const std::unique_ptr<X509_REQ, decltype(&X509_REQ_free)> request(X509_REQ_new(), X509_REQ_free);
    const std::unique_ptr<BIO, decltype(&BIO_free)> bio(BIO_new(BIO_s_mem()), BIO_free);
    REQUIRE(X509_REQ_set_pubkey(request.get(), key) == 1);
    REQUIRE(X509_REQ_sign(request.get(), key, EVP_sha256()) > 0);
    REQUIRE(PEM_write_bio_X509_REQ(bio.get(), request.get()) == 1);
    char* data = nullptr;
    const long size = BIO_get_mem_data(bio.get(), &data);
    const Result<std::string> made = authority.sign(std::string(data, static_cast<size_t>(size)), "pi-1");
    REQUIRE(made.has_error());
    CHECK(made.error().code == Errc::kInvalidInput);
    CHECK(made.error().message.find(std::string("a key that is ") + kind) != std::string::npos);
  }
}

TEST_CASE("stored credentials that are damaged are refused by the file's name") {
  const std::string directory =
      std::filesystem::temp_directory_path() / ("shoal-credentials-" + std::to_string(::getpid()));
  store_credentials(directory, credentials_of(CertificateAuthority::create("home"), "pi-1"));
  CHECK(stored_credentials(directory).has_value());
  for (const char* file : {"/authority.crt", "/node.key"}) {
    const std::string path = directory + file;
    std::ofstream(path) << "junk";
    CHECK_THROWS_WITH_AS(stored_credentials(directory), doctest::Contains((path + ": no ").c_str()),
                         SetupError);
    store_credentials(directory, credentials_of(CertificateAuthority::create("home"), "pi-1"));
  }
  std::filesystem::remove_all(directory);
}

}  // namespace shoal::test
