"""`python infra/setup/audit.py requirements.txt`: what is known to be wrong with the packages that are locked.

pip-audit asks the package index for its advisories, without installing anything. Exit 1: one of them is vulnerable, and a later version is
not. Where no advisories can be had (no network, a mirror without them), or pip-audit is not there, it says so and passes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

PATIENCE_S = 90
ANSWER_S = 5


def main(lock: str) -> int:
    audit = [sys.executable, "-m", "pip_audit", "--requirement", lock, "--disable-pip", "--require-hashes", "--timeout", str(ANSWER_S)]
    try:
        done = subprocess.run([*audit, "--format=json", "--progress-spinner=off"], capture_output=True, text=True, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        return skipped(f"no advisories within {PATIENCE_S} s")
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return skipped(done.stderr.strip().rpartition("\n")[2][:200] or "pip-audit said nothing")
    looked_at = [package for package in packages if "skip_reason" not in package]
    if not looked_at:
        return skipped("the package index has no advisories")
    return told(looked_at, len(packages))


def told(packages: list[dict[str, Any]], count: int) -> int:
    """Each vulnerability in a line; those that a later version has not make the exit status."""
    mendable = 0
    for package in packages:
        for found in package["vulns"]:
            mendable += bool(found["fix_versions"])
            cure = f"mended in {', '.join(found['fix_versions'])}: make lock" if found["fix_versions"] else "not mended yet"
            print(f"audit: {package['name']} {package['version']}: {found['id']}; {cure}")
    print(f"audit: {len(packages)} of {count} locked packages were looked up, {mendable} vulnerabilities can be mended")
    return 1 if mendable else 0


def skipped(why: str) -> int:
    print(f"audit: skipped, nothing was looked up: {why}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
