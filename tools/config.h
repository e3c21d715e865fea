// The settings of one run, merged from every place where a user can put them:
//
//   defaults < preset < fidelity of the method < configuration files in order < COHORT_* variables < --set <
//   named flags
//
// Lists (the networks among them) replace, they never append. Every mistake of every source is listed before
// giving up.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tools/messages.h"
#include "tools/option_table.h"

namespace cohort::tools {

constexpr int kMaxNetworks = 32;

struct FlagValue {
  std::string flag;  // "--epochs", as written
  std::string key;   // "train.epochs"
  std::string text;
};

struct ConfigSources {
  std::vector<std::string> files;
  std::vector<std::pair<std::string, std::string>> environment;  // COHORT_*
  std::vector<std::string> sets;                                 // "key=value"
  std::vector<FlagValue> flags;
  std::vector<std::string> nets;   // "resnet20:id=a,lr=0.05"
  std::vector<std::string> inits;  // "a=weights.safetensors"
};

struct NetworkSettings {
  std::string id;
  std::string model;
  std::string init;                              // empty: fresh
  std::map<std::string, ConfigValue> overrides;  // "optim.lr": only what was set for this network
  std::string origin;

  double number(const std::string& key, double otherwise) const;
};

class Config {
 public:
  bool flag(std::string_view key) const;
  std::int64_t integer(std::string_view key) const;
  double number(std::string_view key) const;
  const std::string& text(std::string_view key) const;

  const ConfigValue& value(std::string_view key) const;
  const std::string& origin(std::string_view key) const;  // "default", "run.toml:9", "--epochs"
  const std::vector<NetworkSettings>& networks() const { return networks_; }
  const std::vector<Diagnostic>& warnings() const { return warnings_; }

  // A change made by the program, not by the user (a fast development run).
  void override_value(std::string_view key, ConfigValue value, std::string origin);

  // Every key with its value: a file that gives the same settings back. `origins` adds them as comments.
  std::string to_toml(bool origins = false) const;

  // Keys (and "networks") whose values differ.
  std::vector<std::string> difference(const Config& other) const;

 private:
  friend class ConfigBuilder;
  struct Setting {
    ConfigValue value;
    std::string origin;
  };
  const Setting& setting(std::string_view key) const;

  std::map<std::string, Setting, std::less<>> settings_;
  std::vector<NetworkSettings> networks_;
  std::vector<Diagnostic> warnings_;
};

// Throws UsageErrors with all mistakes.
Config resolve_config(const ConfigSources& sources);
// One text as if it were the only configuration file: for the resolved file of a run folder, and for tests.
Config parse_config(std::string_view toml, const std::string& name);

// The COHORT_* part of the process's environment.
std::vector<std::pair<std::string, std::string>> cohort_environment();

// A commented file with every key at its default (or the preset's value), for `cohort config init`.
std::string config_template(const Config& config);

}  // namespace cohort::tools
