#include "model/template_interpreter.h"

#include <algorithm>

#include "model/template_call.h"
#include "model/template_text.h"

namespace shoal::jinja {
namespace {

using Kind = Value::Kind;

// Variables of one block and those around it.
struct Scope {
  explicit Scope(Scope* parent) : parent(parent) {}
  Scope* parent;
  std::vector<std::pair<std::string_view, Value>> variables;  // names are the tree's

  Value* find_own(std::string_view name) {
    for (auto& [known, value] : variables) {
      if (known == name) return &value;
    }
    return nullptr;
  }
  void set(std::string_view name, Value value) {
    if (Value* own = find_own(name)) {
      *own = std::move(value);
    } else {
      variables.emplace_back(name, std::move(value));
    }
  }
};

enum class Flow { kNext, kBreak, kContinue };

class Interpreter {
 public:
  Interpreter(const Variables& variables, Budget& budget)
      : budget_(budget), now_(variables.now), root_(nullptr) {
    for (const auto& [name, value] : variables.values) root_.set(name, value);
  }

  MarkedText run(const Block& block) {
    MarkedText out;
    (void)execute(block, root_, out);
    return out;
  }

 private:
  // One level of what is evaluated; its line goes into an error that has none.
  struct Level {
    Level(Interpreter& interpreter) : interpreter(interpreter) {
      if (interpreter.depth_ >= kEvaluationDepthMax)
        fail("the template calls itself more than " + std::to_string(kEvaluationDepthMax) + " levels deep");
      ++interpreter.depth_;
      interpreter.budget_.step();
    }
    ~Level() { --interpreter.depth_; }
    Level(const Level&) = delete;
    Interpreter& interpreter;
  };

  // ---- statements ----

  Flow execute(const Block& block, Scope& scope, MarkedText& out) {
    for (const Statement& statement : block) {
      try {
        const Flow flow = execute(statement, scope, out);
        if (flow != Flow::kNext) return flow;
      } catch (TemplateError& error) {
        if (error.line == 0) error.line = statement.line;
        throw;
      }
    }
    return Flow::kNext;
  }

  Flow execute(const Statement& statement, Scope& scope, MarkedText& out) {
    const Level level(*this);
    switch (statement.kind) {
      case Statement::Kind::kText:
        write(statement.text.text(), out);
        return Flow::kNext;
      case Statement::Kind::kOutput:
        write(to_text(evaluate(*statement.value, scope), budget_), out);
        return Flow::kNext;
      case Statement::Kind::kIf:
        for (const auto& [condition, body] : statement.branches) {
          if (evaluate(*condition, scope).truthy()) return execute(body, scope, out);
        }
        return execute(statement.otherwise, scope, out);
      case Statement::Kind::kFor:
        return loop(statement, scope, out);
      case Statement::Kind::kSet:
        assign(statement.target, evaluate(*statement.value, scope), scope);
        return Flow::kNext;
      case Statement::Kind::kSetBlock:
        assign(statement.target, filtered_block(statement, scope), scope);
        return Flow::kNext;
      case Statement::Kind::kFilter:
        write(to_text(filtered_block(statement, scope), budget_), out);
        return Flow::kNext;
      case Statement::Kind::kMacro: {
        const MacroNode& macro = statement.macro;
        scope.set(macro.name, Value(std::make_shared<const Callable>(Callable{&macro, macro.name, Value()})));
        return Flow::kNext;
      }
      case Statement::Kind::kWith: {
        Scope inner(&scope);
        for (const auto& [target, value] : statement.assignments)
          assign(target, evaluate(*value, scope), inner);
        return execute(statement.body, inner, out);
      }
      case Statement::Kind::kGroup:
        return execute(statement.body, scope, out);
      case Statement::Kind::kBreak:
        return Flow::kBreak;
      case Statement::Kind::kContinue:
        return Flow::kContinue;
    }
    return Flow::kNext;
  }

  void write(const MarkedText& text, MarkedText& out) {
    budget_.bytes(2 * text.size());
    out.append(text);
  }

  Flow loop(const Statement& statement, Scope& scope, MarkedText& out) {
    std::shared_ptr<const List> items = iterate(evaluate(*statement.value, scope), budget_);
    if (statement.condition) {
      std::vector<Value> kept;
      for (const Value& value : items->items) {
        Scope inner(&scope);
        assign(statement.target, value, inner);
        if (evaluate(*statement.condition, inner).truthy()) kept.push_back(value);
      }
      auto list = std::make_shared<List>();
      budget_.bytes(kept.size() * sizeof(Value));
      list->items = std::move(kept);
      items = std::move(list);
    }
    if (items->items.empty()) {
      Scope inner(&scope);
      return execute(statement.otherwise, inner, out);
    }
    for (size_t i = 0; i < items->items.size(); ++i) {
      budget_.step();
      Scope inner(&scope);
      inner.set("loop", Value(std::make_shared<const Loop>(Loop{i, items})));
      assign(statement.target, items->items[i], inner);
      if (execute(statement.body, inner, out) == Flow::kBreak) break;
    }
    return Flow::kNext;
  }

  Value filtered_block(const Statement& statement, Scope& scope) {
    Scope inner(&scope);
    MarkedText text;
    (void)execute(statement.body, inner, text);
    Value value = make_text(std::move(text), budget_);
    if (!statement.value) return value;
    std::swap(block_text_, value);
    Value result = evaluate(*statement.value, scope);
    std::swap(block_text_, value);
    return result;
  }

  void assign(const Target& target, Value value, Scope& scope) {
    if (!target.parts.empty()) {
      const auto items = iterate(value, budget_);
      if (items->items.size() != target.parts.size()) {
        fail(std::to_string(items->items.size()) + " values cannot be set for " +
             std::to_string(target.parts.size()) + " names");
      }
      for (size_t i = 0; i < items->items.size(); ++i) assign(target.parts[i], items->items[i], scope);
    } else if (target.member.empty()) {
      scope.set(target.name, std::move(value));
    } else {
      const Value space = look_up(target.name, scope);
      if (!space.is(Kind::kDict) || !space.dict().is_namespace)
        fail("'" + target.name + "' is no namespace: its members cannot be set");
      set_member(space.dict(), MarkedText(target.member, true), std::move(value), budget_);
    }
  }

  // ---- expressions ----

  Value look_up(const std::string& name, Scope& scope) {
    for (Scope* at = &scope; at != nullptr; at = at->parent) {
      budget_.step();
      if (const Value* found = at->find_own(name)) return *found;
    }
    if (has_function(name)) return Value(std::make_shared<const Callable>(Callable{nullptr, name, Value()}));
    return Value(Undefined{name});
  }

  Value evaluate(const Expression& node, Scope& scope) {
    const Level level(*this);
    try {
      return evaluate_kind(node, scope);
    } catch (TemplateError& error) {
      if (error.line == 0) error.line = node.line;
      throw;
    }
  }

  Value operand(const Expression& node, size_t index, Scope& scope) {
    return evaluate(*node.operands[index], scope);
  }

  Value evaluate_kind(const Expression& node, Scope& scope) {
    switch (node.kind) {
      case Expression::Kind::kConstant:
        return node.constant;
      case Expression::Kind::kBlockText:
        return block_text_;
      case Expression::Kind::kName:
        return look_up(node.name, scope);
      case Expression::Kind::kList:
      case Expression::Kind::kTuple:
        return list(node, scope);
      case Expression::Kind::kDict:
        return mapping(node, scope);
      case Expression::Kind::kAttribute:
        return attribute(operand(node, 0, scope), node.name, budget_);
      case Expression::Kind::kItem: {
        const Value value = operand(node, 0, scope);
        return item(value, operand(node, 1, scope), budget_);
      }
      case Expression::Kind::kSlice:
        return slice_of(node, scope);
      case Expression::Kind::kCall:
        return call(operand(node, 0, scope), evaluate_arguments(node.arguments, scope), node);
      case Expression::Kind::kFilter: {
        const Value value = operand(node, 0, scope);
        return apply_filter(node.name, value, evaluate_arguments(node.arguments, scope), budget_);
      }
      case Expression::Kind::kTest: {
        const Value value = operand(node, 0, scope);
        return Value(apply_test(node.name, value, evaluate_arguments(node.arguments, scope), budget_));
      }
      case Expression::Kind::kNot:
        return Value(!operand(node, 0, scope).truthy());
      case Expression::Kind::kAnd: {
        Value left = operand(node, 0, scope);
        return left.truthy() ? operand(node, 1, scope) : left;
      }
      case Expression::Kind::kOr: {
        Value left = operand(node, 0, scope);
        return left.truthy() ? left : operand(node, 1, scope);
      }
      case Expression::Kind::kUnary: {
        const Value value = operand(node, 0, scope);
        return node.name == "-" ? negative(value) : binary("+", Value(int64_t{0}), value, budget_);
      }
      case Expression::Kind::kBinary: {
        const Value left = operand(node, 0, scope);
        return binary(node.name, left, operand(node, 1, scope), budget_);
      }
      case Expression::Kind::kConcat:
        return concatenation(node, scope);
      case Expression::Kind::kCompare:
        return comparison(node, scope);
      case Expression::Kind::kCondition:
        if (operand(node, 0, scope).truthy()) return operand(node, 1, scope);
        return node.operands[2] ? operand(node, 2, scope) : Value(Undefined{"the else of an if"});
    }
    return {};
  }

  Value list(const Expression& node, Scope& scope) {
    std::vector<Value> items;
    for (const ExpressionPtr& member : node.operands) items.push_back(evaluate(*member, scope));
    return make_list(std::move(items), budget_,
                     node.kind == Expression::Kind::kTuple ? List::Form::kTuple : List::Form::kList);
  }

  Value mapping(const Expression& node, Scope& scope) {
    std::vector<std::pair<MarkedText, Value>> items;
    for (size_t i = 0; i + 1 < node.operands.size(); i += 2) {
      const Value key = operand(node, i, scope);
      items.emplace_back(text_of(key, "a mapping's key"), operand(node, i + 1, scope));
    }
    return make_dict(std::move(items), budget_);
  }

  Value slice_of(const Expression& node, Scope& scope) {
    const Value value = operand(node, 0, scope);
    Value parts[3] = {Value(None{}), Value(None{}), Value(None{})};
    for (size_t i = 0; i < 3; ++i) {
      if (node.operands[i + 1]) parts[i] = operand(node, i + 1, scope);
    }
    return slice(value, parts[0], parts[1], parts[2], budget_);
  }

  Value concatenation(const Expression& node, Scope& scope) {
    MarkedText out;
    for (size_t i = 0; i < node.operands.size(); ++i) write(to_text(operand(node, i, scope), budget_), out);
    return Value(std::move(out));
  }

  Value comparison(const Expression& node, Scope& scope) {
    Value left = operand(node, 0, scope);
    for (size_t i = 0; i < node.comparisons.size(); ++i) {
      Value right = operand(node, i + 1, scope);
      if (!compares(node.comparisons[i], left, right)) return Value(false);
      left = std::move(right);
    }
    return Value(true);
  }

  bool compares(const std::string& sign, const Value& left, const Value& right) {
    if (sign == "==") return equal(left, right, budget_);
    if (sign == "!=") return !equal(left, right, budget_);
    if (sign == "in") return contains(right, left, budget_);
    if (sign == "not in") return !contains(right, left, budget_);
    const int way = compare(left, right, budget_);
    return sign == "<" ? way < 0 : sign == "<=" ? way <= 0 : sign == ">" ? way > 0 : way >= 0;
  }

  // ---- calls ----

  CallArguments evaluate_arguments(const Arguments& nodes, Scope& scope) {
    CallArguments arguments;
    for (const ExpressionPtr& value : nodes.positional)
      arguments.positional.push_back(evaluate(*value, scope));
    for (const auto& [name, value] : nodes.named) arguments.named.emplace_back(name, evaluate(*value, scope));
    return arguments;
  }

  Value call(const Value& callee, const CallArguments& arguments, const Expression& node) {
    if (callee.is(Kind::kUndefined))
      fail("'" + callee.undefined_name() + "' is undefined and cannot be called");
    if (!callee.is(Kind::kCallable)) {
      const std::string& name = node.operands[0]->name;
      fail((name.empty() ? "" : "'" + name + "' is ") + callee.type_name() + " and cannot be called");
    }
    const Callable& target = callee.callable();
    if (target.macro != nullptr) return call_macro(*target.macro, arguments);
    if (!target.self.is(Kind::kUndefined)) return call_method(target.self, target.name, arguments, budget_);
    return call_function(target.name, arguments, now_, budget_);
  }

  Value call_macro(const MacroNode& macro, const CallArguments& arguments) {
    if (arguments.positional.size() > macro.parameters.size())
      fail("the macro " + macro.name + " takes at most " + std::to_string(macro.parameters.size()) +
           " arguments");
    Scope scope(&root_);
    for (size_t i = 0; i < macro.parameters.size(); ++i) {
      const auto& [name, fallback] = macro.parameters[i];
      const auto named =
          std::find_if(arguments.named.begin(), arguments.named.end(),
                       [&, &wanted = name](const auto& argument) { return argument.first == wanted; });
      if (i < arguments.positional.size()) {
        scope.set(name, arguments.positional[i]);
      } else if (named != arguments.named.end()) {
        scope.set(name, named->second);
      } else {
        scope.set(name, fallback ? evaluate(*fallback, scope) : Value(Undefined{name}));
      }
    }
    for (const auto& argument : arguments.named) {
      if (scope.find_own(argument.first) == nullptr)
        fail("the macro " + macro.name + " has no argument '" + argument.first + "'");
    }
    MarkedText out;
    (void)execute(*macro.body, scope, out);
    return Value(std::move(out));
  }

  Budget& budget_;
  const std::time_t now_;
  Scope root_;
  Value block_text_;
  int depth_ = 0;
};

}  // namespace

MarkedText render(const Block& block, const Variables& variables, Budget& budget) {
  return Interpreter(variables, budget).run(block);
}

}  // namespace shoal::jinja
