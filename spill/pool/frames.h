// SPDX-License-Identifier: Apache-2.0
// Frames: control messages on a stream of bytes. FrameWriter makes them, FrameReader takes them
// apart; neither knows a socket.
//
//   u32 size of all that follows | u8 kind | u8[3] zero | u64 number | body | u8[16] mac
//
// Once a session has its keys (secure()), each frame ends with the start of an HMAC over its place
// in the sequence and its bytes: nothing can be put in, left out, repeated or changed on the way.
// Until then frames are small and have none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "spill/pool/hmac.h"
#include "spill/pool/protocol.h"
#include "store/error.h"

namespace forebay::spill::pool {

inline constexpr std::size_t frame_head_bytes = 16;
inline constexpr std::size_t mac_bytes = 16;
inline constexpr std::size_t open_frame_bytes_max = 4096;  // before there are keys
inline constexpr std::size_t frame_bytes_max = 1024 * 1024;

struct Frame {
  Kind kind{};
  std::uint64_t number = 0;
  std::vector<std::byte> body;
};

class FrameWriter {
 public:
  void secure(const Digest& key) { mac_.emplace(key); }
  std::vector<std::byte> frame(Kind kind, std::uint64_t number, std::span<const std::byte> body);

 private:
  std::optional<Hmac> mac_;
  std::uint64_t sequence_ = 0;
};

class FrameReader {
 public:
  void secure(const Digest& key) { mac_.emplace(key); }
  void feed(std::span<const std::byte> bytes);
  // The next whole frame, if there is one; bad_message or denied when the session has to end.
  Result<std::optional<Frame>> next();

 private:
  std::optional<Hmac> mac_;
  std::uint64_t sequence_ = 0;
  std::vector<std::byte> bytes_;
  std::size_t start_ = 0;  // of what has not been taken
};

}  // namespace forebay::spill::pool
