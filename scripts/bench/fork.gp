# SPDX-License-Identifier: GPL-2.0
# How long fork() takes, against how much memory is pinned or exclusive.
# report.py runs this, and sets `data`: a file with the pages, and the cost a
# page on base and patched for each series.

set terminal svg size 800,520 font "sans-serif,14" background "#ffffff"
set datafile missing "?"
set title "fork() of a process with pinned or exclusive memory"
set xlabel "memory that is pinned or exclusive, in bytes"
set ylabel "instructions of one fork()"
set logscale x 2
set logscale y 10
set xrange [460:290000]
set xtics nomirror ("2M" 512, "4M" 1024, "8M" 2048, "16M" 4096, "32M" 8192, \
	"64M" 16384, "128M" 32768, "256M" 65536, "512M" 131072, "1G" 262144)
set ytics nomirror format "10^{%T}"
set mytics 10
set border 3 linecolor "#444444"
set grid xtics ytics linetype 1 linecolor "#dddddd"
set key below center vertical maxrows 4 Left reverse samplen 4 width 2
set bmargin 8.2
set style data linespoints

# A colour for each kind of memory; dashed is base, solid is patched. Lines may
# hide each other: the later one is thinner.
set style line 1 linecolor "#0072b2" linewidth 4 dashtype (5,4) pointtype 7 pointsize 0.7
set style line 2 linecolor "#0072b2" linewidth 4 pointtype 7 pointsize 0.7
set style line 3 linecolor "#d55e00" linewidth 1.6 dashtype (12,9) pointtype 5 pointsize 0.5
set style line 4 linecolor "#d55e00" linewidth 1.6 pointtype 5 pointsize 0.5
set style line 5 linecolor "#009e73" linewidth 4 dashtype (5,4) pointtype 9 pointsize 0.8
set style line 6 linecolor "#009e73" linewidth 4 pointtype 9 pointsize 0.8
set style line 7 linecolor "#882255" linewidth 1.6 dashtype (12,9) pointtype 13 pointsize 0.6
set style line 8 linecolor "#882255" linewidth 1.6 pointtype 13 pointsize 0.6

plot data using 1:($1*$2) linestyle 1 title "pinned 4 KiB pages, base", \
	data using 1:($1*$3) linestyle 2 title "pinned 4 KiB pages, patched", \
	data using 1:($1*$4) linestyle 3 title "pinned huge pages, base", \
	data using 1:($1*$5) linestyle 4 title "pinned huge pages, patched", \
	data using 1:($1*$6) linestyle 5 title "exclusive 4 KiB pages, base", \
	data using 1:($1*$7) linestyle 6 title "exclusive 4 KiB pages, patched", \
	data using 1:($1*$8) linestyle 7 title "exclusive huge pages, base", \
	data using 1:($1*$9) linestyle 8 title "exclusive huge pages, patched"
