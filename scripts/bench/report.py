#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""What `make bench` says about the numbers that the VMs have printed.

report.py DIR [PREVIOUS]  read DIR, print the tables, and write bench.json,
                          bench.md, cost.svg and fork.svg beside DIR; compare
                          with PREVIOUS, the bench.json of another run
report.py --table JSON    print the table that README shows
"""
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
KERNELS = ("base", "patched")
BOOTS = ("1", "2")
HUGE = 512  # pages of 4 KiB in 2 MiB
LIMIT = 0.5  # percent by which two runs may differ
LINEAR = 10  # percent by which the cost a page may change with the size
# What a shootdown costs for each CPU that it goes to, and for how many CPUs we
# want to know it: see "On paper" in MEASURING.md.
SHOOTDOWN_US = (0.4, 1.6)
CPUS = (8, 64, 256)
# How many words of a line are its key; what follows is numbers.
KEY_WORDS = {"metric": 2, "point": 2, "event": 2, "pages": 1, "text": 1}
RANGE = "{ratio:.2f} ({ratio_min:.2f} to {ratio_max:.2f})"
COPYING = ("fork_pinned", "fork_onepin", "fork_mostpin", "fork_halfpin")
GROUPS = {  # by how the names begin
    "Device-exclusive": ("make", "restore"),
    "fork()": ("fork_plain", "fork_exclusive", *COPYING, "fork_sparsepin",
               "copy"),
    "Guards": "",
}
CHARTS = {  # the least number of pages, and the series
    "cost": (1, "make_4k", "make_thp"),
    "fork": (HUGE, "fork_pinned_4k", "fork_pinned_thp", "fork_exclusive_4k",
             "fork_exclusive_thp"),
}
MAIN = {
    "make_4k": "make memory exclusive, 4 KiB pages",
    "make_ptemap": "the same, huge pages mapped by PTEs",
    "make_thp": "the same, huge pages mapped by PMDs",
    "make_one_4k": "make one page exclusive",
    "restore_4k": "take exclusive pages back by writing to them",
    "fork_exclusive_4k": "fork with exclusive pages",
    "fork_pinned_4k": "fork with pinned 4 KiB pages",
    "fork_pinned_4k_overhead": "fork with pinned 4 KiB pages, copying left out",
    "fork_pinned_4k_mthp": "fork with pinned 4 KiB pages, mTHP allowed",
    "fork_halfpin": "fork with every second 4 KiB page pinned",
    "fork_sparsepin": "fork with 8 page tables of one pinned page each",
    "fork_pinned_thp": "fork with pinned huge pages",
    "fork_pinned_thp_overhead": "fork with pinned huge pages, copying left out",
    "fork_onepin_thp": "fork with 4 KiB pinned in 16 MiB of huge pages",
    "fork_plain_4k": "guard: fork, nothing exclusive or pinned",
    "anon_fault": "guard: first write to a page",
    "cow_fault": "guard: first write after a fork",
}


def die(message):
    sys.exit(f"error: {message}")


def read_text(path):
    return path.read_text(encoding="utf-8", errors="replace")


def number(text, where):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        die(f"{where}: '{text}' is not a number")
    return value


def read_file(path):
    """What one VM has printed: for each kind of line {key: numbers}"""
    lines = read_text(path).splitlines()
    if path.suffix != ".size" and \
       not re.fullmatch("# (bench )?exit 0", "".join(lines[-1:])):
        failed = [line for line in lines if line.startswith("# failed")]
        last = (failed or lines or ["nothing"])[-1]
        die(f"{path}: the VM did not end properly; it says: {last}")
    data = {kind: {} for kind in KEY_WORDS}
    data["kernel"] = next((line[9:].strip() for line in lines
                           if line.startswith("# kernel ")), "")
    for i, line in enumerate(lines, 1):
        kind, *words = line.split() or ["#"]
        if kind.startswith("#"):
            continue
        end = KEY_WORDS.get(kind, len(words))
        key = tuple(words[:end])
        if len(words) <= end or key in data[kind]:
            die(f"{path}:{i}: makes no sense here: '{line}'")
        data[kind][key] = [number(n, f"{path}:{i}") for n in words[end:]]
        if kind == "point":
            number(key[1], f"{path}:{i}")
    return data


def read_all(directory):
    files = {(kernel, part): read_file(directory / f"{kernel}.{part}")
             for kernel in KERNELS for part in (*BOOTS, "smp", "size")}
    for (kernel, part), data in files.items():
        like = "1" if part in BOOTS else part
        for kind in ("metric", "point", "event", "pages"):
            other = files["base", like][kind]
            for key in sorted(other.keys() ^ data[kind].keys()):
                lacks = f"{kernel}.{part}" if key in other else f"base.{like}"
                die(f"'{kind} {' '.join(key)}' is missing in "
                    f"{directory / lacks}")
    return files


def add_overheads(data):
    """What forks cost without the copying that they do"""
    metrics = {}
    for (name, unit), runs in data["metric"].items():
        metrics[name, unit] = runs
        if not name.startswith(COPYING):
            continue
        try:
            copied = data["event"][name, "pages_copied"][0]
            copying = min(data["metric"]["copy", unit]) * copied / \
                data["pages"][name,][0]
        except (KeyError, ZeroDivisionError):
            die(f"metric {name} needs the metric copy, its number of pages, "
                "and its event pages_copied")
        metrics[name + "_overhead", unit] = [run - copying for run in runs]
    data["metric"] = metrics


def ratio(base, patched):
    return round(base / patched, 2) if min(base, patched) > 0 else None


def least(files, kind, key):
    """The least of both boots"""
    value = {k: round(min(min(files[k, b][kind][key]) for b in BOOTS), 3)
             for k in KERNELS}
    return value if kind == "event" else \
        value | {"ratio": ratio(value["base"], value["patched"])}


def metrics_of(files):
    result = []
    for key in files["base", "1"]["metric"]:
        runs = {k: [files[k, b]["metric"][key] for b in BOOTS] for k in KERNELS}
        entry = {"name": key[0], "unit": key[1], **least(files, "metric", key),
                 "runs": min(sum(map(len, runs[k])) for k in KERNELS)}
        for k in KERNELS:
            entry[k + "_min"] = entry[k]
            entry[k + "_max"] = round(max(map(max, runs[k])), 3)
            entry[k + "_boots"] = [round(min(boot), 3) for boot in runs[k]]
        result.append(entry)
    return result


def smp_of(files):
    """The cost beside another thread, against that without one"""
    result = []
    for full, unit in files["base", "smp"]["metric"]:
        name = full.removesuffix("_sibling")
        if name == full:
            continue
        entry, medians = {"name": name}, []
        for k in KERNELS:
            data = files[k, "smp"]
            runs = data["metric"][full, unit]
            alone = median(data["metric"].get((name + "_alone", unit), [0]))
            if min(alone, *runs) <= 0:
                die(f"{name} of {k}.smp needs {name}_alone, and no number <= 0")
            medians.append(median(runs))
            flushes = data["event"].get((full, "remote_flushes"), [math.nan])[0]
            flushes *= HUGE / (data["pages"].get((full,), [0])[0] or HUGE)
            entry[k] = {"ratio": round(medians[-1] / alone, 2),
                        "ratio_min": round(min(runs) / alone, 2),
                        "ratio_max": round(max(runs) / alone, 2),
                        "remote_flushes_2m": round(flushes, 2)
                        if math.isfinite(flushes) else None}
        result.append(entry | {"ratio": ratio(*medians)})
    return result


def text_of(files):
    sizes = {k: files[k, "size"]["text"] for k in KERNELS}
    return [{"object": o[0],
             **{k: int(sizes[k].get(o, [0])[0]) for k in KERNELS}}
            for o in sizes["base"] | sizes["patched"]]


def differ(name, kernel, values, events):
    """Nothing if both values agree; else by how much they do not, and why"""
    off = abs(values[0] - values[1]) / (max(map(abs, values)) or 1) * 100
    if off <= LIMIT:
        return []
    changed = [f"{key[1]} {count:g} and {events[1][key]:g}"
               for key, count in events[0].items()
               if key[0] == name.removesuffix("_overhead") and
               events[1].get(key, count) != count]
    why = "counted differently: " + ", ".join(changed) if changed else \
        "the small difference of two large numbers" \
        if name.endswith("_overhead") else "the same events were counted"
    return [{"name": name, "kernel": kernel, "percent": round(off, 2),
             "why": why}]


def between_boots(files, metrics):
    events = {f: {key: n[0] for key, n in data["event"].items()}
              for f, data in files.items()}
    return {"metrics": len(metrics), "differ": [
        d for m in metrics for k in KERNELS for d in differ(
            m["name"], k, m[k + "_boots"], [events[k, b] for b in BOOTS])]}


def between_runs(then, now):
    old = {m["name"]: m for m in then["metrics"]}
    both = [m for m in now["metrics"] if m["name"] in old]
    events = {k: [{(e["metric"], e["event"]): e[k] for e in run["events"]}
                  for run in (then, now)] for k in KERNELS}
    return {"kernel": then["kernel"], "metrics": len(both), "differ": [
        d for m in both for k in KERNELS
        for d in differ(m["name"], k, [old[m["name"]][k], m[k]], events[k])]}


def evaluate(files, previous):
    first = files["base", "1"]
    units = dict(first["metric"].keys())
    for kernel in KERNELS:
        for boot in BOOTS:
            add_overheads(files[kernel, boot])
    bench = {
        "kernel": max(data["kernel"] for data in files.values()),
        "metrics": metrics_of(files),
        "points": [{"series": p[0], "pages": int(float(p[1])),
                    **least(files, "point", p)} for p in first["point"]],
        "events": [{"metric": e[0], "event": e[1],
                    "pages": int(first["pages"].get(e[:1], [0])[0])
                    if units.get(e[0], "").endswith("/page") else 0,
                    **least(files, "event", e)} for e in first["event"]],
        "text": text_of(files),
        "smp": smp_of(files)}
    bench["repeatable"] = {
        "limit_percent": LIMIT, "boots": between_boots(files, bench["metrics"]),
        "previous": between_runs(previous, bench) if previous else None}
    return bench


def read_json(path):
    try:
        bench = json.loads(read_text(path))
        if {"kernel", "metrics", "events"} <= bench.keys():
            return bench
    except (ValueError, AttributeError):
        pass
    die(f"{path} is not a bench.json")


def show(value, digits=None):
    if value is None:
        return "-"
    return f"{value:.{int(value < 1000) if digits is None else digits}f}"


def count(value):
    return show(value, 2 if value and value % 1 else 0)


def duration(low, high):
    unit, scale = ("us", 1) if low < 1000 else ("ms", 1000)
    return " to ".join(show(us / scale, int(us / scale < 10))
                       for us in (low, high)) + f" {unit}"


def table(head, rows, left=1):
    """In markdown, but in columns without it too"""
    widths = [max(3, *(len(row[i]) for row in [head, *rows]))
              for i in range(len(head))]
    rule = ["-" * w if i < left else "-" * (w - 1) + ":"
            for i, w in enumerate(widths)]
    return ["| " + " | ".join(
        cell.ljust(w) if i < left else cell.rjust(w)
        for i, (cell, w) in enumerate(zip(row, widths))) + " |"
        for row in [head, rule, *rows]]


def metric_row(m):
    return [*(show(m[k]) for k in KERNELS), show(m["ratio"], 2)]


def metric_tables(metrics):
    groups = {group: [] for group in GROUPS}
    for m in metrics:
        group = next(g for g in GROUPS if m["name"].startswith(GROUPS[g]))
        groups[group].append([m["name"], m["unit"], *metric_row(m)])
    head = ["metric", "unit", "base", "patched", "ratio"]
    return [line for group, rows in groups.items() if rows
            for line in [f"### {group}", "", *table(head, rows, 2), ""]]


def short_table(metrics):
    found = {m["name"]: metric_row(m) for m in metrics}
    return table(["metric", "what", "base", "patched", "ratio"], [
        [f"`{name}`", what, *found[name]]
        for name, what in MAIN.items() if name in found], 2)


def event_table(events):
    cells = {}
    for e in events:
        scale = HUGE / e["pages"] if e["pages"] >= HUGE else 1
        both = dict.fromkeys(count(e[k] * scale) for k in KERNELS)
        cells.setdefault(e["metric"], {})[e["event"]] = " -> ".join(both)
    head = list(dict.fromkeys(e["event"] for e in events))
    return table(["metric", *head], [[name, *(row.get(h, "-") for h in head)]
                                     for name, row in cells.items()])


def smp_table(smp):
    return table(
        ["metric", *(f"{k}: beside / alone" for k in KERNELS),
         "base / patched, beside", "remote flushes, base", "patched"],
        [[s["name"], *(RANGE.format(**s[k]) for k in KERNELS),
          show(s["ratio"], 2),
          *(count(s[k]["remote_flushes_2m"]) for k in KERNELS)]
         for s in smp])


def paper_table(smp):
    rows = []
    for s in smp:
        flushes = [s[k]["remote_flushes_2m"] for k in KERNELS]
        if not re.match("make_(?!one)", s["name"]) or not all(flushes):
            continue
        for cpus in CPUS:
            one = [(cpus - 1) * us for us in SHOOTDOWN_US]
            rows.append([s["name"], str(cpus), duration(*one), *(
                f"{count(n)}: " + duration(*(n * us for us in one))
                for n in flushes)])
    return table(["2 MiB", "CPUs", "one shootdown", "base", "patched"], rows) \
        if rows else ["No shootdowns were counted."]


def size_name(pages):
    exponent = ((pages * 4).bit_length() - 1) // 10
    return f"{pages * 4 / 1024 ** exponent:g}{'KMGT'[exponent]}"


def growth(costs):
    """Where the cost a page is not what it is for 2 MiB"""
    change = {pages: (value / costs[HUGE] - 1) * 100
              for pages, value in costs.items() if pages > HUGE}
    more = [f"{size_name(p)} {c:+.0f} %"
            for p, c in change.items() if c > LINEAR]
    fall = -min(change.values(), default=0)
    return ", ".join(more) or (f"falls by {fall:.0f} %" if fall > LINEAR
                               else "linear")


def growth_table(points):
    series = {}
    for p in sorted(points, key=lambda p: p["pages"]):
        for k in KERNELS:
            series.setdefault((p["series"], k), {})[p["pages"]] = p[k]
    return table(["series", "kernel", "growth", "2M", "64M", "1G"], [
        [*key, growth(c), *(show(c.get(HUGE * n)) for n in (1, 32, 512))]
        for key, c in series.items() if c.get(HUGE, 0) > 0], 3)


def text_table(text):
    total = {k: sum(t[k] for t in text) for k in KERNELS}
    return table(["object", "base", "patched", "bytes more"], [
        [t["object"], *(str(t[k] or "-") for k in KERNELS),
         f"{t['patched'] - t['base']:+}"] for t in
        [*text, {"object": "all", **total}]])


def repeat_lines(result, what):
    bad = len({d["name"] for d in result["differ"]})
    line = f"{what}: all {result['metrics']}" if not bad else \
        f"{what}: {result['metrics'] - bad} of {result['metrics']}"
    return [line + f" metrics agree within {LIMIT} %" +
            (". These do not:\n" if bad else "."),
            *(f"- {d['name']}, {d['kernel']}: {d['percent']:.2f} %; {d['why']}"
              for d in result["differ"]), ""]


def repeat_section(bench):
    lines = repeat_lines(bench["repeatable"]["boots"], "Two boots")
    previous = bench["repeatable"]["previous"]
    if previous:
        other = "" if previous["kernel"] == bench["kernel"] else \
            f" of another kernel, {previous['kernel']}"
        lines += repeat_lines(previous, "This run and the previous one" + other)
    return lines


def measuring(title):
    """A section of MEASURING.md"""
    text = read_text(HERE.parent.parent / "MEASURING.md")
    found = re.search(rf"^## {title}\n+(.*?)\n*(?=^## |\Z)", text, re.M | re.S)
    return found[1] if found else die(f"MEASURING.md has no section '{title}'")


def report(bench):
    sections = [
        ("Cost", "The least of all runs. ratio = base / patched: more than 1 "
         "is better.", metric_tables(bench["metrics"])),
        ("Events", "base -> patched, for 512 pages, or for one run where it "
         "has fewer.", event_table(bench["events"])),
        ("Growth", "The cost a page of what is done to so much memory at once. "
         f"Linear: from 2 MiB on it\nstays within {LINEAR} %. Falls: it has a "
         "fixed part. Else: the sizes where it is higher.",
         growth_table(bench["points"])),
        ("Two CPUs", "Medians, and ranges, of the cost beside another thread "
         "of the process that runs,\nagainst that without one. Remote flushes: "
         "shootdowns for 2 MiB.", smp_table(bench["smp"])),
        ("On paper", measuring("On paper"), paper_table(bench["smp"])),
        ("Kernel text", "Bytes.", text_table(bench["text"])),
        ("Repeatability", "", repeat_section(bench)),
        ("What the numbers cannot show",
         measuring("What the numbers cannot show"), [])]
    lines = [f"# Benchmarks {bench['kernel']}".rstrip()]
    for title, text, rows in sections:
        lines += ["", f"## {title}", "", text, "", *rows]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def chart_data(points, first, *series):
    """A line for each size: pages, then base and patched for each series"""
    value = {(p["series"], p["pages"]): p
             for p in points if p["pages"] >= first}
    for name in sorted(set(series) - {key[0] for key in value}):
        die(f"series {name} is missing, which a chart shows")
    sizes = sorted({pages for name, pages in value if name in series})
    missing = dict.fromkeys(KERNELS, "?")
    return "".join(" ".join([str(pages), *(
        str(value.get((name, pages), missing)[k])
        for name in series for k in KERNELS)]) + "\n" for pages in sizes)


def chart(name, directory, out, points):
    (directory / f"{name}.dat").write_text(chart_data(points, *CHARTS[name]))
    run = subprocess.run(
        ["gnuplot", "-e", f"data = '{name}.dat'", HERE / f"{name}.gp"],
        cwd=directory, text=True, capture_output=True, check=False)
    if run.returncode or "</svg>" not in run.stdout:
        die(f"{name}.gp: " + " ".join(run.stderr.split()))
    # Which version of gnuplot it was makes no difference.
    svg = re.sub(r"<title>.*?</title>\s*<desc>.*?</desc>",
                 f"<title>{name}</title>", run.stdout, flags=re.S)
    (out / f"{name}.svg").write_text(svg, encoding="utf-8")


def main(args):
    if len(args) == 2 and args[0] == "--table":
        bench = read_json(Path(args[1]))
        print(*short_table(bench["metrics"]), sep="\n")
        return
    if len(args) not in (1, 2) or args[0].startswith("-"):
        die("usage: report.py DIR [PREVIOUS], or report.py --table JSON")
    directory = Path(args[0])
    out = directory.resolve().parent
    previous = read_json(Path(args[1])) if len(args) == 2 else None
    bench = evaluate(read_all(directory), previous)
    text = report(bench)
    for name in CHARTS:
        chart(name, directory, out, bench["points"])
    (out / "bench.json").write_text(json.dumps(bench, indent=1) + "\n")
    (out / "bench.md").write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as error:
        die(f"{error.filename}: {error.strerror}")
