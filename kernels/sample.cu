// From whole rows of logits to tokens: mask, biases, watermark, penalties, temperature, min-p, top-k, top-p, typical-p, the
// choice, log-probabilities, and the most probable tokens. The sampling crate is the measure; every rank runs this on the
// same gathered rows and comes to the same result, so nobody has to be told.
//
// A block has a row. All passes over the vocabulary are strided loops in which a thread meets the same tokens each time, so
// a score that it changed needs no barrier. What a score is worth, exp(score − max), has the bits of the reference: its
// polynomial, without fused multiply-adds. Sums of weights are integers (units of 2^-46), so they have no order, and no
// float atomics are needed anywhere.
//
// Nothing is sorted. Each filter looks for one key, the first in its order at which the weights so far reach a target:
// top-k in the order of scores, each of weight 1; top-p in the order of scores, by mass; typical-p in the order of the
// distance to the entropy, by mass. `reach` finds it digit by digit, in histograms of 2,048, 2,048 and 1,024 bins.
//
// The draw is argmax(score + gumbel). A token overtakes only where 1 − u < w / c, with w its weight and c that of the best
// so far, which spares nearly every token the two f64 logarithms; thread 0 sets the bar with the most probable token.
//
// Bytes that must move: the row, vocab · 4, once from the gathered logits; the rest are passes over 260 KB in the L2 cache,
// each about 3 µs on one multiprocessor: 3 for a greedy row, 6 for a drawn one, up to 23 with all filters. What few rows want
// is read for those alone: SampleExtras (32 bytes, and 8 for each bias).
//
// Grid: x = sample rows of the bucket. Block: 1,024 threads. No dynamic shared memory.
#include "philox.h"
#include "step_inputs.h"
#include "watermark.h"

constexpr int SAMPLE_THREADS = 1024, BINS = 2048;
constexpr unsigned PURPOSE_TOKEN = 0;
constexpr unsigned GENERATED = 1 << 16;  // Counts are below this: of all tokens, plus this times those of generated ones.
constexpr float WEIGHT_UNIT = 70368744177664.0f;  // 2^46
typedef unsigned long long u64;

struct SampleArgs {        // 88 bytes
  const StepInputs* step;
  const SampleRow* rows;
  const float* logits;     // [samples][vocab]
  const unsigned* masks;   // [samples][mask_words]; may be null where no row is masked
  const unsigned* extras;  // SampleExtras and biases of the rows that have them; may be null where none has
  unsigned* history;       // [slots][history_stride]
  float* scores;           // [samples][vocab], scratch
  unsigned* counts;        // [samples][vocab], zero between launches
  SampleResult* results;   // [samples]
  int vocab;
  int mask_words;
  int history_stride;
  int reserved;            // 0
};
static_assert(sizeof(SampleArgs) == 88, "layout");

struct SampleScratch {
  u64 lanes[SAMPLE_THREADS / 32];
  unsigned low[BINS], middle[BINS], high[BINS];  // Of the weights in a bin: their limbs of 16 bits, each summed.
  u64 before;
  unsigned bin;
};

// The exponential of the sampling crate (softmax.rs), to the bit. For x <= 0.
GPU_DEV float exp_reference(float x) {
  float shifted = __fadd_rn(__fmul_rn(x, 1.44269504f), 12582912.0f), n = __fsub_rn(shifted, 12582912.0f);
  float r = __fadd_rn(__fsub_rn(x, __fmul_rn(n, 355.0f / 512.0f)), __fmul_rn(n, 2.1219444e-4f));
  float p = 1.9875691e-4f;
  p = __fadd_rn(__fmul_rn(p, r), 1.3982e-3f);
  p = __fadd_rn(__fmul_rn(p, r), 8.333452e-3f);
  p = __fadd_rn(__fmul_rn(p, r), 4.1665796e-2f);
  p = __fadd_rn(__fmul_rn(p, r), 1.6666665e-1f);
  p = __fadd_rn(__fmul_rn(p, r), 0.5f);
  float y = __fadd_rn(__fadd_rn(__fmul_rn(p, __fmul_rn(r, r)), r), 1.0f);
  float power = __uint_as_float((__float_as_uint(shifted) << 23) + 0x3f800000u);
  return x < -87.0f ? 0.0f : __fmul_rn(y, power);
}

// Extreme settings must not make infinities of finite scores. A masked token stays masked.
GPU_DEV float finite(float score) {
  constexpr float MAX = 3.402823466e38f;
  return score > MAX ? MAX : score;
}

// Bits that order as the floats do: of total_cmp.
GPU_DEV unsigned ordered(float x) {
  unsigned bits = __float_as_uint(x);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
// The score of which `~ordered` is the key.
GPU_DEV float score_of(unsigned key) {
  unsigned bits = ~key;
  return __uint_as_float(bits >> 31 ? bits & 0x7fffffffu : ~bits);
}
// Largest scores first; -0 and 0 are equal.
GPU_DEV unsigned descending(float score) { return ordered(-score + 0.0f); }

struct Larger {
  GPU_DEV float operator()(float a, float b) const { return b > a ? b : a; }
};
struct Sum {
  template <class T> GPU_DEV T operator()(T a, T b) const { return a + b; }
};
struct Smaller {
  GPU_DEV u64 operator()(u64 a, u64 b) const { return b < a ? b : a; }
};

struct Softmax {
  float max;
  u64 sum;        // Of the weights, in units.
  double ln_sum;  // Of the weights.
};

struct Sampling {
  const SampleArgs& args;
  SampleScratch& scratch;
  const SampleRow row;
  const float* logits;
  float* scores;
  unsigned* tokens;
  unsigned* counts;
  int vocab;

  GPU_DEV Sampling(const SampleArgs& args, SampleScratch& scratch)
      : args(args), scratch(scratch), row(args.rows[blockIdx.x]), vocab(args.vocab) {
    logits = args.logits + (long long)blockIdx.x * vocab;
    scores = args.scores + (long long)blockIdx.x * vocab;
    counts = args.counts + (long long)blockIdx.x * vocab;
    tokens = args.history + (long long)row.slot * args.history_stride;
  }

  // Of all threads' values, in a fixed order; all threads receive it.
  template <class T, class Op> GPU_DEV T reduce(T v, Op op) {
    T* lanes = (T*)scratch.lanes;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
    for (int mask = 16; mask; mask >>= 1) v = op(v, __shfl_xor_sync(FULL_WARP, v, mask));
    __syncthreads();
    if (lane == 0) lanes[warp] = v;
    __syncthreads();
    v = lanes[lane];
#pragma unroll
    for (int mask = 16; mask; mask >>= 1) v = op(v, __shfl_xor_sync(FULL_WARP, v, mask));
    return v;
  }

  GPU_DEV static u64 units(float weight) { return (u64)__float2ull_rn(weight * WEIGHT_UNIT); }

  GPU_DEV Softmax softmax(const float* of) {
    float max = minus_infinity();
    u64 sum = 0, bad = 0;
#pragma unroll 8
    for (int id = threadIdx.x; id < vocab; id += SAMPLE_THREADS) {
      float score = of[id];
      max = Larger()(max, score);
      bad |= score != score;
    }
    max = reduce(max, Larger());
#pragma unroll 8
    for (int id = threadIdx.x; id < vocab; id += SAMPLE_THREADS) sum += units(exp_reference(of[id] - max));
    // A NaN, or a row of which nothing is left, has no probabilities.
    bad = reduce(bad, Sum());
    sum = reduce(sum, Sum());
    if (bad || max == minus_infinity()) return Softmax{max, 0, __longlong_as_double(0x7ff8000000000000ll)};
    return Softmax{max, sum, log((double)sum * (1.0 / WEIGHT_UNIT))};
  }

  GPU_DEV static float logprob(const Softmax& of, float score) { return (float)((double)(score - of.max) - of.ln_sum); }

  GPU_DEV bool processors_are_off() const {
    unsigned processing = SAMPLE_MASKED | SAMPLE_WATERMARK | SAMPLE_EXTRAS;
    return !(row.flags & processing) && row.top_k == 0 && row.temperature == 1.0f && row.top_p >= 1.0f &&
           row.typical_p >= 1.0f && row.repetition_penalty == 1.0f && row.relative_frequency_penalty == 0.0f;
  }

  // Null where the row has none.
  GPU_DEV const SampleExtras* extras() const {
    return row.flags & SAMPLE_EXTRAS ? (const SampleExtras*)(args.extras + row.extras) : nullptr;
  }

  // Mask, biases, watermark, penalties and temperature: what needs one token alone.
  GPU_DEV void process() {
    const SampleExtras* extras = this->extras();
    bool generated = extras && (extras->presence_penalty != 0.0f || extras->frequency_penalty != 0.0f);
    bool penalized = generated || row.repetition_penalty != 1.0f || row.relative_frequency_penalty != 0.0f;
    bool marked = row.flags & SAMPLE_WATERMARK && row.position > 0;
    const unsigned* mask = row.flags & SAMPLE_MASKED ? args.masks + (long long)blockIdx.x * args.mask_words : nullptr;
    GreenList green(marked ? tokens[row.position - 1] : 0, vocab);
    if (penalized) {
      unsigned prompt = generated ? extras->prompt : row.position;
      for (unsigned i = threadIdx.x; i < row.position; i += SAMPLE_THREADS)
        atomicAdd(counts + tokens[i], i < prompt ? 1u : GENERATED + 1u);
      __threadfence();
      __syncthreads();
    }
    const float* from = logits;
    if (extras && extras->biases > 0) {
      add_biases(extras);
      from = scores;
    }
    for (int id = threadIdx.x; id < vocab; id += SAMPLE_THREADS) {
      float score = from[id];
      if (mask && !(mask[id / 32] >> (id % 32) & 1)) score = minus_infinity();
      if (marked) score += green.contains(id) ? WATERMARK_DELTA : 0.0f;
      if (penalized) score = penalize(score, id, extras);
      if (row.temperature != 1.0f) score = finite(score / row.temperature);
      scores[id] = score;
    }
  }

  // The logits become scores, of which some gain their bias. Any thread may change any of them here.
  GPU_DEV void add_biases(const SampleExtras* extras) {
    const TokenBias* biases = (const TokenBias*)(extras + 1);
    for (int id = threadIdx.x; id < vocab; id += SAMPLE_THREADS) scores[id] = logits[id];
    __syncthreads();
    for (unsigned i = threadIdx.x; i < extras->biases; i += SAMPLE_THREADS) scores[biases[i].id] += biases[i].bias;
    __syncthreads();
  }

  GPU_DEV float penalize(float score, int id, const SampleExtras* extras) {
    unsigned both = load_shared_data(counts + id);
    if (both == 0) return score;
    counts[id] = 0;
    unsigned count = both % GENERATED, generated = both / GENERATED;
    score = finite(score < 0.0f ? __fmul_rn(score, row.repetition_penalty) : score / row.repetition_penalty);
    score = finite(__fsub_rn(score, __fmul_rn(row.relative_frequency_penalty, (float)count / (float)row.position)));
    if (generated == 0) return score;
    score = finite(__fsub_rn(score, __fmul_rn(extras->frequency_penalty, (float)generated)));
    return finite(__fsub_rn(score, extras->presence_penalty));
  }

  // The smallest key at which the weights of all tokens with keys up to it reach `target`, and the weights before it. The
  // weights of all together reach it. `key` and `weight` are of (id, score); tokens of weight 0 do not matter.
  template <class Key, class Weight> GPU_DEV unsigned reach(u64 target, u64* before, Key key, Weight weight) {
    unsigned prefix = 0;
    u64 sum = 0;
    for (int digit = 0; digit < 3; digit++) {
      int bits = digit == 2 ? 10 : 11, shift = digit == 0 ? 21 : digit == 1 ? 10 : 0;
      for (int bin = threadIdx.x; bin < BINS; bin += SAMPLE_THREADS)
        scratch.low[bin] = scratch.middle[bin] = scratch.high[bin] = 0;
      __syncthreads();
      for (int id = threadIdx.x; id < vocab; id += SAMPLE_THREADS) {
        float score = scores[id];
        u64 w = weight(score);
        if (w == 0) continue;
        unsigned k = key(score);
        if (digit && k >> (shift + bits) != prefix) continue;
        unsigned bin = k >> shift & ((1u << bits) - 1);
        atomicAdd(scratch.low + bin, (unsigned)w & 0xffff);
        if (w >> 16) atomicAdd(scratch.middle + bin, (unsigned)(w >> 16) & 0xffff);
        if (w >> 32) atomicAdd(scratch.high + bin, (unsigned)(w >> 32));
      }
      __syncthreads();
      prefix = prefix << bits | find_bin(target, &sum);
    }
    *before = sum;
    return prefix;
  }

  GPU_DEV u64 bin_weight(int bin) const {
    return scratch.low[bin] + ((u64)scratch.middle[bin] << 16) + ((u64)scratch.high[bin] << 32);
  }

  // The bin in which `target` is reached, given the weights before the first; adds those before the bin.
  GPU_DEV unsigned find_bin(u64 target, u64* before) {
    u64 first = bin_weight(2 * threadIdx.x), second = bin_weight(2 * threadIdx.x + 1), up_to = first + second;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
    for (int distance = 1; distance < 32; distance <<= 1) {
      u64 lower = __shfl_up_sync(FULL_WARP, up_to, distance);
      if (lane >= distance) up_to += lower;
    }
    __syncthreads();
    if (lane == 31) scratch.lanes[warp] = up_to;
    __syncthreads();
    u64 sum = *before;
    for (int i = 0; i < warp; i++) sum += scratch.lanes[i];
    up_to += sum;
    u64 here = up_to - second - first;
    if (here < target && up_to >= target) {
      bool in_first = here + first >= target;
      scratch.bin = 2 * threadIdx.x + (in_first ? 0 : 1);
      scratch.before = in_first ? here : here + first;
    }
    __syncthreads();
    *before = scratch.before;
    return scratch.bin;
  }

  // Drops what is less than min_p times as probable as the most probable token.
  GPU_DEV void keep_min_p() {
    const SampleExtras* extras = this->extras();
    if (!extras || extras->min_p == 0.0f) return;
    float max = minus_infinity();
    for (int id = threadIdx.x; id < vocab; id += SAMPLE_THREADS) max = Larger()(max, scores[id]);
    max = reduce(max, Larger());
    for (int id = threadIdx.x; id < vocab; id += SAMPLE_THREADS)
      if (exp_reference(scores[id] - max) < extras->min_p) scores[id] = minus_infinity();
  }

  // Drops every score below the k-th largest.
  GPU_DEV void keep_top_k() {
    if (row.top_k == 0 || row.top_k >= (unsigned)vocab) return;
    u64 before;
    unsigned key = reach(row.top_k, &before, [](float score) { return ~ordered(score); }, [](float) { return (u64)1; });
    float least = score_of(key);
    for (int id = threadIdx.x; id < vocab; id += SAMPLE_THREADS)
      if (scores[id] < least) scores[id] = minus_infinity();
  }

  GPU_DEV static u64 target_of(const Softmax& softmax, float mass) {
    double target = ceil((double)mass * (double)softmax.sum);
    return target < 1.0 ? 1 : min((u64)target, softmax.sum);
  }

  // Keeps the most probable tokens whose mass reaches top_p; of equals those with smaller ids.
  GPU_DEV void keep_top_p() {
    if (row.top_p >= 1.0f) return;
    Softmax of = softmax(scores);
    if (of.sum == 0) return;
    u64 before, target = target_of(of, row.top_p);
    auto weight = [&](float score) { return score > minus_infinity() ? units(exp_reference(score - of.max)) : 0; };
    unsigned last = reach(target, &before, [](float score) { return descending(score); }, weight);
    // How many of the equals of the last are kept.
    u64 each = weight(-score_of(~last)), kept = (target - before + each - 1) / each;
    u64 seen = 0;
    for (int begin = 0; begin < vocab; begin += SAMPLE_THREADS) {
      int id = begin + threadIdx.x;
      float score = id < vocab ? scores[id] : minus_infinity();
      unsigned key = descending(score);
      bool equal = score > minus_infinity() && key == last;
      // Equals are numbered by their ids.
      if (__syncthreads_or(equal)) {
        u64 place = number(equal, &seen);
        if (equal && place >= kept) scores[id] = minus_infinity();
      }
      if (score > minus_infinity() && key > last) scores[id] = minus_infinity();
    }
  }

  // `seen` and how many threads before this one have `yes`; all of those are added to `seen`.
  GPU_DEV u64 number(bool yes, u64* seen) {
    unsigned ballot = __ballot_sync(FULL_WARP, yes);
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    __syncthreads();
    if (lane == 0) scratch.lanes[warp] = __popc(ballot);
    __syncthreads();
    u64 before = *seen + __popc(ballot & ((1u << lane) - 1));
    for (int i = 0; i < SAMPLE_THREADS / 32; i++) {
      if (i < warp) before += scratch.lanes[i];
      *seen += scratch.lanes[i];
    }
    return before;
  }

  // Keeps the tokens whose information is nearest to the entropy, up to the one at which their mass reaches typical_p, and
  // its equals.
  GPU_DEV void keep_typical() {
    if (row.typical_p >= 1.0f) return;
    Softmax of = softmax(scores);
    if (of.sum == 0) return;
    double sum = 0.0;
    for (int id = threadIdx.x; id < vocab; id += SAMPLE_THREADS) {
      float score = scores[id];
      if (score > minus_infinity()) sum += (double)exp_reference(score - of.max) * (double)logprob(of, score);
    }
    double negative_entropy = reduce(sum, Sum()) / ((double)of.sum * (1.0 / WEIGHT_UNIT));
    auto key = [&](float score) { return ordered(fabsf((float)((double)logprob(of, score) - negative_entropy))); };
    auto weight = [&](float score) { return score > minus_infinity() ? units(exp_reference(score - of.max)) : 0; };
    u64 before;
    unsigned last = reach(target_of(of, row.typical_p), &before, key, weight);
    for (int id = threadIdx.x; id < vocab; id += SAMPLE_THREADS)
      if (scores[id] > minus_infinity() && key(scores[id]) > last) scores[id] = minus_infinity();
  }

  // The smallest id with the largest score; 0 where there is none.
  GPU_DEV unsigned largest(const float* of, float max) {
    u64 first = ~0ull;
#pragma unroll 8
    for (int id = threadIdx.x; id < vocab; id += SAMPLE_THREADS)
      if (of[id] == max) first = Smaller()(first, id);
    first = reduce(first, Smaller());
    return first == ~0ull ? 0 : (unsigned)first;
  }

  GPU_DEV unsigned draw(const float* of, float max) {
    unsigned winner = largest(of, max);
    if (max == minus_infinity()) return 0;
    auto bits_of = [&](unsigned id) { return philox(row.position, id, PURPOSE_TOKEN, row.seed_low, row.seed_high); };
    __shared__ double bar;
    if (threadIdx.x == 0) bar = (double)max + gumbel(bits_of(winner));
    __syncthreads();
    double best = bar;
    float best_weight = (float)exp(best - (double)max);
    for (int id = threadIdx.x; id < vocab; id += SAMPLE_THREADS) {
      float score = of[id];
      if (!(score > minus_infinity())) continue;
      unsigned bits = bits_of(id);
      // 1 - u; the slack is far above the errors of f32.
      float rest = ((float)~bits + 0.5f) * (1.0f / 4294967296.0f);
      if (rest * best_weight > exp_reference(score - max) * 1.0001f) continue;
      double sum = (double)score + gumbel(bits);
      if (sum > best || (sum == best && (unsigned)id < winner))
        winner = id, best = sum, best_weight = (float)exp(sum - (double)max);
    }
    double top = reduce(best, [](double a, double b) { return b > a ? b : a; });
    return (unsigned)reduce(best == top ? (u64)winner : ~0ull, Smaller());
  }

  GPU_DEV void report(const float* of, const Softmax& model, const Softmax& warped, unsigned id, ScoredToken* to) {
    to->id = id;
    to->logprob = logprob(warped, of[id]);
    to->model_logprob = logprob(model, logits[id]);
  }

  // The top_n largest scores, one after the other.
  GPU_DEV void report_tops(const float* of, const Softmax& model, const Softmax& warped, SampleResult* result) {
    u64 last = 0;
    unsigned found = 0, wanted = min(row.top_n, (unsigned)TOP_N_MAX);
    for (; found < wanted; found++) {
      u64 next = ~0ull;
      for (int id = threadIdx.x; id < vocab; id += SAMPLE_THREADS) {
        float score = of[id];
        if (!(score > minus_infinity())) continue;
        u64 rank = ((u64)descending(score) << 32 | (unsigned)id) + 1;  // + 1: `last` is below all at first
        if (rank > last) next = Smaller()(next, rank);
      }
      next = reduce(next, Smaller());
      if (next == ~0ull) break;
      last = next;
      if (threadIdx.x == 0) report(of, model, warped, (unsigned)(next - 1), result->tops + found);
    }
    if (threadIdx.x == 0) result->top = found;
  }

  GPU_DEV void run() {
    SampleResult* result = args.results + blockIdx.x;
    Softmax model = softmax(logits);
    if (row.flags & SAMPLE_SCORE) {
      if (threadIdx.x == 0) report(logits, model, model, row.token, &result->token), result->top = 0;
      return;
    }
    const float* of = logits;
    Softmax warped = model;
    if (!processors_are_off()) {
      process();
      keep_min_p();
      keep_top_k();
      keep_top_p();
      keep_typical();
      of = scores;
      warped = softmax(scores);
    }
    __syncthreads();  // Scores that other threads have changed are read from here on.
    unsigned chosen = row.flags & SAMPLE_DRAW ? draw(of, warped.max) : largest(of, warped.max);
    if (threadIdx.x == 0) {
      report(of, model, warped, chosen, &result->token);
      if (row.flags & SAMPLE_APPEND) tokens[row.position] = chosen;
    }
    report_tops(of, model, warped, result);
  }
};

extern "C" __global__ void __launch_bounds__(SAMPLE_THREADS) sample(GPU_CONST SampleArgs args) {
  __shared__ SampleScratch scratch;
  if (blockIdx.x >= args.step->samples) return;
  Sampling(args, scratch).run();
}
