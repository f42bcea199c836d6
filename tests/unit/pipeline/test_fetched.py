from pipeline.fetched import FairBuffer, Gap, GapReason, Identified, Item, Joined, Rewind, end_of, topic_ids_after
from pipeline.records import Partition, Record

A, B = Partition("news", 0), Partition("news", 1)


def record(partition: Partition, offset: int, size_bytes: int = 10) -> Record:
    return Record(partition=partition, offset=offset, timestamp_ms=0, value=b"x" * size_bytes)


def test_a_backlog_in_one_partition_does_not_hide_the_news_in_another() -> None:
    buffer = FairBuffer(share_bytes=1 << 20)
    for offset in range(100):
        buffer.put(record(A, offset))
    buffer.put(record(B, 0))
    taken = buffer.take(max_bytes=3 * 266)
    assert [(item.partition, end_of(item)) for item in taken] == [(A, 1), (B, 1), (A, 2)]


def test_order_inside_a_partition_is_kept_with_its_gaps() -> None:
    buffer = FairBuffer(share_bytes=1 << 20)
    items: list[Item] = [record(A, 0), Gap(partition=A, first=1, end=3, reason=GapReason.ABSENT), record(A, 3)]
    for item in items:
        buffer.put(item)
    assert buffer.take(max_bytes=1 << 20) == tuple(items)
    assert buffer.empty and buffer.size_bytes == 0


def test_bounded_but_a_record_larger_than_all_bounds_still_comes() -> None:
    buffer = FairBuffer(share_bytes=100)
    buffer.put(record(A, 0, size_bytes=5000))
    buffer.put(record(A, 1, size_bytes=5000))
    assert buffer.full(A) and not buffer.full(B)
    assert [end_of(item) for item in buffer.take(max_bytes=1)] == [1]
    assert [end_of(item) for item in buffer.take(max_bytes=1)] == [2]


def test_what_is_no_record_does_not_count_as_one() -> None:
    buffer = FairBuffer(share_bytes=100)
    buffer.put(Joined(partition=A, position=0, topic_id="first"))
    buffer.put(record(A, 0, size_bytes=5000))
    assert [end_of(item) for item in buffer.take(max_bytes=1)] == [0, 1]


def test_where_a_position_stands_after_each_kind_of_item() -> None:
    assert end_of(Rewind(partition=A, passed=9, position=0, topic_id="second", reason="made anew")) == 0
    assert end_of(Joined(partition=B, position=5, topic_id="first")) == 5
    assert end_of(Identified(partition=B, position=5, topic_id="first")) == 5
    assert end_of(Gap(partition=A, first=3, end=5, reason=GapReason.LOST)) == 5


def test_the_topics_of_positions_are_what_the_items_said_last() -> None:
    items = [
        Joined(partition=A, position=0, topic_id="first"),
        Joined(partition=B, position=0, topic_id=None),
        record(A, 0),
        Rewind(partition=A, passed=1, position=0, topic_id="second", reason="made anew"),
    ]
    assert topic_ids_after({}, items) == {"news/0": "second"}
    assert topic_ids_after({"news/0": "first"}, [Identified(partition=B, position=0, topic_id="first")]) == {
        "news/0": "first",
        "news/1": "first",
    }
