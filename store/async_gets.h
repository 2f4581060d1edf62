// SPDX-License-Identifier: Apache-2.0
// AsyncGets: gets that do not block, for event loops.
//
// They have a connection of their own. When `fd` is readable, `dispatch` reads what has come and calls
// back. Belongs to one thread at a time. Survives the daemon. In a forked child it is void: nothing is
// called there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

#include "store/error.h"
#include "store/timeout.h"
#include "store/view.h"

namespace forebay {

struct GetOptions;
namespace client {
class Access;
class AsyncGetsState;
}

class FOREBAY_API AsyncGets {
 public:
  using Callback = std::function<void(Result<View>)>;  // must not throw

  AsyncGets(AsyncGets&&) noexcept;
  AsyncGets& operator=(AsyncGets&&) noexcept;
  ~AsyncGets();  // those that are open are called back with `cancelled`

  // Calls back once: at once, from within, if the segment is there or the arguments are bad; else from
  // `dispatch`, by the timeout at the latest (as Client::get fails). Returns a number to cancel it by;
  // 0: it has called back already.
  std::uint64_t get(std::string_view id, const GetOptions& options, Callback done);
  // Calls back with `cancelled`, from within. False: it was not open any more.
  bool cancel(std::uint64_t number);

  // A pollable descriptor, the same one for life; readable when dispatch has something to do.
  int fd() const;
  // Calls back all that can be, without waiting. Returns how many.
  std::size_t dispatch();
  std::size_t open_count() const;

 private:
  friend class client::Access;
  explicit AsyncGets(std::unique_ptr<client::AsyncGetsState> state);
  std::unique_ptr<client::AsyncGetsState> state_;
};

}  // namespace forebay
