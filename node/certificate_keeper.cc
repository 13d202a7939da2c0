#include "node/certificate_keeper.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "base/units.h"
#include "base/uptime.h"

namespace shoal {
namespace {

constexpr int64_t kPauseFirst_s = 60, kPauseMost_s = 6 * 3600;
constexpr int64_t kPauseFirstShare = 200, kPauseMostShare = 24;  // of a short life
constexpr int64_t kAnswerEvery_s = 1;                            // to one node

int64_t pause_within(int64_t life_s, int64_t share, int64_t most_s) {
  return std::clamp<int64_t>(life_s / share, 1, most_s);
}

}  // namespace

RenewalTimes::RenewalTimes(const CertificateInfo& own)
    : life_s_(std::max<int64_t>(own.expires_s - own.issued_s, 1)),
      next_s_(own.expires_s - life_s_ / 3),
      pause_s_(pause_within(life_s_, kPauseFirstShare, kPauseFirst_s)) {}

void RenewalTimes::asked(int64_t now_s) {
  next_s_ = now_s + pause_s_;
  pause_s_ = std::min(2 * pause_s_, pause_within(life_s_, kPauseMostShare, kPauseMost_s));
}

CertificateKeeper::CertificateKeeper(const NodeIdentity& self)
    : name_(self.name),
      cluster_(self.cluster),
      tls_(self.tls),
      times_(certificate_info(tls_->credentials().certificate, "this node's certificate")) {}

void CertificateKeeper::set_authority(std::shared_ptr<const CertificateAuthority> authority,
                                      std::chrono::seconds life) {
  authority_ = std::move(authority);
  life_ = life;
}

std::optional<CertificateRequest> CertificateKeeper::tend(int64_t now_s) {
  if (!times_.due(now_s)) return std::nullopt;
  times_.asked(now_s);
  next_key_ = NodeKey::create();
  CertificateRequest request{next_key_->request(name_, cluster_)};
  if (authority_ == nullptr) return request;
  const Result<std::string> own = authority_->sign(request.pem, name_, life_, CertificateRole::kHead);
  take(own ? NewCertificate{*own, ""} : NewCertificate{"", own.error().message});
  return std::nullopt;
}

void CertificateKeeper::take(const NewCertificate& answer) {
  if (!next_key_) return;  // nobody asked
  const NodeKey key = *std::exchange(next_key_, std::nullopt);
  if (!answer.failure.empty())
    return spdlog::warn("the certificate of {} was not renewed: {}", name_, answer.failure);
  try {
    const CertificateInfo info = certificate_info(answer.certificate, "the head's answer");
    if (info.node != name_) throw SetupError(fmt::format("it is of node {}", info.node));
    const NodeCredentials renewed{key, answer.certificate, tls_->credentials().authority};
    tls_->renew(renewed);
    times_ = RenewalTimes(info);
    spdlog::info("the certificate of {} was renewed; it holds for {}", name_,
                 format_seconds(static_cast<double>(info.expires_s - info.issued_s)));
    if (on_renewed_) on_renewed_(renewed);
  } catch (const SetupError& error) {
    spdlog::warn("the certificate of {} was not renewed: what came is no good: {}", name_, error.what());
  }
}

Result<std::string> CertificateKeeper::sign(const std::string& node, const CertificateRequest& request,
                                            int64_t now_s) {
  const auto refused = [](std::string why) { return Error{Errc::kRefused, std::move(why)}; };
  if (authority_ == nullptr) return refused(fmt::format("{} is not the head, which signs", name_));
  if (tls_->is_revoked(node))
    return refused(fmt::format("{} was shut out of the cluster (shoal revoke)", node));
  const auto last = answered_s_.find(node);
  if (last != answered_s_.end() && now_s >= last->second && now_s - last->second < kAnswerEvery_s)
    return refused("it was asked for a moment ago");
  answered_s_[node] = now_s;
  const Result<std::string> asked_for = requested_name(request.pem);
  if (asked_for.has_error()) return asked_for.error();
  if (*asked_for != node)
    return refused(fmt::format("{} asked for a certificate of node {}", node, *asked_for));
  return authority_->sign(request.pem, node, life_);
}

NewCertificate CertificateKeeper::answer(const std::string& node, const CertificateRequest& request,
                                         int64_t now_s) {
  const Result<std::string> made = sign(node, request, now_s);
  if (made) return {*made, ""};
  const std::string what = fmt::format("node {} gets no new certificate: {}", node, made.error().message);
  lines_.warn(node, what, uptime_s());
  return {"", made.error().message};
}

}  // namespace shoal
