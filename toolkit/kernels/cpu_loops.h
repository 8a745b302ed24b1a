// The loops of the hybrid activation on a CPU, one pass over memory in each direction. aurep/activation.py has the maths.
//
// An activation x of shape (N, C, ...) is taken as N images of E elements in whatever order they lie in memory. What differs between
// channels comes as tables of floats; layout, channels and degree are the business of cpu.cpp: a table holds either a value for
// every element of an image, or one period of them that repeats (the channels, where those come last). A period is taken as often as
// fits the first-level cache, since a loop over 16 channels would never fill a vector. Work is shared out in parts, whose number
// depends on sizes alone, and each adds up in one order: the result does not depend on the number of threads.
//
// Everything is computed and added up in fp32. bfloat16 is its upper half, widened and rounded by the loops themselves.
//
// With F (how much is fused in front of the activation), its input u is
//     BARE  x        NORMED  s (x - m) + t        ADDED  s (x - m) + t + r        TWO_NORMED  s (x - m) + t + s' (r - m')
// Tables: c0, c1, c2, then as far as F needs them t, m, s, m', s'.

#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t WIDTH = 512;  // values of a table that are held at a time: 8 tables and 12 sums of them fit a cache
constexpr int64_t PARTS = 8;    // of the images, where tables repeat
constexpr int64_t FLUSH = 64;   // values that a sum takes before it is added to another, so that fewer digits are lost

enum Fused { BARE, NORMED, ADDED, TWO_NORMED };
enum Table { C0, C1, C2, SHIFT, MEAN, SCALE, MEAN_R, SCALE_R };
enum Sum { POWER_0, POWER_1, POWER_2, DU, DU_X, DU_R };

constexpr int tables_of(Fused fused) {
    return fused == BARE ? 3 : fused == TWO_NORMED ? 8 : 6;
}

constexpr int sums_of(Fused fused) {
    return fused == BARE ? 3 : fused == TWO_NORMED ? 6 : 5;
}

// Images `first` to `last`, of each the elements from `start` on.
struct Part {
    int64_t number, first, last, start, size;
};

// Where tables repeat a part is all of some images, so that memory is read from one end to the other; else some elements of all
// images, since each has its own tables and sums. It is gone through in runs of `width` elements; an image's last may be shorter.
struct Cut {
    int64_t elements, period, images, width, parts;

    Cut(int64_t elements, int64_t period, int64_t images) : elements(elements), period(period), images(images) {
        width = std::min(WIDTH, elements);
        if (repeats()) width = width / period * period;
        parts = repeats() ? std::min(PARTS, images) : (elements + width - 1) / width;
    }

    bool repeats() const { return period < elements; }

    // Values of a row of sums.
    int64_t sums() const { return repeats() ? parts * width : elements; }

    template <typename Work>
    void over_parts(Work&& work) const {
        at::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
            for (int64_t p = first; p < last; ++p)
                if (repeats())
                    work(Part{p, images * p / parts, images * (p + 1) / parts, 0, elements});
                else
                    work(Part{p, 0, images, p * width, std::min(width, elements - p * width)});
        });
    }

    // Calls work(where the run begins in the batch, in its image, its length).
    template <typename Work>
    void over_runs(const Part& part, Work&& work) const {
        for (int64_t n = part.first; n < part.last; ++n)
            for (int64_t run = part.start; run < part.start + part.size; run += width)
                work(n * elements + run, run, std::min(width, elements - run));
    }
};

// A part's own elements of the tables, or the period that all share, as often as it fits.
template <int ROWS>
struct Tables {
    float rows[ROWS][WIDTH];

    // Copied, since rows that lie apart by powers of two would evict each other.
    Tables(const float* from, const Cut& cut, const Part& part) {
        const int64_t size = std::min(cut.width, part.size), piece = cut.repeats() ? cut.period : size;
        for (int row = 0; row < ROWS; ++row)
            for (int64_t j = 0; j < size; j += piece)
                std::copy_n(from + row * cut.period + part.start, piece, rows[row] + j);
    }
};

// Sums over images and runs, value by value. They go to (ROWS, parts, width), or (ROWS, 1, elements) where nothing repeats.
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

    void store(float* to, const Cut& cut, const Part& part) {
        const int64_t size = std::min(cut.width, part.size);
        flush(size);
        for (int row = 0; row < ROWS; ++row)
            std::copy_n(flushed[row], size, to + row * cut.sums() + part.number * cut.width);
    }
};

inline float widened(float value) { return value; }

inline float widened(uint16_t half) {
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

template <typename T>
inline T narrowed(float value);

template <>
inline float narrowed(float value) { return value; }

// To the nearest, to even among two. Adds no more than there is room for below the sign, so that a NaN stays one: what arithmetic
// makes of NaNs has the quiet bit set. (Asking value != value instead costs as much as all the rest.)
template <>
inline uint16_t narrowed(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const uint32_t half = 0x7fff + ((bits >> 16) & 1), room = ~bits & 0x7fffffff;
    return static_cast<uint16_t>((bits + std::min(half, room)) >> 16);
}

template <typename T, Fused F>
inline float input_of(const T* x, const T* r, int64_t j, const Tables<tables_of(F)>& at) {
    const float value = widened(x[j]);
    if constexpr (F == BARE) {
        return value;
    } else {
        float u = at.rows[SCALE][j] * (value - at.rows[MEAN][j]) + at.rows[SHIFT][j];
        if constexpr (F == ADDED) u += widened(r[j]);
        if constexpr (F == TWO_NORMED) u += at.rows[SCALE_R][j] * (widened(r[j]) - at.rows[MEAN_R][j]);
        return u;
    }
}

template <typename T, Fused F>
void forward_kernel(const T* x, const T* r, const uint8_t* mask, const float* tables, T* y, const Cut& cut) {
    cut.over_parts([&](const Part& part) {
        const Tables<tables_of(F)> at(tables, cut, part);
        cut.over_runs(part, [&](int64_t offset, int64_t run, int64_t size) {
            const T *xn = x + offset, *rn = r + offset;
            const uint8_t* kept = mask + run;
            T* yn = y + offset;
#pragma GCC ivdep
            for (int64_t j = 0; j < size; ++j) {
                const float u = input_of<T, F>(xn, rn, j, at);
                const float polynomial = (at.rows[C2][j] * u + at.rows[C1][j]) * u + at.rows[C0][j];
                const float rectified = u < 0.0f ? 0.0f : u;  // this way round NaN stays NaN
                const float stays = kept[j];  // as wide as what it selects, or compilers do not vectorise
                yn[j] = narrowed<T>(stays > 0.0f ? rectified : polynomial);
            }
        });
    });
}

// `indicator`, where it is wanted: (parts, elements), or (1, elements) where nothing repeats.
template <typename T, Fused F, bool OF_ALPHA>
void backward_kernel(
    const T* g, const T* x, const T* r, const uint8_t* mask, const float* tables, T* du, float* indicator, float* sums,
    const Cut& cut) {
    cut.over_parts([&](const Part& part) {
        const Tables<tables_of(F)> at(tables, cut, part);
        Sums<sums_of(F)> sum;
        float* own = indicator + (cut.repeats() ? part.number * cut.elements : 0);
        cut.over_runs(part, [&](int64_t offset, int64_t run, int64_t size) {
            const T *gn = g + offset, *xn = x + offset, *rn = r + offset;
            const uint8_t* kept = mask + run;
            T* dn = du + offset;
            float* an = own + run;
#pragma GCC ivdep
            for (int64_t j = 0; j < size; ++j) {
                const float gradient = widened(gn[j]);
                const float u = input_of<T, F>(xn, rn, j, at);
                const float slope = 2.0f * at.rows[C2][j] * u + at.rows[C1][j];
                const float passed = u > 0.0f ? gradient : 0.0f;
                const float stays = kept[j];
                const float replaced = stays > 0.0f ? 0.0f : gradient;
                const float through = stays > 0.0f ? passed : gradient * slope;
                dn[j] = narrowed<T>(through);
                if constexpr (OF_ALPHA) {
                    const float polynomial = (at.rows[C2][j] * u + at.rows[C1][j]) * u + at.rows[C0][j];
                    an[j] += gradient * ((u < 0.0f ? 0.0f : u) - polynomial);
                }
                sum.rows[POWER_0][j] += replaced;
                sum.rows[POWER_1][j] += replaced * u;
                sum.rows[POWER_2][j] += replaced * u * u;
                if constexpr (F != BARE) {
                    sum.rows[DU][j] += through;
                    sum.rows[DU_X][j] += through * (widened(xn[j]) - at.rows[MEAN][j]);
                }
                if constexpr (F == TWO_NORMED)
                    sum.rows[DU_R][j] += through * (widened(rn[j]) - at.rows[MEAN_R][j]);
            }
            sum.count(cut.width);
        });
        sum.store(sums, cut, part);
    });
}

template <typename T>
void statistics_kernel(const T* x, const float* centres, float* sums, const Cut& cut) {
    cut.over_parts([&](const Part& part) {
        const Tables<1> at(centres, cut, part);
        Sums<2> sum;
        cut.over_runs(part, [&](int64_t offset, int64_t, int64_t size) {
            const T* xn = x + offset;
#pragma GCC ivdep
            for (int64_t j = 0; j < size; ++j) {
                const float distance = widened(xn[j]) - at.rows[0][j];
                sum.rows[0][j] += distance;
                sum.rows[1][j] += distance * distance;
            }
            sum.count(cut.width);
        });
        sum.store(sums, cut, part);
    });
}

template <typename T>
void norm_input_kernel(const T* du, const T* x, const float* tables, T* dx, const Cut& cut) {
    enum { MEAN_OF, A, B, C };
    cut.over_parts([&](const Part& part) {
        const Tables<4> at(tables, cut, part);
        cut.over_runs(part, [&](int64_t offset, int64_t, int64_t size) {
            const T *dn = du + offset, *xn = x + offset;
            T* to = dx + offset;
#pragma GCC ivdep
            for (int64_t j = 0; j < size; ++j)
                to[j] = narrowed<T>(
                    at.rows[A][j] * widened(dn[j]) + at.rows[B][j] * (widened(xn[j]) - at.rows[MEAN_OF][j]) +
                    at.rows[C][j]);
        });
    });
}

}  // namespace
