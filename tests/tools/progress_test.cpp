#include "tools/progress.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "tools/table.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

struct Screen {
  std::string text;
  double now = 0;
  int width = 120;

  Progress::Terminal terminal() {
    return {[this](std::string_view more) {
              text += more;
              return true;
            },
            [this] { return now; }, [this] { return width; }};
  }
};

ProgressSample sample() {
  ProgressSample s;
  s.epoch = 12;
  s.epochs = 200;
  s.step = 190;
  s.steps = 352;
  s.networks = {{"a", 1.842, 52.1}, {"b", 1.791, 53.7}};
  s.images_per_second = 11203.5;
  s.seconds_left = 6128;
  return s;
}

TEST(Progress, TheLineOfTheDocumentation) {
  EXPECT_EQ(progress_line(sample(), 200),
            "epoch 12/200 [==========>         ]  54% 190/352  loss a 1.842 b 1.791  top1 a 52.1 b 53.7  "
            "11.2k img/s  "
            "ETA 1:42:08");
}

TEST(Progress, TheLineNeverReachesTheWidth) {
  ProgressSample s = sample();
  for (int width = 1; width < 200; ++width) EXPECT_LT(display_width(progress_line(s, width)), width) << width;
  s.networks.assign(32, {"caf\xC3\xA9", 1.5, 50});
  for (int width = 1; width < 400; ++width) EXPECT_LT(display_width(progress_line(s, width)), width) << width;
  s.steps = 0;
  EXPECT_NE(progress_line(s, 80), "");
}

TEST(Progress, ABarIsRedrawnTenTimesASecond) {
  Screen screen;
  Progress progress(ProgressMode::kBar, screen.terminal());
  for (int i = 0; i < 1000; ++i) {  // one second in steps of a millisecond
    progress.step(sample());
    screen.now += 0.001;
  }
  const auto redraws = std::count(screen.text.begin(), screen.text.end(), '\r');
  EXPECT_GE(redraws, 9);
  EXPECT_LE(redraws, 11);
  EXPECT_EQ(screen.text.find('\n'), std::string::npos);
  screen.text.clear();
  progress.line("epoch 12 done");
  EXPECT_EQ(screen.text, "\r\x1b[Kepoch 12 done\n");
}

TEST(Progress, OffATerminalThereAreOnlyPlainLines) {
  Screen screen;
  Progress progress(ProgressMode::kLine, screen.terminal());
  for (int i = 0; i < 1500; ++i) {  // 150 seconds
    progress.step(sample());
    screen.now += 0.1;
  }
  EXPECT_EQ(std::count(screen.text.begin(), screen.text.end(), '\n'), 2) << "a heartbeat every 60 s";
  progress.line("epoch 12 done");
  progress.event("{}");
  EXPECT_EQ(screen.text.find('\r'), std::string::npos);
  EXPECT_EQ(screen.text.find('\x1b'), std::string::npos);
  EXPECT_NE(screen.text.find("epoch 12 done\n"), std::string::npos);
  EXPECT_EQ(screen.text.find("{}"), std::string::npos);
}

TEST(Progress, JsonAndNone) {
  Screen screen;
  Progress json(ProgressMode::kJson, screen.terminal());
  json.step(sample());
  json.line("text");
  json.event("{\"kind\":\"step\"}");
  EXPECT_EQ(screen.text, "{\"kind\":\"step\"}\n");
  Screen silent;
  Progress none(ProgressMode::kNone, silent.terminal());
  none.step(sample());
  none.line("text");
  none.event("{}");
  EXPECT_EQ(silent.text, "");
}

TEST(Progress, Units) {
  EXPECT_EQ(format_duration(5), "0:05");
  EXPECT_EQ(format_duration(187), "3:07");
  EXPECT_EQ(format_duration(6128), "1:42:08");
  EXPECT_EQ(format_duration(-1), "-");
  EXPECT_EQ(format_duration(1e300), format_duration(1e15));
  EXPECT_EQ(format_rate(853), "853 img/s");
  EXPECT_EQ(format_rate(11203), "11.2k img/s");
}

TEST(Table, AlignsByCodePoints) {
  Table table({{"net"}, {"model"}, {"top1", Align::kRight}});
  table.add({"a", "resnet32", "72.14"});
  table.add({"caf\xC3\xA9", "w|x", "5.3"});
  table.add({"short"});
  EXPECT_EQ(table.text(),
            "net    model      top1\n"
            "a      resnet32  72.14\n"
            "caf\xC3\xA9   w|x         5.3\n"
            "short\n");
  EXPECT_EQ(
      table.markdown(),
      "| net | model | top1 |\n|---|---|---:|\n| a | resnet32 | 72.14 |\n| caf\xC3\xA9 | w\\|x | 5.3 |\n"
      "| short |  |  |\n");
}

}  // namespace
}  // namespace cohort::tools
