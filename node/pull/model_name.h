// Names of models on a hub, and the short names of the list in configs/models.yaml. Pure values.
//
//   USER/REPO:QUANT        the GGUF file of that quantisation, all its parts
//   USER/REPO/FILE.gguf    this file (of a split model: any part means all)
//   USER/REPO              the only model of the repository
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace shoal {

struct ModelName {
  std::string user, repo;
  std::string quant;  // as asked for, in capitals; empty: a file, or the only model
  std::string file;   // within the repository; empty: chosen by the quant

  std::string repository() const { return user + "/" + repo; }
  std::string text() const;
};

// Nothing where the text is no such name, for example because it is a path of a file.
std::optional<ModelName> parse_model_name(std::string_view text);

// ".gguf" in any case, and something before it.
bool ends_in_gguf(std::string_view path);

// Whether a path within a repository may become a path on this disk: relative, plain components.
bool is_safe_path(std::string_view path);

// "Q4_K_M" of "qwen2.5-0.5b-instruct-q4_k_m-00001-of-00002.gguf" or "UD-Q4_K_XL/model.gguf"; empty where the
// name does not end in one.
std::string quant_of(std::string_view path);

// Splitting "x-00002-of-00003.gguf": the stem, and the part from 1; part and parts are 1 where the name is of
// one file.
struct PartName {
  std::string stem;
  int part = 1, parts = 1;
};
PartName part_name(std::string_view path);

struct KnownModel {
  std::string alias, name, size, licence;
  int context = 0;  // tokens that the model was trained for
};

// The list that the program was built with.
const std::vector<KnownModel>& known_models();

// The alias's model, or what parse_model_name makes of the text.
std::optional<ModelName> model_name_of(std::string_view text);

}  // namespace shoal
