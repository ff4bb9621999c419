// The form of a program: operands in one block of memory, instructions on them, and what is checked
// of both before anything runs, so that no instruction can read or write outside.

#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace skipbench {

// The numbers of these enumerations are encoding.py's.
enum Type { FLOAT, DOUBLE, LONG, INT, BOOL, TYPES };
enum Space { WORK, CONSTANT, SPACES };
enum Op {
  COPY, FILL, UNARY, BINARY, WHERE, MULADD, REDUCE, PRODUCT, TOP, POOL, CONVOLUTION, CONVOLUTION3,
  SPARSE_BLOCK, BRANCH, JUMP, OPS
};
enum Unary { RELU, LEAKY_RELU, SIGMOID, TANH, EXP, LOG, NEG, ABS, SQRT, RSQRT, ERF, GELU, NOT, FLOOR };
enum Binary { ADD, SUB, MUL, DIV, MAXIMUM, MINIMUM, AND, OR, XOR, SHL, SHR, LT, LE, GT, GE, EQ, NE };
enum Reduce { SUM, MEAN, MAX, MIN, ANY, ALL, PROD, ARGMAX };

constexpr std::ptrdiff_t SIZE_OF[TYPES] = {4, 8, 8, 4, 1};
constexpr int DIMS = 4;

inline void require(bool holds, const char* what) {
  if (!holds) throw std::runtime_error(what);
}

// A tensor of up to four dimensions; offset and strides count numbers. `border`: so many rows and
// columns of zeros, which are never written, lie around the second and third dimension.
struct Operand {
  std::int64_t space, type, offset, size[DIMS], stride[DIMS], border;

  std::int64_t numbers() const { return size[0] * size[1] * size[2] * size[3]; }
  bool same_sizes(const Operand& other) const {
    for (int d = 0; d < DIMS; ++d)
      if (size[d] != other.size[d]) return false;
    return true;
  }

  // All that can be touched, the border included, lies within `bytes`.
  void check(const std::int64_t (&bytes)[SPACES]) const {
    constexpr std::int64_t most = std::int64_t(1) << 40;
    require(space >= 0 && space < SPACES && type >= 0 && type < TYPES, "an operand of no kind");
    require(border >= 0 && border < most && offset >= 0 && offset < most, "an operand out of range");
    std::int64_t last = offset, first = offset, numbers = 1;
    for (int d = 0; d < DIMS; ++d) {
      require(size[d] > 0 && size[d] < most && stride[d] >= 0 && stride[d] < most &&
                  size[d] <= most / (stride[d] + 1),
              "an operand out of range");
      last += (size[d] - 1) * stride[d];
      numbers *= size[d];
      require(numbers < most >> 12, "an operand out of range");
    }
    if (border > 0) {
      require(border <= 64 && stride[1] < most / 64 && stride[2] < most / 64, "a border out of range");
      first -= border * (stride[1] + stride[2]);
      last += border * (stride[1] + stride[2]);
    }
    require(first >= 0 && last < bytes[space] / SIZE_OF[type], "an operand outside of the memory");
  }
};

// What an instruction reads comes behind what it writes.
struct Instruction {
  static constexpr int MOST_OPERANDS = 9, MOST_NUMBERS = 12;
  std::int64_t op;
  const Operand* operand[MOST_OPERANDS] = {};
  int operands = 0;
  std::int64_t number[MOST_NUMBERS] = {};
  double factor = 0;

  const Operand& at(int i) const { return *operand[i]; }
};

class Checks {
 public:
  explicit Checks(const Instruction& one) : one_(one) {}

  [[gnu::cold]] void all(std::int64_t place, std::int64_t count) const {
    require(one_.op >= 0 && one_.op < OPS, "no such instruction");
    static constexpr int needed[OPS] = {2, 1, 2, 3, 4, 4, 2, 3, 2, 2, 4, 4, 9, 1, 0};
    const bool adds = one_.op == CONVOLUTION || one_.op == CONVOLUTION3;
    require(one_.operands == needed[one_.op] || (adds && one_.operands == 5), "other operands");
    if (one_.operands > 0 && one_.op != BRANCH)
      require(one_.at(0).space == WORK, "an instruction that writes to constants");
    switch (one_.op) {
      case COPY: sizes(); break;
      case UNARY: sizes(), types(1), kind(FLOOR), unary(); break;
      case BINARY: sizes(), types(one_.number[0] < LT), kind(NE), binary(); break;
      case WHERE: sizes(), require(type(1) == BOOL && type(0) == type(2) && type(2) == type(3), TYPE); break;
      case MULADD: sizes(), types(1), require(type(0) == FLOAT, TYPE); break;
      case REDUCE: reduce(); break;
      case PRODUCT: product(); break;
      case TOP: top(); break;
      case POOL: pool(); break;
      case CONVOLUTION: convolution(); break;
      case CONVOLUTION3: convolution(), fast(); break;
      case SPARSE_BLOCK: block(); break;
      case BRANCH: require(one_.at(0).type == BOOL && one_.at(0).numbers() == 1, TYPE); [[fallthrough]];
      case JUMP: require(one_.number[0] > place && one_.number[0] <= count, "a jump to nowhere"); break;
    }
  }

 private:
  static constexpr const char *TYPE = "another type than expected", *SIZE = "another size than expected";

  std::int64_t type(int i) const { return one_.at(i).type; }
  void kind(int last) const { require(one_.number[0] >= 0 && one_.number[0] <= last, "no such kind"); }
  void sizes() const {
    for (int i = 1; i < one_.operands; ++i) require(one_.at(0).same_sizes(one_.at(i)), SIZE);
  }
  void types(bool also_out) const {
    for (int i = 2; i < one_.operands; ++i) require(type(i) == type(1), TYPE);
    require(also_out ? type(0) == type(1) : type(0) == BOOL, TYPE);
  }
  void unary() const {
    const std::int64_t of = type(1), kind = one_.number[0];
    require(of == FLOAT || of == DOUBLE || (of == LONG && (kind == NOT || kind == NEG)) || (of == BOOL && kind == NOT), TYPE);
  }
  void binary() const {
    const std::int64_t of = type(1), kind = one_.number[0];
    const bool bits = kind >= AND && kind <= SHR, whole = of == LONG || of == BOOL;
    require(of != INT && (bits ? whole : kind != DIV || !whole), TYPE);
  }
  // In: (kept, a, b, c), out: (1, 1, 1, kept).
  void reduce() const {
    kind(ARGMAX);
    const auto &out = one_.at(0), &in = one_.at(1);
    const bool counts = one_.number[0] == ARGMAX;
    require(out.numbers() == in.size[0] && out.size[3] == in.size[0], SIZE);
    require(counts ? out.type == LONG : out.type == in.type, TYPE);
  }
  // (1, 1, R, M) from (1, 1, R, K) and (1, 1, K, M).
  void product() const {
    types(1), require(type(0) == FLOAT || type(0) == DOUBLE, TYPE);
    const auto &out = one_.at(0), &left = one_.at(1), &right = one_.at(2);
    for (int i = 0; i < 3; ++i) require(one_.at(i).size[0] * one_.at(i).size[1] == 1, SIZE);
    require(out.size[2] == left.size[2] && left.size[3] == right.size[2] && right.size[3] == out.size[3], SIZE);
    require(out.stride[3] == 1 && right.stride[3] == 1, "a product of scattered numbers");
  }
  void top() const {
    types(1), require(type(0) == FLOAT || type(0) == DOUBLE, TYPE);
    require(one_.at(0).numbers() == one_.at(0).size[3] && one_.at(1).numbers() == one_.at(1).size[3], SIZE);
    require(one_.at(0).size[3] <= one_.at(1).size[3], SIZE);
  }
  // Images (1, h, w, C); numbers: kernel, stride, padding, dilation, each for rows and columns.
  void window(bool within_border) const {
    const auto &out = one_.at(0), &in = one_.at(1);
    require(out.size[0] == 1 && in.size[0] == 1, SIZE);
    for (int d = 0; d < 2; ++d) {
      const std::int64_t kernel = one_.number[1 + d], stride = one_.number[3 + d];
      const std::int64_t padding = one_.number[5 + d], dilation = one_.number[7 + d];
      for (std::int64_t n : {kernel, stride, dilation}) require(n > 0 && n < 4096, "a window out of range");
      require(padding >= 0 && padding < 4096, "a window out of range");
      const std::int64_t last = (out.size[1 + d] - 1) * stride - padding + (kernel - 1) * dilation;
      const std::int64_t free = within_border ? in.border : last;
      require(padding <= free && last < in.size[1 + d] + free, "a window outside of its image");
    }
  }
  void pool() const {
    types(1), require(type(0) == FLOAT, TYPE), window(false);
    require(one_.at(0).size[3] == one_.at(1).size[3], SIZE);
  }
  void weights(int weight, int bias, std::int64_t c_in, std::int64_t c_out, std::int64_t kernel) const {
    const auto &w = one_.at(weight), &b = one_.at(bias);
    require(type(weight) == FLOAT && type(bias) == FLOAT, TYPE);
    require(w.size[3] == kernel * c_in * c_out && w.stride[3] == 1 && w.numbers() == w.size[3], SIZE);
    require(b.size[3] == c_out && b.stride[3] == 1 && b.numbers() == c_out, SIZE);
  }
  void convolution() const {
    require(type(0) == FLOAT && type(1) == FLOAT, TYPE), window(true);
    const auto &out = one_.at(0), &in = one_.at(1);
    const std::int64_t groups = one_.number[9];
    require(groups > 0 && in.size[3] % groups == 0 && out.size[3] % groups == 0, "groups out of range");
    weights(2, 3, in.size[3] / groups, out.size[3], one_.number[1] * one_.number[2]);
    if (one_.operands == 5) require(type(4) == FLOAT && out.same_sizes(one_.at(4)), SIZE);
    for (int i : {0, 1}) require(one_.at(i).stride[3] == 1, "channels that are scattered");
    if (one_.operands == 5) require(one_.at(4).stride[3] == 1, "channels that are scattered");
  }
  void fast() const {
    const std::int64_t* n = one_.number;
    require(n[1] == 3 && n[2] == 3 && n[3] == n[4] && n[7] == 1 && n[8] == 1 && n[9] == 1 &&
                n[5] == 1 && n[6] == 1 && one_.at(0).size[3] % 16 == 0 &&
                one_.at(1).stride[2] == one_.at(1).size[3],
            "no convolution of this kind");
  }
  // out (1, h, w, C), mask (1, h, w, 1), hidden (1, h, w, D), state (1, H, W, B), added as out, then
  // weights and biases of both convolutions; number: the stride of the first.
  void block() const {
    const auto &out = one_.at(0), &mask = one_.at(1), &hidden = one_.at(2), &state = one_.at(3), &added = one_.at(4);
    for (int i : {0, 2, 3, 4}) require(type(i) == FLOAT, TYPE);
    require(type(1) == BOOL && out.same_sizes(added), TYPE);
    for (int d = 0; d < 3; ++d) require(out.size[d] == mask.size[d] && out.size[d] == hidden.size[d], SIZE);
    require(out.size[0] == 1 && state.size[0] == 1 && mask.size[3] == 1 && hidden.space == WORK, SIZE);
    for (const auto* map : {&hidden, &state})
      require(map->border >= 1 && map->stride[2] == map->size[3], "a map without a border");
    for (const auto* map : {&out, &hidden, &state, &added}) require(map->stride[3] == 1, "channels that are scattered");
    require(out.size[3] % 16 == 0 && hidden.size[3] % 16 == 0, "no convolution of this kind");
    const std::int64_t stride = one_.number[0];
    require(stride > 0 && stride < 4096, "a window out of range");
    for (int d : {1, 2})
      require((out.size[d] - 1) * stride + 1 < state.size[d] + state.border, "a window outside of its image");
    require(out.size[1] * out.size[2] < std::numeric_limits<int>::max() / 2, SIZE);
    weights(5, 6, state.size[3], hidden.size[3], 9);
    weights(7, 8, hidden.size[3], out.size[3], 9);
  }

  const Instruction& one_;
};

}  // namespace skipbench
