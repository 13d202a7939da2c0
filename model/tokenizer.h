// Text to token ids and back, from the vocabulary in a GGUF file.
//
// Four kinds: byte-level BPE (tokenizer.ggml.model = "gpt2") with the pre-tokenizers of model/pretokenizer.h,
// SentencePiece BPE with byte fallback ("llama"), SentencePiece unigram ("t5") and WordPiece ("bert").
// Immutable after construction; all methods are const and thread-safe. Ids equal llama.cpp's, with one rule
// added: ordinary text never merges into a control token. Where llama.cpp's ids of "t5" and "bert" differ
// from those of the libraries the models were trained with (SentencePiece, Hugging Face's tokenizers), ours
// are the libraries'.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "model/gguf_file.h"
#include "model/prompt_piece.h"

namespace shoal {

struct VocabData;

class Tokenizer {
 public:
  // Throws SetupError: unknown tokenizer model or pre-tokenizer (names it and lists the known), inconsistent
  // vocabulary arrays, special ids outside the vocabulary.
  static Tokenizer from(const GgufFile& file);
  static Tokenizer from(VocabData data);  // of model/vocabulary.h
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // `parse_special`: control tokens written in the text (<|im_end|>) become their ids; for text from
  // templates only, never for what a user typed. `add_bos`: prepend the BOS token if the model wants one.
  // decode(encode(x)) == x for valid UTF-8 if the vocabulary has a token for each of its bytes. In byte-level
  // BPE a byte that is not UTF-8 becomes U+FFFD and an overlong form its short one, as in llama.cpp;
  // SentencePiece keeps every byte.
  std::vector<int32_t> encode(std::string_view text, bool parse_special, bool add_bos) const;
  // A rendered conversation as one text, so that words and merges cross the pieces' borders as they did in
  // training; control tokens are found only where all their bytes are trusted. No second BOS where the pieces
  // begin with one.
  std::vector<int32_t> encode(const std::vector<PromptPiece>& pieces, bool add_bos) const;
  // A whole input for an encoder, with the tokens around it that the model was trained with: EOS after it for
  // T5, [CLS] and [SEP] around it for BERT. (encode() never ends with them: a prompt is to be continued.)
  std::vector<int32_t> encode_input(std::string_view text, bool parse_special = false) const;
  // Two texts as one input, as cross-encoders were trained: each ended as an input is, the second without
  // what begins one; between them another separator where the file asks for it (RoBERTa: <s> a </s></s> b
  // </s>).
  std::vector<int32_t> encode_pair(std::string_view first, std::string_view second) const;

  // The bytes of one token; control tokens give "" unless `show_special`.
  std::string piece(int32_t token, bool show_special = false) const;
  std::string decode(const std::vector<int32_t>& tokens, bool show_special = false) const;

  bool is_end_of_generation(int32_t token) const;  // eos, eot, eom and their kin, matched by id and by text
  int32_t vocab_size() const;
  int32_t bos() const;  // -1 if none
  int32_t eos() const;
  int32_t padding() const;  // also what a T5 decoder starts with where the file names nothing else
  bool adds_bos() const;
  bool adds_space_prefix() const;  // SentencePiece, WordPiece: text is encoded as if a space stood before it
  std::string_view pre_tokenizer() const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Turns a stream of tokens into text without ever splitting a UTF-8 code point: bytes of an unfinished code
// point are held back until it is complete; finish() releases what remains, with U+FFFD for a broken
// sequence.
class StreamDecoder {
 public:
  // `shown`: control tokens whose text is part of the answer all the same.
  explicit StreamDecoder(const Tokenizer& tokenizer, std::vector<int32_t> shown = {})
      : tokenizer_(&tokenizer), shown_(std::move(shown)) {}
  std::string push(int32_t token);
  std::string finish();

 private:
  const Tokenizer* tokenizer_;
  std::vector<int32_t> shown_;
  std::string held_;
  bool first_ = true;  // SentencePiece: the first token's leading space is dropped where the model adds one
};

}  // namespace shoal
