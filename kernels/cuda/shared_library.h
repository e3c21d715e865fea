// The vendor's libraries (cuDNN, cuBLASLt) are opened on first use and never linked: one binary starts in
// milliseconds on any machine, and where a library is missing it says which, where it looked and what to do.
//
// Searched in this order: the folders of COHORT_CUDA_LIBRARIES (colon-separated; each one, and nvidia/*/lib
// and */lib below it, so that the site-packages of a PyTorch installation can be named), the loader's own
// path, lib64 and lib of CUDA_HOME and CUDA_PATH, the toolkit that the build was configured with.
#pragma once

#include <string>
#include <vector>

namespace cohort::kernels::cuda {

struct LibraryName {
  std::string title;               // "cuDNN"
  std::vector<std::string> files;  // accepted sonames, the preferred one first
  std::string needed_for;          // "convolutions"
  std::string install;             // what a user can do about its absence
};

const LibraryName& cudnn_name();
const LibraryName& cublaslt_name();
const LibraryName& driver_name();

// What a search found. `path` empty: nothing could be opened, and `problem` says why.
struct FoundLibrary {
  void* handle = nullptr;
  std::string path;
  std::string problem;
  std::vector<std::string> searched;
};

// Opened libraries stay open until the process ends.
FoundLibrary find_library(const LibraryName& name);

class SharedLibrary {
 public:
  // Throws Error(kDevice).
  explicit SharedLibrary(LibraryName name);

  const std::string& path() const { return found_.path; }

  // Throws Error(kDevice) when the library lacks the symbol: it is older than what Cohort was built for.
  void* symbol(const char* symbol_name) const;

  template <class Function>
  void load(Function*& function, const char* symbol_name) const {
    function = reinterpret_cast<Function*>(symbol(symbol_name));
  }

 private:
  LibraryName name_;
  FoundLibrary found_;
};

// For `doctor`: needs no GPU and no driver. Usable: path and version; else a problem.
struct LibraryState {
  std::string title, needed_for, path, version, problem, install;
  std::vector<std::string> searched;
};
std::vector<LibraryState> library_states();

}  // namespace cohort::kernels::cuda
