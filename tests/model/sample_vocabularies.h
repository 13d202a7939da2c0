// Vocabularies of every kind of tokenizer, from the fixtures.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "model/tokenizer.h"
#include "model/vocabulary.h"

namespace shoal {

VocabData spm_data();
VocabData unigram_data(const std::string& name);
VocabData wordpiece_data();
// Adds the merges of a fixture, the tokens they make and the tokens it lists, but those there are already.
void add_merges(VocabData& data, const std::string& fixture);
// Byte-level vocabulary whose merges cross words, digits, spaces and line ends.
VocabData crossing_vocabulary(const std::string& pre);

// Two where the names of a group differ in whether whole words are taken without merging.
inline constexpr const char* kOneOfEachGroup[] = {
    "default",     "gpt-2",    "llama-bpe", "dbrx",           "glm4",
    "qwen2",       "qwen35",   "smollm",    "jais-2",         "deepseek-llm",
    "deepseek-v3", "spark2_5", "youtu",     "deepseek-coder", "falcon",
    "bloom",       "viking",   "tekken",    "gpt-4o",         "granite-embed-multi-97m",
    "chameleon",   "tiny_aya", "kimi-k2",   "superbpe",       "bailingmoe",
    "seed-coder",  "ufakzeka", "afmoe",     "laguna",         "exaone-moe",
    "minicpm5"};

// Every vocabulary that the fixtures give, by name.
std::vector<std::pair<std::string, Tokenizer>> all_tokenizers();

}  // namespace shoal
