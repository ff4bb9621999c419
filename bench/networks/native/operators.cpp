// The operators that bench.networks.native loads. All take float32 on a CPU, run in one thread and
// leave checking whether they may be used to whoever puts them into a network.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <tuple>
#include <vector>

#include "convolution.h"
#include "halting.h"

namespace skipbench {
namespace {

using at::Tensor;
using Numbers = const float*;

struct Scratch {
  Padded image, in, hidden;
  PositionStage stage;
  std::vector<float> numbers;
};

Scratch& scratch() {
  static thread_local Scratch kept;
  return kept;
}

Tensor channels_last(const Tensor& x) { return x.contiguous(at::MemoryFormat::ChannelsLast); }

Shape shape_of(const Tensor& x_nchw) {
  return {int(x_nchw.size(2)), int(x_nchw.size(3)), int(x_nchw.size(1))};
}

Tensor empty_images(std::int64_t count, const Shape& shape, const Tensor& like) {
  return at::empty({count, shape.channels, shape.height, shape.width}, like.options(),
                   at::MemoryFormat::ChannelsLast);
}

BlockWeights weights_of(const Tensor& packed, int c_in, int c_out) {
  Numbers from = packed.const_data_ptr<float>();
  const Numbers end = from + packed.numel();
  BlockWeights weights(from, c_in, c_out);
  if (from < end) weights.project(from);
  return weights;
}

// The shape behind a block: a block that has more channels than it reads halves both sides.
Shape behind(const Shape& shape, int c_out) {
  if (c_out == shape.channels) return shape;
  return {(shape.height + 1) / 2, (shape.width + 1) / 2, c_out};
}

// The shortcut at the border of a stage: every second pixel, between zeros or projected.
void border(Numbers x, const Shape& from, const Shape& to, const BlockWeights& weights, float* out) {
  const auto pixel = [&](int row, int column) {
    return x + 2 * (row * from.row() + std::ptrdiff_t(column) * from.channels);
  };
  if (weights.projection == nullptr) {
    std::memset(out, 0, to.numbers() * sizeof(float));
    out += (to.channels - from.channels) / 2;
  }
  for (int row = 0; row < to.height; ++row)
    for (int column = 0; column < to.width; ++column, out += to.channels) {
      const Numbers numbers = pixel(row, column);
      if (weights.projection == nullptr) {
        for (int c = 0; c < from.channels; c += WIDTH) store(out + c, load(numbers + c));
        continue;
      }
      for (int c = 0; c < to.channels; c += WIDTH) {
        Vector sum = load(weights.projection_bias + c);
        for (int k = 0; k < from.channels; ++k)
          sum += numbers[k] * load(weights.projection + k * to.channels + c);
        store(out + c, sum);
      }
    }
}

// One block on one image; `out` may be `x` where the block keeps the shape.
void run_block(Numbers x, const Shape& from, const Shape& to, const BlockWeights& weights,
               float* out) {
  const bool keeps = from.channels == to.channels;
  Padded &in = scratch().in, &hidden = scratch().hidden;
  in.take(from);
  in.fill(x);
  hidden.take(to);
  if (!keeps) border(x, from, to, weights, out);
  convolve_into(in, keeps ? 1 : 2, weights.first, hidden);
  convolve_out<true>(hidden, 1, weights.second, keeps ? x : out, out, to);
}

// What becomes of an image that skips a block at the border of a stage.
void skip_border(Numbers x, const Shape& from, const Shape& to, const BlockWeights& weights,
                 bool clips, float* out) {
  border(x, from, to, weights, out);
  if (clips)
    for (std::ptrdiff_t i = 0; i < to.numbers(); ++i) out[i] = out[i] < 0 ? 0.0f : out[i];
}

void add_positions(Numbers x, const Shape& shape, float* sum) {
  for (int c = 0; c < shape.channels; c += WIDTH) {
    Vector total{};
    for (std::ptrdiff_t p = c; p < shape.numbers(); p += shape.channels) total += load(x + p);
    store(sum + c, total);
  }
}

bool is_open(const Tensor& gates, std::int64_t index) {
  return gates.scalar_type() == at::kBool
             ? gates.const_data_ptr<bool>()[index * gates.stride(-1)]
             : gates.const_data_ptr<float>()[index * gates.stride(-1)] > 0.5f;
}

// ReLU(conv3x3(x) + bias): (N, C, H, W) -> (N, c_out, ceil(H / stride), ceil(W / stride)).
Tensor convolution(const Tensor& x_nchw, const Tensor& packed, std::int64_t c_out,
                   std::int64_t stride) {
  const Tensor x = channels_last(x_nchw);
  const int step = int(stride);
  const Shape from = shape_of(x);
  const Shape to{(from.height + step - 1) / step, (from.width + step - 1) / step, int(c_out)};
  Numbers weights = packed.const_data_ptr<float>();
  const Kernel kernel = taken(weights, from.channels, to.channels);
  Tensor out = empty_images(x.size(0), to, x);
  Padded& in = scratch().image;
  in.take(from);
  for (std::int64_t n = 0; n < x.size(0); ++n) {
    in.fill(x.const_data_ptr<float>() + n * from.numbers());
    convolve_out<false>(in, step, kernel, nullptr,
                        out.mutable_data_ptr<float>() + n * to.numbers(), to);
  }
  return out;
}

// ReLU(shortcut + residual) of a folded block.
Tensor block(const Tensor& x_nchw, const Tensor& packed, std::int64_t c_out) {
  const Tensor x = channels_last(x_nchw);
  const Shape from = shape_of(x), to = behind(from, int(c_out));
  const BlockWeights weights = weights_of(packed, from.channels, to.channels);
  Tensor out = empty_images(x.size(0), to, x);
  for (std::int64_t n = 0; n < x.size(0); ++n)
    run_block(x.const_data_ptr<float>() + n * from.numbers(), from, to, weights,
              out.mutable_data_ptr<float>() + n * to.numbers());
  return out;
}

Tensor sum_positions(const Tensor& x_nchw) {
  const Tensor x = channels_last(x_nchw);
  const Shape shape = shape_of(x);
  Tensor out = at::empty({x.size(0), shape.channels}, x.options());
  for (std::int64_t n = 0; n < x.size(0); ++n)
    add_positions(x.const_data_ptr<float>() + n * shape.numbers(), shape,
                  out.mutable_data_ptr<float>() + n * shape.channels);
  return out;
}

// A block on the images of a batch whose gates (N,) are open; a block that keeps the shape changes
// the states in place and returns them. Means (N, C) over positions, if given, follow in place.
Tensor block_where(Tensor x_nchw, const Tensor& gates_n, const std::optional<Tensor>& means_nc,
                   const Tensor& packed, std::int64_t c_out, bool clips) {
  TORCH_CHECK(x_nchw.is_contiguous(at::MemoryFormat::ChannelsLast), "states must be channels-last");
  TORCH_CHECK(!means_nc || means_nc->is_contiguous(), "means must be contiguous");
  const Shape from = shape_of(x_nchw), to = behind(from, int(c_out));
  const BlockWeights weights = weights_of(packed, from.channels, to.channels);
  const bool keeps = from.channels == to.channels;
  Tensor out = keeps ? x_nchw : empty_images(x_nchw.size(0), to, x_nchw);
  for (std::int64_t n = 0; n < x_nchw.size(0); ++n) {
    const Numbers image = x_nchw.const_data_ptr<float>() + n * from.numbers();
    float* written = out.mutable_data_ptr<float>() + n * to.numbers();
    if (is_open(gates_n, n))
      run_block(image, from, to, weights, written);
    else if (!keeps)
      skip_border(image, from, to, weights, clips, written);
    else
      continue;
    if (means_nc) {
      float* mean = means_nc->mutable_data_ptr<float>() + n * to.channels;
      add_positions(written, to, mean);
      for (int c = 0; c < to.channels; ++c) mean[c] /= float(to.height * to.width);
    }
  }
  return out;
}

// For one image: the block if gate `index` is open, else what becomes of who skips it.
Tensor block_if(const Tensor& gates, std::int64_t index, const Tensor& x_nchw, const Tensor& packed,
                std::int64_t c_out, bool clips) {
  if (is_open(gates, index)) return block(x_nchw, packed, c_out);
  if (x_nchw.size(1) == c_out) return x_nchw;
  const Tensor x = channels_last(x_nchw);
  const Shape from = shape_of(x), to = behind(from, int(c_out));
  Tensor out = empty_images(1, to, x);
  skip_border(x.const_data_ptr<float>(), from, to, weights_of(packed, from.channels, to.channels),
              clips, out.mutable_data_ptr<float>());
  return out;
}

// The same, with the sum (1, C) over the positions of the state that goes with it.
std::tuple<Tensor, Tensor> block_and_sum_if(const Tensor& gates, const Tensor& x_nchw,
                                            const Tensor& sum_nc, const Tensor& packed,
                                            std::int64_t c_out, bool clips) {
  Tensor out = block_if(gates, 0, x_nchw, packed, c_out, clips);
  return {out, out.is_same(x_nchw) ? sum_nc : sum_positions(out)};
}

// numbers (K,) = bias + factor * row (C,) times weight (C, K)
void linear(Numbers row, int c_in, float factor, Numbers weight, Numbers bias, int c_out,
            float* numbers) {
  for (int k = 0; k < c_out; ++k) numbers[k] = bias[k];
  for (int c = 0; c < c_in; ++c) {
    const float scaled = factor * row[c];
    for (int k = 0; k < c_out; ++k) numbers[k] += scaled * weight[c * c_out + k];
  }
}

// bias (K,) + factor * sum (N, C) times weight (C, K).
Tensor head(const Tensor& sum_nc, const Tensor& weight_ck, const Tensor& bias_k, double factor) {
  const Tensor x_nc = sum_nc.contiguous();
  const int c_in = int(x_nc.size(1)), c_out = int(bias_k.size(0));
  Tensor out = at::empty({x_nc.size(0), c_out}, x_nc.options());
  for (std::int64_t n = 0; n < x_nc.size(0); ++n)
    linear(x_nc.const_data_ptr<float>() + n * c_in, c_in, float(factor),
           weight_ck.const_data_ptr<float>(), bias_k.const_data_ptr<float>(), c_out,
           out.mutable_data_ptr<float>() + n * c_out);
  return out;
}

// Bools (N,): last (D,) times ReLU(bias (D,) + factor * sum (N, C) times weight (C, D)) > least.
Tensor perceptron(const Tensor& given_nc, double factor, const Tensor& weight_cd,
                  const Tensor& bias_d, const Tensor& last_d, const Tensor& least_1) {
  const Tensor sum_nc = given_nc.contiguous();
  const int c_in = int(sum_nc.size(1)), size = int(bias_d.size(0));
  std::vector<float>& hidden = scratch().numbers;
  hidden.resize(size);
  Tensor open = at::empty({sum_nc.size(0)}, sum_nc.options().dtype(at::kBool));
  for (std::int64_t n = 0; n < sum_nc.size(0); ++n) {
    linear(sum_nc.const_data_ptr<float>() + n * c_in, c_in, float(factor),
           weight_cd.const_data_ptr<float>(), bias_d.const_data_ptr<float>(), size, hidden.data());
    float sum = 0;
    for (int d = 0; d < size; ++d)
      sum += std::max(hidden[d], 0.0f) * last_d.const_data_ptr<float>()[d];
    open.mutable_data_ptr<bool>()[n] = sum > *least_1.const_data_ptr<float>();
  }
  return open;
}

// One step of an LSTM of D units: see LeanRecurrent.step. Carried is (N, 4 D + 1), or one row for
// all images, and memory (N, D), empty before the first step.
std::tuple<Tensor, Tensor, Tensor> lstm_gate(const Tensor& given_nc, double factor,
                                             const Tensor& carried, const Tensor& memory_nd,
                                             const Tensor& weight_cp, const Tensor& bias_p,
                                             const Tensor& half_carry_dp) {
  const Tensor sum_nc = given_nc.contiguous();
  const std::int64_t count = sum_nc.size(0);
  const int c_in = int(sum_nc.size(1)), parts = int(bias_p.size(0)), size = parts / 4;
  const bool shared = carried.dim() == 1, first = memory_nd.numel() == 0;
  Tensor next = at::empty({count, parts}, sum_nc.options());
  Tensor memory = at::empty({count, size}, sum_nc.options());
  Tensor open = at::empty({count}, sum_nc.options().dtype(at::kBool));
  std::vector<float>& gate = scratch().numbers;
  gate.resize(parts + size);
  float* hidden = gate.data() + parts;
  for (std::int64_t n = 0; n < count; ++n) {
    linear(sum_nc.const_data_ptr<float>() + n * c_in, c_in, float(factor),
           weight_cp.const_data_ptr<float>(),
           carried.const_data_ptr<float>() + (shared ? 0 : n * parts), parts, gate.data());
    for (int p = 0; p < 4 * size; ++p) gate[p] = sigmoid(gate[p]);
    float* kept = memory.mutable_data_ptr<float>() + n * size;
    for (int d = 0; d < size; ++d) {
      kept[d] = gate[d] * (2 * gate[2 * size + d] - 1);
      if (!first) kept[d] += gate[size + d] * memory_nd.const_data_ptr<float>()[n * size + d];
      hidden[d] = std::tanh(kept[d]) * gate[3 * size + d];
    }
    float* row = next.mutable_data_ptr<float>() + n * parts;
    linear(hidden, size, 2, half_carry_dp.const_data_ptr<float>(), bias_p.const_data_ptr<float>(),
           parts, row);
    open.mutable_data_ptr<bool>()[n] = row[4 * size] >= 0;
  }
  return {next, memory, open};
}

// The trace (1, U): `fixed`, and in `columns` (G,) the gates one after the other; those with a
// negative column are nowhere.
Tensor executed(at::TensorList gates, const Tensor& fixed_1u, const Tensor& column_g) {
  Tensor out = at::empty(fixed_1u.sizes(), fixed_1u.options());
  float* row = out.mutable_data_ptr<float>();
  std::memcpy(row, fixed_1u.const_data_ptr<float>(), out.numel() * sizeof(float));
  const std::int64_t* column = column_g.const_data_ptr<std::int64_t>();
  for (const Tensor& some : gates)
    for (std::int64_t index = 0; index < some.numel(); ++index, ++column)
      if (*column >= 0) row[*column] = is_open(some, index) ? 1.0f : 0.0f;
  return out;
}

// What a stage that halts does behind its first block, one step a row: a block's numbers, then those
// of the score before it.
template <typename Score>
std::vector<HaltingStep<Score>> steps_of(at::TensorList packed, int channels) {
  std::vector<HaltingStep<Score>> steps;
  for (const Tensor& row : packed) {
    Numbers from = row.const_data_ptr<float>();
    const BlockWeights block(from, channels, channels);
    steps.push_back({block, Score(from, channels)});
  }
  return steps;
}

// A stage whose positions halt: the weighted sum of its states, and for each image and step two
// counts (N, B, 2), see PositionStage.
std::tuple<Tensor, Tensor> position_stage(const Tensor& x_nchw, at::TensorList packed, double eps) {
  const Tensor x = channels_last(x_nchw);
  const Shape shape = shape_of(x);
  const auto steps = steps_of<PositionScore>(packed, shape.channels);
  const std::int64_t count = x.size(0), each = 2 * std::int64_t(steps.size());
  Tensor out = empty_images(count, shape, x);
  Tensor counts = at::empty({count, each / 2, 2}, x.options().dtype(at::kLong));
  for (std::int64_t n = 0; n < count; ++n)
    scratch().stage.run(x.const_data_ptr<float>() + n * shape.numbers(), shape, steps, float(eps),
                        out.mutable_data_ptr<float>() + n * shape.numbers(),
                        counts.mutable_data_ptr<std::int64_t>() + n * each);
  return {out, counts};
}

// A stage whose images halt: the weighted sum of its states, and for each image how many steps ran.
std::tuple<Tensor, Tensor> image_stage(const Tensor& x_nchw, at::TensorList packed, double eps) {
  const Tensor x = channels_last(x_nchw);
  const Shape shape = shape_of(x);
  const auto steps = steps_of<MeanScore>(packed, shape.channels);
  const float area = float(shape.height * shape.width);
  Tensor out = empty_images(x.size(0), shape, x);
  Tensor counts = at::empty({x.size(0)}, x.options().dtype(at::kLong));
  std::vector<float>& numbers = scratch().numbers;
  numbers.resize(shape.channels + shape.numbers());
  float *sums = numbers.data(), *state = sums + shape.channels;
  for (std::int64_t n = 0; n < x.size(0); ++n) {
    std::memcpy(state, x.const_data_ptr<float>() + n * shape.numbers(),
                shape.numbers() * sizeof(float));
    float* total = out.mutable_data_ptr<float>() + n * shape.numbers();
    std::memset(total, 0, shape.numbers() * sizeof(float));
    const auto add = [&](float weight) {
      for (std::ptrdiff_t i = 0; i < shape.numbers(); ++i) total[i] += weight * state[i];
    };
    float left = 1;
    std::int64_t ran = 0;
    for (const auto& step : steps) {
      add_positions(state, shape, sums);
      const float score = sigmoid(step.score.of(sums, area, shape.channels));
      const float weight = left - score <= float(eps) ? left : score;
      add(weight);
      left -= weight;
      if (!(left > 0)) break;
      run_block(state, shape, shape, step.block, state);
      ++ran;
    }
    if (left > 0) add(left);
    counts.mutable_data_ptr<std::int64_t>()[n] = ran;
  }
  return {out, counts};
}

}  // namespace
}  // namespace skipbench

TORCH_LIBRARY(skipbench, library) {
  using namespace skipbench;
  library.def("convolution(Tensor x, Tensor packed, int c_out, int stride) -> Tensor", convolution);
  library.def("block(Tensor x, Tensor packed, int c_out) -> Tensor", block);
  library.def(
      "block_where(Tensor(a!) x, Tensor gates, Tensor(b!)? means, Tensor packed, int c_out,"
      " bool clips) -> Tensor(a!)",
      block_where);
  library.def(
      "block_if(Tensor gates, int index, Tensor(a) x, Tensor packed, int c_out, bool clips)"
      " -> Tensor(a)",
      block_if);
  library.def(
      "block_and_sum_if(Tensor gates, Tensor(a) x, Tensor(b) sum, Tensor packed, int c_out,"
      " bool clips) -> (Tensor(a), Tensor(b))",
      block_and_sum_if);
  library.def("sum_positions(Tensor x) -> Tensor", sum_positions);
  library.def("head(Tensor sum, Tensor weight, Tensor bias, float factor) -> Tensor", head);
  library.def(
      "perceptron(Tensor sum, float factor, Tensor weight, Tensor bias, Tensor last, Tensor least)"
      " -> Tensor",
      perceptron);
  library.def(
      "lstm_gate(Tensor sum, float factor, Tensor carried, Tensor memory, Tensor weight,"
      " Tensor bias, Tensor half_carry) -> (Tensor, Tensor, Tensor)",
      lstm_gate);
  library.def("executed(Tensor[] gates, Tensor fixed, Tensor column) -> Tensor", executed);
  library.def("position_stage(Tensor x, Tensor[] packed, float eps) -> (Tensor, Tensor)",
              position_stage);
  library.def("image_stage(Tensor x, Tensor[] packed, float eps) -> (Tensor, Tensor)", image_stage);
}
