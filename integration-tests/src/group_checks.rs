//! What holds for the members of a group whatever happened: called by `groups.rs` when a story has ended.

use std::collections::{BTreeMap, BTreeSet};

use crate::groups::PARTITIONS;
use crate::member::{Event, Place, What, owned};

/// A member reads only partitions it owns at that moment.
pub fn check_own_records(name: &str, events: &[Event]) {
    for (count, event) in events.iter().enumerate() {
        if let What::Record { place, .. } = event.what {
            let owned = owned(&events[..count]).unwrap_or_default();
            assert!(
                owned.contains(&place.0),
                "{name} read {place:?} and owned {owned:?}"
            );
        }
    }
}

/// All records are there, each once, and the offsets of each partition have no gap.
pub fn check_log(log: &BTreeMap<Place, usize>, sent: usize) {
    let lying: BTreeSet<usize> = log.values().copied().collect();
    assert_eq!((lying.len(), log.len()), (sent, sent), "records in the log");
    let mut next = [0; PARTITIONS as usize];
    for &(partition, offset) in log.keys() {
        let next = &mut next[partition as usize];
        assert_eq!(offset, *next, "next offset of partition {partition}");
        *next += 1;
    }
    assert!(next.iter().all(|&end| end > 0), "ends: {next:?}");
}

/// No partition has two owners at a time. What a member owned ends with its revocation, its goodbye, or its last word.
pub fn check_ownership(members: &[(&str, Vec<Event>)]) {
    let mut spans: Vec<(i32, i64, i64, &str)> = Vec::new();
    for (name, events) in members {
        let mut since: BTreeMap<i32, i64> = BTreeMap::new();
        for event in events {
            let Some(at) = event.at else { return };
            match &event.what {
                What::Assigned(given) => {
                    since.extend(given.iter().map(|&each| (each, at)));
                }
                What::Revoked(taken) => {
                    let ended = taken
                        .iter()
                        .filter_map(|each| Some((*each, since.remove(each)?)));
                    spans.extend(ended.map(|(each, from)| (each, from, at, *name)));
                }
                What::Leaving => {
                    let ended = std::mem::take(&mut since).into_iter();
                    spans.extend(ended.map(|(each, from)| (each, from, at, *name)));
                }
                _ => (),
            }
        }
        if let Some(at) = events.last().and_then(|event| event.at) {
            spans.extend(
                since
                    .into_iter()
                    .map(|(each, from)| (each, from, at, *name)),
            );
        }
    }
    spans.sort_unstable();
    for pair in spans.windows(2) {
        let [(partition, from, until, first), (next, begin, _, second)] = pair else {
            unreachable!("windows of two");
        };
        assert!(
            partition != next || begin >= until || first == second,
            "partition {partition} owned by {first} from {from} until {until}, and by {second} from {begin} on"
        );
    }
}

/// The checks themselves, on histories made by hand: a check that finds nothing would let everything pass.
#[cfg(test)]
mod tests {
    use super::*;

    fn event(at: i64, what: What) -> Event {
        let at = Some(at);
        Event { at, what }
    }

    fn assigned(at: i64, partitions: &[i32]) -> Event {
        event(at, What::Assigned(partitions.iter().copied().collect()))
    }

    fn revoked(at: i64, partitions: &[i32]) -> Event {
        event(at, What::Revoked(partitions.iter().copied().collect()))
    }

    fn record(at: i64, place: Place) -> Event {
        let (key, value) = (None, String::new());
        event(at, What::Record { place, key, value })
    }

    #[test]
    fn partitions_may_be_handed_over_left_and_taken_from_the_dead() {
        let a = vec![assigned(1, &[0, 1]), revoked(5, &[1]), assigned(20, &[1])];
        let b = vec![
            assigned(5, &[1]),
            event(9, What::Leaving),
            event(30, What::Left),
        ];
        let c = vec![assigned(10, &[1]), record(12, (1, 0))];
        check_ownership(&[("A", a), ("B", b), ("C", c)]);
    }

    #[test]
    #[should_panic(expected = "partition 1 owned by A")]
    fn a_partition_owned_by_two_is_found() {
        let a = vec![assigned(1, &[0, 1]), revoked(6, &[1])];
        check_ownership(&[("A", a), ("B", vec![assigned(5, &[1])])]);
    }

    #[test]
    #[should_panic(expected = "read (1, 7) and owned {0}")]
    fn a_record_of_a_partition_that_was_given_away_is_found() {
        let events = [assigned(1, &[0, 1]), revoked(2, &[1]), record(3, (1, 7))];
        check_own_records("A", &events);
    }

    #[test]
    #[should_panic(expected = "next offset of partition 2")]
    fn a_gap_in_a_log_is_found() {
        let places = [(0, 0), (1, 0), (2, 0), (2, 2), (3, 0)];
        check_log(&places.into_iter().zip(0..).collect(), places.len());
    }

    #[test]
    #[should_panic(expected = "records in the log")]
    fn a_record_that_lies_in_two_places_is_found() {
        let places = [(0, 0), (1, 0), (2, 0), (3, 0)];
        check_log(
            &places.into_iter().zip([0, 1, 2, 2]).collect(),
            places.len(),
        );
    }
}
