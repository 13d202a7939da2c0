#include "node/answer_check.h"

#include <doctest/doctest.h>

#include <functional>
#include <limits>

#include "tests/node/caller.h"

namespace shoal::test {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

PipelineLayout layout_of_vocabulary(int n_vocab) {
  PipelineLayout layout;
  layout.n_vocab = n_vocab;
  layout.n_embd = 4;
  return layout;
}

const PipelineLayout kLayout = layout_of_vocabulary(6);
const std::vector<AskedRow> kAsked = {{3, 2}, {7, 6}};  // the second: the whole vocabulary

StepOutcome good_answer() {
  StepOutcome answer;
  answer.rows = {{3, 2.0f, {{5, 1.5f}, {0, 1.0f}}},
                 {7, 2.0f, {{1, 3.0f}, {0, 2.0f}, {2, 2.0f}, {3, -1.0f}, {4, -kInf}, {5, -kInf}}}};
  return answer;
}

std::string wrong_with(const std::function<void(StepOutcome&)>& change) {
  StepOutcome answer = good_answer();
  change(answer);
  return why_unusable(answer, kAsked, kLayout);
}

}  // namespace

TEST_CASE("an answer with what was asked for can be used, and one that has more candidates") {
  CHECK(why_unusable(good_answer(), kAsked, kLayout) == "");
  CHECK(wrong_with([](StepOutcome& a) { a.rows[0].candidates.push_back({1, 0.5f}); }) == "");
  CHECK(why_unusable({}, {}, kLayout) == "");
  // As many as there are, where more are asked for.
  const std::vector<AskedRow> more = {{3, 2}, {7, 40}};
  CHECK(why_unusable(good_answer(), more, kLayout) == "");
}

TEST_CASE("an answer with other rows than were asked for cannot be used") {
  CHECK(mentions(wrong_with([](StepOutcome& a) { a.rows.pop_back(); }), "1 rows, where 2 were"));
  CHECK(mentions(wrong_with([](StepOutcome& a) { a.rows.push_back(a.rows[1]); }), "3 rows, where 2 were"));
  CHECK(mentions(wrong_with([](StepOutcome& a) { a.rows[1].row = 3; }), "row 3, where row 7"));
  CHECK(mentions(wrong_with([](StepOutcome& a) { a.rows[0].row = -1; }), "row 4294967295, where row 3"));
}

TEST_CASE("candidates that are too few, too many, strange, twice there or out of order cannot be used") {
  using Candidates = std::vector<Candidate>;
  const auto with = [](size_t row, const Candidates& candidates) {
    return wrong_with([&](StepOutcome& a) { a.rows[row].candidates = candidates; });
  };
  CHECK(mentions(with(0, {}), "row 3: 0 candidates, where 2 were"));
  CHECK(mentions(with(0, {{5, 1.5f}}), "row 3: 1 candidates, where 2 were"));
  CHECK(mentions(with(1, {{0, 3.0f}, {1, 2.0f}, {2, 1.0f}}), "row 7: 3 candidates, where 6 were"));
  CHECK(mentions(with(0, Candidates(7, {1, 1.0f})), "row 3: 7 candidates"));
  CHECK(mentions(with(0, {{6, 1.5f}, {0, 1.0f}}), "token 6 is not in the vocabulary of 6"));
  CHECK(mentions(with(0, {{0, 1.5f}, {-1, 1.0f}}), "token 4294967295 is not in the vocabulary"));
  CHECK(mentions(with(0, {{5, 1.5f}, {5, 1.0f}}), "token 5 occurs twice"));
  CHECK(mentions(with(0, {{5, 1.0f}, {0, 1.5f}}), "not in order"));
  CHECK(mentions(with(0, {{5, 1.0f}, {0, 1.0f}}), "not in order"));
  // What one row has is nothing to the next.
  CHECK(mentions(with(1, {{0, 3.0f}, {1, 2.0f}, {2, 1.0f}, {3, 0.0f}, {4, -1.0f}, {4, -2.0f}}), "4 occurs"));
}

TEST_CASE("logits that no token may be drawn from cannot be used") {
  for (const float bad : {kNan, kInf, -kInf}) {
    CAPTURE(bad);
    CHECK(mentions(wrong_with([&](StepOutcome& a) { a.rows[0].candidates[0].logit = bad; }), "not finite"));
    CHECK(mentions(wrong_with([&](StepOutcome& a) { a.rows[0].log_sum_exp = bad; }), "not finite"));
  }
  for (const float bad : {kNan, kInf})
    CHECK(mentions(wrong_with([&](StepOutcome& a) { a.rows[1].candidates[3].logit = bad; }), "order"));
}

TEST_CASE("an embedding is finite and no longer than a hidden state, and comes where it was asked for") {
  const std::vector<AskedRow> asked = {{0, 1, true}};
  const auto wrong = [&](const std::vector<float>& embedding, const std::vector<Candidate>& candidates) {
    StepOutcome answer;
    answer.rows = {{0, 0, candidates, embedding}};
    return why_unusable(answer, asked, kLayout);
  };
  CHECK(wrong({1, 2, 3, 4}, {}) == "");
  CHECK(wrong({1}, {}) == "");  // a score
  CHECK(mentions(wrong({}, {}), "0 numbers"));
  CHECK(mentions(wrong({1, 2, 3, 4, 5}, {}), "5 numbers"));
  CHECK(mentions(wrong({1, kNan}, {}), "not finite"));
  CHECK(mentions(wrong({1}, {{0, 1.0f}}), "where an embedding was asked for"));
  CHECK(mentions(wrong_with([](StepOutcome& a) { a.rows[0].embedding = {1.0f}; }), "nobody asked for"));
}

}  // namespace shoal::test
