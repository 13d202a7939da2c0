#include "node/user_shares.h"

#include <doctest/doctest.h>

namespace shoal {

TEST_CASE("who has had more rows comes a turn later; within a turn users are equals") {
  UserShares shares;
  shares.set_waiting({"anna", "bert"});
  CHECK(shares.turn("anna", 0) == 0);
  shares.charge("anna", 900);
  shares.set_waiting({"anna", "bert"});
  CHECK(shares.turn("anna", 0) == 0);
  CHECK(shares.turn("anna", 200) == 1);  // behind another prompt of hers
  shares.charge("anna", 200);
  shares.set_waiting({"anna", "bert"});
  CHECK(shares.turn("anna", 0) == 1);
  CHECK(shares.turn("bert", 0) == 0);
  shares.charge("bert", 1000);
  shares.set_waiting({"anna", "bert"});
  CHECK(shares.turn("anna", 0) == 0);
}

TEST_CASE("a pause saves nothing up, and does away with no debt") {
  UserShares shares;
  shares.set_waiting({"anna", "bert"});
  shares.charge("anna", 5000);
  shares.charge("bert", 3000);
  shares.set_waiting({"bert"});
  CHECK(shares.turn("anna", 0) == 1);  // 2000 rows more than he
  shares.set_waiting({"bert", "carl"});
  CHECK(shares.turn("carl", 0) == 0);  // like who has least, and not 3000 rows before him
  shares.charge("carl", 2 * UserShares::kTurnRows);
  shares.set_waiting({"bert", "carl"});
  CHECK(shares.turn("carl", 0) == 2);
  shares.set_waiting({});  // what he had while nobody else wanted anything is forgotten
  shares.set_waiting({"bert", "carl"});
  CHECK(shares.turn("carl", 0) == 0);
}

}  // namespace shoal
