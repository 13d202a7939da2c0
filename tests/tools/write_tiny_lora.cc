// write_tiny_lora FOLDER: writes FAMILY.gguf and FAMILY-lora.gguf for some of the tiny families, and
// "families": one line "FAMILY CONTEXT TOKEN TOKEN ..." each, the prompt that fixtures are made of. For
// tools/make_lora_fixtures.py.
#include <cstdio>
#include <fstream>

#include "tests/support/tiny_families.h"
#include "tests/support/tiny_lora.h"

int main(int argc, char** argv) {
  using namespace shoal;
  if (argc != 2) {
    std::fprintf(stderr, "usage: write_tiny_lora FOLDER\n");
    return 2;
  }
  const std::string folder = argv[1];
  std::ofstream list(folder + "/families");
  for (const char* name : test::kLoraFamilies) {
    const test::TinyFamily& family = test::tiny_family(name);
    const std::string path = folder + "/" + name;
    test::write_tiny_model(path + ".gguf", family.options);
    test::tiny_lora(ModelConfig::from(GgufFile::open(path + ".gguf"))).write(path + "-lora.gguf");
    list << name << ' ' << test::kFamilyContext;
    for (const int token : test::family_prompt(family)) list << ' ' << token;
    list << '\n';
  }
  return list.good() ? 0 : 1;
}
