// SPDX-License-Identifier: Apache-2.0
// Peers that break the rules: their session ends, or they are told why not, and nobody else
// notices.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "store/client.h"
#include "store/daemon/server.h"
#include "store/shm/layout.h"
#include "store/wire/codec.h"
#include "store/wire/message.h"
#include "store/wire/socket.h"
#include "tests/support/child_process.h"
#include "tests/support/daemon_process.h"
#include "tests/support/eventually.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"
#include "tests/support/random.h"
#include "tests/support/shared.h"
#include "tests/support/status.h"
#include "tests/support/temp_dir.h"

namespace forebay::test {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;
using Frame = std::vector<std::byte>;

constexpr std::size_t mebibyte = 1024 * 1024;
// What a put or get of another client may take meanwhile. A loaded machine must not fail a test.
constexpr milliseconds latency_max{2000};
// What the daemon's own memory may grow by. Sanitizers keep what was freed.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::size_t growth_max = 1024 * mebibyte;
#else
constexpr std::size_t growth_max = 40 * mebibyte;
#endif

// ------------------------------------------------------------------------- what a process costs

std::size_t open_descriptors(pid_t pid) {
  std::error_code ignored;
  const std::filesystem::directory_iterator all("/proc/" + std::to_string(pid) + "/fd", ignored);
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

// Its own memory, without the store's.
std::size_t memory_of(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/status");
  std::string word;
  while (file >> word) {
    if (word != "RssAnon:") continue;
    std::size_t kibibytes = 0;
    file >> kibibytes;
    return kibibytes * 1024;
  }
  throw std::runtime_error("no such process");
}

std::chrono::nanoseconds cpu_time(pid_t pid) {
  clockid_t clock = 0;
  timespec time{};
  if (::clock_getcpuclockid(pid, &clock) != 0 || ::clock_gettime(clock, &time) != 0)
    throw std::runtime_error("no clock of that process");
  return seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

// -------------------------------------------------------------------------------- what is sent

template <class Message>
Frame frame_of(const Message& message, std::uint32_t number = 1) {
  Frame frame;
  must(wire::encode_request(message, number, frame));
  return frame;
}

Frame with_header(wire::FrameHeader header, std::size_t body_bytes, unsigned char fill = 0) {
  Frame frame(sizeof header + body_bytes, std::byte{fill});
  std::memcpy(frame.data(), &header, sizeof header);
  return frame;
}

wire::FrameHeader header_of(const Frame& frame) {
  wire::FrameHeader header{};
  std::memcpy(&header, frame.data(), sizeof header);
  return header;
}

// The same body under another header.
Frame changed(Frame frame, const std::function<void(wire::FrameHeader&)>& change) {
  wire::FrameHeader header = header_of(frame);
  change(header);
  std::memcpy(frame.data(), &header, sizeof header);
  return frame;
}

// The first four bytes of this value in a frame become another value.
Frame patched(Frame frame, std::uint32_t from, std::uint32_t to) {
  for (std::size_t at = sizeof(wire::FrameHeader); at + 4 <= frame.size(); ++at) {
    std::uint32_t value = 0;
    std::memcpy(&value, frame.data() + at, sizeof value);
    if (value != from) continue;
    std::memcpy(frame.data() + at, &to, sizeof to);
    return frame;
  }
  throw std::runtime_error("the frame has no such value");
}

wire::HelloRequest greeting() {
  wire::HelloRequest hello;
  hello.layout = shm::layout_version;
  hello.namespace_name = "default";
  hello.program = "hostile";
  return hello;
}

wire::PutRequest put_of(std::string_view id, std::span<const std::byte> bytes,
                        std::uint64_t timeout_ns = 0) {
  wire::PutRequest put;
  put.segment.id = id;
  put.segment.size = bytes.size();
  put.segment.timeout_ns = timeout_ns;
  put.payload = bytes;
  return put;
}

constexpr std::uint64_t hour_ns = 3'600'000'000'000;

// A connection without a client behind it.
class Raw {
 public:
  explicit Raw(const DaemonProcess& daemon) : Raw(daemon.socket()) {}
  explicit Raw(const std::string& path)
      : socket_(must(wire::connect_to(path, Clock::now() + seconds(10)))) {}

  int socket() const { return socket_.get(); }

  // Whatever the peer makes of it; false: it is gone, or takes no more.
  bool send(std::span<const std::byte> bytes, const std::vector<int>& descriptors = {}) {
    std::vector<char> control(CMSG_SPACE(sizeof(int) * descriptors.size()));
    iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (!descriptors.empty()) {
      message.msg_control = control.data();
      message.msg_controllen = control.size();
      cmsghdr* header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(sizeof(int) * descriptors.size());
      std::memcpy(CMSG_DATA(header), descriptors.data(), sizeof(int) * descriptors.size());
    }
    return ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0;
  }

  // The next answer; nothing: the session has ended.
  std::optional<Frame> receive() {
    Frame buffer(wire::frame_bytes_max + 1);
    const auto deadline = Clock::now() + patience;
    while (true) {
      wire::Received received =
          wire::receive_frame(socket_.get(), buffer, wire::descriptors_max);
      if (received.kind == wire::Received::Kind::frame) {
        buffer.resize(received.bytes);
        return buffer;
      }
      if (received.kind != wire::Received::Kind::nothing) return std::nullopt;
      if (!wire::wait_readable(socket_.get(), deadline))
        throw std::runtime_error("neither an answer nor an end");
    }
  }
  // The daemon has shown it out, whatever it said before.
  bool ended() {
    try {
      while (receive()) {
      }
      return true;
    } catch (const std::runtime_error&) {
      return false;
    }
  }

  template <class Reply, class Request>
  Result<Reply> call(const Request& request, std::uint32_t number = 1) {
    if (!send(frame_of(request, number))) return fail(Errc::disconnected, "cannot send");
    auto answer = receive();
    if (!answer) return fail(Errc::disconnected, "no answer");
    answer_ = std::move(*answer);  // texts of a reply are views into it
    return wire::decode_reply<Reply>(answer_);
  }
  wire::HelloReply greet() { return must(call<wire::HelloReply>(greeting())); }

 private:
  Descriptor socket_;
  Frame answer_;
};

// ----------------------------------------------------------------------------- who must not notice

// A daemon, and a client in a process of its own that puts and gets all the time.
class Scene {
 public:
  // In a store that is full there is nothing to put: the bystander gets only.
  explicit Scene(DaemonProcess::Options options = {}, bool full = false)
      : daemon(std::move(options)), bystander_([this, full](Moments&) { work(full); }) {
    REQUIRE(eventually([this] { return board_->rounds > 20; }));
    memory_ = memory_of(daemon.pid());
    descriptors_ = open_descriptors(daemon.pid());
  }

  // Nothing of what happened is left, and the bystander has not noticed it.
  void check_that_nobody_noticed() {
    CHECK(daemon.running());
    CHECK(works());
    CHECK(eventually([this] { return open_descriptors(daemon.pid()) == descriptors_; }));
    CHECK_FALSE(spins());
    CHECK_FALSE(has_grown());
    board_->stop = true;
    CHECK(bystander_.join() == 0);
    CHECK(microseconds(board_->longest_us) < latency_max);
    const Client observer = daemon.connect();
    CHECK(status_becomes(observer, "sessions", 1) == 1);
    CHECK(Status(observer)["waiters"] == 0);
    CHECK(Status(observer)["parked_creates"] == 0);
    CHECK(Status(observer)["creating"] == 0);
    CHECK(adds_up(observer) == "");
  }

  // The bystander gets on.
  bool works() {
    const std::uint64_t before = board_->rounds;
    return eventually([&] { return board_->rounds > before + 20; });
  }
  // While nobody asks anything of it, the daemon does nothing.
  bool spins() {
    board_->pause = true;
    REQUIRE(eventually([this] { return board_->paused.load(); }));
    const auto start = cpu_time(daemon.pid());
    std::this_thread::sleep_for(milliseconds(200));  // a measurement takes its time
    const auto used = cpu_time(daemon.pid()) - start;
    board_->pause = false;
    REQUIRE(eventually([this] { return !board_->paused; }));
    return used > milliseconds(80);
  }
  bool has_grown() const { return memory_of(daemon.pid()) > memory_ + growth_max; }
  std::size_t descriptors_before() const { return descriptors_; }
  bool logged(const std::string& text) const {
    return eventually([&] { return daemon.log().find(text) != std::string::npos; });
  }

  DaemonProcess daemon;

 private:
  struct Board {
    std::atomic<bool> stop{false};
    std::atomic<bool> pause{false};
    std::atomic<bool> paused{false};
    std::atomic<std::uint64_t> rounds{0};
    std::atomic<std::int64_t> longest_us{0};
  };

  void work(bool full) {
    Client client = daemon.connect();
    if (full) must(client.put("bystander", payload(300, "bystander", 1)));
    for (std::uint64_t i = 1; !board_->stop; ++i) {
      if (board_->pause) {
        board_->paused = true;
        (void)eventually([this] { return !board_->pause; });
        board_->paused = false;
      }
      const auto start = Clock::now();
      const std::uint64_t version = full ? 1 : i;
      const std::size_t size = i % 8 == 0 && !full ? 70'000 : 300;
      if (!full) must(client.put("bystander", payload(size, "bystander", i), {.version = i}));
      {
        const View view = must(client.get("bystander"));
        const std::string wrong = wrong_bytes(view.bytes(), size, "bystander", version);
        require(wrong.empty(), wrong);
        require(must(client.stat("bystander")).holders.size() == 1, "its pin is not counted");
      }
      if (!full) must(client.remove("bystander", i));
      const auto took = std::chrono::duration_cast<microseconds>(Clock::now() - start).count();
      board_->longest_us = std::max<std::int64_t>(board_->longest_us, took);
      ++board_->rounds;
    }
    if (full) must(client.remove("bystander"));
  }

  Shared<Board> board_;
  ChildProcess bystander_;
  std::size_t memory_ = 0;
  std::size_t descriptors_ = 0;
};

struct BadFrame {
  const char* what;
  Frame frame;
};

// What no peer may send at any time.
std::vector<BadFrame> bad_frames(const Frame& good) {
  const auto lying = [](wire::Op op, std::size_t bytes) {
    return with_header({wire::frame_magic, static_cast<std::uint16_t>(op), 1,
                        static_cast<std::uint32_t>(bytes), 0},
                       bytes, 0xff);
  };
  std::vector<BadFrame> frames;
  frames.push_back({"garbage", Frame(500, std::byte{0x5a})});
  frames.push_back({"a single byte", Frame(1)});
  frames.push_back({"half a header", Frame(good.begin(), good.begin() + 8)});
  frames.push_back({"a frame that is cut", Frame(good.begin(), good.end() - 3)});
  frames.push_back({"a frame with something behind it", [&] {
                      Frame longer = good;
                      longer.push_back(std::byte{1});
                      return longer;
                    }()});
  frames.push_back({"a body with something behind its last field", [&] {
                      Frame longer = good;
                      longer.resize(longer.size() + 8);
                      return changed(longer, [](auto& header) { header.body_bytes += 8; });
                    }()});
  frames.push_back({"another magic", changed(good, [](auto& header) { header.magic ^= 1; })});
  frames.push_back(
      {"a body of 4 GiB", changed(good, [](auto& header) { header.body_bytes = 0xffffffffU; })});
  frames.push_back({"a reserved bit", changed(good, [](auto& header) { header.reserved = 1; })});
  frames.push_back({"an unknown request", changed(good, [](auto& header) { header.op = 999; })});
  frames.push_back({"a request 0", changed(good, [](auto& header) { header.op = 0; })});
  frames.push_back(
      {"an answer", changed(good, [](auto& header) { header.op |= wire::reply_bit; })});
  frames.push_back({"the largest frame there is, and no message",
                    lying(wire::Op::put, wire::frame_bytes_max - sizeof(wire::FrameHeader))});
  frames.push_back({"a frame that is too large", lying(wire::Op::put, wire::frame_bytes_max)});
  frames.push_back({"a frame that is much too large", Frame(600'000)});
  frames.push_back({"an arrival of a child that nobody expects",
                    frame_of(wire::ArrivedRequest{0, 1})});
  return frames;
}

TEST_SUITE("hostile") {
  TEST_CASE("what is no message ends the session that sent it, and no other") {
    Scene scene;
    const Frame hello = frame_of(greeting());
    for (const BadFrame& bad : bad_frames(hello)) {
      CAPTURE(bad.what);
      Raw stranger(scene.daemon);
      stranger.send(bad.frame);
      CHECK(stranger.ended());
      Raw guest(scene.daemon);
      guest.greet();
      guest.send(bad.frame);
      CHECK(guest.ended());
    }
    CHECK(scene.logged("bad_message"));
    CHECK(scene.logged("bad_frame"));
    CHECK(scene.logged("pid=" + std::to_string(::getpid())));
    scene.check_that_nobody_noticed();
  }

  TEST_CASE("lengths and counts inside of a message are believed only as far as it goes") {
    Scene scene;
    constexpr std::uint32_t telling = 0x00012345;
    const std::string id(100, 'i');
    wire::HelloRequest hello = greeting();
    hello.program = id;
    wire::PutManyRequest many;
    many.items.resize(77, put_of("m", {}));
    const std::vector<std::byte> bytes(1000);
    for (const std::uint32_t lie : {101U, 5000U, 0x7fffffffU, 0xffffffffU}) {
      CAPTURE(lie);
      {
        Raw stranger(scene.daemon);
        stranger.send(patched(frame_of(hello), 100, lie));
        CHECK(stranger.ended());
      }
      const auto refuses = [&](const Frame& frame) {
        Raw guest(scene.daemon);
        guest.greet();
        guest.send(frame);
        CHECK(guest.ended());
      };
      refuses(patched(frame_of(put_of(id, bytes)), 100, lie));    // the id
      refuses(patched(frame_of(put_of("p", bytes)), 1000, lie));  // the size, or the payload
      refuses(patched(frame_of(many), 77, lie));                  // how many there are
      refuses(patched(frame_of(wire::AwaitRequest{id, 0, 0, hour_ns}), 100, lie));
      refuses(patched(frame_of(wire::StatRequest{id, telling}), 100, lie));
    }
    scene.check_that_nobody_noticed();
  }

  TEST_CASE("who does not greet first, or greets twice, is shown out") {
    Scene scene;
    const std::vector<Frame> requests{
        frame_of(put_of("early", bytes_of("x"))), frame_of(wire::StatusRequest{}),
        frame_of(wire::StopRequest{1}),           frame_of(wire::ForkRequest{}),
        frame_of(wire::GrantRequest{0}),          frame_of(wire::GoodbyeRequest{}),
        frame_of(wire::RemoveRequest{.id = "bystander"}),
    };
    for (const Frame& request : requests) {
      CAPTURE(header_of(request).op);
      Raw stranger(scene.daemon);
      stranger.send(request);
      CHECK(stranger.ended());
    }
    Raw guest(scene.daemon);
    guest.greet();
    guest.send(frame_of(greeting(), 2));
    CHECK(guest.ended());
    CHECK(outcome(scene.daemon.connect().get("early")) == "not_found");
    scene.check_that_nobody_noticed();
  }

  TEST_CASE("who speaks another version, or means another namespace, is told so") {
    Scene scene;
    wire::HelloRequest layout = greeting();
    layout.layout += 1;
    wire::HelloRequest protocol = greeting();
    protocol.protocol += 1;
    wire::HelloRequest elsewhere = greeting();
    elsewhere.namespace_name = "elsewhere";
    Raw guest(scene.daemon);
    const auto by_layout = guest.call<wire::HelloReply>(layout);
    CHECK(outcome(by_layout) == "layout_mismatch");
    CHECK(why(by_layout).find("same version") != std::string::npos);
    CHECK(outcome(guest.call<wire::HelloReply>(protocol)) == "layout_mismatch");
    CHECK(outcome(guest.call<wire::HelloReply>(elsewhere)) == "not_found");
    // Nothing was given to it yet.
    guest.send(frame_of(wire::StatusRequest{}));
    CHECK(guest.ended());
    scene.check_that_nobody_noticed();
  }

  TEST_CASE("nobody gets another one's pins, with a stolen token or a guessed one") {
    Scene scene;
    Client client = scene.daemon.connect();
    must(client.put("held", payload(1000, "held", 1)));
    const View view = must(client.get("held"));
    Raw victim(scene.daemon);
    const wire::HelloReply identity = victim.greet();
    ChildProcess thief([&](Moments&) {
      for (const std::uint64_t token : {identity.token, identity.token + 1, std::uint64_t{0}})
        for (std::uint32_t slot = 0; slot < 6; ++slot) {
          wire::HelloRequest hello = greeting();
          hello.store = identity.store;
          hello.slot = slot;
          hello.token = token;
          Raw raw(scene.daemon);
          const auto reply = raw.call<wire::HelloReply>(hello);
          require(reply.has_value() && reply->table_kept == 0, "it got a table");
          require(reply->slot != identity.slot, "it got the victim's slot");
        }
    });
    CHECK(thief.join() == 0);
    // The victim's session is as it was.
    CHECK(outcome(victim.call<wire::TextReply>(wire::StatusRequest{})) == "ok");
    CHECK(must(client.stat("held")).holders.size() == 1);
    // Entries of others cannot be sealed, aborted or freed by number.
    Builder builder = must(client.create("open", 1000));
    for (std::uint32_t entry = 0; entry < 200; ++entry)
      for (std::uint64_t serial = 1; serial < 4; ++serial) {
        const StoreUuid store = client.store();
        CHECK_FALSE(victim.call<wire::Empty>(wire::SealRequest{store, entry, serial, 1}));
        (void)victim.call<wire::Empty>(wire::AbortRequest{store, entry, serial, 1, 0});
        victim.send(frame_of(wire::NudgeRequest{entry}, 0));
      }
    CHECK(outcome(victim.call<wire::Empty>(wire::GrantRequest{0xffffffffU})) == "bad_argument");
    CHECK(wrong_bytes(view.bytes(), 1000, "held", 1) == "");
    fill(builder.bytes(), "open", 1);
    must(builder.seal());
    CHECK(wrong_bytes(must(client.get("open")).bytes(), 1000, "open", 1) == "");
    client.close();
    victim = Raw(scene.daemon);
    { const Raw gone = std::move(victim); }
    CHECK(scene.works());
  }

  TEST_CASE("descriptors that nobody asked for are closed, however many") {
    Scene scene;
    const int file = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    const Frame hello = frame_of(greeting());
    for (const std::size_t count : {std::size_t{1}, std::size_t{16}, std::size_t{17},
                                    std::size_t{253}}) {
      CAPTURE(count);
      for (int i = 0; i < 20; ++i) {
        Raw stranger(scene.daemon);
        CHECK(stranger.send(hello, std::vector<int>(count, file)));
        CHECK(stranger.ended());
        Raw guest(scene.daemon);
        guest.greet();
        CHECK(guest.send(frame_of(wire::StatusRequest{}), std::vector<int>(count, file)));
        CHECK(guest.ended());
        // Its own end, too: a socket that is in itself.
        Raw knot(scene.daemon);
        CHECK(knot.send(Frame(1), std::vector<int>(count, knot.socket())));
        CHECK(knot.ended());
      }
    }
    ::close(file);
    CHECK(scene.logged("with descriptors"));
    scene.check_that_nobody_noticed();
  }

  TEST_CASE("who asks and asks and takes no answer is shown out, and costs little memory") {
    Scene scene;
    Client client = scene.daemon.connect();
    for (int i = 0; i < 200; ++i) {
      const std::string id = std::string(200, 'd') + std::to_string(i);
      must(client.put(id, bytes_of(id)));
    }
    const auto flood = [&](const std::string& what, const Frame& request) {
      CAPTURE(what);
      std::vector<Raw> floods;
      for (int i = 0; i < 3; ++i) floods.emplace_back(scene.daemon).greet();
      std::vector<bool> over(floods.size());
      std::size_t most = 0;
      CHECK(eventually([&] {
        for (std::size_t i = 0; i < floods.size(); ++i) {
          // Until the daemon has closed it, and not just while it is busy.
          for (int k = 0; k < 100 && !over[i]; ++k)
            if (!floods[i].send(request)) {
              over[i] = errno != EAGAIN;
              break;
            }
        }
        most = std::max(most, open_descriptors(scene.daemon.pid()));
        return std::find(over.begin(), over.end(), false) == over.end();
      }));
      // A few sessions with a table each, and what is on its way to them.
      CHECK(most < scene.descriptors_before() + 3 * 80);
      CHECK_FALSE(scene.has_grown());
      CHECK(scene.works());
    };
    flood("status", frame_of(wire::StatusRequest{}));
    flood("dump", frame_of(wire::DumpRequest{1}));
    flood("the arena's descriptor", frame_of(wire::ArenaRequest{0}));
    flood("failures", frame_of(wire::StatRequest{"none", 0}));
    CHECK(scene.logged("session_too_slow"));
    for (int i = 0; i < 200; ++i) must(client.remove(std::string(200, 'd') + std::to_string(i)));
    client.close();
    scene.check_that_nobody_noticed();
  }

  TEST_CASE("who makes many requests wait is refused more of them") {
    Scene scene({.capacity = "16MiB"}, true);
    const std::vector<std::byte> large(wire::inline_bytes_max);
    SUBCASE("waits for versions") {
      Raw guest(scene.daemon);
      guest.greet();
      std::uint32_t number = 2;
      // It takes the answers: what there is to take are refusals.
      bool refused = false;
      for (; number < 40'000 && !refused; ++number) {
        const std::string id = "never/" + std::to_string(number);
        const Frame wait = frame_of(wire::AwaitRequest{id, 0, 0, hour_ns}, number);
        REQUIRE(eventually([&] { return guest.send(wait); }));
        Frame buffer(wire::frame_bytes_max + 1);
        const auto received = wire::receive_frame(guest.socket(), buffer, 0);
        if (received.kind != wire::Received::Kind::frame) continue;
        const auto reply = wire::decode_reply<wire::Empty>(std::span(buffer).first(received.bytes));
        CHECK(outcome(reply) == "limit_reached");
        refused = true;
      }
      CHECK(refused);
      CHECK_FALSE(scene.has_grown());
      // Others wait as ever.
      CHECK(outcome(scene.daemon.connect().get("other", {.timeout = milliseconds(10)})) ==
            "timed_out");
    }
    SUBCASE("puts into a full store") {
      Client client = scene.daemon.connect();
      Builder all = must(client.create("all", 15 * mebibyte));
      Raw guest(scene.daemon);
      guest.greet();
      bool refused = false;
      for (std::uint32_t number = 2; number < 20'000 && !refused; ++number) {
        const std::string id = "parked/" + std::to_string(number);
        const Frame put = frame_of(put_of(id, large, hour_ns), number);
        REQUIRE(eventually([&] { return guest.send(put); }));
        Frame buffer(wire::frame_bytes_max + 1);
        const auto received = wire::receive_frame(guest.socket(), buffer, 0);
        if (received.kind != wire::Received::Kind::frame) continue;
        refused =
            outcome(wire::decode_reply<wire::PutReply>(std::span(buffer).first(received.bytes))) ==
            "limit_reached";
      }
      CHECK(refused);
      CHECK_FALSE(scene.has_grown());
      must(all.abort());
      guest = Raw(scene.daemon);
      const auto left = must(client.list("parked/")).segments;
      for (const SegmentInfo& segment : left) (void)client.remove(segment.id);
    }
    scene.check_that_nobody_noticed();
  }

  TEST_CASE("who uses the number of a request that still waits is shown out, and harms nobody") {
    Scene scene({.capacity = "16MiB"}, true);
    Client client = scene.daemon.connect();
    const std::vector<std::byte> one(64);
    const std::vector<std::byte> large(60'000, std::byte{0xee});
    wire::PutManyRequest few;
    few.items.push_back(put_of("few", one, hour_ns));
    wire::PutManyRequest many;
    std::vector<std::string> names;
    for (int i = 0; i < 500; ++i) names.push_back("many/" + std::to_string(i));
    for (const std::string& name : names) many.items.push_back(put_of(name, one, hour_ns));
    const std::vector<std::pair<Frame, Frame>> pairs{
        {frame_of(put_of("a", one, hour_ns)), frame_of(put_of("b", large, hour_ns))},
        {frame_of(many), frame_of(few)},
        {frame_of(put_of("a", one, hour_ns)), frame_of(wire::AwaitRequest{"b", 0, 0, hour_ns})},
        {frame_of(wire::AwaitRequest{"b", 0, 0, hour_ns}), frame_of(few)},
    };
    for (const auto& [first, second] : pairs) {
      // Small segments fill it up, so that even a small put must wait.
      std::vector<std::string> filling;
      Builder most = must(client.create("most", 16 * mebibyte - 256 * 1024));
      while (true) {
        filling.push_back("filling/" + std::to_string(filling.size()));
        if (!client.put(filling.back(), payload(64, filling.back(), 1))) break;
      }
      filling.pop_back();
      Raw guest(scene.daemon);
      guest.greet();
      guest.send(first);
      guest.send(second);
      CHECK(guest.ended());
      // Room: now the ones that wait would be made.
      must(most.abort());
      for (const std::string& id : filling) {
        const auto view = client.get(id);
        REQUIRE(view);
        REQUIRE(wrong_bytes(view->bytes(), 64, id, 1) == "");
      }
      for (const std::string& id : filling) must(client.remove(id));
      for (const char* id : {"a", "b", "few"}) (void)client.remove(id);
      for (const std::string& id : names) (void)client.remove(id);
    }
    CHECK(scene.logged("still waits"));
    client.close();
    scene.check_that_nobody_noticed();
  }

  TEST_CASE("connections that say nothing take descriptors and no time, up to the last one") {
    Scene scene;
    const rlimit limit{400, 400};
    REQUIRE(::prlimit(scene.daemon.pid(), RLIMIT_NOFILE, &limit, nullptr) == 0);
    std::vector<Raw> silent;
    std::size_t refused = 0;
    for (int i = 0; i < 1500; ++i) {
      Raw raw(scene.daemon);
      silent.push_back(std::move(raw));
    }
    // Those who came too late have been told.
    CHECK(eventually([&] {
      refused = 0;
      for (const Raw& raw : silent) refused += wire::wait_readable(raw.socket(), Clock::now());
      return refused >= 1200 && wire::wait_readable(silent.back().socket(), Clock::now());
    }));
    CHECK(open_descriptors(scene.daemon.pid()) <= 400);
    const auto answer = silent.back().receive();
    REQUIRE(answer.has_value());
    const auto reason = wire::decode_reply<wire::HelloReply>(*answer);
    CHECK(outcome(reason) == "limit_reached");
    CHECK(why(reason).find("descriptors") != std::string::npos);
    CHECK(silent.back().ended());
    CHECK(scene.works());
    CHECK_FALSE(scene.spins());
    CHECK_FALSE(scene.has_grown());
    ConnectOptions options = scene.daemon.connect_options();
    options.timeout = seconds(2);
    CHECK_FALSE(Client::connect(options));
    CHECK(scene.works());
    // It is said once, and not for each of them.
    REQUIRE(scene.logged("no descriptors left"));
    const std::string log = scene.daemon.log();
    std::size_t lines = 0;
    for (std::size_t at = 0; (at = log.find("newcomers_refused", at)) != std::string::npos; ++at)
      ++lines;
    CHECK(lines == 1);
    // When they leave, there is room again.
    silent.clear();
    CHECK(eventually([&] { return Client::connect(options).has_value(); }));
    scene.check_that_nobody_noticed();
  }

  TEST_CASE("clients that use up all descriptors, tables and forks included, stop nobody's work") {
    Scene scene;
    const rlimit limit{200, 200};
    REQUIRE(::prlimit(scene.daemon.pid(), RLIMIT_NOFILE, &limit, nullptr) == 0);
    {
      std::vector<Raw> guests;
      for (int i = 0; i < 20; ++i) {
        guests.emplace_back(scene.daemon);
        if (!guests.back().call<wire::HelloReply>(greeting())) break;
      }
      REQUIRE(guests.size() > 10);
      // Each fork costs a table and two ends of a connection; the child never comes.
      for (std::uint32_t number = 2; number < 100; ++number)
        for (Raw& guest : guests) guest.send(frame_of(wire::ForkRequest{}, number));
      for (int i = 0; i < 300; ++i) guests.emplace_back(scene.daemon);
      CHECK(scene.works());
      CHECK_FALSE(scene.spins());
      CHECK_FALSE(scene.has_grown());
    }
    CHECK(eventually([&] {
      return open_descriptors(scene.daemon.pid()) == scene.descriptors_before();
    }));
    scene.check_that_nobody_noticed();
  }

  TEST_CASE("connections that come and go cost nothing that stays") {
    Scene scene;
    for (int i = 0; i < 2000; ++i) {
      Raw raw(scene.daemon);
      if (i % 4 == 1) raw.send(frame_of(greeting()));
      if (i % 4 == 2) raw.send(Frame(3));
    }
    scene.check_that_nobody_noticed();
  }

  TEST_CASE("messages of every kind with anything in them do no harm") {
    Scene scene({.capacity = "64MiB"});
    Random random("hostile");
    std::optional<Raw> guest;
    int sessions = 0;
    const auto good = [&](std::uint16_t op) -> Frame {
      const std::string id = "fuzz/" + std::to_string(random.below(20));
      const std::vector<std::byte> bytes(random.below(2000));
      switch (static_cast<wire::Op>(op)) {
        case wire::Op::create: {
          wire::CreateRequest create;
          create.segment = put_of(id, {}, random.below(1000)).segment;
          create.segment.size = random.chance(0.1) ? random.next() : random.below(100'000);
          return frame_of(create, random.next32());
        }
        case wire::Op::put:
          return frame_of(put_of(id, bytes, random.below(1000)), random.next32());
        case wire::Op::put_many: {
          wire::PutManyRequest many;
          for (std::uint32_t i = random.below(5); i > 0; --i)
            many.items.push_back(put_of(id, bytes));
          return frame_of(many, random.next32());
        }
        case wire::Op::seal:
          return frame_of(wire::SealRequest{{}, random.next32(), random.next(), 0});
        case wire::Op::await:
          return frame_of(wire::AwaitRequest{id, random.below(3), random.next(), random.next()},
                          random.next32());
        case wire::Op::remove:
          return frame_of(wire::RemoveRequest{.id = id, .version = random.below(3)});
        case wire::Op::stat:
          return frame_of(wire::StatRequest{id, random.below(3)});
        case wire::Op::nudge:
          return frame_of(wire::NudgeRequest{random.next32()}, 0);
        case wire::Op::dump:
          return frame_of(wire::DumpRequest{random.next()});
        case wire::Op::grant:
          return frame_of(wire::GrantRequest{random.below(2000)});
        case wire::Op::fork:
          return frame_of(wire::ForkRequest{});
        default:
          return frame_of(wire::StatusRequest{});
      }
    };
    for (int i = 0; i < 6000; ++i) {
      if (!guest) {
        guest.emplace(scene.daemon);
        guest->greet();
        ++sessions;
      }
      Frame frame = good(static_cast<std::uint16_t>(random.below(20)));
      // Most of them have something wrong.
      if (random.chance(0.05))
        for (std::uint32_t wrong = 1 + random.below(4); wrong > 0; --wrong)
          frame[random.below(static_cast<std::uint32_t>(frame.size()))] =
              static_cast<std::byte>(random.next32());
      if (static_cast<wire::Op>(header_of(frame).op) == wire::Op::stop) continue;
      const bool sent = eventually([&] { return guest->send(frame) || errno != EAGAIN; });
      REQUIRE(sent);
      Frame buffer(wire::frame_bytes_max + 1);
      wire::Received received;
      do {
        received = wire::receive_frame(guest->socket(), buffer, wire::descriptors_max);
      } while (received.kind == wire::Received::Kind::frame);
      if (received.kind == wire::Received::Kind::closed || random.chance(0.002)) guest.reset();
      REQUIRE(scene.daemon.running());
    }
    CHECK(sessions > 5);
    guest.reset();
    // What the sessions were making is this process's, and it lives: only by its end does it go.
    CHECK(scene.works());
    CHECK_FALSE(scene.has_grown());
    const Client observer = scene.daemon.connect();
    CHECK(adds_up(observer) == "");
  }

  TEST_CASE("who has connected and says nothing is shown out after a while, and others are not") {
    TempDir directory;
    const std::string path = directory / "forebay.sock";
    daemon::StoreMemoryOptions memory_options;
    memory_options.limits.entries = 1U << 14U;
    memory_options.limits.lines = 1U << 13U;
    memory_options.limits.overflow_lines = 1U << 12U;
    memory_options.limits.processes = 16;
    memory_options.address_bytes = 64 * mebibyte;
    const auto memory = must(daemon::StoreMemory::create(memory_options));
    daemon::ServerOptions options;
    options.rules.capacity_bytes = 16 * mebibyte;
    options.rules.address_bytes = memory_options.address_bytes;
    options.hello_deadline = milliseconds(100);
    daemon::Server server(*memory, must(wire::listen_at(path)), options);
    must(server.adopt());
    std::thread thread([&] { (void)server.serve(); });
    {
      Raw silent(path);
      Raw greeted(path);
      greeted.greet();
      Raw refused(path);
      wire::HelloRequest elsewhere = greeting();
      elsewhere.namespace_name = "elsewhere";
      CHECK(outcome(refused.call<wire::HelloReply>(elsewhere)) == "not_found");
      CHECK(silent.ended());
      CHECK(refused.ended());
      CHECK(outcome(greeted.call<wire::TextReply>(wire::StatusRequest{})) == "ok");
    }
    server.stop();
    thread.join();
    memory->remove_all();
  }
}

}  // namespace
}  // namespace forebay::test
