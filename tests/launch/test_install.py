"""launch/install.sh makes real environments, of a package without dependencies: no network is asked."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launching import ROOT, until

PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "rlhf-jax"
version = "1"
"""
# Makes the wheel of an editable installation; waits while there is a file `hold`, and says so.
BACKEND = """
import os, time, zipfile
def build_editable(folder, config_settings=None, metadata_directory=None):
    while os.path.exists("hold"):
        open("holding", "w")
        time.sleep(0.01)
    about = "rlhf_jax-1.dist-info/"
    with zipfile.ZipFile(f"{folder}/rlhf_jax-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("rlhf_jax.pth", os.getcwd())
        wheel.writestr(about + "METADATA", "Metadata-Version: 2.1\\nName: rlhf-jax\\nVersion: 1\\n")
        wheel.writestr(about + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(about + "entry_points.txt", "[console_scripts]\\nrlhf-jax = rlhf_jax:main\\n")
        wheel.writestr(about + "RECORD", "")
    return "rlhf_jax-1-py3-none-any.whl"
"""
WHERE = "import sys\ndef main():\n    print(sys.prefix, __file__)\n"  # of the package
START = 'source launch/setup.sh && [[ "$(rlhf-jax)" == "$PWD/.venv $PWD/rlhf_jax.py" ]]'


def repository(place: Path) -> Path:
    """One with launch/ and such a package, not installed yet, in a folder with a space."""
    folder = place / "a repository"
    shutil.copytree(ROOT / "launch", folder / "launch")
    files = {"requirements.txt": "", "pyproject.toml": PROJECT, "backend.py": BACKEND, "rlhf_jax.py": WHERE}
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return repository(tmp_path)


def start(folder: Path, before: str = "", **variables: str) -> subprocess.Popen:
    """What a launch script does first, then the command of the package, which says where it is."""
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.Popen(
        ["bash", "-ec", f"{before}\n{START}"],
        env=own | {"PYTHON": "", "PATH": f"{Path(sys.executable).parent}:{own['PATH']}"} | variables,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # which jobs in the background ignore
    )


def ended(started: subprocess.Popen) -> tuple[int, str, str]:
    out, err = started.communicate(timeout=600)
    return started.returncode, out, err


def installing(folder: Path) -> str:
    return f"setup: installing into {folder}/.venv\n"


def without_pip(folder: Path) -> Path:
    """As `python3 -m venv` of a Debian without python3-venv leaves it."""
    shutil.rmtree(folder / ".venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    return folder


def without_its_python(folder: Path) -> Path:
    python = folder / ".venv/bin" / f"python3.{sys.version_info.minor}"
    python.unlink(missing_ok=True)
    for link in (folder / ".venv/bin").glob("python*"):
        link.unlink()
    for name in ("python", "python3", python.name):
        (folder / ".venv/bin" / name).symlink_to("/usr/bin/python3.gone")
    return folder


def of_another_python(folder: Path) -> Path:
    """python3 has become a newer one, which looks for its packages in another folder."""
    lib = folder / ".venv/lib"
    next(lib.glob("python3.*")).rename(lib / "python3.2")
    return folder


def moved(folder: Path) -> Path:
    return folder.rename(folder.with_name("moved"))


def copied(folder: Path) -> Path:
    return shutil.copytree(folder, folder.with_name("a copy"), symlinks=True)


def interrupted(folder: Path) -> Path:
    """While packages were written: what is there is not all of it."""
    (folder / ".venv/stamp").write_text("interrupted\n")
    (folder / ".venv/bin/rlhf-jax").unlink()
    return folder


def elsewhere(folder: Path) -> Path:
    """Another clone has put its own code into this environment."""
    other = folder.with_name("other")
    shutil.copytree(folder, other, ignore=shutil.ignore_patterns(".venv"))
    pip = [folder / ".venv/bin/python", "-m", "pip", "install", "--quiet", "--editable", other]
    subprocess.run(pip, check=True)
    return folder


def by_an_older_version(folder: Path) -> Path:
    (folder / ".venv/stamp").write_text("4294967295 0\n")
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> list[Path]:
    """A folder with an environment, made once; damages are done to it in turn. The last name is today's."""
    folder = repository(tmp_path_factory.mktemp("installed"))
    assert ended(start(folder)) == (0, installing(folder), "")
    return [folder]


@pytest.mark.parametrize(
    "damage",
    [
        without_pip,
        without_its_python,
        moved,
        *(
            pytest.param(damage, marks=pytest.mark.slow)
            for damage in (copied, of_another_python, interrupted, elsewhere, by_an_older_version)
        ),
    ],
)
def test_what_is_not_whole_is_installed_again(installed, damage):
    folder = damage(installed[-1])
    installed.append(folder)
    assert ended(start(folder)) == (0, installing(folder), "")
    assert ended(start(folder)) == (0, "", "")


@pytest.mark.slow
def test_what_was_added_by_hand_stays_when_the_lists_change(folder):
    ended(start(folder))
    added = folder / ".venv/added"
    added.touch()
    (folder / "requirements.txt").write_text("# of today\n")
    assert ended(start(folder)) == (0, installing(folder), "") and added.exists()


@pytest.mark.parametrize("what", ["folder", "file", "link"])
def test_what_is_no_virtual_environment_is_left_alone(folder, what):
    venv = folder / ".venv"
    if what == "folder":
        venv.mkdir()
        (venv / "thesis.txt").write_text("years of work")
    elif what == "file":
        venv.write_text("years of work")
    else:
        venv.symlink_to("nowhere")
    status, _, err = ended(start(folder))
    assert status == 2 and err.startswith(f"install.sh: {venv} is ") and err.count("\n") == 1
    assert what != "folder" or (venv / "thesis.txt").read_text() == "years of work"
    assert what == "link" or not list(folder.glob(".venv/pyvenv.cfg"))


def test_the_environment_behind_a_link_is_not_removed(folder):
    """That of another clone, say, which is whole there but installs into another folder."""
    other = folder.with_name("other")
    (other / "bin").mkdir(parents=True)
    (other / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (folder / ".venv").symlink_to(other)
    status, _, err = ended(start(folder))
    assert status == 2 and "is a link to an environment that is not whole here: remove the link" in err
    assert (other / "bin").exists()


def test_a_python_that_is_missing_or_too_old_is_told_before_anything_is_made(folder, tmp_path):
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\necho 3.9\n")
    old.chmod(0o755)
    for python, told in ((str(old), f"'{old}' is 3.9"), ("python9", "no Python answers to 'python9'")):
        status, _, err = ended(start(folder, PYTHON=python))
        assert status == 2 and told in err and err.count("\n") == 1
        assert not (folder / ".venv").exists()


@pytest.mark.slow
def test_a_disk_that_is_full_is_told_and_the_next_start_begins_anew(folder):
    status, _, err = ended(start(folder, "ulimit -f 100"))  # KiB a file: not enough for what pip is made of
    assert status == 2 and "MiB are free there. Then start again" in err
    assert ended(start(folder)) == (0, installing(folder), "")


@pytest.mark.slow
def test_of_two_starts_the_second_waits(folder):
    (folder / "hold").touch()
    first = start(folder)
    until((folder / "holding").exists, 60)
    second = start(folder)
    assert second.stdout and second.stdout.readline() == (
        f"setup: another start installs into {folder}/.venv, waiting for it\n"
    )
    (folder / "hold").unlink()
    assert ended(first) == (0, installing(folder), "")
    assert ended(second) == (0, "", "")


def test_an_installation_that_was_ended_begins_anew(folder):
    (folder / "hold").touch()
    first = start(folder)
    until((folder / "holding").exists, 60)
    os.killpg(first.pid, signal.SIGINT)
    assert ended(first)[0] != 0
    (folder / "hold").unlink()
    assert (folder / ".venv/stamp").read_text() == "interrupted\n"
    assert ended(start(folder)) == (0, installing(folder), "")


@pytest.mark.slow
def test_extras_and_newest_versions(folder):
    """An extra that is there serves who asks for none; the newest versions have a folder of their own."""
    with (folder / "pyproject.toml").open("a") as file:
        file.write('[project.optional-dependencies]\ntpu = ["pip"]\n')
    assert ended(start(folder, EXTRA="tpu"))[1] == installing(folder)
    for extra in ("tpu", ""):
        assert ended(start(folder, EXTRA=extra)) == (0, "", "")
    (folder / "requirements.txt").write_text("pip==1.0  # its first\n")
    newest = subprocess.run(["bash", "launch/install.sh"], env=os.environ | {"NEWEST": "1"}, cwd=folder)
    assert newest.returncode == 0
    assert (folder / ".venv-newest/requirements.txt").read_text() == "pip  # its first\n"
    assert "pip==1.0" not in (folder / ".venv/stamp").read_text()
