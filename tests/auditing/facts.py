"""Facts of the embedded world as tables that a user might have."""

from unpact_lens.data.load import load_benchmark


def table(forget=12, seen=4, unseen=14):
    """Return rows with a question, an answer and a group."""
    bench = load_benchmark("builtin")
    groups = {"forget": bench.forget[:forget], "retain": bench.retain[:seen], "unseen": bench.unseen[:unseen]}
    return [
        {"question": q.prompt, "answer": q.answer, "fact": q.fact, "subject": q.subject, "group": group}
        for group, items in groups.items()
        for q in items
    ]
