// SPDX-License-Identifier: Apache-2.0
// What goes over the plain-TCP data plane, and the two halves of a connection that both of its ends
// have: DataIntake takes what comes straight to where it belongs, DataOutflow sends straight from
// where it lies.
//
// A link opens with its token. Then the client asks, in pieces of at most 1 MiB, to write (the
// bytes follow) or to read; the server answers each piece with the same head, in order: `written`
// once the bytes are in the arena, `data` with the bytes, or `denied`, after which it hangs up.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <span>
#include <vector>

#include "spill/pool/data_link.h"

namespace forebay::spill::pool {

inline constexpr std::uint64_t data_magic = 0x3154414445424546;  // "FEBEDAT1"
inline constexpr std::size_t piece_bytes_max = 1 << 20;

enum class DataOp : std::uint32_t { welcome = 1, write, read, written, data, denied };

struct DataHead {
  DataOp op{};
  std::uint32_t length = 0;
  std::uint64_t number = 0;
  std::uint64_t key = 0;
  std::uint64_t offset = 0;
};
static_assert(sizeof(DataHead) == 32);

struct LinkOpening {
  std::uint64_t magic = data_magic;
  LinkToken token{};
  std::uint64_t reserved = 0;
};
static_assert(sizeof(LinkOpening) == sizeof(DataHead));

enum class Flow { idle, more, ended };

// `Sink` has `bool head(const DataHead&, std::span<std::byte>& into)`, which says where the
// `length` bytes behind a head go (or leaves `into` empty if there are none) or false to end it
// all, and `bool done(const DataHead&)`, called when they are there.
class DataIntake {
 public:
  // Takes about so many bytes from the socket; `idle` when it has no more now.
  template <class Sink>
  Flow take(int socket, std::size_t budget, Sink& sink) {
    while (true) {
      if (!use(sink)) return Flow::ended;
      if (budget == 0) return Flow::more;
      // The rest of what comes now goes to its place, and the next heads, with a little of what is
      // behind them, to the buffer: one call for both.
      std::array<iovec, 2> parts{};
      std::size_t count = 0;
      if (!into_.empty()) parts[count++] = {into_.data(), into_.size()};
      parts[count++] = {buffer_.data() + filled_, buffer_.size() - filled_};
      msghdr message{};
      message.msg_iov = parts.data();
      message.msg_iovlen = count;
      const std::size_t asked = into_.size() + parts[count - 1].iov_len;
      const ssize_t got = ::recvmsg(socket, &message, MSG_DONTWAIT);
      if (got == 0) return Flow::ended;
      if (got < 0) {
        if (errno == EINTR) continue;
        return errno == EAGAIN || errno == EWOULDBLOCK ? Flow::idle : Flow::ended;
      }
      const auto size = static_cast<std::size_t>(got);
      const std::size_t direct = std::min(size, into_.size());
      into_ = into_.subspan(direct);
      filled_ += size - direct;
      budget -= std::min(budget, size);
      if (size < asked) {
        // There was no more; asking again would only say so.
        return use(sink) ? Flow::idle : Flow::ended;
      }
    }
  }
  // What is left of the bytes of that operation that are coming in goes there instead, which is as
  // large as a piece.
  void divert(std::uint64_t number, std::span<std::byte> elsewhere) {
    if (receiving_ && head_.number == number) into_ = elsewhere.first(into_.size());
  }

 private:
  template <class Sink>
  bool use(Sink& sink) {
    std::size_t used = 0;
    while (true) {
      if (receiving_) {
        const std::size_t size = std::min(into_.size(), filled_ - used);
        if (size > 0) std::memcpy(into_.data(), buffer_.data() + used, size);
        into_ = into_.subspan(size);
        used += size;
        if (!into_.empty()) break;
        receiving_ = false;
        if (!sink.done(head_)) return false;
      } else {
        if (filled_ - used < sizeof head_) break;
        std::memcpy(&head_, buffer_.data() + used, sizeof head_);
        used += sizeof head_;
        into_ = {};
        if (!sink.head(head_, into_)) return false;
        receiving_ = true;
      }
    }
    filled_ -= used;
    if (filled_ > 0 && used > 0) std::memmove(buffer_.data(), buffer_.data() + used, filled_);
    return true;
  }

  std::array<std::byte, 1024> buffer_{};
  std::size_t filled_ = 0;
  DataHead head_;
  std::span<std::byte> into_;
  bool receiving_ = false;  // what is behind head_, of which into_ is left
};

class DataOutflow {
 public:
  void add(const DataHead& head, std::vector<std::span<const std::byte>> parts) {
    std::size_t bytes = sizeof head;
    for (const auto& part : parts) bytes += part.size();
    bytes_ += bytes;
    pieces_.push_back({head, std::move(parts), bytes});
    ++added_;
  }
  // Sends about so many bytes; `idle` when all is sent, or the socket takes no more now.
  Flow send(int socket, std::size_t budget) {
    while (!pieces_.empty() && budget > 0) {
      std::array<iovec, 64> parts{};
      std::size_t count = 0;
      std::size_t asked = 0;
      std::size_t skip = sent_;
      const auto put = [&](const void* from, std::size_t size) {
        const std::size_t skipped = std::min(skip, size);
        skip -= skipped;
        if (size == skipped || count == parts.size()) return;
        parts[count++] = {const_cast<std::byte*>(static_cast<const std::byte*>(from)) + skipped,
                          size - skipped};
        asked += size - skipped;
      };
      for (const Piece& piece : pieces_) {
        put(&piece.head, sizeof piece.head);
        for (const auto& part : piece.parts) put(part.data(), part.size());
        if (count == parts.size() || asked >= budget) break;
      }
      msghdr message{};
      message.msg_iov = parts.data();
      message.msg_iovlen = count;
      const ssize_t put_out = ::sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (put_out < 0) {
        if (errno == EINTR) continue;
        return errno == EAGAIN || errno == EWOULDBLOCK ? Flow::idle : Flow::ended;
      }
      const auto size = static_cast<std::size_t>(put_out);
      advance(size);
      budget -= std::min(budget, size);
      if (size < asked) return Flow::idle;
    }
    return pieces_.empty() ? Flow::idle : Flow::more;
  }
  // The operation's bytes must not be touched any more: what is left to send of its pieces, which
  // the peer has been promised, is taken from these, which are as large as a piece.
  void replace(std::uint64_t number, std::span<const std::byte> others) {
    for (Piece& piece : pieces_)
      if (piece.head.number == number && !piece.parts.empty())
        piece.parts = {others.first(piece.bytes - sizeof piece.head)};
  }
  bool empty() const { return pieces_.empty(); }
  std::size_t bytes() const { return bytes_; }
  std::size_t count() const { return pieces_.size(); }
  std::uint64_t added_pieces() const { return added_; }
  std::uint64_t sent_pieces() const { return added_ - pieces_.size(); }
  bool uses(std::uint64_t key) const {
    return std::ranges::any_of(pieces_, [&](const Piece& piece) { return piece.head.key == key; });
  }

 private:
  struct Piece {
    DataHead head;
    std::vector<std::span<const std::byte>> parts;
    std::size_t bytes = 0;
  };

  void advance(std::size_t size) {
    bytes_ -= size;
    sent_ += size;
    while (!pieces_.empty() && sent_ >= pieces_.front().bytes) {
      sent_ -= pieces_.front().bytes;
      pieces_.pop_front();
    }
  }

  std::uint64_t added_ = 0;
  std::deque<Piece> pieces_;
  std::size_t sent_ = 0;   // of the first piece
  std::size_t bytes_ = 0;  // of all of them, not sent yet
};

}  // namespace forebay::spill::pool
