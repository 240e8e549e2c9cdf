# Draws the numbers that heed_bench --series=FILE wrote:
#   gnuplot -e "series='FILE'; picture='FILE.png'" bench/plot.gp
set terminal pngcairo size 1500,1050 font "DejaVu Sans,12" background "white"
set output picture

set style line 1 lc rgb "#0072b2" lw 3 pt 7 ps 1.3
set style line 2 lc rgb "#56b4e9" lw 3 pt 5 ps 1.2
set style line 3 lc rgb "#d55e00" lw 2 pt 9 ps 1.3
set style line 4 lc rgb "#999999" lw 2 pt 11 ps 1.3
set border 3 lc rgb "#555555"
set tics nomirror out scale 0.6
set grid back ytics lc rgb "#cccccc" lw 1.5
set datafile missing NaN

set multiplot layout 2,2 margins 0.06,0.975,0.07,0.89 spacing 0.075,0.135 \
    title "heed beside plain Eigen: attention forward, one thread, head size 64" font ",17"

# Share of the FMA peak that the same core reached in the same run.
set logscale x 2
set yrange [0:100]
set ylabel "% of the FMA peak (visible pairs)"
set xlabel "sequence length L"
set key bottom right horizontal maxcols 2 samplen 2 spacing 1.2

set title "{/:Bold float, B=1 H=12, by length}"
plot series index "float heed" using 1:2 with linespoints ls 1 title "heed", \
     series index "float_causal heed" using 1:2 with linespoints ls 2 title "heed, causal", \
     series index "float Eigen -march=native" using 1:2 with linespoints ls 3 title "Eigen -march=native", \
     series index "float Eigen" using 1:2 with linespoints ls 4 title "Eigen, no flags"

set title "{/:Bold double, B=1 H=12, by length}"
plot series index "double heed" using 1:2 with linespoints ls 1 title "heed", \
     series index "double_causal heed" using 1:2 with linespoints ls 2 title "heed, causal", \
     series index "double Eigen -march=native" using 1:2 with linespoints ls 3 title "Eigen -march=native", \
     series index "double Eigen" using 1:2 with linespoints ls 4 title "Eigen, no flags"

set title "{/:Bold float, B=1 L=512, by number of heads}"
set xlabel "heads H"
plot series index "heads heed" using 1:2 with linespoints ls 1 title "heed", \
     series index "heads Eigen -march=native" using 1:2 with linespoints ls 3 title "Eigen -march=native", \
     series index "heads Eigen" using 1:2 with linespoints ls 4 title "Eigen, no flags"

# Time per query and head: with a window, constant however long the sequence is.
set title "{/:Bold float, B=1 H=12, causal: time per query and head}"
set xlabel "sequence length L"
set ylabel "microseconds (logarithmic)"
set logscale y 10
set yrange [*:*]
set key top left vertical maxcols 1
plot series index "float_causal Eigen" using 1:($4 * 1e6 / 12 / $1) with linespoints ls 4 title "Eigen, no flags", \
     series index "float_causal Eigen -march=native" using 1:($4 * 1e6 / 12 / $1) with linespoints ls 3 title "Eigen -march=native", \
     series index "float_causal heed" using 1:($4 * 1e6 / 12 / $1) with linespoints ls 1 title "heed", \
     series index "float_window heed" using 1:($4 * 1e6 / 12 / $1) with linespoints ls 2 title "heed, window of 256 keys"
unset multiplot
