#include "core/spelling.h"

#include <gtest/gtest.h>

namespace cohort {
namespace {

TEST(Spelling, EditDistance) {
  EXPECT_EQ(edit_distance("", ""), 0);
  EXPECT_EQ(edit_distance("abc", ""), 3);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
  EXPECT_EQ(edit_distance("epochs", "epcohs"), 1) << "a swap counts once";
  EXPECT_EQ(edit_distance(std::string(81, 'a'), "a"), 80);
}

TEST(Spelling, Nearest) {
  EXPECT_EQ(nearest("epcohs", {"seed", "epochs", "lr"}), "epochs");
  EXPECT_EQ(nearest("zzz", {"seed", "epochs", "lr"}), "");
}

}  // namespace
}  // namespace cohort
