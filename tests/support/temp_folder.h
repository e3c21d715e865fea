// A fresh folder that is removed at the end of the test. In memory where there is /dev/shm: fsync costs
// nothing there.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>

namespace cohort::testing {

class TempFolder {
 public:
  TempFolder() {
    const bool shared_memory = ::access("/dev/shm", W_OK) == 0;
    path_ = (shared_memory ? std::filesystem::path("/dev/shm") : std::filesystem::temp_directory_path()) /
            "cohort-test-XXXXXX";
    if (::mkdtemp(path_.data()) == nullptr) throw std::runtime_error("TempFolder: mkdtemp failed");
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace cohort::testing
