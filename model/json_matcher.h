// Walks a JsonGrammar along a text that grows byte by byte, and says which bytes may come next. A pushdown
// automaton: its stack has a frame for each open value, and where alternatives begin alike it follows several
// stacks at once. Stacks share their lower frames, so that trying bytes and taking them back is cheap.
//
// What it accepts is narrower than JSON (RFC 8259), so that an answer always ends and means one thing: at
// most kBlanksMax white-space bytes in a row and none after the end, well-formed UTF-8 (Unicode, table 3-7),
// no lone surrogates, no escapes in names that the schema does not name, numbers of bounded length. A member
// that the schema names comes at most once. One answer, one thread; the grammar outlives it.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "model/json_grammar.h"

namespace shoal {

class JsonMatcher {
 public:
  explicit JsonMatcher(const JsonGrammar& grammar);

  // Whether the text may go on with these bytes (not empty). Leaves the state as it is.
  bool allows(std::string_view bytes);
  // Goes on with them. They must be allowed.
  void accept(std::string_view bytes);
  // The bytes of which some allowed text begins.
  std::bitset<256> next_bytes();
  bool complete() const;  // the text is a value of the root type
  bool ended() const;     // and nothing may follow
  // How often a stack was moved by a byte, ever: the measure of the work.
  uint64_t moves() const { return moves_; }

 private:
  static constexpr int kBlanksMax = 40;
  static constexpr size_t kStacksMax = 64;        // followed at once; more alternatives are left out
  static constexpr size_t kFramesCompact = 4096;  // more are gone through for those still in use
  static constexpr uint32_t kNone = UINT32_MAX;

  // kEnd: below all values. kValue: a value of `type` is to begin.
  enum class Kind : uint8_t { kEnd, kValue, kString, kNumber, kLiteral, kObject, kArray };
  enum class Phase : uint8_t { kOpen, kName, kColon, kAfter, kNext };  // of objects and arrays
  struct Frame {
    Kind kind = Kind::kEnd;
    Phase phase = Phase::kOpen;
    uint8_t text = 0;       // state within a string or a number
    uint8_t blanks = 0;     // white space just before
    uint8_t depth = 0;      // containers that are open below and with this
    int32_t what = 0;       // type of a kValue, otherwise shape
    uint32_t position = 0;  // trie node, digits, or code points
    uint32_t items = 0;
    uint32_t below = kNone;
    PropertySet seen;  // of an object: members it has
    bool operator==(const Frame&) const = default;
    uint32_t hash() const;
  };

  void step(uint8_t byte);  // from stacks_ to next_, and swaps them
  void move(uint32_t top, uint8_t byte);
  void move_value(const Frame& frame, uint8_t byte);
  void move_string(Frame frame, uint8_t byte);
  void move_number(Frame frame, uint8_t byte);
  void move_object(Frame frame, uint8_t byte);
  void move_name(Frame frame, uint8_t byte);
  void end_name(Frame frame);
  void move_array(Frame frame, uint8_t byte);
  void begin(int shape, const Frame& from, uint8_t byte);
  bool blank(Frame frame, uint8_t byte);
  uint32_t push(const Frame& frame);
  void go_on(const Frame& frame) { add_stack(push(frame)); }
  void add_stack(uint32_t top);
  PropertySet open_members(const Frame& frame) const;
  bool takes_additional(const Frame& frame) const;
  bool complete(uint32_t top) const;
  void compact();
  uint32_t copy_stack(uint32_t top, std::vector<Frame>& frames, std::vector<uint32_t>& moved) const;

  const JsonGrammar& grammar_;
  std::vector<Frame> frames_;
  std::vector<uint32_t> stacks_, next_, saved_;  // tops
  std::vector<uint32_t> next_hashes_;            // of the frames of next_
  uint64_t moves_ = 0;
};

}  // namespace shoal
