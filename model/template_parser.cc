#include "model/template_parser.h"

#include <algorithm>

#include "model/template_expression_parser.h"

namespace shoal::jinja {
namespace {

class Parser : private ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  Block run() {
    try {
      Block block = statements({});
      return block;
    } catch (TemplateError& error) {
      if (error.line == 0) error.line = token().line;
      throw;
    }
  }

 private:
  using Ends = std::initializer_list<std::string_view>;

  // Until a block that begins with one of `ends`, whose name is next then; or until the end of the source.
  Block statements(Ends ends) {
    const Nesting nesting(*this);
    Block block;
    while (!token_is(Token::Kind::kEnd)) {
      const int line = token().line;
      if (token_is(Token::Kind::kText)) {
        Statement& text = add(block, Statement::Kind::kText, line);
        text.text = Value(next().text, /*trusted=*/true);
      } else if (token_is(Token::Kind::kOutputBegin)) {
        next();
        add(block, Statement::Kind::kOutput, line).value = tuple();
        expect(Token::Kind::kOutputEnd, "}}");
      } else {
        expect(Token::Kind::kBlockBegin, "{%");
        if (std::any_of(ends.begin(), ends.end(), [&](std::string_view end) { return name_is(end); }))
          return block;
        statement(block);
        expect(Token::Kind::kBlockEnd, "%}");
      }
    }
    if (ends.size() > 0)
      fail("the template ends where {% " + std::string(*(ends.end() - 1)) + " %} is missing");
    return block;
  }

  // The body of a block whose opening tag is complete, and its closing name.
  Block body(Ends ends) {
    expect(Token::Kind::kBlockEnd, "%}");
    return statements(ends);
  }
  Block body_to(std::string_view end) {
    Block block = body({end});
    next();
    return block;
  }

  static Statement& add(Block& block, Statement::Kind kind, int line) {
    Statement& statement = block.emplace_back();
    statement.kind = kind;
    statement.line = line;
    return statement;
  }

  void statement(Block& block) {
    const int line = token().line;
    const std::string name = expect_name();
    if (name == "if") return if_block(add(block, Statement::Kind::kIf, line));
    if (name == "for") return for_loop(add(block, Statement::Kind::kFor, line));
    if (name == "set") return set(add(block, Statement::Kind::kSet, line));
    if (name == "macro") return macro(add(block, Statement::Kind::kMacro, line));
    if (name == "with") return with(add(block, Statement::Kind::kWith, line));
    if (name == "print") {
      add(block, Statement::Kind::kOutput, line).value = tuple();
    } else if (name == "filter") {
      const Scope scope(*this);
      Statement& filter = add(block, Statement::Kind::kFilter, line);
      filter.value = filters_of_block();
      filter.body = body_to("endfilter");
    } else if (name == "generation") {  // marks what is trained on; nothing to do here
      add(block, Statement::Kind::kGroup, line).body = body_to("endgeneration");
    } else if (name == "break" || name == "continue") {
      if (loops_ == 0) fail("{% " + name + " %} is outside of a loop");
      add(block, name == "break" ? Statement::Kind::kBreak : Statement::Kind::kContinue, line);
    } else {
      fail("{% " + name + " %} is not offered" +
           (name.starts_with("end") || name == "else" || name == "elif"
                ? " here: nothing that it ends is open"
                : ""));
    }
  }

  void if_block(Statement& statement) {
    while (true) {
      ExpressionPtr condition = tuple(/*with_condition=*/false);
      statement.branches.emplace_back(std::move(condition), body({"elif", "else", "endif"}));
      const std::string end = expect_name();
      if (end == "elif") continue;
      if (end == "else") statement.otherwise = body_to("endif");
      return;
    }
  }

  void for_loop(Statement& statement) {
    const Scope scope(*this);
    statement.target = targets(/*members=*/false);
    expect_keyword("in");
    statement.value = tuple(/*with_condition=*/false, "recursive");
    if (skip_name("if")) statement.condition = expression();
    if (name_is("recursive")) fail("a recursive loop is not offered");
    ++loops_;
    statement.body = body({"else", "endfor"});
    --loops_;
    if (expect_name() == "else") statement.otherwise = body_to("endfor");
  }

  void set(Statement& statement) {
    statement.target = targets(/*members=*/true);
    if (skip_operator("=")) {
      statement.value = tuple();
      return;
    }
    statement.kind = Statement::Kind::kSetBlock;
    if (skip_operator("|")) statement.value = filters_of_block();
    statement.body = body_to("endset");
  }

  void with(Statement& statement) {
    const Scope scope(*this);
    while (!token_is(Token::Kind::kBlockEnd)) {
      if (!statement.assignments.empty()) expect_operator(",");
      Target target = targets(/*members=*/false);
      expect_operator("=");
      statement.assignments.emplace_back(std::move(target), expression());
    }
    statement.body = body_to("endwith");
  }

  void macro(Statement& statement) {
    if (scopes_ > 0) fail("a macro is defined within a loop, a macro or another scope: that is not offered");
    const Scope scope(*this);
    const int loops = std::exchange(loops_, 0);
    statement.macro.name = expect_name();
    expect_operator("(");
    while (!skip_operator(")")) {
      auto& parameters = statement.macro.parameters;
      if (!parameters.empty()) expect_operator(",");
      std::string name = expect_name();
      parameters.emplace_back(std::move(name), skip_operator("=") ? expression() : nullptr);
      if (parameters.size() > 1 && parameters.back().second == nullptr &&
          parameters[parameters.size() - 2].second != nullptr)
        fail("a parameter without a default follows one that has one");
    }
    statement.macro.body = std::make_unique<Block>(body_to("endmacro"));
    loops_ = loops;
  }

  // The filters of {% filter a | b(c) %} and {% set x | a %}, on what will be the block's text.
  ExpressionPtr filters_of_block() {
    ExpressionPtr value = filter(make(Expression::Kind::kBlockText));
    while (skip_operator("|")) value = filter(std::move(value));
    return value;
  }

  Target target(bool members) {
    const Nesting nesting(*this);
    Target result;
    if (skip_operator("(")) {
      result = targets(members);
      expect_operator(")");
      return result;
    }
    result.name = expect_name();
    for (const std::string_view constant : {"true", "false", "none", "True", "False", "None"}) {
      if (result.name == constant) fail("a value cannot be set for the constant " + result.name);
    }
    if (members && skip_operator(".")) result.member = expect_name();
    return result;
  }
  Target targets(bool members) {
    Target first = target(members);
    if (!token_is_operator(",")) return first;
    Target all;
    all.parts.push_back(std::move(first));
    while (skip_operator(",")) {
      if (name_is("in") || token_is_operator(")") || token_is_operator("=")) break;
      all.parts.push_back(target(members));
    }
    return all;
  }

  struct Scope {
    explicit Scope(Parser& parser) : parser(parser) { ++parser.scopes_; }
    ~Scope() { --parser.scopes_; }
    Scope(const Scope&) = delete;
    Parser& parser;
  };
  int scopes_ = 0, loops_ = 0;  // that are open
};

}  // namespace

Block parse(std::string_view source) {
  if (source.size() > kTemplateSourceMax)
    fail("the template is longer than " + std::to_string(kTemplateSourceMax) + " bytes");
  return Parser(tokenize(source)).run();
}

}  // namespace shoal::jinja
