// What a kernel is told: the arguments of one call, and how its tokens are shared out.
#pragma once

#include <cstdint>

#include "delta.h"

namespace ddl::cuda {

constexpr int kWarp = 32;

// Kernels that keep the state in registers cut a token's state into packs of whole rows: a vector of 16 bytes, or one
// row where a row has more. `vector`: values in 16 bytes.
constexpr int RowsOfPack(int channels, int vector) { return vector > channels ? vector / channels : 1; }

// Packs of a thread: as many as its registers hold beside the inputs, which weigh more the fewer channels there are.
constexpr int PacksOfThread(int channels, int vector) {
  if (channels <= 2) return 2 + channels;
  return channels > vector ? 4 : 6;  // 4 of 32 bytes
}

// Of a block, so that a thread may have the registers it needs: 96 or 128. Where a block works on runs, its memory
// leaves no room for more threads on a processor anyway.
constexpr int MostThreads(int channels, bool runs) { return channels == 1 || channels > 4 || runs ? 512 : 640; }

// Square of the direction, gate, and for each channel target and readout.
constexpr int MostSums(int channels) { return 2 * channels + 2; }

// How a call reads the state for a sublayer.
enum class Reads : int { kNothing, kChannels, kTokens };

struct Call {
  const void* state;
  Rewrite rewrite;
  Compress compress;
  std::int64_t rows;
  std::int64_t tokens;  // of each row
  std::int64_t width;
  std::int64_t value_channels;
  bool rewrites;
  Reads reads;

  // A team of warps takes an item at a time: a token, or (Reads::kTokens) a run of tokens of one row.
  std::int64_t items;
  std::int64_t run;   // tokens of an item, fewer at the end of a row
  std::int64_t runs;  // items of a row
  int team_warps;     // 1, and there are several teams in a block; or all of the block

  // The memory of a block, in its order: for sums, for what tokens hand on, and the weights of all taps.
  unsigned scratch_floats;
  unsigned partials_floats;

  // Kernels that keep the state in registers:
  unsigned packs;        // groups of rows of a token
  bool context_vectors;  // whether context and gate_weight can be read 16 bytes at a time
  bool target_vectors;   // likewise target_input and target_weight
  bool weights_staged;   // whether the weights of all taps fit into the memory of the block
};

// The tokens of an item: those before `first` are only there for what they hand on to the later ones.
struct Span {
  std::int64_t row;
  std::int64_t begin;  // may be negative: tokens of the history
  std::int64_t first;
  std::int64_t end;
};

}  // namespace ddl::cuda
