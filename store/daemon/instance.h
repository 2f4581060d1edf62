// SPDX-License-Identifier: Apache-2.0
// Instance: one place where one daemon may serve: a socket path, and beside it a lock file and a
// note of which store's memory belongs here.
//
//   NAME.sock        the socket
//   NAME.sock.lock   held by the living daemon (flock); never deleted, for deleting it would race
//   NAME.sock.state  the store's uuid, while there is a store
#pragma once

#include <optional>
#include <string>

#include "store/descriptor.h"
#include "store/error.h"
#include "store/ref.h"

namespace forebay::daemon {

class Instance {
 public:
  // Takes the instance. Fails with already_running, naming the daemon that has it; and with denied
  // when the directory belongs to somebody else or others may write to it.
  static Result<Instance> claim(const std::string& socket_path);

  const std::string& socket_path() const { return socket_path_; }

  std::optional<StoreUuid> stored() const;
  Result<void> remember(const StoreUuid& store);
  void forget();
  // Removes a socket that a dead daemon left. Only the instance's holder may.
  void remove_socket();

 private:
  Instance(std::string socket_path, Descriptor lock)
      : socket_path_(std::move(socket_path)), lock_(std::move(lock)) {}
  std::string state_path() const { return socket_path_ + ".state"; }

  std::string socket_path_;
  Descriptor lock_;
};

}  // namespace forebay::daemon
