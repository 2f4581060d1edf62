// SPDX-License-Identifier: Apache-2.0
// Explorer: runs a small concurrent program under every interleaving and every value that the C++
// memory model lets its loads return, and tells in which of them a claim fails.
//
// The program's atomics are explorer::Atomic; its threads are fibers, switched at each atomic
// operation. Memory is the view machine of Kang et al. ("A promising semantics for relaxed-memory
// concurrency", POPL 2017) without promises: each location keeps all its stores in modification
// order, each thread a view (the oldest store of each location that it may still read), a release
// store carries its thread's view and an acquire load takes it over. A seq_cst operation also reads
// no older than the last seq_cst store to its location and takes part in one total order, which is
// the order of execution. New stores go to the end of the modification order: exact wherever a
// location has one writer or is changed by read-modify-writes alone, as all of ours are.
//
// The search is a depth-first walk over choices, replaying each prefix. `preemptions_max` bounds how
// often a thread that could go on is interrupted, which keeps it exhaustive at a known depth.
#pragma once

#include <algorithm>
#include <atomic>
#include <csetjmp>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <ucontext.h>

namespace explorer {

// How much of what the code asks for the explored machine delivers; weaker ones prove that a test
// can fail.
enum class Strength { as_written, no_seq_cst };

struct Options {
  int preemptions_max = 3;
  Strength strength = Strength::as_written;
  bool stop_at_first_violation = false;
  std::uint64_t executions_max = 20'000'000;
};

struct Outcome {
  std::uint64_t executions = 0;
  std::uint64_t violations = 0;
  bool exhausted = true;  // false: executions_max came first
  std::string first_violation;
};

class Machine {
 public:
  using Location = std::size_t;

  static Machine& current() { return *current_slot(); }

  Location new_location(std::uint64_t value) {
    locations_.push_back({{Store{value, {}}}, 0});
    return locations_.size() - 1;
  }

  std::uint64_t load(Location at, std::memory_order order) {
    order = effective(order);
    step();
    Thread& me = thread();
    auto& location = locations_[at];
    std::size_t oldest = seen(me.view, at);
    if (order == std::memory_order_seq_cst) oldest = std::max(oldest, location.last_seq_cst);
    const std::size_t choices = location.stores.size() - oldest;
    // The newest value is tried first, so that the first execution is the sequential one.
    const std::size_t pick = location.stores.size() - 1 - choose(choices);
    raise(me.view, at, pick);
    if (order != std::memory_order_relaxed) join(me.view, location.stores[pick].view);
    return location.stores[pick].value;
  }

  void store(Location at, std::uint64_t value, std::memory_order order) {
    order = effective(order);
    step();
    append(at, value, order, {});
  }

  std::uint64_t add(Location at, std::uint64_t amount, std::memory_order order) {
    order = effective(order);
    step();
    Thread& me = thread();
    auto& location = locations_[at];
    const Store before = location.stores.back();
    if (order != std::memory_order_relaxed && order != std::memory_order_release)
      join(me.view, before.view);
    // A read-modify-write goes on with the release sequence it read from.
    append(at, before.value + amount, order, before.view);
    return before.value;
  }

  // What the location holds at last; for checks after the threads have ended.
  std::uint64_t final_value(Location at) const { return locations_[at].stores.back().value; }

  void violated(const std::string& claim) {
    if (violation_.empty()) violation_ = claim;
  }

  template <class Setup>
  static Outcome explore(const Options& options, Setup&& setup) {
    Outcome outcome;
    std::vector<Choice> path;
    while (true) {
      Machine machine(options, path);
      current_slot() = &machine;
      machine.run(setup);
      current_slot() = nullptr;
      ++outcome.executions;
      if (!machine.violation_.empty()) {
        ++outcome.violations;
        if (outcome.first_violation.empty()) outcome.first_violation = machine.violation_;
        if (options.stop_at_first_violation) return outcome;
      }
      path = std::move(machine.path_);
      while (!path.empty() && path.back().picked + 1 == path.back().count) path.pop_back();
      if (path.empty()) return outcome;
      ++path.back().picked;
      if (outcome.executions >= options.executions_max) {
        outcome.exhausted = false;
        return outcome;
      }
    }
  }

  // What a set-up returns: the threads, and a check of how things ended.
  struct Program {
    std::vector<std::function<void()>> threads;
    std::function<void()> at_end;
  };

 private:
  using View = std::vector<std::size_t>;
  struct Store {
    std::uint64_t value;
    View view;
  };
  struct LocationState {
    std::vector<Store> stores;
    std::size_t last_seq_cst;
  };
  struct Thread {
    std::jmp_buf here{};
    bool started = false;
    std::function<void()> body;
    View view;
    bool done = false;
  };
  struct Choice {
    std::size_t picked;
    std::size_t count;
  };

  Machine(const Options& options, std::vector<Choice> path)
      : options_(options), path_(std::move(path)) {}

  static Machine*& current_slot() {
    static Machine* machine = nullptr;
    return machine;
  }

  static std::size_t seen(const View& view, Location at) { return at < view.size() ? view[at] : 0; }
  static void raise(View& view, Location at, std::size_t index) {
    if (view.size() <= at) view.resize(at + 1, 0);
    view[at] = std::max(view[at], index);
  }
  static void join(View& into, const View& from) {
    for (Location at = 0; at < from.size(); ++at) raise(into, at, from[at]);
  }

  std::memory_order effective(std::memory_order order) const {
    return options_.strength == Strength::no_seq_cst && order == std::memory_order_seq_cst
               ? std::memory_order_acq_rel
               : order;
  }

  void append(Location at, std::uint64_t value, std::memory_order order, View carried) {
    Thread& me = thread();
    auto& location = locations_[at];
    raise(me.view, at, location.stores.size());
    if (order != std::memory_order_relaxed && order != std::memory_order_acquire)
      join(carried, me.view);
    raise(carried, at, location.stores.size());
    location.stores.push_back({value, std::move(carried)});
    if (order == std::memory_order_seq_cst) location.last_seq_cst = location.stores.size() - 1;
  }

  std::size_t choose(std::size_t count) {
    if (count <= 1) return 0;
    if (depth_ < path_.size()) return path_[depth_++].picked;
    path_.push_back({0, count});
    ++depth_;
    return 0;
  }

  Thread& thread() { return setting_up_ ? setup_thread_ : threads_[running_]; }

  // Before each atomic operation: who goes on?
  void step() {
    if (setting_up_) return;
    std::vector<std::size_t> others;
    if (preemptions_ < options_.preemptions_max)
      for (std::size_t i = 0; i < threads_.size(); ++i)
        if (i != running_ && !threads_[i].done) others.push_back(i);
    const std::size_t pick = choose(1 + others.size());
    if (pick == 0) return;
    ++preemptions_;
    switch_to(others[pick - 1]);
  }

  void switch_to(std::size_t next) {
    const std::size_t from = running_;
    running_ = next;
    if (_setjmp(threads_[from].here) == 0) resume();
  }

  // Fibers are entered once through a ucontext and switched by setjmp after that: swapcontext makes
  // two system calls a switch, which would be nearly all of the time.
  [[noreturn]] void resume() {
    Thread& next = threads_[running_];
    if (next.started) _longjmp(next.here, 1);
    next.started = true;
    ucontext_t entry{};
    getcontext(&entry);
    entry.uc_stack.ss_sp = stack_of(running_);
    entry.uc_stack.ss_size = stack_bytes;
    entry.uc_link = nullptr;
    makecontext(&entry, trampoline, 0);
    setcontext(&entry);
    std::abort();
  }

  // Stacks outlive executions: fresh ones would cost a page fault each time.
  static char* stack_of(std::size_t thread) {
    static std::vector<std::unique_ptr<char[]>> stacks;
    while (stacks.size() <= thread) stacks.push_back(std::make_unique<char[]>(stack_bytes));
    return stacks[thread].get();
  }

  static void trampoline() {
    Machine& machine = current();
    machine.threads_[machine.running_].body();
    machine.ended();
  }

  void ended() {
    threads_[running_].done = true;
    std::vector<std::size_t> left;
    for (std::size_t i = 0; i < threads_.size(); ++i)
      if (!threads_[i].done) left.push_back(i);
    if (left.empty()) _longjmp(home_, 1);
    running_ = left[choose(left.size())];
    resume();
  }

  template <class Setup>
  void run(Setup&& setup) {
    setting_up_ = true;
    Program program = setup();
    setting_up_ = false;
    for (auto& body : program.threads) {
      Thread thread;
      thread.body = std::move(body);
      thread.view = setup_thread_.view;
      threads_.push_back(std::move(thread));
    }
    running_ = choose(threads_.size());
    if (_setjmp(home_) == 0) resume();
    // The checks read as one more thread that has seen everything.
    setting_up_ = true;
    for (Location at = 0; at < locations_.size(); ++at)
      raise(setup_thread_.view, at, locations_[at].stores.size() - 1);
    if (program.at_end) program.at_end();
  }

  static constexpr std::size_t stack_bytes = 64 * 1024;
  Options options_;
  std::vector<Choice> path_;
  std::size_t depth_ = 0;
  int preemptions_ = 0;
  std::vector<LocationState> locations_;
  std::vector<Thread> threads_;
  Thread setup_thread_;
  bool setting_up_ = false;
  std::size_t running_ = 0;
  std::jmp_buf home_{};
  std::string violation_;
};

using Program = Machine::Program;

// Stands in for std::atomic in the templates under test.
template <class T>
class Atomic {
 public:
  Atomic() : at_(Machine::current().new_location(0)) {}
  Atomic(const Atomic&) = delete;
  Atomic& operator=(const Atomic&) = delete;

  T load(std::memory_order order = std::memory_order_seq_cst) const {
    return static_cast<T>(Machine::current().load(at_, order));
  }
  void store(T value, std::memory_order order = std::memory_order_seq_cst) {
    Machine::current().store(at_, value, order);
  }
  T fetch_add(T value, std::memory_order order = std::memory_order_seq_cst) {
    return static_cast<T>(Machine::current().add(at_, value, order));
  }
  T fetch_sub(T value, std::memory_order order = std::memory_order_seq_cst) {
    return static_cast<T>(Machine::current().add(at_, ~std::uint64_t{value} + 1, order));
  }

 private:
  Machine::Location at_;
};

inline void claim(bool holds, const char* what) {
  if (!holds) Machine::current().violated(what);
}

template <class Setup>
Outcome explore(const Options& options, Setup&& setup) {
  return Machine::explore(options, std::forward<Setup>(setup));
}

}  // namespace explorer
