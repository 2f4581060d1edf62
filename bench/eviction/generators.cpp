// SPDX-License-Identifier: Apache-2.0
#include "bench/eviction/generators.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <numeric>
#include <unordered_map>

namespace forebay::bench {
namespace {

constexpr std::uint64_t kibibyte = 1024;
constexpr std::uint64_t mebibyte = 1024 * kibibyte;

// Its own arithmetic: those of the standard library's distributions differ between systems.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15ULL + 0x1234567) {}
  std::uint64_t next() {
    state_ += 0x9E3779B97F4A7C15ULL;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27U)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31U);
  }
  std::uint64_t below(std::uint64_t end) { return next() % end; }
  double unit() { return static_cast<double>(next() >> 11U) * 0x1p-53; }
  // Roughly log-normal about `middle`, with most within a factor of `spread`.
  std::uint64_t size_about(std::uint64_t middle, double spread) {
    const double bell = unit() + unit() + unit() + unit() - 2;  // about ±1
    const double size = static_cast<double>(middle) * std::pow(spread, bell);
    return std::max<std::uint64_t>(64, static_cast<std::uint64_t>(size));
  }
  template <class T>
  void shuffle(std::vector<T>& what) {
    for (std::size_t i = what.size(); i > 1; --i) std::swap(what[i - 1], what[below(i)]);
  }

 private:
  std::uint64_t state_;
};

class Writer {
 public:
  std::uint64_t create(std::uint64_t size) {
    add(++id_, size, Op::create);
    sizes_[id_] = size;
    return id_;
  }
  void read(std::uint64_t id) { add(id, sizes_.at(id), Op::read); }
  void remove(std::uint64_t id) { add(id, sizes_.at(id), Op::remove); }
  // Behind the last read of each segment, the word that it was the last.
  Trace finish() {
    std::unordered_map<std::uint64_t, std::size_t> last;
    for (std::size_t i = 0; i < trace_.size(); ++i)
      if (trace_[i].op != Op::remove) last[trace_[i].id] = i;
    Trace told;
    for (std::size_t i = 0; i < trace_.size(); ++i) {
      told.push_back(trace_[i]);
      if (trace_[i].op != Op::remove && last.at(trace_[i].id) == i)
        told.push_back({trace_[i].time_ns, trace_[i].id, trace_[i].size, Op::last_use});
    }
    return told;
  }

 private:
  void add(std::uint64_t id, std::uint64_t size, Op op) {
    trace_.push_back({trace_.size() * 1'000, id, size, op});
  }
  Trace trace_;
  std::unordered_map<std::uint64_t, std::uint64_t> sizes_;
  std::uint64_t id_ = 0;
};

}  // namespace

Trace kmeans_trace(std::uint64_t seed, unsigned scale) {
  Random random(seed);
  Writer writer;
  std::vector<std::uint64_t> blocks;
  for (unsigned i = 0; i < 150 * scale; ++i)
    blocks.push_back(writer.create(random.size_about(4 * mebibyte, 1.3)));
  std::uint64_t centroids = writer.create(64 * kibibyte);
  for (int iteration = 0; iteration < 20; ++iteration) {
    // Whichever worker is free takes the next block: nearly in order, not quite.
    std::vector<std::uint64_t> order = blocks;
    for (std::size_t i = 0; i + 8 < order.size(); i += 4)
      std::swap(order[i], order[i + random.below(8)]);
    std::vector<std::uint64_t> partial;
    for (const std::uint64_t block : order) {
      writer.read(centroids);
      writer.read(block);
      partial.push_back(writer.create(64 * kibibyte));
    }
    for (const std::uint64_t part : partial) writer.read(part);
    for (const std::uint64_t part : partial) writer.remove(part);
    const std::uint64_t next = writer.create(64 * kibibyte);
    writer.remove(centroids);
    centroids = next;
  }
  return writer.finish();
}

Trace matmul_trace(std::uint64_t seed, unsigned scale) {
  Random random(seed);
  Writer writer;
  const unsigned n = 6 + 3 * scale;
  const auto grid = [&] {
    std::vector<std::uint64_t> blocks;
    for (unsigned i = 0; i < n * n; ++i) blocks.push_back(writer.create(8 * mebibyte));
    return blocks;
  };
  const auto a = grid();
  const auto b = grid();
  std::vector<unsigned> cells(n * n);
  std::iota(cells.begin(), cells.end(), 0U);
  // Several cells of C are worked on at a time.
  constexpr unsigned width = 4;
  for (unsigned start = 0; start < cells.size(); start += width) {
    std::vector<std::uint64_t> sums(width, 0);
    for (unsigned k = 0; k < n; ++k) {
      std::vector<unsigned> turn;
      for (unsigned w = 0; w < width && start + w < cells.size(); ++w) turn.push_back(w);
      random.shuffle(turn);
      for (const unsigned w : turn) {
        const unsigned cell = cells[start + w];
        writer.read(a[cell / n * n + k]);
        writer.read(b[k * n + cell % n]);
        if (sums[w] != 0) writer.read(sums[w]);
        const std::uint64_t sum = writer.create(8 * mebibyte);
        if (sums[w] != 0) writer.remove(sums[w]);
        sums[w] = sum;
      }
    }
  }
  return writer.finish();
}

Trace shuffle_trace(std::uint64_t seed, unsigned scale) {
  Random random(seed);
  Writer writer;
  const unsigned maps = 40 * scale;
  const unsigned reduces = 30 * scale;
  constexpr unsigned rounds = 3;
  std::vector<std::uint64_t> inputs;
  for (unsigned i = 0; i < maps; ++i)
    inputs.push_back(writer.create(random.size_about(8 * mebibyte, 2)));
  for (unsigned round = 0; round < rounds; ++round) {
    std::vector<std::vector<std::uint64_t>> parts(maps);
    random.shuffle(inputs);
    for (unsigned map = 0; map < maps; ++map) {
      writer.read(inputs[map % inputs.size()]);
      for (unsigned reduce = 0; reduce < reduces; ++reduce)
        parts[map].push_back(writer.create(random.size_about(256 * kibibyte, 8)));
    }
    std::vector<std::uint64_t> outputs;
    for (unsigned reduce = 0; reduce < reduces; ++reduce) {
      std::uint64_t bytes = 0;
      for (unsigned map = 0; map < maps; ++map) {
        writer.read(parts[map][reduce]);
        bytes += 64 * kibibyte;
      }
      for (unsigned map = 0; map < maps; ++map) writer.remove(parts[map][reduce]);
      outputs.push_back(writer.create(bytes));
    }
    for (const std::uint64_t input : inputs) writer.remove(input);
    inputs = outputs;
  }
  return writer.finish();
}

Trace dag_trace(std::uint64_t seed, unsigned scale) {
  Random random(seed);
  Writer writer;
  std::vector<std::uint64_t> shared;
  for (unsigned i = 0; i < 10 * scale; ++i)
    shared.push_back(writer.create(random.size_about(mebibyte, 16)));
  std::deque<std::uint64_t> recent;
  std::vector<std::uint64_t> old;
  const unsigned width = 60 * scale;
  for (unsigned task = 0; task < 3'000 * scale; ++task) {
    const std::uint64_t inputs = 1 + random.below(3);
    for (std::uint64_t i = 0; i < inputs && !recent.empty(); ++i) {
      // A stage reads mostly what the one before it made.
      const double far = random.unit();
      const auto back = static_cast<std::size_t>(far * far * static_cast<double>(recent.size()));
      writer.read(recent[recent.size() - 1 - back]);
    }
    if (random.below(3) == 0) writer.read(shared[random.below(shared.size())]);
    recent.push_back(writer.create(random.size_about(mebibyte, 16)));
    if (recent.size() > width) {
      // The framework collects what no task will ask for, some time later.
      old.push_back(recent.front());
      recent.pop_front();
    }
    if (old.size() > 2 * width) {
      for (const std::uint64_t id : old) writer.remove(id);
      old.clear();
    }
  }
  return writer.finish();
}

std::vector<NamedTrace> all_traces(std::uint64_t seed, unsigned scale) {
  return {{"kmeans", kmeans_trace(seed, scale)},
          {"matmul", matmul_trace(seed, scale)},
          {"shuffle", shuffle_trace(seed, scale)},
          {"dag", dag_trace(seed, scale)}};
}

}  // namespace forebay::bench
