// SPDX-License-Identifier: Apache-2.0
#include "spill/fabric/transfers.h"

#include <doctest/doctest.h>

#include <set>

#include "spill/fabric/link_thread.h"

namespace {

using namespace forebay::spill::fabric;

TEST_SUITE("fabric transfers") {
  TEST_CASE("a transfer ends once, and its number never comes back") {
    Transfers transfers(3);
    Operation operation;
    std::vector<std::shared_ptr<Registration>> nothing;
    std::set<void*> numbers;
    for (int round = 0; round < 1000; ++round) {
      void* const number = transfers.begin(&operation, 10, nothing);
      CHECK(numbers.insert(number).second);
      CHECK(transfers.bytes() == 10);
      CHECK(transfers.find(number) == &operation);
      CHECK(transfers.end(number) == &operation);
      CHECK(transfers.end(number) == nullptr);
      CHECK(transfers.find(number) == nullptr);
    }
    // Old ones, ones of nobody, none.
    for (void* const number : numbers) CHECK(transfers.end(number) == nullptr);
    CHECK(transfers.end(nullptr) == nullptr);
    CHECK(transfers.end(reinterpret_cast<void*>(~std::uintptr_t{0})) == nullptr);
    CHECK(transfers.bytes() == 0);
  }

  TEST_CASE("there are as many as there is room for, and after clearing none") {
    Transfers transfers(4);
    Operation operation;
    std::vector<std::shared_ptr<Registration>> nothing;
    void* last = nullptr;
    while (!transfers.full()) last = transfers.begin(&operation, 5, nothing);
    CHECK(transfers.count() == 4);
    CHECK(transfers.bytes() == 20);
    transfers.clear();
    CHECK(transfers.count() == 0);
    CHECK(transfers.bytes() == 0);
    CHECK(transfers.end(last) == nullptr);
    CHECK(!transfers.full());
  }
}

}  // namespace
