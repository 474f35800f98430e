"""What a run says about its images before it begins, and what of that it keeps."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, picture
from PIL import Image
from rich.console import Console

from backbone.value_range import ALL_OF_16_BITS
from training.config import TrainingConfig
from training.errors import ConfigInvalid
from training.plan import Plan, make_plan, write_plan
from training.progress import Reporter
from training.resume import Resume

SMALL = {"backbone": "vit_tiny_patch16", "image_size": 32, "batch_size": 2, "workers": 0, "devices": "1"}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("cat/1.png", "cat/2.png", "dog/3.png", "dog/raw/4.png", "@eaDir/5.png", "cat/@eaDir/6.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(picture()))
    for name in ("cat/7.PSD", "8.mov", "9.psd"):
        (folder / name).write_bytes(b"")
    return folder


def planned(data: Path, out: Path, resume: Resume | None = None, **keys: object) -> tuple[Plan, str]:
    screen = io.StringIO()
    config = TrainingConfig.from_values({**SMALL, **keys})
    return make_plan(data, out, config, resume, Reporter(Console(file=screen, width=200))), screen.getvalue()


def test_u06_u07_a_run_says_what_of_the_folder_it_leaves_out(photos: Path, tmp_path: Path) -> None:
    plan, said = planned(photos, tmp_path / "run")
    assert "left out: 2 .psd, 1 .mov; 2 files or folders of the system (@eaDir)\n" in said
    assert [image.id for image in plan.images.images] == ["cat/1.png", "cat/2.png", "dog/3.png", "dog/raw/4.png"]
    assert plan.images.classes == ("cat", "dog")


def test_u16_a_run_says_that_images_are_dim_and_keeps_the_range_that_it_is_given(photos: Path, tmp_path: Path) -> None:
    deep = np.linspace(0, 4095, 400).reshape(20, 20).astype(np.uint16)
    (photos / "cat" / "deep.png").write_bytes(encoded(Image.fromarray(deep)))
    assert "use only the lower 12" in planned(photos, tmp_path / "run")[1]
    out = tmp_path / "given"
    out.mkdir()
    plan, said = planned(photos, out, value_range="4095")
    assert "lower 12" not in said
    write_plan(plan, out, None)
    assert planned(photos, out, Resume({}))[0].config.value_range == plan.config.value_range
    with pytest.raises(ConfigInvalid, match="value_range was"):
        planned(photos, out, Resume({"value_range": "0:1023"}))
    assert TrainingConfig.load(None, ["value_range=4095"]).value_range == "4095"
    assert TrainingConfig.load(None, []).value_range == ALL_OF_16_BITS
    with pytest.raises(ConfigInvalid, match=r"value_range.*for instance 0:4095"):
        TrainingConfig.load(None, ["value_range=dark"])


def test_u07_a_run_keeps_the_patterns_that_it_began_with(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    plan, said = planned(photos, out, exclude=["raw/", "*,*", "2.*"])
    assert "2 files or folders by exclude (2.*, raw/)" in said
    assert "nothing is left out by exclude (*,*)" in said
    write_plan(plan, out, None)
    again = Resume({})
    resumed, _ = planned(photos, out, again)
    assert resumed.config.exclude == ("raw/", "*,*", "2.*")
    write_plan(resumed, out, again)  # the same images: no DataChanged
    planned(photos, out, Resume({"exclude": ("raw/", "*,*", "2.*")}))
    with pytest.raises(ConfigInvalid, match="exclude was"):
        planned(photos, out, Resume({"exclude": ()}))


def test_u07_patterns_are_a_key_as_any_other(tmp_path: Path) -> None:
    assert TrainingConfig.load(None, ["exclude=raw/, *-draft.*"]).exclude == ("raw/", "*-draft.*")
    assert TrainingConfig.load(None, ["exclude="]).exclude == ()
    (tmp_path / "run.toml").write_text('exclude = ["a,b", "c"]\n')
    config = TrainingConfig.load(tmp_path / "run.toml")
    assert config.exclude == ("a,b", "c")
    (tmp_path / "again.toml").write_text(config.to_toml())
    assert TrainingConfig.load(tmp_path / "again.toml") == config
    (tmp_path / "run.toml").write_text("exclude = 3\n")
    with pytest.raises(ConfigInvalid, match="exclude is a list"):
        TrainingConfig.load(tmp_path / "run.toml")
