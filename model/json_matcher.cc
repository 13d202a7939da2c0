#include "model/json_matcher.h"

#include <algorithm>

#include "base/check.h"
#include "model/json_text.h"

namespace shoal {

using namespace json_text;

namespace {

constexpr uint32_t kFreeName = UINT32_MAX - 1;  // the position of a name that the schema does not name

bool is_blank(uint8_t b) {
  return b == ' ' || b == '\n' || b == '\t' || b == '\r';
}

}  // namespace

JsonMatcher::JsonMatcher(const JsonGrammar& grammar) : grammar_(grammar) {
  Frame value;
  value.kind = Kind::kValue;
  value.what = grammar.root();
  value.below = push(Frame{});
  stacks_.push_back(push(value));
}

uint32_t JsonMatcher::push(const Frame& frame) {
  frames_.push_back(frame);
  return static_cast<uint32_t>(frames_.size()) - 1;
}

// Of what tells most stacks apart.
uint32_t JsonMatcher::Frame::hash() const {
  uint32_t hash = static_cast<uint32_t>(kind) << 24 | static_cast<uint32_t>(phase) << 16 | text << 8 | blanks;
  for (const uint32_t part : {static_cast<uint32_t>(what), position, items, below})
    hash = (hash ^ part) * 0x9E3779B1u + (hash >> 15);
  return hash;
}

void JsonMatcher::add_stack(uint32_t top) {
  if (next_.size() >= kStacksMax) return;
  // Alternatives may have come to the same: one of them is enough.
  const uint32_t hash = frames_[top].hash();
  for (size_t i = 0; i < next_.size(); ++i) {
    if (next_hashes_[i] == hash && (next_[i] == top || frames_[next_[i]] == frames_[top])) return;
  }
  next_.push_back(top);
  next_hashes_.push_back(hash);
}

// White space where the frame's value lets it stand.
bool JsonMatcher::blank(Frame frame, uint8_t byte) {
  if (!is_blank(byte)) return false;
  if (++frame.blanks <= kBlanksMax) go_on(frame);
  return true;
}

void JsonMatcher::step(uint8_t byte) {
  next_.clear();
  next_hashes_.clear();
  moves_ += stacks_.size();
  for (const uint32_t top : stacks_) move(top, byte);
  stacks_.swap(next_);
}

void JsonMatcher::move(uint32_t top, uint8_t byte) {
  const Frame frame = frames_[top];  // a copy: frames_ grows
  switch (frame.kind) {
    case Kind::kEnd:
      return;
    case Kind::kValue:
      return move_value(frame, byte);
    case Kind::kString:
      return move_string(frame, byte);
    case Kind::kNumber:
      return move_number(frame, byte);
    case Kind::kLiteral: {
      const ByteTrie& literals = grammar_.shape(frame.what).bytes;
      Frame next = frame;
      if (const uint32_t* child = literals.child(frame.position, byte)) {
        next.position = *child;
        return go_on(next);
      }
      if (literals.nodes[frame.position].terminal >= 0) move(frame.below, byte);
      return;
    }
    case Kind::kObject:
      return move_object(frame, byte);
    case Kind::kArray:
      return move_array(frame, byte);
  }
}

void JsonMatcher::move_value(const Frame& frame, uint8_t byte) {
  if (blank(frame, byte)) return;
  for (const int shape : grammar_.shapes_of(frame.what)) {
    if (frame.depth + grammar_.height_of_shape(shape) <= kNestingMax) begin(shape, frame, byte);
  }
}

// The first byte of a value of this shape.
void JsonMatcher::begin(int shape, const Frame& from, uint8_t byte) {
  const JsonShape& what = grammar_.shape(shape);
  Frame frame;
  frame.what = shape;
  frame.depth = from.depth;
  frame.below = from.below;
  switch (what.kind) {
    case JsonShape::Kind::kObject:
    case JsonShape::Kind::kArray: {
      const bool object = what.kind == JsonShape::Kind::kObject;
      if (byte != (object ? '{' : '[')) return;
      frame.kind = object ? Kind::kObject : Kind::kArray;
      ++frame.depth;
      return go_on(frame);
    }
    case JsonShape::Kind::kString:
      if (byte != '"') return;
      frame.kind = Kind::kString;
      return go_on(frame);
    case JsonShape::Kind::kLiteral:
      if (const uint32_t* child = what.bytes.child(0, byte)) {
        frame.kind = Kind::kLiteral;
        frame.position = *child;
        go_on(frame);
      }
      return;
    default:
      if (byte != '-' && !is_digit(byte)) return;
      frame.kind = Kind::kNumber;
      frame.text = byte == '-' ? kMinus : byte == '0' ? kZero : kDigits;
      frame.position = byte == '-' ? 0 : 1;
      return go_on(frame);
  }
}

void JsonMatcher::move_string(Frame frame, uint8_t byte) {
  const JsonShape& shape = grammar_.shape(frame.what);
  if (frame.text == kPlain) {
    if (byte == '"') {
      if (frame.position >= static_cast<uint32_t>(shape.least)) add_stack(frame.below);
      return;
    }
    if (frame.position >= static_cast<uint32_t>(shape.most)) return;
    ++frame.position;
  }
  frame.text = text_step(frame.text, byte);
  if (frame.text != kBroken) go_on(frame);
}

void JsonMatcher::move_number(Frame frame, uint8_t byte) {
  const bool integer = grammar_.shape(frame.what).kind == JsonShape::Kind::kInteger;
  const NumberState next = number_step(frame.text, byte, frame.position, integer);
  if (next == kNoNumber) {
    if (may_end(frame.text)) move(frame.below, byte);
    return;
  }
  frame.position = next == frame.text ? frame.position + 1 : is_digit(byte) ? 1 : 0;
  frame.text = next;
  go_on(frame);
}

// ---- Objects ----

// Named members that the object may still get.
PropertySet JsonMatcher::open_members(const Frame& frame) const {
  const JsonShape& shape = grammar_.shape(frame.what);
  PropertySet open;
  for (size_t i = 0; i < shape.property_types.size(); ++i) {
    if (!frame.seen[i] && frame.depth + grammar_.height_of_type(shape.property_types[i]) <= kNestingMax)
      open.set(i);
  }
  return open;
}

bool JsonMatcher::takes_additional(const Frame& frame) const {
  const int type = grammar_.shape(frame.what).additional;
  return type >= 0 && frame.depth + grammar_.height_of_type(type) <= kNestingMax;
}

void JsonMatcher::move_object(Frame frame, uint8_t byte) {
  if (frame.phase == Phase::kName) return move_name(frame, byte);
  if (blank(frame, byte)) return;
  frame.blanks = 0;
  if (frame.phase == Phase::kColon) {
    if (byte != ':') return;
    const JsonShape& shape = grammar_.shape(frame.what);
    Frame value;
    value.kind = Kind::kValue;
    value.depth = frame.depth;
    value.what = frame.position == kFreeName ? shape.additional : shape.property_types[frame.position];
    frame.phase = Phase::kAfter;
    frame.position = 0;
    value.below = push(frame);
    return go_on(value);
  }
  const bool another = open_members(frame).any() || takes_additional(frame);
  if (byte == '"' && frame.phase != Phase::kAfter && another) {
    frame.phase = Phase::kName;
    frame.position = 0;
    frame.text = kPlain;
    return go_on(frame);
  }
  if (frame.phase == Phase::kNext) return;
  if (byte == ',' && frame.phase == Phase::kAfter && another) {
    frame.phase = Phase::kNext;
    return go_on(frame);
  }
  const PropertySet& required = grammar_.shape(frame.what).required;
  if (byte == '}' && (frame.seen & required) == required) add_stack(frame.below);
}

// A name is followed in the trie of those that the schema names, as JSON writes them; where it leaves them it
// is a free one. Free names have no escapes: those could spell a name of the schema in another way.
void JsonMatcher::move_name(Frame frame, uint8_t byte) {
  if (byte == '"' && frame.text == kPlain) return end_name(frame);
  const uint8_t text = text_step(frame.text, byte);
  if (text == kBroken) return;
  const bool escaping = byte == '\\' || frame.text >= kEscape;
  const bool additional = takes_additional(frame);
  frame.text = text;
  if (frame.position != kFreeName) {
    const ByteTrie& names = grammar_.shape(frame.what).bytes;
    const uint32_t* child = names.child(frame.position, byte);
    // An escape leads to names of the schema alone; other bytes to free ones too.
    if (child != nullptr &&
        ((additional && text < kEscape) || (names.nodes[*child].below & open_members(frame)).any())) {
      frame.position = *child;
      return go_on(frame);
    }
    frame.position = kFreeName;
    if (child != nullptr) return;
  }
  if (additional && !escaping) go_on(frame);
}

void JsonMatcher::end_name(Frame frame) {
  if (frame.position != kFreeName) {
    const int name = grammar_.shape(frame.what).bytes.nodes[frame.position].terminal;
    if (name >= 0) {
      if (!open_members(frame)[static_cast<size_t>(name)]) return;
      frame.seen.set(static_cast<size_t>(name));
    } else if (!takes_additional(frame)) {
      return;
    }
    frame.position = name >= 0 ? static_cast<uint32_t>(name) : kFreeName;
  }
  frame.phase = Phase::kColon;
  go_on(frame);
}

// ---- Arrays ----

void JsonMatcher::move_array(Frame frame, uint8_t byte) {
  if (blank(frame, byte)) return;
  frame.blanks = 0;
  const JsonShape& shape = grammar_.shape(frame.what);
  const bool empty = frame.phase == Phase::kOpen;
  if (byte == ']') {
    if (frame.items >= static_cast<uint32_t>(shape.least)) add_stack(frame.below);
    return;
  }
  const bool another = frame.items < static_cast<uint32_t>(shape.most) &&
                       frame.depth + grammar_.height_of_type(shape.items) <= kNestingMax;
  if (!another || (!empty && byte != ',')) return;
  ++frame.items;
  frame.phase = Phase::kAfter;
  Frame value;
  value.kind = Kind::kValue;
  value.depth = frame.depth;
  value.what = shape.items;
  value.below = push(frame);
  if (!empty) return go_on(value);
  move_value(value, byte);
}

// ---- From outside ----

bool JsonMatcher::allows(std::string_view bytes) {
  const size_t frames = frames_.size();
  saved_ = stacks_;
  for (const char byte : bytes) {
    step(static_cast<uint8_t>(byte));
    if (stacks_.empty()) break;
  }
  const bool allowed = !stacks_.empty();
  stacks_ = saved_;
  frames_.resize(frames);
  return allowed;
}

void JsonMatcher::accept(std::string_view bytes) {
  for (const char byte : bytes) step(static_cast<uint8_t>(byte));
  SHOAL_CHECK(!stacks_.empty());
  if (frames_.size() > kFramesCompact) compact();
}

std::bitset<256> JsonMatcher::next_bytes() {
  std::bitset<256> next;
  for (int byte = 0; byte < 256; ++byte) {
    const char text = static_cast<char>(byte);
    if (allows({&text, 1})) next.set(static_cast<size_t>(byte));
  }
  return next;
}

bool JsonMatcher::complete(uint32_t top) const {
  const Frame& frame = frames_[top];
  if (frame.kind == Kind::kEnd) return true;
  const bool value_may_end =
      (frame.kind == Kind::kNumber && may_end(frame.text)) ||
      (frame.kind == Kind::kLiteral && grammar_.shape(frame.what).bytes.nodes[frame.position].terminal >= 0);
  return value_may_end && frames_[frame.below].kind == Kind::kEnd;
}

bool JsonMatcher::complete() const {
  return std::any_of(stacks_.begin(), stacks_.end(), [&](uint32_t top) { return complete(top); });
}

bool JsonMatcher::ended() const {
  return std::all_of(stacks_.begin(), stacks_.end(), [&](uint32_t top) {
    const Frame& frame = frames_[top];
    return complete(top) && (frame.kind == Kind::kEnd ||
                             (frame.kind == Kind::kLiteral &&
                              grammar_.shape(frame.what).bytes.nodes[frame.position].children.empty()));
  });
}

// Keeps the frames that the stacks hold.
void JsonMatcher::compact() {
  std::vector<Frame> kept;
  std::vector<uint32_t> moved(frames_.size(), kNone);
  for (uint32_t& top : stacks_) top = copy_stack(top, kept, moved);
  frames_ = std::move(kept);
}

uint32_t JsonMatcher::copy_stack(uint32_t top, std::vector<Frame>& frames,
                                 std::vector<uint32_t>& moved) const {
  if (top == kNone) return kNone;
  if (moved[top] != kNone) return moved[top];
  Frame frame = frames_[top];
  frame.below = copy_stack(frame.below, frames, moved);  // at most two frames for each container
  frames.push_back(frame);
  return moved[top] = static_cast<uint32_t>(frames.size()) - 1;
}

}  // namespace shoal
