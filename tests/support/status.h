// SPDX-License-Identifier: Apache-2.0
// What the daemon says of itself, as numbers, and whether they add up.
#pragma once

#include <cstdint>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>

#include "store/client.h"
#include "tests/support/eventually.h"
#include "tests/support/outcome.h"

namespace forebay::test {

class Status {
 public:
  explicit Status(const Client& client) : text_(must(client.status())) {
    std::istringstream lines(text_);
    std::string line;
    while (std::getline(lines, line)) {
      const std::size_t space = line.find(' ');
      const std::string value = line.substr(space + 1);
      if (!value.empty() && value.find_first_not_of("0123456789") == std::string::npos)
        numbers_[line.substr(0, space)] = std::stoull(value);
    }
  }
  std::uint64_t operator[](const std::string& name) const {
    const auto found = numbers_.find(name);
    if (found == numbers_.end()) throw std::runtime_error("status has no " + name);
    return found->second;
  }
  const std::string& text() const { return text_; }
  // What segments take, without the slots that slabs keep free.
  std::uint64_t segment_bytes() const {
    const Status& self = *this;
    return self["used_bytes"] - self["slab_bytes"] + self["slab_item_bytes"];
  }

  // Nothing, if every byte is accounted for; else the status.
  std::string does_not_add_up() const {
    const Status& self = *this;
    const std::uint64_t sum = self["used_bytes"] + self["warm_bytes"] + self["growing_bytes"] +
                              self["ungrown_bytes"];
    if (sum != self["capacity_bytes"]) return "the parts are not the whole:\n" + text_;
    if (self["growing_bytes"] == 0 &&
        self["arena_backed_bytes"] != self["used_bytes"] + self["warm_bytes"])
      return "the system counts other memory than the daemon:\n" + text_;
    return {};
  }

 private:
  std::string text_;
  std::map<std::string, std::uint64_t> numbers_;
};

// Waits until a number of the status is this; returns what it was last.
inline std::uint64_t status_becomes(const Client& client, const std::string& name,
                                    std::uint64_t wanted,
                                    std::chrono::milliseconds within = patience) {
  std::uint64_t last = 0;
  (void)eventually([&] { return (last = Status(client)[name]) == wanted; }, within);
  return last;
}

// Waits until memory that is on its way has arrived or gone, and says what does not add up then.
inline std::string adds_up(const Client& client) {
  std::string wrong;
  (void)eventually([&] {
    const Status status(client);
    wrong = status["growing_bytes"] != 0 ? "memory is still growing:\n" + status.text()
                                         : status.does_not_add_up();
    return wrong.empty();
  }, std::chrono::seconds(5));
  return wrong;
}

}  // namespace forebay::test
