// The receiving half of wire_codec.h. Every getter of a list, text or data is called once: each call counts
// against the message's read limit.
#include <algorithm>
#include <string>

#include "base/printable.h"
#include "transport/wire_codec.h"

namespace shoal {
namespace {

Error bad(std::string what) {
  return Error{Errc::kBadFrame, std::move(what)};
}

// Collects a message's fields and remembers the first thing wrong with them.
class Reader {
 public:
  Reader(std::span<const std::byte> payload, size_t metadata_bytes)
      : payload_(payload), metadata_bytes_(metadata_bytes) {}

  Result<Message> read(wire::Message::Reader m) {
    Result<Message> message = dispatch(m);
    if (message && !error_.empty()) return bad(error_);
    if (message && !payload_.empty() && !payload_used_) {
      return bad("a message of kind '" + std::string(message_name(*message)) + "' came with a payload");
    }
    return message;
  }

 private:
  Result<Message> dispatch(wire::Message::Reader m) {
    switch (m.which()) {
      case wire::Message::HELLO:
        return Message(hello(m.getHello()));
      case wire::Message::HELLO_ACK:
        return Message(hello_ack(m.getHelloAck()));
      case wire::Message::STEP:
        return Message(step(m.getStep()));
      case wire::Message::RESULT:
        return Message(result(m.getResult()));
      case wire::Message::STATS_REQUEST:
        return Message(StatsRequest{});
      case wire::Message::STATS:
        return Message(stats(m.getStats()));
      case wire::Message::HEARTBEAT:
        return Message(Heartbeat{m.getHeartbeat().getProgress(), m.getHeartbeat().getWorking()});
      case wire::Message::SHUTDOWN:
        return Message(Shutdown{prose(m.getShutdown().getReason())});
      case wire::Message::CANCEL: {
        const auto r = m.getCancel();
        return Message(CancelAdvice{r.getSlot(), r.getMinEpoch()});
      }
      case wire::Message::LINK_PROBE: {
        const auto r = m.getLinkProbe();
        expect_payload(r.getPayload());
        return Message(LinkProbe{r.getSequence()});
      }
      case wire::Message::LINK_PROBE_ACK:
        return Message(LinkProbeAck{m.getLinkProbeAck().getSequence(), m.getLinkProbeAck().getClockUs()});
      case wire::Message::LOAD_PLAN: {
        const auto r = m.getLoadPlan();
        return Message(LoadPlan{r.getEpoch(), text(r.getPlanJson(), kTextBytesMax),
                                text(r.getCertificate(), kTextBytesMax), name(r.getSignature())});
      }
      case wire::Message::READY: {
        const auto r = m.getReady();
        return Message(Ready{r.getEpoch(), name(r.getPlanHash()), prose(r.getFailure()), name(r.getInfo())});
      }
      case wire::Message::WEIGHTS_REQUEST: {
        const auto r = m.getWeightsRequest();
        return Message(
            WeightsRequest{r.getId(), r.getTensor(), r.getLength(), r.getOffset(), r.getAdapter()});
      }
      case wire::Message::WEIGHTS_DATA: {
        const auto r = m.getWeightsData();
        expect_payload(r.getBytes());
        return Message(WeightsData{r.getId(), r.getTotalBytes(), prose(r.getFailure())});
      }
      case wire::Message::JOIN:
        return Message(join(m.getJoin()));
      case wire::Message::MEASURE:
        return Message(Measure{text(m.getMeasure().getPeersJson(), kTextBytesMax)});
      case wire::Message::MEASURED:
        return Message(Measured{text(m.getMeasured().getLinksJson(), kTextBytesMax)});
      case wire::Message::REVOKED:
        return Message(revoked(m.getRevoked()));
      case wire::Message::CERTIFICATE_REQUEST:
        return Message(CertificateRequest{text(m.getCertificateRequest().getPem(), kTextBytesMax)});
      case wire::Message::NEW_CERTIFICATE: {
        const auto r = m.getNewCertificate();
        return Message(NewCertificate{text(r.getCertificate(), kTextBytesMax), prose(r.getFailure())});
      }
      case wire::Message::EXAMINE:
        return Message(Examine{});
      case wire::Message::EXAMINED:
        return Message(Examined{prose(m.getExamined().getFailure())});
      case wire::Message::FETCH_AHEAD:
        return Message(FetchAhead{text(m.getFetchAhead().getShardsJson(), kTextBytesMax)});
      case wire::Message::FETCHED_AHEAD: {
        const auto r = m.getFetchedAhead();
        return Message(FetchedAhead{r.getWantedBytes(), r.getHeldBytes()});
      }
    }
    return bad("a message of unknown kind " + std::to_string(static_cast<int>(m.which())));
  }

  Hello hello(wire::Hello::Reader r) {
    Hello m;
    m.protocol_version = r.getProtocolVersion();
    m.role = enumerator<LinkRole>(r.getRole(), LinkRole::kJoin, "link role");
    m.cluster_name = name(r.getClusterName());
    m.node_name = name(r.getNodeName());
    m.peer_node_name = name(r.getPeerNodeName());
    m.model_fingerprint = name(r.getModelFingerprint());
    m.plan_hash = name(r.getPlanHash());
    m.numeric_class = name(r.getNumericClass());
    m.epoch = r.getEpoch();
    m.stage = r.getStage();
    return m;
  }

  HelloAck hello_ack(wire::HelloAck::Reader r) {
    HelloAck m;
    m.accepted = r.getAccepted();
    m.refusal = enumerator<Refusal>(r.getRefusal(), Refusal::kOther, "refusal");
    m.text = prose(r.getText());
    m.protocol_version = r.getProtocolVersion();
    m.node_name = name(r.getNodeName());
    m.model_fingerprint = name(r.getModelFingerprint());
    m.plan_hash = name(r.getPlanHash());
    m.epoch = r.getEpoch();
    return m;
  }

  Join join(wire::Join::Reader r) {
    Join m;
    m.address = name(r.getAddress());
    m.port = r.getPort();
    m.memory_bytes = r.getMemoryBytes();
    m.threads = r.getThreads();
    m.profile_json = text(r.getProfileJson(), kTextBytesMax);
    m.held.epoch = r.getEpoch();
    m.held.plan_json = text(r.getPlanJson(), kTextBytesMax);
    m.held.certificate = text(r.getCertificate(), kTextBytesMax);
    m.held.signature = name(r.getSignature());
    return m;
  }

  Revoked revoked(wire::Revoked::Reader r) {
    Revoked m;
    const auto nodes = r.getNodes();
    if (!at_most(nodes.size(), kRevokedMax, "nodes shut out")) return m;
    m.nodes.reserve(nodes.size());
    for (const auto node : nodes) m.nodes.push_back(name(node));
    return m;
  }

  StepMessage step(wire::Step::Reader r) {
    StepMessage m;
    m.epoch = r.getEpoch();
    m.step_id = r.getStepId();
    m.stage = r.getStage();
    m.candidates = r.getCandidates();
    m.payload_type = enumerator<PayloadType>(r.getPayloadType(), PayloadType::kQ8, "payload type");
    m.kind = enumerator<WireStepKind>(r.getKind(), WireStepKind::kEmbed, "step kind");
    const auto ops = r.getCacheOps();
    if (at_most(ops.size(), kCacheOpsMax, "cache operations")) {
      m.cache_ops.reserve(ops.size());
      for (const auto op : ops) {
        m.cache_ops.push_back(
            {enumerator<WireCacheOp::Kind>(op.getKind(), WireCacheOp::Kind::kFork, "cache operation"),
             op.getSlot(), op.getFromSlot(), op.getLength()});
      }
    }
    const auto slots = r.getSlots();
    if (at_most(slots.size(), kStepRowsMax, "rows")) step_rows(r, slots, m);
    m.token_ids = numbers<uint32_t>(r.getTokenIds());
    if (!m.token_ids.empty() && m.token_ids.size() != slots.size()) {
      fail("a step has " + std::to_string(m.token_ids.size()) + " token ids for " +
           std::to_string(slots.size()) + " rows");
    }
    m.stage_times = stage_times(r.getStageTimes(), r.getArrivedUs());
    expect_payload(r.getHidden());
    return m;
  }

  // Each list is asked for once: each time counts towards how much of a message may be read.
  void step_rows(wire::Step::Reader r, capnp::List<uint32_t>::Reader slots, StepMessage& m) {
    const auto positions = r.getPositions();
    if (positions.size() != slots.size()) return fail("a step's row lists differ in length");
    m.rows.reserve(slots.size());
    for (unsigned i = 0; i < slots.size(); ++i) m.rows.push_back({slots[i], positions[i]});
    if (!r.isVerified()) return row_wishes(r, m.rows);
    const auto verified = r.getVerified();
    // A slot that cannot be is left to check_step.
    m.verify_slot = static_cast<uint16_t>(std::min<uint32_t>(verified.getSlot() + 1u, UINT16_MAX));
    m.digests = digests(verified.getDigests());
    row_wishes(verified, m.rows);
  }

  // `r`: a step, or what it says of its rows where they are hashed.
  template <class Wishes>
  void row_wishes(Wishes r, std::vector<StepRow>& rows) {
    if (r.isAdapted()) {
      const auto adapted = r.getAdapted();
      if (adapted.size() != rows.size()) return fail("a step's row lists differ in length");
      for (unsigned i = 0; i < adapted.size(); ++i) {
        rows[i].wants_logits = adapted[i].getWantsLogits();
        rows[i].adapter = adapted[i].getAdapter();
        rows[i].adapter_scale = adapted[i].getScale();
        rows[i].overflowed = adapted[i].getOverflowed();
      }
      return;
    }
    const auto wants_logits = r.getWantsLogits();
    if (wants_logits.size() != rows.size()) return fail("a step's row lists differ in length");
    for (unsigned i = 0; i < wants_logits.size(); ++i) rows[i].wants_logits = wants_logits[i];
  }

  std::vector<StageTime> stage_times(capnp::List<wire::StageTime>::Reader r,
                                     capnp::List<uint64_t>::Reader arrived) {
    std::vector<StageTime> times;
    if (!at_most(r.size(), kStageTimesMax, "stage times")) return times;
    if (arrived.size() > 0 && arrived.size() != r.size()) {
      fail("a step has " + std::to_string(r.size()) + " stage times and " + std::to_string(arrived.size()) +
           " arrivals");
      return times;
    }
    times.reserve(r.size());
    for (const auto time : r) times.push_back({time.getWaitedUs(), time.getBusyUs(), 0});
    for (unsigned i = 0; i < arrived.size(); ++i) times[i].arrived_us = arrived[i];
    return times;
  }

  std::string digests(capnp::Data::Reader r) {
    if (!at_most(r.size(), kStageTimesMax * kDigestBytes, "bytes of digests")) return {};
    if (r.size() % kDigestBytes != 0) fail("digests of " + std::to_string(r.size()) + " bytes");
    return std::string(reinterpret_cast<const char*>(r.begin()), r.size());
  }

  ResultMessage result(wire::StepResult::Reader r) {
    ResultMessage m;
    m.epoch = r.getEpoch();
    m.step_id = r.getStepId();
    switch (r.which()) {
      case wire::StepResult::FAILURE: {
        const auto failure = r.getFailure();
        m.failed = true;
        m.failure_code = enumerator<Errc>(failure.getCode(), Errc::kIo, "failure code");
        m.failure_text = prose(failure.getText());
        m.fault = enumerator<StepFault>(failure.getFault(), StepFault::kOutput, "fault");
        m.fault_stage = failure.getStage();
        return m;
      }
      case wire::StepResult::ROWS: {
        m.stage_times = stage_times(r.getStageTimes(), r.getArrivedUs());
        m.digests = digests(r.getDigests());
        m.overflowed = numbers<uint16_t>(r.getOverflowed());
        const auto rows = r.getRows();
        if (!at_most(rows.size(), kStepRowsMax, "result rows")) return m;
        m.rows.reserve(rows.size());
        for (const auto row : rows) {
          m.rows.push_back({row.getRow(), row.getLogSumExp(), numbers<uint32_t>(row.getTokens()),
                            numbers<float>(row.getLogits()), numbers<float>(row.getEmbedding())});
          const RowResult& read = m.rows.back();
          if (!read.tokens.empty() && read.tokens.size() != read.logits.size()) {
            fail("a result's row has " + std::to_string(read.tokens.size()) + " tokens but " +
                 std::to_string(read.logits.size()) + " logits");
          }
        }
        return m;
      }
    }
    fail("a result of unknown kind");
    return m;
  }

  StatsMessage stats(wire::Stats::Reader r) {
    StatsMessage m;
    m.node_name = name(r.getNodeName());
    m.resident_bytes = r.getResidentBytes();
    const auto stages = r.getStages();
    if (at_most(stages.size(), kStatsEntriesMax, "stages")) {
      for (const auto s : stages) {
        m.stages.push_back({s.getStage(), s.getLayerBegin(), s.getLayerEnd(), s.getSteps(), s.getRows(),
                            s.getBusyNs(), s.getWaitingNs(), s.getWeightBytes(), s.getKvBytes(),
                            s.getScratchBytes()});
      }
    }
    const auto links = r.getLinks();
    if (at_most(links.size(), kStatsEntriesMax, "links")) {
      for (const auto l : links) {
        m.links.push_back({name(l.getPeer()), l.getBytesSent(), l.getBytesReceived()});
      }
    }
    return m;
  }

  void fail(std::string what) {
    if (error_.empty()) error_ = std::move(what);
  }

  bool at_most(size_t count, size_t limit, const char* what) {
    if (count <= limit) return true;
    fail("a message has " + std::to_string(count) + " " + what + ", at most " + std::to_string(limit) +
         " are allowed");
    return false;
  }

  template <class To, class From>
  To enumerator(From value, To last, const char* what) {
    const auto raw = static_cast<uint16_t>(value);
    if (raw <= static_cast<uint16_t>(last)) return static_cast<To>(raw);
    fail("unknown " + std::string(what) + " " + std::to_string(raw));
    return To{};
  }

  std::string text(capnp::Text::Reader value, size_t limit) {
    if (!at_most(value.size(), limit, "bytes of text")) return {};
    return std::string(value.begin(), value.size());
  }

  // Names end up in logs and file names: what cannot stand there is an error.
  std::string name(capnp::Text::Reader value) {
    std::string result = text(value, kNameBytesMax);
    if (printable(result, kNameBytesMax) != result) fail("a name has a control character");
    return result;
  }

  // Sentences end up on terminals and in logs, as part of a line: whatever a peer sends, it makes no line of
  // its own, and what is no sentence any more is cut.
  std::string prose(capnp::Text::Reader value) {
    return printable(text(value, kTextBytesMax), kProseBytesMax);
  }

  template <class T, class List>
  std::vector<T> numbers(List list) {
    // Elements are real bytes of this message: a list that claims more than came is refused before
    // allocating.
    if (!at_most(list.size(), metadata_bytes_ / sizeof(T), "list elements")) return {};
    std::vector<T> result;
    result.reserve(list.size());
    for (unsigned i = 0; i < list.size(); ++i) result.push_back(list[i]);
    return result;
  }

  void expect_payload(capnp::Data::Reader data) {
    payload_used_ = true;
    const auto* begin = reinterpret_cast<const std::byte*>(data.begin());
    if (data.size() != payload_.size() || (!payload_.empty() && begin != payload_.data())) {
      fail("a message refers to " + std::to_string(data.size()) + " payload bytes, but its frame carries " +
           std::to_string(payload_.size()));
    }
  }

  std::span<const std::byte> payload_;
  size_t metadata_bytes_;
  bool payload_used_ = false;
  std::string error_;
};

}  // namespace

Result<Message> read_message(wire::Message::Reader reader, std::span<const std::byte> payload,
                             size_t metadata_bytes) {
  return Reader(payload, metadata_bytes).read(reader);
}

}  // namespace shoal
