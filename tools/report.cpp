#include "tools/report.h"

#include <fmt/format.h>

#include <cmath>
#include <functional>

#include "tools/calibration.h"
#include "tools/progress.h"
#include "tools/svg_chart.h"
#include "tools/teacher_timeline.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

constexpr const char* kStyle = R"(<style>
:root{color-scheme:light dark;--bg:#fbfbfa;--card:#fff;--ink:#1d2127;--soft:#69727d;--rule:#e3e5e8}
@media(prefers-color-scheme:dark){:root{--bg:#15181c;--card:#1d2126;--ink:#e6e8ea;--soft:#98a1ab;--rule:#30363d}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1360px;margin:0 auto;padding:28px 24px 60px}
h1{font-size:22px;margin:0 0 4px;overflow-wrap:anywhere}h2{font-size:16px;margin:30px 0 10px}
.sub{color:var(--soft);margin:0 0 18px}
.loss{background:var(--card);border:1px solid var(--rule);border-left:4px solid var(--s0);border-radius:6px;
padding:10px 14px;font-family:ui-monospace,Menlo,Consolas,monospace;font-size:13px;overflow-wrap:anywhere}
.tiles{display:flex;flex-wrap:wrap;gap:12px;margin:18px 0}
.tile{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:10px 16px;min-width:130px}
.tile b{display:block;font-size:20px;font-variant-numeric:tabular-nums}.tile span{color:var(--soft);font-size:12.5px}
.grid2{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(520px,100%),1fr));gap:14px}
figure{margin:0;background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:12px 12px 8px}
.chart{width:100%;height:auto;display:block}
.chart .grid{stroke:var(--rule)}.chart .axis{stroke:var(--soft)}
.chart text{fill:var(--soft);font-size:11.5px;font-variant-numeric:tabular-nums}
.chart .mark{font-size:9px}figcaption{font-size:12.5px;color:var(--soft);padding:2px 6px}
.chart .title{fill:var(--ink);font-size:13.5px;font-weight:600}
path{fill:none;stroke-width:1.8;stroke-linejoin:round}
.s0{--c:var(--s0)}.s1{--c:var(--s1)}.s2{--c:var(--s2)}.s3{--c:var(--s3)}.s4{--c:var(--s4)}.s5{--c:var(--s5)}
.s6{--c:var(--s6)}.s7{--c:var(--s7)}
[class^=s] path{stroke:var(--c)}[class^=s] circle,[class^=s] rect{fill:var(--c)}circle:hover{r:5}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;font-size:12.5px;color:var(--soft);padding:2px 6px}
.legend svg{margin-right:6px;vertical-align:middle}
table{border-collapse:collapse;background:var(--card);border:1px solid var(--rule);font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto}th,td{padding:6px 14px;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}
th{color:var(--soft);font-weight:600;font-size:12.5px}td:nth-child(-n+2),th:nth-child(-n+2){text-align:left}
details{margin-top:14px}summary{cursor:pointer;color:var(--soft)}
pre{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:14px;overflow-x:auto;font-size:12.5px}
</style>
)";

using Pick = std::function<double(const Json&)>;

std::vector<ChartSeries> by_network(const std::vector<Json>& records, const std::vector<std::string>& ids,
                                    const char* x, const Pick& y) {
  std::vector<ChartSeries> all;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ChartSeries series{ids[i], {}, static_cast<int>(i), false};
    for (const Json& record : records) {
      if (text_in(record, "net") == ids[i]) series.points.push_back({number_in(record, x), y(record)});
    }
    if (!series.points.empty()) all.push_back(std::move(series));
  }
  return all;
}

Pick member(const char* key) {
  return [key](const Json& record) { return number_in(record, key); };
}

Pick percent_of(const char* part) {
  return [part](const Json& record) {
    const auto it = record.find(part);
    return it == record.end() ? std::nan("") : 100 * number_in(*it, "top1");
  };
}

bool has_values(const std::vector<ChartSeries>& series) {
  for (const ChartSeries& s : series) {
    for (const ChartSeries::Point& point : s.points) {
      if (std::isfinite(point.y)) return true;
    }
  }
  return false;
}

// Some curve that is not zero all along: the KL of independent networks is not worth a chart.
bool has_signal(const std::vector<ChartSeries>& series) {
  for (const ChartSeries& s : series) {
    for (const ChartSeries::Point& point : s.points) {
      if (std::isfinite(point.y) && point.y != 0) return true;
    }
  }
  return false;
}

std::string charts(const RunRecords& run) {
  const std::vector<std::string> ids = run.network_ids();
  std::vector<std::string> with_ensemble = ids;
  if (ids.size() > 1) with_ensemble.emplace_back("ens");
  std::string out;
  for (const auto& [part, title] : {std::pair{"val", "Validation top-1"}, std::pair{"test", "Test top-1"}}) {
    std::vector<ChartSeries> series = by_network(run.epochs, with_ensemble, "epoch", percent_of(part));
    for (ChartSeries& s : series) s.dashed = s.name == "ens" && ids.size() > 1;
    if (has_values(series)) out += svg_chart({title, "epoch", "%"}, series);
  }
  out += svg_chart({"Training loss", "step", ""}, by_network(run.steps, ids, "step", member("loss")));
  const std::vector<ChartSeries> kl = by_network(run.steps, ids, "step", member("kl"));
  if (has_signal(kl)) out += svg_chart({"What the others teach (KL term)", "step", ""}, kl);
  const std::vector<ChartSeries> train = by_network(
      run.epochs, ids, "epoch", [](const Json& record) { return 100 * number_in(record, "train_top1"); });
  out += svg_chart({"Training top-1 (augmented images)", "epoch", "%"}, train);
  out += svg_chart({"Learning rate", "step", ""}, by_network(run.steps, ids, "step", member("lr")));
  return out;
}

std::string percent_cell(const Json& row, const char* key) {
  const double value = number_in(row, key);
  return std::isfinite(value) ? fmt::format("{:.2f}", 100 * value) : "-";
}

std::string result_table(const Json& summary) {
  if (!summary.is_object() || !summary.contains("nets") || !summary["nets"].is_array()) return {};
  std::string out =
      "<h2>Result</h2><div class=\"scroll\"><table><tr><th>net</th><th>model</th><th>val "
      "best</th><th>epoch</th>"
      "<th>val last</th><th>test at best</th><th>test last</th><th>top-5 at best</th><th>ECE</th></tr>";
  for (const Json& net : summary["nets"]) {
    const double ece = number_in(net, "test_ece");
    const double epoch = number_in(net, "best_epoch");
    out += fmt::format(
        "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>"
        "<td>{}</td></tr>",
        escape_html(text_in(net, "id")), escape_html(text_in(net, "model")), percent_cell(net, "val_best"),
        std::isfinite(epoch) ? fmt::format("{:.0f}", epoch) : "-", percent_cell(net, "val_last"),
        percent_cell(net, "test_at_best"), percent_cell(net, "test_last"),
        percent_cell(net, "test_top5_at_best"), std::isfinite(ece) ? fmt::format("{:.3f}", ece) : "-");
  }
  return out + "</table></div>\n";
}

std::string tile(const std::string& value, const std::string& what) {
  return fmt::format("<div class=\"tile\"><b>{}</b><span>{}</span></div>", escape_html(value),
                     escape_html(what));
}

std::string tiles(const RunRecords& run) {
  std::string out = "<div class=\"tiles\">";
  const std::string status = text_in(run.summary, "status");
  out += tile(status.empty() ? "running" : status, "status");
  out += tile(text_in(run.start, "method"), "method");
  out += tile(std::to_string(run.network_ids().size()), "networks");
  const Json data = run.start.is_object() && run.start.contains("data") ? run.start["data"] : Json();
  if (data.is_object()) {
    out += tile(text_in(data, "name"), fmt::format("{:.0f} training images, {:.0f} classes",
                                                   number_in(data, "train"), number_in(data, "classes")));
  }
  if (run.summary.is_object()) {
    out += tile(fmt::format("{:.0f}", number_in(run.summary, "steps")), "steps");
    out += tile(format_duration(number_in(run.summary, "seconds")), "wall time");
  }
  return out + "</div>\n";
}

std::string section(const char* title, const std::vector<Chart>& all) {
  if (all.empty()) return {};
  std::string out = fmt::format("<h2>{}</h2><div class=\"grid2\">\n", title);
  for (const Chart& chart : all) out += svg_chart(chart.options, chart.series);
  return out + "</div>\n";
}

std::string warnings(const RunRecords& run) {
  std::string items;
  for (const Json& event : run.events) {
    if (text_in(event, "kind") == "warning")
      items += "<li>" + escape_html(text_in(event, "message")) + "</li>";
  }
  if (run.damaged_lines > 0)
    items += fmt::format("<li>{} lines of metrics.jsonl are damaged</li>", run.damaged_lines);
  return items.empty() ? "" : "<h2>Warnings</h2><ul>" + items + "</ul>\n";
}

}  // namespace

std::string html_report(const RunRecords& run) {
  const std::string name = escape_html(run.folder.substr(run.folder.find_last_of('/') + 1));
  std::string out =
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n";
  out += fmt::format(
      "<title>{} - "
      "cohort</title>\n<style>:root{{{}}}\n@media(prefers-color-scheme:dark){{:root{{{}}}}}</style>\n"
      "{}</head><body><main>\n",
      name, chart_colors(false), chart_colors(true), kStyle);
  out += fmt::format("<h1>{}</h1><p class=\"sub\">cohort {} &middot; started {} &middot; seed {:.0f}</p>\n",
                     name, escape_html(text_in(run.start, "version")), escape_html(text_in(run.start, "t")),
                     number_in(run.start, "seed"));
  out += fmt::format("<div class=\"loss\">{}</div>\n", escape_html(text_in(run.start, "loss")));
  out += tiles(run) + result_table(run.summary) + warnings(run);
  out += "<h2>Curves</h2><div class=\"grid2\">\n" + charts(run) + "</div>\n";
  out += section("Who teaches", teacher_charts(teacher_timeline(run)));
  out += section("Calibration", calibration_charts(run));
  out += fmt::format(
      "<details><summary>config.toml: give it back with <code>cohort train -c</code></summary>"
      "<pre>{}</pre></details>\n",
      escape_html(run.config));
  return out + "</main></body></html>\n";
}

}  // namespace cohort::tools
