"""From an import string to the flow: what is found, and what is said where nothing is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from engine import run
from engine._cli.imports import load_flow
from engine.dataflow import Dataflow
from tests.cli.project import Outcome, Project

FLOW = """\
flow = Dataflow("{id}")
s = op.input("in", flow, TestingSource(["{id}"]))
op.output("out", s, StdOutSink())
"""


def refused(project: Project, *argv: str) -> Outcome:
    """Run what must be refused before anything is run: with exit code 2 and one block."""
    outcome = project.call(run.main, *argv)
    assert outcome.code == 2
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("error: ") == 1
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    return outcome


# What is found


def test_the_default_name_is_flow(project: Project):
    """Also where the module has other flows."""
    project.write("flows.py", FLOW.format(id="wanted") + 'other = Dataflow("other")\n')
    assert load_flow("flows").flow_id == "wanted"


def test_an_only_flow_needs_no_name(project: Project):
    """Whatever it is called, and under however many names it stands."""
    project.write("flows.py", 'orders = also_orders = Dataflow("orders")\n')
    assert load_flow("flows").flow_id == "orders"


def test_a_name_chooses(project: Project):
    """Among several flows, one is chosen behind the colon."""
    project.write("flows.py", 'a = Dataflow("a")\nb = Dataflow("b")\n')
    assert load_flow("flows:b").flow_id == "b"


def test_a_function_makes_the_flow_of_literals(project: Project):
    """Called with the literals that the import string has."""
    project.write(
        "flows.py",
        """\
        def make(name="none", *, parts=()):
            return Dataflow(name + str(len(parts)))
        """,
    )
    assert load_flow('flows:make("a", parts=["x", "y"])').flow_id == "a2"
    assert load_flow("flows:make()").flow_id == "none0"


def test_a_function_named_without_parentheses_is_called_too(project: Project):
    """With no arguments, as Bytewax does."""
    project.write("flows.py", 'def flow():\n    return Dataflow("made")\n')
    assert load_flow("flows:flow").flow_id == "made"
    assert load_flow("flows").flow_id == "made"


def test_a_module_of_a_package(project: Project):
    """A dotted name, from the current folder."""
    project.write("shop/__init__.py", "", head="")
    project.write("shop/orders.py", FLOW.format(id="orders"))
    assert load_flow("shop.orders:flow").flow_id == "orders"


def test_the_current_folder_can_be_imported_from(project: Project, monkeypatch):
    """Also where Python was told to leave it out of the path."""
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(project.folder))])
    project.write("flows.py", FLOW.format(id="here"))
    assert load_flow("flows").flow_id == "here"


def test_a_file_imports_its_neighbours(project: Project):
    """A file's own folder is searched first, whatever the current one is and the path has."""
    project.write("helper.py", "name = 'stranger'\n", head="")
    project.write("deep/down/helper.py", "name = 'neighbour'\n", head="")
    sys.path.append(str(project.folder / "deep/down"))
    project.write("deep/down/flows.py", "import helper\nflow = Dataflow(helper.name)\n")
    assert load_flow("deep/down/flows.py").flow_id == "neighbour"
    assert load_flow(f"{project.folder}/deep/down/flows.py:flow").flow_id == "neighbour"


def test_a_file_may_have_any_name(project: Project):
    """One that is no Python name, has no suffix, or is that of a module in use."""
    project.write("my-flows.py", 'flow = Dataflow("dashed")\n')
    project.write("bin/flows", 'flow = Dataflow("bare")\n')
    project.write("json.py", 'flow = Dataflow("json")\n')
    assert load_flow("my-flows.py").flow_id == "dashed"
    assert load_flow("bin/flows").flow_id == "bare"
    assert load_flow("json.py").flow_id == "json"
    assert sys.modules["json"] is json


# What isn't


def test_an_unknown_module_names_those_near_it(project: Project):
    """First those of the current folder."""
    project.write("wordcount.py", FLOW.format(id="a"))
    outcome = refused(project, "wordcuont")
    assert "there is no module 'wordcuont'" in outcome.err
    assert "did you mean `wordcount`?" in outcome.err


def test_an_unknown_module_of_a_package_names_those_near_it(project: Project):
    """Those of that package."""
    project.write("shop/__init__.py", "", head="")
    project.write("shop/orders.py", FLOW.format(id="a"))
    assert "did you mean `shop.orders`?" in refused(project, "shop.order:flow").err


def test_an_unknown_package_is_named(project: Project):
    """The part of a dotted name that isn't there."""
    err = refused(project, "nosuchshop.orders").err
    assert "there is no module 'nosuchshop', of which 'nosuchshop.orders' would be a part" in err


def test_a_dot_for_a_colon_is_recognised(project: Project):
    """The last part is a flow of the module before it."""
    project.write("flows.py", FLOW.format(id="a"))
    assert "did you mean `flows:flow`?" in refused(project, "flows.flow").err


def test_a_missing_file_names_those_near_it(project: Project):
    """In the same folder, or the same name with its suffix."""
    project.write("flows/orders.py", FLOW.format(id="a"))
    assert "did you mean `flows/orders.py`?" in refused(project, "flows/order.py").err
    assert "did you mean `flows/orders.py`?" in refused(project, "flows/orders:flow").err
    assert "there is no file 'no/such.py'" in refused(project, "no/such.py").err


def test_a_folder_is_no_file(project: Project):
    """And is called what it is."""
    project.folder.joinpath("flows.py").mkdir()
    assert "'flows.py' is a folder" in refused(project, "flows.py").err


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux")
def test_a_file_that_cannot_be_read(project: Project):
    """The operating system's reason is given."""
    outcome = refused(project, "/proc/self/mem")
    assert "file '/proc/self/mem' can't be imported: OSError: " in outcome.err


def test_a_file_that_is_not_utf8(project: Project):
    """The error names file and byte."""
    project.folder.joinpath("latin.py").write_bytes(b'name = "caf\xe9"\n')
    for given in ("latin", "latin.py"):
        outcome = refused(project, given)
        assert "SyntaxError: (unicode error) 'utf-8' codec can't decode byte 0xe9" in outcome.err
        assert "at:     latin.py:1\n" in outcome.err


def test_a_file_with_nul_bytes(project: Project):
    """Is no Python, and nothing worse."""
    project.folder.joinpath("nul.py").write_bytes(b"a = 1\0\n")
    assert "null bytes" in refused(project, "nul.py").err


def test_a_syntax_error_is_shown_where_it_is(project: Project):
    """With the line, a mark under it, and who imports it where that's another file."""
    project.write("broken.py", "def f(:\n    pass\n", head="")
    project.write("flows.py", "import broken\n", head="")
    outcome = refused(project, "flows")
    assert "SyntaxError: invalid syntax" in outcome.err
    at = "  at:     broken.py:1\n              def f(:\n                    ^\n"
    assert at in outcome.err
    assert "  from:   flows.py:1\n              import broken\n" in outcome.err


def test_a_module_that_raises(project: Project):
    """The user's own line is shown, the engine's and Python's are not."""
    project.write("flows.py", "def f():\n    return 1 / 0\nf()\n", head="")
    outcome = refused(project, "flows")
    assert "module 'flows' can't be imported: ZeroDivisionError: division by zero" in outcome.err
    assert "  at:     flows.py:2, in f\n              return 1 / 0\n" in outcome.err
    assert "  from:   flows.py:3\n" in outcome.err
    assert "importlib" not in outcome.err


def test_a_module_that_lacks_another(project: Project):
    """Isn't taken for a module that is missing itself."""
    project.write("flows.py", "import nosuchlibrary.part\n", head="")
    outcome = refused(project, "flows")
    assert "module 'flows' can't be imported: ModuleNotFoundError" in outcome.err
    assert "is it installed for this Python" in outcome.err


def test_a_module_that_comes_from_bytewax(project: Project, monkeypatch):
    """Is told how to move."""
    monkeypatch.setitem(sys.modules, "bytewax", None)
    project.write("flows.py", "import bytewax.operators as op\n", head="")
    assert "replace `bytewax.` by `engine.`" in refused(project, "flows").err


def test_a_module_that_exits(project: Project):
    """A script without a main guard: its exit code isn't that of a run."""
    project.write("flows.py", "import sys\nsys.exit(0)\n", head="")
    assert "can't be imported: SystemExit: 0" in refused(project, "flows").err


def test_a_file_with_relative_imports(project: Project):
    """Is told to be run by the package's name."""
    project.write("shop/__init__.py", "", head="")
    project.write("shop/orders.py", "from . import other\n", head="")
    assert "`package.module:flow`" in refused(project, "shop/orders.py").err


def test_a_misspelt_flow_lists_the_flows(project: Project):
    """The near ones first."""
    project.write("flows.py", 'alpha = Dataflow("a")\norders = Dataflow("b")\n')
    outcome = refused(project, "flows:order")
    assert "'flows' has no 'order'" in outcome.err
    assert "its flows are `flows:orders` and `flows:alpha`" in outcome.err


def test_a_misspelt_function_is_recognised(project: Project):
    """In a module without flows of its own."""
    project.write("flows.py", 'def make_flow():\n    return Dataflow("a")\n')
    assert "did you mean `flows:make_flow()`?" in refused(project, "flows:makeflow()").err


def test_two_flows_need_a_choice(project: Project):
    """None is called `flow`: both are listed."""
    project.write("flows.py", 'a = Dataflow("a")\nb = Dataflow("b")\n')
    outcome = refused(project, "flows")
    assert "'flows' has several flows and none is called 'flow'" in outcome.err
    assert "choose one: `flows:a` or `flows:b`" in outcome.err


def test_no_flow_at_all(project: Project):
    """The file is named, because it may not be the one that was meant."""
    project.write("flows.py", "x = 1\n")
    assert (
        f"there is no flow in 'flows' ({project.folder}/flows.py)" in refused(project, "flows").err
    )
    assert "has no 'y', and no flows at all" in refused(project, "flows:y").err


@pytest.mark.parametrize("given", ["flows", "flows:flow"])
def test_what_is_no_dataflow(given: str, project: Project):
    """Its type is named."""
    project.write("flows.py", "flow = []\n")
    assert "'flows:flow' is not a `Dataflow`; it is an object of type `list`" in (
        refused(project, given).err
    )


def test_what_cannot_be_called(project: Project):
    """A flow with parentheses behind it."""
    project.write("flows.py", 'flow = Dataflow("a")\n')
    assert "flows:flow can't be called" in refused(project, "flows:flow()").err


def test_a_function_that_returns_something_else(project: Project):
    """Such as nothing."""
    project.write("flows.py", "def make():\n    flow = Dataflow('a')\n")
    outcome = refused(project, "flows:make()")
    assert "is not a `Dataflow`; it is an object of type `NoneType`" in outcome.err
    assert "return the flow" in outcome.err


def test_a_function_that_raises(project: Project):
    """In it, or because of the arguments it was given."""
    project.write("flows.py", "def make(name):\n    return Dataflow(name + 1)\n")
    assert "at:     flows.py:9, in make\n" in refused(project, "flows:make('a')").err
    outcome = refused(project, "flows:make()")
    assert "the function of 'flows:make()' raised an exception: TypeError: make()" in outcome.err


def test_a_failed_import_leaves_no_module_behind(project: Project):
    """The next attempt imports anew."""
    path = project.write("half-done.py", "raise ValueError\n")
    refused(project, "half-done.py")
    assert "half-done" not in sys.modules
    path.write_text("from engine.dataflow import Dataflow\nflow = Dataflow('now')\n")
    assert isinstance(load_flow("half-done.py"), Dataflow)
