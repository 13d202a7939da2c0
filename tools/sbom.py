#!/usr/bin/env python3
"""What the program is made of, as CycloneDX 1.5 JSON, from the machine that it was built on.

  tools/sbom.py [PROGRAM]          (build/release/shoal) to stdout: each shared library that the program loads with its
                                   Debian package and version, and the header-only libraries of tools/setup.sh
  tools/sbom.py --fixes [PROGRAM]  a table instead: package, version, whether the archive has a newer one, and how many
                                   CVEs its installed changelog says are fixed, with the latest

Reads ldd, dpkg and /usr/share/doc; asks no network. Whether a package has holes that are not fixed yet is not known here:
Debian's tracker says it (https://security-tracker.debian.org/), and the table says where to look.
"""
import gzip
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
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
    for file in pathlib.Path("/usr/share/doc", package["name"]).glob("changelog*.gz"):
        with gzip.open(file, "rt", encoding="utf-8", errors="replace") as text:
            found = set(re.findall(r"CVE-\d{4}-\d{4,}", text.read()))
        if found:
            return sorted(found, key=lambda cve: [int(part) for part in cve.split("-")[1:]])
    return []


def print_fixes(packages):
    print("| package | version | newer in the archive | CVEs fixed, by its changelog | latest | tracker |")
    print("|---|---|---|---|---|---|")
    for package in packages:
        candidate, fixed = candidate_of(package["name"]), fixed_in(package)
        newer = "?" if candidate in ("?", "(none)") else "no" if candidate == package["version"] else candidate
        print(f"| {package['name']} | {package['version']} | {newer} | {len(fixed)} | {fixed[-1] if fixed else '-'} | "
              f"https://security-tracker.debian.org/tracker/source-package/{package['source']} |")


def main():
    arguments = [a for a in sys.argv[1:] if a != "--fixes"]
    if len(arguments) > 1 or any(a.startswith("-") for a in arguments):
        sys.exit(__doc__)
    program = arguments[0] if arguments else str(ROOT / "build" / "release" / "shoal")
    if not pathlib.Path(program).is_file():
        sys.exit(f"sbom.py: {program}: no such program; build it, or name it")
    try:
        packages = [describe(name) for name in packages_of(program)]
    except subprocess.CalledProcessError as failed:
        sys.exit(f"sbom.py: {program}: {failed.cmd[0]} says: {(failed.stderr or failed.stdout).strip()}")
    if "--fixes" in sys.argv[1:]:
        print_fixes(packages)
    else:
        json.dump(bill(packages), sys.stdout, indent=1)
        print()


if __name__ == "__main__":
    main()
