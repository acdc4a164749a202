#include "cuda_queue.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "repack.h"

namespace octet::cuda {

namespace {
constexpr int number_of(const char* wanted) {
  int at = 0;
  constexpr const char* names[] = {
#define X(name) #name,
#include "octet/ops.def"
#undef X
  };
  for (const char* name : names) {
    const char *a = name, *b = wanted;
    while (*a != 0 && *a == *b) ++a, ++b;
    if (*a == *b) return at;
    ++at;
  }
  return -1;
}
constexpr int kReadFileOp = number_of("readFile"), kLinearOp = number_of("linear"), kRmsNormOp = number_of("rmsNorm"), kEmbeddingOp = number_of("embedding");
static_assert(kReadFileOp >= 0 && kLinearOp >= 0 && kRmsNormOp >= 0 && kEmbeddingOp >= 0);
constexpr size_t kPinned = 16 << 10;  // of a spare block: reads up to this size do not hold up the worker
constexpr int kReapSpinMicros = 200;

}  // namespace

CudaQueue::CudaQueue(CudaDevice& device, int spin_micros, CompletionSink& sink)
    : CommandQueue(sink, spin_micros), device_(device), files_(device.info().ordinal) {
  cudaSetDevice(device.info().ordinal);
  const bool has_stream = cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking) == cudaSuccess;
  faults_ = static_cast<int32_t*>(device.reserve(kOps * sizeof(int32_t)));
  try {
    if (!has_stream || faults_ == nullptr) throw std::bad_alloc();
    counters_ = reserve(size_t{1} << 20);
    workspace_ = reserve(size_t{64} << 20);
    reaper_ = std::thread([this] { reap(); });
    start();
  } catch (const std::exception&) {  // no memory, or no more threads
    cudaGetLastError();
    close();
    throw;
  }
}

CudaQueue::~CudaQueue() {
  stop();
  close();
}

void CudaQueue::close() {
  if (reaper_.joinable()) {
    Point quit{};
    quit.quit = true;
    hand_over(std::move(quit));
    reaper_.join();
  }
  cudaSetDevice(device_.info().ordinal);
  if (stream_ != nullptr) cudaStreamSynchronize(stream_);
  for (const cudaEvent_t e : spare_events_) cudaEventDestroy(e);
  for (uint8_t* p : spare_pinned_) cudaFreeHost(p);
  for (void* p : retired_) cudaFree(p);
  cudaFree(workspace_.data);
  cudaFree(counters_.data);
  cudaFree(faults_);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

// ---- memory of launches ----

CudaQueue::Block CudaQueue::reserve(size_t bytes) const {
  void* const data = device_.reserve(bytes);
  return {data, data == nullptr ? 0 : bytes};
}

void* CudaQueue::workspace(size_t bytes) {
  if (bytes <= workspace_.bytes) return workspace_.data;
  const Block larger = reserve(std::max(bytes, workspace_.bytes * 2));
  if (larger.data == nullptr) return nullptr;
  retired_.push_back(workspace_.data);
  workspace_ = larger;
  return larger.data;
}

uint32_t* CudaQueue::counters(size_t count) {
  if (count * 4 > counters_.bytes) {
    const Block larger = reserve(std::max(count * 4, counters_.bytes * 2));
    if (larger.data == nullptr) return nullptr;
    retired_.push_back(counters_.data);
    counters_ = larger;
  }
  return static_cast<uint32_t*>(counters_.data);
}

// ---- the worker ----

void CudaQueue::begin() { cudaSetDevice(device_.info().ordinal); }

bool CudaQueue::is_lost() {
  if (lost_.load(std::memory_order_relaxed)) return true;
  const cudaError_t e = cudaStreamQuery(stream_);
  if (e != cudaSuccess && e != cudaErrorNotReady) lost_.store(true, std::memory_order_relaxed);
  cudaGetLastError();  // an error that passes must not be read as the next launch's
  return lost_.load(std::memory_order_relaxed);
}

void CudaQueue::fail(Status status, int32_t op) {
  if (status == Status::internal && is_lost()) status = Status::device_lost;
  if (status != Status::ok && failure_.status == Status::ok) failure_ = {status, op, sequence()};
}

void CudaQueue::execute(const Header* header) {
  switch (header->kind) {
    case Kind::op: {
      const auto* record = reinterpret_cast<const OpRecord*>(header);
      if (header->ticket == 0 && failure_.status != Status::ok) return;
      Status status = run_op(record);
      if (status == Status::internal && is_lost()) status = Status::device_lost;
      if (header->ticket == 0) {
        fail(status, record->op);
      } else if (status != Status::ok) {
        report_running(header->ticket, {status, record->op, sequence()});
      } else {
        mark(header->ticket, nullptr);
      }
      return;
    }
    case Kind::copy_in: return copy_in(*reinterpret_cast<const CopyRecord*>(header));
    case Kind::copy_out: return copy_out(*reinterpret_cast<const CopyRecord*>(header));
    case Kind::repack: return fail(repack(*reinterpret_cast<const RepackRecord*>(header)), -1);
    case Kind::record: {
      const auto* slot = reinterpret_cast<const EventRecord*>(header)->event;
      mark(0, *slot);
      delete slot;
      return;
    }
    case Kind::wait: return wait(*reinterpret_cast<const EventRecord*>(header));
    case Kind::replay: {
      const auto* slot = reinterpret_cast<const ReplayRecord*>(header)->graph;
      if (failure_.status == Status::ok) {
        int32_t op = -1;
        const Status status = replay(**slot, &op);
        fail(status, op);
      }
      delete slot;
      return;
    }
    case Kind::clear: failure_ = {}; return;
    case Kind::mark: return mark(header->ticket, nullptr);
    case Kind::quit:
    case Kind::next_block: return;
  }
}

Status CudaQueue::run_op(const OpRecord* record) {
  decode(record, &call_);
  if (record->op == kReadFileOp) return read_file(call_);
  const OpVariants variants = variants_of(record->op);
  const std::string& forced = device_.forced_variant(record->op);
  for (int i = 0; i < variants.count; ++i) {
    const Variant& v = variants.rows[i];
    if (!takes(v, call_, device_.info(), forced)) continue;
    device_.note_variant(record->op, v.name);
    // linear and rmsNorm read their weight (t1) before they wait for earlier kernels; embedding only reads its table.
    const bool early = record->op == kLinearOp || record->op == kRmsNormOp;
    guard_.enter(call_, early ? Weight::read_early : record->op == kEmbeddingOp ? Weight::read : Weight::none);
    launched_ = false;
    const Status status = v.launch(call_, *this);
    if (!launched_) guard_.skip();
    return status;
  }
  return Status::unsupported;
}

Status CudaQueue::read_file(const OpCall& call) {
  return files_.read(static_cast<int>(call.i(0)), call.i(1), call.i(2), call.t[0].as<uint8_t>(), stream_, [this] { return is_cancelled(); });
}

void CudaQueue::copy_in(const CopyRecord& r) {
  const uint8_t* const bytes = r.host != nullptr ? r.host : reinterpret_cast<const uint8_t*>(&r) + sizeof(CopyRecord);
  // From pageable memory the call returns when the bytes are staged, so they may be freed at once.
  const cudaError_t e = cudaMemcpy2DAsync(r.device, static_cast<size_t>(r.stride_bytes), bytes, static_cast<size_t>(r.row_bytes), static_cast<size_t>(r.row_bytes),
                                          static_cast<size_t>(r.rows), cudaMemcpyHostToDevice, stream_);
  std::free(r.host);
  if (e != cudaSuccess) fail(Status::internal, -1);
}

void CudaQueue::copy_out(const CopyRecord& r) {
  const auto copy = [&](uint8_t* to) {
    return cudaMemcpy2DAsync(to, static_cast<size_t>(r.row_bytes), r.device, static_cast<size_t>(r.stride_bytes), static_cast<size_t>(r.row_bytes),
                             static_cast<size_t>(r.rows), cudaMemcpyDeviceToHost, stream_) == cudaSuccess;
  };
  const size_t bytes = static_cast<size_t>(r.rows * r.row_bytes);
  // A small read goes through pinned memory, so that this thread can launch on; a large one waits for its bytes.
  if (uint8_t* const pinned = bytes <= kPinned ? take_pinned() : nullptr) {
    Point p{};
    p.pinned = pinned;
    p.bytes = bytes;
    p.host = copy(pinned) ? r.host : nullptr;
    if (!record_end(&p.event) || p.host == nullptr) fail(Status::internal, -1);
    return hand_over(std::move(p));
  }
  if (!copy(r.host) || cudaStreamSynchronize(stream_) != cudaSuccess) fail(Status::internal, -1);
}

Status CudaQueue::repack(const RepackRecord& r) {
  size_t bytes = static_cast<size_t>(r.item_bytes);
  for (int i = 0; i < r.ndim; ++i) bytes *= static_cast<size_t>(r.shape[i]);
  guard_.write(r.target, bytes);
  return launch_repack(r.source, r.target, r.item_bytes, r.ndim, r.shape, r.strides, stream_) ? Status::ok : Status::internal;
}

// ---- events ----

void CudaQueue::mark(uint64_t ticket, std::shared_ptr<octet::Event> event) {
  // What is lost stays lost, whatever was cleared.
  if (lost_.load(std::memory_order_relaxed)) fail(Status::device_lost, -1);
  Point p{};
  p.ticket = ticket;
  if (ticket != 0) {
    p.pinned = take_pinned();
    // Without room to bring them here the words stay as they are, for the next point to read.
    if (p.pinned != nullptr && (cudaMemcpyAsync(p.pinned, faults_, kOps * sizeof(int32_t), cudaMemcpyDeviceToHost, stream_) != cudaSuccess ||
                                cudaMemsetAsync(faults_, 0, kOps * sizeof(int32_t), stream_) != cudaSuccess)) {
      fail(Status::internal, -1);
    }
  }
  if (!record_end(&p.event)) fail(Status::internal, -1);
  p.failure = failure_;
  if (event != nullptr) {
    event->failure = failure_;
    // Others may wait for it as long as they hold the event: it is not used again. Null: it is reached, nothing to wait for.
    if (p.event != nullptr) event->backend = std::shared_ptr<void>(p.event, [](void* e) { cudaEventDestroy(static_cast<cudaEvent_t>(e)); });
    event->set(octet::Event::kIssued);
  }
  p.mark = std::move(event);
  hand_over(std::move(p));
}

void CudaQueue::wait(const EventRecord& record) {
  const std::shared_ptr<octet::Event> event = *record.event;
  const uint32_t seen = wait_for(*event, octet::Event::kIssued);
  if ((seen & octet::Event::kIssued) != 0) {
    auto* const theirs = static_cast<cudaEvent_t>(event->backend.get());
    if (theirs != nullptr && cudaStreamWaitEvent(stream_, theirs, 0) != cudaSuccess) fail(Status::internal, -1);
    if (record.inherit) fail(event->failure.status, event->failure.op);
  }
  delete record.event;
}

bool CudaQueue::record_end(cudaEvent_t* event) {
  *event = take_event();
  if (*event != nullptr) {
    if (cudaEventRecord(*event, stream_) == cudaSuccess) return true;
    give_back(*event, nullptr);
    *event = nullptr;
  }
  cudaGetLastError();
  return cudaStreamSynchronize(stream_) == cudaSuccess;
}

void CudaQueue::hand_over(Point point) {
  {
    const std::lock_guard lock(points_mutex_);
    points_.push_back(std::move(point));
  }
  points_ready_.notify_one();
}

void CudaQueue::reap() {
  cudaSetDevice(device_.info().ordinal);
  for (;;) {
    std::unique_lock lock(points_mutex_);
    points_ready_.wait(lock, [&] { return !points_.empty(); });
    Point p = std::move(points_.front());
    points_.pop_front();
    lock.unlock();
    if (p.quit) return;
    cudaError_t reached = cudaSuccess;
    if (p.event != nullptr) {
      // Most points are microseconds away: look for a while before sleeping.
      spin_until([&] { return cudaEventQuery(p.event) != cudaErrorNotReady; }, kReapSpinMicros);
      reached = cudaEventSynchronize(p.event);
    }
    if (p.host != nullptr && reached == cudaSuccess) std::memcpy(p.host, p.pinned, p.bytes);
    if (reached != cudaSuccess) {
      lost_.store(true, std::memory_order_relaxed);
      if (p.failure.status == Status::ok) p.failure = {Status::device_lost, -1, p.failure.sequence};
    }
    if (p.ticket != 0 && p.pinned != nullptr && p.failure.status == Status::ok) {
      const auto* const faults = reinterpret_cast<const int32_t*>(p.pinned);
      for (int op = 0; op < static_cast<int>(kOps); ++op) {
        if (faults[op] != 0) p.failure = {static_cast<Status>(faults[op]), op, p.failure.sequence};
      }
    }
    if (p.mark != nullptr) p.mark->set(octet::Event::kDone);
    give_back(p.mark == nullptr ? p.event : nullptr, p.pinned);
    if (p.ticket != 0) post(p.ticket, p.failure);
  }
}

cudaEvent_t CudaQueue::take_event() {
  {
    const std::lock_guard lock(spare_mutex_);
    if (!spare_events_.empty()) {
      const cudaEvent_t e = spare_events_.back();
      spare_events_.pop_back();
      return e;
    }
  }
  cudaEvent_t e = nullptr;
  return cudaEventCreateWithFlags(&e, cudaEventDisableTiming | cudaEventBlockingSync) == cudaSuccess ? e : nullptr;
}

uint8_t* CudaQueue::take_pinned() {
  {
    const std::lock_guard lock(spare_mutex_);
    if (!spare_pinned_.empty()) {
      uint8_t* const p = spare_pinned_.back();
      spare_pinned_.pop_back();
      return p;
    }
  }
  void* p = nullptr;
  if (cudaMallocHost(&p, kPinned) == cudaSuccess) return static_cast<uint8_t*>(p);
  cudaGetLastError();  // or the next launch would be blamed
  return nullptr;
}

void CudaQueue::give_back(cudaEvent_t event, uint8_t* pinned) {
  const std::lock_guard lock(spare_mutex_);
  if (event != nullptr) spare_events_.push_back(event);
  if (pinned != nullptr) spare_pinned_.push_back(pinned);
}

// ---- graphs ----

std::shared_ptr<void> CudaQueue::build(const GraphData& graph, int32_t* failed_op, Status* status) {
  cudaGraph_t recorded = nullptr;
  cudaGraphExec_t exec = nullptr;
  // Relaxed: the workspace may grow and other threads may allocate meanwhile.
  if (cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed) != cudaSuccess) {
    *status = Status::internal;
    return nullptr;
  }
  *status = Status::ok;
  guard_.restart();
  const uint8_t* const end = graph.records.data() + graph.records.size();
  for (const uint8_t* at = graph.records.data(); at != end && *status == Status::ok;) {
    const auto* record = reinterpret_cast<const OpRecord*>(at);
    *status = run_op(record);
    if (*status != Status::ok) *failed_op = record->op;
    at += record->header.bytes;
  }
  const bool ended = cudaStreamEndCapture(stream_, &recorded) == cudaSuccess;
  guard_.restart();  // nothing of it has run, and what ran before it is forgotten
  if (*status == Status::ok && (!ended || cudaGraphInstantiate(&exec, recorded, 0) != cudaSuccess)) *status = Status::internal;
  if (recorded != nullptr) cudaGraphDestroy(recorded);
  if (*status != Status::ok) return nullptr;
  return std::shared_ptr<void>(exec, [](void* e) { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(e)); });
}

uint64_t CudaQueue::next_id() {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

Status CudaQueue::replay(GraphData& graph, int32_t* failed_op) {
  if (graph.records.empty()) return Status::ok;
  // A graph holds the addresses of this queue's workspace, counters and fault words: another queue's is no use here.
  if (graph.backend == nullptr || graph.backend_queue != id_) {
    Status status;
    graph.backend = build(graph, failed_op, &status);
    graph.backend_queue = id_;
    if (status != Status::ok) return status;
  }
  guard_.restart();
  return cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph.backend.get()), stream_) == cudaSuccess ? Status::ok : Status::internal;
}

}  // namespace octet::cuda
