#include "node/signed_plan.h"

#include <fmt/format.h>

#include <boost/json.hpp>

#include "node/node.h"

namespace shoal {
namespace {

namespace json = boost::json;

constexpr std::string_view kPurpose = "shoal plan";

struct Statement {
  std::string cluster, model, numeric_class;
  uint64_t epoch = 0;
  uint32_t protocol = 0;
  std::string layout;
};

Result<Statement> parse(const std::string& text) {
  Statement statement;
  try {
    const json::value value = json::parse(text);
    const json::object& object = value.as_object();
    const auto word = [&](const char* key) { return std::string(object.at(key).as_string()); };
    statement.cluster = word("cluster");
    statement.model = word("model");
    statement.numeric_class = word("numeric_class");
    statement.epoch = object.at("epoch").to_number<uint64_t>();
    statement.protocol = object.at("protocol").to_number<uint32_t>();
    statement.layout = json::serialize(object.at("layout").as_object());
  } catch (const std::exception& error) {
    return Error{Errc::kBadFrame, fmt::format("it cannot be read: {}", error.what())};
  }
  return statement;
}

// An empty text is not known yet, on either side.
std::string difference(const char* what, const std::string& theirs, const std::string& mine) {
  if (theirs.empty() || mine.empty() || theirs == mine) return "";
  return fmt::format("it is for {} {}, and this node's is {}", what, theirs, mine);
}

std::string why_not_ours(const Statement& statement, const NodeIdentity& self) {
  for (const std::string& other : {difference("cluster", statement.cluster, self.cluster),
                                   difference("model", statement.model, self.model_fingerprint),
                                   difference("numeric class", statement.numeric_class, self.numeric_class),
                                   difference("protocol version", std::to_string(statement.protocol),
                                              std::to_string(kProtocolVersion))}) {
    if (!other.empty()) return other;
  }
  return "";
}

// The head that signed; empty without TLS.
Result<std::string> signer_of(const LoadPlan& order, const NodeIdentity& self, SignerHeld held) {
  if (self.tls == nullptr) return std::string();
  const Result<CertificateInfo> by =
      self.tls->check(kPurpose, {order.plan_json, order.certificate, order.signature}, held);
  if (by.has_error()) return by.error();
  if (by->head) return by->node;
  return Error{Errc::kRefused, fmt::format("node {} signed it, which is not the head", by->node)};
}

Result<PipelineLayout> checked(const LoadPlan& order, const NodeIdentity& self, uint64_t present_epoch,
                               SignerHeld held) {
  const Result<std::string> signer = signer_of(order, self, held);
  if (signer.has_error()) return signer.error();
  const Result<Statement> statement = parse(order.plan_json);
  if (statement.has_error()) return statement.error();
  const auto refused = [](std::string why) { return Error{Errc::kRefused, std::move(why)}; };
  if (const std::string why = why_not_ours(*statement, self); !why.empty()) return refused(why);
  if (statement->epoch != order.epoch)
    return refused(fmt::format("it was made for epoch {}", statement->epoch));
  if (statement->epoch <= present_epoch)
    return refused(fmt::format("the present epoch is {}, and it is late or its head does not know of that",
                               present_epoch));
  Result<PipelineLayout> layout = layout_from_json(statement->layout);
  if (layout && !signer->empty() && layout->head != *signer)
    return refused(fmt::format("node {} signed it, and it names {} as the head", *signer, layout->head));
  return layout;
}

}  // namespace

LoadPlan signed_plan(const NodeIdentity& head, const PipelineLayout& layout, uint64_t epoch) {
  const json::object statement{{"cluster", head.cluster},
                               {"epoch", epoch},
                               {"protocol", kProtocolVersion},
                               {"model", head.model_fingerprint},
                               {"numeric_class", head.numeric_class},
                               {"layout", json::parse(layout_to_json(layout))}};
  LoadPlan order{epoch, json::serialize(statement), "", ""};
  if (head.tls == nullptr) return order;
  SignedText made = head.tls->sign(kPurpose, order.plan_json);
  order.certificate = std::move(made.certificate);
  order.signature = std::move(made.signature);
  return order;
}

Result<PipelineLayout> check_plan(const LoadPlan& order, const NodeIdentity& self, uint64_t present_epoch,
                                  const std::string& sender) {
  Result<PipelineLayout> layout = checked(order, self, present_epoch, SignerHeld::kNow);
  if (layout) return layout;
  return Error{layout.error().code, fmt::format("the plan of epoch {} from {} was refused: {}", order.epoch,
                                                sender, layout.error().message)};
}

Result<PipelineLayout> check_held(const LoadPlan& order, const NodeIdentity& self) {
  if (self.tls == nullptr && order.epoch > kClaimMax)
    return Error{Errc::kRefused, fmt::format("no head makes {} plans", order.epoch)};
  return checked(order, self, /*present_epoch=*/0, SignerHeld::kEver);
}

SharedPlan share_plan(Bootstrap& bootstrap, const NodeIdentity& self, const PipelineLayout& mine) {
  SharedPlan shared;
  LoadPlan& order = shared.order;
  if (bootstrap.rank() == 0) order = signed_plan(self, mine, kFirstEpoch);
  order.epoch = kFirstEpoch;
  for (std::string* part : {&order.plan_json, &order.certificate, &order.signature})
    *part = bootstrap.broadcast(*part);
  (void)together(bootstrap, self.name, [&] {
    Result<PipelineLayout> taken = check_plan(order, self, 0, "the head " + mine.head);
    if (taken.has_error()) throw SetupError(taken.error().message, kExitFailed);
    shared.layout = std::move(*taken);
    return std::string();
  });
  return shared;
}

}  // namespace shoal
