//! Batches that a broker acknowledged, and whether it gives them back: for tests that damage a data directory, or
//! copy it.
//!
//! A `Ledger` writes batches over the wire and notes where each acknowledged one lies; `Ledger::look` reads every one
//! of them by its offset. What it never lets through is an answer that is silently wrong: other bytes, or nothing
//! where a batch was acknowledged.

use ottla_protocol::batch::{self, BatchBuilder};

use crate::Broker;
use crate::http::{metrics_when, sample};
use crate::topics;
use crate::wire::Wire;

/// A batch as it was sent, and where its acknowledgement said it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    partition: i32,
    offset: i64,
    batch: Vec<u8>,
}

/// Acknowledged batches of one topic.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    topic: String,
    entries: Vec<Entry>,
}

/// What reading everything gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// Batches that came back as they were sent.
    pub whole: usize,
    /// Batches for which the client was told an error.
    pub refused: usize,
}

impl Ledger {
    /// Makes the topic.
    pub fn create(wire: &mut Wire, topic: &str, partitions: i32) -> Ledger {
        let created = topics::create(wire, topic, partitions, &[]);
        assert_eq!(created.error_code, 0);
        Ledger {
            topic: topic.to_owned(),
            entries: Vec::new(),
        }
    }

    /// Batches that were acknowledged.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Writes a batch of one record of random bytes; panics unless it is acknowledged.
    pub fn write(
        &mut self,
        wire: &mut Wire,
        random: &mut fastrand::Rng,
        partition: i32,
        bytes: usize,
    ) {
        let value: Vec<u8> = (0..bytes).map(|_| random.u8(..)).collect();
        let time = 1_700_000_000_000 + self.entries.len() as i64;
        let batch = BatchBuilder::new(time).record(time, None, Some(&value), &[]);
        let batch = batch.build();
        let answer = topics::produce(wire, &self.topic, partition, batch.clone());
        assert_eq!(answer.error_code, 0, "{answer:?}");
        self.entries.push(Entry {
            partition,
            offset: answer.base_offset,
            batch: batch.to_vec(),
        });
    }

    /// The newest batches are known to be lost.
    pub fn forget_last(&mut self, batches: usize) {
        self.entries.truncate(self.entries.len() - batches);
    }

    /// Reads every batch by its offset.
    ///
    /// # Panics
    /// When an answer is silently wrong.
    pub fn look(&self, wire: &mut Wire) -> Looked {
        let known = topics::metadata(wire, &self.topic).error_code;
        assert_eq!(known, 0, "the topic is there");
        let mut looked = Looked::default();
        for entry in &self.entries {
            match fetch(wire, &self.topic, entry.partition, entry.offset) {
                Ok(batch) => {
                    assert_eq!(
                        batch.as_ref(),
                        Some(&entry.batch),
                        "partition {} offset {}: silently wrong",
                        entry.partition,
                        entry.offset
                    );
                    looked.whole += 1;
                }
                // CORRUPT_MESSAGE and KAFKA_STORAGE_ERROR say that something is wrong.
                Err(2 | 56) => looked.refused += 1,
                Err(code) => panic!(
                    "partition {} offset {}: error {code}",
                    entry.partition, entry.offset
                ),
            }
        }
        looked
    }
}

/// The batch at an offset as its producer sent it; the error code, where there is one.
fn fetch(
    wire: &mut Wire,
    topic: &str,
    partition: i32,
    offset: i64,
) -> Result<Option<Vec<u8>>, i16> {
    let request = topics::fetch_request(topic, partition, offset, 1);
    let response = wire.ask(12, &request);
    let found = &response.responses[0].partitions[0];
    if found.error_code != 0 {
        return Err(found.error_code);
    }
    let records = found.records.clone().unwrap_or_default();
    let first = batch::walk(&records).next();
    Ok(first.map(|batch| {
        let (header, bytes) = batch.expect("a whole batch");
        assert_eq!(header.base_offset, offset, "another batch");
        let mut sent = bytes.to_vec();
        batch::stamp(&mut sent, 0, -1);
        sent
    }))
}

/// Waits until the broker's durable file has everything that was synced.
pub fn wait_until_proven(broker: &Broker) {
    let port = broker.metrics_port().expect("a metrics listener");
    metrics_when(port, "the durable file is up to date", |page| {
        let synced = sample(page, "ottla_log_synced_sequence");
        synced.is_some() && synced == sample(page, "ottla_log_proven_sequence")
    });
}

/// The leader epoch of each partition of a topic.
pub fn leader_epochs(wire: &mut Wire, topic: &str) -> Vec<i32> {
    topics::metadata(wire, topic)
        .partitions
        .iter()
        .map(|partition| partition.leader_epoch)
        .collect()
}
