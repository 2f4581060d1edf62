// SPDX-License-Identifier: Apache-2.0
// BuilderState: a segment between create and seal, as its creator's process sees it.
//
// Holds a pin from the first moment, so that what is sealed can be viewed, and what is aborted be
// held, without a gap.
#pragma once

#include <memory>

#include "store/client/core.h"

namespace forebay::client {

class BuilderState {
 public:
  // `pinned` is the entry's count, which holds one pin for this state; `home` comes with a share.
  BuilderState(std::shared_ptr<Core> core, Attachment* home, const Core::Reserved& reserved,
               std::span<std::byte> bytes, std::string id, const PutOptions& options);
  ~BuilderState();
  BuilderState(const BuilderState&) = delete;
  BuilderState& operator=(const BuilderState&) = delete;

  std::span<std::byte> bytes() { return open() ? bytes_ : std::span<std::byte>{}; }
  std::uint64_t version() const { return reserved_.version; }
  const Core::Reserved& reserved() const { return reserved_; }
  bool open() const { return stage_ == Stage::open; }

  Result<Ref> seal();
  Result<View> seal_and_get();
  Result<void> abort();
  Result<View> abort_and_hold();

 private:
  enum class Stage { open, sealed, aborted };
  Result<void> check_open(const char* verb) const;
  Result<void> send_seal();
  Result<void> send_abort();
  View take_pin_as_view();
  void let_go();

  std::shared_ptr<Core> core_;
  Attachment* home_;
  Core::Reserved reserved_;
  std::span<std::byte> bytes_;
  std::string id_;
  std::optional<ArrayType> type_;
  std::uint64_t fork_generation_;
  Stage stage_ = Stage::open;
};

}  // namespace forebay::client
