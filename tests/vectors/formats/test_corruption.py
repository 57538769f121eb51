"""300 damaged files of every format: each is refused by name, or what it holds is sound. Nothing else happens."""

import collections
import pickle
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from emoreg import EmotionVectors
from emoreg.vectors.formats import read_directions, write_gguf
from tests import tiny
from tests.support import random_vectors
from tests.vectors.formats.foreign import ibm_svec, persona_pt, repeng_gguf
from tests.vectors.formats.test_persona import Bomb

EACH = 60
HUGE = (2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)


def flipped(data: bytes, rng: random.Random) -> bytes:
    """One bit of one byte is another."""
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def truncated(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def beheaded(data: bytes, rng: random.Random) -> bytes:
    """The head of another format, none at all, or noise."""
    size = rng.choice([4, 8, 16])
    heads = [b"GGUF\x03\0\0\0" * 2, b"PK\x03\x04" * 4, b'{"format": "pt" ', b"\x80\x02ctorch\n....", bytes(16)]
    head = rng.choice([*heads, rng.randbytes(16)])[:size]
    return rng.choice([head + data[size:], data[size:], head + data])


def inflated(data: bytes, rng: random.Random) -> bytes:
    """A size that no file can hold: as eight bytes in the head or at the end, or in digits."""
    huge = rng.choice(HUGE)
    numbers = [match.span() for match in re.finditer(rb"\d+", data)]
    if numbers and rng.random() < 0.4:
        begin, end = rng.choice(numbers[:40])
        return data[:begin] + str(huge).encode() + data[end:]
    at = rng.choice([*range(0, 64, 4), *range(len(data) - 64, len(data) - 8, 4)])
    return data[:at] + huge.to_bytes(8, "little") + data[at + 8 :]


DAMAGE: dict[Callable, int] = {flipped: 21, truncated: 13, beheaded: 13, inflated: 13}


def samples() -> dict[str, Path]:
    """One sound file of each format."""
    vectors = random_vectors(tiny.llama())
    rows = {layer: torch.randn(32) for layer in range(1, 4)}
    return {
        ".safetensors": vectors.save("sound.safetensors"),
        ".gguf": write_gguf(vectors, "calm", "sound.gguf"),
        "-repeng.gguf": repeng_gguf(Path("sound-repeng.gguf"), rows),
        ".pt": persona_pt(Path("sound.pt"), torch.randn(5, 32)),
        ".svec": ibm_svec(Path("sound.svec"), rows),
    }


def load(path: Path) -> EmotionVectors | torch.Tensor:
    """What a file says, and as soon as it says it, a file written from it."""
    if path.suffix == ".safetensors":
        vectors = EmotionVectors.load(path)
        write_gguf(vectors, "calm", "written.gguf")
        return vectors
    return read_directions(path).shift[:, 0]


def load_or_refusal(path: Path) -> EmotionVectors | torch.Tensor | str:
    try:
        return load(path)
    except ValueError as error:
        return str(error)


def resident(key: str) -> int:
    """Of this process: VmRSS, the memory it holds, or VmHWM, the most that it ever did."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key)]
    return int(line.split()[1]) * 1024


@pytest.fixture
def _modest() -> Iterator[None]:
    """No file of a few kilobytes takes 64 MB."""
    if not Path("/proc/self/clear_refs").exists():  # not Linux
        yield
        return
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now the present
    yield
    assert resident("VmHWM") - before < 64 * 2**20


@pytest.fixture
def _unpickled(monkeypatch) -> None:
    """Whoever unpickles fails: torch's safe loader has an unpickler of its own, which runs nothing."""

    class Forbidden:
        def __init__(self, *_args, **_kwargs):
            pytest.fail("a file was unpickled")

    for name in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, Forbidden)


@pytest.mark.usefixtures("_modest", "_unpickled")
def test_300_damaged_files():
    outcomes = collections.Counter()
    sound = samples()
    reference = {kind: load(path) for kind, path in sound.items()}
    Path("written.gguf").unlink()
    assert sum(DAMAGE.values()) == EACH
    for kind, path in sound.items():
        data, rng = path.read_bytes(), random.Random(kind)
        for damage, n in DAMAGE.items():
            for i in range(n):
                damaged = Path(f"{damage.__name__}-{i}{kind}")
                damaged.write_bytes(damage(data, rng))
                found = load_or_refusal(damaged)
                if isinstance(found, str):
                    assert damaged.name in found
                    assert len(found) < 1000
                    outcomes[kind, "refused"] += 1
                else:
                    check_sound(kind, found, reference[kind])
                    Path("written.gguf").unlink(missing_ok=True)
                    outcomes[kind, "harmless"] += 1
                assert not Path("written.gguf").exists()
                damaged.unlink()
    assert {path.name for path in Path().iterdir()} == {path.name for path in sound.values()}
    print(dict(outcomes))
    assert sum(outcomes.values()) == 300
    assert outcomes[".safetensors", "refused"] == EACH
    # A bit in a number of a format that has no checksum is another number, and nobody can tell.
    assert sum(n for (_, outcome), n in outcomes.items() if outcome == "refused") >= 220


def check_sound(kind: str, found: EmotionVectors | torch.Tensor, reference: EmotionVectors | torch.Tensor) -> None:
    if kind == ".safetensors":  # the file's own hash leaves nothing that is another
        assert found.fingerprint() == reference.fingerprint()
        assert found.provenance == reference.provenance
    elif kind == ".pt":  # and so do a zip's checksums
        assert torch.equal(found, reference)
    else:
        assert found.shape[1] == reference.shape[1]
        assert found.isfinite().all()


@pytest.mark.usefixtures("_modest")
def test_every_bit_of_the_vectors_own_file_is_guarded():
    """A flip anywhere in the numbers is found, though the number that it makes be a likely one."""
    path, rng = random_vectors(tiny.llama()).save("v"), random.Random(1)
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    for _ in range(40):
        at = rng.randrange(begin, len(data))
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(ValueError, match="v.safetensors is a damaged emoreg vector file"):
            EmotionVectors.load(path)


@pytest.mark.usefixtures("_modest")
def test_a_bomb_among_them_does_not_go_off():
    torch.save(Bomb(), "bomb.pt")
    Path("bomb.gguf").write_bytes(Path("bomb.pt").read_bytes())
    Path("bomb.svec").write_bytes(pickle.dumps(Bomb()))
    Path("bomb.safetensors").write_bytes(pickle.dumps(Bomb()))
    for path in sorted(Path().glob("bomb.*")):
        with pytest.raises(ValueError, match=path.name):
            load(path)
    assert not Path("exploded").exists()


@pytest.mark.usefixtures("_unpickled")
def test_the_guard_against_unpickling_can_fail():
    torch.save(Bomb(), "bomb.pt")
    with pytest.raises(pytest.fail.Exception):
        torch.load("bomb.pt", weights_only=False)
