//! Which files of values are worth being emptied, pure. Called by `log/retain.rs`, which does it.
//!
//! The engine can empty files from the oldest on only, by moving to new ones what is live in them, and tells how much of
//! each is garbage. How many of them are worth it is a question of the price: what has to be written for what is freed.
//! The more garbage there is, the more it may cost.

use super::Space;

/// Less garbage than this is never worth a collection: about one write buffer.
const GARBAGE_SLACK_BYTES: u64 = 32 << 20;

/// Garbage is freed at any time where more than so many bytes of it go for each one that is written...
const CHEAP: u64 = 8;

/// ...and where more than one goes for each, once there is this much beside the slack, in percent of what is live.
const GARBAGE_PERCENT: u64 = 15;

/// Where there is more than this, it is freed at any price.
const MOST_GARBAGE_PERCENT: u64 = 40;

/// Most bytes of values that one step moves, so that a stop does not have to wait for long.
const STEP_BYTES: u64 = 256 << 20;

/// One file of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValueFile {
    /// Greater in younger files.
    pub number: u64,
    /// Its size, garbage included.
    pub bytes: u64,
    /// Bytes of values that nothing refers to.
    pub garbage_bytes: u64,
}

impl ValueFile {
    /// Bytes that would have to be moved.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.bytes.saturating_sub(self.garbage_bytes)
    }
}

impl Space {
    /// Whether there may be something to collect: looking at each file is not for nothing.
    pub(crate) fn has_garbage(&self) -> bool {
        self.garbage_bytes >= GARBAGE_SLACK_BYTES
    }
}

/// The number below which files of values are to be emptied now; `None`: it is not worth it. `files` are all, oldest
/// first, and each collection writes `key_bytes` besides the values that it moves.
pub(crate) fn next_collection(key_bytes: u64, files: &[ValueFile]) -> Option<u64> {
    let garbage: u64 = files.iter().map(|file| file.garbage_bytes).sum();
    let live: u64 = key_bytes + files.iter().map(ValueFile::live_bytes).sum::<u64>();
    let allowed = |percent| GARBAGE_SLACK_BYTES + live / 100 * percent;
    let reach = in_reach(files);
    let worth = |price| most_gained(price, key_bytes, reach);
    worth(CHEAP)
        .or_else(|| worth(1).filter(|_| garbage > allowed(GARBAGE_PERCENT)))
        .or_else(|| {
            let surplus = garbage.saturating_sub(allowed(GARBAGE_PERCENT));
            least_freeing(surplus, reach).filter(|_| garbage > allowed(MOST_GARBAGE_PERCENT))
        })
}

/// The oldest files whose values one step may move; at least one.
fn in_reach(files: &[ValueFile]) -> &[ValueFile] {
    let mut moved = 0;
    let reached = files.iter().take_while(|file| {
        moved += file.live_bytes();
        moved <= STEP_BYTES
    });
    &files[..reached.count().max(1).min(files.len())]
}

/// The end of those files that free the most beyond `price` times what has to be written for them.
fn most_gained(price: u64, key_bytes: u64, files: &[ValueFile]) -> Option<u64> {
    let (mut freed, mut written) = (0, key_bytes);
    let (mut most, mut end) = (0, None);
    for file in files {
        freed += file.garbage_bytes;
        written += file.live_bytes();
        let gained = freed.saturating_sub(price * written);
        if freed >= GARBAGE_SLACK_BYTES && gained > most {
            (most, end) = (gained, Some(file.number + 1));
        }
    }
    end
}

/// The end of the fewest files that free `bytes`, or of all of them.
fn least_freeing(bytes: u64, files: &[ValueFile]) -> Option<u64> {
    let mut freed = 0;
    let freeing = files.iter().find(|file| {
        freed += file.garbage_bytes;
        freed >= bytes
    });
    freeing.or(files.last()).map(|file| file.number + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Files of these MiB of garbage and of what is live, oldest first; how many of them are to be emptied.
    fn emptied(key_mib: u64, files: &[(u64, u64)]) -> Option<u64> {
        let of = |(number, (garbage, live)): (usize, &(u64, u64))| ValueFile {
            number: number as u64,
            bytes: (garbage + live) * MIB,
            garbage_bytes: garbage * MIB,
        };
        let files: Vec<_> = files.iter().enumerate().map(of).collect();
        next_collection(key_mib * MIB, &files)
    }

    #[test]
    fn a_collection_ends_where_it_frees_the_most_for_what_it_writes() {
        assert_eq!(emptied(0, &[(31, 0)]), None, "a write buffer's worth");
        assert_eq!(emptied(0, &[(32, 4)]), None, "dear");
        assert_eq!(emptied(0, &[(32, 3)]), Some(1));
        assert_eq!(emptied(1, &[(32, 3)]), None, "keys are rewritten, too");
        let files = [(31, 1), (31, 1), (10, 22), (0, 32), (31, 1)];
        assert_eq!(emptied(0, &files), Some(2), "those in between live");
        let behind = |live| emptied(0, &[(0, live), (31, 1), (31, 1), (0, 400)]);
        assert_eq!((behind(5), behind(6)), (Some(3), None));
        assert_eq!(emptied(0, &[]), None);
    }

    #[test]
    fn the_more_garbage_there_is_the_more_may_be_written_for_it() {
        // 400 MiB are live, so that 92 and 192 MiB are allowed.
        let living = |garbage| emptied(0, &[(0, 50), (garbage, 10), (0, 240), (0, 100)]);
        assert_eq!(living(92), None);
        assert_eq!(living(93), Some(2));
        let elsewhere = |garbage| emptied(0, &[(0, 200), (garbage, 10), (0, 190)]);
        assert_eq!(elsewhere(192), None, "in vain");
        assert_eq!(elsewhere(193), Some(2), "too much of it");
        assert_eq!(emptied(0, &[(0, 250), (0, 8), (500, 1)]), Some(1), "a step");
        assert_eq!(emptied(0, &[(0, 300), (500, 1)]), Some(1), "at least one");
        // The cheap ones first, of which fewer are left over than 15 %.
        assert_eq!(emptied(0, &[(90, 10), (30, 10), (0, 600)]), Some(1));
    }

    #[test]
    fn wherever_garbage_lies_no_more_than_allowed_stays_and_no_value_is_moved_twice_for_it() {
        for seed in 0..5_000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let count = rng.u64(0..40);
            let kind = rng.u64(0..4);
            let mut files: Vec<_> = (0..count)
                .map(|number| {
                    let bytes = rng.u64(1..300 * MIB);
                    let garbage_bytes = match (kind, rng.u64(0..4)) {
                        (0, _) | (1, 0) => rng.u64(0..=bytes),
                        (2, _) => bytes / 4,
                        (_, 0) => bytes,
                        _ => 0,
                    };
                    ValueFile {
                        number,
                        bytes,
                        garbage_bytes,
                    }
                })
                .collect();
            let sum = |files: &[ValueFile], of: fn(&ValueFile) -> u64| -> u64 {
                files.iter().map(of).sum()
            };
            let live = sum(&files, ValueFile::live_bytes);
            let (mut number, mut moved_in_all) = (count, 0);
            while let Some(end) = next_collection(0, &files) {
                let emptied = files.partition_point(|file| file.number < end);
                assert!(emptied > 0, "seed {seed}: it does not end");
                let bytes = files.drain(..emptied).map(|file| file.live_bytes()).sum();
                files.push(ValueFile {
                    number,
                    bytes,
                    garbage_bytes: 0,
                });
                number += 1;
                moved_in_all += bytes;
            }
            let garbage = sum(&files, |file| file.garbage_bytes);
            let allowed = GARBAGE_SLACK_BYTES + live / 100 * MOST_GARBAGE_PERCENT;
            assert!(garbage <= allowed, "seed {seed}: {garbage} of {allowed}");
            assert!(moved_in_all <= live, "seed {seed}");
        }
    }

    /// Files of one topic that expires and of one that does not, whose records came together.
    struct Model {
        files: Vec<ModelFile>,
        next_number: u64,
        /// Bytes of the expiring topic that were produced, and that were erased, since the beginning.
        produced: u64,
        erased: u64,
        moved: u64,
    }

    struct ModelFile {
        number: u64,
        kept: u64,
        bytes: u64,
        /// Where the expiring records in it lie in their log.
        expiring: std::ops::Range<u64>,
    }

    impl Model {
        fn live(&self, file: &ModelFile) -> u64 {
            let expiring = file.expiring.end.saturating_sub(self.erased);
            file.kept + expiring.min(file.expiring.end - file.expiring.start)
        }

        fn add(&mut self, kept: u64, expiring: std::ops::Range<u64>) {
            self.files.push(ModelFile {
                number: self.next_number,
                kept,
                bytes: kept + expiring.end - expiring.start,
                expiring,
            });
            self.next_number += 1;
        }

        fn facts(&self) -> Vec<ValueFile> {
            let of = |file: &ModelFile| ValueFile {
                number: file.number,
                bytes: file.bytes,
                garbage_bytes: file.bytes - self.live(file),
            };
            self.files.iter().map(of).collect()
        }

        /// Empties files as RocksDB does; tells whether it was worth it.
        fn collect(&mut self, key_bytes: u64) -> bool {
            let Some(end) = next_collection(key_bytes, &self.facts()) else {
                return false;
            };
            let count = self.files.partition_point(|file| file.number < end);
            assert!(count > 0);
            for file in self.files.drain(..count).collect::<Vec<_>>() {
                self.moved += self.live(&file);
                let (from, to) = (file.expiring.start.max(self.erased), file.expiring.end);
                if self.live(&file) > 0 {
                    self.add(file.kept, from..to.max(from));
                }
            }
            self.moved += key_bytes;
            true
        }
    }

    #[test]
    fn a_hundredth_that_stays_costs_little_room_and_little_rewriting() {
        let (mut most_room, mut most_moved) = (0.0_f64, 0.0_f64);
        for seed in 0..3_000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let retained = rng.u64(500..2_000) * MIB;
            let buffer = rng.u64(4..=32) * MIB;
            let look = rng.u64(8..=64) * MIB;
            let key_bytes = rng.u64(0..MIB);
            let mut model = Model {
                files: Vec::new(),
                next_number: 0,
                produced: 0,
                erased: 0,
                moved: 0,
            };
            let (mut kept, mut looked) = (0, 0);
            let whole = retained * rng.u64(3..=12);
            while model.produced < whole {
                let flushed = rng.u64(1..=buffer / 4) * 4;
                let from = model.produced;
                model.produced += flushed;
                // The order of keys puts what stays in one of several files.
                let parts = rng.u64(1..=4);
                for part in 0..parts {
                    let stays = if part == 0 { flushed / 99 } else { 0 };
                    kept += stays;
                    let at = |part| from + flushed * part / parts;
                    model.add(stays, at(part)..at(part + 1));
                }
                if model.produced - looked < look {
                    continue;
                }
                looked = model.produced;
                model.erased = model.produced.saturating_sub(retained);
                let dead = |model: &Model, file: &ModelFile| model.live(file) == 0;
                let files = std::mem::take(&mut model.files);
                model.files = files
                    .into_iter()
                    .filter(|file| !dead(&model, file))
                    .collect();
                let mut steps = 0;
                while model.collect(key_bytes) {
                    steps += 1;
                    assert!(steps < 10, "seed {seed}: it does not end");
                }
                let bytes: u64 = model.files.iter().map(|file| file.bytes).sum();
                let live = model.produced - model.erased + kept;
                most_room = most_room.max(bytes as f64 / live as f64);
                assert!(bytes * 10 <= live * 13, "seed {seed}: {bytes} for {live}");
            }
            let share = model.moved as f64 / (model.produced + kept) as f64;
            most_moved = most_moved.max(share);
            assert!(share <= 0.08, "seed {seed}: {share} moved");
        }
        println!("at most {most_room:.3} of what is live, and {most_moved:.3} moved");
    }
}
