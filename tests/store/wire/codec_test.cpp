// SPDX-License-Identifier: Apache-2.0
#include "store/wire/codec.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <new>
#include <string>
#include <type_traits>
#include <vector>

#include "tests/support/random.h"

namespace {
// Bytes asked of operator new by this thread, ever.
thread_local std::uint64_t bytes_allocated = 0;
}  // namespace

// The sanitizers bring their own, and refuse an absurd size by themselves.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
void* operator new(std::size_t bytes) {
  bytes_allocated += bytes;
  if (void* const memory = std::malloc(bytes == 0 ? 1 : bytes)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
#endif

namespace forebay::wire {
namespace {

using Frame = std::vector<std::byte>;

template <class T>
concept Struct = requires(T& value) { value.members([](auto&...) {}); };

// Fills messages with random values, and owns what their texts and bytes are views of.
class Filler {
 public:
  Filler(test::Random& random, std::uint32_t longest, std::uint32_t most_items)
      : random_(random), longest_(longest), most_items_(most_items) {}

  template <class T>
  void fill(T& value) {
    if constexpr (Struct<T>) {
      value.members([this](auto&... members) { (fill(members), ...); });
    } else if constexpr (std::is_arithmetic_v<T>) {
      value = static_cast<T>(random_.next());
    } else if constexpr (std::is_same_v<T, Text>) {
      value = some_text();
    } else if constexpr (std::is_same_v<T, Bytes>) {
      value = std::as_bytes(std::span(some_text()));
    } else if constexpr (std::is_same_v<T, Uuid>) {
      for (std::uint8_t& byte : value) byte = static_cast<std::uint8_t>(random_.next());
    } else {
      value.resize(random_.below(most_items_ + 1));
      for (auto& item : value) fill(item);
    }
  }

 private:
  const std::string& some_text() {
    std::string& text = texts_.emplace_back();
    for (std::uint32_t left = random_.below(longest_ + 1); left > 0; --left)
      text += static_cast<char>(random_.next());
    return text;
  }

  test::Random& random_;
  std::uint32_t longest_;
  std::uint32_t most_items_;
  std::deque<std::string> texts_;
};

// All values of a message one after the other: two messages are equal when these are.
template <class T>
void print(const T& value, std::string& out) {
  if constexpr (Struct<T>) {
    const_cast<T&>(value).members([&out](auto&... members) { (print(members, out), ...); });
  } else if constexpr (std::is_arithmetic_v<T>) {
    out += std::to_string(value) + ' ';
  } else if constexpr (std::is_same_v<T, Text>) {
    out += std::to_string(value.size()) + ':' + std::string(value) + ' ';
  } else if constexpr (std::is_same_v<T, Bytes>) {
    print(Text(reinterpret_cast<const char*>(value.data()), value.size()), out);
  } else {
    out += std::to_string(value.size()) + '[';
    for (const auto& item : value) print(item, out);
    out += ']';
  }
}
template <class T>
std::string printed(const T& value) {
  std::string out;
  print(value, out);
  return out;
}

template <class Each, class... Messages>
void for_each_message(MessageList<Messages...>, Each&& each) {
  (each.template operator()<Messages>(), ...);
}

template <class Message>
Frame request_frame(const Message& message) {
  Frame frame;
  REQUIRE(encode_request(message, 7, frame));
  return frame;
}
template <class Message>
Frame reply_frame(const Message& message) {
  Frame frame;
  REQUIRE(encode_reply(message, Op::stat, 7, frame));
  return frame;
}

void set_body_bytes(Frame& frame) {
  const auto bytes = static_cast<std::uint32_t>(frame.size() - sizeof(FrameHeader));
  std::memcpy(frame.data() + offsetof(FrameHeader, body_bytes), &bytes, sizeof bytes);
}
void put_u32(Frame& frame, std::size_t at, std::uint32_t value) {
  std::memcpy(frame.data() + at, &value, sizeof value);
}

// A little for the text of an error, and a few times the frame for vectors that grow by doubling.
constexpr std::uint64_t justified(std::size_t frame_bytes) { return 4096 + 16 * frame_bytes; }

// Decodes what may be anything. An answer is an error or a message, cheaply; a message is exactly
// what the frame says, no byte of it ignored.
template <class Message, class Decode, class Encode>
bool decodes_soundly(const Frame& frame, Decode&& decode, Encode&& encode) {
  const std::uint64_t before = bytes_allocated;
  const Result<Message> message = decode(frame);
  const std::uint64_t allocated = bytes_allocated - before;
  REQUIRE(allocated <= justified(frame.size()));
  if (!message) return false;
  Frame again;
  REQUIRE(encode(*message, again));
  REQUIRE(again.size() == frame.size());
  REQUIRE(std::memcmp(again.data() + sizeof(FrameHeader), frame.data() + sizeof(FrameHeader),
                      frame.size() - sizeof(FrameHeader)) == 0);
  return true;
}

template <class Message>
bool request_decodes_soundly(const Frame& frame) {
  return decodes_soundly<Message>(
      frame, [](const Frame& from) { return decode_request<Message>(from); },
      [](const Message& message, Frame& into) { return encode_request(message, 7, into); });
}

template <class Message>
bool reply_decodes_soundly(const Frame& frame) {
  std::uint8_t origin = 0;
  std::memcpy(&origin, frame.data() + sizeof(FrameHeader),
              frame.size() > sizeof(FrameHeader) ? 1 : 0);
  if (origin != 0) {
    // A failure, or what claims to be one, is never a message.
    const Result<Message> message = decode_reply<Message>(frame);
    REQUIRE_FALSE(message);
    REQUIRE(static_cast<bool>(message.error().code));
    return false;
  }
  return decodes_soundly<Message>(
      frame,
      [](const Frame& from) -> Result<Message> {
        // A reply that worked carries a code and a detail, too; nobody looks at them.
        auto decoded = decode_reply<Message>(from);
        if (!decoded) return decoded;
        std::uint32_t detail_bytes = 0;
        std::memcpy(&detail_bytes, from.data() + sizeof(FrameHeader) + 5, sizeof detail_bytes);
        std::int32_t code = 0;
        std::memcpy(&code, from.data() + sizeof(FrameHeader) + 1, sizeof code);
        if (detail_bytes != 0 || code != 0) return fail(Errc::bad_message, "not comparable");
        return decoded;
      },
      [](const Message& message, Frame& into) { return encode_reply(message, Op::stat, 7, into); });
}

TEST_SUITE("codec") {
  TEST_CASE("every message is decoded as it was encoded, as a request and as a reply") {
    test::Random random("messages");
    for (int round = 0; round < 100; ++round)
      for_each_message(AllMessages{}, [&]<class Message>() {
        Filler filler(random, round == 0 ? 0 : 300, round == 0 ? 0 : 12);
        Message message;
        filler.fill(message);
        const Frame request = request_frame(message);
        REQUIRE(printed(*decode_request<Message>(request)) == printed(message));
        const Frame reply = reply_frame(message);
        REQUIRE(decode_header(reply));
        REQUIRE(printed(*decode_reply<Message>(reply)) == printed(message));
      });
  }

  TEST_CASE("a frame says which request it is, of which number, and whether it is the answer") {
    Frame frame;
    REQUIRE(encode_request(CreateRequest{}, 4711, frame));
    FrameHeader header = *decode_header(frame);
    CHECK(header.op == static_cast<std::uint16_t>(Op::create));
    CHECK(header.number == 4711);
    CHECK(header.body_bytes == frame.size() - sizeof header);
    REQUIRE(encode_reply(CreateReply{}, Op::create, 4711, frame));
    header = *decode_header(frame);
    CHECK(header.op == (static_cast<std::uint16_t>(Op::create) | reply_bit));
    CHECK(header.number == 4711);
    encode_failure(fail(Errc::denied, "no").error, Op::create, 4711, frame);
    header = *decode_header(frame);
    CHECK(header.op == (static_cast<std::uint16_t>(Op::create) | reply_bit));
    CHECK(header.number == 4711);
  }

  TEST_CASE("a frame that is used again has nothing of what it held before") {
    Frame frame;
    PutRequest large;
    const std::vector<std::byte> payload(50'000);
    large.payload = payload;
    REQUIRE(encode_request(large, 1, frame));
    REQUIRE(encode_request(GrantRequest{5}, 2, frame));
    CHECK(decode_request<GrantRequest>(frame)->chunk == 5);
    CHECK(frame.size() == sizeof(FrameHeader) + 4);
  }

  TEST_CASE("every change of one byte of any message is an error or another message") {
    test::Random random("mutated messages");
    std::uint64_t refused = 0;
    for_each_message(AllMessages{}, [&]<class Message>() {
      Filler filler(random, 3, 2);
      Message message;
      filler.fill(message);
      for (const bool is_reply : {false, true}) {
        Frame frame = is_reply ? reply_frame(message) : request_frame(message);
        for (std::size_t at = sizeof(FrameHeader); at < frame.size(); ++at) {
          const std::byte right = frame[at];
          for (unsigned other = 0; other < 256; ++other) {
            frame[at] = static_cast<std::byte>(other);
            const bool decoded = is_reply ? reply_decodes_soundly<Message>(frame)
                                          : request_decodes_soundly<Message>(frame);
            refused += decoded ? 0 : 1;
          }
          frame[at] = right;
        }
      }
    });
    CHECK(refused > 1000);
  }

  TEST_CASE("every truncation of any message is an error") {
    test::Random random("truncated messages");
    for_each_message(AllMessages{}, [&]<class Message>() {
      Filler filler(random, 20, 4);
      Message message;
      filler.fill(message);
      const Frame request = request_frame(message);
      const Frame reply = reply_frame(message);
      for (std::size_t size = 0; size < request.size(); ++size) {
        // As it arrives: the header says more than there is.
        Frame cut(request.begin(), request.begin() + static_cast<std::ptrdiff_t>(size));
        REQUIRE_FALSE(decode_header(cut));
        if (size < sizeof(FrameHeader)) continue;
        // And with a header that lies.
        set_body_bytes(cut);
        if constexpr (requires { Message::op; }) REQUIRE(decode_header(cut));
        const auto decoded = decode_request<Message>(cut);
        REQUIRE_FALSE(decoded);
        REQUIRE(decoded.error().is(Errc::bad_message));
      }
      for (std::size_t size = sizeof(FrameHeader); size < reply.size(); ++size) {
        const Frame cut(reply.begin(), reply.begin() + static_cast<std::ptrdiff_t>(size));
        const auto decoded = decode_reply<Message>(cut);
        REQUIRE_FALSE(decoded);
        REQUIRE(decoded.error().is(Errc::bad_message));
      }
    });
  }

  TEST_CASE("a message with anything behind its last field is an error") {
    for_each_message(AllMessages{}, [&]<class Message>() {
      Frame request = request_frame(Message{});
      request.push_back(std::byte{0});
      const auto decoded = decode_request<Message>(request);
      REQUIRE_FALSE(decoded);
      REQUIRE(decoded.error().is(Errc::bad_message));
      Frame reply = reply_frame(Message{});
      reply.push_back(std::byte{0});
      REQUIRE_FALSE(decode_reply<Message>(reply));
    });
  }

  TEST_CASE("random bytes are an error or a message") {
    test::Random random("random frames");
    std::uint64_t messages = 0;
    for (int round = 0; round < 2000; ++round) {
      Frame frame(sizeof(FrameHeader) + random.below(round % 50 == 0 ? 20'000 : 150));
      // Mostly zeros and small numbers: lengths that fit are what leads into the depth.
      for (std::size_t at = sizeof(FrameHeader); at < frame.size(); ++at)
        frame[at] = static_cast<std::byte>(random.chance(0.8)   ? 0
                                           : random.chance(0.8) ? random.below(8)
                                                                : random.next32());
      for_each_message(AllMessages{}, [&]<class Message>() {
        messages += request_decodes_soundly<Message>(frame) ? 1 : 0;
        (void)reply_decodes_soundly<Message>(frame);
      });
    }
    CHECK(messages > 0);
  }

  TEST_CASE("a length that is more than what follows is an error and costs nothing") {
    StatRequest stat;
    stat.id = "points";
    Frame frame = request_frame(stat);
    for (const std::uint32_t lie : {7U + 8U, 0x7fffffffU, 0xffffffffU}) {
      put_u32(frame, sizeof(FrameHeader), lie);
      const std::uint64_t before = bytes_allocated;
      const auto decoded = decode_request<StatRequest>(frame);
      CHECK(bytes_allocated - before <= 4096);
      REQUIRE_FALSE(decoded);
      CHECK(decoded.error().is(Errc::bad_message));
    }
  }

  TEST_CASE(
      "a count of items that are not there is an error and costs no more than what is there") {
    for (const std::uint32_t items : {0U, 1U, 500U}) {
      PutManyRequest put_many;
      put_many.items.resize(items);
      HoldersReply holders;
      holders.holders.resize(items);
      Frame request = request_frame(put_many);
      Frame reply = reply_frame(holders);
      for (const std::uint32_t lie : {items + 1, 100'000U, 0x7fffffffU, 0xffffffffU}) {
        put_u32(request, sizeof(FrameHeader), lie);
        std::uint64_t before = bytes_allocated;
        const auto decoded = decode_request<PutManyRequest>(request);
        CHECK(bytes_allocated - before <= justified(request.size()));
        REQUIRE_FALSE(decoded);
        // Not for want of memory: that would mean that it was asked for.
        CHECK(decoded.error().is(Errc::bad_message));

        put_u32(reply, sizeof(FrameHeader) + 9, lie);  // behind origin, code and an empty detail
        before = bytes_allocated;
        const auto also = decode_reply<HoldersReply>(reply);
        CHECK(bytes_allocated - before <= justified(reply.size()));
        REQUIRE_FALSE(also);
        CHECK(also.error().is(Errc::bad_message));
      }
      if (items == 0) continue;
      // Fewer than there are leaves some over.
      put_u32(request, sizeof(FrameHeader), items - 1);
      CHECK_FALSE(decode_request<PutManyRequest>(request));
    }
  }

  TEST_CASE("texts and bytes of a decoded message are views into its frame") {
    PutRequest put;
    const std::string payload(1000, 'p');
    put.segment.id = "points";
    put.payload = std::as_bytes(std::span(payload));
    const Frame frame = request_frame(put);
    const auto decoded = decode_request<PutRequest>(frame);
    REQUIRE(decoded);
    const auto inside = [&frame](const void* data) {
      return data >= frame.data() && data < frame.data() + frame.size();
    };
    CHECK(inside(decoded->segment.id.data()));
    CHECK(inside(decoded->payload.data()));
  }

  TEST_CASE("the largest message fills a frame, and one byte more is refused") {
    PutRequest put;
    const std::size_t rest = request_frame(put).size();
    std::vector<std::byte> payload(frame_bytes_max - rest, std::byte{7});
    put.payload = payload;
    Frame frame;
    REQUIRE(encode_request(put, 1, frame));
    CHECK(frame.size() == frame_bytes_max);
    CHECK(decode_request<PutRequest>(frame)->payload.size() == payload.size());
    payload.push_back(std::byte{7});
    put.payload = payload;
    const auto refused = encode_request(put, 1, frame);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().is(Errc::bad_argument));

    const std::string text(frame_bytes_max, 't');
    TextReply reply;
    reply.text = text;
    CHECK_FALSE(encode_reply(reply, Op::status, 1, frame));
    PutManyRequest many;
    many.items.resize(frame_bytes_max);
    CHECK_FALSE(encode_request(many, 1, frame));
  }

  TEST_CASE("an inline put of the largest size fits, whatever id and description it has") {
    PutRequest put;
    const std::string id(255, 'i');
    const std::vector<std::byte> description(64 * 1024);
    const std::vector<std::byte> payload(inline_bytes_max);
    put.segment.id = id;
    put.segment.description = description;
    put.payload = payload;
    Frame frame;
    CHECK(encode_request(put, 1, frame));
  }

  TEST_CASE("what is no frame of ours is refused by its header") {
    Frame frame = request_frame(GrantRequest{5});
    CHECK(decode_header(frame));
    for (std::size_t size = 0; size < sizeof(FrameHeader); ++size)
      CHECK_FALSE(decode_header(std::span(frame).first(size)));
    const auto refuses = [&frame](std::size_t at) {
      Frame changed = frame;
      changed[at] ^= std::byte{1};
      const auto header = decode_header(changed);
      return !header && header.error().is(Errc::bad_message);
    };
    CHECK(refuses(offsetof(FrameHeader, magic)));
    CHECK(refuses(offsetof(FrameHeader, magic) + 1));
    CHECK(refuses(offsetof(FrameHeader, body_bytes)));
    CHECK(refuses(offsetof(FrameHeader, body_bytes) + 3));
    CHECK(refuses(offsetof(FrameHeader, reserved)));
    CHECK(refuses(offsetof(FrameHeader, reserved) + 3));
    frame.push_back(std::byte{0});
    CHECK_FALSE(decode_header(frame));
  }

  TEST_CASE("a failure crosses the wire with its origin, its number and its sentence") {
    Frame frame;
    for (int code = 1; code <= errc_last; ++code) {
      encode_failure(fail(static_cast<Errc>(code), "because of 'x'").error, Op::create, 9, frame);
      const auto decoded = decode_reply<CreateReply>(frame);
      REQUIRE_FALSE(decoded);
      CHECK(decoded.error().is(static_cast<Errc>(code)));
      CHECK(decoded.error().detail == "because of 'x'");
    }
    for (const int number : {1, ENOSPC, ENOMEM}) {
      encode_failure(fail_errno(number, "cannot reserve").error, Op::create, 9, frame);
      const auto decoded = decode_reply<CreateReply>(frame);
      REQUIRE_FALSE(decoded);
      CHECK((decoded.error().code == std::error_code(number, std::system_category())));
      CHECK(decoded.error().detail == "cannot reserve");
    }
  }

  TEST_CASE("a failure whose sentence is too long for a frame crosses with its beginning") {
    Frame frame;
    const std::string sentence(frame_bytes_max * 2, 's');
    encode_failure(fail(Errc::store_full, sentence).error, Op::put, 1, frame);
    CHECK(frame.size() < frame_bytes_max);
    const auto decoded = decode_reply<PutReply>(frame);
    REQUIRE_FALSE(decoded);
    CHECK(decoded.error().is(Errc::store_full));
    CHECK(decoded.error().detail.size() > 1000);
    CHECK(sentence.starts_with(decoded.error().detail));
  }

  TEST_CASE("a failure without a number is a failure all the same") {
    for (const unsigned origin : {1U, 2U, 77U, 255U}) {
      const Error error =
          error_of({.origin = static_cast<std::uint8_t>(origin), .code = 0, .detail = "odd"});
      CHECK(static_cast<bool>(error.code));
      CHECK(error.detail == "odd");
    }
  }

  TEST_CASE("a failure with a body behind it is no message") {
    Frame frame;
    encode_failure(fail(Errc::denied, "no").error, Op::create, 9, frame);
    frame.push_back(std::byte{0});
    set_body_bytes(frame);
    const auto decoded = decode_reply<CreateReply>(frame);
    REQUIRE_FALSE(decoded);
    CHECK(decoded.error().is(Errc::bad_message));
  }
}

}  // namespace
}  // namespace forebay::wire
