#!/usr/bin/env python3
"""A roofline picture of what bench/compare.py --json wrote: one SVG, no packages needed.

  bench/roofline.py Q4_0.json Q8_0.json Q4_K_M.json -o docs/roofline.svg

Across: integer operations for each byte of weights read (two a weight and token, so a prompt of 512 tokens lies 512 times
as far right as generation). Up: operations a second. The slope is the read rate and the flat lines are the integer peaks
(bytes, nibbles) of the first file's machine and threads; a filled dot is Shoal, a ring a peer.
"""
import argparse
import html
import json
import math
import pathlib
import re
import statistics
import sys

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 460, 70, 170, 40, 50
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b")


def points_of(record):
    """(engine, test, operations a byte, Gop/s) of each test without a long context."""
    model, found = record["model"], []
    for engine, tests in record["samples"].items():
        for test, speeds in tests.items():
            kind = re.fullmatch(r"(pp|tg)(\d+)", test)
            if not kind:
                continue
            rows = int(kind.group(2)) if kind.group(1) == "pp" else 1
            operations = 2 * model["weights_per_token"]
            found.append((engine, test, rows * operations / model["weight_bytes_per_token"],
                          statistics.median(speeds) * operations / 1e9))
    return found


class Plane:
    """Both axes logarithmic."""

    def __init__(self, xs, ys):
        self.x0, self.x1 = math.floor(math.log10(min(xs))), math.ceil(math.log10(max(xs)))
        self.y0, self.y1 = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))

    def x(self, value):
        return LEFT + (math.log10(value) - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT)

    def y(self, value):
        return HEIGHT - BOTTOM - (math.log10(value) - self.y0) / (self.y1 - self.y0) * (HEIGHT - TOP - BOTTOM)


def text(x, y, words, anchor="start"):
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{html.escape(words)}</text>'


def draw(records):
    limits = {key: statistics.median(row[key] for row in records[0]["limits"])
              for key in ("read_gb_per_s", "int8_gops", "int4_gops")}
    all_points = [point for record in records for point in points_of(record)]
    plane = Plane([p[2] for p in all_points], [p[3] for p in all_points] + [limits["int4_gops"]])
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="11">',
           '<rect width="100%" height="100%" fill="white"/>',
           text(LEFT, 20, f"{records[0]['processor']}, {records[0]['threads']} threads, {records[0]['date']}"),
           text((LEFT + right) / 2, HEIGHT - 12, "operations for each byte of weights", "middle"),
           text(LEFT - 60, TOP - 8, "Gop/s")]
    for power in range(plane.x0, plane.x1 + 1):
        x = plane.x(10.0**power)
        out += [f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="#ddd"/>', text(x, bottom + 16, f"{10.0**power:g}", "middle")]
    for power in range(plane.y0, plane.y1 + 1):
        y = plane.y(10.0**power)
        out += [f'<path d="M{LEFT} {y:.1f}H{right}" stroke="#ddd"/>', text(LEFT - 6, y + 4, f"{10.0**power:g}", "end")]
    for key, name in (("int8_gops", "integer peak, bytes"), ("int4_gops", "integer peak, nibbles")):
        y, begin = plane.y(limits[key]), max(LEFT, plane.x(limits[key] / limits["read_gb_per_s"]))
        out += [f'<path d="M{begin:.1f} {y:.1f}H{right}" stroke="black"/>', text(right + 4, y + 4, f"{name} {limits[key]:.0f}")]
    low = 10.0**plane.x0
    ridge = limits["int4_gops"] / limits["read_gb_per_s"]
    out.append(f'<path d="M{plane.x(low):.1f} {plane.y(low * limits["read_gb_per_s"]):.1f}'
               f'L{plane.x(ridge):.1f} {plane.y(limits["int4_gops"]):.1f}" stroke="black"/>')
    out.append(text(plane.x(ridge) - 12, plane.y(limits["int4_gops"]) - 6, f"read {limits['read_gb_per_s']:.1f} GB/s", "end"))
    legend = bottom - 60
    for number, record in enumerate(records):
        colour = COLOURS[number % len(COLOURS)]
        for engine, test, x, y in points_of(record):
            fill = colour if engine == "shoal" else "none"
            title = html.escape(f"{record['model_file']} {engine} {test}: {y:.0f} Gop/s")
            out.append(f'<circle cx="{plane.x(x):.1f}" cy="{plane.y(y):.1f}" r="5" fill="{fill}" stroke="{colour}">'
                       f"<title>{title}</title></circle>")
        out.append(f'<circle cx="{right + 12}" cy="{legend}" r="5" fill="{colour}"/>')
        out.append(text(right + 22, legend + 4, record["model_file"][:24]))
        legend += 16
    out += [text(right + 6, legend + 4, "filled: shoal, ring: peer"), "</svg>"]
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="+", type=pathlib.Path, help="what compare.py --json wrote")
    parser.add_argument("-o", "--output", type=pathlib.Path, default=pathlib.Path("roofline.svg"))
    options = parser.parse_args()
    options.output.write_text(draw([json.loads(path.read_text()) for path in options.records]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
