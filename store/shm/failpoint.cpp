// SPDX-License-Identifier: Apache-2.0
#include "store/shm/failpoint.h"

#include <unistd.h>

#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <string>
#include <thread>

namespace forebay::shm::failpoints {
namespace {

enum class Action { kill, stop, abort, delay };

struct Armed {
  std::string name;
  Action action{};
  int delay_ms = 0;
  int nth = 1;
  std::atomic<int> seen{0};
};

// Filled once, before any other thread runs; a deque because its elements cannot move.
std::deque<Armed>& armed_points() {
  static std::deque<Armed> points;
  return points;
}

bool known(std::string_view name) {
  for (const Failpoint& point : points::daemon)
    if (point.name == name) return true;
  for (const Failpoint& point : points::tiers)
    if (point.name == name) return true;
  for (const Failpoint& point : points::client)
    if (point.name == name) return true;
  for (const Failpoint& point : points::pool)
    if (point.name == name) return true;
  return false;
}

bool parse_number(std::string_view text, int& number) {
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), number);
  return status == std::errc{} && end == text.data() + text.size();
}

bool arm_one(std::string_view item) {
  const std::size_t equals = item.find('=');
  if (equals == std::string_view::npos) return false;
  std::string_view name = item.substr(0, equals);
  std::string_view action = item.substr(equals + 1);
  int nth = 1;
  if (const std::size_t colon = name.find(':'); colon != std::string_view::npos) {
    if (!parse_number(name.substr(colon + 1), nth)) return false;
    name = name.substr(0, colon);
  }
  if (!known(name)) return false;
  Armed& armed = armed_points().emplace_back();
  armed.name = name;
  armed.nth = nth;
  if (action == "kill") {
    armed.action = Action::kill;
  } else if (action == "stop") {
    armed.action = Action::stop;
  } else if (action == "abort") {
    armed.action = Action::abort;
  } else if (action.starts_with("delay/")) {
    armed.action = Action::delay;
    return parse_number(action.substr(6), armed.delay_ms);
  } else {
    return false;
  }
  return true;
}

}  // namespace

std::atomic<bool> armed{false};

void hit(std::string_view name) {
  for (Armed& point : armed_points()) {
    if (point.name != name) continue;
    const int count = point.seen.fetch_add(1) + 1;
    switch (point.action) {
      case Action::delay:
        if (count >= point.nth)
          std::this_thread::sleep_for(std::chrono::milliseconds(point.delay_ms));
        break;
      case Action::kill:
        if (count == point.nth) ::kill(::getpid(), SIGKILL);
        break;
      case Action::stop:
        if (count == point.nth) ::kill(::getpid(), SIGSTOP);
        break;
      case Action::abort:
        if (count == point.nth) std::abort();
        break;
    }
  }
}

bool arm_from_environment() {
  const char* text = std::getenv("FOREBAY_FAILPOINTS");
  if (text == nullptr || *text == '\0' || armed.load()) return true;
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::size_t comma = rest.find(',');
    const std::string_view item = rest.substr(0, comma);
    if (!arm_one(item)) {
      std::fprintf(stderr, "forebay: FOREBAY_FAILPOINTS: cannot arm '%.*s'\n",
                   static_cast<int>(item.size()), item.data());
      return false;
    }
    rest = comma == std::string_view::npos ? std::string_view{} : rest.substr(comma + 1);
  }
  armed.store(true);
  return true;
}

}  // namespace forebay::shm::failpoints
