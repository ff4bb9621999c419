// Scores, and a stage of one image whose positions halt one by one: what pondering.py and
// position_crowd.py say, computed at the active positions only.

#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "convolution.h"

namespace skipbench {

// A score of the mean over positions: a linear layer on what scale, shift and leaky ReLU make of it.
struct MeanScore {
  const float* scale;
  const float* shift;
  const float* weight;  // (C)
  float slope, bias;

  MeanScore(const float* from, int channels)
      : scale(from),
        shift(from + channels),
        weight(from + 2 * channels),
        slope(from[3 * channels]),
        bias(from[3 * channels + 1]) {}

  // For the sums over `area` positions.
  float of(const float* sums, float area, int channels) const {
    Vector z{};
    for (int c = 0; c < channels; c += WIDTH) {
      const Vector mean = load(shift + c) + load(sums + c) / area * load(scale + c);
      z += load(weight + c) * leaky(mean, slope);
    }
    return bias + added(z);
  }
};

// A score of a position: a 3x3 convolution to one channel of what scale, shift and leaky ReLU make
// of the state, and the score of the mean.
struct PositionScore {
  const float* scale;
  const float* shift;
  const float* weight;  // (3, 3, C)
  float slope;
  MeanScore of_mean;

  PositionScore(const float* from, int channels)
      : scale(from),
        shift(from + channels),
        weight(from + 2 * channels),
        slope(from[11 * channels]),
        of_mean(from + 11 * channels + 1, channels) {}
};

// A block, and the score before it.
template <typename Score>
struct HaltingStep {
  BlockWeights block;
  Score score;
};

inline float sigmoid(float z) { return 1.0f / (1.0f + std::exp(-z)); }

// A position is known by its place: the number of its upper left neighbour among the pixels of the
// padded image, in which the rows of an image do not touch.
class PositionStage {
 public:
  // Runs the steps on the state (h, w, C) behind the first block of the stage and writes the
  // weighted sum of states; counts, two numbers a step, become the positions where the block ran
  // and these with their neighbours.
  void run(const float* state, const Shape& shape, const std::vector<HaltingStep<PositionScore>>& steps, float eps,
           float* total, std::int64_t* counts) {
    shape_ = shape;
    across_ = shape.width + 2;
    state_.take(shape);
    state_.fill(state);
    hidden_.take(shape);
    features_.take(shape);
    total_.take(shape);
    total_.clear();
    left_.assign(std::size_t(across_) * shape.height, 1.0f);
    active_.clear();
    for (int y = 0; y < shape.height; ++y)
      for (int x = 0; x < shape.width; ++x) active_.push_back(y * across_ + x);
    for (const auto& step : steps) {
      std::size_t around = 0;
      if (!active_.empty()) {
        weigh(step.score, eps);
        around = active_.empty() ? 0 : advance(step);
      }
      *counts++ = std::int64_t(active_.size());
      *counts++ = std::int64_t(around);
    }
    for (int place : active_) add(place, left_[place]);
    total_.copy(total);
  }

 private:
  // Gives each active position its weight, and keeps those of which something is left.
  void weigh(const PositionScore& score, float eps) {
    scores(score);
    std::size_t stay = 0;
    for (std::size_t i = 0; i < active_.size(); ++i) {
      const int place = active_[i];
      const float weight = left_[place] - scores_[i] <= eps ? left_[place] : scores_[i];
      add(place, weight);
      left_[place] -= weight;
      active_[stay] = place;
      stay += left_[place] > 0;
    }
    active_.resize(stay);
  }

  void add(int place, float weight) {
    const float* state = state_.pixel(place);
    float* total = total_.pixel(place);
    for (int c = 0; c < shape_.channels; c += WIDTH)
      store(total + c, load(total + c) + weight * load(state + c));
  }

  // The scores of the active positions, in their order.
  void scores(const PositionScore& score) {
    features(score);
    const float area = float(shape_.height * shape_.width);
    const float whole = score.of_mean.of(sums_.data(), area, shape_.channels);
    const std::ptrdiff_t row = shape_.padded_row(), width = 3 * shape_.channels;
    scores_.resize(active_.size());
    for (std::size_t i = 0; i < active_.size(); ++i) {
      const float* from = features_.begin() + std::ptrdiff_t(active_[i]) * shape_.channels;
      const float* weight = score.weight;
      Vector sum[3] = {};
      for (int k = 0; k < width; k += WIDTH)
#pragma GCC unroll 3
        for (int y = 0; y < 3; ++y) sum[y] += load(from + y * row + k) * load(weight + y * width + k);
      scores_[i] = whole + added(sum[0] + sum[1] + sum[2]);
    }
    for (float& z : scores_) z = sigmoid(z);
  }

  // Writes the features of all positions, and the sums of their states.
  void features(const PositionScore& score) {
    sums_.resize(shape_.channels);
    for (int c = 0; c < shape_.channels; c += WIDTH) {
      const Vector scale = load(score.scale + c), shift = load(score.shift + c);
      Vector sum{};
      for (int y = 0; y < shape_.height; ++y) {
        const float* state = state_.at(y, 0) + c;
        float* feature = features_.at(y, 0) + c;
        for (int x = 0; x < shape_.width; ++x) {
          const Vector number = load(state);
          sum += number;
          store(feature, leaky(shift + number * scale, score.slope));
          state += shape_.channels;
          feature += shape_.channels;
        }
      }
      store(sums_.data() + c, sum);
    }
  }

  // Runs the block at the active positions and returns how many positions its first convolution
  // needs: these and their neighbours.
  std::size_t advance(const HaltingStep<PositionScore>& step) {
    const std::ptrdiff_t row = shape_.padded_row(), channels = shape_.channels;
    grow();
    convolve<false>(int(around_.size()), row, step.block.first, [&](int i, Pixels& at, int p) {
      at.from[p] = state_.begin() + around_[i] * channels;
      at.to[p] = hidden_.pixel(around_[i]);
    });
    convolve<true>(int(active_.size()), row, step.block.second, [&](int i, Pixels& at, int p) {
      at.from[p] = hidden_.begin() + active_[i] * channels;
      at.added[p] = at.to[p] = state_.pixel(active_[i]);
    });
    return around_.size();
  }

  // Lists the active positions with their neighbours, in order.
  void grow() {
    marks_.assign(std::size_t(across_) * (shape_.height + 2), 0);
    for (int place : active_)
      for (int y = 0; y < 3; ++y) {
        std::uint8_t* mark = marks_.data() + place + y * across_;
        mark[0] = mark[1] = mark[2] = 1;
      }
    around_.resize(std::size_t(shape_.height) * shape_.width);
    std::size_t count = 0;
    for (int y = 0; y < shape_.height; ++y)
      for (int x = 0; x < shape_.width; ++x) {
        around_[count] = y * across_ + x;
        count += marks_[(y + 1) * across_ + x + 1];
      }
    around_.resize(count);
  }

  Shape shape_{};
  int across_ = 0;
  Padded state_, hidden_, features_, total_;
  std::vector<float> left_, scores_, sums_;
  std::vector<int> active_, around_;
  std::vector<std::uint8_t> marks_;
};

}  // namespace skipbench
