// What changes from step to step. The host writes these arrays once a step, in one copy; all launch arguments depend on
// the bucket alone, so that a captured graph serves every step of its bucket.
//
// They lie in one allocation, each part aligned to 64 bytes. The host computes the offsets from how much the bucket has room
// for; kernels are given the pointers, which do not change within a bucket:
//
//   StepInputs                     one; then one for each chunk of the rows whose logits are used, in which `samples` counts
//   StepRow      [rows]
//   StepSequence [sequences]
//   PrefillItem  [items]
//   unsigned     gather[samples]                   The rows whose logits are used.
//   SampleRow    [samples]
//   unsigned     tables[sequences][table_stride]   KV block of positions 16i .. 16i + 15 of each sequence of the step
//
// Masks and extras are sent apart, where there are some: unsigned masks[samples][mask_words], bit i % 32 of word i / 32 allows
// token i; of each row that has them SampleExtras, its biases, and then those of the next row.
//
// All integers are 32-bit little-endian; no structure has padding of its own beyond what is named.
#pragma once

constexpr int BLOCK_TOKENS = 16;  // Positions of a KV block.

struct StepInputs {        // 64 bytes
  unsigned rows;           // Rows in use; a bucket may have room for more.
  unsigned sequences;      // Entries in use of StepSequence.
  unsigned prefill_items;  // Entries in use of PrefillItem.
  unsigned samples;        // Entries in use of SampleRow.
  unsigned reserved[12];   // 0
};

struct StepRow {      // 16 bytes: one token that runs
  unsigned slot;      // Row of the token history that holds its sequence; the token is history[slot][position].
  unsigned position;  // In the sequence.
  unsigned sequence;  // Entry of StepSequence, and row of the block tables.
  unsigned prefill;   // 1: the prefill kernel attends for this row; 0: the decode kernel does.
};

struct StepSequence {  // 16 bytes: adjacent rows of one sequence
  unsigned first_row;
  unsigned rows;
  unsigned start;  // Position of its first row.
  unsigned slot;
};

struct PrefillItem {  // 8 bytes: work for the prefill kernel
  unsigned sequence;  // Entry of StepSequence.
  unsigned index;     // 0, 1, ... ceil(rows / 4) - 1 for each sequence that prefills.
};

// Flags of SampleRow.
constexpr unsigned SAMPLE_DRAW = 1;       // Draw; else take the largest.
constexpr unsigned SAMPLE_MASKED = 2;     // The mask at the same index holds.
constexpr unsigned SAMPLE_WATERMARK = 4;  // Favour the green half.
constexpr unsigned SAMPLE_SCORE = 8;      // Only tell how probable `token` is; nothing is chosen.
constexpr unsigned SAMPLE_EXTRAS = 32;    // `extras` counts.
constexpr unsigned SAMPLE_APPEND = 16;    // The choice becomes history[slot][position]. Not where drafts are verified: the rows
                                          // behind read the draft there, and the host settles which choices hold.

struct SampleRow {           // 64 bytes: one row of logits
  unsigned row;              // Row of the batch whose logits these are.
  unsigned slot;             // Of the history: tokens 0 .. position - 1 are known.
  unsigned position;         // Of the token that is chosen.
  unsigned flags;
  unsigned seed_low;         // seed + index (64 bits, wrapping): key of the draw.
  unsigned seed_high;
  unsigned top_k;            // 0: keep all.
  unsigned top_n;            // Report so many of the most probable tokens; at most TOP_N_MAX.
  float temperature;         // 1: off.
  float top_p;               // 1 or more: off.
  float typical_p;           // 1 or more: off.
  float repetition_penalty;  // 1: off.
  float relative_frequency_penalty;  // 0: off.
  unsigned token;            // With SAMPLE_SCORE: whose log-probability is wanted.
  unsigned extras;           // With SAMPLE_EXTRAS: where its SampleExtras begins, in words.
  unsigned reserved;         // 0
};

struct SampleExtras {       // 32 bytes: what few rows want
  float min_p;              // 0: off.
  float presence_penalty;   // 0: off.
  float frequency_penalty;  // 0: off.
  unsigned prompt;          // Tokens of the history that are the prompt.
  unsigned biases;          // Entries of TokenBias behind it.
  unsigned reserved[3];     // 0
};

struct TokenBias {  // 8 bytes
  unsigned id;      // In the vocabulary; no other entry of the row has it.
  float bias;
};

constexpr int TOP_N_MAX = 32;

struct ScoredToken {    // 12 bytes
  unsigned id;
  float logprob;        // Of the warped scores, natural logarithm.
  float model_logprob;  // Of the model's own logits.
};

struct SampleResult {  // 400 bytes
  ScoredToken token;
  unsigned top;        // Entries in use of `tops`.
  ScoredToken tops[TOP_N_MAX];
};

static_assert(sizeof(StepInputs) == 64 && sizeof(StepRow) == 16 && sizeof(StepSequence) == 16, "layout");
static_assert(sizeof(PrefillItem) == 8 && sizeof(SampleRow) == 64 && sizeof(SampleResult) == 400, "layout");
static_assert(sizeof(SampleExtras) == 32 && sizeof(TokenBias) == 8, "layout");
