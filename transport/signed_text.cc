#include "transport/signed_text.h"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509_vfy.h>

#include <memory>
#include <vector>

namespace shoal {
namespace {

using Digest = std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)>;

constexpr size_t kSignatureBytesMax = 256;  // of ECDSA over P-256: 72

std::string message_of(std::string_view purpose, const std::string& text) {
  return std::string(purpose) + '\0' + text;
}

const unsigned char* bytes_of(const std::string& text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

// Empty where the text is no hexadecimal number of whole bytes, or too long.
std::vector<unsigned char> from_hex(const std::string& text) {
  std::vector<unsigned char> bytes;
  if (text.size() % 2 != 0 || text.size() > 2 * kSignatureBytesMax) return bytes;
  const auto digit = [](char c) {
    const size_t value = std::string_view("0123456789abcdef").find(c);
    return value == std::string_view::npos ? -1 : static_cast<int>(value);
  };
  for (size_t i = 0; i < text.size(); i += 2) {
    if (digit(text[i]) < 0 || digit(text[i + 1]) < 0) return {};
    bytes.push_back(static_cast<unsigned char>(digit(text[i]) << 4 | digit(text[i + 1])));
  }
  return bytes;
}

// Why a certificate is not one of the authority's that holds now, or ever did; empty: it is.
std::string why_not_believed(const CertificateInfo& shown, X509* certificate, X509* authority,
                             SignerHeld held) {
  std::unique_ptr<X509_STORE, decltype(&X509_STORE_free)> store(X509_STORE_new(), X509_STORE_free);
  std::unique_ptr<X509_STORE_CTX, decltype(&X509_STORE_CTX_free)> check(X509_STORE_CTX_new(),
                                                                        X509_STORE_CTX_free);
  if (!store || !check || X509_STORE_add_cert(store.get(), authority) != 1 ||
      X509_STORE_CTX_init(check.get(), store.get(), certificate, nullptr) != 1)
    return "no memory to check it";
  if (held == SignerHeld::kEver)
    X509_VERIFY_PARAM_set_flags(X509_STORE_CTX_get0_param(check.get()), X509_V_FLAG_NO_CHECK_TIME);
  const bool holds = X509_verify_cert(check.get()) == 1;
  ERR_clear_error();
  if (holds) return "";
  const int error = X509_STORE_CTX_get_error(check.get());
  const std::string why = X509_verify_cert_error_string(error);
  const bool dated = error == X509_V_ERR_CERT_HAS_EXPIRED || error == X509_V_ERR_CERT_NOT_YET_VALID;
  if (!dated) return why;
  return fmt::format("{}: {}; set the clock of the device that is wrong", why, dates_and_clock(shown));
}

}  // namespace

SignedText sign_text(const NodeCredentials& signer, std::string_view purpose, std::string text) {
  const Digest digest(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  const std::string message = message_of(purpose, text);
  unsigned char signature[kSignatureBytesMax];
  size_t size = sizeof signature;
  if (!digest || EVP_DigestSignInit(digest.get(), nullptr, EVP_sha256(), nullptr, signer.key.handle()) != 1 ||
      EVP_DigestSign(digest.get(), signature, &size, bytes_of(message), message.size()) != 1) {
    ERR_clear_error();
    throw SetupError("signing failed", kExitFailed);
  }
  SignedText made{std::move(text), signer.certificate, ""};
  for (size_t i = 0; i < size; ++i) made.signature += fmt::format("{:02x}", signature[i]);
  return made;
}

Result<CertificateInfo> check_signed(const SignedText& signed_text, std::string_view purpose,
                                     const std::string& authority, SignerHeld held) {
  const auto refused = [](std::string why) { return Error{Errc::kRefused, std::move(why)}; };
  if (signed_text.signature.empty() || signed_text.certificate.empty()) return refused("it is not signed");
  if (signed_text.certificate.size() > kCertificateBytesMax) return refused("its signer shows too much");
  Certificate signer, issuer;
  CertificateInfo info;
  try {
    signer = read_certificate(signed_text.certificate, "what its signer shows");
    issuer = read_certificate(authority, "the authority's certificate");
    info = certificate_info(signer.get());
  } catch (const SetupError& error) {  // another node sent it
    return refused(error.what());
  }
  if (const std::string why = why_not_believed(info, signer.get(), issuer.get(), held); !why.empty())
    return refused(fmt::format("the certificate of its signer is not believed: {}", why));
  const std::vector<unsigned char> signature = from_hex(signed_text.signature);
  const std::string message = message_of(purpose, signed_text.text);
  const Digest digest(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  const bool holds = digest && !signature.empty() &&
                     EVP_DigestVerifyInit(digest.get(), nullptr, EVP_sha256(), nullptr,
                                          X509_get0_pubkey(signer.get())) == 1 &&
                     EVP_DigestVerify(digest.get(), signature.data(), signature.size(), bytes_of(message),
                                      message.size()) == 1;
  ERR_clear_error();
  if (!holds) return refused(fmt::format("the signature of node {} does not hold", info.node));
  return info;
}

}  // namespace shoal
