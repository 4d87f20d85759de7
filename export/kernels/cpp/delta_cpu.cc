// The delta rewrite on a CPU. Compiled once per instruction set level, each in the namespace DDL_LEVEL.
//
// A token's state is read from memory once: the readout brings it into the first-level cache, the rewrite finds it
// there. Value channels 1, 2, 4 and 8 run on whole vectors; any other number runs in strips of 8, 4, 2 and 1 channels.
// Every sum runs in several chains, because one chain of additions would wait for itself.
//
// No function of the standard library that has a body in a header is called here: each level would emit its own copy
// under one name, and the linker might keep the one that the processor cannot run. Hence <math.h>.
#include <math.h>

#include "cpu_vectors.h"
#include "delta.h"

namespace ddl::DDL_LEVEL {

const char* Rewrite(const DeltaArgs& args, const Execution& execution);

namespace {

constexpr int kStripRows = 4;
constexpr std::int64_t kChunkBytes = 128 * 1024;  // of state: long enough to pay for a task, short enough to balance

// Vectors per sum and step, so that there are at least four chains.
constexpr int Unroll(int sums) { return sums >= 4 ? 1 : 4 / sums; }

DDL_INLINE float Sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// `products[j]` = row j of `rows` times `x`.
template <int kRows>
DDL_INLINE void DotRows(const float* x, const float* rows, std::int64_t width, float* products) {
  constexpr int kUnroll = Unroll(kRows);
  Vector sums[kUnroll * kRows] = {};
  std::int64_t i = 0;
  for (; i + kUnroll * kLanes <= width; i += kUnroll * kLanes) {
    for (int u = 0; u < kUnroll; ++u) {
      const Vector value = Load(x + i + u * kLanes);
      for (int j = 0; j < kRows; ++j) sums[u * kRows + j] += value * Load(rows + j * width + i + u * kLanes);
    }
  }
  for (; i + kLanes <= width; i += kLanes) {
    const Vector value = Load(x + i);
    for (int j = 0; j < kRows; ++j) sums[j] += value * Load(rows + j * width + i);
  }
  for (int j = 0; j < kRows; ++j) {
    float lanes[kLanes];
    Vector sum = sums[j];
    for (int u = 1; u < kUnroll; ++u) sum += sums[u * kRows + j];
    Store(lanes, sum);
    Fold<kLanes, 1>(lanes);
    products[j] = lanes[0];
  }
  for (; i < width; ++i) {
    for (int j = 0; j < kRows; ++j) products[j] += x[i] * rows[j * width + i];
  }
}

// What a token's channels share: k = direction * inverse_length, and the gate.
struct TokenGate {
  float inverse_length;
  float beta;
};

DDL_INLINE TokenGate OpenGate(const DeltaArgs& args, std::int64_t token) {
  const float* direction = args.direction + token * args.width;
  float square, logit;
  DotRows<1>(direction, direction, args.width, &square);
  DotRows<1>(args.context + token * args.width, args.gate_weight, args.width, &logit);
  logit += args.gate_bias[0];
  const float beta = 2.0f * Sigmoid(logit);
  if (args.beta) args.beta[token] = beta;
  if (args.gate_logit) args.gate_logit[token] = logit;
  if (args.direction_norm) args.direction_norm[token] = sqrtf(square);
  return {1.0f / sqrtf(square + args.direction_eps * args.direction_eps), beta};
}

// Computes the target of the channels [first, first + kChannels) from their readout, and returns the steps towards it.
template <int kChannels>
DDL_INLINE void StepToTarget(const DeltaArgs& args, std::int64_t token, std::int64_t first, float beta,
                             const float* readout, float* step) {
  const std::int64_t width = args.width;
  float target[kChannels];
  DotRows<kChannels>(args.target_input + token * width, args.target_weight + first * width, width, target);
  for (int j = 0; j < kChannels; ++j) {
    target[j] += args.target_bias[first + j];
    if (args.target_scale > 0) target[j] = args.target_scale * Sigmoid(target[j]);
    step[j] = beta * (target[j] - readout[j]);
    const std::int64_t channel = token * args.value_channels + first + j;
    if (args.target) args.target[channel] = target[j];
    if (args.readout) args.readout[channel] = readout[j];
  }
}

// Rewrites a token that has kChannels value channels: 1, 2, 4 or 8.
template <int kChannels>
DDL_INLINE void RewriteToken(const DeltaArgs& args, std::int64_t token) {
  constexpr int kUnroll = Unroll(kChannels);
  constexpr int kSums = kUnroll * kChannels;
  constexpr Range<kChannels> kParts;
  const std::int64_t width = args.width;
  const std::int64_t whole = width - width % kLanes;  // rows that fill vectors
  const float* direction = args.direction + token * width;
  const float* state = args.state + token * width * kChannels;
  float* new_state = args.new_state + token * width * kChannels;
  const TokenGate gate = OpenGate(args, token);

  Vector sums[kSums] = {};
  std::int64_t i = 0;
  for (; i + kUnroll * kLanes <= width; i += kUnroll * kLanes) {
    for (int u = 0; u < kUnroll; ++u) {
      const std::int64_t row = i + u * kLanes;
      const Vector k = Load(direction + row) * gate.inverse_length;
      ReadRows<kChannels>(state + row * kChannels, k, sums + u * kChannels, kParts);
    }
  }
  for (; i < whole; i += kLanes) {
    ReadRows<kChannels>(state + i * kChannels, Load(direction + i) * gate.inverse_length, sums, kParts);
  }
  float lanes[kSums * kLanes];
  for (int part = 0; part < kSums; ++part) Store(lanes + part * kLanes, sums[part]);
  Fold<kSums * kLanes, kChannels>(lanes);
  float* readout = lanes;
  for (; i < width; ++i) {
    const float k = direction[i] * gate.inverse_length;
    for (int j = 0; j < kChannels; ++j) readout[j] += k * state[i * kChannels + j];
  }

  float step[kChannels];
  StepToTarget<kChannels>(args, token, 0, gate.beta, readout, step);

  float pattern[kChannels * kLanes];
  Vector steps[kChannels];
  for (int lane = 0; lane < kChannels * kLanes; ++lane) pattern[lane] = step[lane % kChannels];
  for (int part = 0; part < kChannels; ++part) steps[part] = Load(pattern + part * kLanes);
  for (i = 0; i < whole; i += kLanes) {
    const Vector k = Load(direction + i) * gate.inverse_length;
    WriteRows<kChannels>(state + i * kChannels, k, steps, new_state + i * kChannels, kParts);
  }
  for (; i < width; ++i) {
    const float k = direction[i] * gate.inverse_length;
    for (int j = 0; j < kChannels; ++j) new_state[i * kChannels + j] = state[i * kChannels + j] + k * step[j];
  }
}

// Rewrites the channels [first, first + kChannels) of a token that has more.
template <int kChannels>
DDL_INLINE void RewriteStrip(const DeltaArgs& args, std::int64_t token, std::int64_t first, TokenGate gate) {
  const std::int64_t width = args.width;
  const std::int64_t stride = args.value_channels;
  const float* direction = args.direction + token * width;
  const float* state = args.state + token * width * stride + first;
  float* new_state = args.new_state + token * width * stride + first;

  float readout[kStripRows * kChannels] = {};
  std::int64_t i = 0;
  for (; i + kStripRows <= width; i += kStripRows) {
    for (int row = 0; row < kStripRows; ++row) {
      const float k = direction[i + row] * gate.inverse_length;
      for (int j = 0; j < kChannels; ++j) readout[row * kChannels + j] += k * state[(i + row) * stride + j];
    }
  }
  Fold<kStripRows * kChannels, kChannels>(readout);
  for (; i < width; ++i) {
    const float k = direction[i] * gate.inverse_length;
    for (int j = 0; j < kChannels; ++j) readout[j] += k * state[i * stride + j];
  }

  float step[kChannels];
  StepToTarget<kChannels>(args, token, first, gate.beta, readout, step);

  for (i = 0; i < width; ++i) {
    const float k = direction[i] * gate.inverse_length;
    float row[kChannels];  // read before written: the compiler cannot know that the states are equal or apart
    for (int j = 0; j < kChannels; ++j) row[j] = state[i * stride + j] + k * step[j];
    for (int j = 0; j < kChannels; ++j) new_state[i * stride + j] = row[j];
  }
}

template <int kChannels>
void RewriteDense(const DeltaArgs& args, std::int64_t begin, std::int64_t end) {
  for (std::int64_t token = begin; token < end; ++token) RewriteToken<kChannels>(args, token);
}

void RewriteStrips(const DeltaArgs& args, std::int64_t begin, std::int64_t end) {
  const std::int64_t channels = args.value_channels;
  for (std::int64_t token = begin; token < end; ++token) {
    const TokenGate gate = OpenGate(args, token);
    std::int64_t first = 0;
    for (; first + 8 <= channels; first += 8) RewriteStrip<8>(args, token, first, gate);
    if (channels & 4) RewriteStrip<4>(args, token, first, gate);
    if (channels & 2) RewriteStrip<2>(args, token, first + (channels & 4), gate);
    if (channels & 1) RewriteStrip<1>(args, token, channels - 1, gate);
  }
}

void RewriteTokens(const DeltaArgs& args, std::int64_t begin, std::int64_t end) {
  switch (args.value_channels) {
    case 1:
      return RewriteDense<1>(args, begin, end);
    case 2:
      return RewriteDense<2>(args, begin, end);
    case 4:
      return RewriteDense<4>(args, begin, end);
    case 8:
      return RewriteDense<8>(args, begin, end);
    default:
      return RewriteStrips(args, begin, end);
  }
}

struct Chunks {
  const DeltaArgs* args;
  std::int64_t count;
};

void RewriteChunk(void* user, std::size_t index) {
  const Chunks& chunks = *static_cast<const Chunks*>(user);
  const std::int64_t chunk = static_cast<std::int64_t>(index);
  const std::int64_t tokens = chunks.args->tokens;
  const std::int64_t each = tokens / chunks.count;
  const std::int64_t longer = tokens % chunks.count;  // the first chunks take one token more
  const std::int64_t begin = chunk * each + (chunk < longer ? chunk : longer);
  RewriteTokens(*chunks.args, begin, begin + each + (chunk < longer ? 1 : 0));
}

}  // namespace

const char* Rewrite(const DeltaArgs& args, const Execution& execution) {
  const std::int64_t token_bytes = args.width * args.value_channels * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t per_chunk = token_bytes < kChunkBytes / 2 ? kChunkBytes / (token_bytes > 0 ? token_bytes : 1) : 1;
  Chunks chunks = {&args, (args.tokens + per_chunk - 1) / per_chunk};
  if (chunks.count <= 1) {
    RewriteTokens(args, 0, args.tokens);
    return nullptr;
  }
  const auto count = static_cast<std::size_t>(chunks.count);
  return execution.parallel_for(execution.pool, RewriteChunk, count, &chunks) ? nullptr : "the thread pool refused";
}

}  // namespace ddl::DDL_LEVEL
