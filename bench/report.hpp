#pragma once
// What did the run show? Tables for people, series for the plot.
// Collects what Google Benchmark measured, writes Markdown and data; decides nothing.

#include <benchmark/benchmark.h>

#include <iosfwd>
#include <map>
#include <string>
#include <vector>

#include "clock.hpp"

namespace bench {

/// Where a benchmark stands in the report.
struct Place {
    std::string table;   ///< id of a table
    std::string row;     ///< label of the row
    double x;            ///< position of the row in a plot
    std::string column;  ///< contender; the first one of a table is the one compared
};

/// Sets the counters that the report reads, after the timed loop: `FLOP/s` of iterations of so many
/// operations, `seconds` of an iteration, the `peak` of this repetition (FLOP/s), the share
/// `of_peak`, and `bytes/s` of the memory that it has to read and write. The label names the peak.
void report_speed(benchmark::State& state, double flops, double peak, double scratch_bytes = 0,
                  double bytes = 0);

class Report final : public benchmark::BenchmarkReporter {
  public:
    enum class Shows {
        speed,      ///< of the first column, and its ratio to the others
        cost,       ///< one over the share of the peak, for each column
        bandwidth,  ///< bytes/s of each column, and the share of the first in the last
        overhead,   ///< time of the first column, and what of it is not operations at the peak
    };

    struct Table {
        std::string id, title, row_header;
        Shows shows = Shows::speed;
    };

    void add_table(const Table& table) { tables_.push_back(table); }

    /// A benchmark may stand in several places.
    void add_place(const std::string& benchmark, const Place& place);

    bool ReportContext(const Context& context) override;
    void ReportRuns(const std::vector<Run>& runs) override;

    /// Says that a benchmark's result is wrong.
    void note_failure(const std::string& benchmark, const std::string& message);
    [[nodiscard]] bool failed() const { return failed_; }

    /// Shows a person at the terminal that something happens.
    void note_measurement();

    /// All tables, as Markdown that is aligned for a terminal too.
    void print_tables(std::ostream& out) const;

    /// A block `# TABLE COLUMN` for each series, with lines of x, percent of the peak, GFLOP/s,
    /// seconds and bytes of scratch, for bench/plot.gp.
    void write_series(std::ostream& out) const;

    [[nodiscard]] bool empty() const { return samples_.empty(); }

  private:
    struct Samples {
        std::vector<double> flops_per_second, of_peak, seconds, bytes_per_second;
        double scratch_bytes = 0;
    };

    struct Entry {
        Place place;
        std::string benchmark;
    };

    using Row = std::vector<std::string>;

    void print_table(const Table& table, std::ostream& out) const;
    void print_peaks(std::ostream& out) const;
    [[nodiscard]] Row speed_header(const Table& table,
                                   const std::vector<std::string>& columns) const;
    [[nodiscard]] Row speed_row(const Table& table, const std::string& label,
                                const std::vector<std::string>& columns) const;
    [[nodiscard]] Row header(const Table& table, const std::vector<std::string>& columns) const;
    [[nodiscard]] Row row(const Table& table, const std::string& label,
                          const std::vector<std::string>& columns) const;
    [[nodiscard]] Row cost_row(const Table& table, const std::string& label,
                               const std::vector<std::string>& columns) const;
    [[nodiscard]] Row bandwidth_row(const Table& table, const std::string& label,
                                    const std::vector<std::string>& columns) const;
    [[nodiscard]] Row overhead_row(const Table& table, const std::string& label,
                                   const std::vector<std::string>& columns) const;
    [[nodiscard]] std::vector<std::string> columns_of(const Table& table) const;
    [[nodiscard]] std::vector<std::string> labels_of(const Table& table) const;
    [[nodiscard]] const Samples* find(const Table& table, const std::string& row,
                                      const std::string& column) const;
    [[nodiscard]] const Samples* find(const std::string& benchmark) const;

    double begin_ = wall_seconds();
    int measurements_ = 0;
    bool failed_ = false;
    std::vector<Table> tables_;
    std::vector<Entry> entries_;
    std::map<std::string, Samples> samples_;
    std::map<std::string, std::vector<double>> peaks_;
};

}  // namespace bench
