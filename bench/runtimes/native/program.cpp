// Programs as bench.runtimes.native hands them over, behind a plain C interface.

#include <cstdio>
#include <memory>
#include <mutex>
#include <new>

#include "kernels.h"

namespace skipbench {
namespace {

constexpr std::size_t ALIGNMENT = 64;

struct Freed {
  void operator()(char* memory) const { ::operator delete(memory, std::align_val_t(ALIGNMENT)); }
};
using Block = std::unique_ptr<char, Freed>;

Block block_of(std::int64_t bytes) {
  require(bytes >= 0 && bytes < std::int64_t(1) << 40, "a program without a size");
  Block block(static_cast<char*>(::operator new(std::size_t(bytes) + ALIGNMENT, std::align_val_t(ALIGNMENT))));
  std::memset(block.get(), 0, std::size_t(bytes));
  return block;
}

class Program {
 public:
  [[gnu::cold]] Program(const std::int64_t* words, std::int64_t word_count, const double* factors,
          std::int64_t factor_count, const char* constants, const std::int64_t (&bytes)[SPACES])
      : work_(block_of(bytes[WORK])), constants_(block_of(bytes[CONSTANT])) {
    std::memcpy(constants_.get(), constants, std::size_t(bytes[CONSTANT]));
    memory_.base[WORK] = work_.get();
    memory_.base[CONSTANT] = constants_.get();
    Words from{words, words + word_count};
    const std::int64_t operands = from.count(), instructions = from.count();
    require(instructions == factor_count, "other factors than instructions");
    operands_.resize(operands);
    for (Operand& one : operands_) {
      from.take(reinterpret_cast<std::int64_t*>(&one), sizeof(Operand) / sizeof(std::int64_t));
      one.check(bytes);
    }
    for (const Operand*& end : ends_) end = operand(from.next());
    code_.resize(instructions);
    for (std::int64_t i = 0; i < instructions; ++i) {
      Instruction& one = code_[i];
      one.op = from.next();
      one.factor = factors[i];
      one.operands = int(from.count(Instruction::MOST_OPERANDS));
      for (int o = 0; o < one.operands; ++o) one.operand[o] = operand(from.next());
      from.take(one.number, from.count(Instruction::MOST_NUMBERS));
      Checks(one).all(i, instructions);
    }
    const Operand &image = *ends_[0], &logits = *ends_[1], &executed = *ends_[2];
    require(image.space == WORK && image.size[0] == 1 && image.stride[3] == 1 && image.stride[2] == image.size[3],
            "an image of another form");
    for (const Operand* end : ends_) require(end->type == FLOAT, "ends of another type");
    for (const Operand* end : {&logits, &executed}) require(end->numbers() == end->size[3], "ends of another form");
  }

  std::int64_t image_numbers() const { return ends_[0]->numbers(); }
  std::int64_t logit_numbers() const { return ends_[1]->numbers(); }
  std::int64_t executed_numbers() const { return ends_[2]->numbers(); }

  void run(const float* images, std::int64_t count, float* logits, float* executed) {
    const std::lock_guard<std::mutex> alone(mutex_);
    for (std::int64_t n = 0; n < count; ++n) {
      take(images + n * image_numbers());
      execute();
      give(*ends_[1], logits + n * logit_numbers());
      give(*ends_[2], executed + n * executed_numbers());
    }
  }

 private:
  struct Words {
    const std::int64_t *at, *end;
    std::int64_t next() {
      require(at < end, "a program that ends early");
      return *at++;
    }
    std::int64_t count(std::int64_t most = std::int64_t(1) << 24) {
      const std::int64_t n = next();
      require(n >= 0 && n <= most && n <= end - at, "a program that ends early");
      return n;
    }
    void take(std::int64_t* to, std::int64_t n) {
      require(n <= end - at, "a program that ends early");
      std::copy(at, at + n, to);
      at += n;
    }
  };

  const Operand* operand(std::int64_t number) const {
    require(number >= 0 && number < std::int64_t(operands_.size()), "no such operand");
    return &operands_[number];
  }

  void take(const float* image) {
    const Operand& to = *ends_[0];
    const std::int64_t row = to.size[2] * to.size[3];
    for (std::int64_t y = 0; y < to.size[1]; ++y)
      std::memcpy(memory_.at<float>(to) + y * to.stride[1], image + y * row, std::size_t(row) * sizeof(float));
  }

  void give(const Operand& from, float* to) const {
    for (std::int64_t i = 0; i < from.size[3]; ++i) to[i] = memory_.at<float>(from)[i * from.stride[3]];
  }

  void execute() {
    for (std::size_t place = 0; place < code_.size();) {
      const Instruction& one = code_[place++];
      switch (one.op) {
        case COPY: copy(one, memory_); break;
        case FILL: fill(one, memory_); break;
        case UNARY: unary(one, memory_); break;
        case BINARY: binary(one, memory_); break;
        case WHERE: typed(one.at(0).type, [&](auto t) { where_of<decltype(t)>(one, memory_); }); break;
        case MULADD: muladd(one, memory_); break;
        case REDUCE: typed(one.at(1).type, [&](auto t) { reduce_of<decltype(t)>(one, memory_); }); break;
        case PRODUCT: one.at(0).type == FLOAT ? product_of<float>(one, memory_) : product_of<double>(one, memory_); break;
        case TOP: one.at(0).type == FLOAT ? top_of<float>(one, memory_) : top_of<double>(one, memory_); break;
        case POOL: pool(one, memory_); break;
        case CONVOLUTION: convolution(one, memory_); break;
        case CONVOLUTION3: convolution3(one, memory_); break;
        case SPARSE_BLOCK: sparse_block(one, memory_); break;
        case BRANCH: if (!*memory_.at<std::uint8_t>(one.at(0))) place = std::size_t(one.number[0]); break;
        case JUMP: place = std::size_t(one.number[0]); break;
      }
    }
  }

  Block work_, constants_;
  Memory memory_;
  std::vector<Operand> operands_;
  std::vector<Instruction> code_;
  const Operand* ends_[3];  // image, logits, executed
  std::mutex mutex_;
};

}  // namespace
}  // namespace skipbench

extern "C" {

// Returns a program, or nothing and why in `error`.
[[gnu::cold]] void* skipbench_load(const std::int64_t* words, std::int64_t word_count, const double* factors,
                     std::int64_t factor_count, const char* constants, std::int64_t constant_bytes,
                     std::int64_t work_bytes, char* error, std::int64_t error_size) {
  try {
    const std::int64_t bytes[skipbench::SPACES] = {work_bytes, constant_bytes};
    return new skipbench::Program(words, word_count, factors, factor_count, constants, bytes);
  } catch (const std::exception& failed) {
    std::snprintf(error, std::size_t(error_size), "%s", failed.what());
    return nullptr;
  }
}

// Returns 0, or 1 where a size is not that of so many images: then nothing was touched.
int skipbench_run(void* program, const float* images, std::int64_t image_numbers, std::int64_t count,
                  float* logits, std::int64_t logit_numbers, float* executed, std::int64_t executed_numbers) {
  auto& own = *static_cast<skipbench::Program*>(program);
  if (count < 0 || image_numbers != count * own.image_numbers() || logit_numbers != count * own.logit_numbers() ||
      executed_numbers != count * own.executed_numbers())
    return 1;
  try {
    own.run(images, count, logits, executed);
  } catch (const std::exception&) {
    return 2;
  }
  return 0;
}

void skipbench_free(void* program) { delete static_cast<skipbench::Program*>(program); }
}
