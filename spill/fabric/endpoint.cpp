// SPDX-License-Identifier: Apache-2.0
#include "spill/fabric/endpoint.h"

#include <poll.h>

#include <array>
#include <cstring>
#include <utility>

#include "spill/fabric/error.h"

namespace forebay::spill::fabric {

Result<std::unique_ptr<Endpoint>> Endpoint::open(const Library& library, Info info,
                                                 std::size_t completions) {
  std::unique_ptr<Endpoint> endpoint(new Endpoint(library, std::move(info)));
  if (auto started = endpoint->start(completions); !started) return fail(started.error());
  return endpoint;
}

Endpoint::~Endpoint() {
  // What is bound to an endpoint outlives it.
  ep_.reset();
  cq_.reset();
  av_.reset();
  domain_.reset();
  fabric_.reset();
}

Result<void> Endpoint::start(std::size_t completions) {
  const auto failed = [&](int code, const char* what) {
    return fail(fabric_error(code, std::string(what) + " failed with provider " +
                                       info_->fabric_attr->prov_name));
  };
  fid_fabric* fabric = nullptr;
  if (const int code = library_->open_fabric(info_->fabric_attr, &fabric, nullptr); code != 0)
    return failed(code, "fi_fabric");
  fabric_.reset(fabric);
  fid_domain* domain = nullptr;
  if (const int code = fi_domain(fabric, info_.get(), &domain, nullptr); code != 0)
    return failed(code, "fi_domain");
  domain_.reset(domain);

  fi_av_attr av_attributes{};
  av_attributes.type = info_->domain_attr->av_type == FI_AV_UNSPEC ? FI_AV_TABLE
                                                                   : info_->domain_attr->av_type;
  av_attributes.count = 1;
  fid_av* av = nullptr;
  if (const int code = fi_av_open(domain, &av_attributes, &av, nullptr); code != 0)
    return failed(code, "fi_av_open");
  av_.reset(av);

  fi_cq_attr cq_attributes{};
  cq_attributes.size = completions;
  cq_attributes.format = FI_CQ_FORMAT_DATA;
  cq_attributes.wait_obj = FI_WAIT_FD;
  fid_cq* cq = nullptr;
  if (fi_cq_open(domain, &cq_attributes, &cq, nullptr) != 0) {
    // Some NICs' providers cannot wait; then whoever uses the queue polls.
    cq_attributes.wait_obj = FI_WAIT_NONE;
    if (const int code = fi_cq_open(domain, &cq_attributes, &cq, nullptr); code != 0)
      return failed(code, "fi_cq_open");
  }
  cq_.reset(cq);
  if (cq_attributes.wait_obj == FI_WAIT_FD)
    if (const int code = fi_control(&cq->fid, FI_GETWAIT, &wait_descriptor_); code != 0)
      return failed(code, "fi_control(FI_GETWAIT)");

  fid_ep* ep = nullptr;
  if (const int code = fi_endpoint(domain, info_.get(), &ep, nullptr); code != 0)
    return failed(code, "fi_endpoint");
  ep_.reset(ep);
  if (const int code = fi_ep_bind(ep, &av->fid, 0); code != 0)
    return failed(code, "fi_ep_bind of the address vector");
  if (const int code = fi_ep_bind(ep, &cq->fid, FI_TRANSMIT | FI_RECV); code != 0)
    return failed(code, "fi_ep_bind of the completion queue");
  if (const int code = fi_enable(ep); code != 0) return failed(code, "fi_enable");
  waiting_ = find_out_waiting();
  return {};
}

Endpoint::Waiting Endpoint::find_out_waiting() {
  if (wait_descriptor_ < 0) return Waiting::none;
  // Provider net of 1.17 forgets to reset its descriptor: after the first completion it is readable
  // for ever, and who waits for it burns a processor.
  if (fi_cq_signal(cq_.get()) != 0) return Waiting::descriptor;
  (void)may_wait();
  pollfd readable{.fd = wait_descriptor_, .events = POLLIN, .revents = 0};
  return ::poll(&readable, 1, 0) == 0 ? Waiting::descriptor : Waiting::queue;
}

Result<std::vector<std::byte>> Endpoint::name() const {
  std::vector<std::byte> name(512);
  std::size_t length = name.size();
  if (const int code = fi_getname(&ep_->fid, name.data(), &length); code != 0)
    return fail(fabric_error(code, "fi_getname failed"));
  name.resize(length);
  return name;
}

Result<fi_addr_t> Endpoint::insert(std::span<const std::byte> address) {
  fi_addr_t inserted = FI_ADDR_UNSPEC;
  const int count = fi_av_insert(av_.get(), address.data(), 1, &inserted, 0, nullptr);
  if (count != 1)
    return fail(fabric_error(count < 0 ? count : FI_EINVAL,
                             "the address of the server is not one of provider " +
                                 std::string(info_->fabric_attr->prov_name)));
  return inserted;
}

std::string Endpoint::text_of(std::span<const std::byte> address) const {
  std::array<char, 256> text{};
  std::size_t length = text.size();
  fi_av_straddr(av_.get(), address.data(), text.data(), &length);
  text.back() = 0;
  return text.data();
}

bool Endpoint::may_wait() {
  fid* queue = &cq_->fid;
  return fi_trywait(fabric_.get(), &queue, 1) == 0;
}

Endpoint::Failure Endpoint::take_error() {
  // Later versions of libfabric put fields behind those that we know.
  union {
    fi_cq_err_entry entry;
    std::array<std::byte, sizeof(fi_cq_err_entry) + 128> room;
  } taken{};
  taken.room = {};
  const ssize_t count = fi_cq_readerr(cq_.get(), &taken.entry, 0);
  if (count < 0) return {nullptr, fabric_error(count, "the completion queue failed")};
  if (count == 0) return {nullptr, fabric_error(FI_EAGAIN, "an error went missing")};
  const fi_cq_err_entry& entry = taken.entry;
  std::array<char, 256> buffer{};
  const char* text = nullptr;
  // rxm asks the endpoint, and does not look whether there still is one.
  if (ep_)
    text = fi_cq_strerror(cq_.get(), entry.prov_errno, entry.err_data, buffer.data(),
                          buffer.size());
  return {entry.op_context,
          fabric_error(entry.err, "error " + std::to_string(entry.err) + ", provider's " +
                                      std::to_string(entry.prov_errno) + " (" +
                                      (text != nullptr ? text : "unknown") + ")")};
}

void Endpoint::abort(const std::function<void()>& let_go) {
  if (!ep_) return;
  fid_ep* const ep = ep_.release();
  const bool closed = fi_close(&ep->fid) != -FI_EBUSY;
  let_go();
  if (!closed) (void)fi_close(&ep->fid);
  // What closing has failed lies in the queue and is of no interest; bounded, as nobody adds to it.
  std::array<fi_cq_data_entry, 32> entries;
  for (int round = 0; round < 4096; ++round) {
    const ssize_t count = fi_cq_read(cq_.get(), entries.data(), entries.size());
    if (count == -FI_EAVAIL)
      (void)take_error();
    else if (count <= 0)
      break;
  }
}

}  // namespace forebay::spill::fabric
