// The hybrid activation on a CPU, one pass over memory in each direction. aurep/activation.py has the maths.
//
// An activation x of shape (N, C, ...) is taken as N images of E elements in whatever order they lie in memory. All that
// differs between elements of an image comes as tables of E floats in the same order, so that layout, channels and degree are the
// caller's business. Work is shared out by blocks of elements; a block goes through all images, keeps its tables and its sums in the
// first-level cache, and adds up in the images' order: the result does not depend on the number of threads.
//
// With F (how much is fused in front of the activation), its input u is
//     BARE  x        NORMED  s (x - m) + t        ADDED  s (x - m) + t + r        TWO_NORMED  s (x - m) + t + s' (r - m')
// Tables: c0, c1, c2, then as far as F needs them t, m, s, m', s'.

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <optional>

namespace {

using at::Tensor;

constexpr int64_t BLOCK = 512;  // elements: tables and sums of a block, 16 at most, fit a first-level cache of 32 KiB

enum Fused { BARE, NORMED, ADDED, TWO_NORMED };
enum Table { C0, C1, C2, SHIFT, MEAN, SCALE, MEAN_R, SCALE_R };
enum Sum { INDICATOR, POWER_0, POWER_1, POWER_2, DU, DU_X, DU_R };

constexpr int sums_of(Fused fused) {
    return fused == BARE ? 4 : fused == TWO_NORMED ? 7 : 6;
}

struct Image {
    const float* tables;
    const bool* kept;
    int64_t elements;

    const float* table(Table which, int64_t start) const { return tables + which * elements + start; }
};

template <typename T, Fused F>
inline float input_of(const T* x, const T* r, int64_t j, const float* t, const float* m, const float* s, const float* m2, const float* s2) {
    const float value = static_cast<float>(x[j]);
    if constexpr (F == BARE) return value;
    float u = s[j] * (value - m[j]) + t[j];
    if constexpr (F == ADDED) u += static_cast<float>(r[j]);
    if constexpr (F == TWO_NORMED) u += s2[j] * (static_cast<float>(r[j]) - m2[j]);
    return u;
}

template <typename Work>
void over_blocks(int64_t elements, Work&& work) {
    const int64_t blocks = (elements + BLOCK - 1) / BLOCK;
    at::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
        for (int64_t block = first; block < last; ++block)
            work(block * BLOCK, std::min(BLOCK, elements - block * BLOCK));
    });
}

template <typename T, Fused F>
void forward_kernel(const T* x, const T* r, const Image image, T* y, int64_t images) {
    over_blocks(image.elements, [&](int64_t start, int64_t size) {
        const float *c0 = image.table(C0, start), *c1 = image.table(C1, start), *c2 = image.table(C2, start);
        const float *t = image.table(SHIFT, start), *m = image.table(MEAN, start), *s = image.table(SCALE, start);
        const float *m2 = image.table(MEAN_R, start), *s2 = image.table(SCALE_R, start);
        float kept[BLOCK];  // as wide as what it selects, or compilers do not vectorise
        std::copy_n(image.kept + start, size, kept);
        for (int64_t n = 0; n < images; ++n) {
            const T* xn = x + n * image.elements + start;
            const T* rn = r + n * image.elements + start;
            T* yn = y + n * image.elements + start;
#pragma GCC ivdep
            for (int64_t j = 0; j < size; ++j) {
                const float u = input_of<T, F>(xn, rn, j, t, m, s, m2, s2);
                const float polynomial = (c2[j] * u + c1[j]) * u + c0[j];
                const float rectified = u < 0.0f ? 0.0f : u;  // this way round NaN stays NaN
                yn[j] = static_cast<T>(kept[j] > 0.0f ? rectified : polynomial);
            }
        }
    });
}

template <typename T, Fused F>
void backward_kernel(const T* g, const T* x, const T* r, const Image image, T* du, float* sums, int64_t images) {
    over_blocks(image.elements, [&](int64_t start, int64_t size) {
        const float *c0 = image.table(C0, start), *c1 = image.table(C1, start), *c2 = image.table(C2, start);
        const float *t = image.table(SHIFT, start), *m = image.table(MEAN, start), *s = image.table(SCALE, start);
        const float *m2 = image.table(MEAN_R, start), *s2 = image.table(SCALE_R, start);
        float kept[BLOCK];  // as wide as what it selects, or compilers do not vectorise
        std::copy_n(image.kept + start, size, kept);
        float sum[sums_of(F)][BLOCK] = {};
        for (int64_t n = 0; n < images; ++n) {
            const int64_t offset = n * image.elements + start;
            const T *gn = g + offset, *xn = x + offset, *rn = r + offset;
            T* dn = du + offset;
#pragma GCC ivdep
            for (int64_t j = 0; j < size; ++j) {
                const float gradient = static_cast<float>(gn[j]);
                const float u = input_of<T, F>(xn, rn, j, t, m, s, m2, s2);
                const float polynomial = (c2[j] * u + c1[j]) * u + c0[j];
                const float slope = 2.0f * c2[j] * u + c1[j];
                const float rectified = u < 0.0f ? 0.0f : u;
                const float passed = u > 0.0f ? gradient : 0.0f;
                const float replaced = kept[j] > 0.0f ? 0.0f : gradient;
                const float through = kept[j] > 0.0f ? passed : gradient * slope;
                dn[j] = static_cast<T>(through);
                sum[INDICATOR][j] += gradient * (rectified - polynomial);
                sum[POWER_0][j] += replaced;
                sum[POWER_1][j] += replaced * u;
                sum[POWER_2][j] += replaced * u * u;
                if constexpr (F != BARE) {
                    sum[DU][j] += through;
                    sum[DU_X][j] += through * (static_cast<float>(xn[j]) - m[j]);
                }
                if constexpr (F == TWO_NORMED) sum[DU_R][j] += through * (static_cast<float>(rn[j]) - m2[j]);
            }
        }
        for (int k = 0; k < sums_of(F); ++k)
            std::copy_n(sum[k], size, sums + k * image.elements + start);
    });
}

template <typename T>
void statistics_kernel(const T* x, const float* centre, float* sums, int64_t elements, int64_t images) {
    over_blocks(elements, [&](int64_t start, int64_t size) {
        float sum[2][BLOCK] = {};
        for (int64_t n = 0; n < images; ++n) {
            const T* xn = x + n * elements + start;
#pragma GCC ivdep
            for (int64_t j = 0; j < size; ++j) {
                const float distance = static_cast<float>(xn[j]) - centre[start + j];
                sum[0][j] += distance;
                sum[1][j] += distance * distance;
            }
        }
        for (int k = 0; k < 2; ++k)
            std::copy_n(sum[k], size, sums + k * elements + start);
    });
}

template <typename T>
void norm_input_kernel(const T* du, const T* x, const float* tables, T* dx, int64_t elements, int64_t images) {
    over_blocks(elements, [&](int64_t start, int64_t size) {
        const float *m = tables + start, *a = m + elements, *b = a + elements, *c = b + elements;
        for (int64_t n = 0; n < images; ++n) {
            const int64_t offset = n * elements + start;
#pragma GCC ivdep
            for (int64_t j = 0; j < size; ++j)
                dx[offset + j] = static_cast<T>(
                    a[j] * static_cast<float>(du[offset + j]) + b[j] * (static_cast<float>(x[offset + j]) - m[j]) + c[j]);
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

Image image_of(const Tensor& tables, const Tensor& kept) {
    return {tables.const_data_ptr<float>(), kept.const_data_ptr<bool>(), kept.numel()};
}

Tensor forward(const Tensor& x, const std::optional<Tensor>& residual, const Tensor& kept, const Tensor& tables) {
    Tensor y = at::empty_like(x);
    by_type(x, [&](auto zero) {
        using T = decltype(zero);
        const T* data = x.const_data_ptr<T>();
        by_fused(tables, residual.has_value(), [&](auto fused) {
            forward_kernel<T, decltype(fused)::value>(
                data, maybe(residual, data), image_of(tables, kept), y.mutable_data_ptr<T>(), x.size(0));
        });
    });
    return y;
}

std::tuple<Tensor, Tensor> backward(
    const Tensor& g, const Tensor& x, const std::optional<Tensor>& residual, const Tensor& kept, const Tensor& tables) {
    Tensor du = at::empty_like(x);
    Tensor sums;
    by_type(x, [&](auto zero) {
        using T = decltype(zero);
        const T* data = x.const_data_ptr<T>();
        by_fused(tables, residual.has_value(), [&](auto fused) {
            constexpr Fused F = decltype(fused)::value;
            sums = at::empty({sums_of(F), kept.numel()}, tables.options());
            backward_kernel<T, F>(
                g.const_data_ptr<T>(), data, maybe(residual, data), image_of(tables, kept), du.mutable_data_ptr<T>(),
                sums.mutable_data_ptr<float>(), x.size(0));
        });
    });
    return {du, sums};
}

Tensor statistics(const Tensor& x, const Tensor& centre) {
    Tensor sums = at::empty({2, centre.numel()}, centre.options());
    by_type(x, [&](auto zero) {
        using T = decltype(zero);
        statistics_kernel<T>(
            x.const_data_ptr<T>(), centre.const_data_ptr<float>(), sums.mutable_data_ptr<float>(), centre.numel(), x.size(0));
    });
    return sums;
}

Tensor norm_input(const Tensor& du, const Tensor& x, const Tensor& tables) {
    Tensor dx = at::empty_like(x);
    by_type(x, [&](auto zero) {
        using T = decltype(zero);
        norm_input_kernel<T>(
            du.const_data_ptr<T>(), x.const_data_ptr<T>(), tables.const_data_ptr<float>(), dx.mutable_data_ptr<T>(),
            tables.size(1), x.size(0));
    });
    return dx;
}

}  // namespace

TORCH_LIBRARY(aurep_cpu, library) {
    library.def("forward(Tensor x, Tensor? residual, Tensor kept, Tensor tables) -> Tensor", &forward);
    library.def("backward(Tensor g, Tensor x, Tensor? residual, Tensor kept, Tensor tables) -> (Tensor, Tensor)", &backward);
    library.def("statistics(Tensor x, Tensor centre) -> Tensor", &statistics);
    library.def("norm_input(Tensor du, Tensor x, Tensor tables) -> Tensor", &norm_input);
}
