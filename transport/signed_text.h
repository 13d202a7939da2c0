// A text that a node of the cluster vouches for: who follows an order can check whose it is, whichever way it
// came.
//
// Signed are the purpose, a zero byte and the text, by ECDSA over SHA-256 with the key of the signer's
// certificate, which travels along. Values only, from any thread. A signature that is missing or does not
// hold, and a certificate that is not the cluster's or has expired, are Errc::kRefused.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"
#include "transport/certificates.h"

namespace shoal {

struct SignedText {
  std::string text;
  std::string certificate;  // PEM, of who signed
  std::string signature;    // DER, in hexadecimal
};

// `purpose`: what the text is for, so that it cannot be used for anything else. Throws SetupError where
// OpenSSL fails.
SignedText sign_text(const NodeCredentials& signer, std::string_view purpose, std::string text);

// kEver: certificates may be over, or have been by the time of signing: it is known who signed, not when.
enum class SignerHeld : uint8_t { kNow, kEver };

// Whose it is. `authority`: the cluster's certificate, PEM.
Result<CertificateInfo> check_signed(const SignedText& signed_text, std::string_view purpose,
                                     const std::string& authority, SignerHeld held = SignerHeld::kNow);

}  // namespace shoal
