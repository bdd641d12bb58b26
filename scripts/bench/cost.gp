# SPDX-License-Identifier: GPL-2.0
# Cost a page against the size of the range. report.py runs this, and sets
# `data`: a file with the pages, and the cost a page on base and patched for
# each series.

set terminal svg size 800,480 font "sans-serif,14" background "#ffffff"
set datafile missing "?"
set title "Making a range of memory exclusive"
set xlabel "size of the range in bytes"
set ylabel "instructions a page"
set logscale x 2
set logscale y 10
set xrange [0.9:290000]
set xtics nomirror ("4K" 1, "16K" 4, "64K" 16, "256K" 64, "1M" 256, "2M" 512, \
	"8M" 2048, "64M" 16384, "256M" 65536, "1G" 262144)
set ytics nomirror format "%.0f"
set mytics 10
set border 3 linecolor "#444444"
set grid xtics ytics linetype 1 linecolor "#dddddd"
set key below center vertical maxrows 2 Left reverse samplen 4 width 2
set bmargin 6.2
set style data linespoints

# Blue is 4 KiB pages, orange is huge pages; dashed is base, solid is patched.
# Lines may hide each other: the later one is thinner.
set style line 1 linecolor "#0072b2" linewidth 4 dashtype (5,4) pointtype 7 pointsize 0.7
set style line 2 linecolor "#0072b2" linewidth 4 pointtype 7 pointsize 0.7
set style line 3 linecolor "#d55e00" linewidth 1.6 dashtype (12,9) pointtype 5 pointsize 0.5
set style line 4 linecolor "#d55e00" linewidth 1.6 pointtype 5 pointsize 0.5

plot data using 1:2 linestyle 1 title "4 KiB pages, base", \
	data using 1:3 linestyle 2 title "4 KiB pages, patched", \
	data using 1:4 linestyle 3 title "huge pages, base", \
	data using 1:5 linestyle 4 title "huge pages, patched"
