// Operators of KD and its spherical form on dense logits [B, K, N], which are read where they lie:
// positions side by side are a vector's lanes. Blocks of positions are what the threads share, and
// their losses are added in their order: results are bitwise the same for any number of threads.

#include <optional>
#include <tuple>
#include <vector>

#include "gradient_memory.h"
#include "rows_tensors.h"

namespace amd_fused {
namespace {

// Logits of a block: both sides of it, and what is computed of them, stay in a core's cache.
constexpr int64_t kBlockElements = 8192, kLeastPositions = 128, kClassesInPlace = 48;

// Strides in elements.
struct Map {
  char* data;
  Storage storage;
  int64_t element;  // bytes
  int64_t batch, classes, positions, stride_b, stride_k, stride_n;

  explicit Map(const Tensor& a)
      : data(static_cast<char*>(a.data_ptr())),
        storage(storage_of(a)),
        element(a.element_size()),
        batch(a.size(0)),
        classes(a.size(1)),
        positions(a.size(2)),
        stride_b(a.stride(0)),
        stride_k(a.stride(1)),
        stride_n(positions > 1 ? a.stride(2) : 1) {}

  char* at(int64_t b, int64_t k, int64_t n) const {
    return data + (b * stride_b + k * stride_k + n * stride_n) * element;
  }
  bool class_by_class() const { return stride_n == 1 || stride_k != 1; }
  // Whether kernels read it in place. They go from class to class for every few positions, and of
  // many classes each lies on a page of its own.
  template <typename T>
  bool plain() const {
    return stride_n == 1 && storage == kOwnStorage<T> && classes <= kClassesInPlace;
  }
  int64_t bytes() const { return batch * classes * positions * element; }
};

// The blocks of a map, by number.
struct Blocks {
  int64_t size, of_sample, count;

  explicit Blocks(const Map& z) {
    const int64_t fitting = kBlockElements / z.classes / kLeastPositions * kLeastPositions;
    size = std::max(kLeastPositions, fitting);
    of_sample = (z.positions + size - 1) / size;
    count = z.batch * of_sample;
  }

  // Runs f(block, sample, first position, positions) with a buffer of a thread's own.
  template <typename T, typename F>
  void over(const Map& z, int64_t buffers, const F& f) const {
    // Not a power of two apart: those would share a few sets of the cache.
    const int64_t stride = size + 16, unit = std::max<int64_t>(1, kUnitElements / kBlockElements);
    torch::stable::parallel_for(0, count, unit, [&](int64_t first, int64_t last) {
      std::vector<T> memory((buffers * stride + 1) * z.classes);
      for (int64_t block = first; block < last; ++block) {
        const int64_t begin = block % of_sample * size;
        f(block, block / of_sample, begin, std::min(size, z.positions - begin), memory.data(),
          stride);
      }
    });
  }
};

// A block of logits: where they lie if that will do, else widened into `buffer`; `row` holds the
// classes of one position.
template <typename T>
KdSide<const T> read_block(const Map& z, int64_t b, int64_t begin, int64_t count, T* buffer,
                           int64_t stride, T* row) {
  if (z.plain<T>()) return {reinterpret_cast<const T*>(z.at(b, 0, begin)), z.stride_k};
  const auto widen = row_kernels<T>().widen[z.storage];
  if (z.class_by_class()) {
    for (int64_t k = 0; k < z.classes; ++k)
      widen(z.at(b, k, begin), z.stride_n, count, buffer + k * stride);
    return {buffer, stride};
  }
  for (int64_t n = 0; n < count; ++n) {
    const T* from = reinterpret_cast<const T*>(z.at(b, 0, begin + n));
    if (z.storage != kOwnStorage<T>) {
      widen(from, 1, z.classes, row);
      from = row;
    }
    for (int64_t k = 0; k < z.classes; ++k) buffer[k * stride + n] = from[k];
  }
  return {buffer, stride};
}

// Where the gradient of one side goes: in place where it lies as T's, else by way of a buffer.
template <typename T>
struct MapOutput {
  std::optional<Map> z;
  bool past_cache, in_place;

  explicit MapOutput(const Tensor* gradient) : past_cache(false), in_place(false) {
    if (!gradient) return;
    z.emplace(*gradient);
    past_cache = z->bytes() > kPastCacheBytes;
    in_place = z->template plain<T>() && !past_cache;
  }

  KdSide<T> open(int64_t b, int64_t begin, T* buffer, int64_t stride) const {
    if (!z) return {nullptr, 0};
    if (!in_place) return {buffer, stride};
    return {reinterpret_cast<T*>(z->at(b, 0, begin)), z->stride_k};
  }

  void close(int64_t b, int64_t begin, int64_t count, const T* buffer, int64_t stride,
             T* row) const {
    if (!z || in_place) return;
    const auto narrow = row_kernels<T>().narrow[z->storage];
    if (z->class_by_class()) {
      for (int64_t k = 0; k < z->classes; ++k)
        narrow(buffer + k * stride, count, z->at(b, k, begin), z->stride_n, past_cache);
      return;
    }
    for (int64_t n = 0; n < count; ++n) {
      for (int64_t k = 0; k < z->classes; ++k) row[k] = buffer[k * stride + n];
      narrow(row, z->classes, z->at(b, 0, begin + n), 1, false);
    }
  }
};

template <typename T>
std::tuple<Tensor, Tensor> forward(const Tensor& student, const Tensor& teacher,
                                   const bool* counted, const KdForm& form) {
  constexpr Scalar kDtype = sizeof(T) == 8 ? Scalar::Double : Scalar::Float;
  const KdMapKernels<T>& kernel = row_kernels<T>().kd_map;
  const Map z_s(student), z_t(teacher);
  const int64_t positions = z_s.positions;
  const int64_t planes = form.norm == kNoNorm ? int64_t(kKdPlanes) : int64_t(kSphericalPlanes);
  Tensor rows = torch::stable::new_empty(student, {z_s.batch, planes, positions}, kDtype);
  T* const row = static_cast<T*>(rows.data_ptr());
  const Blocks blocks(z_s);
  std::vector<double> sums(blocks.count);
  blocks.over<T>(z_s, 2, [&](int64_t block, int64_t b, int64_t begin, int64_t count, T* memory,
                             int64_t stride) {
    T *const second = memory + z_s.classes * stride, *const one = second + z_s.classes * stride;
    std::vector<double> kl(count);
    kernel.divergences(read_block(z_s, b, begin, count, memory, stride, one),
                       read_block(z_t, b, begin, count, second, stride, one), z_s.classes, count,
                       form, counted ? counted + b * positions + begin : nullptr,
                       row + b * planes * positions + begin, positions, kl.data());
    for (double of_position : kl) sums[block] += of_position;
  });
  double sum = 0;
  for (double of_block : sums) sum += of_block;
  Tensor loss = torch::stable::new_empty(student, std::vector<int64_t>{}, kDtype);
  const double mean = sum / double(z_s.batch * positions);
  *static_cast<T*>(loss.data_ptr()) = T(mean / (form.softening * form.softening));
  return {loss, rows};
}

template <typename T>
void backward(T upstream, const Map& z_s, const Map& z_t, const KdForm& form, const T* rows,
              int64_t planes, const MapOutput<T>& d_z_s, const MapOutput<T>& d_z_t) {
  const KdMapKernels<T>& kernel = row_kernels<T>().kd_map;
  const double positions = double(z_s.batch * z_s.positions);
  const T weight = T(double(upstream) / (form.softening * form.softening * positions));
  Blocks(z_s).over<T>(z_s, 4, [&](int64_t, int64_t b, int64_t begin, int64_t count, T* memory,
                                  int64_t stride) {
    const int64_t each = z_s.classes * stride;
    T *const for_s = memory + 2 * each, *const for_t = memory + 3 * each;
    T* const one = memory + 4 * each;
    kernel.gradients(read_block(z_s, b, begin, count, memory, stride, one),
                     read_block(z_t, b, begin, count, memory + each, stride, one), z_s.classes,
                     count, form, rows + b * planes * z_s.positions + begin, z_s.positions, weight,
                     d_z_s.open(b, begin, for_s, stride), d_z_t.open(b, begin, for_t, stride));
    d_z_s.close(b, begin, count, for_s, stride, one);
    d_z_t.close(b, begin, count, for_t, stride, one);
  });
}

// Schemas and meaning of the arguments: amd_fused/losses/kd/operator.py, which is the only caller
// and has checked them.
std::tuple<Tensor, Tensor> kd_map_fwd(Tensor student, Tensor teacher, std::optional<Tensor> counted,
                                      Tensor numbers, int64_t norm, bool fixed_radius) {
  const double* number = static_cast<const double*>(numbers.data_ptr());
  const KdForm form{LogitNorm(norm), 1 / number[0], fixed_radius, number[1]};
  STD_TORCH_CHECK(!counted || (counted->is_contiguous() && counted->scalar_type() == Scalar::Bool),
                  "kd_map_fwd: counted must be contiguous and boolean");
  const bool* on = counted ? static_cast<const bool*>(counted->data_ptr()) : nullptr;
  return any_double({student, teacher}) ? forward<double>(student, teacher, on, form)
                                        : forward<float>(student, teacher, on, form);
}

std::vector<Tensor> kd_map_bwd(Tensor grad_loss, Tensor student, Tensor teacher, Tensor rows,
                               Tensor numbers, bool student_grad, bool teacher_grad) {
  STD_TORCH_CHECK(rows.is_contiguous() && rows.scalar_type() == grad_loss.scalar_type(),
                  "kd_map_bwd: rows must be the tensor that kd_map_fwd returned");
  const double temperature = *static_cast<const double*>(numbers.data_ptr());
  const int64_t planes = rows.size(1);
  // What the norm was is in the planes.
  const KdForm form{planes == kKdPlanes ? kNoNorm : kL2, 1 / temperature, false, 0};
  std::vector<Tensor> gradients;
  if (student_grad) gradients.push_back(torch::stable::empty_like(student));
  if (teacher_grad) gradients.push_back(torch::stable::empty_like(teacher));
  auto run = [&](auto zero) {
    using T = decltype(zero);
    backward<T>(*static_cast<const T*>(grad_loss.data_ptr()), Map(student), Map(teacher), form,
                static_cast<const T*>(rows.data_ptr()), planes,
                MapOutput<T>(student_grad ? &gradients.front() : nullptr),
                MapOutput<T>(teacher_grad ? &gradients.back() : nullptr));
  };
  if (grad_loss.scalar_type() == Scalar::Double)
    run(double{});
  else
    run(float{});
  return gradients;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(amd_fused, CPU, m) {
  m.impl("kd_map_fwd_cpp", TORCH_BOX(&kd_map_fwd));
  m.impl("kd_map_bwd_cpp", TORCH_BOX(&kd_map_bwd));
}

}  // namespace amd_fused
