"""Plan files: what they become, and that a file with anything wrong in it becomes words and nothing else."""

import json
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from agentq import plans
from agentq.context import CONTEXT_LIMIT
from agentq.errors import Invalid
from agentq.messages import ENVELOPE_LIMIT, Envelope, sha256_hex
from agentq.planfile import PLAN_LIMIT
from agentq.plans import PLAN_KEYS, TASK_KEYS, TASKS_LIMIT, Planned, read_plan
from agentq.request import DO_CONTEXT, MOVED
from agentq.stores.file import FileStore

DOCUMENT = Path(__file__).parents[1] / "docs" / "plans.md"
TOMORROW = (datetime.now(UTC) + timedelta(days=1)).isoformat()
TASK = {"to": "worker", "type": "work", "instructions": "Do it."}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> FileStore:
    """A store in which nothing is."""
    return FileStore(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    (tmp_path / "shared").mkdir()
    return FileStore(tmp_path / "shared")


def anyone(agent: str, task_type: str) -> None:
    """Whoever is asked takes everything."""


def read(store: FileStore, source: Path | bytes | str, **more: Any) -> Planned:
    source = source.encode() if isinstance(source, str) else source
    return read_plan(store, source, **{"coordinator": "chat", "check_target": anyone, "plan_id": "p"} | more)


def plan(tasks: dict[str, Any], **top: Any) -> str:
    """A plan file with these tasks, every one of which has what it must have."""
    return json.dumps({"defaults": TASK, "tasks": tasks} | top)


def task(store: FileStore, keys: dict[str, Any], **more: Any) -> Envelope:
    """The one task of a plan."""
    (found,) = read(store, plan({"a": keys}), **more).request.plan
    return found


def refusal(store: FileStore, source: Path | bytes | str, **more: Any) -> Invalid:
    with pytest.raises(Invalid) as caught:
        read(store, source, **more)
    assert caught.value.hint
    return caught.value


# ---------------------------------------------------------------------- what a file becomes


def test_a_list_of_named_tasks_is_the_same_plan(store: FileStore) -> None:
    by_name = read(store, plan({"a": {}, "b": {"needs": ["a"]}}))
    listed = read(store, json.dumps({"defaults": TASK, "tasks": [{"name": "a"}, {"name": "b", "needs": ["a"]}]}))
    assert listed.request == by_name.request


def test_a_plan_is_a_group_and_its_tasks_in_order(store: FileStore) -> None:
    text = """
        plan: release-7
        description: Ship it.
        labels: {team: core}
        defaults: {to: worker, type: work, instructions: Do it.}
        tasks:
          ship: {needs: [build, check], after: [release-6], requires_approval: true}
          check: {needs: [build]}
          build: {to: builder, priority: high}
          tidy: {needs: [ship], run_if: always}
    """
    planned = read(store, text, plan_id=None)
    group = planned.request
    assert (group.task_id, group.from_, group.to, group.type) == ("release-7", "chat", "agentq", "plan")
    assert (group.reply_to, group.instructions, group.labels) == ("results.chat", "Ship it.", {"team": "core"})
    assert [found.task_id for found in group.plan] == [
        f"release-7.{name}" for name in ("build", "check", "ship", "tidy")
    ]
    build, check, ship, tidy = group.plan
    assert (build.to, build.type, build.priority, build.instructions) == ("builder", "work", "high", "Do it.")
    assert check.depends_on == ("release-7.build",)
    assert ship.depends_on == ("release-7.build", "release-7.check", "release-6")
    assert (ship.requires_approval, tidy.run_if) == (True, "always")
    assert {(found.group, found.reply_to, found.from_) for found in group.plan} == {("release-7", None, "chat")}
    assert planned.outside == ("release-6",)
    assert planned.contexts == {}


def test_every_key_of_a_task_means_what_the_flag_means(store: FileStore, tmp_path: Path) -> None:
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    found = task(
        store,
        {"priority": "urgent", "ttl": "2h", "timeout": 90.5, "max_attempts": 2, "expect": ["patch", "risks"]}
        | {"format": "json", "labels": {"a": "b"}, "repo": ".", "base": 1234567, "at": at.isoformat()},
    )
    assert (found.priority, found.ttl_seconds, found.timeout_seconds, found.max_attempts) == ("urgent", 7200, 90.5, 2)
    assert (found.expected_output.format, found.expected_output.artifacts) == ("json", ("patch", "risks"))
    assert found.labels == {"a": "b", "repo": str(Path().resolve()), "base": "1234567"}
    assert found.not_before == at
    delayed = task(store, {"delay": "10m"})
    assert (delayed.delay_seconds, delayed.not_before) == (600, None)


def test_the_three_formats_say_the_same(store: FileStore, tmp_path: Path) -> None:
    texts = {
        "plan.yaml": "tasks:\n  a: {to: w, type: t, instructions: Größe 😀, ttl: 90, requires_approval: yes}\n"
        "  b:\n    to: w\n    type: t\n    instructions: |\n      Two\n      lines.\n    needs: [a]\n",
        "plan.toml": "[tasks.a]\nto = 'w'\ntype = 't'\ninstructions = 'Größe 😀'\nttl = 90\nrequires_approval = true\n"
        "[tasks.b]\nto = 'w'\ntype = 't'\ninstructions = '''Two\nlines.\n'''\nneeds = ['a']\n",
    }
    first = {"to": "w", "type": "t", "instructions": "Größe 😀", "ttl": 90, "requires_approval": True}
    second = {"to": "w", "type": "t", "instructions": "Two\nlines.\n", "needs": ["a"]}
    texts["plan.json"] = json.dumps({"tasks": {"a": first, "b": second}})
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    found = {read(store, tmp_path / name).request.request_digest() for name in texts}
    assert len(found) == 1


def test_the_same_file_is_the_same_plan_and_another_is_another(store: FileStore) -> None:
    text = plan({"a": {"delay": "10m"}, "b": {"needs": ["a"]}})
    digest = read(store, text).request.request_digest()
    assert read(store, text).request.request_digest() == digest
    assert read(store, text.replace("10m", "11m")).request.request_digest() != digest
    assert read(store, text, plan_id="q").request.request_digest() != digest


def test_defaults_hold_where_a_task_says_nothing_and_give_way_to_their_rival(store: FileStore) -> None:
    text = plan(
        {"a": {"at": TOMORROW, "labels": {"x": "1"}}, "b": {}}, defaults=TASK | {"delay": "5m", "labels": {"y": "2"}}
    )
    a, b = read(store, text).request.plan
    assert (a.delay_seconds, b.delay_seconds, a.labels, b.labels) == (None, 300, {"x": "1"}, {"y": "2"})
    assert a.not_before == datetime.fromisoformat(TOMORROW)


def test_an_id_by_hand_holds_over_the_files(store: FileStore) -> None:
    assert read(store, plan({"a": {}}, plan="mine")).request.task_id == "p"
    assert read(store, plan({"a": {}}, plan="mine"), plan_id=None).request.task_id == "mine"


def test_a_file_beside_the_plan_becomes_the_tasks_context(store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "brief.md").write_text("Mend it.\n")
    path = tmp_path / "plan.yaml"
    path.write_text("tasks: {a: {to: w, type: t, file: brief.md}}")
    planned = read(store, path)
    (found,) = planned.request.plan
    assert planned.contexts == {"p.a": b"Mend it.\n"}
    assert (found.context_ref, found.context_sha256) == (store.ref("tasks/p.a.md"), sha256_hex(b"Mend it.\n"))
    assert found.instructions == DO_CONTEXT
    assert list(store.root.iterdir()) == [], "reading writes nothing"


@pytest.mark.parametrize("key", ["file", "context_ref"])
def test_a_document_in_the_store_is_used_where_it_lies(store: FileStore, key: str) -> None:
    store.put("tasks/brief.md", b"Mend it.\n")
    value = store.ref("tasks/brief.md") if key == "context_ref" else str(store.root / "tasks" / "brief.md")
    planned = read(store, plan({"a": {key: value}}))
    (found,) = planned.request.plan
    assert (found.context_ref, found.context_sha256) == (store.ref("tasks/brief.md"), sha256_hex(b"Mend it.\n"))
    assert planned.contexts == {}


def test_instructions_too_long_for_an_envelope_move_to_the_context(store: FileStore) -> None:
    long = "x" * ENVELOPE_LIMIT
    planned = read(store, plan({"a": {"instructions": long}}))
    (found,) = planned.request.plan
    assert planned.contexts == {"p.a": long.encode()}
    assert (found.instructions, found.context_ref) == (MOVED, store.ref("tasks/p.a.md"))
    assert found.context_sha256 == sha256_hex(long.encode())


def test_a_time_that_has_passed_is_refused_unless_the_plan_is_registered_already(store: FileStore) -> None:
    text = plan({"a": {"at": "2020-01-31T18:00Z"}})
    assert "tasks.a.at: '2020-01-31T18:00Z' is in the past" in str(refusal(store, text))
    store.put("tasks/p.json", b"{}")
    assert read(store, text).request.plan[0].not_before == datetime(2020, 1, 31, 18, tzinfo=UTC)


def test_the_example_in_the_document_is_a_plan(store: FileStore) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (found,) = [read(store, block, plan_id=None) for block in blocks]
    by_name = {task.task_id.rpartition(".")[2]: task for task in found.request.plan}
    assert len(by_name["write"].depends_on) > 1, "a barrier"
    assert [name for name, task in by_name.items() if task.requires_approval] == ["review"]
    assert [name for name, task in by_name.items() if task.run_if == "always"] == ["cleanup"]


def test_the_document_explains_every_key() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert [key for key in (*PLAN_KEYS, *TASK_KEYS) if f"`{key}`" not in text] == []


# ---------------------------------------------------------------------- what is refused

KEYS: list[tuple[dict[str, Any], str]] = [
    ({"tto": "x"}, "tasks.a.tto: there is no such key"),
    ({"to": ["x"]}, "tasks.a.to: it should be a text, not a list"),
    ({"to": None}, "tasks.a.to: it should be a text, not nothing"),
    ({"to": "a b"}, "tasks.a.to: letters, digits"),
    ({"type": "../x"}, "tasks.a.type: letters, digits"),
    ({"instructions": " "}, "tasks.a.instructions: instructions are empty"),
    ({"instructions": {"a": "b"}}, "tasks.a.instructions: it should be a text, not a mapping"),
    ({"priority": "p0"}, "tasks.a.priority: it should be 'low', 'normal', 'high' or 'urgent'"),
    ({"ttl": 0}, "tasks.a.ttl: it should be greater than 0"),
    ({"ttl": -5}, "tasks.a.ttl: '-5' is no duration"),
    ({"ttl": "367d"}, "tasks.a.ttl: '367d' is too long"),
    ({"timeout": "soon"}, "tasks.a.timeout: 'soon' is no duration"),
    ({"delay": "0"}, "tasks.a.delay: it should be greater than 0"),
    ({"delay": "1m", "at": TOMORROW}, "tasks.a.at: delay and at name two times"),
    ({"at": "tomorrow"}, "tasks.a.at: 'tomorrow' is no time"),
    ({"at": "9999-01-01"}, "tasks.a.at: '9999-01-01' is too far off"),
    ({"max_attempts": "many"}, "tasks.a.max_attempts: it should be a valid integer"),
    ({"max_attempts": 0}, "tasks.a.max_attempts: it should be greater than or equal to 1"),
    ({"expect": "patch"}, "tasks.a.expect: it should be a list, not a text"),
    ({"expect": ["../x"]}, "tasks.a.expect: letters, digits"),
    ({"format": ""}, "tasks.a.format"),
    ({"labels": ["x"]}, "tasks.a.labels: it should be a mapping of names to texts, not a list"),
    ({"labels": {"a": ["b"]}}, "tasks.a.labels: it should be a text, not a list"),
    ({"repo": " "}, "tasks.a.repo: it is empty"),
    ({"repo": "\0"}, "tasks.a.repo: '\\x00' is no path"),
    ({"requires_approval": "perhaps"}, "tasks.a.requires_approval: it should be a valid boolean"),
    ({"run_if": "always"}, "tasks.a.run_if: there is nothing that it waits for"),
    ({"run_if": "never", "needs": ["b"]}, "tasks.a.run_if: it should be 'completed', 'always' or 'changes_requested'"),
    ({"needs": ["c"]}, "tasks.a.needs: there is no task 'c' in this plan"),
    ({"needs": ["a"]}, "tasks.a.needs: 'a' would wait for itself"),
    ({"needs": "b"}, "tasks.a.needs: it should be a list, not a text"),
    ({"needs": [["b"]]}, "tasks.a.needs: it should be a text, not a list"),
    ({"after": ["p.b"]}, "tasks.a.after: p.b is of this plan"),
    ({"after": ["p"]}, "tasks.a.after: p is of this plan"),
    ({"after": ["a b"]}, "tasks.a.after: letters, digits"),
    ({"after": [f"t{n}" for n in range(1001)]}, "tasks.a.after: there are 1001 in this list, 1000 is the limit"),
    ({"file": "nope.md"}, "tasks.a.file: nope.md cannot be read: No such file"),
    ({"file": "."}, "tasks.a.file: . cannot be read: Is a directory"),
    ({"file": "\0"}, "tasks.a.file: '\\x00' is no path"),
    ({"file": "~nobody-at-all/x"}, "tasks.a.file: '~nobody-at-all/x' is no path"),
    ({"context_ref": "s3://b/k"}, "tasks.a.context_ref: s3://b/k is nothing in file:///"),
    ({"labels": {"x": "y" * ENVELOPE_LIMIT}}, "tasks.a: the envelope would have 6"),
]


@pytest.mark.promise("refused-before-written")
@pytest.mark.parametrize(("keys", "words"), KEYS, ids=lambda value: value[:50] if isinstance(value, str) else "")
def test_a_key_that_cannot_be_used(shared: FileStore, keys: dict[str, Any], words: str) -> None:
    found = refusal(shared, plan({"a": keys, "b": {}}))
    assert str(found).startswith(f"standard input, line 1: {words}"), found
    assert list(shared.root.iterdir()) == []


@pytest.mark.parametrize(
    "at_fault", [{"instructions": "hi"}, {"to": "w", "type": "t"}, {"to": "w", "instructions": "x"}]
)
def test_what_a_task_must_have(shared: FileStore, at_fault: dict[str, str]) -> None:
    words = str(refusal(shared, json.dumps({"tasks": {"a": at_fault}})))
    missing = {"to", "type"} - at_fault.keys()
    assert all(f"tasks.a: {key} is missing" in words for key in missing)
    assert ("tasks.a: there is nothing to do" in words) == ("instructions" not in at_fault)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "standard input is empty"),
        ("# nothing\n", "there are no tasks"),
        ("[]", "it should be a mapping, not a list"),
        ("tasks: {}", "tasks: there are no tasks"),
        ("tasks: [a]", "tasks: a task of a list has no name"),
        ("tasks: [{name: a}, {name: a}]", "tasks: there are two tasks 'a'"),
        ("task: {}\ntasks: {a: *x}", "line 2: this is no YAML: found undefined alias"),
        (plan({"a": {}}, taks={}), "taks: there is no such key"),
        (plan({"a": {}}, description=""), "description: instructions are empty"),
        (plan({"a": {}}, labels=[]), "labels: it should be a mapping"),
        (plan({"a": {}}, defaults=[]), "defaults: it should be a mapping"),
        (plan({"a": {}}, defaults=TASK | {"needs": ["a"]}), "defaults.needs: 'a' would wait for itself"),
        (plan({"a b": {}}), "tasks.'a b': this is no name for a task"),
        (plan({"": {}}), "tasks.'': this is no name for a task"),
        (plan({"../x": {}}), "this is no name for a task"),
        (plan({"x" * 127: {}}), "is longer than 128"),
        (plan({"a": None}), "tasks.a: it should be a mapping, not nothing"),
        (plan({f"t{n}": {} for n in range(TASKS_LIMIT + 1)}), "tasks: there are 1001 tasks, 1000 is the limit"),
        (plan({"a": {}, "b": {}}).replace('"b"', '"a"'), "tasks.a: it is given twice, first on line 1"),
        (plan({"a": {}}).replace("Do it.", "\\ud800"), "defaults.instructions: there is half a character in it"),
        ("{[a]: b}", "a key must be a text"),
        ("tasks: !!python/object/apply:os.abort []", "the tag 'tag:yaml.org,2002:python/object/apply:os.abort' means"),
        ("tasks: {a: !!int 5}", "the tag 'tag:yaml.org,2002:int' means nothing here"),
        ("a: b\n---\nc: d\n", "line 2: this is no YAML"),
        ("tasks:\n\ta: b\n", "line 2: this is no YAML: found character '\\t'"),
        ("tasks:\n  a: {\n", "this is no YAML"),
        ("a: b\nc: \0\n", "line 2: this is no YAML"),
        ('a: "\\UFFFFFFFF"', "this is no YAML"),
        (f"%YAML {'9' * 5000}.1\n---\na", "this is no YAML"),
        ("[" * 100_000, "is nested too deeply"),
        ("a: " + "[" * 50 + "]" * 50, "is nested too deeply"),
        ("&a {tasks: *a, plan: *a}", "is nested too deeply"),
        (f"{'#' * PLAN_LIMIT} ", "is larger than 4 MiB"),
    ],
    ids=lambda value: ascii(value[:40]),
)
def test_a_file_that_is_no_plan(shared: FileStore, text: str, words: str) -> None:
    assert words in str(refusal(shared, text))


def test_aliases_are_understood_and_those_that_stand_for_too_much_are_refused(shared: FileStore) -> None:
    text = "tasks: {a: &a {to: w, type: t, instructions: x}, b: *a}"
    assert [found.instructions for found in read(shared, text).request.plan] == ["x", "x"]
    bomb = "\n".join(["a0: &a0 x", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10))])
    assert "stands for more than" in str(refusal(shared, bomb))


@pytest.mark.parametrize(
    ("data", "words"), [(b"plan: gr\xf6sse\n", "is not UTF-8 (byte 8)"), (b"a" * (CONTEXT_LIMIT + 1), "is larger")]
)
def test_bytes_that_are_no_text(shared: FileStore, data: bytes, words: str) -> None:
    assert words in str(refusal(shared, data))


def test_a_file_that_cannot_be_read(store: FileStore, tmp_path: Path) -> None:
    assert "nope.yaml cannot be read: No such file" in str(refusal(store, tmp_path / "nope.yaml"))
    (tmp_path / "plan.toml").write_text("tasks = {a =\n")
    assert "plan.toml is no TOML: " in str(refusal(store, tmp_path / "plan.toml"))
    (tmp_path / "plan.toml").write_text("x = " + "[" * 5000)
    assert "plan.toml is no TOML: " in str(refusal(store, tmp_path / "plan.toml"))
    (tmp_path / "plan.toml").write_text("[tasks.a]\nto = 'w'\ntype = 't'\nttl = [1]\ninstructions = 'x'\n")
    assert str(refusal(store, tmp_path / "plan.toml")).endswith(
        "plan.toml: tasks.a.ttl: it should be a text, not a list"
    )


@pytest.mark.parametrize("plan_id", ["", "a b", "../x", "x" * 129])
def test_a_plan_has_an_id(shared: FileStore, plan_id: str) -> None:
    words = str(refusal(shared, plan({"a": {}}, plan=plan_id), plan_id=None))
    assert ("plan: the plan has no id" if plan_id == "" else "is no plan's id") in words
    assert "the plan has no id" in str(refusal(shared, plan({"a": {}}), plan_id=None))
    assert "is no plan's id" in str(refusal(shared, plan({"a": {}}), plan_id="a b"))


def test_an_agent_that_nobody_is(shared: FileStore) -> None:
    def nobody(agent: str, task_type: str) -> None:
        if agent == "nobody":
            raise Invalid(f"there is no agent {agent} for {task_type}", hint="Known: worker.")

    found = refusal(shared, plan({"a": {}, "b": {"to": "nobody"}}), check_target=nobody)
    assert (str(found), found.hint) == (
        "standard input, line 1: tasks.b: there is no agent nobody for work",
        "Known: worker.",
    )


@pytest.mark.promise("plan-checked-whole")
def test_all_faults_are_told_in_the_order_of_their_lines(shared: FileStore, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(
        "tasks:\n"
        "  build:\n"
        "    to: worker\n"
        "    type: work\n"
        "    instruction: Do it.\n"
        "  check:\n"
        "    needs: [biuld]\n"
        "    instructions: Look.\n"
        "    ttl: 5x\n"
        "defaults:\n"
        "  timeout: never\n"
        "  type: work\n"
    )
    found = refusal(shared, path)
    assert str(found).splitlines() == [
        f"{path} has 4 faults:",
        "  line 5, tasks.build.instruction: there is no such key. Did you mean instructions?",
        "  line 7, tasks.check.needs: there is no task 'biuld' in this plan. Did you mean build?",
        "  line 9, tasks.check.ttl: '5x' is no duration. Write seconds, or a number with s, m, h, d or w: 10m.",
        "  line 11, defaults.timeout: 'never' is no duration. Write seconds, or a number with s, m, h, d or w: 10m.",
    ]
    assert "nothing was written" in found.hint
    assert list(shared.root.iterdir()) == []


def test_of_many_faults_the_first_ten_are_told(shared: FileStore) -> None:
    lines = str(refusal(shared, "tasks:\n" + "".join(f"  t{n}: []\n" for n in range(30)))).splitlines()
    assert lines[0] == "standard input has 30 faults, the first 10 are:"
    assert [line.split(",")[0] for line in lines[1:]] == [f"  line {n}" for n in range(2, 12)]


def test_a_long_value_is_not_repeated_whole(shared: FileStore) -> None:
    assert len(str(refusal(shared, plan({"a": {"ttl": "x" * 100_000, "x" * 100_000: 1}})))) < 3000


def test_a_plan_has_a_greatest_size(shared: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    many = plan({f"t{n}": {} for n in range(100)}, defaults=TASK | {"instructions": "x" * 50_000})
    assert "the plan would have" in str(refusal(shared, many))
    monkeypatch.setattr(plans, "CONTEXTS_LIMIT", 2 * ENVELOPE_LIMIT)
    long = plan({name: {} for name in "abc"}, defaults=TASK | {"instructions": "x" * ENVELOPE_LIMIT})
    assert "tasks.c: the contexts are larger than" in str(refusal(shared, long))


# ---------------------------------------------------------------------- any graph, any text


@st.composite
def graphs(draw: st.DrawFn, *, cyclic: bool) -> dict[str, list[str]]:
    """Which task needs which, in any order of the file."""
    names = [f"t{n}" for n in range(draw(st.integers(2, 12)))]
    before = {
        name: draw(st.lists(st.sampled_from(names[:n]), unique=True)) if n else [] for n, name in enumerate(names)
    }
    if cyclic:
        circle = draw(st.lists(st.sampled_from(names), min_size=2, unique=True))
        for one, other in zip(circle, [*circle[1:], circle[0]], strict=True):
            before[one] = [*before[one], other]
    return {name: before[name] for name in draw(st.permutations(names))}


@pytest.mark.promise("plan-order")
@settings(deadline=None)
@given(graphs(cyclic=False))
def test_any_plan_comes_in_an_order_in_which_it_can_be_done(shared: FileStore, needs: dict[str, list[str]]) -> None:
    found = read(shared, plan({name: {"needs": list(before)} for name, before in needs.items()})).request.plan
    done: set[str] = set()
    for each in found:
        assert set(each.depends_on) <= done
        done.add(each.task_id)
    assert {each.task_id: set(each.depends_on) for each in found} == {
        f"p.{name}": {f"p.{need}" for need in before} for name, before in needs.items()
    }


@pytest.mark.promise("plan-order")
@settings(deadline=None)
@given(graphs(cyclic=True))
def test_any_circle_is_refused_and_the_one_named_is_real(shared: FileStore, needs: dict[str, list[str]]) -> None:
    words = str(refusal(shared, plan({name: {"needs": before} for name, before in needs.items()})))
    named = re.search(r"tasks\.(\w+)\.needs: these wait for one another: (.*)$", words)
    assert named, words
    circle = named[2].split(" -> ")
    assert circle[0] == circle[-1] == named[1]
    assert len(circle) == len(set(circle)) + 1 > 2
    assert all(other in needs[one] for one, other in pairwise(circle))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
TASKS = st.dictionaries(st.sampled_from(TASK_KEYS) | st.text(max_size=3), VALUES, max_size=6)
FILES = st.fixed_dictionaries(
    {"tasks": st.dictionaries(st.text("abc", max_size=2) | st.text(max_size=3), TASKS | VALUES, max_size=4)},
    optional={"plan": VALUES, "description": VALUES, "labels": VALUES, "defaults": TASKS},
)


@settings(deadline=None, max_examples=200)
@given(FILES | VALUES)
def test_any_value_is_a_plan_or_refused(shared: FileStore, value: object) -> None:
    for text in (yaml.safe_dump(value), json.dumps(value, default=str)):
        _plan_or_refused(shared, text.encode())


FRAGMENTS = [
    "tasks:",
    "\n",
    "\n  ",
    "\n    ",
    "a: ",
    "needs: ",
    "[",
    "]",
    "{",
    "}",
    ", ",
    "- ",
    "? ",
    ": ",
    "&x ",
    "*x",
]
FRAGMENTS += [
    "!!str ",
    "!",
    "|",
    ">",
    "'",
    '"',
    "\\u",
    "\\x",
    "%YAML 1",
    "---",
    "...",
    "#",
    "<<: ",
    "\t",
    "\r",
    "~",
    "@",
]


@pytest.mark.promise("words-not-tracebacks")
@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=4), max_size=25).map("".join) | st.text() | st.binary())
def test_any_text_is_a_plan_or_refused(shared: FileStore, text: str | bytes) -> None:
    _plan_or_refused(shared, text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))


def _plan_or_refused(store: FileStore, data: bytes) -> None:
    with suppress(Invalid):
        found = read(store, data).request
        assert Envelope.model_validate_json(found.to_json()) == found
