//! Groups of which nothing exists but one member id that was given out (KIP-394): whoever makes up group ids makes
//! these. Called by the group machine, which puts a group here when nothing else is left of it, and takes it out again
//! before it acts on it. Decides nothing about members. Soft state, lost by a restart.
//!
//! There can be very many, so that they lie apart from other groups, and small. Invariant: as long as there are two,
//! they hold no more bytes than the caller allows, however long their ids are.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::machine::Millis;

/// What a group costs besides the bytes of its ids: its place in the map, and what the allocator adds to the ids. A
/// round number above what was measured among 100,000, after a flood of a million as well.
const ENTRY_BYTES: usize = 160;

/// So many are looked up at once when the longest unused one is asked for.
const ELDEST: usize = 64;

/// Such groups, by their ids.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    groups: BTreeMap<Box<str>, Newcomer>,
    bytes: usize,
    /// No group that is not in it has been unused for longer; the longest unused one stands last. Groups that were
    /// used or taken out since are still in it. A set that is always in order would cost as much as the groups.
    eldest: Vec<(Millis, Arc<str>)>,
}

/// What there is of such a group.
#[derive(Debug)]
pub(super) struct Newcomer {
    /// The member id that was given out.
    pub(super) member_id: Box<str>,
    /// From then on it counts no longer.
    pub(super) until: Millis,
    /// When the group was last used.
    pub(super) last_used: Millis,
}

impl Newcomers {
    pub(super) fn len(&self) -> usize {
        self.groups.len()
    }

    /// Their ids, in order.
    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        self.groups.keys().map(|id| &**id)
    }

    pub(super) fn contains(&self, group: &str) -> bool {
        self.groups.contains_key(group)
    }

    /// Takes a group out.
    pub(super) fn remove(&mut self, group: &str) -> Option<Newcomer> {
        let newcomer = self.groups.remove(group)?;
        self.bytes -= newcomer.bytes(group);
        Some(newcomer)
    }

    /// Puts a group in that is not here. The longest unused ones go until all are within `max_bytes`.
    pub(super) fn insert(&mut self, group: &str, newcomer: Newcomer, max_bytes: usize) {
        let bytes = newcomer.bytes(group);
        while self.bytes + bytes > max_bytes
            && let Some((_, oldest)) = self.oldest()
        {
            self.remove(&oldest);
        }
        self.bytes += bytes;
        self.groups.insert(group.into(), newcomer);
    }

    /// The group that has been unused for longest, and since when.
    pub(super) fn oldest(&mut self) -> Option<(Millis, Arc<str>)> {
        loop {
            while let Some((since, group)) = self.eldest.last() {
                let newcomer = self.groups.get(&**group);
                if newcomer.is_some_and(|newcomer| newcomer.last_used == *since) {
                    return Some((*since, group.clone()));
                }
                self.eldest.pop();
            }
            if self.groups.is_empty() {
                return None;
            }
            self.find_eldest();
        }
    }

    fn find_eldest(&mut self) {
        let groups = self.groups.iter();
        let mut found: Vec<_> = groups.map(|(id, group)| (group.last_used, id)).collect();
        if found.len() > ELDEST {
            found.select_nth_unstable(ELDEST - 1);
            found.truncate(ELDEST);
        }
        found.sort_unstable_by(|one, other| other.cmp(one));
        let found = found.into_iter();
        self.eldest = found.map(|(since, id)| (since, Arc::from(&**id))).collect();
    }

    /// Forgets the groups whose member ids count no longer.
    pub(super) fn expire(&mut self, now: Millis) {
        let mut freed = 0;
        self.groups.retain(|id, newcomer| {
            let stays = now < newcomer.until;
            freed += if stays { 0 } else { newcomer.bytes(id) };
            stays
        });
        self.bytes -= freed;
    }
}

impl Newcomer {
    fn bytes(&self, group: &str) -> usize {
        ENTRY_BYTES + group.len() + self.member_id.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn newcomer(last_used: Millis) -> Newcomer {
        Newcomer {
            member_id: "m".into(),
            until: last_used + 1_000,
            last_used,
        }
    }

    /// Against a plain list that is searched each time.
    #[test]
    fn the_longest_unused_one_is_found_whatever_was_used_or_taken_out_since() {
        for seed in 0..200 {
            println!("seed {seed}");
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut newcomers = Newcomers::default();
            let mut plain: BTreeMap<Arc<str>, Millis> = BTreeMap::new();
            let names = rng.usize(1..400);
            for step in 0..1_500 {
                // Some are used in the same millisecond.
                let now = step / 3;
                let id: Arc<str> = rng.usize(0..names).to_string().into();
                match rng.u8(0..10) {
                    0 => {
                        let was_there = newcomers.remove(&id).is_some();
                        assert_eq!(was_there, plain.remove(&id).is_some());
                    }
                    1..=3 => {
                        let oldest = newcomers.oldest();
                        let since = oldest.as_ref().map(|(since, _)| *since);
                        assert_eq!(since, plain.values().min().copied());
                        if let Some((since, id)) = oldest {
                            newcomers.remove(&id);
                            assert_eq!(plain.remove(&id), Some(since));
                        }
                    }
                    4 if step % 50 == 0 => {
                        newcomers.expire(now + 900);
                        plain.retain(|_, since| now + 900 < *since + 1_000);
                    }
                    _ => {
                        newcomers.remove(&id);
                        newcomers.insert(&id, newcomer(now), usize::MAX);
                        plain.insert(id, now);
                    }
                }
                assert!(newcomers.ids().eq(plain.keys().map(|id| &**id)));
            }
            newcomers.expire(Millis::MAX);
            assert_eq!((newcomers.len(), newcomers.bytes), (0, 0));
        }
    }

    #[test]
    fn long_ids_make_others_go_and_one_alone_may_stay() {
        let mut newcomers = Newcomers::default();
        let max_bytes = 4 * (ENTRY_BYTES + 11);
        for number in 0..8 {
            let id = format!("group-{number:04}");
            newcomers.insert(&id, newcomer(number), max_bytes);
        }
        let kept: Vec<_> = newcomers.ids().map(|id| &id[6..]).collect();
        assert_eq!(kept, ["0004", "0005", "0006", "0007"]);
        let long = "x".repeat(max_bytes);
        newcomers.insert(&long, newcomer(8), max_bytes);
        assert!(newcomers.ids().eq([long.as_str()]));
    }

    #[test]
    fn a_place_in_the_map_is_small() {
        let place = size_of::<(Box<str>, Newcomer)>();
        assert!(place <= 48, "{place}");
    }
}
