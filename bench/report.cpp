// Turns repetitions into medians, medians into rows.

#include "report.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <ostream>

namespace bench {
namespace {

/// The value below which a part of the samples lies; of an even number, the lower middle one.
double quantile(std::vector<double> values, double part) {
    std::sort(values.begin(), values.end());
    return values[static_cast<std::size_t>(part * static_cast<double>(values.size() - 1))];
}
double median(const std::vector<double>& values) {
    return quantile(values, 0.5);
}

template <class... Values>
std::string format(const char* pattern, Values... values) {
    char text[64];
    std::snprintf(text, sizeof text, pattern, values...);
    return text;
}

std::string seconds_text(double seconds) {
    if (seconds < 1e-3) return format("%.3g us", seconds * 1e6);
    if (seconds < 1) return format("%.3g ms", seconds * 1e3);
    return format("%.3g s", seconds);
}

std::string bytes_text(double bytes) {
    if (bytes < 1024.0 * 1024) return format("%.0f KiB", bytes / 1024);
    return format("%.0f MiB", bytes / 1024 / 1024);
}

/// Display width: bytes of UTF-8 that begin a character.
std::size_t width_of(const std::string& text) {
    return static_cast<std::size_t>(
        std::ranges::count_if(text, [](char c) { return (c & 0xC0) != 0x80; }));
}

void print_aligned(const std::vector<std::vector<std::string>>& rows, std::ostream& out) {
    std::vector<std::size_t> widths(rows.front().size());
    for (const auto& row : rows)
        for (std::size_t c = 0; c < row.size(); ++c)
            widths[c] = std::max(widths[c], width_of(row[c]));
    for (std::size_t r = 0; r < rows.size(); ++r) {
        for (std::size_t c = 0; c < widths.size(); ++c)
            out << "| " << std::string(widths[c] - width_of(rows[r][c]), ' ') << rows[r][c] << ' ';
        out << "|\n";
        if (r > 0) continue;
        for (std::size_t width : widths) out << '|' << std::string(width + 1, '-') << ':';
        out << "|\n";
    }
}

/// The distinct values of a member, in the order of appearance.
template <class Entries, class Member>
std::vector<std::string> distinct(const Entries& entries, const Member& member_of) {
    std::vector<std::string> values;
    for (const auto& entry : entries) {
        const std::string* const value = member_of(entry);
        if (value != nullptr && std::ranges::find(values, *value) == values.end())
            values.push_back(*value);
    }
    return values;
}

}  // namespace

void report_speed(benchmark::State& state, double flops, double peak, double scratch_bytes,
                  double bytes) {
    using benchmark::Counter;
    constexpr auto rate = Counter::kIsIterationInvariantRate;
    const auto time = static_cast<Counter::Flags>(rate | Counter::kInvert);
    state.counters["FLOP/s"] = Counter(flops, rate);
    state.counters["of_peak"] = Counter(flops / peak, rate);
    state.counters["seconds"] = Counter(1, time);
    state.counters["peak"] = peak;
    state.counters["scratch_bytes"] = scratch_bytes;
    state.counters["bytes/s"] = Counter(bytes, rate);
}

void Report::add_place(const std::string& benchmark, const Place& place) {
    entries_.push_back({place, benchmark});
}

bool Report::ReportContext(const Context& context) {
    PrintBasicContext(&GetErrorStream(), context);
    return true;
}

void Report::ReportRuns(const std::vector<Run>& runs) {
    for (const Run& run : runs) {
        // Counters are absent where a check failed.
        if (run.run_type != Run::RT_Iteration || !run.counters.contains("peak")) continue;
        Samples& samples = samples_[run.run_name.function_name];
        samples.flops_per_second.push_back(run.counters.at("FLOP/s").value);
        samples.of_peak.push_back(run.counters.at("of_peak").value);
        samples.seconds.push_back(run.counters.at("seconds").value);
        samples.bytes_per_second.push_back(run.counters.at("bytes/s").value);
        samples.scratch_bytes = run.counters.at("scratch_bytes").value;
        peaks_[run.report_label].push_back(run.counters.at("peak").value);
    }
}

void Report::print_tables(std::ostream& out) const {
    print_peaks(out);
    for (const Table& table : tables_) print_table(table, out);
}

void Report::note_failure(const std::string& benchmark, const std::string& message) {
    failed_ = true;
    GetErrorStream() << "FAILED " << benchmark << ": " << message << '\n';
}

void Report::note_measurement() {
    ++measurements_;
    if (isatty(STDERR_FILENO) == 0) return;
    std::fprintf(stderr, "\r%d measurements, %.0f s ", measurements_, wall_seconds() - begin_);
}

void Report::print_peaks(std::ostream& out) const {
    std::vector<Row> rows = {{"FMA peak", "GFLOP/s", "lowest", "highest", "measured"}};
    for (const auto& [label, values] : peaks_)
        rows.push_back(
            {label, format("%.1f", median(values) / 1e9), format("%.1f", quantile(values, 0) / 1e9),
             format("%.1f", quantile(values, 1) / 1e9), format("%zu times", values.size())});
    print_aligned(rows, out);
}

void Report::print_table(const Table& table, std::ostream& out) const {
    const std::vector<std::string> columns = columns_of(table);
    if (columns.empty()) return;
    std::vector<Row> rows = {header(table, columns)};
    for (const std::string& label : labels_of(table)) rows.push_back(row(table, label, columns));
    out << "\n### " << table.title << "\n\n";
    print_aligned(rows, out);
}

Report::Row Report::header(const Table& table, const std::vector<std::string>& columns) const {
    if (table.shows == Shows::speed) return speed_header(table, columns);
    if (table.shows == Shows::overhead)
        return {table.row_header, "time", "at the FMA peak", "beside it", "of peak"};
    Row header = {table.row_header};
    if (table.shows == Shows::bandwidth)
        header.push_back(columns.front() + " of " + columns.back());
    for (const std::string& column : columns)
        header.push_back(table.shows == Shows::bandwidth ? column + ", GB/s" : column);
    return header;
}

Report::Row Report::row(const Table& table, const std::string& label,
                        const std::vector<std::string>& columns) const {
    switch (table.shows) {
        case Shows::speed:
            return speed_row(table, label, columns);
        case Shows::cost:
            return cost_row(table, label, columns);
        case Shows::bandwidth:
            return bandwidth_row(table, label, columns);
        case Shows::overhead:
            break;
    }
    return overhead_row(table, label, columns);
}

Report::Row Report::speed_header(const Table& table,
                                 const std::vector<std::string>& columns) const {
    Row header = {table.row_header, columns.front(), "of peak", "±", "time", "scratch"};
    for (std::size_t c = 1; c < columns.size(); ++c) {
        header.push_back(columns[c]);
        header.push_back("ratio");
    }
    if (columns.size() > 1) header.push_back(columns[1] + " scratch");
    return header;
}

Report::Row Report::speed_row(const Table& table, const std::string& label,
                              const std::vector<std::string>& columns) const {
    const Samples& own = *find(table, label, columns.front());
    const double rate = median(own.flops_per_second);
    const double spread = quantile(own.of_peak, 0.75) - quantile(own.of_peak, 0.25);
    Row row = {label,
               format("%.1f", rate / 1e9),
               format("%.1f %%", 100 * median(own.of_peak)),
               format("%.1f", 100 * spread / 2),
               seconds_text(median(own.seconds)),
               bytes_text(own.scratch_bytes)};
    for (std::size_t c = 1; c < columns.size(); ++c) {
        const Samples* const other = find(table, label, columns[c]);
        const double other_rate = other == nullptr ? 0 : median(other->flops_per_second);
        row.push_back(other == nullptr ? "-" : format("%.1f", other_rate / 1e9));
        row.push_back(other == nullptr ? "-" : format("%.2f", rate / other_rate));
    }
    if (columns.size() > 1) {
        const Samples* const other = find(table, label, columns[1]);
        row.push_back(other == nullptr ? "-" : bytes_text(other->scratch_bytes));
    }
    return row;
}

Report::Row Report::cost_row(const Table& table, const std::string& label,
                             const std::vector<std::string>& columns) const {
    Row row = {label};
    for (const std::string& column : columns) {
        const Samples* const samples = find(table, label, column);
        row.push_back(samples == nullptr ? "-" : format("%.1f", 1 / median(samples->of_peak)));
    }
    return row;
}

Report::Row Report::bandwidth_row(const Table& table, const std::string& label,
                                  const std::vector<std::string>& columns) const {
    const auto rate = [&](const std::string& column) {
        const Samples* const samples = find(table, label, column);
        return samples == nullptr ? 0.0 : median(samples->bytes_per_second);
    };
    const double all = rate(columns.back());
    Row row = {label, all > 0 ? format("%.0f %%", 100 * rate(columns.front()) / all) : "-"};
    for (const std::string& column : columns)
        row.push_back(rate(column) > 0 ? format("%.1f", rate(column) / 1e9) : "-");
    return row;
}

Report::Row Report::overhead_row(const Table& table, const std::string& label,
                                 const std::vector<std::string>& columns) const {
    const Samples& own = *find(table, label, columns.front());
    const double seconds = median(own.seconds), of_peak = median(own.of_peak);
    return {label, seconds_text(seconds), seconds_text(seconds * of_peak),
            seconds_text(seconds * (1 - of_peak)), format("%.1f %%", 100 * of_peak)};
}

void Report::write_series(std::ostream& out) const {
    out << "# x, percent of the FMA peak, GFLOP/s, seconds, bytes of scratch\n";
    for (const Table& table : tables_)
        for (const std::string& column : columns_of(table)) {
            out << "\n\n# " << table.id << ' ' << column << '\n';
            for (const Entry& entry : entries_) {
                const Samples* const samples = find(entry.benchmark);
                if (entry.place.table != table.id || entry.place.column != column || !samples)
                    continue;
                out << entry.place.x << ' ' << 100 * median(samples->of_peak) << ' '
                    << median(samples->flops_per_second) / 1e9 << ' ' << median(samples->seconds)
                    << ' ' << samples->scratch_bytes << '\n';
            }
        }
}

std::vector<std::string> Report::columns_of(const Table& table) const {
    return distinct(entries_, [&](const Entry& entry) {
        const bool measured = entry.place.table == table.id && find(entry.benchmark);
        return measured ? &entry.place.column : nullptr;
    });
}

std::vector<std::string> Report::labels_of(const Table& table) const {
    const std::vector<std::string> columns = columns_of(table);
    return distinct(entries_, [&](const Entry& entry) {
        const bool measured = entry.place.table == table.id && find(entry.benchmark) &&
                              entry.place.column == columns.front();
        return measured ? &entry.place.row : nullptr;
    });
}

const Report::Samples* Report::find(const Table& table, const std::string& row,
                                    const std::string& column) const {
    for (const Entry& entry : entries_)
        if (entry.place.table == table.id && entry.place.row == row && entry.place.column == column)
            return find(entry.benchmark);
    return nullptr;
}

const Report::Samples* Report::find(const std::string& benchmark) const {
    const auto found = samples_.find(benchmark);
    return found == samples_.end() ? nullptr : &found->second;
}

}  // namespace bench
