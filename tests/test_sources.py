import json
import re

import pytest

from rleif.records import DataError, Problem, read_rows
from rleif.sources import gold_solution, gsm8k_row, read_gsm8k, read_seeds, read_texts, resolve_data

ROW = {
    "question": "Natalia sold 48 clips in April and half as many in May. How many is that?",
    "answer": "In May she sold 48/2 = $<<48/2=24>>24.\n\nShe sold 48+24 = <<48+24=72>>72 in all.\n#### 1,072",
}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_gsm8k_row_becomes_steps_an_answer_and_marked_equations():
    problem, solution = gsm8k_row(ROW)
    assert solution.steps == (
        "Step 1: In May she sold 48/2 = $24.",
        "Step 2: She sold 48+24 = 72 in all.",
        "The answer is: 1072",
    )
    assert (problem.answer, solution.answer, problem.instruction) == ("1072", "1072", ROW["question"])
    assert [(e["step"], e["left"], e["right"]) for e in problem.meta["equations"]] == [
        (0, "48/2", "24"),
        (1, "48+24", "72"),
    ]
    for equation in problem.meta["equations"]:  # `at` is where the result begins in the visible step
        assert solution.steps[equation["step"]][equation["at"] :].startswith(equation["right"])
    assert gold_solution(problem) == solution


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "How?", "answer": "no mark"}, "has no '#### N' at its end; it ends 'no mark'"),
        ({"question": "How?", "answer": "#### "}, "has no '#### N'"),
        ({"question": "", "answer": "#### 3"}, "must be non-empty text"),
        ({"question": "How?", "answer": None}, "must be non-empty text"),
    ],
)
def test_a_row_that_is_not_gsm8k_s_says_why_and_where(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        gsm8k_row(row)
    path = write(tmp_path / "train.jsonl", ROW, row)
    with pytest.raises(DataError, match=r"train\.jsonl, row 2: "):
        read_gsm8k(path)


def test_all_7473_train_rows_are_read_and_none_is_lost(data_folder):
    rows = read_gsm8k(data_folder / "gsm8k" / "train.jsonl")
    assert len(rows) == 7473
    assert len({problem.id for problem, _ in rows}) == 7473
    raw = list(read_rows(data_folder / "gsm8k" / "train.jsonl"))
    for (problem, solution), row in zip(rows, raw, strict=True):
        assert re.search(r"#### (\S+)$", row["answer"]).group(1).replace(",", "") == problem.answer  # type: ignore[union-attr]
        assert solution.steps[-1] == f"The answer is: {problem.answer}"
        assert "<<" not in solution.text
        assert ">>" not in solution.text
        assert len(problem.meta["equations"]) == row["answer"].count("<<")
        assert len(solution.steps) >= 2
        for equation in problem.meta["equations"]:
            visible = solution.steps[equation["step"]][equation["at"] :].replace(",", "")
            assert visible.startswith(equation["right"])


def test_a_folder_with_split_files_is_read_by_split(tmp_path):
    write(tmp_path / "train.jsonl", ROW, ROW | {"question": "Another?"})
    write(tmp_path / "test.jsonl", ROW)
    assert [len(read_gsm8k(tmp_path, split)) for split in ("train", "test")] == [2, 1]


def test_a_copy_of_a_hub_repository_goes_through_load_dataset_to_the_same_rows(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "openai" / "gsm8k"
    (repository / "main").mkdir(parents=True)
    path = write(repository / "main" / "train.jsonl", ROW, ROW | {"question": "Another?"})
    (repository / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n    path: main/train.jsonl\n---\n"
    )
    assert read_gsm8k(repository) == read_gsm8k(path)


def test_a_hub_id_asks_for_the_main_configuration_and_shares_the_row_code(monkeypatch):
    import datasets

    asked = []

    def load_dataset(repository, name, split):
        asked.append((repository, name, split))
        return datasets.Dataset.from_list([ROW])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read_gsm8k("openai/gsm8k", "test") == [gsm8k_row(ROW)]
    assert asked == [("openai/gsm8k", "main", "test")]


def test_seeds_and_test_texts_come_from_the_hub_by_id_and_split(monkeypatch):
    import datasets

    asked = []

    def load_dataset(repository, name, split):
        asked.append((repository, name, split))
        return datasets.Dataset.from_list([ROW])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read_seeds("openai/gsm8k") == [gsm8k_row(ROW)]
    assert read_texts("openai/gsm8k:test") == [ROW["question"]]
    assert asked == [("openai/gsm8k", "main", "train"), ("openai/gsm8k", "main", "test")]


def test_a_hub_data_set_with_other_columns_names_both(monkeypatch):
    import datasets

    other = datasets.Dataset.from_list([{"problem": "x", "answer": "y"}])
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: other)
    with pytest.raises(DataError, match=r"missing column \['question'\]; found \['answer', 'problem'\]"):
        read_gsm8k("openai/gsm8k")


def test_offline_a_hub_id_gives_a_clear_error(monkeypatch):
    import datasets

    def offline(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(DataError, match=r"cannot load 'openai/gsm8k'.*no route.*give the path of its JSONL file"):
        read_gsm8k("openai/gsm8k")


def test_data_is_looked_for_in_the_named_places_in_order(tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("RLEIF_DATA", str(tmp_path / "mine"))
    for folder in (tmp_path / "shared" / "data", work / "data", tmp_path / "mine", work):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "set.jsonl").write_text("{}\n")
        assert resolve_data("set.jsonl").resolve() == (folder / "set.jsonl").resolve()
    monkeypatch.delenv("RLEIF_DATA")
    with pytest.raises(DataError, match=r"gone\.jsonl; looked at gone.jsonl, data/gone.jsonl, \S+; set RLEIF_DATA"):
        resolve_data("gone.jsonl")
    with pytest.raises(DataError, match=r"no such file: /nowhere/x; looked at /nowhere/x"):
        resolve_data("/nowhere/x")


def test_a_missing_jsonl_is_not_taken_for_a_hub_id():
    with pytest.raises(DataError, match="no such file"):
        read_gsm8k("gsm8k/gone.jsonl")


def test_seeds_are_own_rows_or_gsm8k_rows(tmp_path):
    own = write(tmp_path / "own.jsonl", {"instruction": "How many?", "answer": "3", "extra": 1})
    ((problem, solution),) = read_seeds(own)
    assert (problem.instruction, problem.answer, problem.root, solution) == ("How many?", "3", problem.id, None)
    assert read_seeds(write(tmp_path / "g.jsonl", ROW)) == [gsm8k_row(ROW)]
    with pytest.raises(DataError, match=r"found columns \['text'\]; expected 'instruction'"):
        read_seeds(write(tmp_path / "bad.jsonl", {"text": "x"}))


def test_test_texts_come_from_any_usual_column(tmp_path):
    rows = [{"instruction": "a"}, {"question": "b"}, {"problem": "c"}, {"prompt": "d"}]
    assert read_texts(write(tmp_path / "t.jsonl", *rows)) == ["a", "b", "c", "d"]
    with pytest.raises(DataError, match=r"row 2: found columns \['body'\]"):
        read_texts(write(tmp_path / "u.jsonl", {"question": "b"}, {"body": "x"}))


def test_a_problem_without_a_reference_solution_says_so():
    with pytest.raises(DataError, match=r"problem p has no reference solution in meta\['solution'\]"):
        gold_solution(Problem(id="p", root="p", instruction="How?"))
