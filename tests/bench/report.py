"""What comes out of the comparison: medians, tables in Markdown, the machine, the page."""

import datetime
import os
import platform
import statistics
import subprocess

from systems import BATCHES, FLOOR_LOADS, KEYED, LOADS, ONE, RECORD_BYTES, SYSTEMS, WARMUP_S

FIGURES = ["records_per_s", "mib_per_s", "p50_us", "p99_us"]
WINDOW_FULL = 0.9  # below this the generator, not the system, may have been the limit
BUSY = 0.1  # of the processors
TAKEN = 0.05  # of their time, by a virtual machine's host
CHANGED = 1.3  # times the slowest round
BEGIN, END = "<!-- compare.sh: begin -->", "<!-- compare.sh: end -->"


def medians(runs):
    """{figure: its median over these runs}; each figure by itself."""
    return {f: statistics.median(r[f] for r in runs) for f in FIGURES if runs and f in runs[0]}


def cells(results):
    """{(system, load): medians} of all that ran."""
    found = {}
    for system in {r["system"] for r in results["runs"]}:
        for load in LOADS:
            runs = [r for r in results["runs"] if (r["system"], r["load"]) == (system, load.name)]
            if runs:
                found[system, load.name] = medians(runs)
    return found


def thin_cells(results):
    """Loads that systems have, and that less than two rounds have a figure of: no median."""
    return [f"{s.title}, {load.title}" for s in SYSTEMS if s.name in results["options"]["systems"]
            for load in s.loads
            if sum((r["system"], r["load"]) == (s.name, load.name) for r in results["runs"]) < 2]


def limits(results):
    """{limit: medians}; the limits' rows are runs of a system with that name."""
    names = {r["limit"] for r in results["limits"]}
    return {n: medians([r for r in results["limits"] if r["limit"] == n]) for n in names}


def figure(c):
    return f"{c['records_per_s']:,.0f} ({c['p50_us']:,.0f} / {c['p99_us']:,.0f})"


def markdown(rows):
    lines = [rows[0], ["---"] * len(rows[0])] + rows[1:]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def failure_of(results, system):
    return next((f["reason"] for f in results["failures"] if f["system"] == system), None)


def systems_table(results):
    found = cells(results)
    rows = [["system", "fsynced on a majority before the answer"] + [load.title for load in LOADS]]
    for s in SYSTEMS:
        if s.name not in results["options"]["systems"]:
            continue
        row = [s.title, s.promise]
        for load in LOADS:
            cell = found.get((s.name, load.name))
            row.append(figure(cell) if cell else "failed" if load in s.loads else "-")
        if not any((s.name, load.name) in found for load in LOADS):
            why = f"did not run: {failure_of(results, s.name)}"
            row[2:] = [why] + ["-"] * (len(LOADS) - 1)
        rows.append([text.replace("|", "/") for text in row])
    return markdown(rows)


def pace_notes(results):
    """What the machine itself did to the figures."""
    lines, measured = [], results["runs"] + results["limits"]
    taken = [r["taken_by_host"] for r in measured if r["taken_by_host"] > TAKEN]
    if taken:
        lines.append(f"* The host of this virtual machine took more than {TAKEN:.0%} of the "
                     f"processors' time in {len(taken)} of {len(measured)} measurements, at most "
                     f"{max(taken):.0%}")
    for load in FLOOR_LOADS:
        rates = [r["records_per_s"] for r in results["limits"]
                 if r["limit"] == f"floor_{load.name}"]
        if rates and max(rates) > CHANGED * min(rates):
            lines.append(f"* The machine changed its pace: three bare processes, {load.title}, "
                         f"made {min(rates):,.0f} to {max(rates):,.0f}/s in the rounds")
    return lines


def notes(results):
    """What a reader must know to trust the figures: failures and windows that were not full."""
    lines = []
    busy = max(results["busy_before"])
    if busy > BUSY:
        lines.append(f"* Others used up to {busy:.0%} of the processors before a round began: the "
                     "figures are those of a busy machine")
    lines += pace_notes(results)
    for f in results["failures"]:
        when = f"round {f['round']}" if f["round"] else "all rounds"
        what = ", ".join(part for part in (f["system"], f["load"], when) if part)
        lines.append(f"* {what}: {f['reason']}")
    for r in results["runs"]:
        full = r.get("window_full", 1)
        if full < WINDOW_FULL:
            lines.append(f"* {r['system']}, {r['load']}, round {r['round']}: only {full:.0%} of "
                         "the window was in flight on the average")
    return "\n".join(lines)


def limits_table(results):
    ran, limit = cells(results), limits(results)
    one, batches, keyed = (ran.get(("replog", load.name)) for load in (ONE, BATCHES, KEYED))
    disk, three = limit.get("disk_1k"), limit.get("disk_1k_three")
    big, store = limit.get("disk_64k"), limit.get("store")
    rows = [["what the machine can do", "measured", "replog beside it"]]

    def add(title, measured, beside=""):
        rows.append([title, measured, beside])

    def latency(c):
        return f"p50 {c['p50_us']:,.0f} us, p99 {c['p99_us']:,.0f} us"

    if disk:
        add("overwrite+fdatasync of 1 KiB", latency(disk),
            f"one at a time: {one['p50_us'] / disk['p50_us']:.1f} times the p50" if one else "")
    if three:
        add("three such loops side by side", latency(three),
            f"one at a time: {one['p50_us'] / three['p50_us']:.1f} times the p50" if one else "")
    if big:
        add("overwrite+fdatasync of 64 KiB",
            f"{big['mib_per_s']:,.0f} MiB/s, p50 {big['p50_us']:,.0f} us",
            f"batches: {batches['mib_per_s']:,.0f} MiB/s on each node" if batches else "")
    for load in FLOOR_LOADS:
        floor, ours = limit.get(f"floor_{load.name}"), ran.get(("replog", load.name))
        if not floor:
            continue
        add(f"three bare processes, {load.title}",
            f"{floor['records_per_s']:,.0f}/s, {latency(floor)}",
            f"{ours['records_per_s'] / floor['records_per_s']:.0%} of the records/s, "
            f"{ours['p50_us'] / floor['p50_us']:.1f} times the p50" if ours else "")
    if "loopback" in limit:
        add("one TCP connection over loopback", f"{limit['loopback']['mib_per_s']:,.0f} MiB/s")
    if "hash" in limit:
        add("XXH3, one thread", f"{limit['hash']['mib_per_s']:,.0f} MiB/s")
    if store:
        share = f"{keyed['records_per_s'] / store['records_per_s']:.0%}" if keyed else ""
        add("three RocksDB stores, no log", f"{store['records_per_s']:,.0f} records/s in each",
            f"keyed: {share} of that" if keyed else "")
    return markdown(rows)


# ---- The machine

def first_line(command):
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    said = out.stdout.strip().splitlines() if out.returncode == 0 else []
    return said[0] if said else ""


def cpu_model():
    with open("/proc/cpuinfo") as f:
        found = [line.split(":", 1)[1].strip() for line in f if line.startswith("model name")]
    return found[0] if found else platform.machine()


def memory_gib():
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)


def file_system(directory):
    found = first_line(["findmnt", "-n", "-o", "FSTYPE,OPTIONS", "-T", directory])
    return " ".join(found.split()) or "unknown"


def machine(directory):
    return {"cpu": cpu_model(), "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(memory_gib(), 1), "kernel": platform.release(),
            "distribution": platform.freedesktop_os_release()["PRETTY_NAME"],
            "file_system": file_system(directory), "date": datetime.date.today().isoformat()}


def tree_version(root):
    """The commit, with "-dirty" when something is not as committed; but for the documents, which
    these scripts write to themselves."""
    commit = first_line(["git", "-C", root, "describe", "--always"])
    changed = first_line(["git", "-C", root, "status", "--porcelain", "--untracked-files=no", "--",
                          ":!docs"])
    return f"{commit}-dirty" if changed else commit


def names_a_commit(version):
    return bool(version) and not version.endswith("-dirty")


def versions(names, root):
    found = {s.name: first_line(["dpkg-query", "-W", "-f", "${Version}", s.package])
             for s in SYSTEMS if s.package and s.name in names}
    found["replog"] = tree_version(root)
    return found


# ---- The whole

def whole_rounds(results):
    """The results without those of a round that was interrupted."""
    return {**results, **{kind: [r for r in results[kind] if r["round"] <= results["rounds_done"]]
                          for kind in ("runs", "limits", "failures")}}


def machine_line(m):
    return (f"{m['cpu']}, {m['cores']} cores, {m['memory_gib']} GiB; Linux {m['kernel']}, "
            f"{m['distribution']}; {m['file_system']}.")


def text(results):
    m, o, done = results["machine"], results["options"], results["rounds_done"]
    versions_line = ", ".join(f"{n} {v}" for n, v in results["versions"].items() if v)
    parts = [
        f"{m['date']}: {machine_line(m)} "
        f"Records of {RECORD_BYTES} bytes; medians of {done} interleaved rounds, "
        f"{o['seconds']} s each after {WARMUP_S} s of warm-up. {versions_line}.",
        "Records per second (p50 / p99 of a request in microseconds; of batches: of a whole one):",
        systems_table(results),
        limits_table(results),
    ]
    if done < o["rounds"]:
        parts.insert(0, f"**Unfinished: {done} of {o['rounds']} rounds.**")
    said = notes(results)
    return "\n\n".join(parts + (["What did not go as it should:\n\n" + said] if said else []))


def write_between(path, begin, end, body):
    """Puts the body between the two markers of a page; all else stays."""
    with open(path) as f:
        page = f.read()
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise ValueError(f"{path} does not have the lines {begin} and {end} once each")
    before, after = page[:page.index(begin)], page[page.index(end):]
    with open(path + ".new", "w") as f:
        f.write(f"{before}{begin}\n\n{body}\n\n{after}")
    os.replace(path + ".new", path)


def write_page(path, results, picture):
    """Puts the tables between the two markers of docs/performance.md; the prose stays."""
    link = f"![records per second and latency of each system]({picture})"
    write_between(path, BEGIN, END, f"{text(results)}\n\n{link}")
