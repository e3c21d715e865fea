// What the user reads on stderr: one block per problem, saying what, where, why and what to do.
//
//   error: unknown key 'train.batch_sise'
//     --> run.toml:9:1
//      9 | batch_sise = 128
//        | ^^^^^^^^^^ did you mean 'batch_size'?
//     help: 'cohort config schema train' lists all keys
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/error.h"

namespace cohort::tools {

enum class Severity { kError, kWarning, kNote };

// A place in a text that the user wrote: a file, an environment variable, a command-line argument.
struct Snippet {
  std::string where;   // "run.toml", "COHORT_SEED", "--set"
  int line = 0;        // 1-based; 0: no position is shown
  int column = 0;      // 1-based, in bytes
  int length = 1;      // of the underlined part, in bytes
  std::string source;  // the whole line
  std::string note;    // after the carets
};

struct Diagnostic {
  Severity severity = Severity::kError;
  std::string headline;
  Snippet snippet;  // `where` empty: none
  std::string help;
};

// An error without a place in a text.
Diagnostic error_block(std::string headline, std::string help = {});

std::string render(const Diagnostic& diagnostic, bool color);

// Several problems found in one pass: exit code 2. what() is the plain text of all blocks.
class UsageErrors : public Error {
 public:
  explicit UsageErrors(std::vector<Diagnostic> diagnostics);
  const std::vector<Diagnostic>& diagnostics() const { return diagnostics_; }

 private:
  std::vector<Diagnostic> diagnostics_;
};

enum class ColorMode { kAuto, kAlways, kNever };
// kAuto: a terminal on `fd`, NO_COLOR empty or unset, TERM other than dumb.
bool use_color(ColorMode mode, int fd);

// The process-wide switch, set once from --color; stderr is where messages go.
void set_color_mode(ColorMode mode);
bool stderr_color();

void print_error(const Error& error);  // an "error:" block with its hint
void print_warning(std::string_view message, std::string_view hint = {});
void print_note(std::string_view message);

// Writes to a descriptor, whole or not at all from the caller's view; false on failure (closed pipe, full
// disk).
bool write_all(int fd, std::string_view text);
// Standard output: the first failure prints one warning, later ones are silent; never throws (a run goes on).
void print_out(std::string_view text);
// The errno of the first lost print_out; 0: everything was written.
int out_failure();

}  // namespace cohort::tools
