// SPDX-License-Identifier: Apache-2.0
#include "store/wire/codec.h"

#include <cereal/cereal.hpp>
#include <cstring>
#include <stdexcept>
#include <tuple>
#include <type_traits>

namespace forebay::wire {
namespace {

// What a message that lies about its lengths throws; it never leaves this file.
struct Malformed : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class FrameWriter : public cereal::OutputArchive<FrameWriter, cereal::AllowEmptyClassElision> {
 public:
  explicit FrameWriter(std::vector<std::byte>& frame) : OutputArchive(this), frame_(frame) {}

  void write(const void* data, std::size_t size) {
    if (size > frame_bytes_max - frame_.size()) throw Malformed("larger than a frame may be");
    const auto* from = static_cast<const std::byte*>(data);
    frame_.insert(frame_.end(), from, from + size);
  }
  void write_length(std::size_t length) {
    if (length > frame_bytes_max) throw Malformed("larger than a frame may be");
    const auto narrow = static_cast<std::uint32_t>(length);
    write(&narrow, sizeof narrow);
  }

 private:
  std::vector<std::byte>& frame_;
};

class FrameReader : public cereal::InputArchive<FrameReader, cereal::AllowEmptyClassElision> {
 public:
  explicit FrameReader(Bytes rest) : InputArchive(this), rest_(rest) {}

  Bytes take(std::size_t size) {
    if (size > rest_.size()) throw Malformed("ends in the middle of a field");
    const Bytes taken = rest_.first(size);
    rest_ = rest_.subspan(size);
    return taken;
  }
  void read(void* data, std::size_t size) {
    const Bytes taken = take(size);
    if (size > 0) std::memcpy(data, taken.data(), size);
  }
  std::size_t read_length() {
    std::uint32_t length = 0;
    read(&length, sizeof length);
    return length;
  }
  std::size_t remaining() const { return rest_.size(); }

 private:
  Bytes rest_;
};

// The types that messages are made of; cereal finds these by name.
template <class T>
std::enable_if_t<std::is_arithmetic_v<T>> CEREAL_SAVE_FUNCTION_NAME(FrameWriter& out,
                                                                     const T& number) {
  out.write(&number, sizeof number);
}
template <class T>
std::enable_if_t<std::is_arithmetic_v<T>> CEREAL_LOAD_FUNCTION_NAME(FrameReader& in, T& number) {
  in.read(&number, sizeof number);
}

}  // namespace
}  // namespace forebay::wire

// cereal looks functions for standard types up in their own namespaces and in its own.
namespace cereal {
using forebay::wire::Bytes;
using forebay::wire::FrameReader;
using forebay::wire::FrameWriter;
using forebay::wire::Text;
using forebay::wire::Uuid;

inline void CEREAL_SAVE_FUNCTION_NAME(FrameWriter& out, const Text& text) {
  out.write_length(text.size());
  out.write(text.data(), text.size());
}
inline void CEREAL_LOAD_FUNCTION_NAME(FrameReader& in, Text& text) {
  const Bytes bytes = in.take(in.read_length());
  text = {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
inline void CEREAL_SAVE_FUNCTION_NAME(FrameWriter& out, const Bytes& bytes) {
  out.write_length(bytes.size());
  out.write(bytes.data(), bytes.size());
}
inline void CEREAL_LOAD_FUNCTION_NAME(FrameReader& in, Bytes& bytes) {
  bytes = in.take(in.read_length());
}
inline void CEREAL_SAVE_FUNCTION_NAME(FrameWriter& out, const Uuid& uuid) {
  out.write(uuid.data(), uuid.size());
}
inline void CEREAL_LOAD_FUNCTION_NAME(FrameReader& in, Uuid& uuid) {
  in.read(uuid.data(), uuid.size());
}

template <class T>
void CEREAL_SAVE_FUNCTION_NAME(FrameWriter& out, const std::vector<T>& items) {
  out.write_length(items.size());
  for (const T& item : items) out(item);
}
template <class T>
void CEREAL_LOAD_FUNCTION_NAME(FrameReader& in, std::vector<T>& items) {
  // Grown as items arrive: a count alone allocates nothing.
  for (std::size_t left = in.read_length(); left > 0; --left) {
    if (in.remaining() == 0) throw forebay::wire::Malformed("counts more items than it has");
    in(items.emplace_back());
  }
}

}  // namespace cereal

namespace forebay::wire {
namespace {

// The bridge from `members` to cereal's `serialize`, for every message struct.
template <class Archive, class Message>
void serialize_members(Archive& archive, Message& message) {
  message.members([&archive](auto&... members) { archive(members...); });
}

}  // namespace

template <class Archive, class Message>
  requires requires(Message& message) { message.members([](auto&...) {}); }
void CEREAL_SERIALIZE_FUNCTION_NAME(Archive& archive, Message& message) {
  serialize_members(archive, message);
}

namespace {

void begin_frame(std::vector<std::byte>& frame) {
  frame.clear();
  frame.resize(sizeof(FrameHeader));
}

void end_frame(std::vector<std::byte>& frame, std::uint16_t op, std::uint32_t number) {
  const FrameHeader header{frame_magic, op, number,
                           static_cast<std::uint32_t>(frame.size() - sizeof(FrameHeader)), 0};
  std::memcpy(frame.data(), &header, sizeof header);
}

// cereal serialises through one `serialize` for both directions, which wants a mutable object.
template <class Message>
Message& mutable_view(const Message& message) {
  return const_cast<Message&>(message);
}

template <class Write>
Result<void> write_frame(std::vector<std::byte>& frame, Write&& write) {
  try {
    begin_frame(frame);
    FrameWriter writer(frame);
    write(writer);
    return {};
  } catch (const Malformed& error) {
    return fail(Errc::bad_argument, std::string("the message is ") + error.what());
  } catch (const std::bad_alloc&) {
    return fail_errno(ENOMEM, "no memory for a message");
  }
}

template <class Read>
auto read_frame(std::span<const std::byte> frame, Read&& read)
    -> Result<decltype(read(std::declval<FrameReader&>()))> {
  try {
    FrameReader reader(frame.subspan(sizeof(FrameHeader)));
    auto message = read(reader);
    if (reader.remaining() != 0) throw Malformed("goes on behind its last field");
    return message;
  } catch (const Malformed& error) {
    return fail(Errc::bad_message, std::string("a message that ") + error.what());
  } catch (const cereal::Exception& error) {
    return fail(Errc::bad_message, error.what());
  } catch (const std::bad_alloc&) {
    return fail_errno(ENOMEM, "no memory for a message");
  }
}

}  // namespace

template <class Message>
Result<void> encode_request(const Message& message, std::uint32_t number,
                            std::vector<std::byte>& frame) {
  auto written = write_frame(frame, [&](FrameWriter& out) { out(mutable_view(message)); });
  if (!written) return written;
  if constexpr (requires { Message::op; })
    end_frame(frame, static_cast<std::uint16_t>(Message::op), number);
  return {};
}

template <class Message>
Result<void> encode_reply(const Message& message, Op op, std::uint32_t number,
                          std::vector<std::byte>& frame) {
  auto written = write_frame(frame, [&](FrameWriter& out) {
    ReplyStatus worked;
    out(worked);
    out(mutable_view(message));
  });
  if (!written) return written;
  end_frame(frame, static_cast<std::uint16_t>(op) | reply_bit, number);
  return {};
}

void encode_failure(const Error& error, Op op, std::uint32_t number,
                    std::vector<std::byte>& frame) {
  ReplyStatus status = status_of(error);
  status.detail = status.detail.substr(0, 16 * 1024);
  const auto written = write_frame(frame, [&](FrameWriter& out) { out(status); });
  STORE_CHECK(written.has_value(), "an error always fits into a frame");
  end_frame(frame, static_cast<std::uint16_t>(op) | reply_bit, number);
}

Result<FrameHeader> decode_header(std::span<const std::byte> frame) {
  if (frame.size() < sizeof(FrameHeader))
    return fail(Errc::bad_message, "a frame of " + std::to_string(frame.size()) + " bytes");
  FrameHeader header{};
  std::memcpy(&header, frame.data(), sizeof header);
  if (header.magic != frame_magic) return fail(Errc::bad_message, "not a frame of Forebay's");
  if (header.body_bytes != frame.size() - sizeof header || header.reserved != 0)
    return fail(Errc::bad_message, "a frame whose length is not what it says");
  return header;
}

template <class Message>
Result<Message> decode_request(std::span<const std::byte> frame) {
  return read_frame(frame, [](FrameReader& in) {
    Message message;
    in(message);
    return message;
  });
}

template <class Message>
Result<Message> decode_reply(std::span<const std::byte> frame) {
  Error failure;
  auto message = read_frame(frame, [&failure](FrameReader& in) {
    ReplyStatus status;
    in(status);
    Message body;
    if (status.origin == 0) {
      in(body);
    } else {
      failure = error_of(status);
    }
    return body;
  });
  if (message && failure.code) return fail(std::move(failure));
  return message;
}

ReplyStatus status_of(const Error& error) {
  return {.origin = static_cast<std::uint8_t>(error.code.category() == forebay_category() ? 1 : 2),
          .code = error.code.value(),
          .detail = error.detail};
}

Error error_of(const ReplyStatus& status) {
  const std::error_category& category =
      status.origin == 1 ? forebay_category() : std::system_category();
  // A failure without a number would read as success further up.
  const int code = status.code != 0 ? status.code : static_cast<int>(Errc::bad_message);
  return {{code, category}, std::string(status.detail)};
}

namespace {

// The functions of every message of the list; taking their addresses has them compiled here.
template <class... Messages>
constexpr auto functions_of(MessageList<Messages...>) {
  return std::tuple{&encode_request<Messages>..., &encode_reply<Messages>...,
                    &decode_request<Messages>..., &decode_reply<Messages>...};
}
[[gnu::used]] const auto all_functions = functions_of(AllMessages{});

}  // namespace

}  // namespace forebay::wire
