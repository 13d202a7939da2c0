#include "node/pull/url.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/ip/address.hpp>
#include <charconv>

#include "base/loopback.h"
#include "base/printable.h"

namespace shoal {
namespace {

constexpr size_t kUrlBytesMax = 8192;

Error bad(std::string_view text, const std::string& why) {
  return {Errc::kInvalidInput, fmt::format("{} is no address to download from: {}", in_quotes(text), why)};
}

bool is_port(std::string_view text) {
  unsigned port = 0;
  const auto [rest, errc] = std::from_chars(text.data(), text.data() + text.size(), port);
  return errc == std::errc() && rest == text.data() + text.size() && port >= 1 && port <= 65535;
}

// "host", "host:port", "[::1]:port".
bool take_authority(std::string_view authority, Url& url) {
  std::string_view rest;
  if (authority.starts_with('[')) {
    const size_t end = authority.find(']');
    if (end == std::string_view::npos) return false;
    url.host = authority.substr(1, end - 1);
    rest = authority.substr(end + 1);
    boost::system::error_code not_an_address;
    boost::asio::ip::make_address_v6(url.host, not_an_address);
    if (not_an_address) return false;
  } else {
    const size_t colon = std::min(authority.find(':'), authority.size());
    url.host = authority.substr(0, colon);
    rest = authority.substr(colon);
    const bool clean = std::all_of(url.host.begin(), url.host.end(), [](unsigned char c) {
      return std::isalnum(c) || c == '-' || c == '.' || c == '_';
    });
    if (!clean) return false;
    std::transform(url.host.begin(), url.host.end(), url.host.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  }
  if (url.host.empty()) return false;
  url.port = rest.empty() ? (url.tls ? "443" : "80") : std::string(rest.substr(1));
  return rest.empty() || (rest.front() == ':' && is_port(url.port));
}

}  // namespace

std::string Url::host_header() const {
  const std::string name = host.find(':') == std::string::npos ? host : "[" + host + "]";
  return port == (tls ? "443" : "80") ? name : name + ":" + port;
}

std::string Url::origin() const {
  return (tls ? "https://" : "http://") + host_header();
}

std::string Url::shown() const {
  return printable(origin() + target.substr(0, target.find('?')), 200);
}

Result<Url> parse_url(std::string_view text) {
  if (text.size() > kUrlBytesMax) return bad(text, "too long");
  if (std::any_of(text.begin(), text.end(), [](unsigned char c) { return c <= ' ' || c >= 0x7f; }))
    return bad(text, "it holds blanks or unusual characters");
  Url url;
  if (text.starts_with("https://")) {
    text.remove_prefix(8);
  } else if (text.starts_with("http://")) {
    url.tls = false;
    text.remove_prefix(7);
  } else {
    return bad(text, "it must begin with https:// (or http://)");
  }
  text = text.substr(0, text.find('#'));
  const size_t end = std::min(text.find_first_of("/?"), text.size());
  const std::string_view authority = text.substr(0, end);
  // A name before '@' would be sent nowhere, and makes one host look like another.
  if (authority.find('@') != std::string_view::npos) return bad(text, "it holds a user name");
  if (!take_authority(authority, url)) return bad(text, "its host or port is malformed");
  url.target = text.substr(end);
  if (!url.target.starts_with('/')) url.target.insert(0, "/");
  return url;
}

Result<Url> resolve_url(const Url& base, std::string_view reference) {
  if (reference.starts_with("//")) return parse_url((base.tls ? "https:" : "http:") + std::string(reference));
  if (reference.find("://") < reference.find_first_of("/?#")) return parse_url(reference);
  if (reference.starts_with('/')) return parse_url(base.origin() + std::string(reference));
  const std::string path = base.target.substr(0, base.target.find('?'));
  if (reference.starts_with('?')) return parse_url(base.origin() + path + std::string(reference));
  return parse_url(base.origin() + path.substr(0, path.rfind('/') + 1) + std::string(reference));
}

std::string percent_encoded(std::string_view path) {
  std::string text;
  for (const unsigned char c : path) {
    if (std::isalnum(c) || c == '-' || c == '.' || c == '_' || c == '~' || c == '/') {
      text += static_cast<char>(c);
    } else {
      text += fmt::format("%{:02X}", c);
    }
  }
  return text;
}

bool is_loopback(const Url& url) {
  return is_loopback_host(url.host);
}

}  // namespace shoal
