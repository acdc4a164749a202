// The split of an attention op over the pool, shared by attention and attentionDense.
//
// A task is a tile of query rows of one sequence and KV head. With enough tasks a thread walks a task's chunks in order.
// With few (decode of one or two sequences), every chunk of every task is its own unit; the parts are joined afterwards in
// the same order by the same arithmetic, so both ways give the same bits.
//
// A Source says where things are:
//   int64_t sequences(); Sequence sequence(b)
//   Span keys_of(sequence, i): keys [lo, hi) that query i of the sequence sees (monotone in i)
//   bool rows(b, kv_head, begin, end, k, v): addresses of the keys and values at positions [begin, end); false: bad index
//   const uint8_t* mask(b, i): the mask's row, or null
#pragma once
#include "attention_chunk.h"

namespace octet::cpu::OCTET_LEVEL {

struct Sequence {
  int64_t q_begin, q_len, kv_len;
};
struct Span {
  int64_t lo, hi;
};

struct AttentionCall {
  const TensorArg& q;
  const TensorArg& out;
  const float* k_scale_inv;  // [Hkv] or null
  const float* v_scale_inv;
  int64_t heads, kv_heads;
  float scale;
  AttentionShape shape;
};

struct Task {
  int32_t sequence, kv_head;
  int64_t row;  // first of its rows; row = query * group + head within the group
  int32_t rows;
  int32_t first_chunk, chunks;
  int64_t part;  // where its parts lie, in floats
};
struct Unit {
  int32_t task, chunk;
};

template <class T, class Source> class Attention {
 public:
  Attention(Context& ctx, const AttentionCall& call, const Source& source)
      : ctx_(ctx), c_(call), source_(source), group_(call.heads / call.kv_heads) {}

  Status run() {
    if (c_.q.rows() <= 0) return Status::ok;
    Status s = plan();
    if (s != Status::ok) return s;
    if (count_ > 0) {
      if (!make_workspaces()) return Status::out_of_memory;
      s = split() ? run_units() : run_tasks();
    }
    return s != Status::ok ? s : fault_.finish(ctx_);
  }

 private:
  // Lists the tasks, those with most chunks first, and clears output rows that belong to no sequence.
  Status plan() {
    const int64_t rows = c_.q.rows();
    uint8_t* const covered = scratch_of<uint8_t>(ctx_, rows);
    if (covered == nullptr) return Status::out_of_memory;
    memset(covered, 0, static_cast<size_t>(rows));
    for (int64_t b = 0; b < source_.sequences(); ++b) {
      const Sequence s = source_.sequence(b);
      if (s.q_len < 0 || s.kv_len < 0 || s.q_begin < 0 || s.q_begin + s.q_len > rows) return Status::bad_index;
      memset(covered + s.q_begin, 1, static_cast<size_t>(s.q_len));
      count_ += ceil_div(s.q_len * group_, kTileRows) * c_.kv_heads;
    }
    const int64_t width = c_.heads * c_.shape.d * item_bytes(c_.out.dtype);
    for (int64_t r = 0; r < rows; ++r) {
      if (covered[r] == 0) memset(at(c_.out, r), 0, static_cast<size_t>(width));
    }
    if (count_ == 0) return Status::ok;
    Task* const unsorted = scratch_of<Task>(ctx_, count_);
    tasks_ = scratch_of<Task>(ctx_, count_);
    if (unsorted == nullptr || tasks_ == nullptr) return Status::out_of_memory;
    list_tasks(unsorted);
    return sort_tasks(unsorted);
  }

  void list_tasks(Task* to) {
    for (int64_t b = 0; b < source_.sequences(); ++b) {
      const Sequence s = source_.sequence(b);
      const int64_t all = s.q_len * group_;
      for (int64_t row = 0; row < all; row += kTileRows) {
        const int32_t rows = static_cast<int32_t>(min_of<int64_t>(kTileRows, all - row));
        const int64_t lo = source_.keys_of(s, row / group_).lo, hi = source_.keys_of(s, (row + rows - 1) / group_).hi;
        const int32_t first = static_cast<int32_t>(lo / kChunk);
        const int32_t chunks = lo < hi ? static_cast<int32_t>(ceil_div(hi, kChunk)) - first : 0;
        for (int64_t h = 0; h < c_.kv_heads; ++h) {
          *to++ = {static_cast<int32_t>(b), static_cast<int32_t>(h), row, rows, first, chunks, 0};
          units_ += chunks;
          most_chunks_ = max_of<int64_t>(most_chunks_, chunks);
        }
      }
    }
  }

  // Counting sort, descending and stable.
  Status sort_tasks(const Task* from) {
    int64_t* const start = scratch_of<int64_t>(ctx_, most_chunks_ + 2);
    if (start == nullptr) return Status::out_of_memory;
    memset(start, 0, static_cast<size_t>(most_chunks_ + 2) * sizeof(int64_t));
    for (int64_t i = 0; i < count_; ++i) ++start[most_chunks_ - from[i].chunks + 1];
    for (int64_t i = 0; i <= most_chunks_; ++i) start[i + 1] += start[i];
    for (int64_t i = 0; i < count_; ++i) tasks_[start[most_chunks_ - from[i].chunks]++] = from[i];
    return Status::ok;
  }

  // Whether chunks are spread over the pool: only when whole tasks would leave threads idle and the parts stay small.
  bool split() {
    if (ctx_.threads() == 1 || count_ >= 4 * ctx_.threads() || units_ <= count_) return false;
    int64_t floats = 0;
    for (int64_t i = 0; i < count_; ++i) {
      tasks_[i].part = floats;
      floats += tasks_[i].chunks * part_floats(tasks_[i]);
    }
    if (floats > kMostParts) return false;
    parts_ = scratch_of<float>(ctx_, floats);
    return parts_ != nullptr;
  }
  int64_t part_floats(const Task& t) const { return t.rows * (c_.shape.pitch + 2); }

  bool make_workspaces() {
    const int64_t tile = kTileRows * c_.shape.pitch;
    const int64_t floats = 3 * tile + kTileRows * kChunk + kPack * c_.shape.d * kLanes +
                           (sizeof(T) < sizeof(float) ? kChunk * c_.shape.pitch : 0);
    workspaces_ = scratch_of<Workspace>(ctx_, ctx_.threads());
    if (workspaces_ == nullptr) return false;
    for (int i = 0; i < ctx_.threads(); ++i) {
      float* p = scratch_of<float>(ctx_, floats);
      if (p == nullptr) return false;
      Workspace& w = workspaces_[i];
      w.q = p;
      w.part = p += tile;
      w.acc = p += tile;
      w.scores = p += tile;
      w.keys = p += kTileRows * kChunk;
      w.values = p + kPack * c_.shape.d * kLanes;
    }
    return true;
  }

  int64_t column_of(const Task& t, int64_t row) const { return (t.kv_head * group_ + row % group_) * c_.shape.d; }

  void load_queries(Workspace& w, const Task& t) const {
    const Sequence s = source_.sequence(t.sequence);
    for (int r = 0; r < t.rows; ++r) {
      const int64_t row = t.row + r;
      load_row(c_.q, s.q_begin + row / group_, column_of(t, row), c_.shape.d, w.q + r * c_.shape.pitch);
    }
  }

  // m, l and part of the task's rows for one chunk.
  void chunk(Workspace& w, const Task& t, int64_t index) {
    const Sequence s = source_.sequence(t.sequence);
    const int64_t base = index * kChunk;
    int begin = kChunk, end = 0;
    for (int r = 0; r < t.rows; ++r) {
      const int64_t query = (t.row + r) / group_;
      const Span span = source_.keys_of(s, query);
      const int lo = static_cast<int>(min_of<int64_t>(max_of<int64_t>(span.lo - base, 0), kChunk));
      const int hi = static_cast<int>(min_of<int64_t>(max_of<int64_t>(span.hi - base, 0), kChunk));
      const uint8_t* const mask = source_.mask(t.sequence, query);
      w.mask[r] = mask == nullptr ? nullptr : mask + base;
      w.lo[r] = lo < hi ? lo : 0;
      w.hi[r] = lo < hi ? hi : 0;
      if (lo < hi) {
        begin = min_of(begin, lo);
        end = max_of(end, hi);
      }
    }
    if (begin >= end) {
      memset(w.l, 0, sizeof w.l);
      return;
    }
    if (!source_.rows(t.sequence, t.kv_head, base + begin, base + end, w.k + begin, w.v + begin)) {
      memset(w.l, 0, sizeof w.l);
      return fault_.set(Status::bad_index);
    }
    const float scale = c_.k_scale_inv == nullptr ? c_.scale : c_.scale * c_.k_scale_inv[t.kv_head];
    chunk_partial<T>(w, c_.shape, t.rows, begin, end, scale);
  }

  // Addresses of the keys of a coming chunk, for w.next: as many as there are, the last one repeated. None for tiles that
  // compute longer than their keys take to come, or where there is nothing ahead.
  void look_ahead(Workspace& w, const Task* t, int64_t index) const {
    int64_t count = 0;
    if (t != nullptr && t->rows <= kFewRows && index < t->first_chunk + t->chunks) {
      const Sequence s = source_.sequence(t->sequence);
      const int64_t lo = max_of(source_.keys_of(s, t->row / group_).lo, index * kChunk);
      const int64_t hi = min_of(source_.keys_of(s, (t->row + t->rows - 1) / group_).hi, (index + 1) * kChunk);
      const void* values[kChunk];
      if (lo < hi && source_.rows(t->sequence, t->kv_head, lo, hi, w.next, values)) count = hi - lo;
    }
    for (int64_t j = count; j < kChunk; ++j) w.next[j] = count > 0 ? w.next[count - 1] : nullptr;
  }

  void reset(Workspace& w, const Task& t) const {
    memset(w.acc, 0, static_cast<size_t>(t.rows * c_.shape.pitch) * sizeof(float));
    for (int r = 0; r < t.rows; ++r) {
      w.top[r] = -__builtin_inff();
      w.total[r] = 0;
    }
  }

  // out = acc / total * vScaleInv; a row that saw no key is 0.
  void store_rows(Workspace& w, const Task& t) const {
    const Sequence s = source_.sequence(t.sequence);
    const float v_scale = c_.v_scale_inv == nullptr ? 1.0f : c_.v_scale_inv[t.kv_head];
    for (int r = 0; r < t.rows; ++r) {
      const int64_t row = t.row + r;
      float* const acc = w.acc + r * c_.shape.pitch;
      const float factor = w.total[r] == 0 ? 0.0f : v_scale / w.total[r];
      for (int64_t i = 0; i < c_.shape.pitch; i += kLanes) store(acc + i, load(acc + i) * factor);
      store_row(c_.out, s.q_begin + row / group_, column_of(t, row), c_.shape.d, acc);
    }
  }

  Status run_tasks() {
    ctx_.parallel(count_, 1, [this](int64_t begin, int64_t end, int thread) {
      Workspace& w = workspaces_[thread];
      for (int64_t i = begin; i < end; ++i) {
        const Task& t = tasks_[i];
        load_queries(w, t);
        reset(w, t);
        for (int64_t k = 0; k < t.chunks && !ctx_.cancelled(); ++k) {
          const bool last = k + 1 == t.chunks;
          const Task* const ahead = !last ? &t : i + ctx_.threads() < count_ ? &tasks_[i + ctx_.threads()] : nullptr;
          look_ahead(w, ahead, last && ahead != nullptr ? ahead->first_chunk : t.first_chunk + k + 1);
          chunk(w, t, t.first_chunk + k);
          for (int r = 0; r < t.rows; ++r) {
            const int64_t offset = r * c_.shape.pitch;
            merge_row(w.top[r], w.total[r], w.acc + offset, w.m[r], w.l[r], w.part + offset, c_.shape.pitch);
          }
        }
        store_rows(w, t);
      }
    });
    return Status::ok;
  }

  Status run_units() {
    Unit* const units = scratch_of<Unit>(ctx_, units_);
    if (units == nullptr) return Status::out_of_memory;
    Unit* to = units;
    for (int64_t i = 0; i < count_; ++i) {
      for (int32_t k = 0; k < tasks_[i].chunks; ++k) *to++ = {static_cast<int32_t>(i), k};
    }
    ctx_.parallel(units_, 1, [this, units](int64_t begin, int64_t end, int thread) {
      Workspace& w = workspaces_[thread];
      for (int64_t i = begin; i < end; ++i) {
        const Task& t = tasks_[units[i].task];
        load_queries(w, t);
        const Unit* const ahead = i + ctx_.threads() < units_ ? &units[i + ctx_.threads()] : nullptr;
        look_ahead(w, ahead == nullptr ? nullptr : &tasks_[ahead->task], ahead == nullptr ? 0 : tasks_[ahead->task].first_chunk + ahead->chunk);
        chunk(w, t, t.first_chunk + units[i].chunk);
        float* const part = parts_ + t.part + units[i].chunk * part_floats(t);
        const size_t row_bytes = static_cast<size_t>(t.rows) * sizeof(float);
        memcpy(part, w.m, row_bytes);
        memcpy(part + t.rows, w.l, row_bytes);
        memcpy(part + 2 * t.rows, w.part, row_bytes * static_cast<size_t>(c_.shape.pitch));
      }
    });
    ctx_.parallel(count_, 1, [this](int64_t begin, int64_t end, int thread) {
      Workspace& w = workspaces_[thread];
      for (int64_t i = begin; i < end; ++i) {
        const Task& t = tasks_[i];
        reset(w, t);
        for (int64_t k = 0; k < t.chunks; ++k) {
          const float* const part = parts_ + t.part + k * part_floats(t);
          for (int r = 0; r < t.rows; ++r) {
            const int64_t offset = r * c_.shape.pitch;
            merge_row(w.top[r], w.total[r], w.acc + offset, part[r], part[t.rows + r], part + 2 * t.rows + offset, c_.shape.pitch);
          }
        }
        store_rows(w, t);
      }
    });
    return Status::ok;
  }

  static constexpr int64_t kMostParts = 16 << 20;  // floats
  static constexpr int kFewRows = 16;              // up to here memory is waited for

  Context& ctx_;
  const AttentionCall& c_;
  const Source& source_;
  const int64_t group_;
  Task* tasks_ = nullptr;
  int64_t count_ = 0, units_ = 0, most_chunks_ = 0;
  Workspace* workspaces_ = nullptr;
  float* parts_ = nullptr;
  Fault fault_;
};

// The float32 row q is loaded to, whatever its dtype; K and V are read in their own.
OCTET_INLINE bool attention_supports(const AttentionCall& c) {
  const bool heads = c.kv_heads > 0 && c.heads % c.kv_heads == 0;
  return heads && c.shape.d > 0 && c.shape.d % 2 == 0 && c.shape.d <= 256 && is_activation(c.q.dtype) && is_activation(c.out.dtype);
}

}  // namespace octet::cpu::OCTET_LEVEL
