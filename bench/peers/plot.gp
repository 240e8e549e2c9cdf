# Draws the ratios that peers.py wrote:
#   gnuplot -e "kind='attention'; title='attention'; pass='forward'; series='FILE'; \
#       picture='FILE.png'; panel='D'; panels='64 128'; threads='1 2'; heads='1 12'; \
#       first_colour='full'; second_colour='causal'; shortest=32; longest=8192" bench/peers/plot.gp
columns = words(threads)
set terminal pngcairo size 750 * columns, 100 + 500 * words(panels) \
    font "DejaVu Sans,12" background "white"
set output picture

set border 3 lc rgb "#555555"
set tics nomirror out scale 0.6
set grid back ytics lc rgb "#cccccc" lw 1.5
set logscale x 2
set xrange [0.75 * shortest:1.35 * longest]
set yrange [0:1.1<*<2]
set xlabel "sequence length L"
set ylabel "heed's time / fastest peer's time"
array colours[2] = ["#0072b2", "#d55e00"]
array meanings[2] = [first_colour, second_colour]

set multiplot layout words(panels), columns margins 0.11 / columns, 0.98, 0.1, 0.88 \
    spacing 0.14 / columns, 0.15 \
    title sprintf("heed beside %s: %s, %s, float\nbelow 1, heed is the fastest", \
        pass eq "forward" ? "PyTorch and ONNX Runtime" : "PyTorch", title, \
        pass eq "forward" ? pass : "forward and backward") \
    font ",15"
unset key
do for [p in panels] {
    # One legend for a column of panels.
    if (p eq word(panels, words(panels))) {
        set key below horizontal samplen 2 spacing 1.2
    }
    do for [t in threads] {
        set title sprintf("{/:Bold %s=%s, %s thread%s}", panel, p, t, t eq "1" ? "" : "s")
        plot 1 with lines lc rgb "#000000" lw 2 notitle, \
            for [m = 0:1] for [i = 1:words(heads)] \
            series index sprintf("%s %s %s %s %d %s", kind, pass, p, t, m, word(heads, i)) using 1:2 \
            with linespoints lc rgb colours[m + 1] lw 1.5 pt 2 * i + 3 ps 1.1 \
            title sprintf("%s, H=%s", meanings[m + 1], word(heads, i))
    }
}
unset multiplot
