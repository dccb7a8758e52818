import pytest

from geotempo.data_builders.sample import TASKS
from geotempo.eval.task import load_task, task_from_yaml, task_names
from geotempo.model.errors import ConfigError

GOOD = "task: t\ntasks: [caption]\nmetrics: [bleu4]\nprotocol: p\n"


def test_every_shipped_task_loads_and_all_sample_tasks_are_covered():
    tasks = [load_task(name) for name in task_names()]
    assert [task.task for task in tasks] == task_names()
    assert {name for task in tasks for name in task.tasks} == set(TASKS)


def test_unknown_task_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'change_caption'"):
        load_task("change_captoin")


def test_task_file_by_path(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD + "generation: {max_new_tokens: 7}\n")
    assert load_task(str(path)).max_new_tokens == 7
    with pytest.raises(ConfigError, match="cannot read"):
        load_task(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(("text", "message"), [
    (GOOD.replace("metrics", "metrik"), "unknown key 'metrik', did you mean 'metrics'"),
    (GOOD.replace("bleu4", "bleu"), "did you mean 'bleu4'"),
    (GOOD.replace("[caption]", "[captoin]"), "did you mean 'caption'"),
    (GOOD.replace("protocol: p\n", ""), "missing key 'protocol'"),
    (GOOD.replace("[bleu4]", "{a: 1}"), "metrics must be a list"),
    (GOOD + "split: tset\n", "did you mean 'test'"),
    (GOOD + "generation: {temperature: 1}\n", "decoding is greedy"),
    (GOOD + "generation: {max_new_tokens: 0}\n", "1 or more"),
    ("a: [", "not readable YAML"),
    ("- a", "must be a mapping"),
])
def test_wrong_files_say_what_is_wrong(text, message):
    with pytest.raises(ConfigError, match=message):
        task_from_yaml(text, "x.yaml")
