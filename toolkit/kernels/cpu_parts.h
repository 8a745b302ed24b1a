// How the loops of cpu_loops.h share out their work, and what each part keeps at hand.
//
// An activation x of shape (N, C, ...) is taken as N images of E elements in whatever order they lie in memory. What differs between
// channels comes as tables of floats; layout, channels and degree are the business of cpu_layout.h: a table holds either a value for
// every element of an image, or one period of them that repeats (the channels, where those come last). A period is taken as often as
// fits the first-level cache, since a loop over 16 channels would never fill a vector. Work is shared out in parts, whose number
// depends on sizes alone, and each adds up in one order: the result does not depend on the number of threads.
//
// Everything is computed and added up in fp32. bfloat16 is its upper half, widened and rounded by the loops themselves.

#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace {

constexpr int64_t WIDTH = 512;  // values of a table that are held at a time: 8 tables and 12 sums of them fit a cache
constexpr int64_t PARTS = 8;    // of the images, where tables repeat
constexpr int64_t FLUSH = 64;   // values that a sum takes before it is added to another, so that fewer digits are lost

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
        over_runs(part, part.first, part.last, work);
    }

    template <typename Work>
    void over_runs(const Part& part, int64_t first, int64_t last, Work&& work) const {
        for (int64_t n = first; n < last; ++n)
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

}  // namespace
