// SPDX-License-Identifier: Apache-2.0
// forebay: what people ask a store.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <ctime>
#include <iostream>
#include <optional>

#include "store/client.h"
#include "store/units.h"
#include "store/version.h"

namespace {

using forebay::Client;
using forebay::Error;
using forebay::Result;
using forebay::SegmentInfo;

int failed(const Error& error) {
  std::cerr << "forebay: " << error.message() << "\n";
  return 1;
}

// An id as one word on a line, whatever bytes it has.
std::string printable(const std::string& id) {
  std::string text;
  for (const char c : id) {
    if (c > ' ' && c <= '~' && c != '\\') {
      text += c;
    } else {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\x%02x", static_cast<unsigned char>(c));
      text += escaped;
    }
  }
  return text;
}

std::string type_text(const SegmentInfo& info) {
  if (!info.type) return "-";
  std::string text = info.type->dtype + "(";
  for (std::size_t i = 0; i < info.type->shape.size(); ++i)
    text += (i > 0 ? "," : "") + std::to_string(info.type->shape[i]);
  return text + (info.type->fortran_order ? ")F" : ")");
}

std::string time_text(std::chrono::system_clock::time_point time) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(time);
  std::tm local{};
  ::localtime_r(&seconds, &local);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &local);
  return text;
}

int show_status(const Client& client) {
  const auto status = client.status();
  if (!status) return failed(status.error());
  std::cout << "socket " << client.address() << "\n" << *status;
  return 0;
}

int list_segments(const Client& client, const std::string& prefix) {
  forebay::ListCursor cursor;
  while (true) {
    const auto page = client.list(prefix, cursor);
    if (!page) return failed(page.error());
    for (const SegmentInfo& info : page->segments)
      std::printf("%s@%llu %s %s %s\n", printable(info.id).c_str(),
                  static_cast<unsigned long long>(info.version),
                  forebay::format_size(info.size).c_str(), type_text(info).c_str(),
                  time_text(info.sealed_at).c_str());
    if (!page->next) return 0;
    cursor = *page->next;
  }
}

int show_stat(const Client& client, const std::string& id, std::uint64_t version) {
  const auto stat = client.stat(id, version);
  if (!stat) return failed(stat.error());
  const SegmentInfo& info = stat->info;
  std::cout << "id " << printable(info.id) << "\nversion " << info.version << "\nserial "
            << info.serial << "\nstate " << stat->state << "\nsize " << info.size << "\ntype "
            << type_text(info) << "\nsealed_at " << time_text(info.sealed_at) << "\nevictable "
            << (info.evictable ? "yes" : "no") << "\npersistent "
            << (info.persistent ? "yes" : "no") << "\n";
  for (const forebay::Holder& holder : stat->holders)
    std::cout << "pinned_by " << holder.pid << " " << holder.name << " " << holder.pins << "\n";
  for (const forebay::Holder& holder : stat->leases)
    std::cout << "held_by " << holder.pid << " " << holder.name << "\n";
  if (stat->manifests > 0) std::cout << "manifests " << stat->manifests << "\n";
  if (stat->keep != 0)
    std::cout << "keep "
              << (stat->keep == forebay::keep_all ? "all" : std::to_string(stat->keep)) << "\n";
  if (stat->expires_in) std::cout << "expires_in_ms " << stat->expires_in->count() << "\n";
  return 0;
}

int show_pins(const Client& client) {
  const auto holders = client.holders();
  if (!holders) return failed(holders.error());
  for (const forebay::Holder& holder : *holders)
    std::printf("%u %s %llu pins %s\n", holder.pid, holder.name.c_str(),
                static_cast<unsigned long long>(holder.pins),
                forebay::format_size(holder.bytes).c_str());
  return 0;
}

const char* word(forebay::EventKind kind, forebay::RemovalCause cause) {
  if (kind == forebay::EventKind::sealed) return "sealed";
  if (kind == forebay::EventKind::spilled) return "spilled";
  if (kind == forebay::EventKind::restored) return "restored";
  switch (cause) {
    case forebay::RemovalCause::kept_newer:
      return "removed:kept_newer";
    case forebay::RemovalCause::expired:
      return "removed:expired";
    case forebay::RemovalCause::evicted:
      return "removed:evicted";
    case forebay::RemovalCause::superseded:
      return "removed:superseded";
    case forebay::RemovalCause::lost:
      return "removed:lost";
    default:
      return "removed";
  }
}

// Until it is interrupted, or `count` have come.
int show_events(const Client& client, const std::string& prefix, const std::string& from,
                std::uint64_t count) {
  forebay::EventCursor cursor;
  if (!from.empty()) {
    const auto parsed = forebay::EventCursor::parse(from);
    if (!parsed) return failed(parsed.error());
    cursor = *parsed;
  }
  auto subscription = client.subscribe(prefix, cursor);
  if (!subscription) return failed(subscription.error());
  std::uint64_t seen = 0;
  while (count == 0 || seen < count) {
    const auto events = subscription->next(std::chrono::hours(1));
    if (!events && events.error().is(forebay::Errc::timed_out)) continue;
    if (!events) return failed(events.error());
    for (const forebay::Event& event : *events) {
      ++seen;
      if (event.kind == forebay::EventKind::missed) {
        std::printf("missed %llu\n", static_cast<unsigned long long>(event.missed));
        continue;
      }
      std::printf("%s %s@%llu %s\n", word(event.kind, event.cause), printable(event.id).c_str(),
                  static_cast<unsigned long long>(event.version),
                  forebay::format_size(event.size).c_str());
    }
    std::fflush(stdout);
  }
  std::fprintf(stderr, "cursor %s\n", subscription->cursor().to_string().c_str());
  return 0;
}

int dump(const Client& client) {
  const auto dumped = client.dump([](std::string_view text) { std::cout << text; });
  return dumped ? 0 : failed(dumped.error());
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("forebay: looks at, and ends, the store of shared segments of this node");
  app.set_version_flag("--version", std::string("forebay ") + forebay::version_text);
  app.require_subcommand(1);
  forebay::ConnectOptions options;
  // Looking must not start anything.
  options.start_daemon = false;
  app.add_option("--socket", options.address,
                 "the daemon's socket (default: $FOREBAY_SOCKET, else this user's own)");
  app.add_subcommand("status", "what the daemon says about itself, as 'name value' lines");
  std::string prefix;
  auto* ls = app.add_subcommand("ls", "list segments: id@version size type time");
  ls->add_option("prefix", prefix, "only ids that start with this");
  std::string id;
  std::uint64_t version = 0;
  auto* stat = app.add_subcommand("stat", "everything about one segment, and who pins it");
  stat->add_option("id", id)->required();
  stat->add_option("version", version, "default: the newest");
  app.add_subcommand("pins", "who pins how much: pid, program, pins, bytes");
  app.add_subcommand("dump", "index, tables, extents and sessions as text, for a bug report");
  std::string from;
  std::uint64_t count = 0;
  auto* events = app.add_subcommand("events", "what happens, as it happens: kind id@version size");
  events->add_option("prefix", prefix, "only ids that start with this");
  events->add_option("--from", from, "go on behind this cursor (default: now)");
  events->add_option("--count", count, "end when so many have come, and print the cursor");
  bool drop = false;
  auto* stop = app.add_subcommand("stop", "end the daemon; segments stay for the next one");
  stop->add_flag("--drop", drop, "drop all segments, too");
  CLI11_PARSE(app, argc, argv);

  auto client = Client::connect(options);
  if (!client) return failed(client.error());
  if (app.got_subcommand("status")) return show_status(*client);
  if (app.got_subcommand("ls")) return list_segments(*client, prefix);
  if (app.got_subcommand("stat")) return show_stat(*client, id, version);
  if (app.got_subcommand("events")) return show_events(*client, prefix, from, count);
  if (app.got_subcommand("pins")) return show_pins(*client);
  if (app.got_subcommand("dump")) return dump(*client);
  const auto stopped = client->stop_daemon(drop);
  return stopped ? 0 : failed(stopped.error());
}
