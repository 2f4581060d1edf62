// SPDX-License-Identifier: Apache-2.0
// What the server does with the tiers: jobs of the rules go there, answers come back, and the requests
// that are about them.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "store/daemon/log.h"
#include "store/daemon/publication.h"
#include "store/daemon/server.h"
#include "store/id.h"
#include "store/units.h"

namespace forebay::daemon {
namespace {

using wire::Op;

// A range of up to this many bytes comes in the answer itself.
constexpr std::uint64_t range_inline_bytes = 32 * 1024;
// Memory for ranges on their way, of all clients together, beside the store's own.
constexpr std::uint64_t ranges_bytes_max = 256 * mebibyte;
constexpr auto complaint_pause = std::chrono::seconds(10);

Failure no_tier() {
  return fail(Errc::bad_state,
              "this forebayd has no tier: start it with --pools or --spill-dir");
}

}  // namespace

// --------------------------------------------------------------------------------- jobs and answers

void Server::start(CopyJob job) {
  if (port_) port_->copy(job);
}

void Server::start(FetchJob job) {
  if (port_) return port_->fetch(job);
  // A store that was spilled by a daemon with tiers, and is served by one without.
  tierless_fetches_.push_back(job.number);
}

void Server::forget(const SpillPlace& place) {
  // What another store has published is not ours to remove.
  if (port_ && place.store == memory_.uuid()) port_->spill().forget(place);
}

void Server::take_tier_answers() {
  for (const std::uint64_t job : std::exchange(tierless_fetches_, {}))
    rules_.fetched(job,
                   fail(Errc::tier_down, "it is spilled, and this forebayd has no tier: start it "
                                         "with the --pools and --spill-dir of its predecessor"),
                   now_);
  if (!port_) return;
  for (SpillPort::Answer& answer : port_->take_answers()) {
    if (auto* copied = std::get_if<SpillPort::Copied>(&answer)) {
      if (!copied->place) complain_of_tiers(copied->place.error());
      rules_.copied(copied->job, std::move(copied->place), now_);
    } else if (auto* fetched = std::get_if<SpillPort::Fetched>(&answer)) {
      if (!fetched->outcome) complain_of_tiers(fetched->outcome.error());
      rules_.fetched(fetched->job, std::move(fetched->outcome), now_);
    } else if (auto* read = std::get_if<SpillPort::RangeRead>(&answer)) {
      range_read(read->number, std::move(read->outcome));
    } else if (auto* found = std::get_if<SpillPort::Found>(&answer)) {
      import_found(found->number, std::move(found->found));
    } else if (auto* moved = std::get_if<SpillPort::Moved>(&answer)) {
      moved->answer(rules_.moved(moved->move));
    }
  }
}

void Server::complain_of_tiers(const Error& error) {
  if (now_ < complain_of_tiers_at_) return;
  complain_of_tiers_at_ = now_ + complaint_pause;
  log::warning("tier", {{"reason", error.message()}});
}

// --------------------------------------------------------------------------------------- requests

void Server::transfer(Session& session, std::uint32_t number,
                      const wire::TransferRequest& request) {
  std::vector<TransferItem> items;
  items.reserve(request.items.size());
  for (const wire::SegmentName& item : request.items) {
    if (item.serial != 0 && request.store != memory_.uuid())
      return refused({session.id, number, 0},
                     fail(Errc::wrong_store, "a ref of another store").error);
    items.push_back({item.id, item.version, item.serial});
  }
  const auto verb = static_cast<TransferVerb>(request.verb);
  if (verb < TransferVerb::prefetch || verb > TransferVerb::publish)
    return refused({session.id, number, 0}, fail(Errc::bad_argument, "no such transfer").error);
  rules_.transfer({session.id, number, 0}, verb, items, now_);
}

void Server::transferred(Ticket ticket, std::uint64_t done) {
  if (Session* session = find_session(ticket.session))
    reply(*session, Op::transfer, ticket.number, wire::TransferReply{done});
}

Result<EntryNumber> Server::find_named(const wire::Uuid& store,
                                       const wire::SegmentName& segment) const {
  if (segment.serial != 0 && store != memory_.uuid())
    return fail(Errc::wrong_store, "a ref of another store");
  auto entry = rules_.find(segment.id, segment.version);
  if (!entry) return entry;
  if (segment.serial != 0 && table_.serial(*entry) != segment.serial)
    return fail(Errc::stale_ref,
                "the ref's segment " + shown(segment.id, segment.version) + " was removed");
  if (!SegmentTable::readable(table_.word(*entry).state()))
    return fail(Errc::not_found, "no segment " + shown(segment.id, segment.version));
  return entry;
}

void Server::where(Session& session, std::uint32_t number, const wire::WhereRequest& request) {
  const auto entry = find_named(request.store, request.segment);
  if (!entry) return reply_failure(session, Op::where, number, entry.error());
  wire::WhereReply answer;
  answer.version = table_.version(*entry);
  answer.serial = table_.serial(*entry);
  answer.size = table_.size(*entry);
  answer.in_memory = table_.has_memory(*entry) ? 1 : 0;
  SpillStatus status;
  if (table_.has_place(*entry)) {
    const SpillPlace place = table_.place(*entry);
    answer.stored = place.stored;
    answer.published = place.reserved[0] == published_mark ? 1 : 0;
    if (port_) {
      status = port_->spill().status();
      const auto tiers = port_->spill().tiers_of(place);
      for (std::size_t i = 0; i < tiers.size(); ++i) {
        if (place.copies[i].incarnation == 0) continue;
        const auto known = static_cast<std::size_t>(tiers[i]);
        if (tiers[i] >= 0 && known < status.tiers.size())
          answer.copies.push_back({status.tiers[known].name,
                                   static_cast<std::uint8_t>(status.tiers[known].up ? 1 : 0)});
        else
          answer.copies.push_back({"a tier that is not known now", 0});
      }
    }
  }
  reply(session, Op::where, number, answer);
}

void Server::hint(const wire::HintRequest& request) {
  for (const wire::HintItem& item : request.items) {
    if (item.segment.serial != 0 && request.store != memory_.uuid()) continue;
    rules_.hint({item.segment.id, item.segment.version, item.segment.serial},
                {item.last_use != 0, item.next_use, item.priority});
  }
}

void Server::range(Session& session, std::uint32_t number, const wire::RangeRequest& request) {
  const Ticket ticket{session.id, number, 0};
  const auto entry = find_named(request.store, request.segment);
  if (!entry) return refused(ticket, entry.error());
  const std::uint64_t size = table_.size(*entry);
  if (request.offset > size || request.size > size - request.offset)
    return refused(ticket, fail(Errc::bad_argument,
                                shown(request.segment.id, table_.version(*entry)) + " has " +
                                    std::to_string(size) + " bytes: the range does not lie in it")
                               .error);
  wire::RangeReply answer;
  answer.version = table_.version(*entry);
  answer.serial = table_.serial(*entry);
  answer.size = size;
  if (table_.has_memory(*entry) || request.size == 0) {
    answer.in_memory = table_.has_memory(*entry) ? 1 : 0;
    return reply(session, Op::range, number, answer);
  }
  if (!port_) return refused(ticket, no_tier().error);
  if (ranges_bytes_ + request.size > ranges_bytes_max && ranges_bytes_ > 0)
    return refused(ticket, fail(Errc::limit_reached, "too many ranges are being read: try again, "
                                                     "or get the whole segment")
                               .error);
  RangeInFlight flight;
  flight.ticket = ticket;
  flight.reply = answer;
  if (request.size <= range_inline_bytes) {
    flight.small.resize(request.size);
  } else {
    flight.memory = Descriptor(::memfd_create("forebay-range", MFD_CLOEXEC));
    void* address = MAP_FAILED;
    if (flight.memory && ::ftruncate(flight.memory.get(), static_cast<off_t>(request.size)) == 0 &&
        ::posix_fallocate(flight.memory.get(), 0, static_cast<off_t>(request.size)) == 0)
      address = ::mmap(nullptr, request.size, PROT_READ | PROT_WRITE, MAP_SHARED,
                       flight.memory.get(), 0);
    if (address == MAP_FAILED)
      return refused(ticket, fail(Errc::store_full, "no memory for a range of " +
                                                        format_size(request.size))
                                 .error);
    flight.mapped = {static_cast<std::byte*>(address), request.size};
  }
  const std::uint64_t name = next_flight_++;
  RangeInFlight& kept = ranges_.emplace(name, std::move(flight)).first->second;
  ranges_bytes_ += request.size;
  port_->read_range(name, table_.place(*entry), request.offset,
                    kept.mapped.empty() ? std::span(kept.small) : kept.mapped);
}

void Server::range_read(std::uint64_t number, Result<void> outcome) {
  const auto found = ranges_.find(number);
  if (found == ranges_.end()) return;
  RangeInFlight flight = std::move(found->second);
  ranges_.erase(found);
  ranges_bytes_ -= flight.mapped.empty() ? flight.small.size() : flight.mapped.size();
  if (!flight.mapped.empty()) ::munmap(flight.mapped.data(), flight.mapped.size());
  if (!outcome) return refused(flight.ticket, std::move(outcome.error()));
  Session* const session = find_session(flight.ticket.session);
  if (session == nullptr) return;
  flight.reply.bytes = flight.small;
  std::vector<int> descriptors;
  if (flight.memory) descriptors.push_back(flight.memory.get());
  reply(*session, Op::range, flight.ticket.number, flight.reply, std::move(descriptors));
}

void Server::import(Session& session, std::uint32_t number, const wire::ImportRequest& request) {
  const Ticket ticket{session.id, number, 0};
  if (auto checked = check_id(request.id); !checked) return refused(ticket, checked.error());
  if (!port_) return refused(ticket, no_tier().error);
  const std::uint64_t name = next_flight_++;
  imports_[name] = {ticket, std::string(request.id)};
  port_->find(name, published_name(table_, request.id), request.version);
}

void Server::import_found(std::uint64_t number, Result<SpillFound> found) {
  const auto asked = imports_.find(number);
  if (asked == imports_.end()) return;
  const ImportInFlight flight = std::move(asked->second);
  imports_.erase(asked);
  Session* const session = find_session(flight.ticket.session);
  if (session == nullptr) return;
  if (!found) {
    if (found.error().is(Errc::not_found))
      found.error().detail = "nobody has published " + shown(flight.id) + " to a pool that answers";
    return refused(flight.ticket, std::move(found.error()));
  }
  const auto publication = read_publication(found->label);
  if (!publication) return refused(flight.ticket, publication.error());
  if (found->place.size !=
      shm::stored_bytes(publication->size, publication->description_size))
    return refused(flight.ticket,
                   fail(Errc::bad_message, "what the pool says of " + shown(flight.id) +
                                               " contradicts itself")
                       .error);
  std::vector<std::byte> description(publication->description_size);
  if (shm::description_in_record(publication->description_size))
    std::copy_n(publication->description.begin(), publication->description_size,
                description.begin());
  const auto entry = rules_.import({.id = flight.id,
                                    .version = found->label.version,
                                    .size = publication->size,
                                    .brief = publication->brief,
                                    .description = description,
                                    .owner_slot = session->slot,
                                    .writer_uid = publication->writer_uid},
                                   found->place, wall_clock_ns(), now_);
  if (!entry) return refused(flight.ticket, entry.error());
  reply(*session, Op::import, flight.ticket.number,
        wire::ImportReply{table_.version(*entry), table_.serial(*entry)});
}

void Server::tier_status(const std::function<void(const char*, const std::string&)>& line) const {
  if (!port_) return;
  const SpillStatus status = port_->spill().status();
  std::size_t at = 0;
  for (const TierStatus& tier : status.tiers)
    line(("tier_" + std::to_string(at++)).c_str(), tier.name + (tier.up ? " up " : " down ") + std::to_string(tier.used_bytes) + " of " +
                     std::to_string(tier.capacity_bytes) + " bytes, " + tier.transport +
                     (tier.up ? "" : ": " + tier.why_down));
  const auto count = [&line](const char* name, std::uint64_t value) {
    line(name, std::to_string(value));
  };
  count("packs", status.packs);
  count("packed_bytes", status.packed_bytes);
  count("packs_bytes", status.packs_bytes);
  count("compactions", status.compactions);
  count("copies_repaired", status.repaired);
  count("copies_corrupt", status.corrupt);
}

}  // namespace forebay::daemon
