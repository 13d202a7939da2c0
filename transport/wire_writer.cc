// The sending half of wire_codec.h.
#include <capnp/message.h>
#include <capnp/orphan.h>

#include <algorithm>
#include <initializer_list>
#include <string>
#include <variant>

#include "base/check.h"
#include "transport/wire_codec.h"

namespace shoal {
namespace {

Result<void> too_large(std::string what) {
  return Error{Errc::kInvalidInput, std::move(what)};
}

Result<void> check_name(const std::string& name, const char* what) {
  if (name.size() <= kNameBytesMax) return {};
  return too_large(std::string(what) + " has " + std::to_string(name.size()) + " bytes, at most " +
                   std::to_string(kNameBytesMax) + " fit a message");
}

Result<void> check_text(const std::string& text, const char* what) {
  if (text.size() <= kTextBytesMax) return {};
  return too_large(std::string(what) + " has " + std::to_string(text.size()) + " bytes, at most " +
                   std::to_string(kTextBytesMax) + " fit a message");
}

// The first error of several checks.
Result<void> all(std::initializer_list<Result<void>> results) {
  for (const Result<void>& result : results) {
    if (!result) return result;
  }
  return {};
}

struct CheckOutgoing {
  Result<void> operator()(const Hello& m) const {
    return all(
        {check_name(m.cluster_name, "the cluster's name"), check_name(m.node_name, "the node's name"),
         check_name(m.peer_node_name, "the peer's name"), check_name(m.model_fingerprint, "the fingerprint"),
         check_name(m.plan_hash, "the plan's hash"), check_name(m.numeric_class, "the numeric class")});
  }
  Result<void> operator()(const HelloAck& m) const {
    return all({check_name(m.node_name, "the node's name"),
                check_name(m.model_fingerprint, "the fingerprint"),
                check_name(m.plan_hash, "the plan's hash"), check_text(m.text, "the refusal")});
  }
  Result<void> operator()(const StepMessage& m) const {
    if (m.rows.size() > kStepRowsMax) {
      return too_large("a step has " + std::to_string(m.rows.size()) + " rows, at most " +
                       std::to_string(kStepRowsMax) + " fit a message");
    }
    if (m.stage_times.size() > kStageTimesMax || m.digests.size() > kStageTimesMax * kDigestBytes)
      return too_large("a step tells of more stages than may be");
    if (m.cache_ops.size() > kCacheOpsMax) {
      return too_large("a step has " + std::to_string(m.cache_ops.size()) + " cache operations, at most " +
                       std::to_string(kCacheOpsMax) + " fit a message");
    }
    if (m.verify_slot > 0 && m.rows.empty()) return too_large("a step to be hashed has no rows");
    if (!m.token_ids.empty() && m.token_ids.size() != m.rows.size()) {
      return too_large("a step has " + std::to_string(m.token_ids.size()) + " token ids for " +
                       std::to_string(m.rows.size()) + " rows");
    }
    return {};
  }
  Result<void> operator()(const ResultMessage& m) const {
    if (m.stage_times.size() > kStageTimesMax || m.digests.size() > kStageTimesMax * kDigestBytes)
      return too_large("a result tells of more stages than may be");
    if (m.rows.size() > kStepRowsMax) return too_large("a result has more rows than a step may have");
    for (const RowResult& row : m.rows) {
      if (!row.tokens.empty() && row.tokens.size() != row.logits.size()) {
        return too_large("a result's row has as many tokens as logits, or no tokens");
      }
    }
    return check_text(m.failure_text, "the failure");
  }
  Result<void> operator()(const StatsMessage& m) const {
    if (m.stages.size() > kStatsEntriesMax || m.links.size() > kStatsEntriesMax) {
      return too_large("statistics of more than " + std::to_string(kStatsEntriesMax) + " stages or links");
    }
    for (const LinkReport& link : m.links) {
      if (Result<void> ok = check_name(link.peer, "a peer's name"); !ok) return ok;
    }
    return check_name(m.node_name, "the node's name");
  }
  Result<void> operator()(const Shutdown& m) const { return check_text(m.reason, "the reason"); }
  Result<void> operator()(const LoadPlan& m) const {
    return all({check_text(m.plan_json, "the plan"), check_text(m.certificate, "the certificate"),
                check_name(m.signature, "the signature")});
  }
  Result<void> operator()(const Ready& m) const {
    return all({check_name(m.plan_hash, "the plan's hash"), check_text(m.failure, "the failure"),
                check_text(m.info, "the stage's description")});
  }
  Result<void> operator()(const WeightsData& m) const { return check_text(m.failure, "the failure"); }
  Result<void> operator()(const Join& m) const {
    return all(
        {check_name(m.address, "the address"), check_text(m.profile_json, "the profile"), (*this)(m.held)});
  }
  Result<void> operator()(const Measure& m) const { return check_text(m.peers_json, "the peers"); }
  Result<void> operator()(const Measured& m) const { return check_text(m.links_json, "the links"); }
  Result<void> operator()(const CertificateRequest& m) const { return check_text(m.pem, "the request"); }
  Result<void> operator()(const NewCertificate& m) const {
    return all({check_text(m.certificate, "the certificate"), check_text(m.failure, "the failure")});
  }
  Result<void> operator()(const Revoked& m) const {
    if (m.nodes.size() > kRevokedMax) return too_large("more nodes are shut out than fit a message");
    for (const std::string& node : m.nodes) {
      if (Result<void> ok = check_name(node, "a node's name"); !ok) return ok;
    }
    return {};
  }
  Result<void> operator()(const Examined& m) const { return check_text(m.failure, "the failure"); }
  Result<void> operator()(const FetchAhead& m) const { return check_text(m.shards_json, "the shards"); }
  template <class Small>
  Result<void> operator()(const Small&) const {
    return {};
  }
};

// Words of a text or list content, with its rounding and terminator.
size_t text_words(const std::string& text) {
  return text.size() / 8 + 2;
}
size_t list_words(size_t count, size_t bytes_each) {
  return (count * bytes_each + 7) / 8 + 1;
}

bool adapted(const std::vector<StepRow>& rows) {
  return std::any_of(rows.begin(), rows.end(), [](const StepRow& row) { return row.adapter != 0; });
}

bool tell_arrivals(const std::vector<StageTime>& times) {
  return std::any_of(times.begin(), times.end(), [](const auto& time) { return time.arrived_us != 0; });
}

size_t times_words(const std::vector<StageTime>& times) {
  return (tell_arrivals(times) ? 2 : 1) * list_words(times.size(), 8);
}

struct WordsBound {
  size_t operator()(const Hello& m) const {
    return text_words(m.cluster_name) + text_words(m.node_name) + text_words(m.peer_node_name) +
           text_words(m.model_fingerprint) + text_words(m.plan_hash) + text_words(m.numeric_class);
  }
  size_t operator()(const HelloAck& m) const {
    return text_words(m.text) + text_words(m.node_name) + text_words(m.model_fingerprint) +
           text_words(m.plan_hash);
  }
  size_t operator()(const StepMessage& m) const {
    return list_words(m.cache_ops.size(), 16) + 2 * list_words(m.rows.size(), 4) +
           (adapted(m.rows) ? list_words(m.rows.size(), 8) : list_words(m.rows.size() / 8 + 1, 1)) +
           list_words(m.token_ids.size(), 4) + times_words(m.stage_times) +
           (m.verify_slot > 0 ? 3 + text_words(m.digests) : 0) + 1;
  }
  size_t operator()(const ResultMessage& m) const {
    size_t words = text_words(m.failure_text) + list_words(m.rows.size(), 32) + times_words(m.stage_times) +
                   text_words(m.digests) + 1;
    for (const RowResult& row : m.rows)
      words += list_words(row.tokens.size(), 4) + list_words(row.logits.size(), 4) +
               list_words(row.embedding.size(), 4);
    return words;
  }
  size_t operator()(const StatsMessage& m) const {
    size_t words = text_words(m.node_name) + list_words(m.stages.size(), 80) + list_words(m.links.size(), 24);
    for (const LinkReport& link : m.links) words += text_words(link.peer);
    return words;
  }
  size_t operator()(const Shutdown& m) const { return text_words(m.reason); }
  size_t operator()(const LoadPlan& m) const {
    return text_words(m.plan_json) + text_words(m.certificate) + text_words(m.signature);
  }
  size_t operator()(const Ready& m) const {
    return text_words(m.plan_hash) + text_words(m.failure) + text_words(m.info);
  }
  size_t operator()(const WeightsData& m) const { return text_words(m.failure); }
  size_t operator()(const Join& m) const {
    return text_words(m.address) + text_words(m.profile_json) + (*this)(m.held);
  }
  size_t operator()(const Measure& m) const { return text_words(m.peers_json); }
  size_t operator()(const Measured& m) const { return text_words(m.links_json); }
  size_t operator()(const CertificateRequest& m) const { return text_words(m.pem); }
  size_t operator()(const NewCertificate& m) const {
    return text_words(m.certificate) + text_words(m.failure);
  }
  size_t operator()(const Revoked& m) const {
    size_t words = list_words(m.nodes.size(), 8);
    for (const std::string& node : m.nodes) words += text_words(node);
    return words;
  }
  size_t operator()(const Examined& m) const { return text_words(m.failure); }
  size_t operator()(const FetchAhead& m) const { return text_words(m.shards_json); }
  template <class Small>
  size_t operator()(const Small&) const {
    return 0;
  }
};

kj::ArrayPtr<const kj::byte> data_of(const std::string& bytes) {
  return kj::arrayPtr(reinterpret_cast<const kj::byte*>(bytes.data()), bytes.size());
}

kj::StringPtr text_of(const std::string& text) {
  return kj::StringPtr(text.c_str(), text.size());
}

// Enumerators have the same order in messages.h and wire.capnp.
template <class To, class From>
To same_enum(From value) {
  return static_cast<To>(static_cast<uint16_t>(value));
}

struct Writer {
  wire::Message::Builder root;
  std::span<const std::byte> payload;

  capnp::Orphan<capnp::Data> payload_data() const {
    const auto* begin = reinterpret_cast<const kj::byte*>(payload.data());
    return capnp::Orphanage::getForMessageContaining(root).referenceExternalData(
        capnp::Data::Reader(begin, payload.size()));
  }

  void operator()(const Hello& m) {
    auto b = root.initHello();
    b.setProtocolVersion(m.protocol_version);
    b.setRole(same_enum<wire::LinkRole>(m.role));
    b.setClusterName(text_of(m.cluster_name));
    b.setNodeName(text_of(m.node_name));
    b.setPeerNodeName(text_of(m.peer_node_name));
    b.setModelFingerprint(text_of(m.model_fingerprint));
    b.setPlanHash(text_of(m.plan_hash));
    b.setNumericClass(text_of(m.numeric_class));
    b.setEpoch(m.epoch);
    b.setStage(m.stage);
  }
  void operator()(const HelloAck& m) {
    auto b = root.initHelloAck();
    b.setAccepted(m.accepted);
    b.setRefusal(same_enum<wire::Refusal>(m.refusal));
    b.setText(text_of(m.text));
    b.setProtocolVersion(m.protocol_version);
    b.setNodeName(text_of(m.node_name));
    b.setModelFingerprint(text_of(m.model_fingerprint));
    b.setPlanHash(text_of(m.plan_hash));
    b.setEpoch(m.epoch);
  }
  void operator()(const StepMessage& m) {
    auto b = root.initStep();
    b.setEpoch(m.epoch);
    b.setStepId(m.step_id);
    b.setStage(m.stage);
    b.setCandidates(m.candidates);
    b.setPayloadType(same_enum<wire::PayloadType>(m.payload_type));
    b.setKind(same_enum<wire::StepKind>(m.kind));
    if (!m.cache_ops.empty()) {
      auto ops = b.initCacheOps(static_cast<unsigned>(m.cache_ops.size()));
      for (unsigned i = 0; i < ops.size(); ++i) {
        ops[i].setKind(same_enum<wire::CacheOp::Kind>(m.cache_ops[i].kind));
        ops[i].setSlot(m.cache_ops[i].slot);
        ops[i].setFromSlot(m.cache_ops[i].from_slot);
        ops[i].setLength(m.cache_ops[i].length);
      }
    }
    if (!m.rows.empty()) {
      const auto n = static_cast<unsigned>(m.rows.size());
      auto slots = b.initSlots(n);
      auto positions = b.initPositions(n);
      for (unsigned i = 0; i < n; ++i) {
        slots.set(i, m.rows[i].slot);
        positions.set(i, m.rows[i].position);
      }
      if (m.verify_slot > 0) {
        auto verified = b.initVerified();
        verified.setSlot(static_cast<uint16_t>(m.verify_slot - 1));
        if (!m.digests.empty()) verified.setDigests(data_of(m.digests));
        write_wishes(m.rows, verified);
      } else {
        write_wishes(m.rows, b);
      }
    }
    if (!m.token_ids.empty()) b.setTokenIds(kj::arrayPtr(m.token_ids.data(), m.token_ids.size()));
    if (!m.stage_times.empty()) write_times(m.stage_times, b);
    if (!payload.empty()) b.adoptHidden(payload_data());
  }
  // What is wanted of each row, and where one passes through an adapter, that too.
  template <class Builder>
  static void write_wishes(const std::vector<StepRow>& rows, Builder b) {
    const auto n = static_cast<unsigned>(rows.size());
    if (!adapted(rows)) {
      auto wants_logits = b.initWantsLogits(n);
      for (unsigned i = 0; i < n; ++i) wants_logits.set(i, rows[i].wants_logits);
      return;
    }
    auto list = b.initAdapted(n);
    for (unsigned i = 0; i < n; ++i) {
      list[i].setWantsLogits(rows[i].wants_logits);
      list[i].setAdapter(rows[i].adapter);
      list[i].setScale(rows[i].adapter_scale);
      list[i].setOverflowed(rows[i].overflowed);
    }
  }
  template <class Builder>
  static void write_times(const std::vector<StageTime>& from, Builder to) {
    auto times = to.initStageTimes(static_cast<unsigned>(from.size()));
    for (unsigned i = 0; i < times.size(); ++i) {
      times[i].setWaitedUs(from[i].waited_us);
      times[i].setBusyUs(from[i].busy_us);
    }
    if (!tell_arrivals(from)) return;
    auto arrived = to.initArrivedUs(times.size());
    for (unsigned i = 0; i < times.size(); ++i) arrived.set(i, from[i].arrived_us);
  }
  void operator()(const ResultMessage& m) {
    auto b = root.initResult();
    b.setEpoch(m.epoch);
    b.setStepId(m.step_id);
    if (m.failed) {
      auto failure = b.initFailure();
      failure.setCode(same_enum<wire::StepResult::Code>(m.failure_code));
      failure.setText(text_of(m.failure_text));
      failure.setFault(same_enum<wire::StepResult::Fault>(m.fault));
      failure.setStage(m.fault_stage);
      return;
    }
    if (!m.stage_times.empty()) write_times(m.stage_times, b);
    if (!m.digests.empty()) b.setDigests(data_of(m.digests));
    if (!m.overflowed.empty()) b.setOverflowed(kj::arrayPtr(m.overflowed.data(), m.overflowed.size()));
    auto rows = b.initRows(static_cast<unsigned>(m.rows.size()));
    for (unsigned i = 0; i < rows.size(); ++i) {
      const RowResult& row = m.rows[i];
      rows[i].setRow(row.row);
      rows[i].setLogSumExp(row.log_sum_exp);
      if (!row.tokens.empty()) rows[i].setTokens(kj::arrayPtr(row.tokens.data(), row.tokens.size()));
      if (!row.logits.empty()) rows[i].setLogits(kj::arrayPtr(row.logits.data(), row.logits.size()));
      if (!row.embedding.empty())
        rows[i].setEmbedding(kj::arrayPtr(row.embedding.data(), row.embedding.size()));
    }
  }
  void operator()(const StatsRequest&) { root.setStatsRequest(); }
  void operator()(const StatsMessage& m) {
    auto b = root.initStats();
    b.setNodeName(text_of(m.node_name));
    b.setResidentBytes(m.resident_bytes);
    auto stages = b.initStages(static_cast<unsigned>(m.stages.size()));
    for (unsigned i = 0; i < stages.size(); ++i) {
      const StageReport& from = m.stages[i];
      auto to = stages[i];
      to.setStage(from.stage);
      to.setLayerBegin(from.layer_begin);
      to.setLayerEnd(from.layer_end);
      to.setSteps(from.steps);
      to.setRows(from.rows);
      to.setBusyNs(from.busy_ns);
      to.setWaitingNs(from.waiting_ns);
      to.setWeightBytes(from.weight_bytes);
      to.setKvBytes(from.kv_bytes);
      to.setScratchBytes(from.scratch_bytes);
    }
    auto links = b.initLinks(static_cast<unsigned>(m.links.size()));
    for (unsigned i = 0; i < links.size(); ++i) {
      links[i].setPeer(text_of(m.links[i].peer));
      links[i].setBytesSent(m.links[i].bytes_sent);
      links[i].setBytesReceived(m.links[i].bytes_received);
    }
  }
  void operator()(const Heartbeat& m) {
    auto b = root.initHeartbeat();
    b.setProgress(m.progress);
    b.setWorking(m.working);
  }
  void operator()(const Shutdown& m) { root.initShutdown().setReason(text_of(m.reason)); }
  void operator()(const CancelAdvice& m) {
    auto b = root.initCancel();
    b.setSlot(m.slot);
    b.setMinEpoch(m.min_epoch);
  }
  void operator()(const LinkProbe& m) {
    auto b = root.initLinkProbe();
    b.setSequence(m.sequence);
    if (!payload.empty()) b.adoptPayload(payload_data());
  }
  void operator()(const LinkProbeAck& m) {
    auto b = root.initLinkProbeAck();
    b.setSequence(m.sequence);
    b.setClockUs(m.clock_us);
  }
  void operator()(const LoadPlan& m) {
    auto b = root.initLoadPlan();
    b.setEpoch(m.epoch);
    b.setPlanJson(text_of(m.plan_json));
    b.setCertificate(text_of(m.certificate));
    b.setSignature(text_of(m.signature));
  }
  void operator()(const Ready& m) {
    auto b = root.initReady();
    b.setEpoch(m.epoch);
    b.setPlanHash(text_of(m.plan_hash));
    b.setFailure(text_of(m.failure));
    b.setInfo(text_of(m.info));
  }
  void operator()(const WeightsRequest& m) {
    auto b = root.initWeightsRequest();
    b.setId(m.id);
    b.setTensor(m.tensor);
    b.setLength(m.length);
    b.setOffset(m.offset);
    b.setAdapter(m.adapter);
  }
  void operator()(const WeightsData& m) {
    auto b = root.initWeightsData();
    b.setId(m.id);
    b.setTotalBytes(m.total_bytes);
    b.setFailure(text_of(m.failure));
    if (!payload.empty()) b.adoptBytes(payload_data());
  }
  void operator()(const Join& m) {
    auto b = root.initJoin();
    b.setAddress(text_of(m.address));
    b.setPort(m.port);
    b.setMemoryBytes(m.memory_bytes);
    b.setThreads(m.threads);
    b.setProfileJson(text_of(m.profile_json));
    b.setEpoch(m.held.epoch);
    b.setPlanJson(text_of(m.held.plan_json));
    b.setCertificate(text_of(m.held.certificate));
    b.setSignature(text_of(m.held.signature));
  }
  void operator()(const Measure& m) { root.initMeasure().setPeersJson(text_of(m.peers_json)); }
  void operator()(const Measured& m) { root.initMeasured().setLinksJson(text_of(m.links_json)); }
  void operator()(const CertificateRequest& m) { root.initCertificateRequest().setPem(text_of(m.pem)); }
  void operator()(const NewCertificate& m) {
    auto b = root.initNewCertificate();
    b.setCertificate(text_of(m.certificate));
    b.setFailure(text_of(m.failure));
  }
  void operator()(const Revoked& m) {
    auto nodes = root.initRevoked().initNodes(static_cast<unsigned>(m.nodes.size()));
    for (unsigned i = 0; i < nodes.size(); ++i) nodes.set(i, text_of(m.nodes[i]));
  }
  void operator()(const Examine&) { root.setExamine(); }
  void operator()(const Examined& m) { root.initExamined().setFailure(text_of(m.failure)); }
  void operator()(const FetchAhead& m) { root.initFetchAhead().setShardsJson(text_of(m.shards_json)); }
  void operator()(const FetchedAhead& m) {
    auto b = root.initFetchedAhead();
    b.setWantedBytes(m.wanted_bytes);
    b.setHeldBytes(m.held_bytes);
  }
};

}  // namespace

Result<void> check_outgoing(const OutgoingMessage& outgoing) {
  const size_t payload_bytes = outgoing.payload.size();
  const bool may_have_payload = std::holds_alternative<StepMessage>(outgoing.message) ||
                                std::holds_alternative<LinkProbe>(outgoing.message) ||
                                std::holds_alternative<WeightsData>(outgoing.message);
  SHOAL_CHECK(payload_bytes == 0 || may_have_payload);
  SHOAL_CHECK(reinterpret_cast<uintptr_t>(outgoing.payload.data()) % 8 == 0);
  if (payload_bytes > kPayloadBytesMax) {
    return too_large("a payload has " + std::to_string(payload_bytes) + " bytes, at most " +
                     std::to_string(kPayloadBytesMax) + " fit a message: use fewer rows a step");
  }
  return std::visit(CheckOutgoing{}, outgoing.message);
}

size_t metadata_words_bound(const Message& message) {
  constexpr size_t kFixedWords = 48;  // root pointer, Message, the largest struct, a payload's far pointer
  return kFixedWords + std::visit(WordsBound{}, message);
}

void write_message(const OutgoingMessage& outgoing, wire::Message::Builder builder) {
  std::visit(Writer{builder, outgoing.payload}, outgoing.message);
}

}  // namespace shoal
