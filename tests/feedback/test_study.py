"""A study's settings: what a file says is what the site does, and what is wrong is named."""

import pytest

from rlhf_jax.feedback import study as module
from rlhf_jax.feedback.study import AXES, Axis, Labeler, Onboarding, Study, StudyError, read_study


def written(tmp_path, text: str):
    path = tmp_path / "study.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_empty_file_is_the_default_study(tmp_path):
    assert read_study(written(tmp_path, "")) == Study()


def test_the_example_of_the_module_is_a_study(tmp_path):
    lines = [line[4:] for line in module.__doc__.split("\n") if line.startswith("    ")]
    study = read_study(written(tmp_path, "\n".join(lines)))
    assert study.name == "Summaries of posts, round 1" and study.quota == 200 and study.calibration == 0.15
    assert study.kinds == ("comparison", "likert") and study.steps == ("interpret", "choose")
    assert [axis.name for axis in study.axes] == ["accuracy"]
    assert study.onboarding == Onboarding(tmp_path / "onboarding.jsonl", 0.7, 300.0)
    assert study.labelers == {"Ana": Labeler(50, ("comparison",), ("round2",))}


def test_a_labeler_s_quota_goes_before_the_study_s(tmp_path):
    text = 'quota = 20\n[labelers."Ana María"]\nquota = 0\n[labelers.Bo]\nkinds = ["likert"]\n'
    study = read_study(written(tmp_path, text))
    assert [study.quota_of(name) for name in ("Ana María", "Bo", "Cem")] == [0, 20, 20]


def test_a_byte_order_mark_is_no_setting(tmp_path):
    assert read_study(written(tmp_path, "\ufeffquota = 3")).quota == 3


def test_an_axis_needs_only_name_and_question(tmp_path):
    (axis,) = read_study(written(tmp_path, '[[axes]]\nname = "tone"\nquestion = "Kind?"\n')).axes
    assert axis == Axis("tone", "Kind?")


def test_the_default_axes_are_the_papers():
    assert {axis.name for axis in AXES} == {"overall", "accuracy", "coverage", "coherence"}


@pytest.mark.parametrize(
    "text, field",
    [
        ("quota = -1", "quota"),
        ("quota = true", "quota"),
        ("calibration = 15", "calibration"),
        ('calibration = "a lot"', "calibration"),
        ("people_per_task = 0", "people_per_task"),
        ('kinds = ["comparision"]', "kinds"),
        ("kinds = []", "kinds"),
        ('kinds = "likert"', "kinds"),
        ('steps = ["interpret"]', "steps"),
        ('name = ""', "name"),
        ("instructions = 3", "instructions"),
        ("quotas = 3", "quotas"),
        ("axes = 3", "axes"),
        ('[[axes]]\nname = "tone"', r"axes\[0\]\.question"),
        ('[[axes]]\nname = "two words"\nquestion = "?"', r"axes\[0\]\.name"),
        ('[[axes]]\nname = "a"\nquestion = "?"\n[[axes]]\nname = "a"\nquestion = "?"', "axes"),
        ("onboarding = 3", "onboarding"),
        ("[onboarding]\nagreement = 0.7", r"onboarding\.records"),
        ('[onboarding]\nrecords = "a"\nagreement = 70', r"onboarding\.agreement"),
        ('[onboarding]\nrecords = "a"\nseconds = 0', r"onboarding\.seconds"),
        ("labelers = 3", "labelers"),
        ("[labelers]\nAna = 3", r"labelers\.Ana"),
        ("[labelers.Ana]\nquota = -1", r"labelers\.Ana\.quota"),
        ("[labelers.Ana]\nbatches = []", r"labelers\.Ana\.batches"),
        ('[labelers.Ana]\nbatches = "round2"', r"labelers\.Ana\.batches"),
        ("[labelers.Ana]\nbatches = [2]", r"labelers\.Ana\.batches\[0"),
        ('[labelers.Ana]\nkinds = ["edits"]', r"labelers\.Ana\.kinds"),
        ('[labelers.Ana]\nkinds = ["edit"]', r"labelers\.Ana\.kinds has edit, which field kinds"),
        ('instructions = "\\u200B \\u00AD"', "instructions"),
        ("".join(f'[[axes]]\nname = "a{i}"\nquestion = "?"\n' for i in range(51)), "axes has 51 axes"),
        ("[labelers.Ana]\nshare = 0.5", r"labelers\.Ana\.share"),
        ('kinds = ["likert"]\n[onboarding]\nrecords = "a"', "onboarding"),
    ],
)
def test_a_bad_setting_is_named_with_its_file(tmp_path, text, field):
    with pytest.raises(StudyError, match=rf"study\.toml: field {field}\b"):
        read_study(written(tmp_path, text))


def test_a_file_that_is_no_toml_or_not_there_is_named(tmp_path):
    with pytest.raises(StudyError, match=r"study\.toml: not TOML "):
        read_study(written(tmp_path, "quota ="))
    with pytest.raises(StudyError, match=r"nowhere\.toml: cannot be read"):
        read_study(tmp_path / "nowhere.toml")
