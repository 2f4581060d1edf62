// SPDX-License-Identifier: Apache-2.0
// What the C++ workers of the benchmarks share: a worker gets tasks as lines of words on its standard
// input, and answers each with a line: "ok", perhaps with words, or what went wrong. It ends with its
// input.
#pragma once

#include <forebay/client.h>

#include <cstdio>
#include <functional>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

namespace bench {

using Words = std::vector<std::string>;

[[noreturn]] inline void give_up(const forebay::Error& error) {
  std::printf("%s\n", error.message().c_str());
  std::fflush(stdout);
  std::exit(1);
}

template <class T>
T value_or_exit(forebay::Result<T> result) {
  if (!result) give_up(result.error());
  return std::move(result).value();
}

inline void value_or_exit(forebay::Result<void> result) {
  if (!result) give_up(result.error());
}

inline forebay::View get(const forebay::Client& client, const std::string& ref) {
  return value_or_exit(client.get(value_or_exit(forebay::Ref::parse(ref))));
}

// Touches each page: the first use of a segment, outside of what is timed.
inline void touch(std::span<const std::byte> bytes) {
  for (std::size_t at = 0; at < bytes.size(); at += 4096) {
    const volatile std::byte* byte = &bytes[at];
    (void)*byte;
  }
}

// `task` gets the words of a line and returns those of the answer. The line "touch REF" is done here.
inline int serve(int argc, char** argv, const std::string& greeting,
                 const std::function<std::string(forebay::Client&, const Words&)>& task) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s SOCKET\n", argv[0]);
    return 2;
  }
  forebay::ConnectOptions options;
  options.address = argv[1];
  forebay::Client client = value_or_exit(forebay::Client::connect(options));
  const auto answer = [](const std::string& words) {
    std::printf("ok %s\n", words.c_str());
    std::fflush(stdout);
  };
  answer(greeting);
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream stream(line);
    Words words;
    for (std::string word; stream >> word;) words.push_back(word);
    if (words.size() == 2 && words[0] == "touch") {
      touch(get(client, words[1]).bytes());
      answer("");
    } else {
      answer(task(client, words));
    }
  }
  return 0;
}

}  // namespace bench
