from hypothesis import given
from hypothesis import strategies as st

from primitives.kv import MemoryStore

keys = st.binary(max_size=3)
batches = st.lists(st.dictionaries(keys, st.none() | st.binary(max_size=2)), max_size=8)


@given(batches, keys, st.none() | keys, st.booleans())
def test_the_memory_store_is_a_sorted_dictionary(batches, prefix, start, reverse):
    store, model = MemoryStore(), {}
    for batch in batches:
        store.write(batch)
        model.update(batch)
    model = {key: value for key, value in model.items() if value is not None}
    assert all(store.get(key) == model.get(key) for key in [*model, prefix])
    expected = [
        (key, value)
        for key, value in sorted(model.items(), reverse=reverse)
        if key.startswith(prefix)
        and (start is None or (key <= start if reverse else key >= start))
    ]
    assert list(store.iterate(prefix, start=start, reverse=reverse)) == expected
