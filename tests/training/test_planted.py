"""Nothing that a recipe says is ever run."""

import json

import pytest
import yaml

from mcgm.cli import main
from mcgm.training.recipe import merge

TAGGED = [
    "!!python/object/apply:os.mkdir ['{trap}']",
    "!!python/object/new:os.mkdir ['{trap}']",
    "!!python/object/apply:subprocess.run [[mkdir, '{trap}']]",
    "!!python/name:os.mkdir ''",
    "!!python/module:os ''",
]
NAMED = [
    {"data": {"path": "__import__('os').mkdir('{trap}')"}},
    {"model": {"backbone": "os.mkdir", "backbone_options": {"path": "{trap}"}}},
    {"model": {"backbone": {"class_path": "os.mkdir", "init_args": {"path": "{trap}"}}}},
    {"model": {"backbone_options": {"envelope": "__import__('os').mkdir('{trap}')"}}},
    {"model": {"long_range_options": {"clusterers": [{"name": "os.mkdir", "path": "{trap}"}]}}},
    {"training": {"schedule": {"class_path": "os.mkdir", "init_args": {"path": "{trap}"}}}},
    {"training": {"loss": {"kind": "__import__('os').mkdir('{trap}')"}}},
]


@pytest.fixture
def refused(tmp_path, capsys):
    """Checks that a command ends with one message, and that the trap did not go off."""

    def check(*arguments):
        assert main([*map(str, arguments), "-o", str(tmp_path / "run")]) == 2
        shown = capsys.readouterr().err
        assert shown.startswith("mcgm: ")
        assert "Traceback" not in shown
        assert not (tmp_path / "trap").exists()

    return check


def test_the_first_payload_goes_off_in_a_loader_that_trusts_its_files(tmp_path):
    yaml.unsafe_load(TAGGED[0].replace("{trap}", str(tmp_path / "trap")))
    assert (tmp_path / "trap").exists()


@pytest.mark.parametrize("payload", TAGGED)
def test_a_tag_in_a_recipe_or_on_the_command_line_makes_no_object(payload, small_recipe, tmp_path, refused):
    payload = payload.replace("{trap}", str(tmp_path / "trap"))
    path = tmp_path / "recipe.yaml"
    for key in ("data: {path", "model: {backbone_options"):
        path.write_text(f"{key}: {payload}}}\n")
        refused("train", path)
    path.write_text(payload + "\n")
    refused("train", path)
    path.write_text(yaml.safe_dump(small_recipe))
    refused("train", path, "--data.path", payload)


@pytest.mark.parametrize("changes", NAMED, ids=str)
def test_a_recipe_cannot_name_code(changes, small_recipe, tmp_path, refused):
    changes = json.loads(json.dumps(changes).replace("{trap}", str(tmp_path / "trap")))
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(merge(small_recipe, changes)))
    refused("train", path)
