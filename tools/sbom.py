#!/usr/bin/env python3
"""What the program is made of, as CycloneDX 1.5 JSON, from the machine that it was built on.

  tools/sbom.py [PROGRAM]          (build/release/shoal) to stdout: each shared library that the program loads with its
                                   Debian package and version, and the header-only libraries of tools/setup.sh
  tools/sbom.py --fixes [PROGRAM]  a table instead: package, version, whether the archive has a newer one, and how many
                                   CVEs its installed changelog says are fixed, with the latest
  tools/sbom.py --vulnerabilities [--tracker=WHERE] [PROGRAM]
                                   a table instead: which CVEs the installed changelog says are fixed, and which Debian's
                                   tracker calls open in the installed version, with their urgency. WHERE is the
                                   tracker's JSON, a file or an address (default: Debian's own, about 70 MB). Ends with
                                   status 3, and no table, where that cannot be had

Reads ldd, dpkg and /usr/share/doc; only --vulnerabilities asks the network. A library that Debian's tracker does not list
may have holes all the same.
"""
import gzip
import http.client
import json
import pathlib
import re
import subprocess
import sys
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
TRACKER = "https://security-tracker.debian.org/tracker/data/json"
RELEASE = "bookworm"
DOCUMENTS = "/usr/share/doc"
NO_TRACKER = 3  # the exit status where nothing can be said about open holes
HEADERS_ONLY = ["libboost1.81-dev", "libcli11-dev"]  # compiled in; doctest and simde are in tests alone


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def packages_of(program):
    """Binary packages of the libraries that the program loads, directly or not."""
    files = re.findall(r"(/\S+) \(0x", output("ldd", program))
    names = set()
    for file in files:
        for path in (file, str(pathlib.Path(file).resolve())):
            for candidate in (path, path.replace("/lib/", "/usr/lib/", 1), path.replace("/usr/lib/", "/lib/", 1)):
                found = subprocess.run(["dpkg", "-S", candidate], capture_output=True, text=True, check=False)
                if found.returncode == 0:
                    names.add(found.stdout.split(": ")[0].split(":")[0])
                    break
            else:
                continue
            break
        else:
            print(f"sbom.py: {file} is of no package", file=sys.stderr)
    return sorted(names | set(HEADERS_ONLY))


def describe(name):
    form = "${Package}\t${Version}\t${Architecture}\t${source:Package}\t${source:Version}\t${Homepage}\n"
    fields = output("dpkg-query", "-W", "-f", form, name).splitlines()[0].split("\t")
    return dict(zip(("name", "version", "arch", "source", "source_version", "homepage"), fields))


def version_of_shoal():
    text = (ROOT / "base" / "version.h").read_text(encoding="utf-8")
    return re.search(r'kVersion[^"]*"([^"]+)"', text)[1]


def component(package):
    purl = f"pkg:deb/debian/{package['name']}@{package['version']}?arch={package['arch']}&distro=debian-12"
    made = {"type": "library", "bom-ref": purl, "name": package["name"], "version": package["version"], "purl": purl,
            "properties": [{"name": "debian:source", "value": f"{package['source']} {package['source_version']}"}]}
    if package["homepage"]:
        made["externalReferences"] = [{"type": "website", "url": package["homepage"]}]
    return made


def bill(packages):
    own = f"pkg:generic/shoal@{version_of_shoal()}"
    return {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
            "metadata": {"component": {"type": "application", "bom-ref": own, "name": "shoal", "version": version_of_shoal(),
                                       "licenses": [{"license": {"id": "Apache-2.0"}}]}},
            "components": [component(package) for package in packages],
            "dependencies": [{"ref": own, "dependsOn": [component(package)["purl"] for package in packages]}]}


def candidate_of(name):
    found = re.search(r"Candidate: (\S+)", subprocess.run(["apt-cache", "policy", name], capture_output=True, text=True,
                                                          check=False).stdout)
    return found[1] if found else "?"


def fixed_in(package):
    """CVEs that the installed changelog names as fixed."""
    for file in pathlib.Path(DOCUMENTS, package["name"]).glob("changelog*.gz"):
        with gzip.open(file, "rt", encoding="utf-8", errors="replace") as text:
            found = set(re.findall(r"CVE-\d{4}-\d{4,}", text.read()))
        if found:
            return sorted(found, key=number_of)
    return []


def print_fixes(packages):
    print("| package | version | newer in the archive | CVEs fixed, by its changelog | latest | tracker |")
    print("|---|---|---|---|---|---|")
    for package in packages:
        candidate, fixed = candidate_of(package["name"]), fixed_in(package)
        newer = "?" if candidate in ("?", "(none)") else "no" if candidate == package["version"] else candidate
        print(f"| {package['name']} | {package['version']} | {newer} | {len(fixed)} | {fixed[-1] if fixed else '-'} | "
              f"https://security-tracker.debian.org/tracker/source-package/{package['source']} |")


def number_of(cve):
    return [int(part) for part in cve.split("-")[1:]]


def read_tracker(where):
    """The tracker's JSON: of each source package its CVEs. ValueError where it is something else."""
    if re.match(r"https?://", where):
        with urllib.request.urlopen(where, timeout=60) as answer:
            text = answer.read()
    else:
        text = pathlib.Path(where).read_bytes()
    tracker = json.loads(text)
    entries = []
    known = isinstance(tracker, dict) and all(isinstance(cves, dict) for cves in tracker.values())
    if known:
        entries = [entry for cves in tracker.values() for entry in cves.values()]
        known = all(isinstance(entry, dict) and isinstance(entry.get("releases", {}), dict) and
                    isinstance(entry.get("releases", {}).get(RELEASE, {}), dict) for entry in entries)
    if not known or not any(RELEASE in entry.get("releases", {}) for entry in entries):
        raise ValueError(f"it is no list of Debian's tracker, or says nothing of {RELEASE}")
    return tracker


def is_older(version, other):
    return subprocess.run(["dpkg", "--compare-versions", version, "lt", other], check=False).returncode == 0


def open_in(package, tracker):
    """CVE, urgency and what helps, for each that the tracker does not call closed in the installed version."""
    found = []
    for cve, entry in tracker.get(package["source"], {}).items():
        state = entry.get("releases", {}).get(RELEASE)
        if state is None:  # not in this release
            continue
        fixed = state.get("fixed_version")
        if state.get("status") == "resolved" and fixed and not is_older(package["source_version"], fixed):
            continue
        note = f", fixed in {fixed}" if state.get("status") == "resolved" and fixed else ""
        note += ", undetermined" if state.get("status") == "undetermined" else ""
        found.append((cve, state.get("urgency", "?") + note))
    return sorted(found, key=lambda each: number_of(each[0]) if each[0].startswith("CVE-") else [0])


def print_vulnerabilities(packages, tracker):
    print(f"| package | version | fixed, by its changelog | open in {RELEASE}, by the tracker (urgency) |")
    print("|---|---|---|---|")
    for package in packages:
        holes = ", ".join(f"{cve} ({urgency})" for cve, urgency in open_in(package, tracker))
        nothing = "none" if package["source"] in tracker else "the tracker has no entry"
        print(f"| {package['name']} | {package['version']} | {', '.join(fixed_in(package)) or '-'} | {holes or nothing} |")


def arguments_of(words):
    """(what to print, where the tracker is, the program)."""
    kinds, places, programs = [], [], []
    for word in words:
        if word in ("--fixes", "--vulnerabilities"):
            kinds.append(word)
        elif word.startswith("--tracker="):
            places.append(word.removeprefix("--tracker="))
        else:
            programs.append(word)
    wrong = max(len(kinds), len(places), len(programs)) > 1 or any(word.startswith("-") for word in programs)
    if wrong or "" in places or (places and kinds != ["--vulnerabilities"]):
        sys.exit(__doc__)
    return (kinds or [""])[0], (places or [TRACKER])[0], (programs or [str(ROOT / "build" / "release" / "shoal")])[0]


def main():
    kind, where, program = arguments_of(sys.argv[1:])
    if not pathlib.Path(program).is_file():
        sys.exit(f"sbom.py: {program}: no such program; build it, or name it")
    tracker = {}
    if kind == "--vulnerabilities":
        try:
            tracker = read_tracker(where)
        except (OSError, ValueError, AttributeError, http.client.HTTPException) as failed:
            print(f"sbom.py: which holes are open is not known: {where}: {failed}. Get {TRACKER} where there is a network, "
                  "and name the file with --tracker=FILE", file=sys.stderr)
            sys.exit(NO_TRACKER)
    try:
        packages = [describe(name) for name in packages_of(program)]
    except subprocess.CalledProcessError as failed:
        sys.exit(f"sbom.py: {program}: {failed.cmd[0]} says: {(failed.stderr or failed.stdout).strip()}")
    if kind == "--vulnerabilities":
        print_vulnerabilities(packages, tracker)
    elif kind == "--fixes":
        print_fixes(packages)
    else:
        json.dump(bill(packages), sys.stdout, indent=1)
        print()


if __name__ == "__main__":
    main()
