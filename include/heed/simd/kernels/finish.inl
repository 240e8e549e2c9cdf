// What becomes of the sums of a product before they are written?
// Part of layer_kernels.inl, whose rules hold here.

/// `whole`: all lanes are columns; else the first `count`.
template <bool whole, class T>
HEED_INLINE Pack<T> load_columns(const T* from, Index count) {
    if constexpr (whole)
        return load(from);
    else
        return load_some(from, count);
}
template <bool whole, class T>
HEED_INLINE void store_columns(T* to, Pack<T> pack, Index count) {
    if constexpr (whole)
        store(to, pack);
    else
        store_some(to, pack, count);
}

/// scale * sums + bias; what is null is left out.
template <bool whole, class T>
HEED_INLINE Pack<T> scaled_and_shifted(Pack<T> sums, const T* scale, const T* bias, Index column,
                                       Index count) {
    if (scale != nullptr) sums = sums * load_columns<whole>(scale + column, count);
    if (bias != nullptr) sums = sums + load_columns<whole>(bias + column, count);
    return sums;
}

/// The columns of row r, where there are rows.
template <bool whole, class T>
HEED_INLINE void keep(const Rows<T>& rows, Index r, Index column, Pack<T> pack, Index count) {
    if (rows.data != nullptr)
        store_columns<whole>(rows.data + r * rows.stride + column, pack, count);
}

/// A register of one row.
template <Activation kind, bool whole, class T>
HEED_INLINE void finish_columns(const T* sums, Index row, Index r, Index column, Index count,
                                const RowFinish<T>& f, T* out, Index stride) {
    Pack<T> value = scaled_and_shifted<whole>(load_columns<whole>(sums + r * row + column, count),
                                              f.scale, f.bias, column, count);
    keep<whole>(f.x, r, column, value, count);
    if (f.gate != nullptr) {
        const Pack<T> gate =
            scaled_and_shifted<whole>(load_columns<whole>(f.gate + r * row + column, count),
                                      f.gate_scale, f.gate_bias, column, count);
        keep<whole>(f.g, r, column, gate, count);
        value = value * Act<kind, T>::value(gate);
    } else {
        value = Act<kind, T>::value(value);
    }
    if (f.residual.data != nullptr)
        value =
            value + load_columns<whole>(f.residual.data + r * f.residual.stride + column, count);
    store_columns<whole>(out + r * stride + column, value, count);
}

template <Activation kind, class T>
void finish_rows_as(const T* sums, Index row, Index rows, Index columns, const RowFinish<T>& f,
                    T* out, Index stride) {
    for (Index r = 0; r < rows; ++r) {
        Index c = 0;
        for (; c + lanes<T> <= columns; c += lanes<T>)
            finish_columns<kind, true>(sums, row, r, c, lanes<T>, f, out, stride);
        if (c < columns) finish_columns<kind, false>(sums, row, r, c, columns - c, f, out, stride);
    }
}

template <class T>
void finish_rows(const T* sums, Index row, Index rows, Index columns, const RowFinish<T>& f, T* out,
                 Index stride) {
    switch (f.activation) {
        case Activation::none:
            return finish_rows_as<Activation::none>(sums, row, rows, columns, f, out, stride);
        case Activation::relu:
            return finish_rows_as<Activation::relu>(sums, row, rows, columns, f, out, stride);
        case Activation::gelu:
            return finish_rows_as<Activation::gelu>(sums, row, rows, columns, f, out, stride);
        case Activation::gelu_tanh:
            return finish_rows_as<Activation::gelu_tanh>(sums, row, rows, columns, f, out, stride);
        case Activation::silu:
            return finish_rows_as<Activation::silu>(sums, row, rows, columns, f, out, stride);
    }
}
