#include "kernels/cuda/shared_library.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "kernels/base/error.h"
#include "tests/support/temporary_folder.h"

namespace cohort::kernels::cuda {
namespace {

const LibraryName kAbsent{.title = "Nonesuch",
                          .files = {"libnonesuch.so.7"},
                          .needed_for = "the test",
                          .install = "install nonesuch"};

class SharedLibraryTest : public ::testing::Test {
 protected:
  void TearDown() override { ::unsetenv("COHORT_CUDA_LIBRARIES"); }
  void search_in(const std::string& list) { ::setenv("COHORT_CUDA_LIBRARIES", list.c_str(), 1); }
  // The C library under another name: something that can be opened.
  void plant(const std::string& place) {
    std::filesystem::create_directories(place);
    std::filesystem::create_symlink("/lib/x86_64-linux-gnu/libm.so.6", place + "/libnonesuch.so.7");
  }
  test::TemporaryFolder folder;
};

TEST_F(SharedLibraryTest, AMissingOneIsADeviceErrorThatNamesItWhereItWasSoughtAndWhatToDo) {
  search_in(folder.path().string());
  try {
    const SharedLibrary library(kAbsent);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kDevice);
    const std::string message = error.what();
    for (const std::string& part : {std::string("Nonesuch"), std::string("the test"),
                                    std::string("libnonesuch.so.7"), folder.path().string()}) {
      EXPECT_NE(message.find(part), std::string::npos) << message;
    }
    EXPECT_EQ(error.hint(), "install nonesuch");
  }
}

TEST_F(SharedLibraryTest, FoldersOfTheUserAndPackagesBelowThemAreSearchedInOrder) {
  if (!std::filesystem::exists("/lib/x86_64-linux-gnu/libm.so.6")) GTEST_SKIP() << "no library to plant";
  plant(folder.path().string() + "/site-packages/nvidia/zeta/lib");
  search_in(folder.path().string() + "/missing:" + folder.path().string() + "/site-packages");
  EXPECT_EQ(find_library(kAbsent).path,
            folder.path().string() + "/site-packages/nvidia/zeta/lib/libnonesuch.so.7");
  plant(folder.path().string() + "/site-packages/nvidia/alpha/lib");
  EXPECT_EQ(find_library(kAbsent).path,
            folder.path().string() + "/site-packages/nvidia/alpha/lib/libnonesuch.so.7");
  plant(folder.path().string() + "/first");
  search_in(folder.path().string() + "/first:" + folder.path().string() + "/site-packages");
  EXPECT_EQ(find_library(kAbsent).path, folder.path().string() + "/first/libnonesuch.so.7");
}

TEST_F(SharedLibraryTest, OneThatIsThereButCannotBeLoadedSaysWhy) {
  std::ofstream(folder.path().string() + "/libnonesuch.so.7") << "no library";
  search_in(folder.path().string());
  const FoundLibrary found = find_library(kAbsent);
  EXPECT_EQ(found.handle, nullptr);
  EXPECT_NE(found.problem.find(folder.path().string() + "/libnonesuch.so.7"), std::string::npos)
      << found.problem;
}

TEST_F(SharedLibraryTest, AMissingFunctionIsAnErrorThatNamesIt) {
  if (!std::filesystem::exists("/lib/x86_64-linux-gnu/libm.so.6")) GTEST_SKIP() << "no library to plant";
  plant(folder.path().string());
  search_in(folder.path().string());
  const SharedLibrary library(kAbsent);
  EXPECT_NE(library.symbol("cos"), nullptr);
  EXPECT_THROW(library.symbol("cosecant_of_nothing"), Error);
}

TEST_F(SharedLibraryTest, StatesOfAllLibrariesEitherWorkOrSayWhyNot) {
  const std::vector<LibraryState> states = library_states();
  ASSERT_EQ(states.size(), 3U);
  for (const LibraryState& state : states) {
    EXPECT_NE(state.path.empty(), state.problem.empty()) << state.title;
    EXPECT_EQ(state.path.empty(), state.version.empty()) << state.title << " " << state.problem;
    EXPECT_FALSE(state.install.empty());
  }
}

}  // namespace
}  // namespace cohort::kernels::cuda
