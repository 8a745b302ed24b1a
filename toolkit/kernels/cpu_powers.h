// Polynomials over normalised powers (aurep/powers.py): statistics of u, coefficients from factors, and the way back.

#pragma once

#include "cpu_layout.h"

#include <cmath>

namespace {

constexpr double EPSILON = 1e-5;  // that of aurep/powers.py

// Mean and biased variance of u and, at degree 2, of its square, (2 degree, C); added up as distances from `near`, (degree, C).
Tensor statistics_near(const Input& input, int64_t degree, const Tensor& near) {
    Columns before;
    before.add_rows(near);
    while (before.rows.size() < 3) before.add_constant(0.0f);
    const Tensor tables = input.tables(before);
    const Cut cut = input.cut(tables);
    const Tensor sums = floats({degree + 1, cut.sums()}), statistics = floats({2 * degree, input.layout.channels});
    input.dispatch([&](auto zero, auto fused, const auto* x, const auto* r) {
        constexpr Fused F = decltype(fused)::value;
        const auto kernel = degree == 2 ? powers_kernel<decltype(zero), F, true> : powers_kernel<decltype(zero), F, false>;
        kernel(x, r, tables.const_data_ptr<float>(), sums.mutable_data_ptr<float>(), cut);
    });
    const double count = input.layout.images * input.layout.positions;
    const int64_t channels = input.layout.channels;
    const auto row = [&](int64_t k) { return input.layout.by_channel(sums.const_data_ptr<float>() + k * cut.sums(), cut); };
    const std::vector<double> once = row(0), squared = row(1), of_square = degree == 2 ? row(2) : once;
    const Tensor centres = plain(near);
    const float* centre = centres.const_data_ptr<float>();
    float* to = statistics.mutable_data_ptr<float>();
    for (int64_t c = 0; c < channels; ++c) {
        const double o = centre[c], shift = once[c] / count, spread = squared[c] / count;
        to[c] = o + shift;
        to[channels + c] = std::max(spread - shift * shift, 0.0);
        if (degree == 2) {  // E[u^2] = E[(u - o)^2] + 2 o E[u - o] + o^2
            const double mean = spread + 2 * o * shift + o * o, distance = mean - centre[channels + c];
            to[2 * channels + c] = mean;
            to[3 * channels + c] = std::max(of_square[c] / count - distance * distance, 0.0);
        }
    }
    return statistics;
}

// The same: distances from the first image's means, so that no digits are lost to cancellation.
Tensor power_statistics(const Input& input, int64_t degree) {
    const Tensor of_one = statistics_near(input.first(1), degree, at::zeros({degree, input.layout.channels}, at::kFloat));
    return statistics_near(input, degree, of_one.view({degree, 2, -1}).select(1, 0));
}

// (C, degree + 1) from factors of that shape and statistics (2 degree, C).
Tensor fold(const Tensor& given, const Tensor& over) {
    const Tensor factors = plain(given), statistics = plain(over), folded = floats(factors.sizes());
    const int64_t terms = factors.size(1), channels = factors.size(0);
    const float *from = factors.const_data_ptr<float>(), *s = statistics.const_data_ptr<float>();
    float* to = folded.mutable_data_ptr<float>();
    for (int64_t c = 0; c < channels; ++c) {
        double constant = from[c * terms];
        for (int64_t k = 1; k < terms; ++k) {
            const double mean = s[(2 * k - 2) * channels + c], variance = s[(2 * k - 1) * channels + c];
            const double coefficient = from[c * terms + k] / std::sqrt(variance + EPSILON);
            to[c * terms + k] = coefficient;
            constant -= coefficient * mean;
        }
        to[c * terms] = constant;
    }
    return folded;
}

// From dL/dcoefficients: dL/dfactors, and dL/dstatistics where the factors are folded with (2 degree, C).
std::pair<Tensor, Tensor> unfold_gradient(const Tensor& gradient, const Tensor& folded, const Tensor& over) {
    const Tensor statistics = plain(over), of_factors = floats(gradient.sizes()), of_statistics = floats(over.sizes());
    const int64_t terms = gradient.size(1), channels = gradient.size(0);
    const float *g = gradient.const_data_ptr<float>(), *coefficient = folded.const_data_ptr<float>();
    const float* s = statistics.const_data_ptr<float>();
    float *factor = of_factors.mutable_data_ptr<float>(), *statistic = of_statistics.mutable_data_ptr<float>();
    for (int64_t c = 0; c < channels; ++c) {
        const double constant = g[c * terms];
        factor[c * terms] = constant;
        for (int64_t k = 1; k < terms; ++k) {
            const int64_t mean = (2 * k - 2) * channels + c, variance = mean + channels;
            const double spread = s[variance] + EPSILON, value = coefficient[c * terms + k];
            const double own = g[c * terms + k] - s[mean] * constant;
            factor[c * terms + k] = own / std::sqrt(spread);
            statistic[mean] = -value * constant;
            statistic[variance] = -own * value / (2 * spread);
        }
    }
    return {of_factors, of_statistics};
}

// a, b, d of  du += a + b u + d u^3  from dL/dstatistics of the batch, each over `count` values.
Columns through_statistics(const Tensor& gradient, const Tensor& of_batch, double count) {
    const int64_t rows = gradient.size(0), channels = gradient.size(1);
    const Tensor terms = floats({3, channels}), statistics = plain(of_batch);
    const float *g = gradient.const_data_ptr<float>(), *s = statistics.const_data_ptr<float>();
    float* to = terms.mutable_data_ptr<float>();
    for (int64_t c = 0; c < channels; ++c) {
        const double mean = s[c], of_mean = g[c] / count, of_variance = g[channels + c] / count;
        double slope = 2 * of_variance, cubic = 0;
        if (rows == 4) {
            const double of_square = g[2 * channels + c] / count, of_its_variance = g[3 * channels + c] / count;
            slope += 2 * of_square - 4 * s[2 * channels + c] * of_its_variance;
            cubic = 4 * of_its_variance;
        }
        to[c] = of_mean - 2 * mean * of_variance;
        to[channels + c] = slope;
        to[2 * channels + c] = cubic;
    }
    Columns columns;
    columns.add_rows(terms);
    return columns;
}

}  // namespace
