"""The question that each task asks when the user gives none."""

from geotempo.model.errors import InputError

# None: the task is about something that only the user can name.
TASK_QUESTIONS: dict[str, str | None] = {
    "caption": "Describe the image.",
    "change_caption": "Describe the changes between the two images.",
    "vqa": None,
    "change_vqa": "Has anything changed between the two images? Answer yes or no.",
    "region_vqa": None,
    "region_caption": None,
    "change_grounding": "Find all changed objects and give their boxes.",
    "referring_segmentation": None,
    "change_segmentation": "Segment all changed objects.",
    "semantic_change": "List all changed places, each labelled from -> to.",
    "damage": "Assess the damage of every building. Levels: no-damage, minor-damage, major-damage, destroyed.",
    "temporal_referring": None,
    "temporal_classification": None,
    "classification": None,
    "counting": None,
}
CHANGE_TASKS = frozenset({"change_caption", "change_vqa", "change_grounding", "change_segmentation", "semantic_change",
                          "damage"})
MASK_TASKS = frozenset({"referring_segmentation", "change_segmentation"})


def question_for(task: str | None, prompt: str | None, acquisitions: int) -> tuple[str | None, str]:
    """The task and the question of a request.

    Args:
        task: A key of `TASK_QUESTIONS`; None leaves it open, which without a prompt means a caption.
        prompt: The user's own words; None asks the task's usual question.
        acquisitions: Number of acquisitions in the request.

    Returns:
        (task or None, question).

    Raises:
        InputError: The task is unknown, needs a prompt, or needs more images.
    """
    if task is None:
        if prompt:
            return None, prompt
        task = "change_caption" if acquisitions > 1 else "caption"
    if task not in TASK_QUESTIONS:
        raise InputError(f"unknown task {task!r}; allowed: {', '.join(TASK_QUESTIONS)}")
    if task in CHANGE_TASKS and acquisitions < 2:
        raise InputError(f"the task {task!r} compares acquisitions, but 1 was given; give two or more images")
    question = prompt or TASK_QUESTIONS[task]
    if question is None:
        raise InputError(f"the task {task!r} has no usual question; write yours with --prompt TEXT")
    return task, question
