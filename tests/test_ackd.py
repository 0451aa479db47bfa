"""ACKD: its learners, what they teach, and that nothing of them is exported. Its resume: test_method_contract.py."""

import onnx
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file
from shell import DISTILL, QUICK, ran
from torch.nn import functional as F

from compressor.batch import Batch
from compressor.errors import UsageError
from compressor.methods import AnyMethod, Moment, Setting, describe
from compressor.methods.ackd import ACKD, Fusion, Learner

MOMENT = Moment(epoch=0, epochs=4, step=0, generator=torch.Generator())


def setting(student, *teachers):
    return Setting(student, teachers, 4, (3, 8, 8), 8, torch.ones(3), torch.device("cpu"))


def softened(learnt, taught, temperature):
    return temperature**2 * F.cross_entropy(learnt / temperature, (taught / temperature).softmax(dim=1))


def test_every_learner_learns_the_labels_and_the_teacher_and_their_sum_teaches_the_student(tiny, images):
    student, teacher = tiny(), tiny(seed=1)
    objective = ACKD(stages=("body.2", "head"), temperature=2.0, adversarial_weight=0.5).build(
        setting(student, teacher)
    )
    objective.eval()  # BatchNorm is then a fixed function
    batch = Batch(images(8), torch.arange(8) % 4, torch.arange(8))

    update, critic = objective.updates(batch, MOMENT)

    logits, taught = student(batch.images), teacher(batch.images)
    features = [objective.learners[0](objective.inner["body.2"]), objective.learners[1](objective.inner["head"])]
    said = [head(feature) for head, feature in zip(objective.heads, features, strict=True)]
    fused = objective.fusion(torch.stack(features, dim=1))
    lessons = [F.cross_entropy(each, batch.labels) + softened(each, taught, 2.0) for each in (*said, fused)]
    expected = {
        "ce": F.cross_entropy(logits, batch.labels),
        "kd": softened(logits, taught, 2.0),
        "learners": sum(lessons) / 3,
        "collaboration": softened(logits, fused, 2.0),
        "adversarial": 0.5 * objective.critic.fooled(torch.cat([logits, *said])),
    }
    torch.testing.assert_close(dict(update.terms), expected)
    assert critic.player == "critic"
    update.terms["collaboration"].backward()
    assert all(parameter.grad is None for parameter in objective.fusion.parameters())  # it teaches and is not taught


def test_attention_weighs_learners_for_each_image_and_prefers_the_one_it_scores_higher():
    fusion = Fusion(2, 3)
    features = torch.tensor([[[0.0, 0.0], [2.0, 2.0]], [[1.0, 1.0], [1.0, 1.0]]])
    with torch.no_grad():
        fusion.score[0].weight.copy_(torch.eye(2))
        fusion.score[0].bias.zero_()
        fusion.score[2].weight.fill_(1.0)

    weights = fusion.weights(features).squeeze(2)

    share = torch.tensor(2 * 2.0).tanh() * 0 + (2 * torch.tensor(2.0).tanh()).sigmoid()
    torch.testing.assert_close(weights, torch.stack([torch.stack([1 - share, share]), torch.tensor([0.5, 0.5])]))
    expected = fusion.head((weights[:, :, None] * features).sum(dim=1))
    torch.testing.assert_close(fusion(features), expected)


@pytest.mark.parametrize("shape", [(8, 4, 4), (8,)])
def test_a_learner_makes_features_of_maps_and_of_vectors(shape):
    assert Learner("layer", shape, 5)(torch.rand(3, *shape)).shape == (3, 5)


@pytest.mark.trains
def test_the_exported_student_is_as_large_as_one_that_had_no_learners(here):
    learners = ["--method", "ackd", "--set", "method.stages=[conv1, conv2]", "--set", "method.kd_weight=1"]
    files = []
    for folder, method in (("plain", ["--method", "kd"]), ("learners", learners)):
        ran([*DISTILL, "--epochs", "2", "--name", "same", "--out", f"runs/{folder}", *method, *QUICK])
        ran(["export", f"runs/{folder}", "--format", "onnx"])
        tensors = load_file(f"runs/{folder}/student/student.safetensors")
        graph = onnx.load(f"runs/{folder}/export/student.fp32.onnx")
        del graph.metadata_props[:]  # they name the method and tell its accuracy
        files.append(({name: tensor.shape for name, tensor in tensors.items()}, len(graph.SerializeToString())))

    assert files[0] == files[1]


def test_a_stage_that_is_not_there_is_refused_with_the_nearest_name(tiny):
    with pytest.raises(UsageError, match=r"no module 'bodi.2'") as refused:
        ACKD(stages=("bodi.2",)).build(setting(tiny(), tiny()))
    assert "body.2" in (refused.value.hint or "")


def test_a_stage_of_another_shape_is_refused():
    with pytest.raises(UsageError, match=r"^ackd cannot put a learner on layer, which gives \[4, 8\]$"):
        Learner("layer", (4, 8), 5)


@pytest.mark.parametrize("wrong", [{}, {"stages": []}, {"stages": ["a"], "width": 0}])
def test_a_recipe_without_stages_is_refused(wrong):
    with pytest.raises(ValidationError):
        TypeAdapter(AnyMethod).validate_python({"kind": "ackd", **wrong})


@pytest.mark.parametrize(
    ("kind", "words"), [("ackd", "after the abstract"), ("ai-kd", "reconstructed from the abstract")]
)
def test_what_is_not_published_is_said_where_methods_are_listed(kind, words):
    (entry,) = [each for each in describe() if each["kind"] == kind]

    assert words in entry["summary"]
