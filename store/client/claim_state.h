// SPDX-License-Identifier: Apache-2.0
// ClaimState: a claim, as its owner's process sees it.
#pragma once

#include <memory>
#include <string>

#include "store/client/core.h"

namespace forebay::client {

class ClaimState {
 public:
  ClaimState(std::shared_ptr<Core> core, std::string id, const wire::ClaimReply& reply,
             std::uint64_t token);
  ~ClaimState();
  ClaimState(const ClaimState&) = delete;
  ClaimState& operator=(const ClaimState&) = delete;

  std::uint64_t version() const { return reserved_.version; }
  // `description`: of what is no plain array.
  Result<View> put(std::span<const std::byte> bytes, const PutOptions& options,
                   const shm::Description* description = nullptr);
  Result<View> put(std::uint64_t size, const Core::Filler& fill, const PutOptions& options,
                   const shm::Description& description);
  Result<Builder> create(std::uint64_t size, const PutOptions& options);
  // An empty text: the next may try.
  void end(std::string_view why);

 private:
  Result<void> check_open() const;
  PutOptions of_this_version(const PutOptions& options) const;

  std::shared_ptr<Core> core_;
  std::string id_;
  Core::Reserved reserved_;
  std::uint64_t token_;
  std::uint64_t fork_generation_;
  bool open_ = true;
  bool builds_ = false;  // reserved_ is then the builder's
};

}  // namespace forebay::client
