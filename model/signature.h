// Who made a model: an Ed25519 signature (RFC 8032, by OpenSSL) over everything that a model file says.
// Signed is a short text with the digest of the weights' manifest (model/weight_manifest.h: every byte of
// every tensor) and the file's fingerprint (its header, so vocabulary and chat template too, and how it is
// split). The signature lies beside the model as MODEL.sig, a text file; the public key is PEM. Signing
// proves origin, not that the model is harmless. All functions throw SetupError that names the file and the
// way out; they are safe from any thread.
#pragma once

#include <string>

#include "model/gguf_file.h"
#include "model/weight_manifest.h"

namespace shoal {

inline constexpr const char* kSignatureSuffix = ".sig";

// A new key: the private one into a file for its owner alone (0600) that must not exist yet, the public one
// into `path`.pub. Returns the public key's path.
std::string make_signing_key(const std::string& path);

// The text of MODEL.sig. `key_path`: the private key, which nobody else may read.
std::string sign_model(const GgufFile& file, const WeightManifest& manifest, const std::string& key_path);

// Throws unless MODEL.sig is a signature of just this model by the owner of the public key (PEM).
void require_signature(const GgufFile& file, const WeightManifest& manifest,
                       const std::string& public_key_path);

}  // namespace shoal
