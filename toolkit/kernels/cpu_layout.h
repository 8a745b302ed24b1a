// Between tensors and what the loops take: memory order, tables of what differs between channels, and sums by channel or element.

#pragma once

#include "cpu_loops.h"

#include <ATen/ATen.h>

#include <optional>
#include <utility>
#include <vector>

namespace {

using at::Tensor;
using Maybe = std::optional<Tensor>;

Tensor floats(at::IntArrayRef shape) {
    return at::empty(shape, at::kFloat);
}

// In memory as loops take it. Asked first, since of tiny tensors there are many, and every operation on one costs microseconds.
Tensor plain(const Tensor& values) {
    const bool already = values.scalar_type() == at::kFloat && values.is_contiguous();
    return already ? values : values.to(at::kFloat).contiguous();
}

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
        const bool already = other.scalar_type() == x.scalar_type() && other.strides() == x.strides();
        return already ? other : other.to(x.scalar_type()).contiguous(last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous);
    }

    // Values (C, ...) in memory order, and back.
    Tensor ordered(const Tensor& values) const {
        return last ? values.reshape({channels, positions}).t().contiguous() : values.contiguous();
    }

    Tensor restored(const Tensor& values, at::IntArrayRef shape) const {
        return (last ? values.view({positions, channels}).t() : values).reshape(shape);
    }

    // A row of sums by channel.
    std::vector<double> by_channel(const float* row, const Cut& cut) const {
        std::vector<double> totals(channels);
        if (last)
            for (int64_t j = 0; j < cut.sums(); j += channels)
                for (int64_t c = 0; c < channels; ++c) totals[c] += row[j + c];
        else
            for (int64_t c = 0; c < channels; ++c)
                for (int64_t p = 0; p < positions; ++p) totals[c] += row[c * positions + p];
        return totals;
    }
};

// A row of a table: C values that lie `stride` apart, or as many as elements; or the same value everywhere.
struct Column {
    const float* values;
    int64_t stride = 1;
    bool by_element = false;
    float constant = 0.0f;

    float at(int64_t i) const { return values ? values[i * stride] : constant; }
};

struct Columns {
    std::vector<Column> rows;
    std::vector<Tensor> held;  // what they point into

    void add(const Tensor& values) {
        held.push_back(plain(values));
        rows.push_back({held.back().const_data_ptr<float>()});
    }

    void add_constant(float value) { rows.push_back({nullptr, 1, false, value}); }

    // c0, c1, c2 of coefficients (C, K) or (C, ..., K); of none the identity.
    void add_polynomial(const Maybe& coefficients) {
        const int64_t terms = coefficients ? coefficients->size(-1) : 0;
        if (coefficients) held.push_back(plain(*coefficients));
        for (int64_t k = 0; k < 3; ++k)
            if (k < terms)
                rows.push_back({held.back().const_data_ptr<float>() + k, terms, coefficients->dim() > 2});
            else
                add_constant(!coefficients && k == 1 ? 1.0f : 0.0f);
    }

    // Rows (C) of a tensor.
    void add_rows(const Tensor& values) {
        held.push_back(plain(values));
        const float* first = held.back().const_data_ptr<float>();
        for (int64_t k = 0; k < values.size(0); ++k) rows.push_back({first + k * values.size(1)});
    }

    // (rows, C) where that repeats, else (rows, elements).
    Tensor spread(const Layout& layout) const {
        bool repeats = layout.last && layout.channels <= WIDTH;
        for (const Column& row : rows) repeats = repeats && !row.by_element;
        Tensor tables = floats({static_cast<int64_t>(rows.size()), repeats ? layout.channels : layout.elements()});
        float* to = tables.mutable_data_ptr<float>();
        for (const Column& row : rows) {
            if (repeats)
                for (int64_t c = 0; c < layout.channels; ++c) to[c] = row.at(c);
            else
                layout.each([&](int64_t place, int64_t c, int64_t e) { to[place] = row.at(row.by_element ? e : c); });
            to += tables.size(1);
        }
        return tables;
    }
};

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
T* mutable_values(const Tensor& x) {
    return static_cast<T*>(x.mutable_data_ptr());
}

const uint8_t* bytes(const Tensor& mask) {
    return reinterpret_cast<const uint8_t*>(mask.const_data_ptr<bool>());
}

// What an activation's input u is made of: x, batch norms of it, what is added.
struct Input {
    Tensor x;
    Layout layout;
    Maybe residual;
    Fused fused;
    std::vector<Tensor> columns;  // t, m, s, m', s', as far as there are

    // `norms` holds mean, scale, shift of none, one or two batch norms; shifts are added up.
    Input(const Tensor& input, const Maybe& other, const std::vector<Tensor>& norms)
        : x(dense(input)), layout(x), residual(other ? Maybe(layout.like(*other, x)) : std::nullopt) {
        fused = norms.empty() ? BARE : !other ? NORMED : norms.size() == 3 ? ADDED : TWO_NORMED;
        if (norms.size() == 3) columns = {norms[2], norms[0], norms[1]};
        if (norms.size() == 6) columns = {at::add(norms[2], norms[5]), norms[0], norms[1], norms[3], norms[4]};
    }

    // Of the first images alone.
    Input first(int64_t images) const {
        Input part = *this;
        part.x = x.narrow(0, 0, images);
        if (residual) part.residual = residual->narrow(0, 0, images);
        part.layout.images = images;
        return part;
    }

    Cut cut(const Tensor& tables) const { return Cut(layout.elements(), tables.size(1), layout.images); }

    // Those before, u's own, those behind.
    Tensor tables(Columns before, const Columns& behind = {}) const {
        for (const Tensor& column : columns) before.add(column);
        before.rows.insert(before.rows.end(), behind.rows.begin(), behind.rows.end());
        return before.spread(layout);
    }

    // Calls work(0 of the type of x, F as a constant, x, the residual or x).
    template <typename Work>
    void dispatch(Work&& work) const {
        by_type(x, [&](auto zero) {
            using T = decltype(zero);
            const T *data = values<T>(x), *other = residual ? values<T>(*residual) : data;
            switch (fused) {
                case BARE: return work(zero, std::integral_constant<Fused, BARE>(), data, other);
                case NORMED: return work(zero, std::integral_constant<Fused, NORMED>(), data, other);
                case ADDED: return work(zero, std::integral_constant<Fused, ADDED>(), data, other);
                case TWO_NORMED: return work(zero, std::integral_constant<Fused, TWO_NORMED>(), data, other);
            }
        });
    }
};

}  // namespace
