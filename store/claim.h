// SPDX-License-Identifier: Apache-2.0
// Claim: the right, and the duty, to make one version of an id.
//
// Whoever asks first has it; others that ask for the version wait. It ends when the version is sealed,
// or when its owner says that it cannot be made: each of those who wait is told why, once, and whoever
// asks next may try. If the owner's process dies, the next who waits takes over. A claim survives the
// daemon. One thread at a time; in a forked child, the parent's claim is nobody's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <variant>

#include "store/builder.h"
#include "store/error.h"
#include "store/group.h"
#include "store/object.h"
#include "store/view.h"

namespace forebay {

struct PutOptions;
namespace client {
class ClaimState;
}

class FOREBAY_API Claim {
 public:
  Claim(Claim&&) noexcept;
  Claim& operator=(Claim&&) noexcept;
  ~Claim();  // unfulfilled: lets the next who waits take over

  std::uint64_t version() const;

  // Makes the version, as Client::put and Client::create do; options.version does not count. The
  // claim goes on when they fail, and when the builder is aborted it ends as by give_up.
  Result<View> put(std::span<const std::byte> bytes, const PutOptions& options);
  Result<View> put_group(std::span<const GroupMember> members, const PutOptions& options);
  Result<View> put_object(std::span<const ObjectPart> parts, const PutOptions& options);
  Result<Builder> create(std::uint64_t size_bytes, const PutOptions& options);

  // It cannot be made: those who wait fail with loader_failed and this text. A builder that `create` gave
  // is aborted by it, if it is not sealed yet.
  void fail(std::string_view why);
  // Somebody else may try: the next who waits gets the claim.
  void give_up();

 private:
  friend class client::Access;
  explicit Claim(std::unique_ptr<client::ClaimState> state);
  std::unique_ptr<client::ClaimState> state_;
};

using ViewOrClaim = std::variant<View, Claim>;

}  // namespace forebay
