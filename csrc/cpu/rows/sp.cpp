// Operators of the SP loss: inner products of every two rows, and mixtures of the rows.

#include <vector>

#include "rows_tensors.h"

namespace amd_fused {
namespace {

// Rows and columns that one unit of the inner products compares: they stay in the second-level
// cache.
constexpr int64_t kPanel = 32, kColumns = 1024;
static_assert(kPanel % kDotRows == 0 && kColumns <= kTile);
// Units at the most, where there are no more pairs of panels: what is to be added up stays little.
constexpr int64_t kUnits = 128;
// Elements of the rows that one unit of a mixture holds, columns at the least, and rows that it
// makes.
constexpr int64_t kMixElements = 1 << 13, kLeastColumns = 64, kMixGroup = 256;
static_assert(kMixGroup % kMixRows == 0);

int64_t parts_of(int64_t length, int64_t size) { return (length + size - 1) / size; }

// Columns [begin, begin + count) of the rows from `first` on, each where it lies or in `buffer`;
// beyond the last row stands the last one again.
template <typename T>
void read_rows(const Matrix& x, int64_t first, int64_t rows, int64_t begin, int64_t count,
               T* buffer, const T** to) {
  for (int64_t i = 0; i < rows; ++i)
    to[i] =
        first + i < x.rows ? read_tile(x, first + i, begin, count, buffer + i * count) : to[i - 1];
}

// The inner products of two panels, over some of the columns, in blocks of kDotRows times kDotRows.
struct DotUnit {
  int64_t i, j, begin, end;  // panels, j <= i; columns
};

template <typename T>
void gram(const Matrix& x, T* out) {
  const int64_t panels = parts_of(x.rows, kPanel), pairs = panels * (panels + 1) / 2;
  const int64_t chunks = parts_of(x.columns, kColumns);
  const int64_t most = std::max<int64_t>(1, kUnits / pairs);
  const int64_t span = parts_of(chunks, most) * kColumns, spans = parts_of(x.columns, span);
  const int64_t length = std::min(kPanel, parts_of(x.rows, kDotRows) * kDotRows);
  const int64_t blocks = length / kDotRows, block = kDotRows * kDotRows;
  std::vector<DotUnit> units;
  for (int64_t i = 0; i < panels; ++i)
    for (int64_t j = 0; j <= i; ++j)
      for (int64_t begin = 0; begin < x.columns; begin += span)
        units.push_back({i, j, begin, std::min(begin + span, x.columns)});
  std::vector<T> partial(units.size() * blocks * blocks * block);
  const SpKernels<T>& kernel = row_kernels<T>().sp;

  torch::stable::parallel_for(0, int64_t(units.size()), 1, [&](int64_t first, int64_t last) {
    std::vector<T> buffer(is_plain<T>(x) ? 0 : 2 * kPanel * kColumns);
    const T *a[kPanel], *b[kPanel];
    for (int64_t u = first; u < last; ++u) {
      const DotUnit& unit = units[u];
      T* const sums = partial.data() + u * blocks * blocks * block;
      for (int64_t begin = unit.begin; begin < unit.end; begin += kColumns) {
        const int64_t count = std::min(kColumns, unit.end - begin);
        read_rows(x, unit.i * kPanel, length, begin, count, buffer.data(), a);
        if (unit.j < unit.i)
          read_rows(x, unit.j * kPanel, length, begin, count, buffer.data() + buffer.size() / 2, b);
        for (int64_t p = 0; p < blocks; ++p)
          for (int64_t q = 0; q < (unit.j < unit.i ? blocks : p + 1); ++q)
            kernel.dots(a + p * kDotRows, (unit.j < unit.i ? b : a) + q * kDotRows, count,
                        sums + (p * blocks + q) * block);
      }
    }
  });

  // In the order of the columns, whoever computed what.
  auto total = [&](int64_t row, int64_t column) {
    const int64_t i = row / kPanel, j = column / kPanel, r = row % kPanel, c = column % kPanel;
    const int64_t in_unit =
        (r / kDotRows * blocks + c / kDotRows) * block + r % kDotRows * kDotRows + c % kDotRows;
    double sum = 0;
    for (int64_t s = 0; s < spans; ++s)
      sum += partial[((i * (i + 1) / 2 + j) * spans + s) * blocks * blocks * block + in_unit];
    return T(sum);
  };
  for (int64_t row = 0; row < x.rows; ++row)
    for (int64_t column = 0; column <= row; ++column)
      out[row * x.rows + column] = out[column * x.rows + row] = total(row, column);
}

template <typename T>
void mix(const T* factors, const Matrix& x, const Matrix& out) {
  const int64_t group = std::min(kMixGroup, x.rows), groups = parts_of(x.rows, group);
  const int64_t width =
      std::max(kLeastColumns, kMixElements / x.rows / kLeastColumns * kLeastColumns);
  const int64_t units = parts_of(x.columns, width) * groups;
  const bool in_place = is_plain<T>(out);
  const RowKernels<T>& kernel = row_kernels<T>();
  torch::stable::parallel_for(0, units, 1, [&](int64_t first, int64_t last) {
    std::vector<T> buffer(is_plain<T>(x) ? 0 : x.rows * width), result(kMixRows * width);
    std::vector<const T*> rows(x.rows);
    for (int64_t u = first; u < last; ++u) {
      const int64_t begin = u / groups * width, count = std::min(width, x.columns - begin);
      read_rows(x, 0, x.rows, begin, count, buffer.data(), rows.data());
      const int64_t end = std::min(x.rows, (u % groups + 1) * group);
      for (int64_t i = u % groups * group; i < end; i += kMixRows) {
        const int64_t filled = std::min<int64_t>(kMixRows, end - i);
        const T* of_row[kMixRows];
        T* to[kMixRows];
        for (int64_t r = 0; r < kMixRows; ++r) {
          const bool there = r < filled;
          of_row[r] = factors + (there ? i + r : i) * x.rows;
          to[r] =
              there && in_place ? static_cast<T*>(out.at(i + r, begin)) : result.data() + r * width;
        }
        kernel.sp.mix(of_row, rows.data(), x.rows, count, to);
        for (int64_t r = 0; r < filled && !in_place; ++r)
          kernel.narrow[out.storage](to[r], count, out.at(i + r, begin), out.column_stride, false);
      }
    }
  });
}

// Schemas and meaning of the arguments: amd_fused/losses/sp/operator.py.
Tensor sp_gram(Tensor rows, bool in_double) {
  const Scalar dtype = in_double ? Scalar::Double : Scalar::Float;
  STD_TORCH_CHECK(in_double || !any_double({rows}),
                  "sp_gram: rows must not be float64 unless in_double");
  Tensor result = torch::stable::new_empty(rows, {rows.size(0), rows.size(0)}, dtype);
  if (in_double)
    gram(matrix_of(rows), static_cast<double*>(result.data_ptr()));
  else
    gram(matrix_of(rows), static_cast<float*>(result.data_ptr()));
  return result;
}

void sp_mix(Tensor factors, Tensor rows, Tensor out) {
  const bool in_double = factors.scalar_type() == Scalar::Double;
  STD_TORCH_CHECK(factors.is_contiguous() && (in_double || !any_double({rows, out})),
                  "sp_mix: factors must be contiguous, and float64 if rows or out is");
  if (in_double)
    mix(static_cast<const double*>(factors.data_ptr()), matrix_of(rows), matrix_of(out));
  else
    mix(static_cast<const float*>(factors.data_ptr()), matrix_of(rows), matrix_of(out));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(amd_fused, CPU, m) {
  m.impl("sp_gram_cpp", TORCH_BOX(&sp_gram));
  m.impl("sp_mix_cpp", TORCH_BOX(&sp_mix));
}

}  // namespace amd_fused
