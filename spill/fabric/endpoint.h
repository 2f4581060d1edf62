// SPDX-License-Identifier: Apache-2.0
// Endpoint: one endpoint of libfabric with all that belongs to it and to nothing else: fabric,
// domain, address vector, completion queue. Nothing is shared between two of them, because closing
// an endpoint is the only way to abort what is in flight to one peer.
//
// Owns what it opened and closes it in the order that libfabric wants; registrations in its domain
// must be gone before it. What is behind domain(), ep() and cq() may be used from any thread
// (FI_THREAD_SAFE); opening and closing may not.
#pragma once

#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_eq.h>
#include <rdma/fi_rma.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "spill/fabric/provider.h"
#include "store/error.h"

namespace forebay::spill::fabric {

struct CloseFid {
  template <class Fid>
  void operator()(Fid* opened) const {
    (void)fi_close(&opened->fid);
  }
};
template <class Fid>
using Owned = std::unique_ptr<Fid, CloseFid>;

class Endpoint {
 public:
  // Enabled, with a completion queue for at least that many completions.
  static Result<std::unique_ptr<Endpoint>> open(const Library& library, Info info,
                                                std::size_t completions);
  ~Endpoint();
  Endpoint(const Endpoint&) = delete;
  Endpoint& operator=(const Endpoint&) = delete;

  const fi_info& info() const { return *info_; }
  fid_domain* domain() const { return domain_.get(); }
  fid_ep* ep() const { return ep_.get(); }
  fid_cq* cq() const { return cq_.get(); }

  // Under which others reach it.
  Result<std::vector<std::byte>> name() const;
  Result<fi_addr_t> insert(std::span<const std::byte> address);
  // Of an address of this provider's, for people.
  std::string text_of(std::span<const std::byte> address) const;

  // How one waits for a completion. With a descriptor, beside others, once may_wait() says so; in
  // fi_cq_sread, which fi_cq_signal ends; or, where there is neither, by asking again and again.
  enum class Waiting { descriptor, queue, none };
  Waiting waiting() const { return waiting_; }
  int wait_descriptor() const { return wait_descriptor_; }
  bool may_wait();

  // Takes the error that fi_cq_read told of; the text has both of its numbers.
  struct Failure {
    void* context = nullptr;
    Error error;
  };
  Failure take_error();

  // Everything in flight ends; no byte is written to any memory of ours afterwards. Completions
  // that are left are thrown away. `let_go` gives up the registrations, when the endpoint clings to
  // them.
  void abort(const std::function<void()>& let_go);

 private:
  Endpoint(const Library& library, Info info) : library_(&library), info_(std::move(info)) {}
  Result<void> start(std::size_t completions);
  Waiting find_out_waiting();

  const Library* library_;
  Info info_;
  // In the order of their making.
  Owned<fid_fabric> fabric_;
  Owned<fid_domain> domain_;
  Owned<fid_av> av_;
  Owned<fid_cq> cq_;
  Owned<fid_ep> ep_;
  int wait_descriptor_ = -1;
  Waiting waiting_ = Waiting::none;
};

}  // namespace forebay::spill::fabric
