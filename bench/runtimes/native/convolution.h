// 3x3 convolutions of one image that lies channels-last: sums stay in registers over all of the
// kernel, and bias, what is added and ReLU are done while they are there.
//
// An image (h, w, C) lies within a border of zeros. Weights are (C_out / 16, 3, 3, C_in, 16): what
// a tile reads lies in a row, in lines of a cache that do not push each other out. Channels out are
// a multiple of 16.

#pragma once

#include <cstddef>

namespace skipbench {

// How much of the output is in registers: PIXELS x CHANNELS numbers, in vectors of WIDTH.
#if defined(__AVX512F__)
constexpr int WIDTH = 16;
#elif defined(__AVX__)
constexpr int WIDTH = 8;
#else
constexpr int WIDTH = 4;
#endif

constexpr int GROUP = 16;  // output channels whose weights lie together
constexpr int MOST = 12;   // pixels in a tile

typedef float Vector __attribute__((vector_size(WIDTH * 4)));
typedef float AnyVector __attribute__((vector_size(WIDTH * 4), aligned(4)));

inline Vector load(const float* from) { return *reinterpret_cast<const AnyVector*>(from); }
inline void store(float* to, Vector v) { *reinterpret_cast<AnyVector*>(to) = v; }
// One convolution: what it multiplies with and adds.
struct Kernel {
  const float* weight;  // (c_out / GROUP, 3, 3, c_in, GROUP)
  const float* bias;    // (c_out)
  int c_in, c_out;
  float least;  // what is smaller becomes this: 0 is a ReLU
  bool adds;    // whether something is added to the sums
  std::ptrdiff_t group() const { return std::ptrdiff_t(9) * c_in * GROUP; }
};

// Where a few outputs are computed from and written to.
struct Pixels {
  const float* from[MOST];   // the upper left neighbour of each, in a padded image
  const float* added[MOST];  // what is added to the sum, or nothing
  float* to[MOST];
};

// max(convolution + added, least) for P pixels and the WIDTH * L channels from `channel` on.
// `row`: numbers from one row of the padded image to the next.
template <int P, int L>
[[gnu::noinline]] void tile(const Pixels& at, std::ptrdiff_t row, const Kernel& kernel, int channel) {
  Vector sum[P][L];
#pragma GCC unroll 12
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int l = 0; l < L; ++l) sum[p][l] = load(kernel.bias + channel + l * WIDTH);
  const float* from[P];
  for (int p = 0; p < P; ++p) from[p] = at.from[p];
  const float* weight = kernel.weight + channel / GROUP * kernel.group() + channel % GROUP;
  const Vector least = Vector{} + kernel.least;
  const std::ptrdiff_t apart = WIDTH == GROUP ? kernel.group() : WIDTH;  // from vector to vector
  for (int y = 0; y < 3; ++y) {
    // Three neighbours in a row of the image lie next to each other: one loop for them.
    for (int k = 0; k < 3 * kernel.c_in; ++k) {
      Vector factor[L];
#pragma GCC unroll 4
      for (int l = 0; l < L; ++l) factor[l] = load(weight + l * apart);
      weight += GROUP;
#pragma GCC unroll 12
      for (int p = 0; p < P; ++p) {
        const float number = from[p][k];
#pragma GCC unroll 4
        for (int l = 0; l < L; ++l) sum[p][l] += number * factor[l];
      }
    }
    for (int p = 0; p < P; ++p) from[p] += row;
  }
#pragma GCC unroll 12
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int l = 0; l < L; ++l) {
      const int c = channel + l * WIDTH;
      if (kernel.adds) sum[p][l] += load(at.added[p] + c);
      store(at.to[p] + c, sum[p][l] < least ? least : sum[p][l]);
    }
}

// The same for `count` pixels, at most P.
template <int P, int L>
inline void tile_of(int count, const Pixels& at, std::ptrdiff_t row, const Kernel& kernel, int c) {
  if (count == P) {
    tile<P, L>(at, row, kernel, c);
  } else if constexpr (P > 1) {
    tile_of<P - 1, L>(count, at, row, kernel, c);
  }
}

// The same for pixels 0 to count - 1; `pixel(i, at, p)` puts pixel i into place p
// and is asked for one after the other.
template <int P, int L, typename Pixel>
inline void in_tiles(int count, std::ptrdiff_t row, const Kernel& kernel, Pixel& pixel) {
  Pixels at;
  for (int begin = 0; begin < count; begin += P) {
    const int several = count - begin < P ? count - begin : P;
    for (int p = 0; p < several; ++p) pixel(begin + p, at, p);
    for (int c = 0; c < kernel.c_out; c += L * WIDTH) {
      if (several == P)
        tile<P, L>(at, row, kernel, c);
      else
        tile_of<P - 1, L>(several, at, row, kernel, c);
    }
  }
}

// With the tile that suits the registers: 32 of 16 numbers, else 16 of 8 or 4 (or 32 of 4).
template <typename Pixel>
inline void convolve(int count, std::ptrdiff_t row, const Kernel& kernel, Pixel pixel) {
#if defined(__AVX512F__)
  if (kernel.c_out % 64 == 0)
    in_tiles<6, 4>(count, row, kernel, pixel);
  else if (kernel.c_out % 32 == 0)
    in_tiles<12, 2>(count, row, kernel, pixel);
  else
    in_tiles<12, 1>(count, row, kernel, pixel);
#elif defined(__aarch64__)
  in_tiles<6, 4>(count, row, kernel, pixel);
#else
  in_tiles<6, 2>(count, row, kernel, pixel);
#endif
}

// Goes through the pixels of an image row by row.
struct Walk {
  std::ptrdiff_t place;
  int width;
  std::ptrdiff_t step, next_row;  // from a pixel to the next, and from a row's end to the next row
  int x = 0;

  Walk(std::ptrdiff_t first, int width, std::ptrdiff_t step, std::ptrdiff_t row)
      : place(first), width(width), step(step), next_row(row - width * step) {}

  std::ptrdiff_t next() {
    const std::ptrdiff_t here = place;
    place += step;
    if (++x == width) {
      x = 0;
      place += next_row;
    }
    return here;
  }
};

}  // namespace skipbench
