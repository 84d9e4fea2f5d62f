//! Member ids that were given to clients who have not come back with them (KIP-394). Called by the state machine;
//! decides nothing. Soft state, lost by a restart, and all that exists of a group whose id somebody made up: small
//! for one id, and handed on as a whole when a group comes to life, whatever their number.
//!
//! An id whose time has come is as good as gone, whether it was taken out yet or not.

use std::collections::BTreeMap;

use crate::machine::Millis;

/// What an id costs besides its bytes; a round number near the truth for one among many.
const ENTRY_BYTES: usize = 256;

/// Ids, each with the time until which it is kept.
#[derive(Debug, Default)]
pub(super) enum Given {
    #[default]
    None,
    /// The usual case, and the only one in which there can be very many groups.
    One { id: Box<str>, until: Millis },
    /// Any number.
    Many(Box<Many>),
}

#[derive(Debug)]
pub(super) struct Many {
    until: BTreeMap<Box<str>, Millis>,
    /// No id's time is before it.
    earliest: Millis,
    bytes: usize,
}

impl Given {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::None => true,
            Self::One { .. } => false,
            Self::Many(many) => many.until.is_empty(),
        }
    }

    /// Bytes held for clients.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One { id, .. } => entry_bytes(id),
            Self::Many(many) => many.bytes,
        }
    }

    /// When to look for ids whose time has come.
    pub(super) fn earliest(&self) -> Option<Millis> {
        match self {
            Self::None => None,
            Self::One { until, .. } => Some(*until),
            Self::Many(many) => (!many.until.is_empty()).then_some(many.earliest),
        }
    }

    pub(super) fn contains(&self, id: &str, now: Millis) -> bool {
        let until = match self {
            Self::None => None,
            Self::One { id: only, until } => (**only == *id).then_some(*until),
            Self::Many(many) => many.until.get(id).copied(),
        };
        until.is_some_and(|until| now < until)
    }

    /// Keeps an id that nobody else has.
    pub(super) fn insert(&mut self, id: &str, until: Millis) {
        if self.is_empty() {
            *self = Self::One {
                id: id.into(),
                until,
            };
            return;
        }
        if let Self::One { .. } = self
            && let Self::One { id, until } = std::mem::take(self)
        {
            *self = Self::Many(Box::new(Many {
                bytes: entry_bytes(&id),
                earliest: until,
                until: BTreeMap::from([(id, until)]),
            }));
        }
        if let Self::Many(many) = self {
            many.earliest = many.earliest.min(until);
            if many.until.insert(id.into(), until).is_none() {
                many.bytes += entry_bytes(id);
            }
        }
    }

    /// Takes an id out; whether it was there and its time had not come.
    pub(super) fn remove(&mut self, id: &str, now: Millis) -> bool {
        let was_there = self.contains(id, now);
        match self {
            Self::One { id: only, .. } if **only == *id => *self = Self::None,
            Self::Many(many) => {
                if many.until.remove(id).is_some() {
                    many.bytes -= entry_bytes(id);
                }
            }
            Self::None | Self::One { .. } => {}
        }
        was_there
    }

    /// Takes out the ids whose time has come; whether there were any.
    pub(super) fn expire(&mut self, now: Millis) -> bool {
        match self {
            Self::One { until, .. } if *until <= now => {
                *self = Self::None;
                true
            }
            Self::Many(many) if many.earliest <= now => {
                let before = many.until.len();
                many.until.retain(|_, until| now < *until);
                many.bytes = many.until.keys().map(|id| entry_bytes(id)).sum();
                many.earliest = many.until.values().copied().min().unwrap_or(Millis::MAX);
                many.until.len() < before
            }
            Self::None | Self::One { .. } | Self::Many(_) => false,
        }
    }
}

fn entry_bytes(id: &str) -> usize {
    ENTRY_BYTES + id.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_there_until_its_time_comes_or_it_is_taken_out_however_many_there_are() {
        for others in [0, 1, 5] {
            let mut given = Given::default();
            for other in 0..others {
                given.insert(&format!("other-{other}"), 50 + other);
            }
            let bytes = given.bytes();
            given.insert("a", 20);
            assert_eq!(given.bytes(), bytes + ENTRY_BYTES + 1);
            assert_eq!(given.earliest(), Some(20));
            assert!(given.contains("a", 19) && !given.contains("a", 20));
            assert!(!given.contains("b", 0));
            assert!(given.remove("a", 19) && !given.remove("a", 19));
            assert_eq!((given.bytes(), given.is_empty()), (bytes, others == 0));

            given.insert("a", 20);
            assert!(!given.expire(19));
            assert!(given.expire(20) && !given.expire(20));
            assert_eq!((given.bytes(), given.is_empty()), (bytes, others == 0));
            assert_eq!(given.earliest(), (others > 0).then_some(50));

            given.insert("a", 20);
            assert!(!given.remove("a", 20), "too late");
            assert!(!given.contains("a", 0));
        }
    }
}
