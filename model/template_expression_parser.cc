#include "model/template_expression_parser.h"

#include <algorithm>

#include "model/template_parser.h"

namespace shoal::jinja {

using Kind = Expression::Kind;

namespace {

std::string describe(const Token& token) {
  switch (token.kind) {
    case Token::Kind::kEnd:
      return "the end of the template";
    case Token::Kind::kBlockEnd:
      return "%}";
    case Token::Kind::kOutputEnd:
      return "}}";
    case Token::Kind::kBlockBegin:
      return "{%";
    case Token::Kind::kOutputBegin:
      return "{{";
    case Token::Kind::kText:
      return "text";
    case Token::Kind::kString:
      return "a string";
    default:
      return "'" + token.text.substr(0, 40) + "'";
  }
}

[[noreturn]] void too_deep() {
  fail("the template is nested more than " + std::to_string(kTemplateDepthMax) + " deep");
}

}  // namespace

ExpressionParser::Nesting::Nesting(ExpressionParser& parser) : parser(parser) {
  if (parser.depth_ >= kTemplateDepthMax) too_deep();
  ++parser.depth_;
}

const Token& ExpressionParser::next() {
  const Token& token = tokens_[at_];
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}
bool ExpressionParser::skip_operator(std::string_view text) {
  if (!token_is_operator(text)) return false;
  next();
  return true;
}
bool ExpressionParser::skip_name(std::string_view text) {
  if (!name_is(text)) return false;
  next();
  return true;
}
void ExpressionParser::unexpected(std::string_view wanted) const {
  fail("unexpected " + describe(token()) +
       (wanted.empty() ? "" : " where " + std::string(wanted) + " should be"));
}
void ExpressionParser::expect(Token::Kind kind, std::string_view what) {
  if (!token_is(kind)) unexpected(what);
  next();
}
void ExpressionParser::expect_operator(std::string_view text) {
  if (!skip_operator(text)) unexpected("'" + std::string(text) + "'");
}
void ExpressionParser::expect_keyword(std::string_view text) {
  if (!skip_name(text)) unexpected("'" + std::string(text) + "'");
}
std::string ExpressionParser::expect_name() {
  if (!token_is(Token::Kind::kName)) unexpected("a name");
  return next().text;
}

ExpressionPtr ExpressionParser::make(Kind kind, ExpressionPtr a, ExpressionPtr b, std::string name) const {
  auto node = std::make_unique<Expression>();
  node->kind = kind;
  node->line = token().line;
  node->name = std::move(name);
  if (a) node->line = a->line;
  for (ExpressionPtr* operand : {&a, &b}) {
    if (*operand == nullptr) continue;
    node->depth = std::max(node->depth, (*operand)->depth + 1);
    node->operands.push_back(std::move(*operand));
  }
  // A chain such as a + b + c is parsed without recursion but is as deep as it is long.
  if (node->depth > kTemplateDepthMax) too_deep();
  return node;
}

ExpressionPtr ExpressionParser::constant(Value value) {
  ExpressionPtr node = make(Kind::kConstant);
  node->constant = std::move(value);
  return node;
}

ExpressionPtr ExpressionParser::expression() {
  const Nesting nesting(*this);
  ExpressionPtr value = any_of();
  while (skip_name("if")) {
    ExpressionPtr condition = any_of();
    ExpressionPtr otherwise = skip_name("else") ? expression() : nullptr;
    const int depth = otherwise ? otherwise->depth : 0;
    value = make(Kind::kCondition, std::move(condition), std::move(value));
    value->operands.push_back(std::move(otherwise));
    value->depth = std::max(value->depth, depth + 1);
    if (value->depth > kTemplateDepthMax) too_deep();
  }
  return value;
}

bool ExpressionParser::ends_tuple(std::string_view end) const {
  return token_is(Token::Kind::kBlockEnd) || token_is(Token::Kind::kOutputEnd) || token_is_operator(")") ||
         (!end.empty() && name_is(end));
}

ExpressionPtr ExpressionParser::tuple(bool with_condition, std::string_view end) {
  const Nesting nesting(*this);
  ExpressionPtr first = with_condition ? expression() : any_of();
  if (!token_is_operator(",")) return first;
  ExpressionPtr all = make(Kind::kTuple, std::move(first));
  while (skip_operator(",")) {
    if (ends_tuple(end)) break;
    all->operands.push_back(with_condition ? expression() : any_of());
    all->depth = std::max(all->depth, all->operands.back()->depth + 1);
  }
  return all;
}

ExpressionPtr ExpressionParser::any_of() {
  ExpressionPtr left = all_of();
  while (skip_name("or")) left = make(Kind::kOr, std::move(left), all_of());
  return left;
}

ExpressionPtr ExpressionParser::all_of() {
  ExpressionPtr left = negation();
  while (skip_name("and")) left = make(Kind::kAnd, std::move(left), negation());
  return left;
}

ExpressionPtr ExpressionParser::negation() {
  if (!skip_name("not")) return comparison();
  const Nesting nesting(*this);
  return make(Kind::kNot, negation());
}

ExpressionPtr ExpressionParser::comparison() {
  ExpressionPtr left = sum();
  ExpressionPtr all;
  while (true) {
    std::string sign;
    static constexpr std::string_view kSigns[] = {"==", "!=", "<", "<=", ">", ">="};
    if (token_is(Token::Kind::kOperator) &&
        std::find(std::begin(kSigns), std::end(kSigns), token().text) != std::end(kSigns)) {
      sign = next().text;
    } else if (skip_name("in")) {
      sign = "in";
    } else if (name_is("not") && tokens_[std::min(at_ + 1, tokens_.size() - 1)].text == "in") {
      next();
      next();
      sign = "not in";
    } else {
      return all ? std::move(all) : std::move(left);
    }
    if (!all) all = make(Kind::kCompare, std::move(left));
    all->comparisons.push_back(std::move(sign));
    all->operands.push_back(sum());
    all->depth = std::max(all->depth, all->operands.back()->depth + 1);
  }
}

ExpressionPtr ExpressionParser::sum() {
  ExpressionPtr left = concatenation();
  while (token_is_operator("+") || token_is_operator("-")) {
    std::string sign = next().text;
    left = make(Kind::kBinary, std::move(left), concatenation(), std::move(sign));
  }
  return left;
}

ExpressionPtr ExpressionParser::concatenation() {
  ExpressionPtr left = product();
  if (!token_is_operator("~")) return left;
  ExpressionPtr all = make(Kind::kConcat, std::move(left));
  while (skip_operator("~")) {
    all->operands.push_back(product());
    all->depth = std::max(all->depth, all->operands.back()->depth + 1);
  }
  return all;
}

ExpressionPtr ExpressionParser::product() {
  ExpressionPtr left = power();
  while (token_is_operator("*") || token_is_operator("/") || token_is_operator("//") ||
         token_is_operator("%")) {
    std::string sign = next().text;
    left = make(Kind::kBinary, std::move(left), power(), std::move(sign));
  }
  return left;
}

ExpressionPtr ExpressionParser::power() {
  ExpressionPtr left = unary(true);
  while (skip_operator("**")) left = make(Kind::kBinary, std::move(left), unary(true), "**");
  return left;
}

ExpressionPtr ExpressionParser::unary(bool with_filters) {
  const Nesting nesting(*this);
  ExpressionPtr value;
  if (token_is_operator("-") || token_is_operator("+")) {
    std::string sign = next().text;
    value = make(Kind::kUnary, unary(false), nullptr, std::move(sign));
  } else {
    value = primary();
  }
  value = postfix(std::move(value));
  while (with_filters) {
    if (skip_operator("|")) {
      value = filter(std::move(value));
    } else if (skip_name("is")) {
      value = test(std::move(value));
    } else if (token_is_operator("(")) {
      value = call(std::move(value));
    } else {
      break;
    }
  }
  return value;
}

ExpressionPtr ExpressionParser::primary() {
  switch (token().kind) {
    case Token::Kind::kName: {
      if (name_is("true") || name_is("True")) return next(), constant(Value(true));
      if (name_is("false") || name_is("False")) return next(), constant(Value(false));
      if (name_is("none") || name_is("None")) return next(), constant(Value(None{}));
      ExpressionPtr node = make(Kind::kName);
      node->name = next().text;
      return node;
    }
    case Token::Kind::kString: {
      std::string text = next().text;
      while (token_is(Token::Kind::kString)) text += next().text;
      return constant(Value(std::move(text), /*trusted=*/true));
    }
    case Token::Kind::kInteger:
      return constant(Value(next().integer));
    case Token::Kind::kFloat:
      return constant(Value(next().number));
    default:
      break;
  }
  if (skip_operator("(")) {
    ExpressionPtr value = token_is_operator(")") ? make(Kind::kTuple) : tuple();
    expect_operator(")");
    return value;
  }
  const bool list = token_is_operator("[");
  if (!list && !token_is_operator("{")) unexpected("a value");
  next();
  const std::string_view end = list ? "]" : "}";
  ExpressionPtr all = make(list ? Kind::kList : Kind::kDict);
  while (!skip_operator(end)) {
    if (!all->operands.empty()) expect_operator(",");
    if (skip_operator(end)) break;
    all->operands.push_back(expression());
    all->depth = std::max(all->depth, all->operands.back()->depth + 1);
    if (list) continue;
    expect_operator(":");
    all->operands.push_back(expression());
    all->depth = std::max(all->depth, all->operands.back()->depth + 1);
  }
  return all;
}

ExpressionPtr ExpressionParser::postfix(ExpressionPtr value) {
  while (true) {
    if (skip_operator(".")) {
      if (token_is(Token::Kind::kInteger)) {
        ExpressionPtr index = constant(Value(next().integer));
        value = make(Kind::kItem, std::move(value), std::move(index));
      } else {
        value = make(Kind::kAttribute, std::move(value), nullptr, expect_name());
      }
    } else if (skip_operator("[")) {
      value = subscript(std::move(value));
    } else if (token_is_operator("(")) {
      value = call(std::move(value));
    } else {
      return value;
    }
  }
}

ExpressionPtr ExpressionParser::subscript(ExpressionPtr value) {
  ExpressionPtr parts[3];
  int count = 0;
  for (bool more = true; more && count < 3; ++count) {
    if (!token_is_operator(":") && !token_is_operator("]")) parts[count] = expression();
    more = skip_operator(":");
  }
  if (count == 1 && !parts[0]) unexpected("an index");
  expect_operator("]");
  if (count == 1) return make(Kind::kItem, std::move(value), std::move(parts[0]));
  ExpressionPtr slice = make(Kind::kSlice, std::move(value));
  for (ExpressionPtr& part : parts) {
    if (part) slice->depth = std::max(slice->depth, part->depth + 1);
    slice->operands.push_back(std::move(part));
  }
  return slice;
}

void ExpressionParser::take_arguments(Expression& node) {
  bool first = true;
  while (!skip_operator(")")) {
    if (!first) expect_operator(",");
    first = false;
    if (skip_operator(")")) break;
    if (token_is_operator("*") || token_is_operator("**"))
      fail("arguments given as *list or **mapping are not offered");
    std::string name;
    const Token& after = tokens_[std::min(at_ + 1, tokens_.size() - 1)];
    if (token_is(Token::Kind::kName) && after.kind == Token::Kind::kOperator && after.text == "=") {
      name = next().text;
      next();
    } else if (!node.arguments.named.empty()) {
      fail("an argument without a name follows one that has a name");
    }
    ExpressionPtr value = expression();
    node.depth = std::max(node.depth, value->depth + 1);
    if (name.empty()) {
      node.arguments.positional.push_back(std::move(value));
    } else {
      node.arguments.named.emplace_back(std::move(name), std::move(value));
    }
  }
  if (node.depth > kTemplateDepthMax) too_deep();
}

ExpressionPtr ExpressionParser::call(ExpressionPtr value) {
  ExpressionPtr node = make(Kind::kCall, std::move(value));
  expect_operator("(");
  take_arguments(*node);
  return node;
}

ExpressionPtr ExpressionParser::filter(ExpressionPtr value) {
  ExpressionPtr node = make(Kind::kFilter, std::move(value), nullptr, expect_name());
  if (skip_operator("(")) take_arguments(*node);
  return node;
}

ExpressionPtr ExpressionParser::test(ExpressionPtr value) {
  const bool negated = skip_name("not");
  ExpressionPtr node = make(Kind::kTest, std::move(value), nullptr, expect_name());
  static constexpr std::string_view kNoArgument[] = {"else", "or", "and", "if", "in", "not", "recursive"};
  const bool name = token_is(Token::Kind::kName) && std::find(std::begin(kNoArgument), std::end(kNoArgument),
                                                              token().text) == std::end(kNoArgument);
  if (skip_operator("(")) {
    take_arguments(*node);
  } else if (name || token_is(Token::Kind::kString) || token_is(Token::Kind::kInteger) ||
             token_is(Token::Kind::kFloat) || token_is_operator("[") || token_is_operator("{")) {
    if (name_is("is")) fail("tests with `is` cannot follow each other");
    node->arguments.positional.push_back(postfix(primary()));
  }
  return negated ? make(Kind::kNot, std::move(node)) : std::move(node);
}

}  // namespace shoal::jinja
