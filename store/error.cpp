// SPDX-License-Identifier: Apache-2.0
#include "store/error.h"

#include <array>
#include <cstdio>
#include <cstdlib>

namespace forebay {
namespace {

struct Row {
  Errc code;
  std::string_view name;
  std::string_view text;
};

constexpr std::array<Row, errc_last> rows{{
    {Errc::not_found, "not_found", "no such segment"},
    {Errc::evicted, "evicted", "the segment was evicted to make room"},
    {Errc::lost, "lost", "the segment's bytes are lost"},
    {Errc::superseded, "superseded", "the segment's memory was taken over by the next version"},
    {Errc::stale_ref, "stale_ref", "the segment of this ref was removed"},
    {Errc::wrong_store, "wrong_store", "the ref belongs to another store"},
    {Errc::exists, "exists", "that version is sealed already"},
    {Errc::conflict, "conflict", "that version is in somebody else's hands"},
    {Errc::store_full, "store_full", "the store is full"},
    {Errc::too_large, "too_large", "larger than the store"},
    {Errc::bad_id, "bad_id", "an id is 1 to 255 bytes"},
    {Errc::bad_argument, "bad_argument", "an argument cannot work"},
    {Errc::bad_state, "bad_state", "not possible in this state"},
    {Errc::denied, "denied", "not allowed"},
    {Errc::timed_out, "timed_out", "the deadline passed"},
    {Errc::disconnected, "disconnected", "the daemon cannot be reached"},
    {Errc::layout_mismatch, "layout_mismatch", "the peer speaks another version"},
    {Errc::bad_message, "bad_message", "not a message"},
    {Errc::type_mismatch, "type_mismatch", "not an array of that element type"},
    {Errc::limit_reached, "limit_reached", "a limit was reached"},
    {Errc::already_running, "already_running", "another daemon serves this instance"},
    {Errc::loader_failed, "loader_failed", "the version's loader failed"},
    {Errc::cancelled, "cancelled", "the request was cancelled"},
    {Errc::tier_down, "tier_down", "the tier that holds it does not answer"},
}};

const Row* find_row(int code) {
  for (const Row& row : rows)
    if (static_cast<int>(row.code) == code) return &row;
  return nullptr;
}

class Category final : public std::error_category {
 public:
  const char* name() const noexcept override { return "forebay"; }
  std::string message(int code) const override {
    const Row* row = find_row(code);
    return row != nullptr ? std::string(row->text) : "unknown error " + std::to_string(code);
  }
};

}  // namespace

const std::error_category& forebay_category() noexcept {
  static const Category category;
  return category;
}

std::string_view errc_name(Errc code) noexcept {
  const Row* row = find_row(static_cast<int>(code));
  return row != nullptr ? row->name : "unknown";
}

std::string Error::message() const {
  std::string origin = code.category() == forebay_category()
                           ? std::string(errc_name(static_cast<Errc>(code.value())))
                           : code.message();
  return detail.empty() ? origin + ": " + code.message() : origin + ": " + detail;
}

void check_failed(const char* file, int line, const char* condition, const char* must) {
  std::fprintf(stderr, "forebay: %s:%d: broken invariant: %s (%s)\n", file, line, must, condition);
  std::abort();
}

}  // namespace forebay
