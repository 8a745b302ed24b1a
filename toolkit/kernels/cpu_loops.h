// The loops of the hybrid activation on a CPU, one pass over memory each. aurep/activation.py has the maths.
//
// With F (how much is fused in front of the activation), its input u is
//     BARE  x        NORMED  s (x - m) + t        ADDED  s (x - m) + t + r        TWO_NORMED  s (x - m) + t + s' (r - m')
// Tables: c0, c1, c2, then as far as F needs them t, m, s, m', s'. Behind them, where a backward pass adds to du what comes through
// the statistics of normalised powers (aurep/powers.py) and from tails (aurep/tails.py), a, b, d, o, i:
//     du += a + b u + d u^3,    du += weight i (z - clamp(z, -limit, limit)) of the first images,  z = i (u - o)

#pragma once

#include "cpu_parts.h"

#include <type_traits>

namespace {

enum Fused { BARE, NORMED, ADDED, TWO_NORMED };
enum Table { C0, C1, C2, SHIFT, MEAN, SCALE, MEAN_R, SCALE_R };
enum More { A, B, D, OFFSET, INVERSE, MORE };  // behind those of F
enum Sum { POWER_0, POWER_1, POWER_2, DU, DU_X, DU_R };

constexpr int tables_of(Fused fused) {
    return fused == BARE ? 3 : fused == TWO_NORMED ? 8 : 6;
}

constexpr int sums_of(Fused fused) {
    return fused == BARE ? 3 : fused == TWO_NORMED ? 6 : 5;
}

// What is left of z beyond -limit and limit.
inline float beyond(float z, float limit) {
    return z - std::min(std::max(z, -limit), limit);
}

template <typename T, Fused F, int ROWS>
inline float input_of(const T* x, const T* r, int64_t j, const Tables<ROWS>& at) {
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

// Tails of the first `images` are weighed with `weight`.
struct Tails {
    int64_t images = 0;
    float weight = 0.0f, limit = 0.0f;
};

enum Flags { OF_ALPHA = 1, OF_POWERS = 2, OF_INPUT = 4, WITH_MORE = 8 };

// OF_ALPHA: `indicator`, (parts, elements), or (1, elements) where nothing repeats. OF_POWERS and OF_INPUT: these sums, and `du`.
template <typename T, Fused F, int FLAGS>
void backward_kernel(
    const T* g, const T* x, const T* r, const uint8_t* mask, const float* tables, T* du, float* indicator, float* sums,
    const Tails& tails, const Cut& cut) {
    constexpr bool MORE_TABLES = FLAGS & WITH_MORE;
    constexpr int BEHIND = tables_of(F), ROWS = BEHIND + (MORE_TABLES ? MORE : 0);
    cut.over_parts([&](const Part& part) {
        const Tables<ROWS> at(tables, cut, part);
        Sums<sums_of(F)> sum;
        float* own = indicator + (cut.repeats() ? part.number * cut.elements : 0);
        const auto runs = [&](auto tailed, int64_t first, int64_t last) {
            cut.over_runs(part, first, last, [&](int64_t offset, int64_t run, int64_t size) {
                const T *gn = g + offset, *xn = x + offset, *rn = r + offset;
                const uint8_t* kept = mask + run;
                T* dn = du + offset;
                float* an = own + run;
#pragma GCC ivdep
                for (int64_t j = 0; j < size; ++j) {
                    const float gradient = widened(gn[j]);
                    const float u = input_of<T, F>(xn, rn, j, at);
                    const float stays = kept[j];
                    if constexpr (FLAGS & OF_ALPHA) {
                        const float polynomial = (at.rows[C2][j] * u + at.rows[C1][j]) * u + at.rows[C0][j];
                        an[j] += gradient * ((u < 0.0f ? 0.0f : u) - polynomial);
                    }
                    if constexpr (FLAGS & OF_POWERS) {
                        const float replaced = stays > 0.0f ? 0.0f : gradient;
                        sum.rows[POWER_0][j] += replaced;
                        sum.rows[POWER_1][j] += replaced * u;
                        sum.rows[POWER_2][j] += replaced * u * u;
                    }
                    if constexpr (FLAGS & OF_INPUT) {
                        const float slope = 2.0f * at.rows[C2][j] * u + at.rows[C1][j];
                        const float passed = u > 0.0f ? gradient : 0.0f;
                        float through = stays > 0.0f ? passed : gradient * slope;
                        if constexpr (MORE_TABLES)
                            through += (at.rows[BEHIND + D][j] * u * u + at.rows[BEHIND + B][j]) * u + at.rows[BEHIND + A][j];
                        if constexpr (MORE_TABLES && decltype(tailed)::value) {
                            const float inverse = at.rows[BEHIND + INVERSE][j];
                            through += tails.weight * inverse * beyond(inverse * (u - at.rows[BEHIND + OFFSET][j]), tails.limit);
                        }
                        dn[j] = narrowed<T>(through);
                        if constexpr (F != BARE) {
                            sum.rows[DU][j] += through;
                            sum.rows[DU_X][j] += through * (widened(xn[j]) - at.rows[MEAN][j]);
                        }
                        if constexpr (F == TWO_NORMED)
                            sum.rows[DU_R][j] += through * (widened(rn[j]) - at.rows[MEAN_R][j]);
                    }
                }
                sum.count(cut.width);
            });
        };
        const int64_t tailed = std::clamp(tails.images, part.first, part.last);
        runs(std::true_type(), part.first, tailed);
        runs(std::false_type(), tailed, part.last);
        sum.store(sums, cut, part);
    });
}

// Sums of u - o, (u - o)^2, and where asked for (u^2 - p)^2; tables o, p, nothing, then those of F.
template <typename T, Fused F, bool SQUARES>
void powers_kernel(const T* x, const T* r, const float* tables, float* sums, const Cut& cut) {
    cut.over_parts([&](const Part& part) {
        const Tables<tables_of(F)> at(tables, cut, part);
        Sums<SQUARES ? 3 : 2> sum;
        cut.over_runs(part, [&](int64_t offset, int64_t, int64_t size) {
            const T *xn = x + offset, *rn = r + offset;
#pragma GCC ivdep
            for (int64_t j = 0; j < size; ++j) {
                const float u = input_of<T, F>(xn, rn, j, at), distance = u - at.rows[0][j];
                sum.rows[0][j] += distance;
                sum.rows[1][j] += distance * distance;
                if constexpr (SQUARES) {
                    const float squared = u * u - at.rows[1][j];
                    sum.rows[2][j] += squared * squared;
                }
            }
            sum.count(cut.width);
        });
        sum.store(sums, cut, part);
    });
}

// Sums of what lies beyond the limit, squared; tables o, i, nothing, then those of F.
template <typename T, Fused F>
void tails_kernel(const T* x, const T* r, const float* tables, float limit, float* sums, const Cut& cut) {
    cut.over_parts([&](const Part& part) {
        const Tables<tables_of(F)> at(tables, cut, part);
        Sums<1> sum;
        cut.over_runs(part, [&](int64_t offset, int64_t, int64_t size) {
            const T *xn = x + offset, *rn = r + offset;
#pragma GCC ivdep
            for (int64_t j = 0; j < size; ++j) {
                const float excess = beyond(at.rows[1][j] * (input_of<T, F>(xn, rn, j, at) - at.rows[0][j]), limit);
                sum.rows[0][j] += excess * excess;
            }
            sum.count(cut.width);
        });
        sum.store(sums, cut, part);
    });
}

template <typename T>
void norm_input_kernel(const T* du, const T* x, const float* tables, T* dx, const Cut& cut) {
    enum { CENTRE, FIRST, SECOND, CONSTANT };
    cut.over_parts([&](const Part& part) {
        const Tables<4> at(tables, cut, part);
        cut.over_runs(part, [&](int64_t offset, int64_t, int64_t size) {
            const T *dn = du + offset, *xn = x + offset;
            T* to = dx + offset;
#pragma GCC ivdep
            for (int64_t j = 0; j < size; ++j)
                to[j] = narrowed<T>(
                    at.rows[FIRST][j] * widened(dn[j]) + at.rows[SECOND][j] * (widened(xn[j]) - at.rows[CENTRE][j]) +
                    at.rows[CONSTANT][j]);
        });
    });
}

}  // namespace
