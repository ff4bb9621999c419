// What the instructions do, one function for each; that operands fit has been checked before.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "convolution.h"
#include "program.h"

namespace skipbench {

// Where the numbers are: one block for what is computed and one of constants.
struct Memory {
  char* base[SPACES];
  std::vector<std::int32_t> active, around;
  std::vector<std::uint8_t> marks;
  std::vector<float> row;

  template <typename T>
  T* at(const Operand& operand) const {
    return reinterpret_cast<T*>(base[operand.space]) + operand.offset;
  }
};

// Calls `f` with where each operand's innermost row begins.
template <int N, typename F>
inline void rows(const Instruction& one, F f) {
  const std::int64_t* size = one.at(0).size;
  std::ptrdiff_t step[N];
  for (int n = 0; n < N; ++n) step[n] = one.at(n).stride[2];
  for (std::int64_t i = 0; i < size[0]; ++i)
    for (std::int64_t j = 0; j < size[1]; ++j) {
      std::ptrdiff_t begin[N];
      for (int n = 0; n < N; ++n) begin[n] = i * one.at(n).stride[0] + j * one.at(n).stride[1];
      for (std::int64_t k = 0; k < size[2]; ++k) {
        f(begin);
        for (int n = 0; n < N; ++n) begin[n] += step[n];
      }
    }
}

// Numbers that do not lie in a row: no loop worth vectors.
template <typename Out, typename F>
[[gnu::cold, gnu::noinline]] void scattered(Out* out, std::ptrdiff_t step, std::ptrdiff_t n, F f) {
  for (std::ptrdiff_t i = 0; i < n; ++i) out[i * step] = f(i);
}

template <typename Out, typename In, typename F>
inline void each(const Instruction& one, const Memory& memory, F f) {
  const std::ptrdiff_t n = one.at(0).size[3], so = one.at(0).stride[3], si = one.at(1).stride[3];
  rows<2>(one, [&](const std::ptrdiff_t* begin) {
    Out* out = memory.at<Out>(one.at(0)) + begin[0];
    const In* in = memory.at<In>(one.at(1)) + begin[1];
    if (so == 1 && si == 1) {
      const F alone = f;  // what it holds cannot be what is written: the loop becomes vectors
#pragma GCC ivdep
      for (std::ptrdiff_t i = 0; i < n; ++i) out[i] = alone(in[i]);
    } else {
      scattered(out, so, n, [=](std::ptrdiff_t i) { return f(in[i * si]); });
    }
  });
}

// The same by a function that is called for each number: a loop of its own for every type and
// operator would take a minute to compile.
template <typename Out, typename In>
[[gnu::cold, gnu::noinline, gnu::noclone]] void each_called(const Instruction& one, const Memory& memory, Out (*f)(In)) {
  rows<2>(one, [&](const std::ptrdiff_t* begin) {
    Out* out = memory.at<Out>(one.at(0)) + begin[0];
    const In* in = memory.at<In>(one.at(1)) + begin[1];
    for (std::int64_t i = 0; i < one.at(0).size[3]; ++i)
      out[i * one.at(0).stride[3]] = f(in[i * one.at(1).stride[3]]);
  });
}

template <typename Out, typename In>
[[gnu::cold, gnu::noinline, gnu::noclone]] void each_pair_called(const Instruction& one, const Memory& memory, Out (*f)(In, In)) {
  rows<3>(one, [&](const std::ptrdiff_t* begin) {
    Out* out = memory.at<Out>(one.at(0)) + begin[0];
    const In* a = memory.at<In>(one.at(1)) + begin[1];
    const In* b = memory.at<In>(one.at(2)) + begin[2];
    for (std::int64_t i = 0; i < one.at(0).size[3]; ++i)
      out[i * one.at(0).stride[3]] = f(a[i * one.at(1).stride[3]], b[i * one.at(2).stride[3]]);
  });
}

template <typename Out, typename In, typename F>
inline void each_pair(const Instruction& one, const Memory& memory, F f) {
  const std::ptrdiff_t n = one.at(0).size[3], so = one.at(0).stride[3];
  const std::ptrdiff_t sa = one.at(1).stride[3], sb = one.at(2).stride[3];
  rows<3>(one, [&](const std::ptrdiff_t* begin) {
    Out* out = memory.at<Out>(one.at(0)) + begin[0];
    const In* a = memory.at<In>(one.at(1)) + begin[1];
    const In* b = memory.at<In>(one.at(2)) + begin[2];
    if (so == 1 && sa == 1 && sb == 1) {
#pragma GCC ivdep
      for (std::ptrdiff_t i = 0; i < n; ++i) out[i] = f(a[i], b[i]);
    } else if (so == 1 && sa == 1 && sb == 0) {
      const In second = *b;
#pragma GCC ivdep
      for (std::ptrdiff_t i = 0; i < n; ++i) out[i] = f(a[i], second);
    } else if (so == 1 && sa == 0 && sb == 1) {
      const In first = *a;
#pragma GCC ivdep
      for (std::ptrdiff_t i = 0; i < n; ++i) out[i] = f(first, b[i]);
    } else {
      scattered(out, so, n, [=](std::ptrdiff_t i) { return f(a[i * sa], b[i * sb]); });
    }
  });
}

// e^x with an error of some units in the last place, in a form that compilers turn into vectors.
inline float power_of_e(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float whole = std::nearbyint(x * 1.44269504f);
  const float r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  float y = 1.9875691500e-4f;
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * r * r + r + 1.0f;
  const std::int32_t bits = (std::int32_t(whole) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, 4);
  return y * scale;
}
inline double power_of_e(double x) { return std::exp(x); }

template <typename T>
void unary_of(const Instruction& one, const Memory& memory) {
  const T slope = T(one.factor);
  const auto call = [&](T (*f)(T)) { each_called<T, T>(one, memory, f); };
  const auto go = [&](auto f) {
    if constexpr (std::is_same_v<T, float>) each<T, T>(one, memory, f);
    else call(f);
  };
  switch (one.number[0]) {
    case RELU: return go([](T x) { return x < 0 ? T(0) : x; });
    case LEAKY_RELU: return each<T, T>(one, memory, [=](T x) { return x > 0 ? x : slope * x; });
    case SIGMOID: return go([](T x) { return 1 / (1 + power_of_e(-x)); });
    case TANH: return go([](T x) { return 1 - 2 / (1 + power_of_e(2 * x)); });
    case EXP: return call([](T x) { return std::exp(x); });
    case LOG: return call([](T x) { return std::log(x); });
    case NEG: return call([](T x) { return -x; });
    case ABS: return call([](T x) { return x < 0 ? -x : x; });
    case SQRT: return call([](T x) { return std::sqrt(x); });
    case RSQRT: return call([](T x) { return 1 / std::sqrt(x); });
    case ERF: return call([](T x) { return std::erf(x); });
    case GELU: return call([](T x) { return x * T(0.5) * (1 + std::erf(x * T(0.70710678118654752))); });
    case FLOOR: return call([](T x) { return std::floor(x); });
    case NOT: return call([](T x) { return T(x == 0); });
  }
}

inline void unary(const Instruction& one, const Memory& memory) {
  switch (one.at(0).type) {
    case FLOAT: return unary_of<float>(one, memory);
    case DOUBLE: return unary_of<double>(one, memory);
    case BOOL: return each_called<std::uint8_t, std::uint8_t>(one, memory, [](std::uint8_t x) { return std::uint8_t(!x); });
    case LONG:
      if (one.number[0] == NOT) return each_called<std::int64_t, std::int64_t>(one, memory, [](std::int64_t x) { return ~x; });
      if (one.number[0] == NEG)
        return each_called<std::int64_t, std::int64_t>(one, memory, [](std::int64_t x) { return std::int64_t(-std::uint64_t(x)); });
  }
}

template <typename T>
void binary_of(const Instruction& one, const Memory& memory) {
  const auto call = [&](T (*f)(T, T)) { each_pair_called<T, T>(one, memory, f); };
  const auto compare = [&](std::uint8_t (*f)(T, T)) { each_pair_called<std::uint8_t, T>(one, memory, f); };
  switch (one.number[0]) {
    case ADD: return call([](T a, T b) { return T(a + b); });
    case SUB: return call([](T a, T b) { return T(a - b); });
    case MUL: return call([](T a, T b) { return T(a * b); });
    case MAXIMUM: return call([](T a, T b) { return a > b || a != a ? a : b; });
    case MINIMUM: return call([](T a, T b) { return a < b || a != a ? a : b; });
    case LT: return compare([](T a, T b) { return std::uint8_t(a < b); });
    case LE: return compare([](T a, T b) { return std::uint8_t(a <= b); });
    case GT: return compare([](T a, T b) { return std::uint8_t(a > b); });
    case GE: return compare([](T a, T b) { return std::uint8_t(a >= b); });
    case EQ: return compare([](T a, T b) { return std::uint8_t(a == b); });
    case NE: return compare([](T a, T b) { return std::uint8_t(a != b); });
  }
  if constexpr (std::is_floating_point_v<T>) {
    if (one.number[0] == DIV) call([](T a, T b) { return a / b; });
  } else {
    switch (one.number[0]) {
      case AND: return call([](T a, T b) { return T(a & b); });
      case OR: return call([](T a, T b) { return T(a | b); });
      case XOR: return call([](T a, T b) { return T(a ^ b); });
      case SHL: return call([](T a, T b) { return T(std::uint64_t(a) << (b & 63)); });
      case SHR: return call([](T a, T b) { return T(a >> (b & 63)); });
    }
  }
}

inline void binary(const Instruction& one, const Memory& memory) {
  const auto go = [&](auto f) { each_pair<float, float>(one, memory, f); };
  const auto compare = [&](auto f) { each_pair<std::uint8_t, float>(one, memory, f); };
  if (one.at(1).type == FLOAT) switch (one.number[0]) {
    case ADD: return go([](float a, float b) { return a + b; });
    case SUB: return go([](float a, float b) { return a - b; });
    case MUL: return go([](float a, float b) { return a * b; });
    case LE: return compare([](float a, float b) { return std::uint8_t(a <= b); });
    case GT: return compare([](float a, float b) { return std::uint8_t(a > b); });
  }
  switch (one.at(1).type) {
    case FLOAT: return binary_of<float>(one, memory);
    case DOUBLE: return binary_of<double>(one, memory);
    case LONG: return binary_of<std::int64_t>(one, memory);
    case BOOL: return binary_of<std::uint8_t>(one, memory);
  }
}

// out = a * b + c
inline void muladd(const Instruction& one, const Memory& memory) {
  const std::ptrdiff_t n = one.at(0).size[3], so = one.at(0).stride[3];
  const std::ptrdiff_t sa = one.at(1).stride[3], sb = one.at(2).stride[3], sc = one.at(3).stride[3];
  rows<4>(one, [&](const std::ptrdiff_t* begin) {
    float* out = memory.at<float>(one.at(0)) + begin[0];
    const float* a = memory.at<float>(one.at(1)) + begin[1];
    const float* b = memory.at<float>(one.at(2)) + begin[2];
    const float* c = memory.at<float>(one.at(3)) + begin[3];
    if (so == 1 && sa == 1 && sb == 1 && sc == 1) {
#pragma GCC ivdep
      for (std::ptrdiff_t i = 0; i < n; ++i) out[i] = a[i] * b[i] + c[i];
    } else if (so == 1 && sa == 0 && sb == 1 && sc == 1) {
      const float first = *a;
#pragma GCC ivdep
      for (std::ptrdiff_t i = 0; i < n; ++i) out[i] = first * b[i] + c[i];
    } else {
      scattered(out, so, n, [=](std::ptrdiff_t i) { return a[i * sa] * b[i * sb] + c[i * sc]; });
    }
  });
}

template <typename T>
void where_of(const Instruction& one, const Memory& memory) {
  const std::int64_t n = one.at(0).size[3];
  rows<4>(one, [&](const std::ptrdiff_t* begin) {
    T* out = memory.at<T>(one.at(0)) + begin[0];
    const std::uint8_t* chosen = memory.at<std::uint8_t>(one.at(1)) + begin[1];
    const T* a = memory.at<T>(one.at(2)) + begin[2];
    const T* b = memory.at<T>(one.at(3)) + begin[3];
    for (std::int64_t i = 0; i < n; ++i) {
      const T first = a[i * one.at(2).stride[3]], second = b[i * one.at(3).stride[3]];
      out[i * one.at(0).stride[3]] = chosen[i * one.at(1).stride[3]] ? first : second;
    }
  });
}

// Calls `f` with the number type of an operand.
template <typename F>
inline void typed(std::int64_t type, F f) {
  switch (type) {
    case FLOAT: return f(float{});
    case DOUBLE: return f(double{});
    case LONG: return f(std::int64_t{});
    case INT: return f(std::int32_t{});
    case BOOL: return f(std::uint8_t{});
  }
}

// Copies, and casts where the types differ.
inline void copy(const Instruction& one, const Memory& memory) {
  if (one.at(0).type == FLOAT && one.at(1).type == FLOAT)
    return each<float, float>(one, memory, [](float x) { return x; });
  if (one.at(0).type == FLOAT && one.at(1).type == BOOL)
    return each<float, std::uint8_t>(one, memory, [](std::uint8_t x) { return float(x); });
  typed(one.at(0).type, [&](auto to) {
    typed(one.at(1).type, [&](auto from) {
      using To = decltype(to);
      using From = decltype(from);
      if (one.at(0).type == BOOL)
        each_called<To, From>(one, memory, [](From x) { return To(x != From(0)); });
      else
        each_called<To, From>(one, memory, [](From x) { return static_cast<To>(x); });
    });
  });
}

inline void fill(const Instruction& one, const Memory& memory) {
  typed(one.at(0).type, [&](auto zero) {
    using T = decltype(zero);
    rows<1>(one, [&](const std::ptrdiff_t* begin) {
      T* out = memory.at<T>(one.at(0)) + begin[0];
      scattered(out, one.at(0).stride[3], one.at(0).size[3], [&](std::ptrdiff_t) { return T(one.factor); });
    });
  });
}

// in (kept, a, b, c) to out (kept): `join` puts a number to what was found so far.
template <typename T, typename F>
[[gnu::noinline, gnu::noclone]] void reduce_by(const Instruction& one, const Memory& memory, F join) {
  const Operand& in = one.at(1);
  const T* from = memory.at<T>(in);
  T* out = memory.at<T>(one.at(0));
  const std::int64_t kept = in.size[0], so = one.at(0).stride[3];
  const bool in_rows = kept > 1 && in.stride[0] == 1 && so == 1;
  for (std::int64_t k = 0; k < kept; ++k) out[k * so] = from[k * in.stride[0]];
  for (std::int64_t a = 0; a < in.size[1]; ++a)
    for (std::int64_t b = 0; b < in.size[2]; ++b) {
      const T* row = from + a * in.stride[1] + b * in.stride[2];
      const std::int64_t first = a == 0 && b == 0;  // it is there already
      if (in_rows) {
        for (std::int64_t c = first; c < in.size[3]; ++c) {
          const T* numbers = row + c * in.stride[3];
#pragma GCC ivdep
          for (std::int64_t k = 0; k < kept; ++k) out[k] = join(out[k], numbers[k]);
        }
      } else {
        for (std::int64_t k = 0; k < kept; ++k) {
          T found = out[k * so];
          const T* numbers = row + k * in.stride[0];
          for (std::int64_t c = first; c < in.size[3]; ++c) found = join(found, numbers[c * in.stride[3]]);
          out[k * so] = found;
        }
      }
    }
}

template <typename T>
void reduce_of(const Instruction& one, const Memory& memory) {
  const Operand& in = one.at(1);
  const auto call = [&](T (*join)(T, T)) { reduce_by<T>(one, memory, join); };
  const auto go = [&](auto join) {
    if constexpr (std::is_same_v<T, float>) reduce_by<T>(one, memory, join);
    else call(join);
  };
  switch (one.number[0]) {
    case ANY: return reduce_by<T>(one, memory, [](T a, T b) { return T(a || b); });
    case PROD: return call([](T a, T b) { return T(a * b); });
    case ALL: return call([](T a, T b) { return T(a && b); });
    case MAX: return go([](T a, T b) { return b > a || b != b ? b : a; });
    case MIN: return call([](T a, T b) { return b < a || b != b ? b : a; });
    case SUM:
    case MEAN: {
      go([](T a, T b) { return T(a + b); });
      if (one.number[0] == SUM) return;
      T* out = memory.at<T>(one.at(0));
      const T count = T(in.size[1] * in.size[2] * in.size[3]);
      for (std::int64_t k = 0; k < in.size[0]; ++k) out[k * one.at(0).stride[3]] /= count;
      return;
    }
    case ARGMAX: {
      std::int64_t* out = memory.at<std::int64_t>(one.at(0));
      for (std::int64_t k = 0; k < in.size[0]; ++k) {
        const T* from = memory.at<T>(in) + k * in.stride[0];
        std::int64_t best = 0;
        for (std::int64_t c = 1; c < in.size[3]; ++c) {
          const T number = from[c * in.stride[3]], most = from[best * in.stride[3]];
          if (number > most || (number != number && most == most)) best = c;
        }
        out[k * one.at(0).stride[3]] = best;
      }
    }
  }
}

template <typename T>
void product_of(const Instruction& one, const Memory& memory) {
  const Operand &o = one.at(0), &l = one.at(1), &r = one.at(2);
  const std::int64_t inner = l.size[3], width = o.size[3];
  for (std::int64_t row = 0; row < o.size[2]; ++row) {
    T* out = memory.at<T>(o) + row * o.stride[2];
    const T* left = memory.at<T>(l) + row * l.stride[2];
    for (std::int64_t m = 0; m < width; ++m) out[m] = 0;
    for (std::int64_t k = 0; k < inner; ++k) {
      const T number = left[k * l.stride[3]];
      const T* right = memory.at<T>(r) + k * r.stride[2];
#pragma GCC ivdep
      for (std::int64_t m = 0; m < width; ++m) out[m] += number * right[m];
    }
  }
}

// The greatest numbers, in order.
template <typename T>
[[gnu::cold]] void top_of(const Instruction& one, const Memory& memory) {
  T* out = memory.at<T>(one.at(0));
  const T* in = memory.at<T>(one.at(1));
  const std::int64_t count = one.at(0).size[3], so = one.at(0).stride[3];
  std::int64_t found = 0;
  for (std::int64_t i = 0; i < one.at(1).size[3]; ++i) {
    const T number = in[i * one.at(1).stride[3]];
    std::int64_t place = found;
    while (place > 0 && (number > out[(place - 1) * so] || (number != number && out[(place - 1) * so] == out[(place - 1) * so]))) --place;
    if (place == count) continue;
    for (std::int64_t j = std::min(found, count - 1); j > place; --j) out[j * so] = out[(j - 1) * so];
    out[place * so] = number;
    found = std::min(found + 1, count);
  }
}

// The greatest of each window of a map with one channel, stride 1 across: a row of it at once.
inline void pool_rows(const Instruction& one, const Memory& memory) {
  const Operand &o = one.at(0), &in = one.at(1);
  const std::int64_t* n = one.number;
  const std::int64_t width = o.size[2];
  for (std::int64_t y = 0; y < o.size[1]; ++y) {
    float* out = memory.at<float>(o) + y * o.stride[1];
    std::fill(out, out + width, -INFINITY);
    for (std::int64_t v = 0; v < n[1]; ++v) {
      const std::int64_t row = y * n[3] - n[5] + v;
      if (row < 0 || row >= in.size[1]) continue;
      const float* from = memory.at<float>(in) + row * in.stride[1] - n[6];
      for (std::int64_t u = 0; u < n[2]; ++u, ++from) {
        const std::int64_t end = std::min(width, in.size[2] + n[6] - u);
#pragma GCC ivdep
        for (std::int64_t x = std::max<std::int64_t>(0, n[6] - u); x < end; ++x)
          out[x] = from[x] > out[x] || from[x] != from[x] ? from[x] : out[x];
      }
    }
  }
}

// Windows over images (1, h, w, C): the greatest number, or the mean. Padding counts for nothing.
inline void pool(const Instruction& one, const Memory& memory) {
  const Operand &o = one.at(0), &in = one.at(1);
  const std::int64_t* n = one.number;
  const bool greatest = n[0] == MAX;
  const float share = 1.0f / float(n[1] * n[2]);
  const std::int64_t channels = o.size[3];
  if (greatest && channels == 1 && n[4] == 1 && o.stride[2] == 1 && in.stride[2] == 1) return pool_rows(one, memory);
  for (std::int64_t y = 0; y < o.size[1]; ++y)
    for (std::int64_t x = 0; x < o.size[2]; ++x) {
      float* out = memory.at<float>(o) + y * o.stride[1] + x * o.stride[2];
      bool first = true;
      for (std::int64_t v = std::max<std::int64_t>(0, n[5] - y * n[3]); v < n[1]; ++v)
        for (std::int64_t u = std::max<std::int64_t>(0, n[6] - x * n[4]); u < n[2]; ++u) {
          const std::int64_t row = y * n[3] - n[5] + v, column = x * n[4] - n[6] + u;
          if (row >= in.size[1] || column >= in.size[2]) continue;
          const float* from = memory.at<float>(in) + row * in.stride[1] + column * in.stride[2];
          for (std::int64_t c = 0; c < channels; ++c) {
            const float number = from[c * in.stride[3]];
            float& at = out[c * o.stride[3]];
            if (first) at = number;
            else if (greatest) at = number > at || number != number ? number : at;
            else at += number;
          }
          first = false;
        }
      if (!greatest)
        for (std::int64_t c = 0; c < channels; ++c) out[c * o.stride[3]] *= share;
    }
}

// A convolution to one channel, where neighbours in a row of the image are one row of numbers.
inline void convolution_to_one(const Instruction& one, const Memory& memory) {
  const Operand &o = one.at(0), &in = one.at(1);
  const std::int64_t *n = one.number, wide = n[2] * in.size[3];
  const float least = float(one.factor), bias = *memory.at<float>(one.at(3));
  for (std::int64_t y = 0; y < o.size[1]; ++y)
    for (std::int64_t x = 0; x < o.size[2]; ++x) {
      const float* weight = memory.at<float>(one.at(2));
      Vector sums[3] = {};
      float sum = bias;
      for (std::int64_t v = 0; v < n[1]; ++v, weight += wide) {
        const float* from = memory.at<float>(in) + (y * n[3] - n[5] + v * n[7]) * in.stride[1] +
                            (x * n[4] - n[6]) * in.stride[2];
        std::int64_t i = 0;
        for (; i + 3 * WIDTH <= wide; i += 3 * WIDTH)
          for (int k = 0; k < 3; ++k) sums[k] += load(from + i + k * WIDTH) * load(weight + i + k * WIDTH);
        for (; i < wide; ++i) sum += from[i] * weight[i];
      }
      float lanes[WIDTH];
      store(lanes, sums[0] + sums[1] + sums[2]);
      for (int half = WIDTH / 2; half; half /= 2)
        for (int k = 0; k < half; ++k) lanes[k] += lanes[k + half];
      sum += lanes[0];
      if (one.operands == 5) sum += memory.at<float>(one.at(4))[y * one.at(4).stride[1] + x * one.at(4).stride[2]];
      memory.at<float>(o)[y * o.stride[1] + x * o.stride[2]] = sum < least ? least : sum;
    }
}

// Any convolution: weights (groups, kh, kw, c_in / groups, c_out / groups).
inline void convolution(const Instruction& one, Memory& memory) {
  const Operand &o = one.at(0), &in = one.at(1);
  const std::int64_t* n = one.number;
  const std::int64_t groups = n[9], c_in = in.size[3] / groups, c_out = o.size[3] / groups;
  const float least = float(one.factor);
  if (c_out == 1 && groups == 1 && n[8] == 1 && in.stride[2] == c_in) return convolution_to_one(one, memory);
  const float *weights = memory.at<float>(one.at(2)), *bias = memory.at<float>(one.at(3));
  memory.row.resize(c_out);
  float* sum = memory.row.data();
  for (std::int64_t y = 0; y < o.size[1]; ++y)
    for (std::int64_t x = 0; x < o.size[2]; ++x)
      for (std::int64_t g = 0; g < groups; ++g) {
        std::memcpy(sum, bias + g * c_out, c_out * sizeof(float));
        const float* weight = weights + g * n[1] * n[2] * c_in * c_out;
        for (std::int64_t v = 0; v < n[1]; ++v)
          for (std::int64_t u = 0; u < n[2]; ++u, weight += c_in * c_out) {
            const float* from = memory.at<float>(in) + (y * n[3] - n[5] + v * n[7]) * in.stride[1] +
                                (x * n[4] - n[6] + u * n[8]) * in.stride[2] + g * c_in;
            for (std::int64_t c = 0; c < c_in; ++c) {
              const float number = from[c];
#pragma GCC ivdep
              for (std::int64_t k = 0; k < c_out; ++k) sum[k] += number * weight[c * c_out + k];
            }
          }
        float* out = memory.at<float>(o) + y * o.stride[1] + x * o.stride[2] + g * c_out;
        const float* added = one.operands < 5 ? nullptr
                                              : memory.at<float>(one.at(4)) + y * one.at(4).stride[1] +
                                                    x * one.at(4).stride[2] + g * c_out;
        for (std::int64_t k = 0; k < c_out; ++k) {
          const float number = added ? sum[k] + added[k] : sum[k];
          out[k] = number < least ? least : number;
        }
      }
}

inline Kernel kernel_of(const Instruction& one, const Memory& memory, int weight, int c_in, int c_out, bool adds) {
  return {memory.at<float>(one.at(weight)), memory.at<float>(one.at(weight + 1)), c_in, c_out, float(one.factor), adds};
}

// 3x3 with a padding of 1, any stride: see convolution.h.
inline void convolution3(const Instruction& one, const Memory& memory) {
  const Operand &o = one.at(0), &in = one.at(1);
  const Operand& a = one.at(one.operands - 1);  // what is added, if anything
  const bool adds = one.operands == 5;
  const int stride = int(one.number[3]), width = int(o.size[2]);
  const Kernel kernel = kernel_of(one, memory, 2, int(in.size[3]), int(o.size[3]), adds);
  const float *from = memory.at<float>(in) - in.stride[1] - in.stride[2], *added = memory.at<float>(a);
  float* to = memory.at<float>(o);
  Walk read(0, width, stride * in.stride[2], stride * in.stride[1]);
  Walk written(0, width, o.stride[2], o.stride[1]), beside(0, width, a.stride[2], a.stride[1]);
  convolve(int(o.size[1] * o.size[2]), in.stride[1], kernel, [&](int, Pixels& at, int p) {
    at.from[p] = from + read.next();
    if (adds) at.added[p] = added + beside.next();
    at.to[p] = to + written.next();
  });
}

// ReLU(added + residual) where the mask is set, and what lies there already elsewhere; the first
// convolution of the residual runs at these positions and their eight neighbours. State, added and
// out may be one: the second convolution reads none of their neighbours.
inline void sparse_block(const Instruction& one, Memory& memory) {
  const Operand &o = one.at(0), &m = one.at(1), &h = one.at(2), &s = one.at(3), &a = one.at(4);
  const int height = int(o.size[1]), width = int(o.size[2]), across = width + 2;
  const std::uint8_t* mask = memory.at<std::uint8_t>(m);
  memory.active.clear();
  memory.around.clear();
  memory.marks.assign(std::size_t(across) * (height + 2), 0);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) {
      if (!mask[y * m.stride[1] + x * m.stride[2]]) continue;
      memory.active.push_back(y * width + x);
      for (int v = 0; v < 3; ++v) {
        std::uint8_t* mark = memory.marks.data() + std::ptrdiff_t(y + v) * across + x;
        mark[0] = mark[1] = mark[2] = 1;
      }
    }
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      if (memory.marks[std::size_t(y + 1) * across + x + 1]) memory.around.push_back(y * width + x);
  const auto at = [width](const Operand& map, int place, std::ptrdiff_t step = 1) {
    return place / width * step * map.stride[1] + place % width * step * map.stride[2];
  };
  const float *state = memory.at<float>(s), *added = memory.at<float>(a);
  float *out = memory.at<float>(o), *hidden = memory.at<float>(h);
  const int inner = int(h.size[3]);
  const Kernel first = kernel_of(one, memory, 5, int(s.size[3]), inner, false);
  convolve(int(memory.around.size()), s.stride[1], first, [&](int i, Pixels& pixels, int p) {
    pixels.from[p] = state + at(s, memory.around[i], one.number[0]) - s.stride[1] - s.stride[2];
    pixels.to[p] = hidden + at(h, memory.around[i]);
  });
  const Kernel second = kernel_of(one, memory, 7, inner, int(o.size[3]), true);
  convolve(int(memory.active.size()), h.stride[1], second, [&](int i, Pixels& pixels, int p) {
    pixels.from[p] = hidden + at(h, memory.active[i]) - h.stride[1] - h.stride[2];
    pixels.added[p] = added + at(a, memory.active[i]);
    pixels.to[p] = out + at(o, memory.active[i]);
  });
}

}  // namespace skipbench
