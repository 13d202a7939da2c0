"""What came of each run, one JSON line a run, and the table over them."""
import json
import statistics

COLUMNS = ["fault", "runs", "noticed, median / worst", "resumed, median / worst", "wrong", "hangs", "leaks", "false alarms",
           "descriptors", "resident MiB"]


def shown(values):
    values = sorted(value for value in values if value is not None)
    return f"{statistics.median(values):.2f} / {values[-1]:.2f} s" if values else "-"


def growth(runs):
    """Descriptors after the first and the last run; resident MiB likewise, over most runs with the same layers."""
    books = [run["books"] for run in runs if run.get("books")]
    if not books:
        return ["-", "-"]
    alike = {}
    for entry in books:
        alike.setdefault((entry["pid"], entry["layers"]), []).append(entry["rss"])
    longest = max(alike.values(), key=len)
    return [f"{books[0]['fds']} to {books[-1]['fds']}", f"{longest[0] / 2**20:.0f} to {longest[-1] / 2**20:.0f}"]


def row_line(title, runs):
    def total(key):
        return sum(run[key] for run in runs)
    cells = [title, len(runs), shown(run["noticed"] for run in runs), shown(run["resumed"] for run in runs), total("wrong"),
             total("hangs"), total("leaks"), total("alarms"), *growth(runs)]
    return "| " + " | ".join(map(str, cells)) + " |"


def notes(runs):
    counts = {}
    for run in runs:
        if run["note"]:
            counts[run["note"]] = counts.get(run["note"], 0) + 1
    return [f"{note}: {count} of {len(runs)} runs" for note, count in counts.items()]


def table(titles, path):
    """Lines of Markdown over all runs that the file has, in the order of `titles`."""
    by_row = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            run = json.loads(line)
            by_row.setdefault(run["row"], []).append(run)
    out = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    said = []
    for name, title in titles.items():
        if name in by_row:
            out.append(row_line(title, by_row[name]))
            said += [f"{title}: {note}." for note in notes(by_row[name])]
    return out + [""] + said
