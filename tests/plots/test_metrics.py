"""The table of scores shows the numbers of the frame."""

from tests.plots import studies


def test_every_row_of_the_frame_is_a_row_of_the_table():
    scores = studies.scores(near=0.5)
    frame = scores.to_frame()
    (table,) = scores.plot().data
    metric, group, value, before, n = table.cells["values"]
    assert list(metric) == list(frame["metric"])
    assert list(group) == list(frame["group"])
    near = list(frame["group"]).index("near")
    row = frame.iloc[near]
    assert value[near] == f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    assert before[near] == "1.000"
    assert n[near] == "40"
