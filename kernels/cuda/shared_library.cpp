#include "kernels/cuda/shared_library.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string_view>
#include <utility>

#include "kernels/base/error.h"

#ifndef COHORT_CUDA_TOOLKIT_LIBRARIES
#define COHORT_CUDA_TOOLKIT_LIBRARIES ""
#endif

namespace cohort::kernels::cuda {
namespace {

namespace fs = std::filesystem;

std::string environment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

void add_folder(std::vector<std::string>& folders, const fs::path& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) return;
  if (std::find(folders.begin(), folders.end(), folder.string()) == folders.end()) {
    folders.push_back(folder.string());
  }
}

// */lib below `parent`, in the order of their names: the order of the folder itself would differ by machine.
void add_libraries_below(std::vector<std::string>& folders, const fs::path& parent) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator at(parent, error), end; !error && at != end; at.increment(error)) {
    found.push_back(at->path() / "lib");
  }
  std::sort(found.begin(), found.end());
  for (const fs::path& folder : found) add_folder(folders, folder);
}

std::vector<std::string> folders_of_the_user() {
  std::vector<std::string> folders;
  const std::string list = environment("COHORT_CUDA_LIBRARIES");
  for (std::size_t begin = 0; begin < list.size();) {
    const std::size_t end = std::min(list.find(':', begin), list.size());
    const fs::path folder = list.substr(begin, end - begin);
    if (!folder.empty()) {
      add_folder(folders, folder);
      add_libraries_below(folders, folder / "nvidia");
      add_libraries_below(folders, folder);
    }
    begin = end + 1;
  }
  return folders;
}

std::vector<std::string> folders_of_toolkits() {
  std::vector<std::string> folders;
  for (const char* variable : {"CUDA_HOME", "CUDA_PATH"}) {
    const fs::path home = environment(variable);
    if (home.empty()) continue;
    add_folder(folders, home / "lib64");
    add_folder(folders, home / "lib");
  }
  const std::string configured = COHORT_CUDA_TOOLKIT_LIBRARIES;
  if (!configured.empty()) add_folder(folders, configured);
  add_folder(folders, "/usr/local/cuda/lib64");
  return folders;
}

// "file: cannot open shared object file: No such file or directory" says nothing that `searched` does not.
bool tells_something(std::string_view message) {
  return message.find("No such file") == std::string_view::npos;
}

bool open(FoundLibrary& found, const std::string& path) {
  found.handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (found.handle != nullptr) {
    found.path = path;
    return true;
  }
  const char* const message = dlerror();
  if (found.problem.empty() && message != nullptr && tells_something(message)) found.problem = message;
  return false;
}

// The loader's own choice is named by the bare file name; ask where that is.
void resolve_path(FoundLibrary& found, const char* symbol_name) {
  Dl_info info{};
  void* const symbol = symbol_name == nullptr ? nullptr : dlsym(found.handle, symbol_name);
  if (symbol != nullptr && dladdr(symbol, &info) != 0 && info.dli_fname != nullptr) {
    found.path = info.dli_fname;
  }
}

// "90100" style numbers: cuDNN 9.19.0 is 91900, cuBLASLt 13.1.0 is 130100, the driver's CUDA 13.0 is 13000.
std::string dotted(std::size_t number, std::size_t major, std::size_t minor, bool patch) {
  std::string text = std::to_string(number / major) + "." + std::to_string(number % major / minor);
  if (patch) text += "." + std::to_string(number % minor);
  return text;
}

std::string version_of(const FoundLibrary& found, const std::string& title) {
  if (title == driver_name().title) {
    auto* const get = reinterpret_cast<int (*)(int*)>(dlsym(found.handle, "cuDriverGetVersion"));
    int version = 0;
    if (get == nullptr || get(&version) != 0) return "";
    return dotted(static_cast<std::size_t>(version), 1000, 10, false);
  }
  const bool cudnn = title == cudnn_name().title;
  auto* const get = reinterpret_cast<std::size_t (*)()>(
      dlsym(found.handle, cudnn ? "cudnnGetVersion" : "cublasLtGetVersion"));
  if (get == nullptr) return "";
  return dotted(get(), 10000, 100, true);
}

const char* version_symbol(const std::string& title) {
  if (title == cudnn_name().title) return "cudnnGetVersion";
  if (title == cublaslt_name().title) return "cublasLtGetVersion";
  return "cuDriverGetVersion";
}

std::string joined(const std::vector<std::string>& items) {
  std::string text;
  for (const std::string& item : items) text += (text.empty() ? "" : ", ") + item;
  return text;
}

}  // namespace

const LibraryName& cudnn_name() {
  static const LibraryName name{
      .title = "cuDNN",
      .files = {"libcudnn.so.9"},
      .needed_for = "convolutions",
      .install =
          "install NVIDIA's package cudnn9-cuda-13 (or -12), or set COHORT_CUDA_LIBRARIES to the folder "
          "that holds it (a PyTorch installation's site-packages will do)"};
  return name;
}

const LibraryName& cublaslt_name() {
  static const LibraryName name{
      .title = "cuBLASLt",
      .files = {"libcublasLt.so.13", "libcublasLt.so.12"},
      .needed_for = "linear layers",
      .install =
          "install NVIDIA's package libcublas-13-0 (or -12), or set COHORT_CUDA_LIBRARIES to the folder "
          "that holds it (a PyTorch installation's site-packages will do)"};
  return name;
}

const LibraryName& driver_name() {
  static const LibraryName name{.title = "CUDA driver",
                                .files = {"libcuda.so.1"},
                                .needed_for = "every use of a GPU",
                                .install = "install NVIDIA's driver, 580 or newer for CUDA 13"};
  return name;
}

FoundLibrary find_library(const LibraryName& name) {
  FoundLibrary found;
  const auto look_in = [&](const std::vector<std::string>& folders) {
    for (const std::string& folder : folders) {
      found.searched.push_back(folder);
      for (const std::string& file : name.files) {
        std::error_code error;
        const fs::path path = fs::path(folder) / file;
        if (fs::exists(path, error) && open(found, path.string())) return true;
      }
    }
    return false;
  };
  if (look_in(folders_of_the_user())) return found;
  found.searched.emplace_back("the loader's path");
  for (const std::string& file : name.files) {
    if (open(found, file)) {
      resolve_path(found, version_symbol(name.title));
      return found;
    }
  }
  if (look_in(folders_of_toolkits())) return found;
  if (found.problem.empty()) found.problem = "no " + joined(name.files) + " found";
  return found;
}

SharedLibrary::SharedLibrary(LibraryName name) : name_(std::move(name)), found_(find_library(name_)) {
  if (found_.handle != nullptr) return;
  throw Error(ErrorKind::kDevice,
              name_.title + ", needed for " + name_.needed_for + ", cannot be opened: " + found_.problem +
                  "; searched " + joined(found_.searched),
              name_.install);
}

void* SharedLibrary::symbol(const char* symbol_name) const {
  void* const address = dlsym(found_.handle, symbol_name);
  if (address != nullptr) return address;
  throw Error(ErrorKind::kDevice,
              name_.title + " in " + found_.path + " has no function " + symbol_name + ": it is too old",
              name_.install);
}

std::vector<LibraryState> library_states() {
  std::vector<LibraryState> states;
  for (const LibraryName* name : {&driver_name(), &cudnn_name(), &cublaslt_name()}) {
    const FoundLibrary found = find_library(*name);
    LibraryState state{.title = name->title,
                       .needed_for = name->needed_for,
                       .path = {},
                       .version = found.handle == nullptr ? "" : version_of(found, name->title),
                       .problem = found.problem,
                       .install = name->install,
                       .searched = found.searched};
    if (!state.version.empty()) {
      state.path = found.path;
      state.problem.clear();
    } else if (found.handle != nullptr) {
      state.problem = found.path + " does not tell its version: a stub, or a driver that is not running";
    }
    states.push_back(std::move(state));
  }
  return states;
}

}  // namespace cohort::kernels::cuda
