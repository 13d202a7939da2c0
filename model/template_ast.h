// What a template is parsed into. Nodes are built once by the parser and then only read; any number of
// threads may render one tree.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "model/template_value.h"

namespace shoal::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

// The arguments of a call, filter or test.
struct Arguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
};

struct Expression {
  enum class Kind {
    kConstant,   // constant
    kBlockText,  // the text of the block that is filtered
    kName,       // name
    kList,       // operands
    kTuple,      // operands
    kDict,       // operands: key, value, key, value, ...
    kAttribute,  // operands[0].name
    kItem,       // operands[0][operands[1]]
    kSlice,      // operands[0][operands[1]:operands[2]:operands[3]], each of the three may be null
    kCall,       // operands[0](arguments)
    kFilter,     // operands[0] | name(arguments)
    kTest,       // operands[0] is name(arguments)
    kNot,        // operands[0]
    kAnd,        // operands[0], operands[1]
    kOr,         // operands[0], operands[1]
    kUnary,      // name operands[0]
    kBinary,     // operands[0] name operands[1]
    kConcat,     // all operands as texts
    kCompare,    // operands[0] comparisons[0] operands[1] comparisons[1] operands[2] ...
    kCondition,  // operands[1] if operands[0] else operands[2], which may be null
  };
  Kind kind = Kind::kConstant;
  int line = 0, depth = 1;
  std::string name;
  Value constant;
  std::vector<ExpressionPtr> operands;
  std::vector<std::string> comparisons;
  Arguments arguments;
};

// What a value is assigned to: a name, a namespace's member (`name.member`), or several.
struct Target {
  std::string name, member;
  std::vector<Target> parts;
};

struct Statement;
using Block = std::vector<Statement>;

struct MacroNode {
  std::string name;
  std::vector<std::pair<std::string, ExpressionPtr>> parameters;  // with default, or null
  std::unique_ptr<Block> body;
};

struct Statement {
  enum class Kind {
    kText,      // text
    kOutput,    // value
    kIf,        // branches; body: else
    kFor,       // target in value if condition; body; otherwise
    kSet,       // target = value
    kSetBlock,  // target = body, filtered by value if there is one
    kMacro,     // macro
    kFilter,    // body, filtered by value
    kWith,      // assignments; body in a scope of its own
    kGroup,     // body
    kBreak,
    kContinue,
  };
  Kind kind = Kind::kText;
  int line = 0;
  Value text;
  ExpressionPtr value, condition;
  Target target;
  std::vector<std::pair<ExpressionPtr, Block>> branches;
  std::vector<std::pair<Target, ExpressionPtr>> assignments;
  Block body, otherwise;
  MacroNode macro;
};

}  // namespace shoal::jinja
