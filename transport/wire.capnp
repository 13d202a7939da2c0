@0x805afc2c5f1f6e2e;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("shoal::wire");

# THE SHOAL WIRE PROTOCOL, version 1
#
# Several nodes run one language model together. Each node holds a range of the model's layers (a stage) and
# the cache of keys and values for them. This file says everything that crosses the network between nodes: what
# a session looks like, who sends what when, and what a receiver must check. Only values cross: positions, slots,
# token ids, activations, texts. No pointer, no address, no operation code, no graph and no program ever does;
# a node computes its own layers in its own way whatever its peers say.
#
#
# FRAMES
#
# A connection is a TCP stream of frames in each direction. A frame is, all numbers little-endian:
#
#     offset  bytes
#          0      4   magic            "SHL1"
#          4      2   frame version    1
#          6      2   flags            0
#          8      4   metadata bytes   M: a multiple of 8, at least 8, at most 64 MiB
#         12      4   payload bytes    P: at most 64 MiB; 0 for most messages
#         16      4   CRC32C of the M metadata bytes
#         20      4   CRC32C of the payload bytes, padding included
#         24      4   reserved         0
#         28      4   CRC32C of the 28 bytes before
#         32      M   metadata: the one or first segment of a Cap'n Proto message whose root is Message below
#     32 + M      P   payload: the second segment, padded with zero bytes to a multiple of 8
#
# The sender writes the payload from the activation buffer in which it was computed; the receiver reads it into the
# aligned buffer in which it will compute. Neither copies it. The field that refers to the payload (Step.hidden,
# LinkProbe.payload, WeightsData.bytes) is a Data that covers the second segment's first P bytes exactly.
#
# A receiver reads the 32 bytes of the header, checks them, and only then finds room for M bytes; it reads and
# verifies those, and only then asks for room for P. Until the hello was accepted a frame may have at most 16 KiB of
# metadata and no payload. A frame that breaks any rule ends the connection: bad magic, version, flag, size or
# checksum; a message that does not decode; a payload where the message has none, or of another size. Within a
# frame that has begun the rest must come within 5 seconds, and one more for each 128 kB of a large frame (a sender
# that stalls is gone). Between frames a connection may be silent. A message is read under a limit of little more
# than its own size and of 16 levels of nesting, so one that refers to the same bytes many times over is refused,
# not followed.
#
# The checksums find damage, not malice: who may connect at all is the business of the layer below. That is TLS 1.3 with
# certificates on both sides (docs/security.md), unless both were told --insecure; the node name in a Hello or HelloAck is
# then the one in its sender's certificate.
#
#
# A SESSION
#
# One node is the head: prompts come in there, and it decides what is computed. The others are workers.
# Connections are made for one purpose each (LinkRole):
#
#     control    head -> each worker      set-up, statistics, cancel, shutdown; answers and results come back on it
#     pipeline   stage i -> stage i + 1   steps, one way. The head feeds stage 0; a stage may be on the head
#     weights    any node -> any node     WeightsRequest one way, WeightsData the other: see WEIGHTS
#     probe      any node -> any node     link probes, nothing else
#     join       a node -> the head       a node that comes in by address, at the start, while others serve, or back to a
#                                         head that was started again; afterwards it is its control connection
#
# 1. The side that connects sends Hello; nothing else may come first. The other side checks it and answers HelloAck.
#    When it refuses it says why in words that name both values and which side to change, and closes. Both must be
#    done 3 seconds after the connection was made. The side that connected checks that the name in the answer is the
#    node that it meant to reach.
# 2. LinkProbe may be sent between any two nodes to measure a link; each is answered by LinkProbeAck without the
#    payload. A node that joins sends Join after its hello; the head sends it Measure, and Measure to the others for
#    the way back, each answered by Measured.
# 3. Under mpirun the launcher spreads the first plan. Every later one, and all of a head that nodes join, is spread by
#    LoadPlan with a new epoch. A worker that gets it drops the steps and the pipeline connections of the epoch before,
#    keeps the layers that it holds and still needs, loads the others, connects to the stages that follow its own, and
#    answers Ready. LoadPlan with a higher epoch may come before that: the lower one is not answered then. When all that
#    have a stage are ready, steps flow.
# 4. The head sends Step to stage 0 with token ids; each stage applies the cache operations, computes
#    its layers on hidden and sends a Step with the same epoch, step id, cache operations and rows to the next; the
#    last sends Result to the head, on the head's control connection to it. Where the output head is on the head node, the last worker's Step goes there
#    like to any other stage: nothing is special about it. A stage that fails a step sends the head a Result that says
#    so, and whether numbers were to blame (Fault): a frame whose checksum was wrong, or values that are not finite. A node
#    says that of its own stages alone; the head decides who is at fault (node/suspects.h), and sends Examine to a node that
#    it took out for it. Caches begin empty with an epoch: the head sends the sequences' tokens again.
#    Both ends of a control connection send Heartbeat five times a second, from the thread that does I/O. A worker that
#    hears nothing from its head for 2.4 seconds drops the session, keeps its weights and calls the head to join again.
#    The head sends FetchAhead to a node that has no stage, each time when it knows better what that would get if another
#    were lost; one that keeps weights on its disk fetches them while nothing else is to be done, and answers FetchedAhead.
#    Nodes that were shut out of the cluster are named by Revoked, the first message that a worker gets from its head; who
#    has no head, or has not heard that from it yet, takes connections from nobody else.
#    A certificate that will end is renewed on control, by CertificateRequest and NewCertificate.
#    Cancel is defined and checked, but this version of the program does not send it; a receiver passes over it.
# 5. The head ends a session with Shutdown on control; a worker that cannot go on sends Shutdown with its reason.
#
#
# WEIGHTS
#
# A model's manifest (model/weight_manifest.h) holds the header that every node
# needs and a SHA-256 for each block of each tensor. A node that has the manifest trusts nobody for the rest: it asks
# whoever has a tensor for ranges of it, and compares each block with the manifest before it keeps or uses it.
#
# A link of the role weights is opened by the node that wants bytes, before or after there is a plan; its Hello has the
# model's hash (empty where it is not known yet) and neither plan nor epoch. It sends WeightsRequest,
# some 16 before the first is answered, so that the link stays full; each is answered, in order, by one WeightsData of the
# same id. A node answers from its own model file or its cache. What it does not have, or can no longer read, it
# says in words; the link lives on. Who answers reads the disk off its io thread, and where it computes steps it leaves
# most of the link to them.
#
# A receiver of a request checks: tensor is one of the manifest's, offset and length lie inside it, length is 1 to
# 8 MiB. A receiver of data checks: it answers the oldest request, and its payload has exactly the length asked for
# (for the manifest: no more, and only the last part is shorter), or it has a failure and no payload. Any other message
# on such a link ends it.
#
#
# EPOCHS, STEPS, SLOTS, POSITIONS
#
# The epoch counts the plans and recoveries of a session: it grows when the head starts over with other nodes
# or after a lost one. A step id counts up by one within an epoch, and a stage computes steps in that order. A
# receiver drops a step of an older epoch, and takes a gap or repetition within its epoch as a broken session.
#
# A slot is a place in every stage's cache that holds one sequence; a position is a token's index in its
# sequence. A row of a step is one token: its slot and position. If a row's position is below what the slot holds,
# the positions from there on are trimmed first, so taking back speculated tokens needs no message of its own; a
# position above what the slot holds is an error. Rows of one slot are in rising order of position, without gaps.
#
#
# WHAT A RECEIVER OF A STEP CHECKS BEFORE COMPUTING
#
# stage is its own; the row lists have one length, 1 to 4096 (or 0 when only cache operations are wanted); at most
# 4096 cache operations; every slot and position is within the cache; every adapter is there and its scale within
# bounds; token ids come exactly where the stage embeds, one a row, each below the vocabulary's size, and then there is no payload; otherwise the payload has exactly rows *
# n_embd * 4 bytes and its type is f32. Any failure ends the connection.
#
#
# LIMITS
#
# Rows 4096, cache operations 4096, nodes shut out 4096, names 255 bytes, any text 1 MiB (a sentence for a person is cut to 4 KiB), statistics of 256 stages and 256 links, times of
# 256 stages, metadata
# and payload 64 MiB each. A name is UTF-8 without control characters where it is shown to a person.
# A sender that finds its peer too slow to take more than 256 waiting messages gives up on posting, never buffers more.

struct Message {
  union {
    hello @0 :Hello;
    helloAck @1 :HelloAck;
    step @2 :Step;
    result @3 :StepResult;
    statsRequest @4 :Void;
    # The head asks a worker for its counters; the worker answers stats.
    stats @5 :Stats;
    heartbeat @6 :Heartbeat;
    shutdown @7 :Shutdown;
    cancel @8 :Cancel;
    linkProbe @9 :LinkProbe;
    linkProbeAck @10 :LinkProbeAck;
    loadPlan @11 :LoadPlan;
    ready @12 :Ready;
    weightsRequest @13 :WeightsRequest;
    weightsData @14 :WeightsData;
    join @15 :Join;
    measure @16 :Measure;
    measured @17 :Measured;
    revoked @18 :Revoked;
    certificateRequest @19 :CertificateRequest;
    newCertificate @20 :NewCertificate;
    examine @21 :Void;
    # The head asks a node whether its kernels still give the known answers (tensor/known_answers.h).
    examined @22 :Examined;
    fetchAhead @23 :FetchAhead;
    fetchedAhead @24 :FetchedAhead;
  }
}

enum LinkRole {
  control @0;
  pipeline @1;
  weights @2;
  probe @3;
  join @4;
}

struct Hello {
  # Sent once, by the side that connected. An empty text, or epoch 0, says "not known yet" and is not compared.
  # The first three fields keep their places in every later version, so that any two versions can refuse each other
  # politely.
  protocolVersion @0 :UInt32;
  nodeName @1 :Text;
  # Who speaks.
  role @2 :LinkRole;
  clusterName @3 :Text;
  peerNodeName @4 :Text;
  # Whom the speaker means to reach.
  modelFingerprint @5 :Text;
  # What the speaker computes with: the fingerprint of the head's model file (its header, and samples of its tensors),
  # the digest of the manifest of its weights, and where there are adapters one of theirs (node/cluster_weights.h), with
  # dots between them. Empty from a node that has not got them yet. Who holds other weights than the receiver is refused.
  planHash @6 :Text;
  numericClass @7 :Text;
  # Nodes of one class compute the same bits from the same input; others may not share a pipeline.
  epoch @8 :UInt64;
  stage @9 :UInt32;
  # Which stage a pipeline link feeds.
}

enum Refusal {
  none @0;
  protocolVersion @1;
  clusterName @2;
  nodeName @3;
  duplicateName @4;
  model @5;
  plan @6;
  numericClass @7;
  role @8;
  stage @9;
  epoch @10;
  busy @11;
  other @12;
}

struct HelloAck {
  # The answer to hello. protocolVersion, accepted, text and nodeName keep their places in every later version.
  protocolVersion @0 :UInt32;
  accepted @1 :Bool;
  text @2 :Text;
  # When refused: a sentence for a person that names both values and which side to change.
  nodeName @3 :Text;
  refusal @4 :Refusal;
  modelFingerprint @5 :Text;
  planHash @6 :Text;
  epoch @7 :UInt64;
}

struct CacheOp {
  kind @0 :Kind;
  slot @1 :UInt32;
  fromSlot @2 :UInt32;
  length @3 :UInt32;

  enum Kind {
    trim @0;
    # Keep the first `length` positions of `slot`.
    free @1;
    # Forget `slot`.
    fork @2;
    # `slot` becomes a copy of the first `length` positions of `fromSlot`: a shared prefix, computed once.
  }
}

enum PayloadType {
  f32 @0;
  # The only type of this version: the same bits as in the sender's memory.
  f16 @1;
  q8 @2;
  # Reserved names for links that trade exactness for speed.
}

enum StepKind {
  decode @0;
  # Rows continue what their slots hold.
  encode @1;
  # For an encoder with a decoder: of each slot in the step all rows of its input, at positions from 0. What the
  # slot held is forgotten; the decoder's stages keep what they attend to across. No row wants anything.
  embed @2;
  # The rows' embedding is wanted, not tokens: a row that wants it gets one vector for its slot's rows so far.
  # Of an encoder alone such a step carries whole inputs, as encode; of a decoder rows continue their slots.
}

struct Step {
  # One batch of rows on its way through the stages. The three row lists are read together, index by index.
  epoch @0 :UInt64;
  stepId @1 :UInt64;
  stage @2 :UInt32;
  # The destination.
  candidates @3 :UInt32;
  # How many candidates the last stage returns for a row that wants logits; 0 for the whole vocabulary.
  payloadType @4 :PayloadType;
  cacheOps @5 :List(CacheOp);
  # Applied in order before the rows are computed.
  slots @6 :List(UInt32);
  positions @7 :List(UInt32);
  union {
    wantsLogits @8 :List(Bool);
    adapted @14 :List(AdaptedRow);
    # Instead, where some row passes through an adapter.
    verified @15 :VerifiedRows;
    # Instead of both, in the few steps that are compared.
  }
  tokenIds @9 :List(UInt32);
  # Only on the way to the stage that embeds; empty to every other. Text stays where it entered.
  hidden @10 :Data;
  # The payload: [rows, n_embd] in payloadType, row after row. Empty on the way to the stage that embeds.
  stageTimes @11 :List(StageTime);
  # One entry for each stage that has computed the step, in pipeline order. Each adds its own; the head schedules by
  # them.
  arrivedUs @12 :List(UInt64);
  # Of the same stages, only in steps whose id is a multiple of 4: when the step reached the stage's queue, in
  # microseconds of the node's own steady clock. LinkProbeAck tells what that clock shows, so that the head can say how
  # long each hop took.
  kind @13 :StepKind;
}

struct VerifiedRows {
  # What a step says of its rows where each stage is to hash those of one slot.
  union {
    wantsLogits @0 :List(Bool);
    adapted @1 :List(AdaptedRow);
  }
  slot @2 :UInt16;
  # Whose rows' hidden each stage hashes (SHA-256) as it computed them.
  digests @3 :Data;
  # Those hashes, 32 bytes of each stage that has computed the step. The head computes the same and compares.
}

struct AdaptedRow {
  wantsLogits @0 :Bool;
  adapter @1 :UInt16;
  # Which one the row passes through, counted from 1 in the order of the cluster file; 0: none.
  scale @2 :Float32;
  # Multiplies what the adapter adds, between -100 and 100.
  overflowed @3 :Bool;
  # A stage before this one came to numbers that are not finite there; the row's hidden is zero since. Of each slot's
  # rows one says so at least, and none that passes through no adapter.
}

struct StageTime {
  waitedUs @0 :UInt32;
  busyUs @1 :UInt32;
  # Microseconds in the stage's queue, and computing. 2^32 - 1 stands for that and more.
}

struct RowResult {
  row @0 :UInt32;
  # Index into the step's rows; each row that wanted logits occurs once, in order.
  logSumExp @1 :Float32;
  # log of the sum of exp(logit) over the whole vocabulary: with it a candidate's probability is exact.
  tokens @2 :List(UInt32);
  # Best first. Empty when logits has the whole vocabulary in the order of token ids.
  logits @3 :List(Float32);
  embedding @4 :List(Float32);
  # The answer of an embed step instead of all that.
}

struct StepResult {
  epoch @0 :UInt64;
  stepId @1 :UInt64;
  union {
    rows @2 :List(RowResult);
    failure @3 :Failure;
    # A stage could not compute the step: the head fails or retries its sequences.
  }
  stageTimes @4 :List(StageTime);
  arrivedUs @5 :List(UInt64);
  # Of all stages, where rows is set; as in Step.
  digests @6 :Data;
  # As in VerifiedRows, of all stages, where rows is set.
  overflowed @7 :List(UInt16);
  # Indices of the step's rows that overflowed behind an adapter in any stage, of each slot at least the first. Nothing is
  # to be made of what is answered to any row of such a slot, nor of what the caches hold of it.

  struct Failure {
    code @0 :Code;
    text @1 :Text;
    fault @2 :Fault;
    stage @3 :UInt32;
    # Where fault is set: the sender's own stage that found it.
  }

  enum Fault {
    none @0;
    damaged @1;
    # The frame with the step broke the wire format or had a wrong checksum.
    input @2;
    # Hidden as it came was not finite.
    output @3;
    # What the stage computed of finite numbers was not finite, of a row that passes through no adapter.
  }

  enum Code {
    peerLost @0;
    timeout @1;
    badFrame @2;
    refused @3;
    queueFull @4;
    cancelled @5;
    contextFull @6;
    invalidInput @7;
    io @8;
  }
}

struct Stats {
  # What a worker did since it loaded its plan. Counters only grow.
  nodeName @0 :Text;
  residentBytes @1 :UInt64;
  # Memory of the whole process, as the operating system counts it.
  stages @2 :List(Stage);
  links @3 :List(Link);

  struct Stage {
    stage @0 :UInt32;
    layerBegin @1 :UInt32;
    layerEnd @2 :UInt32;
    # Half-open: the layers from layerBegin up to, not including, layerEnd.
    steps @3 :UInt64;
    rows @4 :UInt64;
    busyNs @5 :UInt64;
    waitingNs @6 :UInt64;
    # Nanoseconds spent computing, and waiting for the next step.
    weightBytes @7 :UInt64;
    kvBytes @8 :UInt64;
    scratchBytes @9 :UInt64;
  }

  struct Link {
    peer @0 :Text;
    bytesSent @1 :UInt64;
    bytesReceived @2 :UInt64;
    # Whole frames.
  }
}

struct Heartbeat {
  # A node that answers but whose counter stands still while it has work is stuck; one that is silent is gone. The
  # head's own say nothing but that it is there.
  progress @0 :UInt64;
  working @1 :Bool;
}

struct Shutdown {
  reason @0 :Text;
}

struct Cancel {
  # Advice: rows of `slot` in steps of an epoch below minEpoch will not be used. A stage may skip them between two
  # layers or ignore this; the next step's cache operations free the slot in any case.
  slot @0 :UInt32;
  minEpoch @1 :UInt64;
}

struct LinkProbe {
  sequence @0 :UInt64;
  payload @1 :Data;
  # Empty to measure latency, large to measure bandwidth. Its content means nothing.
}

struct LinkProbeAck {
  sequence @0 :UInt64;
  clockUs @1 :UInt64;
  # The answering node's steady clock when the probe came, in microseconds.
}

struct LoadPlan {
  epoch @0 :UInt64;
  planJson @1 :Text;
  # What the head states: {"cluster": ..., "epoch": ..., "protocol": ..., "model": ..., "numeric_class": ..., "layout": ...}.
  # The layout (node/pipeline_layout.h) says which node computes which layers, where each listens, and the sizes that
  # buffers are made for. "model" is what a hello has. The receiver checks that the statement is for its own cluster, model, protocol version and
  # numeric class and for this epoch, that the epoch is above its present one, that every layer is there once and every
  # size within the limits above.
  certificate @2 :Text;
  signature @3 :Text;
  # Of the bytes of planJson, by the head: its certificate (PEM), and ECDSA over SHA-256 of "shoal plan", a zero byte and
  # planJson, in hexadecimal. The receiver checks the certificate against the cluster's authority, that it is the head's,
  # and the signature, before it reads planJson. Empty with --insecure alone.
}

struct Ready {
  # The answer to loadPlan. A failure is a sentence for a person; empty means that the node's stages are in memory and
  # linked to the next.
  epoch @0 :UInt64;
  planHash @1 :Text;
  failure @2 :Text;
  info @3 :Text;
  # The name of the node that could not be reached, where that is the failure.
}

struct Join {
  # Who comes in said its name and model in the hello.
  address @0 :Text;
  port @1 :UInt16;
  # Where it listens for its peers. An empty address: the one that it called from.
  memoryBytes @2 :UInt64;
  # What it may use, all told.
  threads @3 :UInt32;
  epoch @4 :UInt64;
  profileJson @5 :Text;
  # What it measured of itself, as `shoal probe --json` prints it.
  planJson @6 :Text;
  certificate @7 :Text;
  signature @8 :Text;
  # With epoch: the last order that it followed, as LoadPlan brought it or the launcher; 0 and empty where there was none.
  # Its part of the weights is still in memory. The receiver makes its next plan's epoch higher, and keeps the layout where
  # it can, if the order is one of its own cluster, as for LoadPlan: but whatever its epoch, and though the certificate of
  # the head that signed it is over. Of any other it counts nothing, nor with --insecure an epoch above 2^62.
}

struct Revoked {
  # From the head to each node that it controls, first of all and again when it changes: everybody who was shut out of
  # the cluster. The receiver checks that the sender's certificate is the head's, ends its connections with these nodes
  # and takes none from or to them.
  nodes @0 :List(Text);
}

struct CertificateRequest {
  # From a node to the head, on control, before its certificate ends: a request (PKCS#10, PEM) for a key that it has made
  # and keeps. The head checks that the name in it is the one in the sender's certificate and was not shut out.
  pem @0 :Text;
}

struct NewCertificate {
  # The answer. The receiver checks that the certificate is for its name and for the key of its last request; connections
  # that are made from then on show it.
  certificate @0 :Text;
  failure @1 :Text;
  # Why there is none, for a person; empty where there is.
}

struct Measure {
  peersJson @0 :Text;
  # [{"name": ..., "address": ..., "port": ...}, ...]
}

struct Measured {
  linksJson @0 :Text;
  # [{"to": ..., "latency_s": ..., "bytes_per_s": ...}, ...], 0 bytes a second where the node could not be reached.
}

struct Examined {
  # The answer to examine: which kernel gave what is not the known answer, for a person; empty where all did.
  failure @0 :Text;
}

struct FetchAhead {
  shardsJson @0 :Text;
  # [{"layer_begin": 0, "layer_end": 10, "embedding": false, "output": false}, ...], half-open, the likeliest first, each
  # within the model's layers; 256 at most. It replaces what was asked for before; the next LoadPlan ends it.
}

struct FetchedAhead {
  # Sent when there is nothing more that can be fetched: what was asked for, and what of it the node's disk has now.
  wantedBytes @0 :UInt64;
  heldBytes @1 :UInt64;
}

struct WeightsRequest {
  id @0 :UInt64;
  tensor @1 :UInt32;
  # Index into the manifest's tensors; 2^32 - 1 asks for the manifest itself.
  length @2 :UInt32;
  offset @3 :UInt64;
  # In bytes, from the start of the tensor as it lies in the file, or of the manifest.
  adapter @4 :UInt16;
  # Whose manifest: 0 the model's, 1 that of the first adapter in the order of the cluster file, and so on.
}

struct WeightsData {
  id @0 :UInt64;
  totalBytes @1 :UInt64;
  # Of the tensor, or of the manifest.
  failure @2 :Text;
  # Why there are no bytes, for a person; empty where there are.
  bytes @3 :Data;
  # The payload.
}
