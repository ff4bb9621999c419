"""The registry: names without imports, plugins of all kinds, and who may take a name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from strangers import GOOD, Install, entry_point, installed, methods, new_registry

from bench.errors import PluginError, UnknownNameError
from bench.method import Method, MethodConfig
from bench.registry import Registry

__all__ = ["installed", "methods"]
BUILT_IN = {"resnet", "sgad", "blockdrop"}


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[..., Path]:
    def write(source: str, name: str = "mine.py") -> Path:
        path = tmp_path / name
        path.write_text(source)
        return path

    return write


def test_the_built_in_methods_are_found_as_entry_points(methods: Registry[Method]) -> None:
    assert set(methods.names()) >= BUILT_IN
    assert list(methods) == methods.names() == sorted(methods.names())


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_a_built_in_method_is_loaded_by_its_name(name: str, methods: Registry[Method]) -> None:
    found = methods.get(name)
    assert issubclass(found, Method) and found.name == name
    assert methods.get(name) is found


def test_asking_for_names_imports_no_method() -> None:
    script = (
        "import sys\n"
        "from bench.method import METHODS\n"
        "assert 'sgad' in METHODS.names()\n"
        "rooms = ('methods', 'baselines')\n"
        "print([m for m in sys.modules if m.partition('.')[0] in rooms])\n"
        "METHODS.get('sgad')\n"
        "print(sorted(m for m in sys.modules if m.partition('.')[0] in rooms and '.' in m))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[]", "['methods.sgad']"]


def test_an_unknown_name_is_refused_with_near_names(methods: Registry[Method]) -> None:
    with pytest.raises(UnknownNameError, match="Unknown method 'sgda'") as caught:
        methods.get("sgda")
    assert "'sgad'" in str(caught.value)


def test_a_file_given_as_a_name_is_answered_with_the_option_for_files(
    methods: Registry[Method],
) -> None:
    with pytest.raises(UnknownNameError) as caught:
        methods.get("mine/gates.py")
    assert "--plugin FILE" in (caught.value.hint or "")


def test_a_good_plugin_file_is_registered(
    methods: Registry[Method], plugin: Callable[..., Path]
) -> None:
    assert methods.add_file(plugin(GOOD + "\nAlias = Quiet\n")) == ["quiet"]
    assert methods.get("quiet").__module__ == "bench_plugin_mine"
    assert set(methods.names()) >= {*BUILT_IN, "quiet"}
    assert "quiet" not in new_registry().names()
    assert [file.name for file in methods.files] == ["mine.py"] and methods.files[0].is_absolute()


def test_a_plugin_file_may_define_several_methods_and_a_base_of_its_own(
    methods: Registry[Method], plugin: Callable[..., Path]
) -> None:
    second = '\n\nclass Base(Method):\n    pass\n\n\nclass Silent(Quiet):\n    name = "silent"\n'
    assert methods.add_file(plugin(GOOD + second)) == ["quiet", "silent"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def broken(:\n", "SyntaxError"),
        ("import no_such_module_anywhere\n", "no_such_module_anywhere"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("raise SystemExit('bye')\n", "SystemExit: bye"),
        ("x = 1\n", "defines no complete method"),
        ("from bench.method import Method\n", "defines no complete method"),
        ("from baselines.resnet import DenseResNet\n", "defines no complete method"),
        (GOOD.replace("def build", "def bulid"), "no complete method: Quiet lacks build"),
        (GOOD.replace('name = "quiet"', "pass"), "Quiet has no `name`"),
        (GOOD.replace('name = "quiet"', "name = 7"), "Quiet has no `name`"),
        (GOOD.replace("tags =", "labels ="), "Quiet lacks tags"),
        (GOOD.replace("reference =", "source ="), "Quiet lacks reference"),
        (GOOD.replace('"quiet"', '"sgad"'), "the name 'sgad' is taken"),
    ],
)
def test_a_plugin_file_that_cannot_serve_is_refused_in_words(
    source: str, said: str, methods: Registry[Method], plugin: Callable[..., Path]
) -> None:
    path = plugin(source)
    with pytest.raises(PluginError) as caught:
        methods.add_file(path)
    assert said in caught.value.message
    assert str(path) in caught.value.message
    assert methods.names() == new_registry().names()
    assert methods.get("sgad").__module__ == "methods.sgad"


def test_a_plugin_that_failed_to_import_leaves_no_module_behind(
    methods: Registry[Method], plugin: Callable[..., Path]
) -> None:
    with pytest.raises(PluginError):
        methods.add_file(plugin("1 / 0\n", "failing.py"))
    assert "bench_plugin_failing" not in sys.modules


@pytest.mark.parametrize("name", ["absent.py", "notes.txt", "folder"])
def test_what_is_not_a_python_file_is_refused(
    name: str, methods: Registry[Method], tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "folder").mkdir()
    with pytest.raises(PluginError, match=f"{name} is not a Python file"):
        methods.add_file(tmp_path / name)


def test_two_plugins_cannot_share_a_name(
    methods: Registry[Method], plugin: Callable[..., Path]
) -> None:
    methods.add_file(plugin(GOOD, "one.py"))
    first = methods.get("quiet")
    with pytest.raises(PluginError, match=r"two\.py: the name 'quiet' is taken"):
        methods.add_file(plugin(GOOD, "two.py"))
    assert methods.get("quiet") is first


@pytest.mark.parametrize("stranger_first", [True, False])
def test_an_installed_stranger_cannot_take_the_name_of_a_built_in(
    stranger_first: bool,
    methods: Registry[Method],
    installed: Install,
) -> None:
    stranger = entry_point("sgad", "no_such_module_anywhere:Sgad", "evil-methods")
    built_in = entry_point("sgad", "methods.sgad:Sgad", "skipbench")
    installed(*((stranger, built_in) if stranger_first else (built_in, stranger)))
    assert methods.names() == ["sgad"]
    assert methods.get("sgad").__module__ == "methods.sgad"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("other", "no_such_module_anywhere:X", "cannot be imported: ModuleNotFoundError"),
        ("other", "methods.sgad:NoSuchClass", "cannot be imported: AttributeError"),
        ("other", "methods.sgad:Sgad", "registered as 'other' but calls itself 'sgad'"),
        ("other", "methods.sgad:SgadConfig", "not a complete subclass of bench.method.Method"),
        ("other", "bench.method:Method", "not a complete subclass of bench.method.Method"),
        ("other", "methods.sgad:expected_drop", "not a complete subclass"),
    ],
)
def test_an_installed_plugin_that_breaks_the_contract_is_refused_when_asked_for(
    name: str,
    value: str,
    said: str,
    methods: Registry[Method],
    installed: Install,
) -> None:
    installed(entry_point(name, value, "third-party"))
    assert methods.names() == [name]
    with pytest.raises(PluginError) as caught:
        methods.get(name)
    assert said in caught.value.message
    if "imported" in said:
        assert "'third-party'" in (caught.value.hint or "")


def test_a_method_that_is_generic_in_its_settings_has_them_as_its_config() -> None:
    class Settings(MethodConfig):
        size: int = 1

    class Sized(Method[Settings]): ...

    class Derived(Sized): ...

    class Plain(Method): ...

    assert (Sized.Config, Derived.Config, Plain.Config) == (Settings, Settings, MethodConfig)
