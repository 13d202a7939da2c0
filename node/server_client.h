// Asks a running server what it does, or tells it something: for the commands that talk to one (top, drain).
// Waits for the answer, bounded in time and size; throws SetupError (exit 1) where there is none.
#pragma once

#include <boost/json/value.hpp>
#include <string>

namespace shoal {

class ServerClient {
 public:
  // `url`: http://HOST:PORT. `key_file`: its first key is used; empty: none.
  ServerClient(const std::string& url, const std::string& key_file);

  boost::json::value status() const;  // of /status.json: an object
  struct Answer {
    int status = 0;
    boost::json::value body;
  };
  Answer post(const std::string& path, const boost::json::value& body) const;

 private:
  Answer ask(const std::string& path, const std::string* body) const;
  std::string host_, port_, key_;
};

}  // namespace shoal
