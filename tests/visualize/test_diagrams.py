"""Flows and plans as text of drawing tools: what is drawn, and that no name breaks the syntax."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine.operators as op
from engine.dataflow import Dataflow
from engine.errors import FlowError
from engine.testing import TestingSource
from engine.visualize import to_mermaid, to_plantuml
from tests.visualize.flows import counting, orders


def test_a_flow_in_mermaid():
    """A box for each step that the user named, an arrow for each stream, names where they help."""
    assert to_mermaid(orders()) == (
        """\
flowchart TD
subgraph flow["orders"]
    s0(["lines<br>(input)"])
    s1(["rates<br>(input)"])
    s2["parted<br>(branch)"]
    s3["loud<br>(shout)"]
    s4["left<br>(key_on)"]
    s5["right<br>(key_on)"]
    s6["both<br>(join)"]
    s7["all<br>(merge)"]
    s8(["out<br>(output)"])
end
s0 --> s2
s2 -->|"trues"| s3
s2 -->|"falses"| s4
s1 --> s5
s4 -->|"side 0"| s6
s5 -->|"side 1"| s6
s6 --> s7
s3 --> s7
s7 --> s8
"""
    )


def test_a_flow_in_plantuml():
    """The same boxes and arrows."""
    text = to_plantuml(orders())
    assert text.startswith("@startuml\ntitle orders\n")
    assert text.endswith("\n@enduml\n")
    assert 'storage "lines\\n(input)" as s0\n' in text
    assert 'rectangle "loud\\n(shout)" as s3\n' in text
    assert "\ns2 --> s3 : trues\n" in text
    assert "\ns4 --> s6 : side 0\n" in text


def test_steps_within_steps():
    """Frames around what they are made of, arrows from box to box through the frames."""
    text = to_mermaid(orders(), recursive=True)
    names = dict(re.findall(r'(s\d+)\(?\["(.*?)"\]', text))
    assert 'subgraph g0["loud (shout)"]' in text
    arrows = [line.split() for line in text.splitlines() if "--" in line]
    before: dict[str, set[str]] = {}
    for arrow in arrows:
        before.setdefault(arrow[-1], set()).add(arrow[0])
    # Each side of the join has its own way in, past the frame they share.
    labelling = re.findall(r"label_(\d).*?(s\d+)\[", text, re.DOTALL)
    assert len(labelling) == 2
    fed_by = [before[node] for _, node in labelling]
    assert all(len(feeders) == 1 for feeders in fed_by)
    assert fed_by[0] != fed_by[1]
    assert set(before) == set(names) - {n for n, name in names.items() if "(input)" in name}


def test_a_plan_in_mermaid():
    """A frame for each stage and each shared loop; thick arrows where records change workers."""
    assert to_mermaid(counting(), workers=2) == (
        """\
flowchart TD
%% With one worker there would be no exchanges: all records would stay on it.
subgraph flow["counting, planned for 2 workers"]
    subgraph stage0["stage 0"]
        s0(["words<br>(input)"])
        subgraph loop0x1["one loop"]
            s1["lower<br>(map)"]
            s2["long<br>(filter)"]
            s3["key<br>(key_on)"]
        end
        s4(["look<br>(inspect)"])
    end
    subgraph stage1["stage 1"]
        subgraph loop1x0["one loop"]
            s5["count<br>(stateful_map)"]
            s6["text<br>(map)"]
        end
        s7(["out<br>(output)"])
    end
end
s0 --> s1
s1 --> s2
s2 --> s3
s3 ==>|"by key"| s5
s5 --> s6
s6 --> s7
s0 --> s4
"""
    )


def test_a_plan_in_plantuml():
    """Exchanges are bold, and the note is a caption."""
    text = to_plantuml(counting(), workers=2)
    assert "title counting, planned for 2 workers\n" in text
    assert 'frame "stage 0" as stage0 {\n' in text
    assert re.search(r"\ns3 -\[bold\]-> s\d : by key\n", text)
    assert "\ncaption With one worker there would be no exchanges" in text


def test_an_edge_between_stages_that_stays_on_its_worker():
    """Is a channel: its records wait there until barriers are aligned."""
    flow = Dataflow("diamond")
    s = op.input("in", flow, TestingSource([("a", 1)]))
    counted = op.stateful_map("count", s, lambda n, _: (n, n))
    op.inspect("look", op.merge("both", s, counted))
    assert '-->|"channel"|' in to_mermaid(flow, workers=2)


def test_other_routes():
    """`redistribute` deals records out."""
    flow = Dataflow("dealt")
    s = op.input("in", flow, TestingSource([1]))
    op.inspect("look", op.redistribute("deal", s))
    assert '==>|"dealt evenly"|' in to_mermaid(flow, workers=2)


def test_one_worker_has_no_exchange():
    """There is no thick arrow, and the note says why."""
    text = to_mermaid(counting(), workers=1)
    assert "==>" not in text
    assert "planned for 1 worker" in text
    assert "no exchanges" in text


def test_a_flow_without_output_can_be_drawn_but_not_planned():
    """As it can't be run."""
    flow = Dataflow("half")
    op.input("in", flow, TestingSource([1]))
    assert "in<br>(input)" in to_mermaid(flow)
    with pytest.raises(FlowError, match="no output"):
        to_mermaid(flow, workers=2)


@given(st.text(min_size=1).filter(lambda name: "." not in name and "\0" not in name))
def test_no_name_breaks_out_of_its_box(name: str):
    """Whatever a user calls a flow and a step: quotes, brackets, arrows, line ends, markup."""
    flow = Dataflow(name)
    s = op.input(name, flow, TestingSource([1]))
    op.inspect(f"{name}2", s)
    node = r"    s\d\(?\[\"[\w #;(),:<br>-]*\"\]\)?"
    mermaid = rf'flowchart TD\nsubgraph flow\["[^"\n]*"\]\n{node}\n{node}\nend\ns0 --> s1\n'
    assert re.fullmatch(mermaid, to_mermaid(flow))
    box = r'storage "[\w <>+(),:\\-]*" as s\d'
    other = r'(storage|rectangle) "[\w <>+(),:\\-]*" as s\d'
    plantuml = rf"@startuml\ntitle [^\n]*\n{box}\n{other}\ns0 --> s1\n@enduml\n"
    assert re.fullmatch(plantuml, to_plantuml(flow))
