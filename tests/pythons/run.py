"""Runs tests on every other supported Python that is here, and asks whether the pins can be installed on each.

    python tests/pythons/run.py [--versions 3.10,3.12] [--torch 3.10]

For each version: an environment `.venv-py3.10` with the pins, without torch (a GPU build of gigabytes on most Pythons) unless `--torch` names
the version; then generation, C-simulation, the command line and the driver, on the real pynq where pynq can be installed; with torch also
training steps. A Python that is not here is named and passed over. Needs the standard library alone, and any Python 3.10 or newer.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from interpreters import SUPPORTED, find_python

ROOT = Path(__file__).resolve().parents[2]

PYNQ = {"3.10": "pynq3", "3.12": "pynq4"}
"""What the boards' images have: pynq 3.0.1 on Python 3.10, pynq 4.0 on 3.12. tests/pynq/run.sh runs both on one Python, in full."""

BASE = ("jinja2", "typer", "rich", "numpy", "libclang", "pytest", "pytest-timeout", "hypothesis", "setuptools", "wheel")
TRAIN = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "pillow", "PyYAML", "matplotlib")

TESTS = (
    "tests/hls/test_rendering.py",
    "tests/hls/test_generate.py",
    "tests/hls/test_isa.py",
    "tests/csim/test_device.py",
    "tests/host/programs/test_compiler.py",
    "tests/host/board",
    "tests/host/emulated_board",
)
DRIVER_TESTS = ("tests/pynq/test_opening.py", "tests/pynq/test_devices.py")
TRAIN_TESTS = (
    "tests/host/offloading/test_linear.py",
    "tests/host/offloading/test_linear_calls.py",
    "tests/host/training/test_trainer.py",
)

COMMANDS = (
    ("generate", "--rows", "4", "--cols", "4", "--out", "PROJECT"),
    ("lint", "PROJECT"),
    ("csim", "--rows", "8", "--cols", "8", "--m", "5", "--n", "7", "--k", "33"),
    ("boards",),
)

PLATFORMS = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28")


def main() -> int:
    """Exit code 1 if anything failed on any Python."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    parser.add_argument(
        "--versions", default=",".join(v for v in SUPPORTED if v != own), help="default: all but this one"
    )
    parser.add_argument("--torch", default="", help="versions that get torch and the training packages too")
    options = parser.parse_args()
    unknown = sorted(set(options.versions.split(",")) - set(SUPPORTED))
    if unknown:
        parser.error(f"--versions {','.join(unknown)}: supported are {', '.join(SUPPORTED)}")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {"pins": pool.submit(check_pins)}
        for version in options.versions.split(","):
            python = find_python(version)
            if python is None:
                print(f"== Python {version}: not here, neither on PATH nor among pyenv's; not tested", flush=True)
            else:
                with_torch = version in options.torch.split(",")
                jobs[f"Python {version}"] = pool.submit(run_version, version, python, with_torch)
    failed = [name for name, job in jobs.items() if not job.result()]
    print(f"FAILED: {', '.join(failed)}" if failed else "== every Python that is here passed", flush=True)
    return 1 if failed else 0


def check_pins() -> bool:
    """Whether each file of pins can be resolved on every Python and processor; nothing is installed. uv reads the metadata alone."""
    try:
        subprocess.run([sys.executable, "-m", "uv", "--version"], check=True, capture_output=True)
    except subprocess.CalledProcessError:
        print("== pins: uv is not installed here (pip install uv), so they are not resolved", flush=True)
        return True
    failed = 0
    cases = [(v, "constraints.txt", ("train", "lint", "docs")) for v in SUPPORTED]
    cases += [(v, f"constraints-{pynq}.txt", ("train", "board")) for v in SUPPORTED[:3] for pynq in ("pynq3", "pynq4")]
    for version, pins, extras in cases:
        for platform in PLATFORMS:
            command = ["uv", "pip", "compile", "--quiet", "--no-config", "--no-python-downloads", "pyproject.toml"]
            command += ["--python-version", version, "--python-platform", platform, "--constraint", pins]
            command += [word for extra in extras for word in ("--extra", extra)]
            done = subprocess.run(
                [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
            )
            if done.returncode:
                failed += 1
                print(f"FAILED: {pins} on Python {version}, {platform}:\n{done.stderr}", flush=True)
    print(f"== pins: {2 * len(cases) - failed} of {2 * len(cases)} resolve", flush=True)
    return failed == 0


def run_version(version: str, python: str, with_torch: bool) -> bool:
    """Makes the environment of one Python and runs the tests in it; what fails is printed."""
    environment = ROOT / f".venv-py{version}"
    pynq = PYNQ.get(version)
    print(
        f"== Python {version}: {python}{f', with {pynq}' if pynq else ''}{', with torch' if with_torch else ''}",
        flush=True,
    )
    tests = [*TESTS, *(DRIVER_TESTS if pynq else ()), *(TRAIN_TESTS if with_torch else ())]
    run = environment / "bin" / "python"
    steps: list[list[str]] = [[python, "-m", "venv", str(environment)]]
    packages = [*BASE, *(("pynq",) if pynq else ()), *(TRAIN if with_torch else ())]
    pins = f"constraints-{pynq}.txt" if pynq else "constraints.txt"
    pip = [str(run), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    steps.append([*pip, "--constraint", pins, *packages])
    steps.append([*pip, "--no-deps", "--no-build-isolation", "--editable", "."])
    project = f"build/pythons/{version}"
    steps += [
        [str(run), "-m", "systolora", *(project if w == "PROJECT" else w for w in command)] for command in COMMANDS
    ]
    steps.append([str(run), "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests])
    return all(succeeds(step, version) for step in steps)


def succeeds(command: list[str], version: str) -> bool:
    """Runs one command in the project's folder; its output is shown if it fails, and the tests' closing line in any case."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    shown = done.stdout if done.returncode else "\n".join(done.stdout.splitlines()[-1:]) if "pytest" in command else ""
    if done.returncode:
        shown += f"\nFAILED ({done.returncode}): {' '.join(command)}"
    if shown:
        print(f"== Python {version}: {shown}", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
