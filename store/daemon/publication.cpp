// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/publication.h"

#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "store/shm/description.h"

namespace forebay::daemon {
namespace {

// As it lies in the label: little-endian, as all that Forebay runs on.
struct About {
  std::array<char, 8> magic;
  Publication publication;
};
static_assert(std::is_trivially_copyable_v<About>);
constexpr std::array<char, 8> about_magic{'F', 'B', 'Y', 'P', 'U', 'B', '0', '1'};

}  // namespace

std::string published_name(const SegmentTable& table, std::string_view id) {
  std::string name = table.index().stamp->namespace_name.data();
  name += '/';
  name += id;
  return name;
}

TierLabel label_of(const SegmentTable& table, EntryNumber entry) {
  About about{};
  about.magic = about_magic;
  Publication& publication = about.publication;
  publication.size = table.size(entry);
  publication.brief = table.brief(entry);
  publication.description_size = table.description_size(entry);
  publication.writer_uid = table.index().records[entry].writer_uid.load();
  if (shm::description_in_record(publication.description_size))
    shm::load_description(table.index().records[entry],
                          std::span(publication.description).first(publication.description_size));
  TierLabel label;
  label.name = published_name(table, table.id(entry));
  label.version = table.version(entry);
  label.about.resize(sizeof about);
  std::memcpy(label.about.data(), &about, sizeof about);
  return label;
}

Result<Publication> read_publication(const TierLabel& label) {
  About about{};
  if (label.about.size() != sizeof about)
    return fail(Errc::bad_message, "what the pool says of '" + label.name + "' is not of Forebay's");
  std::memcpy(&about, label.about.data(), sizeof about);
  if (about.magic != about_magic || about.publication.description_size > shm::description_bytes_max)
    return fail(Errc::bad_message, "what the pool says of '" + label.name +
                                       "' was written by another version of Forebay");
  return about.publication;
}

}  // namespace forebay::daemon
