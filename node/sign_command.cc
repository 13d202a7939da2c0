// shoal sign.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/error.h"
#include "base/printable.h"
#include "base/small_file.h"
#include "model/signature.h"
#include "node/cluster_config.h"
#include "node/cluster_weights.h"
#include "node/commands.h"

namespace shoal {

int sign_command(const SignFlags& flags) {
  if (!flags.new_key.empty()) {
    const std::string open = make_signing_key(flags.new_key);
    std::fputs(fmt::format("the private key {} stays with you; {} is for those who use your models\n",
                           in_quotes(flags.new_key, 4096), in_quotes(open, 4096))
                   .c_str(),
               stderr);
    if (flags.model.empty()) return kExitDone;
  }
  const std::string key = flags.key.empty() ? flags.new_key : flags.key;
  if (flags.model.empty())
    throw SetupError("shoal sign: name a model file, or make a key with --new-key FILE");
  const std::string path = resolve_model_path(flags.model, ""), signature_path = path + kSignatureSuffix;
  std::error_code failed;
  // Who signs follows no link: others may have put it there, to a file of his.
  const std::filesystem::file_status there = flags.verify.empty()
                                                 ? std::filesystem::symlink_status(signature_path, failed)
                                                 : std::filesystem::status(signature_path, failed);
  if (std::filesystem::exists(there) && !std::filesystem::is_regular_file(there))
    throw SetupError(in_quotes(signature_path, 4096) + " is not a regular file: remove it");
  const GgufFile file = GgufFile::open(path);
  const auto manifest =
      make_manifest_anew(file, static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
  if (!flags.verify.empty()) {
    require_signature(file, *manifest, flags.verify);
    std::fputs(
        fmt::format("{} is signed with the key of {}\n", in_quotes(path, 4096), in_quotes(flags.verify, 4096))
            .c_str(),
        stdout);
    return kExitDone;
  }
  if (key.empty()) throw SetupError("shoal sign: with which key? --key FILE, or --new-key FILE makes one");
  const std::string signature = sign_model(file, *manifest, key);
  std::ofstream out = open_output(signature_path, "shoal sign");
  out << signature;
  out.close();
  if (!out) throw SetupError(in_quotes(signature_path, 4096) + " cannot be written", kExitFailed);
  std::fputs((signature_path + "\n").c_str(), stdout);
  return kExitDone;
}

}  // namespace shoal
