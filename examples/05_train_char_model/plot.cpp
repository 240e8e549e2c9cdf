#include "plot.hpp"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <sstream>
#include <stdexcept>

#include "heed/base/contract.hpp"

namespace char_model {

namespace {

/// A text as gnuplot reads it literally.
std::string quoted(const std::string& text) {
    std::string result = "'";
    for (char letter : text) result += letter == '\'' ? std::string("''") : std::string(1, letter);
    return result + '\'';
}

std::string terminal(const std::filesystem::path& file) {
    if (file.extension() == ".svg") return "svg size 960,540 font 'sans,14' background 'white'";
    if (file.extension() == ".png") return "pngcairo size 960,540 font 'sans,11'";
    throw heed::ArgumentError("[plot] a plot's file must end in .svg or .png; found '" +
                              file.string() + "'");
}

}  // namespace

bool can_plot() {
    return std::system("gnuplot --version >/dev/null 2>&1") == 0;
}

std::string plot_script(const std::filesystem::path& file, const Curve& curve) {
    std::ostringstream script;
    script << "set terminal " << terminal(file) << "\nset output " << quoted(file.string()) << '\n'
           << "$training << END\n";
    for (Index step = 1; step <= std::ssize(curve.training); ++step)
        script << step << ' ' << curve.smoothed(step) << '\n';
    script << "END\n$validation << END\n";
    for (const Curve::Validation& point : curve.validation)
        script << point.step << ' ' << point.loss << '\n';
    script << "END\n"
              "set border 3 lc rgb '#555555'\n"
              "set tics nomirror out scale 0.6\n"
              "set grid ytics lc rgb '#cccccc'\n"
              "set xlabel 'step'\n"
              "set ylabel 'loss, nats per letter'\n"
              "plot $training using 1:2 with lines lw 2 lc rgb '#0072b2'"
              " title 'training, mean of 100 steps'";
    if (!curve.validation.empty())
        script << ", $validation using 1:2 with linespoints lw 2 pt 7 ps 0.5 lc rgb '#d55e00'"
                  " title 'held out'";
    script << '\n';
    return script.str();
}

void write_plot(const std::filesystem::path& file, const Curve& curve) {
    const std::string script = plot_script(file, curve);
    // Where the file cannot be written, gnuplot would draw on the standard output.
    const auto close = [](std::FILE* pipe) { pclose(pipe); };
    std::unique_ptr<std::FILE, decltype(close)> gnuplot(popen("gnuplot >/dev/null", "w"), close);
    const bool sent =
        gnuplot && std::fwrite(script.data(), 1, script.size(), gnuplot.get()) == script.size();
    if (!sent || pclose(gnuplot.release()) != 0)
        throw std::runtime_error("gnuplot could not draw '" + file.string() + "'");
}

}  // namespace char_model
