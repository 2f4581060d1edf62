// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/processes.h"

#include <sys/random.h>

#include <algorithm>

#include "store/check.h"
#include "store/shm/failpoint.h"

namespace forebay::daemon {
namespace {

constexpr auto release = std::memory_order_release;
constexpr auto relaxed = std::memory_order_relaxed;
constexpr auto first_look = std::chrono::milliseconds(20);
constexpr auto longest_look_pause = std::chrono::seconds(5);
constexpr auto goodbye_look_pause = std::chrono::milliseconds(100);
// Time for clients to come back after a restart: who has, need not be looked at.
constexpr auto restart_look_pause = std::chrono::milliseconds(500);

}  // namespace

std::uint64_t random_number() {
  std::uint64_t number = 0;
  STORE_CHECK(::getrandom(&number, sizeof number, 0) == sizeof number,
              "the system has random numbers");
  return number;
}

Processes::Processes(shm::IndexMap index, PinTables& tables) : index_(index), tables_(tables) {}

Process* Processes::find(Slot slot) {
  const auto found = processes_.find(slot);
  return found == processes_.end() ? nullptr : &found->second;
}

bool Processes::same_process(Slot slot, Slot other) const {
  const auto one = processes_.find(slot);
  const auto two = processes_.find(other);
  if (one == processes_.end() || two == processes_.end()) return false;
  const Process& a = one->second;
  const Process& b = two->second;
  return a.peer.pid != 0 && a.peer.pid == b.peer.pid && a.start_time == b.start_time;
}

void Processes::write_identity(const Process& process) {
  shm::ProcessSlot& slot = index_.processes[process.slot];
  slot.pid.store(static_cast<std::uint32_t>(process.peer.pid), release);
  slot.uid.store(process.peer.uid, release);
  slot.gid.store(process.peer.gid, release);
  slot.start_time.store(process.start_time, release);
  slot.token.store(process.token, release);
}

Result<Process*> Processes::claim(const Peer& peer, std::uint64_t start_time) {
  const std::uint32_t slots = index_.stamp->limits.processes;
  Slot slot = 0;
  while (slot < slots && processes_.contains(slot)) ++slot;
  if (slot == slots)
    return fail(Errc::limit_reached, "all " + std::to_string(slots) +
                                         " process slots are taken; end some clients");
  Process process;
  process.slot = slot;
  process.peer = peer;
  process.start_time = start_time;
  process.token = random_number();
  const std::uint64_t table = random_number();
  if (auto created = tables_.create(slot, table); !created) return fail(std::move(created.error()));
  write_identity(process);
  index_.processes[slot].table.store(table, release);
  shm::reached(shm::points::process_slot_filled);
  index_.processes[slot].state.store(static_cast<std::uint32_t>(shm::SlotState::held), release);
  shm::reached(shm::points::process_slot_held);
  return &processes_.emplace(slot, std::move(process)).first->second;
}

Result<Process*> Processes::admit(const Peer& peer, Descriptor pidfd, std::string program) {
  const auto start_time = start_time_of(peer.pid);
  if (!start_time || has_ended(pidfd))
    return fail(Errc::disconnected, "process " + std::to_string(peer.pid) + " is gone");
  auto process = claim(peer, *start_time);
  if (!process) return process;
  (*process)->pidfd = std::move(pidfd);
  (*process)->program = program.empty() ? program_of(peer.pid) : std::move(program);
  tables_.describe((*process)->slot, static_cast<std::uint32_t>(peer.pid), (*process)->program);
  return process;
}

Process* Processes::readmit(Slot slot, std::uint64_t token, const Peer& peer) {
  Process* process = find(slot);
  if (process == nullptr || process->token != token || process->peer.pid != peer.pid ||
      process->peer.uid != peer.uid || process->said_goodbye ||
      start_time_of(peer.pid) != process->start_time)
    return nullptr;
  return process;
}

Result<Process*> Processes::admit_child(const Process& parent) {
  const Slot parent_slot = parent.slot;
  const std::string program = parent.program;
  Peer unknown{0, parent.peer.uid, parent.peer.gid};
  auto child = claim(unknown, 0);
  if (!child) return child;
  if (auto copied = tables_.copy(parent_slot, (*child)->slot); !copied) {
    dismiss((*child)->slot);
    return fail(std::move(copied.error()));
  }
  (*child)->program = program;
  tables_.describe((*child)->slot, 0, program);
  return child;
}

Result<void> Processes::arrived(Process& child, const Peer& peer) {
  if (child.peer.pid != 0 || peer.uid != child.peer.uid)
    return fail(Errc::denied, "not the child that this table was made for");
  auto pidfd = watch_process(peer.pid);
  if (!pidfd) return fail(std::move(pidfd.error()));
  const auto start_time = start_time_of(peer.pid);
  if (!start_time) return fail(Errc::disconnected, "the child is gone");
  child.peer = peer;
  child.start_time = *start_time;
  child.pidfd = std::move(*pidfd);
  write_identity(child);
  tables_.describe(child.slot, static_cast<std::uint32_t>(peer.pid), child.program);
  return {};
}

bool Processes::inherit(Process& process) {
  shm::PinTableHead& head = tables_.head(process.slot);
  for (auto& co_owner : head.co_owners) {
    const auto pid = static_cast<pid_t>(co_owner.pid.load(relaxed));
    // The client wrote this; it is only believed where the kernel agrees.
    if (pid <= 0 || pid == process.peer.pid || uid_of(pid) != process.peer.uid) continue;
    const auto start_time = start_time_of(pid);
    auto pidfd = watch_process(pid);
    if (!start_time || !pidfd || has_ended(*pidfd)) continue;
    if (maps_object(pid, tables_.descriptor(process.slot)) == false) continue;
    process.peer.pid = pid;
    process.start_time = *start_time;
    process.pidfd = std::move(*pidfd);
    // The heir's own requests go through a table of its own; this one only keeps what it inherited.
    process.token = random_number();
    process.session = 0;
    write_identity(process);
    tables_.describe(process.slot, static_cast<std::uint32_t>(pid), process.program);
    return true;
  }
  return false;
}

void Processes::dismiss(Slot slot) {
  tables_.remove(slot);
  shm::reached(shm::points::process_table_removed);
  index_.processes[slot].state.store(static_cast<std::uint32_t>(shm::SlotState::free), release);
  processes_.erase(slot);
}

void Processes::disconnected(Process& process, TimePoint now) {
  process.session = 0;
  process.look_pause = first_look;
  process.look_at = now + (process.said_goodbye ? Clock::duration{0} : process.look_pause);
}

std::vector<Slot> Processes::departed(TimePoint now, const Descriptor& index_object) {
  std::vector<Slot> slots;
  for (auto& [slot, process] : processes_) {
    if (process.session != 0 || process.peer.pid == 0 || now < process.look_at) continue;
    if (process.said_goodbye) {
      if (!tables_.holds_any(slot)) {
        slots.push_back(slot);
        continue;
      }
      process.look_pause = goodbye_look_pause;
    } else {
      // Not the death of the process, but of the program that had the views: by exec.
      if (maps_object(process.peer.pid, index_object) == false) {
        slots.push_back(slot);
        continue;
      }
      process.look_pause =
          std::min<Clock::duration>(process.look_pause * 2, longest_look_pause);
    }
    process.look_at = now + process.look_pause;
  }
  return slots;
}

std::optional<TimePoint> Processes::next_look() const {
  std::optional<TimePoint> next;
  for (const auto& [slot, process] : processes_) {
    if (process.session != 0 || process.peer.pid == 0) continue;
    if (!next || process.look_at < *next) next = process.look_at;
  }
  return next;
}

std::vector<bool> Processes::recover(std::vector<Slot>* inherited) {
  std::vector<bool> living(index_.stamp->limits.processes);
  const bool same_boot = index_.stamp->boot_id == boot_id();
  for (Slot slot = 0; slot < living.size(); ++slot) {
    shm::ProcessSlot& stored = index_.processes[slot];
    if (stored.state.load(relaxed) != static_cast<std::uint32_t>(shm::SlotState::held)) continue;
    const bool opened = tables_.open(slot, stored.table.load(relaxed)).has_value();
    Process process;
    process.slot = slot;
    process.peer = {static_cast<pid_t>(stored.pid.load(relaxed)), stored.uid.load(relaxed),
                    stored.gid.load(relaxed)};
    process.start_time = stored.start_time.load(relaxed);
    process.token = stored.token.load(relaxed);
    Process& kept = processes_.emplace(slot, std::move(process)).first->second;
    if (opened && same_boot) {
      if (kept.peer.pid != 0) {
        auto pidfd = watch_process(kept.peer.pid);
        if (pidfd && !has_ended(*pidfd) && start_time_of(kept.peer.pid) == kept.start_time) {
          kept.pidfd = std::move(*pidfd);
          living[slot] = true;
        }
      }
      if (!living[slot]) {
        living[slot] = inherit(kept);
        if (living[slot] && inherited != nullptr) inherited->push_back(slot);
      }
    }
    if (!living[slot]) {
      dismiss(slot);
      continue;
    }
    kept.program = program_of(kept.peer.pid);
    kept.look_pause = first_look;
    kept.look_at = Clock::now() + restart_look_pause;
    tables_.describe(slot, static_cast<std::uint32_t>(kept.peer.pid), kept.program);
  }
  return living;
}

}  // namespace forebay::daemon
