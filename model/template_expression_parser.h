// The expressions of the template language, by recursive descent; order of operators as Jinja 3 has it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "model/template_ast.h"
#include "model/template_lexer.h"

namespace shoal::jinja {

class ExpressionParser {
 public:
  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  ExpressionPtr expression();  // with `a if b else c`
  // Expressions with commas between them make a tuple; ends before the name `end` too.
  ExpressionPtr tuple(bool with_condition = true, std::string_view end = {});
  ExpressionPtr filter(ExpressionPtr value);  // behind its '|'

  const Token& token() const { return tokens_[at_]; }
  bool token_is(Token::Kind kind) const { return token().kind == kind; }
  bool token_is_operator(std::string_view text) const {
    return token_is(Token::Kind::kOperator) && token().text == text;
  }
  bool name_is(std::string_view text) const { return token_is(Token::Kind::kName) && token().text == text; }
  const Token& next();
  bool skip_operator(std::string_view text);
  bool skip_name(std::string_view text);
  void expect(Token::Kind kind, std::string_view what);
  void expect_operator(std::string_view text);
  void expect_keyword(std::string_view text);
  std::string expect_name();

 protected:
  // One level of what the parser is within.
  struct Nesting {
    explicit Nesting(ExpressionParser& parser);
    ~Nesting() { --parser.depth_; }
    Nesting(const Nesting&) = delete;
    ExpressionParser& parser;
  };
  ExpressionPtr make(Expression::Kind kind, ExpressionPtr a = nullptr, ExpressionPtr b = nullptr,
                     std::string name = {}) const;

 private:
  ExpressionPtr any_of();
  ExpressionPtr all_of();
  ExpressionPtr negation();
  ExpressionPtr comparison();
  ExpressionPtr sum();
  ExpressionPtr concatenation();
  ExpressionPtr product();
  ExpressionPtr power();
  ExpressionPtr unary(bool with_filters);
  ExpressionPtr primary();
  ExpressionPtr constant(Value value);
  ExpressionPtr postfix(ExpressionPtr value);
  ExpressionPtr subscript(ExpressionPtr value);
  ExpressionPtr call(ExpressionPtr value);
  ExpressionPtr test(ExpressionPtr value);
  void take_arguments(Expression& node);  // behind the '('
  bool ends_tuple(std::string_view end) const;
  [[noreturn]] void unexpected(std::string_view wanted) const;

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace shoal::jinja
