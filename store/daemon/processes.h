// SPDX-License-Identifier: Apache-2.0
// Processes: which process each slot and its pin table belong to, and whether it still lives.
//
// What a process holds stays as long as the process, connected or not: by its pidfd, and after a
// restart of the daemon by pid, start time and boot. Only death, an orderly goodbye without pins, or
// an exec that left the store's memory behind gives a slot back. Owned by the daemon's thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "store/daemon/clock.h"
#include "store/daemon/pin_tables.h"
#include "store/daemon/process.h"
#include "store/daemon/ticket.h"
#include "store/error.h"
#include "store/shm/index_map.h"

namespace forebay::daemon {

struct Process {
  Slot slot = 0;
  Peer peer;                     // pid 0: a fork's child that has not said yet who it is
  std::uint64_t start_time = 0;
  std::uint64_t token = 0;
  Descriptor pidfd;         // none: not known yet
  SessionId session = 0;         // 0: not connected now
  bool said_goodbye = false;     // it makes no more pins; the slot goes with the last one
  std::string program;
  TimePoint look_at{};           // when to see whether it has exec'ed, while not connected
  Clock::duration look_pause{};
};

class Processes {
 public:
  Processes(shm::IndexMap index, PinTables& tables);

  // A slot and a table for a process that has just connected. Fails with limit_reached.
  Result<Process*> admit(const Peer& peer, Descriptor pidfd, std::string program);
  // The slot that this process still has from before; nothing if the claim is not true.
  Process* readmit(Slot slot, std::uint64_t token, const Peer& peer);
  // A slot for a child that is about to be forked, with a copy of the parent's pins.
  Result<Process*> admit_child(const Process& parent);
  // The child has said who it is, as the kernel confirms.
  Result<void> arrived(Process& child, const Peer& peer);

  // Looks again at a process that its pidfd reported dead: if it shares its table with a living
  // one (a fork that no daemon answered), the table goes on as that one's. True: it does.
  bool inherit(Process& process);
  // Table and slot are free.
  void dismiss(Slot slot);

  // Slots whose processes have exec'ed, or have said goodbye and let go of everything.
  std::vector<Slot> departed(TimePoint now, const Descriptor& index_object);
  std::optional<TimePoint> next_look() const;
  void disconnected(Process& process, TimePoint now);

  // At a restart: finds the living, dismisses the dead. The result says which slots live; `inherited`
  // gets those that are a living heir's now.
  std::vector<bool> recover(std::vector<Slot>* inherited = nullptr);

  Process* find(Slot slot);
  bool same_process(Slot slot, Slot other) const;
  std::map<Slot, Process>& all() { return processes_; }

 private:
  Result<Process*> claim(const Peer& peer, std::uint64_t start_time);
  void write_identity(const Process& process);

  shm::IndexMap index_;
  PinTables& tables_;
  std::map<Slot, Process> processes_;
};

// 64 bits that nobody can guess.
std::uint64_t random_number();

}  // namespace forebay::daemon
