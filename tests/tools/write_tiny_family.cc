// write_tiny_family FOLDER: writes NAME.gguf for every tiny family, and "families": one line
// "NAME CONTEXT TOKEN TOKEN ..." each, the prompt that fixtures are made of. For
// tools/make_family_fixtures.py.
#include <cstdio>
#include <fstream>

#include "tests/support/tiny_families.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: write_tiny_family FOLDER\n");
    return 2;
  }
  const std::string folder = argv[1];
  std::ofstream list(folder + "/families");
  for (const shoal::test::TinyFamily& family : shoal::test::tiny_families()) {
    shoal::test::write_tiny_model(folder + "/" + family.name + ".gguf", family.options);
    list << family.name << ' ' << shoal::test::kFamilyContext;
    for (const int token : shoal::test::family_prompt(family)) list << ' ' << token;
    list << '\n';
  }
  return list.good() ? 0 : 1;
}
