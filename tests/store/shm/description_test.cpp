// SPDX-License-Identifier: Apache-2.0
#include "store/shm/description.h"

#include <doctest/doctest.h>

#include <cstring>
#include <string>
#include <vector>

#include "store/shm/index_map.h"
#include "tests/support/random.h"

namespace forebay::shm {
namespace {

constexpr std::uint64_t uint32_end = std::uint64_t{1} << 32U;

std::uint32_t item_bytes_of(std::string_view dtype) {
  return plain_dtypes()[plain_dtype_code(dtype)].item_bytes;
}

std::uint64_t elements(const ArrayType& type) {
  std::uint64_t count = 1;
  for (const std::uint64_t dim : type.shape) count *= dim;
  return count;
}

std::uint64_t plain_bytes(const ArrayType& type) {
  return elements(type) * item_bytes_of(type.dtype);
}

// As a segment keeps it: the brief as 64 bits, the bytes beside.
void check_round_trip(const ArrayType& type, std::uint64_t size_bytes) {
  const auto described = describe(type, size_bytes);
  REQUIRE_MESSAGE(described, described.error().message());
  const Brief brief = Brief::from_bits(described->brief.bits());
  const auto read = read_description(brief, size_bytes, described->bytes);
  REQUIRE_MESSAGE(read, read.error().message());
  REQUIRE(read->has_value());
  CHECK(**read == type);
}

template <class T>
void append(std::vector<std::byte>& bytes, const T& value) {
  const std::size_t before = bytes.size();
  bytes.resize(before + sizeof value);
  std::memcpy(bytes.data() + before, &value, sizeof value);
}

// What a text of dtype and dims is, written by hand.
std::vector<std::byte> described_as(const std::string& dtype,
                                    std::initializer_list<std::uint64_t> dims) {
  std::vector<std::byte> bytes;
  append(bytes, static_cast<std::uint32_t>(dtype.size()));
  for (const char c : dtype) append(bytes, c);
  for (const std::uint64_t dim : dims) append(bytes, dim);
  return bytes;
}

constexpr std::uint8_t flag(BriefFlag which) { return static_cast<std::uint8_t>(which); }

TEST_SUITE("description") {
  TEST_CASE("plain bytes have no description and are read as no array") {
    const auto described = describe(std::nullopt, 12345);
    REQUIRE(described);
    CHECK(described->brief.bits() == 0);
    CHECK(described->bytes.empty());
    const auto read = read_description(described->brief, 12345, {});
    REQUIRE(read);
    CHECK_FALSE(read->has_value());
  }

  TEST_CASE("an array of any plain dtype and of 0 to 32 dimensions is read back as it was made") {
    for (const PlainDtype& dtype : plain_dtypes().subspan(1))
      for (std::size_t ndim = 0; ndim <= array_dims_max; ++ndim)
        for (const bool fortran : {false, true}) {
          ArrayType type{std::string(dtype.text), {}, fortran};
          for (std::size_t i = 0; i < ndim; ++i) type.shape.push_back(i < 20 ? 1 + i % 3 : 1);
          check_round_trip(type, plain_bytes(type));
        }
  }

  TEST_CASE("an array that is empty in any dimension keeps all the others") {
    for (std::size_t ndim = 1; ndim <= 8; ++ndim)
      for (std::size_t zero = 0; zero < ndim; ++zero) {
        ArrayType type{"<f4", {}, false};
        for (std::size_t i = 0; i < ndim; ++i) type.shape.push_back(i == zero ? 0 : 7 + i);
        check_round_trip(type, 0);
      }
    check_round_trip({"<f4", {0, 0, 0}, true}, 0);
    check_round_trip({"<f4", {0, uint32_end * 5}, false}, 0);
    check_round_trip({"<f4", {uint32_end * 5, 0}, false}, 0);
  }

  TEST_CASE("dimensions beyond 32 bits survive") {
    for (const std::vector<std::uint64_t>& shape :
         std::vector<std::vector<std::uint64_t>>{{uint32_end},
                                                 {uint32_end - 1, 3},
                                                 {uint32_end, 3},
                                                 {uint32_end + 1, 3},
                                                 {3, uint32_end + 1},
                                                 {uint32_end - 1, uint32_end - 1},
                                                 {2, uint32_end + 5, 3},
                                                 {2, uint32_end - 1, 3},
                                                 {std::uint64_t{1} << 60U, 1, 1, 1, 1, 2}})
      for (const bool fortran : {false, true}) {
        const ArrayType type{"|u1", shape, fortran};
        check_round_trip(type, elements(type));
      }
  }

  TEST_CASE("a vector or matrix of a plain dtype needs no description beside its brief") {
    for (const std::vector<std::uint64_t>& shape : std::vector<std::vector<std::uint64_t>>{
             {}, {0}, {5}, {uint32_end}, {5, 0}, {5, 7}, {uint32_end - 1, 2}}) {
      const ArrayType type{"<f8", shape, false};
      CHECK(describe(type, plain_bytes(type))->bytes.empty());
    }
    CHECK_FALSE(describe(ArrayType{"<f8", {0, 5}, false}, 0)->bytes.empty());
  }

  TEST_CASE("up to five dimensions of a plain dtype fit into the record") {
    for (std::size_t ndim = 3; ndim <= 6; ++ndim) {
      const ArrayType type{"<f8", std::vector<std::uint64_t>(ndim, 2), false};
      const auto described = describe(type, plain_bytes(type));
      REQUIRE(described);
      CHECK(description_in_record(described->bytes.size()) == (ndim <= 5));
    }
  }

  TEST_CASE("any other dtype's text is kept to the letter, whatever its size says") {
    const std::string structured = "[('x','<f8'),('name','<U16',(2,)),('ü\"\\','|V3')]";
    for (const std::string& dtype :
         {std::string("<M8[ns]"), std::string(">f8"), structured, std::string("a\0b", 3),
          std::string(description_bytes_max / 2, 'x')})
      for (const std::vector<std::uint64_t>& shape :
           std::vector<std::vector<std::uint64_t>>{{}, {0}, {3}, {2, 3}, {1, 2, 3, 4, 5, 6, 7}}) {
        check_round_trip({dtype, shape, false}, 4711);
        check_round_trip({dtype, shape, true}, 4711);
      }
  }

  TEST_CASE("the largest description there can be is within the limit of one") {
    const ArrayType type{std::string(description_bytes_max / 2, 'x'),
                         std::vector<std::uint64_t>(array_dims_max, 1), false};
    CHECK(describe(type, 1)->bytes.size() <= description_bytes_max);
  }

  TEST_CASE("random arrays are read back as they were made") {
    test::Random random("description");
    for (int round = 0; round < 20'000; ++round) {
      ArrayType type;
      type.fortran_order = random.chance(0.5);
      const bool plain = random.chance(0.7);
      if (plain) {
        const auto code = 1 + random.below(static_cast<std::uint32_t>(plain_dtypes().size()) - 1);
        type.dtype = plain_dtypes()[code].text;
      } else {
        type.dtype = "[('f" + std::to_string(random.next()) + "','<f8')]";
      }
      std::uint64_t room = std::uint64_t{1} << random.below(50);
      for (std::uint32_t ndim = random.below(array_dims_max + 1); ndim > 0; --ndim) {
        const std::uint64_t dim = random.chance(0.02) ? 0 : random.between(1, room);
        type.shape.push_back(dim);
        if (dim > 0) room /= dim;
      }
      check_round_trip(type, plain ? plain_bytes(type) : random.next32());
    }
  }

  TEST_CASE("a size that does not fit dtype and shape is refused with all three") {
    for (const std::uint64_t size : {0U, 47U, 49U, 96U, 24U}) {
      const auto refused = describe(ArrayType{"<f8", {2, 3}, false}, size);
      REQUIRE_FALSE(refused);
      CHECK(refused.error().is(Errc::bad_argument));
      CHECK(refused.error().detail.find(std::to_string(size)) != std::string::npos);
      CHECK(refused.error().detail.find("<f8") != std::string::npos);
      CHECK(refused.error().detail.find("(2,3,)") != std::string::npos);
    }
    CHECK_FALSE(describe(ArrayType{"<f8", {}, false}, 0));
    CHECK_FALSE(describe(ArrayType{"<f8", {}, false}, 16));
    CHECK_FALSE(describe(ArrayType{"<f8", {0}, false}, 8));
  }

  TEST_CASE("a product of dimensions that runs over 64 bits is not taken for a small one") {
    const std::uint64_t half = std::uint64_t{1} << 63U;
    for (const std::vector<std::uint64_t>& shape : std::vector<std::vector<std::uint64_t>>{
             {half, 2}, {half, 4, 2}, {uint32_end, uint32_end}, {half + 1, 2}})
      for (const std::uint64_t size : {0U, 2U, 8U, 16U})
        CHECK_FALSE(describe(ArrayType{"|u1", shape, false}, size));
    // The count fits into 64 bits, the bytes do not.
    CHECK_FALSE(describe(ArrayType{"<f8", {std::uint64_t{1} << 61U}, false}, 0));
  }

  TEST_CASE("more dimensions, longer dtypes than there is room for, or no dtype are refused") {
    for (const ArrayType& type :
         {ArrayType{"|u1", std::vector<std::uint64_t>(array_dims_max + 1, 1), false},
          ArrayType{std::string(description_bytes_max / 2 + 1, 'x'), {}, false},
          ArrayType{"", {1}, false}}) {
      const auto refused = describe(type, 1);
      REQUIRE_FALSE(refused);
      CHECK(refused.error().is(Errc::bad_argument));
    }
  }

  TEST_CASE("plain dtypes have codes of their own, and others have none") {
    for (std::size_t code = 1; code < plain_dtypes().size(); ++code)
      CHECK(plain_dtype_code(plain_dtypes()[code].text) == code);
    CHECK(plain_dtype_code("") == 0);
    CHECK(plain_dtype_code(">f8") == 0);
    CHECK(plain_dtype_code("<f88") == 0);
  }

  TEST_CASE("a description that nobody can have made is told from an array") {
    const std::uint8_t f8 = plain_dtype_code("<f8");
    const auto unknown = static_cast<std::uint8_t>(plain_dtypes().size());
    const std::uint8_t in_dims = flag(BriefFlag::dims_in_description);
    const std::uint8_t in_text = flag(BriefFlag::dtype_in_description);
    struct Lie {
      std::string what;
      Brief brief;
      std::uint64_t size;
      std::vector<std::byte> bytes;
    };
    std::vector<std::byte> dims;
    for (const std::uint32_t dim : {2U, 2U}) append(dims, dim);
    for (const Lie& lie : std::vector<Lie>{
             {"no dtype at all", {Kind::array, 0, 1, 0, 0}, 8, {}},
             {"a code of no dtype", {Kind::array, unknown, 1, 0, 0}, 8, {}},
             {"a code far off", {Kind::array, 255, 1, 0, 0}, 8, {}},
             {"more dims than there are", {Kind::array, f8, 33, in_dims, 0}, 8, {}},
             {"three dims nowhere", {Kind::array, f8, 3, 0, 0}, 8, {}},
             {"one element in no bytes", {Kind::array, f8, 0, 0, 0}, 0, {}},
             {"one element in half its bytes", {Kind::array, f8, 0, 0, 0}, 4, {}},
             {"one element in twice its bytes", {Kind::array, f8, 0, 0, 0}, 16, {}},
             {"a vector with half an element", {Kind::array, f8, 1, 0, 0}, 12, {}},
             {"a matrix of no rows", {Kind::array, f8, 2, 0, 0}, 8, {}},
             {"a matrix of torn rows", {Kind::array, f8, 2, 0, 3}, 32, {}},
             {"a matrix of half an element", {Kind::array, f8, 2, 0, 2}, 36, {}},
             {"dims that are missing", {Kind::array, f8, 3, in_dims, 0}, 32, dims},
             {"dims of more elements than bytes", {Kind::array, f8, 2, in_dims, 0}, 24, dims},
             {"dims of fewer elements than bytes", {Kind::array, f8, 2, in_dims, 0}, 40, dims},
             {"dims of half an element", {Kind::array, f8, 2, in_dims, 0}, 36, dims},
             {"no text", {Kind::array, 0, 0, in_text, 0}, 8, {}},
             {"a text that ends early",
              {Kind::array, 0, 0, in_text, 0},
              8,
              {std::byte{200}, std::byte{0}, std::byte{0}, std::byte{0}, std::byte{'<'}}},
             {"an empty text", {Kind::array, 0, 0, in_text, 0}, 8, described_as("", {})},
             {"a text without its dims",
              {Kind::array, 0, 2, in_text, 0},
              8,
              described_as("<f8", {1})},
             {"a plain text with more elements than bytes",
              {Kind::array, f8, 2, in_text, 0},
              32,
              described_as("<f8", {1000, 1000})},
             {"a plain text whose elements overflow",
              {Kind::array, f8, 2, in_text, 0},
              0,
              described_as("<f8", {uint32_end, uint32_end})},
         }) {
      const auto read = read_description(lie.brief, lie.size, lie.bytes);
      CHECK_MESSAGE(!read.has_value(), lie.what);
      if (!read) CHECK(read.error().is(Errc::type_mismatch));
    }
  }

  TEST_CASE("random bytes are read as an array that fits its bytes, or as none, and never crash") {
    test::Random random("lying descriptions");
    int arrays = 0;
    for (int round = 0; round < 100'000; ++round) {
      Brief brief = Brief::from_bits(random.next());
      brief.kind = random.chance(0.9) ? Kind::array : brief.kind;
      if (random.chance(0.9)) {
        brief.ndim = static_cast<std::uint8_t>(brief.ndim % 6);
        brief.dtype = static_cast<std::uint8_t>(brief.dtype % plain_dtypes().size());
        brief.first_dim %= 10;
      }
      std::vector<std::byte> bytes(random.below(80));
      for (std::byte& byte : bytes)
        byte = static_cast<std::byte>(random.chance(0.6) ? random.below(4) : random.next32());
      const std::uint64_t size = random.chance(0.9) ? 8 * random.below(200) : random.next();
      const auto read = read_description(brief, size, bytes);
      if (!read || !read->has_value()) continue;
      ++arrays;
      const ArrayType& type = **read;
      REQUIRE(type.shape.size() <= array_dims_max);
      // What a reader is told it may read is what there is.
      if (plain_dtype_code(type.dtype) != 0) REQUIRE(plain_bytes(type) == size);
    }
    CHECK(arrays > 1000);
  }
}

}  // namespace
}  // namespace forebay::shm
