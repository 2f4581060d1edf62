// SPDX-License-Identifier: Apache-2.0
#include "spill/fabric/transfers.h"

#include <utility>

#include "store/check.h"

namespace forebay::spill::fabric {

namespace {
// The number is generation and slot; generations start at 1, so none is null.
constexpr unsigned slot_bits = 12;
constexpr std::uintptr_t slot_mask = (std::uintptr_t{1} << slot_bits) - 1;
}  // namespace

Transfers::Transfers(std::size_t most) : slots_(most) {
  STORE_CHECK(most > 0 && most <= slot_mask, "transfers in flight fit their numbers");
  for (std::size_t slot = most; slot > 0; --slot)
    free_.push_back(static_cast<std::uint32_t>(slot - 1));
}

void* Transfers::begin(Operation* operation, std::size_t bytes,
                       std::vector<std::shared_ptr<Registration>>& held) {
  const std::uint32_t number = free_.back();
  free_.pop_back();
  Slot& slot = slots_[number];
  ++slot.generation;
  slot.transfer.operation = operation;
  slot.transfer.bytes = bytes;
  slot.transfer.held.swap(held);
  bytes_ += bytes;
  return reinterpret_cast<void*>((slot.generation << slot_bits) | number);  // NOLINT
}

const Transfers::Slot* Transfers::slot_of(void* context) const {
  const auto number = reinterpret_cast<std::uintptr_t>(context);
  if ((number & slot_mask) >= slots_.size()) return nullptr;
  const Slot& slot = slots_[number & slot_mask];
  if (slot.transfer.operation == nullptr || slot.generation != number >> slot_bits) return nullptr;
  return &slot;
}

Operation* Transfers::find(void* context) const {
  const Slot* const slot = slot_of(context);
  return slot == nullptr ? nullptr : slot->transfer.operation;
}

Operation* Transfers::end(void* context) {
  const Slot* const found = slot_of(context);
  if (found == nullptr) return nullptr;
  const auto number = static_cast<std::uint32_t>(found - slots_.data());
  Transfer& transfer = slots_[number].transfer;
  bytes_ -= transfer.bytes;
  transfer.held.clear();
  free_.push_back(number);
  return std::exchange(transfer.operation, nullptr);
}

void Transfers::clear() {
  for (std::size_t number = 0; number < slots_.size(); ++number) {
    Transfer& transfer = slots_[number].transfer;
    if (transfer.operation == nullptr) continue;
    transfer.operation = nullptr;
    transfer.held.clear();
    free_.push_back(static_cast<std::uint32_t>(number));
  }
  bytes_ = 0;
}

}  // namespace forebay::spill::fabric
