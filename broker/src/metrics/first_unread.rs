//! When the first unread batch of each lagging consumer was produced, for the lag in seconds.
//!
//! Asked once per scrape with every place at which somebody lags. A place's time does not change while nobody commits,
//! however much is appended, so it is kept until the place is asked for no more; others are looked up, so many and so
//! many bytes per scrape at the most. Who is left out comes first at the next scrape. Pure: the log is read by a
//! closure.

use std::collections::HashMap;
use std::hash::Hash;

/// Look-ups of one scrape. Each is a seek and one batch: some microseconds from memory, a read from disk if cold.
const MOST_LOOK_UPS: usize = 1_000;
/// Bytes read by one scrape, but for the last batch.
const MOST_BYTES: usize = 16 << 20;

/// What a look-up found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Looked {
    /// The time, in milliseconds; none if the producer gave none.
    pub(crate) timestamp: Option<i64>,
    /// What was read for it.
    pub(crate) bytes: usize,
}

/// The times known so far.
#[derive(Debug)]
pub(crate) struct FirstUnread<K> {
    known: HashMap<K, Option<i64>>,
    /// Where among the unknown places the next scrape begins.
    turn: usize,
}

impl<K> Default for FirstUnread<K> {
    fn default() -> Self {
        Self {
            known: HashMap::new(),
            turn: 0,
        }
    }
}

impl<K: Clone + Eq + Hash> FirstUnread<K> {
    /// Keeps what is `wanted`, forgets the rest, and looks up what is not known, as far as the bounds allow.
    /// `None` from `look_up` is tried again at the next scrape.
    pub(crate) fn refresh(&mut self, wanted: &[K], mut look_up: impl FnMut(&K) -> Option<Looked>) {
        let mut before = std::mem::take(&mut self.known);
        let mut missing = Vec::new();
        for place in wanted {
            match before.remove_entry(place) {
                Some((place, time)) => {
                    self.known.insert(place, time);
                }
                None if !self.known.contains_key(place) => missing.push(place),
                None => {}
            }
        }
        if missing.is_empty() {
            return;
        }
        let begin = self.turn % missing.len();
        missing.rotate_left(begin);
        let (mut looked, mut bytes) = (0, 0);
        for place in missing {
            if looked >= MOST_LOOK_UPS || bytes >= MOST_BYTES {
                break;
            }
            if self.known.contains_key(place) {
                continue;
            }
            looked += 1;
            if let Some(found) = look_up(place) {
                bytes += found.bytes;
                self.known.insert(place.clone(), found.timestamp);
            }
        }
        self.turn = begin.wrapping_add(looked);
    }

    /// The time of a place, if it is known and there is one.
    pub(crate) fn time(&self, place: &K) -> Option<i64> {
        *self.known.get(place)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(timestamp: i64) -> Option<Looked> {
        Some(Looked {
            timestamp: Some(timestamp),
            bytes: 1,
        })
    }

    #[test]
    fn a_place_is_looked_up_once_while_it_is_wanted() {
        let mut times = FirstUnread::default();
        let mut looked = Vec::new();
        for _ in 0..3 {
            times.refresh(&[1, 2, 1], |place| {
                looked.push(*place);
                found(10 * place)
            });
        }
        assert_eq!(looked, [1, 2]);
        assert_eq!((times.time(&1), times.time(&2)), (Some(10), Some(20)));
        times.refresh(&[2], |_| panic!("2 is known"));
        assert_eq!(times.time(&1), None);
        times.refresh(&[1, 2], |place| found(*place));
        assert_eq!((times.time(&1), times.time(&2)), (Some(1), Some(20)));
    }

    #[test]
    fn what_cannot_be_read_now_is_tried_again_and_what_has_no_time_is_not() {
        let mut times = FirstUnread::default();
        times.refresh(&[1], |_| None);
        assert_eq!(times.time(&1), None);
        let no_time = Looked {
            timestamp: None,
            bytes: 1,
        };
        times.refresh(&[1], |_| Some(no_time));
        times.refresh(&[1], |_| panic!("it is known to have none"));
        assert_eq!(times.time(&1), None);
    }

    #[test]
    fn work_is_bounded_and_everybody_has_a_turn() {
        let places: Vec<i64> = (0..5 * MOST_LOOK_UPS as i64 / 2).collect();
        let mut times = FirstUnread::default();
        for scrape in 1..=3 {
            let mut looked = 0;
            times.refresh(&places, |place| {
                looked += 1;
                found(*place)
            });
            assert!(looked <= MOST_LOOK_UPS, "{looked}");
            let known = places
                .iter()
                .filter(|place| times.time(place).is_some())
                .count();
            assert_eq!(known, places.len().min(scrape * MOST_LOOK_UPS));
        }
    }

    #[test]
    fn places_that_move_all_the_time_have_their_turn_too() {
        // Nothing is ever known again: each scrape finds all partitions at a new offset.
        let partitions = 5 * MOST_LOOK_UPS as i64 / 2;
        let mut times = FirstUnread::default();
        let mut seen = std::collections::HashSet::new();
        for offset in 0..3 {
            let places: Vec<(i64, i64)> = (0..partitions).map(|at| (at, offset)).collect();
            times.refresh(&places, |(at, _)| {
                seen.insert(*at);
                found(*at)
            });
        }
        assert_eq!(seen.len() as i64, partitions);
    }

    #[test]
    fn large_batches_end_a_scrapes_work_early() {
        let mut times = FirstUnread::default();
        let mut looked = 0;
        times.refresh(&[1, 2, 3, 4], |_| {
            looked += 1;
            Some(Looked {
                timestamp: Some(1),
                bytes: MOST_BYTES / 2,
            })
        });
        assert_eq!(looked, 2);
    }
}
