// SPDX-License-Identifier: Apache-2.0
#include "tests/support/daemon_process.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "store/wire/socket.h"
#include "tests/support/eventually.h"

namespace forebay::test {
namespace {

std::string read_file(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

int status_of(int wait_status) {
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : -WTERMSIG(wait_status);
}

// A program with these arguments and this process's environment plus some, its output in `output`.
// Started without the fork handlers of the library under test, to which a program that a test starts
// is no fork of its user's.
pid_t start_program(const std::vector<std::string>& arguments,
                    const std::map<std::string, std::string>& environment, int output) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  std::vector<std::string> variables;
  for (const auto& [name, value] : environment) variables.push_back(name + "=" + value);
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string text = *variable;
    if (!environment.contains(text.substr(0, text.find('=')))) variables.push_back(text);
  }
  std::vector<char*> envp;
  for (std::string& variable : variables) envp.push_back(variable.data());
  envp.push_back(nullptr);
  const pid_t child = _Fork();
  if (child != 0) return child;
  // A test that is killed for taking too long leaves no daemon.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::dup2(output, 1);
  ::dup2(output, 2);
  ::execve(argv[0], argv.data(), envp.data());
  ::_exit(127);
}

}  // namespace

std::string program(const std::string& name) { return std::string(FOREBAY_BIN_DIR) + "/" + name; }

Ran run(const std::vector<std::string>& arguments,
        const std::map<std::string, std::string>& environment) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("no pipe");
  const pid_t child = start_program(arguments, environment, ends[1]);
  ::close(ends[1]);
  Ran ran;
  std::array<char, 4096> buffer{};
  ssize_t size = 0;
  while ((size = ::read(ends[0], buffer.data(), buffer.size())) > 0)
    ran.output.append(buffer.data(), static_cast<std::size_t>(size));
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  ran.status = status_of(status);
  return ran;
}

DaemonProcess::DaemonProcess() : DaemonProcess(Options()) {}

DaemonProcess::DaemonProcess(Options options)
    : socket_(directory_ / "forebay.sock"), options_(std::move(options)) {
  start();
}

DaemonProcess::~DaemonProcess() {
  if (running()) {
    resume();
    kill();
  }
  note_store();
  for (const std::string& name : objects()) ::shm_unlink(("/" + name).c_str());
}

void DaemonProcess::start(Options options) {
  options_ = std::move(options);
  start();
}

void DaemonProcess::start() {
  std::vector<std::string> arguments = options_.launcher;
  arguments.insert(arguments.end(), {program("forebayd"), "--socket", socket_});
  if (!options_.capacity.empty())
    arguments.insert(arguments.end(), {"--capacity", options_.capacity});
  // A small reserve, so that a hundred tests do not each take 128 MiB first.
  if (std::find(options_.arguments.begin(), options_.arguments.end(), "--reserve") ==
      options_.arguments.end()) {
    arguments.push_back("--reserve");
    arguments.push_back("1MiB");
  }
  arguments.insert(arguments.end(), options_.arguments.begin(), options_.arguments.end());
  const int log = ::open((directory_ / "log").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC,
                         0600);
  pid_ = start_program(arguments, options_.environment, log);
  ::close(log);
  if (!options_.wait) return;
  if (!eventually([this] { return listening() || !running(); }) || !running())
    throw std::runtime_error("forebayd did not start:\n" + this->log());
  note_store();
}

bool DaemonProcess::listening() const {
  return wire::connect_to(socket_, std::chrono::steady_clock::now()).has_value();
}

void DaemonProcess::note_store() {
  std::istringstream state(read_file(socket_ + ".state"));
  std::string key;
  std::string uuid;
  if (state >> key >> uuid && std::find(stores_.begin(), stores_.end(), uuid) == stores_.end())
    stores_.push_back(uuid);
}

bool DaemonProcess::running() {
  if (pid_ < 0) return false;
  int status = 0;
  if (::waitpid(pid_, &status, WNOHANG) == 0) return true;
  pid_ = -1;
  return false;
}

std::optional<int> DaemonProcess::wait_for_end(std::chrono::milliseconds within) {
  int status = 0;
  if (pid_ < 0 ||
      !eventually([&] { return ::waitpid(pid_, &status, WNOHANG) == pid_; }, within))
    return std::nullopt;
  pid_ = -1;
  return status_of(status);
}

void DaemonProcess::kill() {
  note_store();
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  pid_ = -1;
}
void DaemonProcess::stop() { ::kill(pid_, SIGSTOP); }
void DaemonProcess::resume() { ::kill(pid_, SIGCONT); }

int DaemonProcess::terminate() {
  note_store();
  ::kill(pid_, SIGTERM);
  int status = 0;
  ::waitpid(pid_, &status, 0);
  pid_ = -1;
  return status_of(status);
}

ConnectOptions DaemonProcess::connect_options() const {
  ConnectOptions options;
  options.address = socket_;
  return options;
}

Client DaemonProcess::connect(std::chrono::milliseconds timeout) const {
  ConnectOptions options = connect_options();
  options.timeout = timeout;
  auto client = Client::connect(options);
  if (!client) throw std::runtime_error(client.error().message() + "\n" + log());
  return std::move(*client);
}

std::string DaemonProcess::log() const { return read_file(directory_ / "log"); }

std::vector<std::string> DaemonProcess::objects() const {
  std::vector<std::string> found;
  DIR* directory = ::opendir("/dev/shm");
  while (const dirent* item = ::readdir(directory)) {
    const std::string name = item->d_name;
    for (const std::string& store : stores_)
      if (name.find(store) != std::string::npos) found.push_back(name);
  }
  ::closedir(directory);
  return found;
}

std::uint64_t DaemonProcess::status(const Client& client, const std::string& name) {
  std::istringstream lines(client.status().value());
  std::string line;
  while (std::getline(lines, line))
    if (line.starts_with(name + " ")) return std::stoull(line.substr(name.size() + 1));
  throw std::runtime_error("status has no " + name);
}

}  // namespace forebay::test
