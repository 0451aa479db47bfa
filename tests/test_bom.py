"""The bill of materials, read back as JSON and held against the schema of CycloneDX."""

import json
from importlib.util import find_spec

import finished
import pytest

from compressor.errors import InputRejected
from compressor.report.bom import write_bom


@pytest.fixture
def bill(tmp_path):
    """A function that writes the bill of a record and returns it as JSON."""

    def write(result, lineage=finished.LINEAGE):
        path = write_bom(finished.folder(tmp_path / "run", lineage), result)
        assert path == tmp_path / "run" / "report" / "bom.cdx.json"
        return json.loads(path.read_text())

    return write


def parts(bill):
    every = [bill["metadata"]["component"], *bill["components"]]
    return {part["bom-ref"]: part for part in every}


def properties(part):
    return {each["name"].removeprefix("compress:"): each["value"] for each in part["properties"]}


def test_the_student_is_what_the_bill_is_of(bill):
    bill = bill(finished.result())

    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    student = bill["metadata"]["component"]
    assert (student["bom-ref"], student["name"], student["type"]) == (
        "student",
        "lenet5-half",
        "machine-learning-model",
    )
    assert student["hashes"] == [{"alg": "SHA-256", "content": finished.STUDENT}]
    assert bill["metadata"]["timestamp"] == "2026-01-02T03:04:05+00:00"
    assert [tool["name"] for tool in bill["metadata"]["tools"]["components"]] == ["compressor"]
    assert properties(student) == {
        "role": "student",
        "format": "pytorch",
        "precision": "fp32",
        "size_bytes": "2345678",
        "test_samples": "359",
        "top1": "85.75",
        "ece": "0.0284",
        "agreement": "0.8607",
        "boundary_agreement": "0.4321",
        "accuracy_drop": "7.75",
        "pgd_top1": "44.25",
        "parameters": "15738",
        "macs": "133740",
        "classes": "3",
        "input_shape": "1x8x8",
    }


def test_every_network_and_file_is_a_model_with_its_hash(bill):
    models = {
        ref: part["hashes"][0]["content"]
        for ref, part in parts(bill(finished.result())).items()
        if part["type"] == "machine-learning-model"
    }

    assert models == {
        "student": finished.STUDENT,
        "teacher": finished.TEACHER,
        "export/student.fp32.onnx": finished.GRAPH,
        "export/student.int8.onnx": finished.INT8,
        "export/student.fp16.plan": finished.PLAN,
        "export/student.fp16.onnx": "9" * 64,
    }


def test_what_was_not_measured_is_left_out(bill):
    found = parts(bill(finished.result()))

    assert set(properties(found["export/student.fp16.plan"])) == {
        *("role", "format", "precision", "size_bytes", "test_samples", "input", "output")
    }
    assert properties(found["export/student.int8.onnx"])["calibration_samples"] == "512"
    assert "calibration_samples" not in properties(found["export/student.fp32.onnx"])


def test_the_data_are_named_without_where_they_lay(bill):
    bill = bill(finished.result())
    data = parts(bill)["data"]

    assert (data["type"], data["name"]) == ("data", "folder:leaves")
    assert properties(data) == {
        "fingerprint": "0123456789abcdef",
        "classes": "3",
        "train": "1294",
        "validation": "144",
        "test": "359",
    }
    assert "/home/ann" not in json.dumps(bill)


def test_packages_have_their_versions(bill):
    found = parts(bill(finished.result()))

    assert found["package:torch"]["purl"] == "pkg:pypi/torch@2.15.0"
    assert (found["package:torch"]["type"], found["package:torch"]["version"]) == ("library", "2.15.0")
    assert (found["python"]["type"], found["python"]["version"]) == ("platform", "3.11.7")


def test_dependencies_are_the_lineage(bill):
    known = {each["ref"]: set(each.get("dependsOn", ())) for each in bill(finished.result())["dependencies"]}

    assert known["student"] == {"teacher", "data", "python", "package:torch", "package:compressor"}
    assert known["export/student.int8.onnx"] == {"student"}
    assert known["export/student.fp16.plan"] == {"export/student.fp16.onnx"}
    assert known["export/student.fp16.onnx"] == {"student"}
    assert known["teacher"] == known["data"] == set()


def test_a_run_without_teacher_and_files_has_a_bill_too(bill):
    found = bill(finished.result(teacher=None, artifacts=()), lineage=())

    assert {ref for ref, part in parts(found).items() if part["type"] == "machine-learning-model"} == {"student"}
    assert {each["ref"]: set(each.get("dependsOn", ())) for each in found["dependencies"]}["student"] == {
        *("data", "python", "package:torch", "package:compressor")
    }


def test_the_same_run_has_the_same_bill_and_another_has_another(bill):
    first, again = bill(finished.result()), bill(finished.result())
    assert first == again

    other = bill(finished.result(recipe_sha256="0" * 64))
    assert other["serialNumber"] != first["serialNumber"]


@pytest.mark.heavy
@pytest.mark.skipif(
    find_spec("jsonschema") is None, reason="validation needs: pip install 'cyclonedx-python-lib[json-validation]'"
)
@pytest.mark.parametrize("changes", [{}, {"teacher": None}, {"artifacts": ()}])
def test_the_bill_is_valid_cyclonedx(bill, changes):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = json.dumps(bill(finished.result(**changes), lineage=() if changes else finished.LINEAGE))

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text.replace('"data"', '"dat"')) is not None


def test_a_run_without_a_manifest_is_refused(tmp_path):
    run = finished.folder(tmp_path)
    (tmp_path / "manifest.json").unlink()

    with pytest.raises(InputRejected, match=r"manifest\.json"):
        write_bom(run, finished.result())
