// What shoal pull makes of names, addresses and a hub's listing, and its store. Transfers:
// tests/cluster/pull_test.py.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <fstream>

#include "node/pull/model_store.h"
#include "node/pull/partial_file.h"
#include "tests/support/temp_dir.h"

using namespace shoal;
using shoal::test::TempDir;
namespace fs = std::filesystem;

namespace {

const std::string kSha(64, 'a');

std::string listed(const std::string& path, const std::string& size = "100", const std::string& sha = kSha) {
  return R"({"type":"file","oid":"x","size":)" + size + R"(,"path":")" + path + R"(","lfs":{"oid":")" + sha +
         R"(","size":)" + size + R"(,"pointerSize":134}})";
}

std::vector<HubFile> files_of(const std::vector<std::string>& paths) {
  std::vector<HubFile> files;
  for (const std::string& path : paths) files.push_back({path, 100, kSha});
  return files;
}

std::string chosen(const std::vector<std::string>& paths, const std::string& name) {
  const auto files = choose_files(files_of(paths), *parse_model_name(name));
  if (!files) return "error: " + files.error().message;
  std::string text;
  for (const HubFile& file : *files) text += (text.empty() ? "" : " ") + file.path;
  return text;
}

}  // namespace

TEST_CASE("a model's name is read, and what is a path is left alone") {
  const auto q = parse_model_name("HuggingFaceTB/SmolLM2-360M-Instruct-GGUF:q8_0");
  REQUIRE(q);
  CHECK(q->repository() == "HuggingFaceTB/SmolLM2-360M-Instruct-GGUF");
  CHECK(q->quant == "Q8_0");
  CHECK(q->text() == "HuggingFaceTB/SmolLM2-360M-Instruct-GGUF:Q8_0");
  const auto file = parse_model_name("a/b/Q4_K_M/x.gguf");
  REQUIRE(file);
  CHECK(file->file == "Q4_K_M/x.gguf");
  CHECK(parse_model_name("a/b")->quant.empty());
  for (const char* path :
       {"x.gguf", "models/x.gguf", "../b:Q8_0", "./b", "/a/b", "a/b/../x.gguf", "a/.b:Q8_0", "a/b/x.bin",
        "a/b:", "a/b:Q8/0", "a b/c:Q8_0", "a/b\n:Q8_0", "", "/", "a/", "a//x.gguf", "-a/b"})
    CHECK_MESSAGE(!parse_model_name(path), path);
}

TEST_CASE("the built-in list is what the repository holds") {
  REQUIRE(known_models().size() >= 5);
  for (const KnownModel& model : known_models()) {
    CHECK(model.context >= 2048);
    CHECK(!model.licence.empty());
    CHECK(model_name_of(model.alias)->text() == model.name);
  }
  CHECK(!model_name_of("no-such-alias"));
}

TEST_CASE("quants and parts are found in file names") {
  CHECK(quant_of("qwen2.5-0.5b-instruct-q4_k_m.gguf") == "Q4_K_M");
  CHECK(quant_of("tinyllama-1.1b-chat-v1.0.Q8_0.gguf") == "Q8_0");
  CHECK(quant_of("x-IQ4_XS-00001-of-00003.gguf") == "IQ4_XS");
  CHECK(quant_of("UD-Q4_K_XL/model-00001-of-00002.gguf") == "UD-Q4_K_XL");
  CHECK(quant_of("m-UD-IQ1_M.gguf") == "UD-IQ1_M");
  CHECK(quant_of("model-bf16.gguf") == "BF16");
  CHECK(quant_of("model.gguf") == "");
  CHECK(quant_of("Qwen2.gguf") == "");
  const PartName part = part_name("a/x-00002-of-00010.gguf");
  CHECK(part.stem == "a/x");
  CHECK(part.part == 2);
  CHECK(part.parts == 10);
  CHECK(part_name("x-2-of-3.gguf").parts == 1);
  for (const char* none :
       {"m-00000-of-00000.gguf", "m-00001-of-00000.gguf", "m-00000-of-00002.gguf", "m-00003-of-00002.gguf"}) {
    CHECK(part_name(none).parts == 1);
    CHECK(part_name(none).stem + ".gguf" == none);
  }
}

TEST_CASE("files are chosen by quant, with all their parts, and nothing is guessed") {
  const std::vector<std::string> repo = {"m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-Q8_0.gguf",
                                         "m-F16-00002-of-00002.gguf", "m-F16-00001-of-00002.gguf"};
  CHECK(chosen(repo, "u/r:Q8_0") == "m-Q8_0.gguf");
  CHECK(chosen(repo, "u/r:f16") == "m-F16-00001-of-00002.gguf m-F16-00002-of-00002.gguf");
  CHECK(chosen(repo, "u/r/m-F16-00002-of-00002.gguf") ==
        "m-F16-00001-of-00002.gguf m-F16-00002-of-00002.gguf");
  CHECK(chosen(repo, "u/r/mmproj-Q8_0.gguf") == "mmproj-Q8_0.gguf");
  CHECK(chosen(repo, "u/r:Q5_0") == "error: u/r has no Q5_0; it has F16, Q4_K_M, Q8_0");
  CHECK(chosen(repo, "u/r/n.gguf") == "error: u/r has no file 'n.gguf'; it has F16, Q4_K_M, Q8_0");
  CHECK(chosen(repo, "u/r").starts_with("error: u/r has several models"));
  CHECK(chosen({"m-Q8_0.gguf"}, "u/r") == "m-Q8_0.gguf");
  CHECK(chosen({"m-Q8_0.gguf", "n-Q8_0.gguf"}, "u/r:Q8_0").find("u/r/FILE.gguf") != std::string::npos);
  CHECK(chosen({"m-Q8_0-00002-of-00002.gguf"}, "u/r:Q8_0") ==
        "error: part 1 of 2 of 'm-Q8_0' is not on the hub");
  CHECK(chosen({}, "u/r:Q8_0") == "error: u/r has no GGUF file");
  // What belongs beside a model is none, unless it is asked for by name.
  const std::vector<std::string> beside = {"m-Q8_0.gguf",         "imatrix.gguf",
                                           "m.imatrix.gguf",      "m-Imatrix.gguf",
                                           "sub/mmproj-F16.gguf", "mmproj/imatrix_all.gguf"};
  CHECK(chosen(beside, "u/r") == "m-Q8_0.gguf");
  CHECK(chosen(beside, "u/r:Q5_0") == "error: u/r has no Q5_0; it has Q8_0");
  CHECK(chosen(beside, "u/r/m.imatrix.gguf") == "m.imatrix.gguf");
  CHECK(chosen({"m-imatrix-Q4_0.gguf"}, "u/r") == "m-imatrix-Q4_0.gguf");
}

TEST_CASE("a listing is believed only as far as it can be true") {
  std::vector<HubFile> files;
  REQUIRE(read_listing("[" + listed("a-Q8_0.gguf") +
                           R"(,{"type":"directory","path":"../d"},{"type":"file","path":"README.md"}])",
                       files)
              .has_value());
  REQUIRE(files.size() == 1);
  CHECK(files[0].bytes == 100);
  REQUIRE(read_listing("[" + listed("b.gguf", "1", "sha256:" + kSha) + "]", files).has_value());
  CHECK(files[1].sha256 == kSha);
  for (const std::string& bad :
       {std::string("<html>"), std::string("{}"), std::string("[1]"), "[" + listed("../x.gguf") + "]",
        "[" + listed("/etc/x.gguf") + "]", "[" + listed("a/./x.gguf") + "]",
        "[" + listed("a\\\\x.gguf") + "]", "[" + listed("a\\u0000.gguf") + "]", "[" + listed(".x.gguf") + "]",
        "[" + listed("x.gguf", "-1") + "]", "[" + listed("x.gguf", "0") + "]",
        "[" + listed("x.gguf", "1e30") + "]", "[" + listed("x.gguf", "18446744073709551615") + "]",
        "[" + listed("x.gguf", "\"5\"") + "]", "[" + listed("x.gguf", "5", "zz") + "]",
        "[" + listed("x.gguf", "5", std::string(64, 'A')) + "]",
        std::string(R"([{"type":"file","path":"x.gguf","size":5}])"), std::string(200'000, '[')}) {
    std::vector<HubFile> none;
    CHECK_MESSAGE(!read_listing(bad, none).has_value(), bad.substr(0, 200));
  }
}

TEST_CASE("addresses are read strictly and references beside them") {
  const Url url = parse_url("https://hub.example/x?y=1#z").value();
  CHECK(url.tls);
  CHECK(url.port == "443");
  CHECK(url.target == "/x?y=1");
  CHECK(url.shown() == "https://hub.example/x");
  CHECK(parse_url("http://[::1]:8080")->host_header() == "[::1]:8080");
  CHECK(parse_url("https://HUB.example:443")->origin() == "https://hub.example");
  for (const char* bad : {"", "ftp://x", "hub.example", "https://", "https://u:p@x/", "https://u@x",
                          "https://x:0", "https://x:70000", "https://x:1a", "https://a b",
                          "https://x/\r\nHost: y", "https://[::1", "https://[1.2.3.4]", "https://x\\y"})
    CHECK_MESSAGE(!parse_url(bad).has_value(), bad);
  CHECK(resolve_url(url, "/a/b")->target == "/a/b");
  CHECK(resolve_url(url, "//cdn.example/a")->origin() == "https://cdn.example");
  CHECK(resolve_url(url, "https://o.example/?q=a://b")->host == "o.example");
  CHECK(resolve_url(parse_url("https://h/a/b?c").value(), "d")->target == "/a/d");
  CHECK(resolve_url(parse_url("https://h/a/b?c").value(), "?d")->target == "/a/b?d");
  CHECK(!resolve_url(url, "file:///etc/passwd").has_value());
  CHECK(percent_encoded("a/b c%?#é") == "a/b%20c%25%3F%23%C3%A9");
  for (const char* here : {"http://localhost", "http://127.0.0.1:1", "http://127.9.9.9", "http://[::1]"})
    CHECK(is_loopback(parse_url(here).value()));
  for (const char* away : {"http://10.0.0.1", "http://localhost.example", "http://hub.example",
                           "http://[::2]", "http://0.0.0.0"})
    CHECK(!is_loopback(parse_url(away).value()));
}

TEST_CASE("the store finds, completes and removes what a record names, and nothing else") {
  const TempDir folder;
  const ModelStore store(fs::path(folder.path()) / "models");
  PulledModel model;
  model.name = {"u", "r", "Q8_0", "m-Q8_0-00001-of-00002.gguf"};
  model.files = {{"m-Q8_0-00001-of-00002.gguf", 3, kSha}, {"m-Q8_0-00002-of-00002.gguf", 4, kSha}};
  model.origin = "https://hub.example";
  CHECK(store.models().empty());
  store.record(model);
  REQUIRE(store.find(*parse_model_name("u/r:q8_0")));
  CHECK(store.find(*parse_model_name("u/r")));
  CHECK(store.find(*parse_model_name("u/r/m-Q8_0-00002-of-00002.gguf")));
  CHECK(!store.find(*parse_model_name("u/r:Q4_0")));
  CHECK(!store.find(*parse_model_name("v/r:Q8_0")));
  CHECK(!store.is_complete(model));
  std::ofstream(store.path_of(model, model.files[0])) << "abc";
  std::ofstream(store.path_of(model, model.files[1]).string() + ".partial") << "ab";
  CHECK(!store.is_complete(model));
  CHECK(store.bytes_here(model) == 5);
  std::ofstream(store.path_of(model, model.files[1])) << "abcd";
  CHECK(store.is_complete(*store.find(model.name)));
  CHECK(store.find(model.name)->shown_name() == "u/r:Q8_0");
  CHECK(store.find(model.name)->origin == "https://hub.example");

  // printf abcd | sha256sum
  model.files[1].sha256 = "88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589";
  uint64_t read = 0;
  const std::vector<HubFile> damaged = store.damaged(model, [&](uint64_t bytes) { read = bytes; });
  REQUIRE(damaged.size() == 1);  // kSha is not that of "abc"
  CHECK(damaged[0].path == model.files[0].path);
  CHECK(read == 7);
  store.remove_file(model, damaged[0]);
  CHECK(!store.is_complete(model));
  CHECK(store.bytes_here(model) == 4);

  const fs::path own = store.root() / "u" / "r" / "mine.gguf";
  std::ofstream(own) << "mine";
  store.remove(model);
  CHECK(store.models().empty());
  CHECK(fs::exists(own));
  CHECK(std::distance(fs::directory_iterator(own.parent_path()), fs::directory_iterator()) == 1);
  fs::remove(own);
  store.record(model);
  store.remove(model);
  CHECK(fs::exists(store.root()));
  CHECK(!fs::exists(store.root() / "u"));

  // A record that names files elsewhere is none.
  fs::create_directories(store.root() / "u" / "r");
  std::ofstream(store.root() / "u" / "r" / "x.gguf.pulled")
      << R"({"files":[{"path":"x.gguf","bytes":1,"sha256":""},{"path":"../../../../x","bytes":1,"sha256":""}]})";
  std::ofstream(store.root() / "u" / "r" / "y.gguf.pulled") << "junk";
  std::ofstream(store.root() / "u" / "r" / "z.gguf.pulled")
      << R"({"files":[{"path":"x.gguf","bytes":1,"sha256":""}]})";
  CHECK(store.models().empty());
}

TEST_CASE("a partial file goes on where it was, is one process's, and becomes the file") {
  const TempDir folder;
  const fs::path path = fs::path(folder.path()) / "deep" / "x.gguf";
  // printf hello | sha256sum
  const std::string hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
  {
    PartialFile first(path);
    REQUIRE(first.try_open());
    first.write(std::string_view("hel"));
    PartialFile second(path);
    CHECK(!second.try_open());
  }
  PartialFile again(path);
  REQUIRE(again.try_open());
  CHECK(again.bytes() == 3);
  while (again.hash_more()) {
  }
  again.write(std::string_view("lo"));
  CHECK(again.sha256() == hello);
  again.clear();
  CHECK(again.bytes() == 0);
  again.write(std::string_view("hello"));
  CHECK(again.sha256() == hello);
  const mode_t mask = ::umask(0);
  ::umask(mask);
  again.finish();
  CHECK(!fs::exists(path.string() + ".partial"));
  struct stat info {};
  REQUIRE(::stat(path.c_str(), &info) == 0);
  CHECK(info.st_size == 5);
  CHECK((info.st_mode & 0777) == (0666 & ~mask));
}
