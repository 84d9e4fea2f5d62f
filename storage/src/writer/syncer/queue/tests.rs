//! How long syncs are held back, what is enough, and whose they are.

use super::*;

const MICROS: fn(u64) -> Duration = Duration::from_micros;

#[test]
fn a_sync_is_held_back_for_half_of_the_last_one_and_never_for_long() {
    let patience = |micros| {
        let took = MICROS(micros);
        Last { wanted: 3, took }.patience()
    };
    assert_eq!(patience(0), Duration::ZERO);
    assert_eq!(patience(200), MICROS(100));
    assert_eq!(patience(20_000), MOST_PATIENCE);
}

#[test]
fn a_sync_after_many_is_held_back_for_as_long_as_the_last_one() {
    let took = MICROS(200);
    let patience = |wanted| Last { wanted, took }.patience();
    assert_eq!(patience(MANY - 1), MICROS(100));
    assert_eq!(patience(MANY), took);
}

#[test]
fn the_writer_syncs_what_is_little_where_syncs_are_short_and_the_syncer_idle() {
    let little = |took, syncing, closing, bytes| {
        let mut waiting = Waiting::new();
        (waiting.took, waiting.syncing) = (took, syncing);
        (waiting.closing, waiting.bytes) = (closing, bytes);
        waiting.is_little()
    };
    assert!(little(SHORT_SYNC, false, false, ENOUGH_BYTES - 1));
    assert!(!little(SHORT_SYNC, false, false, ENOUGH_BYTES));
    assert!(!little(SHORT_SYNC, false, true, 1));
    assert!(!little(SHORT_SYNC, true, false, 1));
    assert!(!little(SHORT_SYNC + MICROS(1), false, false, 1));
    assert!(!little(Duration::ZERO, false, false, 1), "nobody knows");
}

#[test]
fn what_the_writer_takes_does_not_change_when_the_syncer_is_due() {
    let mut waiting = Waiting::new();
    assert!(waiting.due_within(MICROS(10), MICROS(500)));
    waiting.wanted = 1;
    let round = waiting.take_little(MICROS(20)).expect("one is enough");
    assert_eq!((round.woken, round.wanted), (Woken::Wanted, 1));
    assert_eq!(waiting.deadline, Some(MICROS(510)));
}

#[test]
fn what_is_due_while_more_is_waited_for_ends_the_wait() {
    let mut waiting = Waiting::new();
    let took = MICROS(200);
    waiting.synced(Last { wanted: 5, took });
    assert_eq!(waiting.enough, 5);
    assert!(waiting.due_within(MICROS(10), MICROS(0)));
    let round = waiting.take(MICROS(10)).expect("it is due");
    assert_eq!((round.woken, round.wanted), (Woken::Due, 0));
    // The syncer may find nothing to sync, and waits for the next one then.
    waiting.wanted = 1;
    assert!(waiting.is_enough(), "nobody looks at it in time");
}

#[test]
fn as_many_as_there_were_or_much_is_enough() {
    let mut waiting = Waiting::new();
    (waiting.wanted, waiting.enough) = (2, 3);
    assert!(waiting.take(Duration::ZERO).is_none());
    waiting.bytes = ENOUGH_BYTES;
    assert!(waiting.is_enough());
    (waiting.bytes, waiting.wanted) = (0, 3);
    let round = waiting.take(Duration::ZERO).expect("it is enough");
    assert_eq!((round.woken, round.wanted), (Woken::Wanted, 3));
    assert!(waiting.take(Duration::ZERO).is_none(), "it was taken");
}

#[test]
fn what_nobody_waits_for_is_due_in_time_and_somebody_waiting_goes_with_it() {
    let mut waiting = Waiting::new();
    assert!(waiting.due_within(MICROS(10), MICROS(500)));
    assert!(!waiting.due_within(MICROS(20), MICROS(500)));
    assert!(waiting.take(MICROS(509)).is_none());
    let round = waiting.take(MICROS(510)).expect("it is due");
    assert_eq!(round.woken, Woken::Due);
    assert!(waiting.due_within(MICROS(600), MICROS(500)));
    (waiting.wanted, waiting.enough) = (1, 9);
    let round = waiting.take(MICROS(1_100)).expect("it is due");
    assert_eq!((round.woken, round.wanted), (Woken::Wanted, 1));
}
