// 3x3 convolutions of one image that lies channels-last: sums stay in registers over all of the
// kernel, and bias, shortcut and ReLU are done while they are there.
//
// An image (h, w, C) is read from a padded copy (h+2, w+2, C) whose border is zero. Weights are
// (C_out / 16, 3, 3, C_in, 16): what a tile reads lies in a row, in lines of a cache that do not
// push each other out. Channels out are a multiple of 16.

#pragma once

#include <cstddef>
#include <cstring>
#include <memory>

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
inline Vector relu(Vector v) { return v < 0 ? Vector{} : v; }

inline Vector leaky(Vector v, float slope) { return v > 0 ? v : slope * v; }

// The sum over the numbers of a vector.
inline float added(Vector v) {
  float sum = 0;
  for (int lane = 0; lane < WIDTH; ++lane) sum += v[lane];
  return sum;
}

// One convolution: what it multiplies with and adds.
struct Kernel {
  const float* weight;  // (c_out / GROUP, 3, 3, c_in, GROUP)
  const float* bias;    // (c_out)
  int c_in, c_out;
  std::ptrdiff_t group() const { return std::ptrdiff_t(9) * c_in * GROUP; }
};

// Takes a kernel from packed numbers, the weight before the bias, and goes on behind it.
inline Kernel taken(const float*& from, int c_in, int c_out) {
  const float *weight = from, *bias = weight + 9 * c_in * c_out;
  from = bias + c_out;
  return {weight, bias, c_in, c_out};
}

// A folded block as packed numbers: both convolutions, and behind them the 1x1 convolution of the
// shortcut where it has one.
struct BlockWeights {
  Kernel first, second;
  const float* projection = nullptr;  // (c_in, c_out)
  const float* projection_bias = nullptr;

  BlockWeights(const float*& from, int c_in, int c_out)
      : first(taken(from, c_in, c_out)), second(taken(from, c_out, c_out)) {}

  void project(const float* from) {
    projection = from;
    projection_bias = from + first.c_in * first.c_out;
  }
};

// Where a few outputs are computed from and written to.
struct Pixels {
  const float* from[MOST];   // the upper left neighbour of each, in a padded image
  const float* added[MOST];  // what is added to the sum, or nothing
  float* to[MOST];
};

// ReLU(convolution + added) for P pixels and the WIDTH * L channels from `channel` on.
// `row`: numbers from one row of the padded image to the next.
template <int P, int L, bool ADDS>
[[gnu::noinline]] void tile(const Pixels& at, std::ptrdiff_t row, const Kernel& kernel, int channel) {
  Vector sum[P][L];
#pragma GCC unroll 12
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int l = 0; l < L; ++l) sum[p][l] = load(kernel.bias + channel + l * WIDTH);
  const float* from[P];
  for (int p = 0; p < P; ++p) from[p] = at.from[p];
  const float* weight = kernel.weight + channel / GROUP * kernel.group() + channel % GROUP;
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
      if (ADDS) sum[p][l] += load(at.added[p] + c);
      store(at.to[p] + c, relu(sum[p][l]));
    }
}

// The same for `count` pixels, at most P.
template <int P, int L, bool ADDS>
inline void tile_of(int count, const Pixels& at, std::ptrdiff_t row, const Kernel& kernel, int c) {
  if (count == P) {
    tile<P, L, ADDS>(at, row, kernel, c);
  } else if constexpr (P > 1) {
    tile_of<P - 1, L, ADDS>(count, at, row, kernel, c);
  }
}

// ReLU(convolution + added) for pixels 0 to count - 1; `pixel(i, at, p)` puts pixel i into place p
// and is asked for one after the other.
template <int P, int L, bool ADDS, typename Pixel>
inline void in_tiles(int count, std::ptrdiff_t row, const Kernel& kernel, Pixel& pixel) {
  Pixels at;
  for (int begin = 0; begin < count; begin += P) {
    const int several = count - begin < P ? count - begin : P;
    for (int p = 0; p < several; ++p) pixel(begin + p, at, p);
    for (int c = 0; c < kernel.c_out; c += L * WIDTH) {
      if (several == P)
        tile<P, L, ADDS>(at, row, kernel, c);
      else
        tile_of<P - 1, L, ADDS>(several, at, row, kernel, c);
    }
  }
}

// With the tile that suits the registers: 32 of 16 numbers, else 16 of 8 or 4 (or 32 of 4).
template <bool ADDS, typename Pixel>
inline void convolve(int count, std::ptrdiff_t row, const Kernel& kernel, Pixel pixel) {
#if defined(__AVX512F__)
  if (kernel.c_out % 64 == 0)
    in_tiles<6, 4, ADDS>(count, row, kernel, pixel);
  else if (kernel.c_out % 32 == 0)
    in_tiles<12, 2, ADDS>(count, row, kernel, pixel);
  else
    in_tiles<12, 1, ADDS>(count, row, kernel, pixel);
#elif defined(__aarch64__)
  in_tiles<6, 4, ADDS>(count, row, kernel, pixel);
#else
  in_tiles<6, 2, ADDS>(count, row, kernel, pixel);
#endif
}

// Sides of an image and its channels.
struct Shape {
  int height, width, channels;
  std::ptrdiff_t numbers() const { return std::ptrdiff_t(height) * width * channels; }
  std::ptrdiff_t row() const { return std::ptrdiff_t(width) * channels; }
  std::ptrdiff_t padded_row() const { return std::ptrdiff_t(width + 2) * channels; }
  bool operator==(const Shape&) const = default;
};

// An image with a border of zeros; memory is kept for the next one.
class Padded {
 public:
  // Takes a shape: the border becomes zero, what is inside is undefined.
  void take(const Shape& shape) {
    if (shape == shape_) return;  // nothing is written to a border
    shape_ = shape;
    const std::size_t needed = std::size_t(shape.height + 2) * shape.padded_row();
    if (needed > size_) {
      numbers_.reset(new float[needed]);
      size_ = needed;
    }
    const std::size_t row = shape.padded_row(), channels = shape.channels;
    std::memset(begin(), 0, row * sizeof(float));
    std::memset(begin() + (shape.height + 1) * row, 0, row * sizeof(float));
    for (int y = 1; y <= shape.height; ++y) {
      std::memset(begin() + y * row, 0, channels * sizeof(float));
      std::memset(begin() + (y + 1) * row - channels, 0, channels * sizeof(float));
    }
  }

  void fill(const float* image) {
    const std::size_t row = shape_.row() * sizeof(float);
    for (int y = 0; y < shape_.height; ++y) std::memcpy(at(y, 0), image + y * shape_.row(), row);
  }

  void copy(float* image) {
    const std::size_t row = shape_.row() * sizeof(float);
    for (int y = 0; y < shape_.height; ++y) std::memcpy(image + y * shape_.row(), at(y, 0), row);
  }

  void clear() {
    for (int y = 0; y < shape_.height; ++y)
      std::memset(at(y, 0), 0, shape_.row() * sizeof(float));
  }

  float* begin() { return numbers_.get(); }
  // The pixel whose upper left neighbour is the padded image's pixel `place`.
  float* pixel(std::ptrdiff_t place) {
    return begin() + (place + shape_.width + 3) * shape_.channels;
  }
  // Pixel (y, x) of the image, and its upper left neighbour.
  float* at(int y, int x) { return corner(y, x) + shape_.padded_row() + shape_.channels; }
  float* corner(int y, int x) {
    return begin() + y * shape_.padded_row() + std::ptrdiff_t(x) * shape_.channels;
  }
  const Shape& shape() const { return shape_; }

 private:
  std::unique_ptr<float[]> numbers_;
  std::size_t size_ = 0;
  Shape shape_{};
};

// Goes through the pixels of an image row by row.
template <typename Number>
struct Walk {
  Number* place;
  int width;
  std::ptrdiff_t step, next_row;  // from a pixel to the next, and from a row's end to the next row
  int x = 0;

  Walk(Number* first, int width, std::ptrdiff_t step, std::ptrdiff_t row)
      : place(first), width(width), step(step), next_row(row - width * step) {}

  Number* next() {
    Number* here = place;
    place += step;
    if (++x == width) {
      x = 0;
      place += next_row;
    }
    return here;
  }
};

inline Walk<const float> corners(Padded& in, int stride, const Shape& to) {
  const Shape& shape = in.shape();
  return {in.corner(0, 0), to.width, std::ptrdiff_t(stride) * shape.channels,
          stride * shape.padded_row()};
}

// ReLU(convolution) of a whole image, written into the inside of another padded one.
inline void convolve_into(Padded& in, int stride, const Kernel& kernel, Padded& out) {
  const Shape& to = out.shape();
  auto from = corners(in, stride, to);
  Walk<float> written(out.at(0, 0), to.width, to.channels, to.padded_row());
  convolve<false>(to.height * to.width, in.shape().padded_row(), kernel,
                  [&](int, Pixels& at, int p) {
                    at.from[p] = from.next();
                    at.to[p] = written.next();
                  });
}

// ReLU(convolution + added) of a whole image, without padding; `added` may be `out` or nothing.
template <bool ADDS>
inline void convolve_out(Padded& in, int stride, const Kernel& kernel, const float* added,
                         float* out, const Shape& to) {
  auto from = corners(in, stride, to);
  convolve<ADDS>(to.height * to.width, in.shape().padded_row(), kernel,
                 [&](int i, Pixels& at, int p) {
                   const std::ptrdiff_t place = std::ptrdiff_t(i) * to.channels;
                   at.from[p] = from.next();
                   if (ADDS) at.added[p] = added + place;
                   at.to[p] = out + place;
                 });
}

}  // namespace skipbench
