// The hybrid activation on a CPU, one pass over memory in each direction. aurep/activation.py has the maths.
//
// An activation x of shape (N, C, ...) is taken as N images of E elements in whatever order they lie in memory. What differs between
// channels comes as tables of floats, and layout, channels and degree are the caller's business: a table holds either a value for
// every element of an image, or one period of them that repeats (the channels, where those come last). Work is shared out by
// blocks of elements; a block goes through all images, keeps its part of the tables and its sums in the first-level cache, and adds
// up in the images' order: the result does not depend on the number of threads. Blocks of repeated tables are long, so that memory
// is read in long pieces.
//
// With F (how much is fused in front of the activation), its input u is
//     BARE  x        NORMED  s (x - m) + t        ADDED  s (x - m) + t + r        TWO_NORMED  s (x - m) + t + s' (r - m')
// Tables: c0, c1, c2, then as far as F needs them t, m, s, m', s'.

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <optional>

namespace {

using at::Tensor;

constexpr int64_t WIDTH = AUREP_WIDTH;  // values of a table that a block holds at most; cpu_build.py says how many
constexpr int64_t PIECE = 8192;  // elements of an image in a block whose tables repeat
constexpr int64_t FLUSH = 64;    // values that a sum takes before it is added to another, so that fewer digits are lost

enum Fused { BARE, NORMED, ADDED, TWO_NORMED };
enum Table { C0, C1, C2, SHIFT, MEAN, SCALE, MEAN_R, SCALE_R };
enum Sum { POWER_0, POWER_1, POWER_2, DU, DU_X, DU_R };

constexpr int tables_of(Fused fused) {
    return fused == BARE ? 3 : fused == TWO_NORMED ? 8 : 6;
}

constexpr int sums_of(Fused fused) {
    return fused == BARE ? 3 : fused == TWO_NORMED ? 6 : 5;
}

// How the E elements of an image are cut up: `count` blocks of `runs` runs, each `width` long; the last of all may be shorter.
struct Cut {
    int64_t elements, width, runs, count;

    Cut(int64_t elements, int64_t period) : elements(elements) {
        const bool repeats = period < elements;
        width = repeats ? period : std::min(WIDTH, elements);
        runs = repeats ? std::max<int64_t>(1, PIECE / period) : 1;
        count = (elements + width * runs - 1) / (width * runs);
    }

    // Calls work(block's number, first element, elements).
    template <typename Work>
    void over_blocks(Work&& work) const {
        at::parallel_for(0, count, 1, [&](int64_t first, int64_t last) {
            for (int64_t block = first; block < last; ++block) {
                const int64_t start = block * width * runs;
                work(block, start, std::min(width * runs, elements - start));
            }
        });
    }

    // Where a block's tables begin: at its own elements, or at those that all blocks share.
    int64_t origin(int64_t start, int64_t period) const { return period < elements ? 0 : start; }
};

template <int ROWS>
struct Tables {
    float rows[ROWS][WIDTH];

    // Copied, since rows that lie apart by powers of two would evict each other.
    Tables(const float* from, int64_t stride, int64_t size) {
        for (int row = 0; row < ROWS; ++row)
            std::copy_n(from + row * stride, size, rows[row]);
    }
};

// Sums over images and runs, value by value.
template <int ROWS>
struct Sums {
    float rows[ROWS][WIDTH] = {};
    float flushed[ROWS][WIDTH] = {};
    int64_t taken = 0;

    void count(int64_t size) {
        if (++taken == FLUSH) flush(size);
    }

    void flush(int64_t size) {
        for (int row = 0; row < ROWS; ++row)
            for (int64_t j = 0; j < size; ++j) {
                flushed[row][j] += rows[row][j];
                rows[row][j] = 0.0f;
            }
        taken = 0;
    }

    void store(float* to, int64_t stride, int64_t size) {
        flush(size);
        for (int row = 0; row < ROWS; ++row)
            std::copy_n(flushed[row], size, to + row * stride);
    }
};

template <typename T, Fused F>
inline float input_of(const T* x, const T* r, int64_t j, const Tables<tables_of(F)>& at) {
    const float value = static_cast<float>(x[j]);
    if constexpr (F == BARE) {
        return value;
    } else {
        float u = at.rows[SCALE][j] * (value - at.rows[MEAN][j]) + at.rows[SHIFT][j];
        if constexpr (F == ADDED) u += static_cast<float>(r[j]);
        if constexpr (F == TWO_NORMED) u += at.rows[SCALE_R][j] * (static_cast<float>(r[j]) - at.rows[MEAN_R][j]);
        return u;
    }
}

template <typename T, Fused F>
void forward_kernel(
    const T* x, const T* r, const uint8_t* mask, const float* tables, int64_t period, T* y, int64_t images, const Cut& cut) {
    cut.over_blocks([&](int64_t, int64_t start, int64_t elements) {
        const Tables<tables_of(F)> at(tables + cut.origin(start, period), period, std::min(cut.width, elements));
        for (int64_t n = 0; n < images; ++n)
            for (int64_t run = start; run < start + elements; run += cut.width) {
                const int64_t offset = n * cut.elements + run, size = std::min(cut.width, cut.elements - run);
                const T *xn = x + offset, *rn = r + offset;
                const uint8_t* kept = mask + run;
                T* yn = y + offset;
#pragma GCC ivdep
                for (int64_t j = 0; j < size; ++j) {
                    const float u = input_of<T, F>(xn, rn, j, at);
                    const float polynomial = (at.rows[C2][j] * u + at.rows[C1][j]) * u + at.rows[C0][j];
                    const float rectified = u < 0.0f ? 0.0f : u;  // this way round NaN stays NaN
                    const float stays = kept[j];  // as wide as what it selects, or compilers do not vectorise
                    yn[j] = static_cast<T>(stays > 0.0f ? rectified : polynomial);
                }
            }
    });
}

// `indicator` (elements) and `sums` (sums_of(F), blocks, width), the latter reduced over a block's runs.
template <typename T, Fused F>
void backward_kernel(
    const T* g, const T* x, const T* r, const uint8_t* mask, const float* tables, int64_t period, T* du, float* indicator,
    float* sums, int64_t images, const Cut& cut) {
    cut.over_blocks([&](int64_t block, int64_t start, int64_t elements) {
        const int64_t wide = std::min(cut.width, elements);
        const Tables<tables_of(F)> at(tables + cut.origin(start, period), period, wide);
        Sums<sums_of(F)> sum;
        for (int64_t n = 0; n < images; ++n)
            for (int64_t run = start; run < start + elements; run += cut.width) {
                const int64_t offset = n * cut.elements + run, size = std::min(cut.width, cut.elements - run);
                const T *gn = g + offset, *xn = x + offset, *rn = r + offset;
                const uint8_t* kept = mask + run;
                T* dn = du + offset;
                float* an = indicator + run;
#pragma GCC ivdep
                for (int64_t j = 0; j < size; ++j) {
                    const float gradient = static_cast<float>(gn[j]);
                    const float u = input_of<T, F>(xn, rn, j, at);
                    const float polynomial = (at.rows[C2][j] * u + at.rows[C1][j]) * u + at.rows[C0][j];
                    const float slope = 2.0f * at.rows[C2][j] * u + at.rows[C1][j];
                    const float rectified = u < 0.0f ? 0.0f : u;
                    const float passed = u > 0.0f ? gradient : 0.0f;
                    const float stays = kept[j];
                    const float replaced = stays > 0.0f ? 0.0f : gradient;
                    const float through = stays > 0.0f ? passed : gradient * slope;
                    dn[j] = static_cast<T>(through);
                    an[j] += gradient * (rectified - polynomial);
                    sum.rows[POWER_0][j] += replaced;
                    sum.rows[POWER_1][j] += replaced * u;
                    sum.rows[POWER_2][j] += replaced * u * u;
                    if constexpr (F != BARE) {
                        sum.rows[DU][j] += through;
                        sum.rows[DU_X][j] += through * (static_cast<float>(xn[j]) - at.rows[MEAN][j]);
                    }
                    if constexpr (F == TWO_NORMED)
                        sum.rows[DU_R][j] += through * (static_cast<float>(rn[j]) - at.rows[MEAN_R][j]);
                }
                sum.count(wide);
            }
        sum.store(sums + block * cut.width, cut.count * cut.width, wide);
    });
}

template <typename T>
void statistics_kernel(const T* x, const float* centres, int64_t period, float* sums, int64_t images, const Cut& cut) {
    cut.over_blocks([&](int64_t block, int64_t start, int64_t elements) {
        const int64_t wide = std::min(cut.width, elements);
        const Tables<1> at(centres + cut.origin(start, period), period, wide);
        Sums<2> sum;
        for (int64_t n = 0; n < images; ++n)
            for (int64_t run = start; run < start + elements; run += cut.width) {
                const T* xn = x + n * cut.elements + run;
                const int64_t size = std::min(cut.width, cut.elements - run);
#pragma GCC ivdep
                for (int64_t j = 0; j < size; ++j) {
                    const float distance = static_cast<float>(xn[j]) - at.rows[0][j];
                    sum.rows[0][j] += distance;
                    sum.rows[1][j] += distance * distance;
                }
                sum.count(wide);
            }
        sum.store(sums + block * cut.width, cut.count * cut.width, wide);
    });
}

template <typename T>
void norm_input_kernel(
    const T* du, const T* x, const float* tables, int64_t period, T* dx, int64_t images, const Cut& cut) {
    enum { MEAN_OF, A, B, C };
    cut.over_blocks([&](int64_t, int64_t start, int64_t elements) {
        const Tables<4> at(tables + cut.origin(start, period), period, std::min(cut.width, elements));
        for (int64_t n = 0; n < images; ++n)
            for (int64_t run = start; run < start + elements; run += cut.width) {
                const int64_t offset = n * cut.elements + run, size = std::min(cut.width, cut.elements - run);
                const T *dn = du + offset, *xn = x + offset;
                T* to = dx + offset;
#pragma GCC ivdep
                for (int64_t j = 0; j < size; ++j)
                    to[j] = static_cast<T>(
                        at.rows[A][j] * static_cast<float>(dn[j]) +
                        at.rows[B][j] * (static_cast<float>(xn[j]) - at.rows[MEAN_OF][j]) + at.rows[C][j]);
            }
    });
}

template <typename Work>
void by_type(const Tensor& x, Work&& work) {
    if (x.scalar_type() == at::kBFloat16)
        work(c10::BFloat16());
    else
        work(float());
}

template <typename T>
const T* maybe(const std::optional<Tensor>& tensor, const T* otherwise) {
    return tensor ? tensor->const_data_ptr<T>() : otherwise;
}

template <typename Work>
void by_fused(const Tensor& tables, bool has_residual, Work&& work) {
    const int64_t rows = tables.size(0);
    if (rows == 3)
        work(std::integral_constant<Fused, BARE>());
    else if (!has_residual)
        work(std::integral_constant<Fused, NORMED>());
    else if (rows == 6)
        work(std::integral_constant<Fused, ADDED>());
    else
        work(std::integral_constant<Fused, TWO_NORMED>());
}

const uint8_t* bytes(const Tensor& mask) {
    return reinterpret_cast<const uint8_t*>(mask.const_data_ptr<bool>());
}

Tensor forward(const Tensor& x, const std::optional<Tensor>& residual, const Tensor& kept, const Tensor& tables) {
    Tensor y = at::empty_like(x);
    const Cut cut(kept.numel(), tables.size(1));
    by_type(x, [&](auto zero) {
        using T = decltype(zero);
        const T* data = x.const_data_ptr<T>();
        by_fused(tables, residual.has_value(), [&](auto fused) {
            forward_kernel<T, decltype(fused)::value>(
                data, maybe(residual, data), bytes(kept), tables.const_data_ptr<float>(), tables.size(1),
                y.mutable_data_ptr<T>(), x.size(0), cut);
        });
    });
    return y;
}

std::tuple<Tensor, Tensor, Tensor> backward(
    const Tensor& g, const Tensor& x, const std::optional<Tensor>& residual, const Tensor& kept, const Tensor& tables) {
    Tensor du = at::empty_like(x);
    Tensor indicator = at::zeros({kept.numel()}, tables.options());
    Tensor sums;
    const Cut cut(kept.numel(), tables.size(1));
    by_type(x, [&](auto zero) {
        using T = decltype(zero);
        const T* data = x.const_data_ptr<T>();
        by_fused(tables, residual.has_value(), [&](auto fused) {
            constexpr Fused F = decltype(fused)::value;
            sums = at::empty({sums_of(F), cut.count, cut.width}, tables.options());
            backward_kernel<T, F>(
                g.const_data_ptr<T>(), data, maybe(residual, data), bytes(kept), tables.const_data_ptr<float>(),
                tables.size(1), du.mutable_data_ptr<T>(), indicator.mutable_data_ptr<float>(),
                sums.mutable_data_ptr<float>(), x.size(0), cut);
        });
    });
    return {du, indicator, sums};
}

Tensor statistics(const Tensor& x, const Tensor& centres) {
    const Cut cut(x.numel() / x.size(0), centres.size(1));
    Tensor sums = at::empty({2, cut.count, cut.width}, centres.options());
    by_type(x, [&](auto zero) {
        using T = decltype(zero);
        statistics_kernel<T>(
            x.const_data_ptr<T>(), centres.const_data_ptr<float>(), centres.size(1), sums.mutable_data_ptr<float>(),
            x.size(0), cut);
    });
    return sums;
}

Tensor norm_input(const Tensor& du, const Tensor& x, const Tensor& tables, bool spent) {
    Tensor dx = spent ? du : at::empty_like(x);
    const Cut cut(x.numel() / x.size(0), tables.size(1));
    by_type(x, [&](auto zero) {
        using T = decltype(zero);
        norm_input_kernel<T>(
            du.const_data_ptr<T>(), x.const_data_ptr<T>(), tables.const_data_ptr<float>(), tables.size(1),
            dx.mutable_data_ptr<T>(), x.size(0), cut);
    });
    return dx;
}

}  // namespace

TORCH_LIBRARY(aurep_cpu, library) {
    library.def("forward(Tensor x, Tensor? residual, Tensor kept, Tensor tables) -> Tensor", &forward);
    library.def("backward(Tensor g, Tensor x, Tensor? residual, Tensor kept, Tensor tables) -> (Tensor, Tensor, Tensor)", &backward);
    library.def("statistics(Tensor x, Tensor centres) -> Tensor", &statistics);
    library.def("norm_input(Tensor(a!) du, Tensor x, Tensor tables, bool spent) -> Tensor(a!)", &norm_input);
}
