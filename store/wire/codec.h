// SPDX-License-Identifier: Apache-2.0
// Codec: messages to frames and back. All of cereal is behind it.
//
// Decoding trusts nothing: each length is checked against the bytes that remain before anything is
// allocated, and a frame must be consumed to its last byte. What is not a message is an error with
// the reason, and the caller ends the session.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "store/error.h"
#include "store/wire/message.h"

namespace forebay::wire {

// Appends a frame to `frame`, which is cleared first. Fails with bad_argument when the message is
// larger than a frame may be.
template <class Message>
Result<void> encode_request(const Message& message, std::uint32_t number,
                            std::vector<std::byte>& frame);
template <class Message>
Result<void> encode_reply(const Message& message, Op op, std::uint32_t number,
                          std::vector<std::byte>& frame);
void encode_failure(const Error& error, Op op, std::uint32_t number,
                    std::vector<std::byte>& frame);

// Checks the header and that the frame is as long as it says.
Result<FrameHeader> decode_header(std::span<const std::byte> frame);

// `frame` is a whole frame whose header was checked.
template <class Message>
Result<Message> decode_request(std::span<const std::byte> frame);
// A reply that carries a failure decodes to that failure.
template <class Message>
Result<Message> decode_reply(std::span<const std::byte> frame);

// An error as the three fields that cross the wire, and back.
ReplyStatus status_of(const Error& error);
Error error_of(const ReplyStatus& status);

}  // namespace forebay::wire
