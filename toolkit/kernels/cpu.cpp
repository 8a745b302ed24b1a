// The operators that aurep/kernels/cpu.py calls.

#include "cpu_layout.h"
#include "cpu_powers.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/library.h>

#include <tuple>

namespace {

constexpr int64_t TAILS_SHARE = 4;       // one image in so many is looked at for its tails, as in aurep/tails.py,
constexpr double LEAST_VARIANCE = 1e-5;  // which has this too

int64_t tailed(const Input& input) {
    return (input.layout.images + TAILS_SHARE - 1) / TAILS_SHARE;
}

// Mean and inverse deviation of u per channel, (2, C): by `statistics` where they are given, else by the images looked at.
Tensor tails_over(const Input& input, const Maybe& statistics) {
    const Tensor rows = statistics ? statistics->narrow(0, 0, 2) : power_statistics(input.first(tailed(input)), 1);
    const Tensor over = rows.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
    over[1] = (over[1] + LEAST_VARIANCE).rsqrt();
    return over;
}

// Of the images looked at: (z - clamp(z))^2, z = (u - mean) / sigma, summed over elements, mean over images.
Tensor excess_of(const Input& input, const Tensor& over, double limit) {
    const Input part = input.first(tailed(input));
    Columns before;
    before.add_rows(over);
    before.add_constant(0.0f);
    const Tensor tables = part.tables(before);
    const Cut cut = part.cut(tables);
    const Tensor sums = floats({1, cut.sums()});
    part.dispatch([&](auto zero, auto fused, const auto* x, const auto* r) {
        tails_kernel<decltype(zero), decltype(fused)::value>(
            x, r, tables.const_data_ptr<float>(), limit, sums.mutable_data_ptr<float>(), cut);
    });
    return sums.sum() / part.layout.images;
}

// y; and what backward wants to see again, empty where there is no such thing: the coefficients, the batch's statistics,
// mean and inverse deviation of tails; and their excess.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> forward(
    const Tensor& x, const Maybe& residual, const std::vector<Tensor>& norms, const Tensor& mask, const Maybe& polynomial,
    const Maybe& statistics, double limit) {
    const at::AutoDispatchBelowADInplaceOrView below;  // nothing here is differentiated, and asking costs time
    const Input input(x, residual, norms);
    Tensor seen, over, excess;
    Maybe coefficients = polynomial;
    if (statistics) {
        seen = power_statistics(input, statistics->size(0) / 2);
        coefficients = fold(*polynomial, seen);
    }
    Columns before;
    before.add_polynomial(coefficients);
    const Tensor kept = input.layout.ordered(mask), tables = input.tables(before), y = at::empty_like(input.x);
    const Cut cut = input.cut(tables);
    input.dispatch([&](auto zero, auto fused, const auto* data, const auto* other) {
        using T = decltype(zero);
        forward_kernel<T, decltype(fused)::value>(
            data, other, bytes(kept), tables.const_data_ptr<float>(), mutable_values<T>(y), cut);
    });
    if (limit > 0) {
        over = tails_over(input, statistics);
        excess = excess_of(input, over, limit);
    }
    return {y, statistics ? *coefficients : Tensor(), seen, over, excess};
}

// One pass over g and u, and what it left.
template <int FLAGS>
struct Pass {
    const Input& input;
    const Tensor tables;
    const Cut cut;
    Tensor sums, indicator;

    Pass(const Input& input, const Tensor& g, const Tensor& kept, const Tensor& du, const Columns& before,
         const Columns& more = {}, const Tails& tails = {})
        : input(input), tables(input.tables(before, more)), cut(input.cut(tables)) {
        indicator = at::zeros({cut.repeats() ? cut.parts : 1, FLAGS & OF_ALPHA ? cut.elements : 0}, tables.options());
        input.dispatch([&](auto zero, auto fused, const auto* data, const auto* other) {
            using T = decltype(zero);
            constexpr Fused F = decltype(fused)::value;
            sums = floats({sums_of(F), cut.sums()});
            backward_kernel<T, F, FLAGS>(
                values<T>(g), data, other, bytes(kept), tables.const_data_ptr<float>(), mutable_values<T>(du),
                indicator.mutable_data_ptr<float>(), sums.mutable_data_ptr<float>(), tails, cut);
        });
    }

    std::vector<double> by_channel(int64_t row) const {
        return input.layout.by_channel(sums.const_data_ptr<float>() + row * cut.sums(), cut);
    }

    Tensor of_alpha(const Tensor& alpha) const {
        return at::softplus(alpha).mul_(input.layout.restored(indicator.sum(0), alpha.sizes()));
    }

    // Of the coefficients' shape, (C, K) or (C, ..., K).
    Tensor of_coefficients(at::IntArrayRef shape) const {
        const Tensor gradient = floats(shape);
        float* to = gradient.mutable_data_ptr<float>();
        const int64_t terms = shape.back();
        for (int64_t k = 0; k < terms; ++k) {
            if (shape.size() > 2) {
                const float* row = sums.const_data_ptr<float>() + k * cut.sums();
                input.layout.each([&](int64_t place, int64_t, int64_t e) { to[e * terms + k] = row[place]; });
            } else {
                const std::vector<double> totals = by_channel(k);
                for (int64_t c = 0; c < input.layout.channels; ++c) to[c * terms + k] = totals[c];
            }
        }
        return gradient;
    }

    // sum du, sum du (x - m), sum du (r - m'), as far as there are norms.
    Tensor of_norms() const {
        const Tensor gradient = floats({sums.size(0) - DU, input.layout.channels});
        for (int64_t k = 0; k < gradient.size(0); ++k) {
            const std::vector<double> totals = by_channel(DU + k);
            std::copy(totals.begin(), totals.end(), gradient.mutable_data_ptr<float>() + k * input.layout.channels);
        }
        return gradient;
    }
};

// Calls work(the flags with OF_ALPHA or without).
template <int FLAGS, typename Work>
auto with_alpha(bool wanted, Work&& work) {
    return wanted ? work(std::integral_constant<int, FLAGS | OF_ALPHA>()) : work(std::integral_constant<int, FLAGS>());
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// du; dL/dalpha where wanted; dL/dpolynomial where there is one; (1 + norms, C) sums. `coefficients`, `seen` and `over` are what
// forward gave, `of_excess` dL/dexcess.
Gradients backward(
    const Tensor& gradient, const Maybe& of_excess, const Tensor& x, const Maybe& residual, const std::vector<Tensor>& norms,
    const Tensor& mask, const Tensor& alpha, const Maybe& coefficients, const Maybe& seen, const Maybe& over, double limit,
    bool of_alpha) {
    const at::AutoDispatchBelowADInplaceOrView below;  // nothing here is differentiated, and asking costs time
    const Input input(x, residual, norms);
    const Tensor g = input.layout.like(gradient, input.x), kept = input.layout.ordered(mask), du = at::empty_like(input.x);
    Columns before, more;
    before.add_polynomial(coefficients);
    Tails tails;
    if (over && of_excess) tails = {tailed(input), 2 * of_excess->item<float>() / tailed(input), static_cast<float>(limit)};
    const auto add_tails = [&] {
        if (tails.images) return more.add_rows(*over);
        more.add_constant(0.0f);
        more.add_constant(0.0f);
    };
    if (seen) {  // what comes through the batch's statistics is known only once all of g has been gone through
        return with_alpha<OF_POWERS>(of_alpha, [&](auto flags) -> Gradients {
            const Pass<decltype(flags)::value> first(input, g, kept, du, before);
            const auto [of_factors, of_seen] = unfold_gradient(first.of_coefficients(coefficients->sizes()), *coefficients, *seen);
            more = through_statistics(of_seen, *seen, input.layout.images * input.layout.positions);
            add_tails();
            const Pass<OF_INPUT | WITH_MORE> second(input, g, kept, du, before, more, tails);
            return {du, of_alpha ? first.of_alpha(alpha) : Tensor(), of_factors, second.of_norms()};
        });
    }
    const auto at_once = [&](auto flags) -> Gradients {
        const Pass<decltype(flags)::value> pass(input, g, kept, du, before, more, tails);
        const Tensor own = coefficients ? pass.of_coefficients(coefficients->sizes()) : Tensor();
        return {du, of_alpha ? pass.of_alpha(alpha) : Tensor(), own, pass.of_norms()};
    };
    if (!tails.images) return with_alpha<OF_POWERS | OF_INPUT>(of_alpha, at_once);
    for (int k = 0; k < 3; ++k) more.add_constant(0.0f);
    add_tails();
    return with_alpha<OF_POWERS | OF_INPUT | WITH_MORE>(of_alpha, at_once);
}

// Mean and biased variance per channel.
std::tuple<Tensor, Tensor> statistics(const Tensor& x) {
    const at::AutoDispatchBelowADInplaceOrView below;  // nothing here is differentiated, and asking costs time
    const Tensor found = power_statistics(Input(x, std::nullopt, {}), 1);
    return {found[0], found[1]};
}

// a du + b (x - mean) + c
Tensor norm_input(
    const Tensor& gradient, const Tensor& x, const Tensor& mean, const Tensor& a, const Tensor& b, const Tensor& c, bool spent) {
    const at::AutoDispatchBelowADInplaceOrView below;  // nothing here is differentiated, and asking costs time
    const Input input(x, std::nullopt, {});
    Columns columns;
    for (const Tensor& column : {mean, a, b, c}) columns.add(column);
    const Tensor du = input.layout.like(gradient, input.x), tables = columns.spread(input.layout);
    const Cut cut = input.cut(tables);
    Tensor dx = spent ? du : at::empty_like(input.x);
    by_type(input.x, [&](auto zero) {
        using T = decltype(zero);
        norm_input_kernel<T>(values<T>(du), values<T>(input.x), tables.const_data_ptr<float>(), mutable_values<T>(dx), cut);
    });
    return dx;
}

}  // namespace

TORCH_LIBRARY(aurep_cpu, library) {
    library.def(
        "forward(Tensor x, Tensor? residual, Tensor[] norms, Tensor mask, Tensor? polynomial, Tensor? statistics, float limit) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
        &forward);
    library.def(
        "backward(Tensor g, Tensor? of_excess, Tensor x, Tensor? residual, Tensor[] norms, Tensor mask, Tensor alpha, "
        "Tensor? coefficients, Tensor? seen, Tensor? over, float limit, bool of_alpha) "
        "-> (Tensor, Tensor, Tensor, Tensor)",
        &backward);
    library.def("statistics(Tensor x) -> (Tensor, Tensor)", &statistics);
    library.def(
        "norm_input(Tensor(a!) du, Tensor x, Tensor mean, Tensor a, Tensor b, Tensor c, bool spent) -> Tensor(a!)",
        &norm_input);
}
