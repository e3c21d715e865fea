// SIGINT and SIGTERM ask for an orderly stop: the run saves and ends. A second SIGINT ends the process at
// once (130). SIGPIPE is ignored: a closed pipe is an ordinary write error. SIGWINCH marks the terminal's
// width as stale.
#pragma once

namespace cohort::tools {

enum class StopRequest { kNone, kInterrupt, kTerminate };

void install_signal_handlers();
StopRequest stop_requested();
void clear_stop_request();  // for tests

// True once after each change of the terminal's size (and at the first call).
bool take_window_change();

}  // namespace cohort::tools
