"""What must not break the index folder: real files, real processes, real kills."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROUTES

from semroute import (
    ArtifactCorrupt,
    ArtifactError,
    ArtifactMismatch,
    ArtifactMissing,
    ArtifactNotWritten,
    Router,
    artifact,
    index,
)
from semroute.build import build_index, check_index
from semroute.config import load_config
from semroute.encoders.base import EncoderIdentity
from semroute.testing import HashEncoder

ENCODER = HashEncoder(dim=64)
ROLES = ("config", "utterances", "vectors", "fitted")
MORE = ROUTES | {"news": ["what happened today", "latest headlines"]}


@pytest.fixture
def folder(write_project, tmp_path) -> Path:
    """An index of ROUTES."""
    index.save(made(write_project()), tmp_path / "index")
    return tmp_path / "index"


def made(routes: Path) -> index.RouteIndex:
    return index.build(load_config(routes), ENCODER).index


def file_of(folder: Path, role: str) -> Path:
    return next(path for path in folder.iterdir() if path.name.startswith(role))


def state(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def forge(folder: Path, role: str, data: bytes) -> None:
    """Replace a file and make the manifest agree, as someone who can write both would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    old = folder / manifest["files"][role]["name"]
    record = artifact.file_record(role, old.suffix[1:], data)
    old.unlink()
    (folder / record.name).write_bytes(data)
    manifest["files"][role] = record.model_dump()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def edit_manifest(folder: Path, change) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


# I1, I2, I3: damaged files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [*ROLES, "manifest"])
@pytest.mark.parametrize(
    "kept", [lambda n: 0, lambda n: n // 2, lambda n: n - 1], ids=["empty", "half", "cut"]
)
def test_a_cut_file_is_refused_by_name(folder, role, kept):
    path = file_of(folder, role)
    path.write_bytes(path.read_bytes()[: kept(path.stat().st_size)])
    if role == "manifest" and kept(10) == 9:
        path.write_bytes(path.read_bytes()[:-1])  # the last byte is only a newline
    with pytest.raises(ArtifactCorrupt, match=path.name):
        index.load(folder)


@pytest.mark.parametrize("role", ROLES)
def test_one_flipped_bit_anywhere_is_refused(folder, role):
    path = file_of(folder, role)
    good = path.read_bytes()
    for place in {0, 4, 12, 33, 36, 40, len(good) // 2, len(good) - 1}:
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(ArtifactCorrupt, match=path.name):
            index.load(folder)


@pytest.mark.parametrize("role", ROLES)
def test_trailing_garbage_is_refused(folder, role):
    with file_of(folder, role).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ArtifactCorrupt, match=role):
        index.load(folder)


@pytest.mark.parametrize("role", ROLES)
def test_files_of_two_builds_are_refused(folder, role, write_project, tmp_path):
    index.save(made(write_project(MORE)), tmp_path / "other")
    foreign, own = file_of(tmp_path / "other", role), file_of(folder, role)
    own.write_bytes(foreign.read_bytes())
    with pytest.raises(ArtifactCorrupt):
        index.load(folder)


@pytest.mark.parametrize("role", ROLES)
def test_files_of_two_builds_are_refused_also_when_the_manifest_is_forged(
    folder, role, write_project, tmp_path
):
    index.save(made(write_project(MORE)), tmp_path / "other")
    forge(folder, role, file_of(tmp_path / "other", role).read_bytes())
    with pytest.raises(ArtifactError) as caught:
        index.load(folder)
    assert "semroute build" in str(caught.value)


@pytest.mark.parametrize("role", ROLES)
def test_a_missing_file_is_refused_by_name(folder, role):
    path = file_of(folder, role)
    path.unlink()
    with pytest.raises(ArtifactCorrupt, match=path.name):
        index.load(folder)


def test_no_index_says_how_to_make_one(tmp_path):
    with pytest.raises(ArtifactMissing, match="semroute build"):
        index.load(tmp_path / "nowhere")


def test_a_running_router_keeps_its_snapshot_when_the_new_index_is_bad(folder, write_project):
    router = Router(index.load(folder), ENCODER, folder=folder)
    before = router.route("where is my refund")
    index.save(made(write_project(MORE)), folder)
    file_of(folder, "vectors").write_bytes(b"damaged")
    with pytest.raises(ArtifactCorrupt):
        router.reload()
    after = router.route("where is my refund")
    assert (after.index, after.route, after.model) == (before.index, before.route, before.model)
    index.save(made(write_project(MORE)), folder)
    router.reload()
    assert router.route("latest headlines").route == "news"


# I4, I5, I16: a build that cannot finish -----------------------------------------------------------------------


def in_child(action) -> int:
    """Run `action` in a forked process; its exit status as os.waitpid gives it."""
    pid = os.fork()
    if pid == 0:  # pragma: no cover - the child
        try:
            action()
        except ArtifactNotWritten:
            os._exit(3)
        except BaseException:  # noqa: BLE001
            os._exit(4)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def test_a_full_disk_at_each_write_leaves_the_old_index_and_nothing_else(folder, write_project):
    before = state(folder)
    new = made(write_project(MORE))

    def build_with(limit):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        index.save(new, folder)

    largest = 64 * 4 * (len(new.entries) + 1)
    for limit in [*range(0, 2_000, 250), *range(2_000, largest, 1_000)]:
        status = in_child(lambda limit=limit: build_with(limit))
        assert os.waitstatus_to_exitcode(status) == 3, limit
        assert state(folder) == before, limit
    assert os.waitstatus_to_exitcode(in_child(lambda: build_with(1 << 20))) == 0
    assert index.load(folder).fingerprint == new.fingerprint


def test_a_full_disk_on_the_first_build_leaves_nothing(write_project, tmp_path):
    new = made(write_project())

    def build():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))
        index.save(new, tmp_path / "index")

    assert os.waitstatus_to_exitcode(in_child(build)) == 3
    assert state(tmp_path / "index") == {}


def test_the_command_exits_non_zero_on_a_full_disk(write_project, tmp_path):
    routes = write_project()
    build = (
        f"ulimit -f 1; trap '' XFSZ; exec {sys.executable} -m semroute build --routes {routes} --index index"
    )
    done = subprocess.run(["bash", "-c", build], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "could not be stored" in done.stderr and "Traceback" not in done.stderr
    assert state(tmp_path / "index") == {}


def test_kill_at_every_step_shows_a_reader_the_old_index_or_the_new(folder, write_project):
    old = index.load(folder)
    new = made(write_project(MORE))
    seen = set()
    for step in range(1, 200):

        def build_and_die(step=step):
            taken = 0

            def hook(event, _):
                nonlocal taken
                if event in {"open", "os.rename", "os.remove", "os.mkdir", "os.scandir", "os.listdir"}:
                    taken += 1
                    if taken == step:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(hook)
            index.save(new, folder)

        status = in_child(build_and_die)
        loaded = index.load(folder)
        seen.add(loaded.fingerprint)
        assert loaded.fingerprint in {old.fingerprint, new.fingerprint}
        assert len(loaded.entries) == (12 if loaded.fingerprint == old.fingerprint else 14)
        if os.WIFEXITED(status):
            assert os.waitstatus_to_exitcode(status) == 0
            break
        if loaded.fingerprint == new.fingerprint:
            index.save(old, folder)
    assert step > 15 and seen == {old.fingerprint, new.fingerprint}
    assert len(state(folder)) == 5, "a later build removes what a killed one left"


def test_a_read_only_folder_is_a_clear_error_and_readers_go_on(write_project):
    new = made(write_project(MORE))
    place = Path(tempfile.mkdtemp())
    try:
        index.save(made(write_project()), place / "index")
        place.chmod(0o755)
        (place / "index").chmod(0o555)

        def build_as_nobody():
            if os.geteuid() == 0:
                os.setuid(65534)
            index.save(new, place / "index")

        before = state(place / "index")
        assert os.waitstatus_to_exitcode(in_child(build_as_nobody)) == 3
        assert state(place / "index") == before
        assert len(index.load(place / "index").entries) == 12
    finally:
        (place / "index").chmod(stat.S_IRWXU)
        shutil.rmtree(place)


def test_a_folder_that_cannot_rename_is_a_clear_error(folder, write_project):
    before = state(folder)
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()
    with pytest.raises(ArtifactNotWritten, match=r"could not be stored.*unchanged"):
        index.save(made(write_project(MORE)), folder)
    (folder / "manifest.json").rmdir()
    (folder / "manifest.json").write_bytes(before["manifest.json"])
    assert state(folder) == before


def test_a_path_that_is_no_folder_is_a_clear_error(write_project, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for place in (tmp_path / "file", tmp_path / "file" / "index"):
        with pytest.raises(ArtifactNotWritten, match="file"):
            index.save(made(write_project()), place)
        with pytest.raises(ArtifactError):
            index.load(place)


# I11, I12: another encoder ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["name", "revision", "dim", "preprocessing"])
def test_another_encoder_is_refused_with_what_differs(folder, change):
    class Other(HashEncoder):
        @property
        def identity(self):
            own = super().identity
            parts = {part: getattr(own, part) for part in ("name", "revision", "dim", "preprocessing")}
            return EncoderIdentity(**parts | {change: 32 if change == "dim" else "another"})

    with pytest.raises(ArtifactMismatch, match=change):
        Router(index.load(folder), Other(64))


def test_a_query_of_the_wrong_shape_is_refused_under_optimisation_too(folder):
    code = """
import sys, numpy as np
from pathlib import Path
from semroute import EncodingFailed, index
made = index.load(Path(sys.argv[1]))
for bad in (np.ones((1, 63), np.float32), np.ones((1, 64)), np.ones((1, 64), np.float32)[:, ::-1], np.ones(64)):
    try:
        made.search(bad, 3)
    except EncodingFailed:
        continue
    raise SystemExit("accepted")
"""
    done = subprocess.run(
        [sys.executable, "-O", "-c", code, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# I14, I15: crafted content -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "layout", "value"),
    [
        (0, "4s", b"IxF2"),
        (4, "<i", 1 << 30),
        (8, "<q", 1 << 62),
        (8, "<q", 1),
        (32, "<?", False),
        (33, "<i", 1),
    ],
    ids=["type", "dimension", "huge count", "small count", "untrained", "metric"],
)
def test_a_crafted_faiss_header_is_refused_before_faiss_reads_it(folder, offset, layout, value):
    data = bytearray(file_of(folder, "vectors").read_bytes())
    struct.pack_into(layout, data, offset, value)
    forge(folder, "vectors", bytes(data))
    with pytest.raises(ArtifactCorrupt, match="do not fit together"):
        index.load(folder)


def test_counts_that_the_bytes_cannot_hold_are_refused(folder):
    data = bytearray(file_of(folder, "vectors").read_bytes())
    struct.pack_into("<q", data, 8, 1 << 40)
    forge(folder, "vectors", bytes(data))
    edit_manifest(folder, lambda manifest: manifest["counts"].update(utterances=1 << 40))
    with pytest.raises(ArtifactCorrupt):
        index.load(folder)


@pytest.mark.parametrize("codes", [5, 1 << 40, 1 << 62])
def test_a_crafted_length_inside_the_faiss_file_is_refused(folder, codes, write_project):
    data = bytearray(file_of(folder, "vectors").read_bytes())
    struct.pack_into("<q", data, 37, codes)
    forge(folder, "vectors", bytes(data))
    with pytest.raises(ArtifactCorrupt, match="do not fit together"):
        index.load(folder)
    built = build_index(write_project(), folder, encoder=ENCODER)
    assert "do not fit together" in built.discarded and built.embedded == 12


@pytest.mark.parametrize(
    "data", [b"", b"IxFI", b"\0" * 45, b"[" * 100_000], ids=["empty", "type", "zeros", "text"]
)
@pytest.mark.parametrize("role", ROLES)
def test_a_forged_file_of_nonsense_is_refused(folder, role, data):
    forge(folder, role, data)
    with pytest.raises(ArtifactError):
        index.load(folder)


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("counts", {"routes": 2}),
        ("counts", {"heldout": 1}),
        ("counts", {"utterances": 11}),
        ("vectors", {"metric": "l2"}),
        ("vectors", {"dtype": "float16"}),
        ("vectors", {"kind": "hnsw"}),
        ("fitted", {"max_distance": 0.1}),
    ],
    ids=str,
)
def test_a_manifest_that_does_not_fit_its_files_is_refused(folder, section, change):
    edit_manifest(folder, lambda manifest: manifest[section].update(change))
    with pytest.raises(ArtifactCorrupt):
        index.load(folder)


@pytest.mark.parametrize(
    "rows", ['{"route": "billing", "text": 5}', '{"route": "billing", "text": "new"}', '{"route": "x"}']
)
def test_utterances_other_than_those_of_the_config_are_refused(folder, rows):
    lines = file_of(folder, "utterances").read_text().splitlines()
    forge(folder, "utterances", "\n".join([rows, *lines[1:]]).encode())
    with pytest.raises(ArtifactCorrupt):
        index.load(folder)


def test_a_vector_that_is_none_is_not_taken_into_the_next_build(folder, write_project):
    data = bytearray(file_of(folder, "vectors").read_bytes())
    struct.pack_into("<f", data, 45, float("nan"))
    forge(folder, "vectors", bytes(data))
    report = index.build(load_config(write_project(MORE)), ENCODER, previous=index.load(folder))
    assert (report.embedded, report.reused) == (3, 11)


def npz(**arrays: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in arrays.items():
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def npy(array) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=True)
    return buffer.getvalue()


def test_pickles_are_refused_and_not_run(folder, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    bomb = npy(np.array([Bomb()], object))
    for data in (npz(max_distance=bomb, min_confidence=bomb, negatives=bomb), bomb):
        forge(folder, "fitted", data)
        with pytest.raises(ArtifactCorrupt):
            index.load(folder)
    assert not (tmp_path / "exploded").exists()


def test_fitted_numbers_of_a_crafted_size_are_refused(folder):
    good = zipfile.ZipFile(file_of(folder, "fitted"))
    kept = {name: good.read(f"{name}.npy") for name in ("max_distance", "min_confidence")}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 50, 64)}
    )
    forge(folder, "fitted", npz(**kept, negatives=header.getvalue()))
    with pytest.raises(ArtifactCorrupt):
        index.load(folder)


@pytest.mark.parametrize(
    "left_out",
    [
        [[12, 0, 0.5, 0.5]],
        [[-1, 0, 0.5, 0.5]],
        [[0, 3, 0.5, 0.5]],
        [[0, 0, 1.5, 0.5]],
        [[0, 0, np.nan, 0.5]],
        [[0, 0, 0.5, 2.0]],
        [[0, 0, 0.5]],
        [0.0],
    ],
)
def test_what_was_left_out_must_be_judgements_of_utterances(folder, left_out):
    good = zipfile.ZipFile(file_of(folder, "fitted"))
    kept = {name.removesuffix(".npy"): good.read(name) for name in good.namelist()}
    forge(folder, "fitted", npz(**kept | {"left_out": npy(np.array(left_out, np.float64))}))
    with pytest.raises(ArtifactCorrupt):
        index.load(folder)
    forge(folder, "fitted", npz(**kept | {"left_out": npy(np.array([[11, 2, 1.0, -1.0]]))}))
    assert index.load(folder).fitted.left_out.rows == [11]


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "vectors-0123456789abcdef.faiss/../../x", "manifest.json"]
)
def test_names_that_leave_the_folder_are_refused(folder, name):
    edit_manifest(folder, lambda manifest: manifest["files"]["vectors"].update(name=name))
    with pytest.raises(ArtifactCorrupt, match=r"manifest\.json"):
        index.load(folder)


def test_a_link_out_of_the_folder_is_refused(folder, tmp_path):
    path = file_of(folder, "vectors")
    shutil.move(path, tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    with pytest.raises(ArtifactCorrupt, match="link"):
        index.load(folder)


def test_links_inside_the_folder_are_followed(folder):
    """Kubernetes mounts a ConfigMap as links to a hidden folder beside them."""
    (folder / "..data").mkdir()
    for path in [path for path in folder.iterdir() if path.is_file()]:
        shutil.move(path, folder / "..data" / path.name)
        path.symlink_to(Path("..data") / path.name)
    assert len(index.load(folder).entries) == 12


@pytest.mark.parametrize("role", ["vectors", "manifest"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(folder, role):
    path = file_of(folder, role)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ArtifactCorrupt):
        index.load(folder)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        '{"format": 1}',
        "[" * 100_000,
        '{"format": "1"}',
        '{"format": true}',
        "\xff",
        "9" * 5_000,
    ],
    ids=["empty", "list", "null", "cut", "bare", "nested", "text", "bool", "latin", "digits"],
)
def test_a_manifest_that_is_none_is_refused(folder, text):
    (folder / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ArtifactCorrupt, match=r"manifest\.json"):
        index.load(folder)


def test_a_huge_manifest_is_refused_unread(folder):
    with (folder / "manifest.json").open("wb") as file:
        file.truncate(1 << 36)
    with pytest.raises(ArtifactCorrupt, match="larger"):
        index.load(folder)


def test_an_index_of_a_later_format_says_so(folder):
    edit_manifest(folder, lambda manifest: manifest.update(format=artifact.FORMAT + 1, something="new"))
    with pytest.raises(ArtifactMismatch, match=f"format {artifact.FORMAT + 1}"):
        index.load(folder)


def test_a_config_that_does_not_give_the_fingerprint_is_refused(folder):
    content = json.loads(file_of(folder, "config").read_text())
    content["settings"]["default"]["model"] = "small"
    forge(folder, "config", artifact.canonical_json(content))
    with pytest.raises(ArtifactMismatch, match="semroute build"):
        index.load(folder)


@pytest.mark.parametrize("data", [b"[", b"[]", b"{}", b"[" * 100_000], ids=["cut", "list", "empty", "nested"])
def test_checking_against_a_stored_config_that_is_none_says_stale(folder, write_project, data):
    forge(folder, "config", data)
    edit_manifest(folder, lambda manifest: manifest.update(fingerprint="sha256:" + "0" * 64))
    assert any("stored config" in change for change in check_index(write_project(), folder))


def test_a_reader_that_meets_a_build_reads_again(folder, write_project):
    """A build may remove the files of the manifest that a reader has just read."""
    old, new = index.load(folder), made(write_project(MORE))
    pid = os.fork()
    if pid == 0:  # pragma: no cover - the child
        for turn in range(60):
            index.save(new if turn % 2 == 0 else old, folder)
        os._exit(0)
    seen = set()
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        seen.add(index.load(folder).fingerprint)
    assert seen <= {old.fingerprint, new.fingerprint}
    assert len(seen) == 2
