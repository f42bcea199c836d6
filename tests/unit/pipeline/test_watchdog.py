from pipeline.records import Partition
from pipeline.watchdog import Watchdog

A, B = Partition("news", 0), Partition("news", 1)


def watchdog() -> Watchdog:
    return Watchdog(silence_s=10.0, stall_s=5.0)


def test_a_partition_that_is_answered_but_stands_still_is_stuck() -> None:
    dog = watchdog()
    for _ in range(3):
        dog.observe(A, polled_s=2.0, progressed=False, heard=True, behind=True)
        dog.observe(B, polled_s=2.0, progressed=True, heard=True, behind=True)
    assert dog.stuck() == (A,) and dog.silent() == ()


def test_a_partition_at_the_end_of_its_log_is_neither() -> None:
    dog = watchdog()
    for _ in range(100):
        dog.observe(A, polled_s=2.0, progressed=False, heard=True, behind=False)
    assert dog.stuck() == () and dog.silent() == ()


def test_a_partition_without_answers_is_silent() -> None:
    dog = watchdog()
    for _ in range(5):
        dog.observe(A, polled_s=2.0, progressed=False, heard=False, behind=False)
    assert dog.silent() == (A,) and dog.stuck() == ()


def test_rebuilds_in_vain_are_counted_until_there_is_progress() -> None:
    dog = watchdog()
    for rebuilds in (1, 2):
        dog.observe(A, polled_s=20.0, progressed=False, heard=False, behind=True)
        assert dog.rebuilt(dog.silent()) == rebuilds
        assert dog.silent() == ()
    dog.observe(A, polled_s=1.0, progressed=True, heard=True, behind=True)
    dog.observe(A, polled_s=20.0, progressed=False, heard=False, behind=True)
    assert dog.rebuilt(dog.silent()) == 1


def test_waiting_for_a_transaction_is_excused() -> None:
    dog = watchdog()
    dog.observe(A, polled_s=6.0, progressed=False, heard=True, behind=True)
    dog.excuse(A)
    assert dog.stuck() == ()
