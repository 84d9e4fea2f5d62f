//! Whether a log holds what was acknowledged: every batch at its offset with its bytes, and nothing that was not sent.
//!
//! Batches that were sent but never acknowledged may be there, whole, or not. Compared is everything of a batch but
//! its base offset and leader epoch, which the broker sets.

use std::collections::HashSet;
use std::io;

use bytes::Bytes;
use ottla_protocol::batch::{BatchHeader, crc_matches};

use super::consume::Fetcher;
use super::{Target, failed};

/// Base offset and length stand before this; the leader epoch is compared with nothing either.
const MAGIC_AT: usize = 16;

/// Each comes after the longest wait that a Fetch asks for.
const MOST_EMPTY_ANSWERS: u32 = 20;

/// Acknowledged batches, by partition.
#[derive(Clone, Debug, Default)]
pub struct Acknowledged {
    /// The batches of each producer.
    batches: Vec<Vec<Bytes>>,
    /// Base offset, producer and batch of each acknowledgement.
    partitions: Vec<Vec<(i64, u32, u32)>>,
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Batches acknowledged.
    pub acknowledged: u64,
    /// Of these, not in the log as they were sent.
    pub missing: u64,
    /// Batches in the log that were sent but not acknowledged.
    pub unacknowledged: u64,
    /// Records in the log.
    pub records: u64,
    /// Bytes of batches in the log.
    pub bytes: u64,
}

impl Acknowledged {
    /// Nothing yet, of one producer that sends these batches.
    pub fn new(partitions: i32, batches: Vec<Bytes>) -> Acknowledged {
        Acknowledged {
            batches: vec![batches],
            partitions: vec![Vec::new(); usize::try_from(partitions).unwrap_or(0)],
        }
    }

    /// One acknowledgement of that producer.
    pub fn add(&mut self, partition: i32, base_offset: i64, batch: usize) {
        let index = usize::try_from(partition).expect("partitions are not negative");
        self.partitions[index].push((base_offset, 0, batch as u32));
    }

    /// Takes over another producer's.
    pub fn merge(&mut self, other: Acknowledged) {
        let producers = self.batches.len() as u32;
        self.batches.extend(other.batches);
        let partitions = self.partitions.len().max(other.partitions.len());
        self.partitions.resize(partitions, Vec::new());
        for (mine, theirs) in self.partitions.iter_mut().zip(other.partitions) {
            mine.extend(
                theirs
                    .into_iter()
                    .map(|(offset, producer, batch)| (offset, producer + producers, batch)),
            );
        }
    }

    /// How many batches were acknowledged.
    pub fn len(&self) -> usize {
        self.partitions.iter().map(Vec::len).sum()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads the whole topic and compares. An error when the log has a gap, a damaged batch, or one nobody sent.
    pub fn compare(mut self, target: &Target) -> io::Result<Found> {
        self.sort();
        let mut check = Check::new(&self);
        let mut fetcher = Fetcher::of_all(target)?;
        let mut empty = 0;
        while !fetcher.at_end()? {
            let mut result = Ok(());
            let bytes = fetcher.fetch(|partition, header, bytes| {
                if result.is_ok() {
                    result = check.batch(partition, header, bytes);
                }
            })?;
            result?;
            empty = if bytes == 0 { empty + 1 } else { 0 };
            if empty == MOST_EMPTY_ANSWERS {
                return Err(failed("the end of the log is not reached"));
            }
        }
        Ok(check.end())
    }

    fn sort(&mut self) {
        for partition in &mut self.partitions {
            partition.sort_unstable();
        }
    }
}

struct Check<'a> {
    acknowledged: &'a Acknowledged,
    known: HashSet<&'a [u8]>,
    /// The acknowledgement of each partition that is looked for next.
    next: Vec<usize>,
    found: Found,
}

impl<'a> Check<'a> {
    /// Of sorted acknowledgements.
    fn new(acknowledged: &'a Acknowledged) -> Check<'a> {
        Check {
            acknowledged,
            known: acknowledged
                .batches
                .iter()
                .flatten()
                .map(|batch| &batch[MAGIC_AT..])
                .collect(),
            next: vec![0; acknowledged.partitions.len()],
            found: Found {
                acknowledged: acknowledged.len() as u64,
                ..Found::default()
            },
        }
    }

    /// The next batch of a partition.
    fn batch(&mut self, partition: i32, header: &BatchHeader, bytes: &[u8]) -> io::Result<()> {
        let place = || format!("partition {partition}, offset {}", header.base_offset);
        if !crc_matches(bytes) {
            return Err(failed(format!("{}: a damaged batch", place())));
        }
        self.found.records += u64::try_from(header.record_count).unwrap_or(0);
        self.found.bytes += bytes.len() as u64;
        let index = usize::try_from(partition).expect("partitions are not negative");
        let expected = &self.acknowledged.partitions[index];
        // Acknowledged, but the log goes on behind it.
        while expected
            .get(self.next[index])
            .is_some_and(|(offset, ..)| *offset < header.base_offset)
        {
            self.next[index] += 1;
            self.found.missing += 1;
        }
        match expected.get(self.next[index]) {
            Some((offset, producer, batch)) if *offset == header.base_offset => {
                self.next[index] += 1;
                let sent = &self.acknowledged.batches[*producer as usize][*batch as usize];
                if sent[MAGIC_AT..] != bytes[MAGIC_AT..] {
                    self.found.missing += 1;
                }
            }
            _ if self.known.contains(&bytes[MAGIC_AT..]) => self.found.unacknowledged += 1,
            _ => return Err(failed(format!("{}: a batch that nobody sent", place()))),
        }
        Ok(())
    }

    /// After the last batch of all partitions.
    fn end(mut self) -> Found {
        let seen: usize = self.next.iter().sum();
        self.found.missing += self.found.acknowledged - seen as u64;
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ottla_protocol::batch::{BatchBuilder, stamp};

    fn batch(value: &str) -> Bytes {
        BatchBuilder::new(0)
            .record(0, None, Some(value.as_bytes()), &[])
            .build()
    }

    /// Two producers of two batches each; partition 1 has acknowledgements at the offsets 0 to 2.
    fn acknowledged() -> Acknowledged {
        let mut one = Acknowledged::new(2, vec![batch("a"), batch("b")]);
        one.add(1, 2, 1);
        one.add(1, 0, 0);
        let mut other = Acknowledged::new(2, vec![batch("c"), batch("d")]);
        other.add(1, 1, 0);
        one.merge(other);
        one.sort();
        one
    }

    /// What a log is found to be whose partition 1 holds these values at these offsets.
    fn check(log: &[(i64, &str)]) -> io::Result<Found> {
        let acknowledged = acknowledged();
        let mut check = Check::new(&acknowledged);
        for (offset, value) in log {
            let mut bytes = batch(value).to_vec();
            stamp(&mut bytes, *offset, 7);
            check.batch(1, &BatchHeader::parse(&bytes).unwrap(), &bytes)?;
        }
        Ok(check.end())
    }

    fn missing(log: &[(i64, &str)]) -> u64 {
        check(log).unwrap().missing
    }

    #[test]
    fn a_log_of_what_was_acknowledged_misses_nothing() {
        let found = check(&[(0, "a"), (1, "c"), (2, "b"), (3, "d")]).unwrap();
        assert_eq!((found.acknowledged, found.missing), (3, 0));
        assert_eq!((found.unacknowledged, found.records), (1, 4));
    }

    #[test]
    fn a_lost_or_exchanged_batch_is_missed() {
        assert_eq!(missing(&[]), 3);
        assert_eq!(missing(&[(0, "a"), (1, "c")]), 1);
        assert_eq!(missing(&[(0, "a"), (2, "b")]), 1);
        assert_eq!(missing(&[(1, "c"), (2, "b")]), 1);
        assert_eq!(missing(&[(0, "b"), (1, "c"), (2, "a")]), 2);
    }

    #[test]
    fn a_batch_nobody_sent_or_with_a_flipped_bit_is_an_error() {
        let error = check(&[(0, "a"), (1, "c"), (2, "b"), (3, "x")]).unwrap_err();
        assert!(error.to_string().contains("nobody sent"), "{error}");
        let acknowledged = acknowledged();
        let mut bytes = batch("a").to_vec();
        let header = BatchHeader::parse(&bytes).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        let error = Check::new(&acknowledged)
            .batch(1, &header, &bytes)
            .unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
    }
}
