// SPDX-License-Identifier: Apache-2.0
#include "spill/pool/frames.h"

#include <cstring>

namespace forebay::spill::pool {
namespace {

std::span<const std::byte> bytes_of_number(const std::uint64_t& number) {
  return std::as_bytes(std::span(&number, 1));
}

}  // namespace

std::vector<std::byte> FrameWriter::frame(Kind kind, std::uint64_t number,
                                          std::span<const std::byte> body) {
  const std::size_t signed_bytes = frame_head_bytes + body.size();
  std::vector<std::byte> bytes(signed_bytes + (mac_ ? mac_bytes : 0));
  STORE_CHECK(bytes.size() <= frame_bytes_max, "a frame is no larger than its reader takes");
  const auto size = static_cast<std::uint32_t>(bytes.size() - sizeof(std::uint32_t));
  std::memcpy(bytes.data(), &size, sizeof size);
  bytes[4] = static_cast<std::byte>(kind);
  std::memcpy(bytes.data() + 8, &number, sizeof number);
  if (!body.empty()) std::memcpy(bytes.data() + frame_head_bytes, body.data(), body.size());
  if (mac_) {
    const Digest mac =
        mac_->of({bytes_of_number(sequence_), std::span(bytes).first(signed_bytes)});
    std::memcpy(bytes.data() + signed_bytes, mac.data(), mac_bytes);
    ++sequence_;
  }
  return bytes;
}

void FrameReader::feed(std::span<const std::byte> bytes) {
  // What was taken is thrown away at most once per feed, so that no byte is moved twice.
  if (start_ > 0) {
    bytes_.erase(bytes_.begin(), bytes_.begin() + static_cast<std::ptrdiff_t>(start_));
    start_ = 0;
  }
  bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
}

Result<std::optional<Frame>> FrameReader::next() {
  const std::span<const std::byte> left = std::span(bytes_).subspan(start_);
  std::uint32_t size = 0;
  if (left.size() < sizeof size) return std::optional<Frame>();
  std::memcpy(&size, left.data(), sizeof size);
  const std::size_t total = std::size_t{size} + sizeof size;
  const std::size_t least = frame_head_bytes + (mac_ ? mac_bytes : 0);
  if (total < least || total > (mac_ ? frame_bytes_max : open_frame_bytes_max))
    return fail(Errc::bad_message, "a control frame of " + std::to_string(total) +
                                       " bytes: the peer does not speak the pool's protocol");
  if (left.size() < total) return std::optional<Frame>();
  const std::size_t signed_bytes = total - (mac_ ? mac_bytes : 0);
  if (mac_) {
    const Digest mac = mac_->of({bytes_of_number(sequence_), left.first(signed_bytes)});
    if (!same(std::as_bytes(std::span(mac)).first(mac_bytes),
              left.subspan(signed_bytes, mac_bytes)))
      return fail(Errc::denied,
                  "a control frame that the peer has not sent: somebody is in between");
    ++sequence_;
  }
  Frame frame;
  frame.kind = static_cast<Kind>(left[4]);
  if (left[5] != std::byte{} || left[6] != std::byte{} || left[7] != std::byte{})
    return fail(Errc::bad_message, "a control frame whose head is not one");
  std::memcpy(&frame.number, left.data() + 8, sizeof frame.number);
  const auto body = left.subspan(frame_head_bytes, signed_bytes - frame_head_bytes);
  frame.body.assign(body.begin(), body.end());
  start_ += total;
  return std::optional<Frame>(std::move(frame));
}

}  // namespace forebay::spill::pool
