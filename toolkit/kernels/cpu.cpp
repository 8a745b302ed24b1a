// The operators that aurep/kernels/cpu.py calls, around the loops of cpu_loops.h: tensors are brought into one memory order, tables
// made of what differs between channels, and sums taken apart by channel or element.

#include "cpu_loops.h"

#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/softplus.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <optional>
#include <tuple>
#include <utility>
#include <vector>

namespace {

using at::Tensor;
using Maybe = std::optional<Tensor>;

// x as it is where that is contiguous or channels_last.
Tensor dense(const Tensor& x) {
    const bool last = x.dim() == 4 && x.is_contiguous(at::MemoryFormat::ChannelsLast);
    return last ? x : x.contiguous();
}

// How an image of x, dense, lies in memory.
struct Layout {
    int64_t images, channels, positions;
    bool last;  // channels come last

    explicit Layout(const Tensor& x)
        : images(x.size(0)), channels(x.size(1)), positions(x.numel() / (images * channels)), last(!x.is_contiguous()) {}

    int64_t elements() const { return channels * positions; }

    int64_t place(int64_t channel, int64_t position) const {
        return last ? position * channels + channel : channel * positions + position;
    }

    // Calls work(place in memory, channel, number in logical order) for every element.
    template <typename Work>
    void each(Work&& work) const {
        for (int64_t c = 0, e = 0; c < channels; ++c)
            for (int64_t p = 0; p < positions; ++p, ++e) work(place(c, p), c, e);
    }

    // `other` in x's dtype and memory order.
    Tensor like(const Tensor& other, const Tensor& x) const {
        return other.to(x.scalar_type()).contiguous(last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous);
    }

    // The mask (C, ...) in memory order.
    Tensor kept(const Tensor& mask) const {
        return last ? mask.reshape({channels, positions}).t().contiguous() : mask.contiguous();
    }
};

Tensor floats(at::IntArrayRef shape) {
    return at::empty(shape, at::kFloat);
}

// Whether coefficients (C, K) or (C, ..., K) are given per element.
bool by_element(const Maybe& coefficients) {
    return coefficients && coefficients->dim() > 2;
}

// `columns` (C each) and before them, if asked for, the coefficients, as rows of what cpu_loops.h calls tables.
Tensor tables_of(const Layout& layout, const std::vector<Tensor>& columns, bool polynomial = false, const Maybe& given = {}) {
    const bool repeats = layout.last && layout.channels <= WIDTH && !by_element(given);
    const int64_t terms = polynomial ? 3 : 0, rows = terms + columns.size();
    Tensor tables = floats({rows, repeats ? layout.channels : layout.elements()});
    const auto fill = [&](int64_t row, bool own, auto&& value) {
        float* to = tables.mutable_data_ptr<float>() + row * tables.size(1);
        if (repeats)
            for (int64_t c = 0; c < layout.channels; ++c) to[c] = value(c);
        else
            layout.each([&](int64_t at, int64_t c, int64_t e) { to[at] = value(own ? e : c); });
    };
    const Tensor coefficients = given ? given->to(at::kFloat).contiguous() : Tensor();
    for (int64_t k = 0; k < terms; ++k) {
        const int64_t count = given ? coefficients.size(-1) : 0;
        const float* values = given ? coefficients.const_data_ptr<float>() : nullptr;
        fill(k, by_element(given), [=](int64_t i) {
            return k < count ? values[i * count + k] : !values && k == 1 ? 1.0f : 0.0f;  // of none: the identity
        });
    }
    for (size_t k = 0; k < columns.size(); ++k) {
        const Tensor column = columns[k].to(at::kFloat).contiguous();
        const float* values = column.const_data_ptr<float>();
        fill(terms + k, false, [=](int64_t i) { return values[i]; });
    }
    return tables;
}

// `norms` holds mean, scale, shift of one or two batch norms; shifts are added up.
std::vector<Tensor> columns_of(const std::vector<Tensor>& norms) {
    if (norms.empty()) return {};
    if (norms.size() == 3) return {norms[2], norms[0], norms[1]};
    return {at::add(norms[2], norms[5]), norms[0], norms[1], norms[3], norms[4]};
}

// A row of sums, of the loops, by channel.
std::vector<double> by_channel(const float* row, const Layout& layout, const Cut& cut) {
    std::vector<double> totals(layout.channels);
    for (int64_t j = 0; j < cut.sums(); ++j) totals[layout.last ? j % layout.channels : j / layout.positions] += row[j];
    return totals;
}

// bfloat16 goes as the 16 bits that it is.
template <typename Work>
void by_type(const Tensor& x, Work&& work) {
    if (x.scalar_type() == at::kBFloat16)
        work(uint16_t());
    else
        work(float());
}

template <typename T>
const T* values(const Tensor& x) {
    return static_cast<const T*>(x.const_data_ptr());
}

template <typename T>
T* mutable_values(Tensor& x) {
    return static_cast<T*>(x.mutable_data_ptr());
}

template <typename T>
const T* maybe(const Maybe& tensor, const T* otherwise) {
    return tensor ? values<T>(*tensor) : otherwise;
}

const uint8_t* bytes(const Tensor& mask) {
    return reinterpret_cast<const uint8_t*>(mask.const_data_ptr<bool>());
}

template <typename Work>
void by_fused(size_t norms, bool has_residual, Work&& work) {
    if (norms == 0)
        work(std::integral_constant<Fused, BARE>());
    else if (!has_residual)
        work(std::integral_constant<Fused, NORMED>());
    else if (norms == 3)
        work(std::integral_constant<Fused, ADDED>());
    else
        work(std::integral_constant<Fused, TWO_NORMED>());
}

Tensor forward(
    const Tensor& input, const Maybe& other, const std::vector<Tensor>& norms, const Tensor& mask, const Maybe& coefficients) {
    const Tensor x = dense(input);
    const Layout layout(x);
    const Maybe residual = other ? Maybe(layout.like(*other, x)) : std::nullopt;
    const Tensor kept = layout.kept(mask), tables = tables_of(layout, columns_of(norms), true, coefficients);
    const Cut cut(layout.elements(), tables.size(1), layout.images);
    Tensor y = at::empty_like(x);
    by_type(x, [&](auto zero) {
        using T = decltype(zero);
        const T* data = values<T>(x);
        by_fused(norms.size(), residual.has_value(), [&](auto fused) {
            forward_kernel<T, decltype(fused)::value>(
                data, maybe(residual, data), bytes(kept), tables.const_data_ptr<float>(), mutable_values<T>(y), cut);
        });
    });
    return y;
}

// dL/dcoefficients, of their shape, from the first rows of sums.
Tensor of_coefficients(const Tensor& coefficients, const float* sums, const Layout& layout, const Cut& cut) {
    Tensor gradient = floats(coefficients.sizes());
    float* to = gradient.mutable_data_ptr<float>();
    const int64_t terms = coefficients.size(-1);
    for (int64_t k = 0; k < terms; ++k) {
        const float* row = sums + k * cut.sums();
        if (by_element(coefficients)) {
            layout.each([&](int64_t at, int64_t, int64_t e) { to[e * terms + k] = row[at]; });
        } else {
            const std::vector<double> totals = by_channel(row, layout, cut);
            for (int64_t c = 0; c < layout.channels; ++c) to[c * terms + k] = totals[c];
        }
    }
    return gradient.to(coefficients.scalar_type());
}

// du, dL/dalpha and dL/dcoefficients (empty where not wanted), and (1 + norms, C) sums.
std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& gradient, const Tensor& input, const Maybe& other, const std::vector<Tensor>& norms, const Tensor& mask,
    const Tensor& alpha, const Maybe& coefficients, bool needs_alpha, bool needs_coefficients) {
    const Tensor x = dense(input);
    const Layout layout(x);
    const Tensor g = layout.like(gradient, x);
    const Maybe residual = other ? Maybe(layout.like(*other, x)) : std::nullopt;
    const Tensor kept = layout.kept(mask), tables = tables_of(layout, columns_of(norms), true, coefficients);
    const Cut cut(layout.elements(), tables.size(1), layout.images);
    Tensor du = at::empty_like(x), of_alpha, of_coefficient, of_norms, sums;
    Tensor indicator = at::zeros({cut.repeats() ? cut.parts : 1, needs_alpha ? cut.elements : 0}, tables.options());
    by_type(x, [&](auto zero) {
        using T = decltype(zero);
        const T* data = values<T>(x);
        by_fused(norms.size(), residual.has_value(), [&](auto fused) {
            constexpr Fused F = decltype(fused)::value;
            sums = floats({sums_of(F), cut.sums()});
            const auto kernel = needs_alpha ? backward_kernel<T, F, true> : backward_kernel<T, F, false>;
            kernel(
                values<T>(g), data, maybe(residual, data), bytes(kept), tables.const_data_ptr<float>(),
                mutable_values<T>(du), indicator.mutable_data_ptr<float>(), sums.mutable_data_ptr<float>(), cut);
        });
    });
    const float* rows = sums.const_data_ptr<float>();
    if (needs_alpha) {
        const Tensor total = indicator.sum(0);
        const Tensor ordered = layout.last ? total.view({layout.positions, layout.channels}).t() : total;
        of_alpha = at::softplus(alpha).mul_(ordered.reshape(alpha.sizes()));
    }
    if (needs_coefficients && coefficients) of_coefficient = of_coefficients(*coefficients, rows, layout, cut);
    of_norms = floats({sums.size(0) - DU, layout.channels});
    for (int64_t k = 0; k < of_norms.size(0); ++k) {
        const std::vector<double> totals = by_channel(rows + (DU + k) * cut.sums(), layout, cut);
        std::copy(totals.begin(), totals.end(), of_norms.mutable_data_ptr<float>() + k * layout.channels);
    }
    return {du, of_alpha, of_coefficient, of_norms};
}

// Mean and biased variance per channel.
std::tuple<Tensor, Tensor> statistics(const Tensor& input) {
    const Tensor x = dense(input);
    const Layout layout(x);
    Tensor mean = floats({layout.channels}), variance = floats({layout.channels});
    by_type(x, [&](auto zero) {
        using T = decltype(zero);
        // Distances from the first image's mean, so that no digits are lost to cancellation.
        std::vector<double> first(layout.channels);
        layout.each([&](int64_t at, int64_t c, int64_t) { first[c] += widened(values<T>(x)[at]); });
        float* centre = mean.mutable_data_ptr<float>();
        for (int64_t c = 0; c < layout.channels; ++c) centre[c] = first[c] / layout.positions;
        const Tensor tables = tables_of(layout, {mean});
        const Cut cut(layout.elements(), tables.size(1), layout.images);
        Tensor sums = floats({2, cut.sums()});
        statistics_kernel<T>(values<T>(x), tables.const_data_ptr<float>(), sums.mutable_data_ptr<float>(), cut);
        const std::vector<double> once = by_channel(sums.const_data_ptr<float>(), layout, cut);
        const std::vector<double> squared = by_channel(sums.const_data_ptr<float>() + cut.sums(), layout, cut);
        for (int64_t c = 0; c < layout.channels; ++c) {
            const double count = layout.images * layout.positions, shift = once[c] / count;
            centre[c] += shift;
            variance.mutable_data_ptr<float>()[c] = std::max(squared[c] / count - shift * shift, 0.0);
        }
    });
    return {mean, variance};
}

// a du + b (x - mean) + c
Tensor norm_input(
    const Tensor& gradient, const Tensor& input, const Tensor& mean, const Tensor& a, const Tensor& b, const Tensor& c,
    bool spent) {
    const Tensor x = dense(input);
    const Layout layout(x);
    const Tensor du = layout.like(gradient, x), tables = tables_of(layout, {mean, a, b, c});
    const Cut cut(layout.elements(), tables.size(1), layout.images);
    Tensor dx = spent ? du : at::empty_like(x);
    by_type(x, [&](auto zero) {
        using T = decltype(zero);
        norm_input_kernel<T>(values<T>(du), values<T>(x), tables.const_data_ptr<float>(), mutable_values<T>(dx), cut);
    });
    return dx;
}

}  // namespace

TORCH_LIBRARY(aurep_cpu, library) {
    library.def("forward(Tensor x, Tensor? residual, Tensor[] norms, Tensor mask, Tensor? coefficients) -> Tensor", &forward);
    library.def(
        "backward(Tensor g, Tensor x, Tensor? residual, Tensor[] norms, Tensor mask, Tensor alpha, Tensor? coefficients, "
        "bool of_alpha, bool of_coefficients) -> (Tensor, Tensor, Tensor, Tensor)",
        &backward);
    library.def("statistics(Tensor x) -> (Tensor, Tensor)", &statistics);
    library.def(
        "norm_input(Tensor(a!) du, Tensor x, Tensor mean, Tensor a, Tensor b, Tensor c, bool spent) -> Tensor(a!)",
        &norm_input);
}
