// SPDX-License-Identifier: Apache-2.0
// Moving segments between memory and the tiers, and looking at what is there.
#include "store/tiers.h"

#include <sys/mman.h>

#include <utility>

#include "store/client.h"
#include "store/client/core.h"
#include "store/id.h"

namespace forebay {
namespace {

// As many as fit into a frame whatever their ids; the rest in further requests.
constexpr std::size_t names_max = 600;
constexpr auto answer_slack = std::chrono::milliseconds(200);

wire::SegmentName name_of(const SegmentName& segment) {
  return {segment.id, segment.version, segment.serial};
}

}  // namespace

SegmentRange& SegmentRange::operator=(SegmentRange&& other) noexcept {
  if (this == &other) return *this;
  release();
  pin_ = std::move(other.pin_);
  small_ = std::move(other.small_);
  data_ = std::exchange(other.data_, nullptr);
  size_ = std::exchange(other.size_, 0);
  mapped_ = std::exchange(other.mapped_, 0);
  return *this;
}

void SegmentRange::release() noexcept {
  if (mapped_ > 0) ::munmap(const_cast<std::byte*>(data_), mapped_);
  pin_.release();
  small_.clear();
  data_ = nullptr;
  size_ = 0;
  mapped_ = 0;
}

namespace client {

SegmentRange Access::range_of(View view, std::uint64_t offset, std::uint64_t size) {
  SegmentRange range;
  range.data_ = view.bytes().data() + offset;
  range.size_ = size;
  range.pin_ = std::move(view);
  return range;
}

SegmentRange Access::range_of(std::span<const std::byte> bytes) {
  SegmentRange range;
  range.small_.assign(bytes.begin(), bytes.end());
  range.data_ = range.small_.data();
  range.size_ = range.small_.size();
  return range;
}

Result<SegmentRange> Access::range_of(const Descriptor& memory, std::uint64_t size) {
  // Shared, so that the pages are those that came: nobody else has the descriptor any more.
  void* const address =
      ::mmap(nullptr, size, PROT_READ, MAP_SHARED | MAP_POPULATE, memory.get(), 0);
  if (address == MAP_FAILED)
    return fail_errno(errno, "cannot map a range of " + std::to_string(size) + " bytes");
  SegmentRange range;
  range.data_ = static_cast<const std::byte*>(address);
  range.size_ = size;
  range.mapped_ = size;
  return range;
}

Result<std::uint64_t> Core::transfer(wire::TransferVerb verb, std::span<const SegmentName> segments,
                                     Timeout timeout) {
  const Deadline until =
      timeout > Timeout::zero() ? deadline_after(timeout) : deadline();
  std::uint64_t done = 0;
  for (std::size_t from = 0; from < segments.size(); from += names_max) {
    wire::TransferRequest request;
    request.verb = static_cast<std::uint8_t>(verb);
    request.store = store();
    for (const SegmentName& segment :
         segments.subspan(from, std::min(names_max, segments.size() - from))) {
      if (auto checked = check_id(segment.id); !checked) return fail(std::move(checked.error()));
      request.items.push_back(name_of(segment));
    }
    auto answer = this->request<wire::TransferReply>(request, until + answer_slack);
    if (!answer) return fail(std::move(answer.error()));
    done += answer->message.done;
  }
  return done;
}

Result<Whereabouts> Core::where(const SegmentName& segment) {
  if (auto checked = check_id(segment.id); !checked) return fail(std::move(checked.error()));
  wire::WhereRequest request;
  request.store = store();
  request.segment = name_of(segment);
  auto answer = this->request<wire::WhereReply>(request, deadline());
  if (!answer) return fail(std::move(answer.error()));
  const wire::WhereReply& said = answer->message;
  Whereabouts where;
  where.version = said.version;
  where.size_bytes = said.size;
  where.stored_bytes = said.stored;
  where.in_memory = said.in_memory != 0;
  where.published = said.published != 0;
  for (const wire::WhereCopy& copy : said.copies)
    where.copies.push_back({std::string(copy.tier), copy.up != 0});
  return where;
}

Result<void> Core::hint(std::span<const SegmentName> segments, const UseHint& hint) {
  if (auto connected = ensure_connected(deadline()); !connected) return connected;
  for (std::size_t from = 0; from < segments.size(); from += names_max) {
    wire::HintRequest request;
    request.store = store();
    for (const SegmentName& segment :
         segments.subspan(from, std::min(names_max, segments.size() - from))) {
      if (auto checked = check_id(segment.id); !checked) return checked;
      request.items.push_back({name_of(segment), static_cast<std::uint8_t>(hint.last_use ? 1 : 0),
                               hint.next_use, hint.priority});
    }
    tell(request);
  }
  return {};
}

Result<SegmentRange> Core::get_range(const SegmentName& segment, std::uint64_t offset,
                                     std::uint64_t size, Timeout timeout, const Ref* ref) {
  if (auto checked = check_id(segment.id); !checked) return fail(std::move(checked.error()));
  const Deadline until = timeout > Timeout::zero() ? deadline_after(timeout) : deadline();
  const auto of_view = [&](View view) -> Result<SegmentRange> {
    const std::uint64_t there = view.bytes().size();
    if (offset > there || size > there - offset)
      return fail(Errc::bad_argument, "segment " + shown(segment.id, segment.version) + " has " +
                                          std::to_string(there) +
                                          " bytes: the range does not lie in it");
    return Access::range_of(std::move(view), offset, size);
  };
  // In memory it costs what a get does.
  bool missed = false;
  if (View view = get_resident(segment.id, segment.version, ref, missed))
    return of_view(std::move(view));
  wire::RangeRequest request;
  request.store = store();
  request.segment = name_of(segment);
  request.offset = offset;
  request.size = size;
  auto answer = this->request<wire::RangeReply>(request, until + answer_slack);
  if (!answer) return fail(std::move(answer.error()));
  if (answer->message.in_memory != 0) {
    GetOptions exact;
    exact.version = answer->message.version;
    exact.timeout = timeout;
    auto view = get(segment.id, exact, ref);
    if (!view) return fail(std::move(view.error()));
    return of_view(std::move(*view));
  }
  if (!answer->descriptors.empty())
    return Access::range_of(answer->descriptors.front(), size);
  return Access::range_of(answer->message.bytes);
}

// Makes what another node has published known to the daemon; which version that is.
Result<std::uint64_t> Core::import(std::string_view id, std::uint64_t version, Deadline until) {
  if (auto checked = check_id(id); !checked) return fail(std::move(checked.error()));
  wire::ImportRequest request;
  request.id = id;
  request.version = version;
  auto answer = this->request<wire::ImportReply>(request, until);
  if (!answer) return fail(std::move(answer.error()));
  return answer->message.version;
}

}  // namespace client

Result<std::uint64_t> Client::prefetch(std::span<const SegmentName> segments) {
  return core_->transfer(wire::TransferVerb::prefetch, segments, Timeout::zero());
}
Result<std::uint64_t> Client::restore(std::span<const SegmentName> segments, Timeout timeout) {
  return core_->transfer(wire::TransferVerb::restore, segments, timeout);
}
Result<std::uint64_t> Client::spill(std::span<const SegmentName> segments, Timeout timeout) {
  return core_->transfer(wire::TransferVerb::spill, segments, timeout);
}
Result<std::uint64_t> Client::publish(std::span<const SegmentName> segments, Timeout timeout) {
  return core_->transfer(wire::TransferVerb::publish, segments, timeout);
}
Result<Whereabouts> Client::where(const SegmentName& segment) const {
  return core_->where(segment);
}
Result<void> Client::hint(std::span<const SegmentName> segments, const UseHint& hint) {
  return core_->hint(segments, hint);
}
Result<SegmentRange> Client::get_range(const SegmentName& segment, std::uint64_t offset_bytes,
                                       std::uint64_t size_bytes, Timeout timeout) const {
  return core_->get_range(segment, offset_bytes, size_bytes, timeout, nullptr);
}
Result<SegmentRange> Client::get_range(const Ref& ref, std::uint64_t offset_bytes,
                                       std::uint64_t size_bytes, Timeout timeout) const {
  if (auto checked = core_->check_store(ref, core_->store()); !checked)
    return fail(std::move(checked.error()));
  return core_->get_range({ref.id, ref.version, ref.serial}, offset_bytes, size_bytes, timeout,
                          &ref);
}

}  // namespace forebay
