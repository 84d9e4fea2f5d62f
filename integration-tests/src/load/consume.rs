//! Reading: fetches that follow each other over some partitions, and how fast they go.
//!
//! Looks at batch headers only. The offsets of a partition must follow each other without a gap.

use std::io;
use std::time::Duration;

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest, ListOffsetsRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use ottla::env::Env;
use ottla_protocol::batch::{BatchError, BatchHeader, walk};

use super::{Client, Target, failed};

/// The newest version that names topics instead of their ids.
const FETCH_VERSION: i16 = 12;
const LIST_OFFSETS_VERSION: i16 = 7;
const LATEST: i64 = -1;

// As the Java consumer asks.
const FETCH_MAX_BYTES: i32 = 52_428_800;
const MAX_PARTITION_FETCH_BYTES: i32 = 1_048_576;
const FETCH_MAX_WAIT_MS: i32 = 500;

/// Reads some partitions of a topic in turn over one connection, without a fetch session.
pub struct Fetcher {
    client: Client,
    topic: TopicName,
    positions: Vec<Position>,
}

struct Position {
    partition: i32,
    next: i64,
    end: i64,
    /// `next` may lie inside a batch, which then comes whole.
    inside: bool,
}

impl Fetcher {
    /// All partitions from their first offset on.
    pub fn of_all(target: &Target) -> io::Result<Fetcher> {
        Fetcher::of(target, 0..target.partitions)
    }

    /// Some partitions from their first offset on.
    pub fn of(target: &Target, partitions: impl IntoIterator<Item = i32>) -> io::Result<Fetcher> {
        let mut fetcher = Fetcher {
            client: Client::connect(&target.address)?,
            topic: TopicName(StrBytes::from_string(target.topic.clone())),
            positions: partitions
                .into_iter()
                .map(|partition| Position {
                    partition,
                    next: 0,
                    end: 0,
                    inside: false,
                })
                .collect(),
        };
        fetcher.look_up_ends()?;
        Ok(fetcher)
    }

    /// Goes back to the first offset, or to this many offsets before the end.
    pub fn rewind(&mut self, before_end: Option<i64>) {
        for position in &mut self.positions {
            position.next = before_end.map_or(0, |count| (position.end - count).max(0));
            position.inside = before_end.is_some();
        }
    }

    /// Whether all partitions were read to their ends, which are looked up again when it seems so.
    pub fn at_end(&mut self) -> io::Result<bool> {
        if !self.at_known_end() {
            return Ok(false);
        }
        self.look_up_ends()?;
        Ok(self.at_known_end())
    }

    /// Whether all partitions were read to the ends that were looked up last.
    pub fn at_known_end(&self) -> bool {
        self.positions
            .iter()
            .all(|position| position.next >= position.end)
    }

    fn look_up_ends(&mut self) -> io::Result<()> {
        let partition = |position: &Position| {
            ListOffsetsPartition::default()
                .with_partition_index(position.partition)
                .with_timestamp(LATEST)
        };
        let topic = ListOffsetsTopic::default()
            .with_name(self.topic.clone())
            .with_partitions(self.positions.iter().map(partition).collect());
        let request = ListOffsetsRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_topics(vec![topic]);
        let response = self.client.ask(LIST_OFFSETS_VERSION, &request)?;
        for answer in response.topics.iter().flat_map(|topic| &topic.partitions) {
            if answer.error_code != 0 {
                return Err(failed(format!(
                    "ListOffsets of partition {}: error {}",
                    answer.partition_index, answer.error_code
                )));
            }
            let position = self
                .positions
                .iter_mut()
                .find(|position| position.partition == answer.partition_index)
                .ok_or_else(|| failed("ListOffsets answered for another partition"))?;
            position.end = answer.offset;
        }
        Ok(())
    }

    /// One Fetch; shows each batch with its partition, and returns the bytes of all of them.
    pub fn fetch(&mut self, mut each: impl FnMut(i32, &BatchHeader, &[u8])) -> io::Result<u64> {
        let partition = |position: &Position| {
            FetchPartition::default()
                .with_partition(position.partition)
                .with_fetch_offset(position.next)
                .with_partition_max_bytes(MAX_PARTITION_FETCH_BYTES)
        };
        let topic = FetchTopic::default()
            .with_topic(self.topic.clone())
            .with_partitions(self.positions.iter().map(partition).collect());
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(FETCH_MAX_WAIT_MS)
            .with_min_bytes(1)
            .with_max_bytes(FETCH_MAX_BYTES)
            .with_session_id(0)
            .with_session_epoch(-1)
            .with_topics(vec![topic]);
        let positions = &mut self.positions;
        self.client.ask_with(FETCH_VERSION, &request, |response| {
            if response.error_code != 0 {
                return Err(failed(format!("Fetch: error {}", response.error_code)));
            }
            let mut bytes = 0;
            for answer in response
                .responses
                .iter()
                .flat_map(|topic| &topic.partitions)
            {
                let position = positions
                    .iter_mut()
                    .find(|position| position.partition == answer.partition_index)
                    .ok_or_else(|| failed("Fetch answered for another partition"))?;
                if answer.error_code != 0 {
                    return Err(failed(format!(
                        "Fetch of partition {} at {}: error {}",
                        position.partition, position.next, answer.error_code
                    )));
                }
                let records = answer.records.as_deref().unwrap_or_default();
                for batch in walk(records) {
                    let (header, batch) = match batch {
                        Ok(batch) => batch,
                        // Cut at the size limit, as segment files are served.
                        Err(BatchError::Truncated { .. }) => break,
                        Err(error) => return Err(failed(error.to_string())),
                    };
                    let inside = position.inside && header.base_offset < position.next;
                    if header.base_offset != position.next && !inside {
                        return Err(failed(format!(
                            "partition {}: offset {} follows {}",
                            position.partition, header.base_offset, position.next
                        )));
                    }
                    position.inside = false;
                    position.next = header.next_offset();
                    bytes += batch.len() as u64;
                    each(position.partition, &header, batch);
                }
            }
            Ok(bytes)
        })
    }
}

/// What to read over and over.
#[derive(Clone, Copy, Debug)]
pub enum Span {
    /// Everything, once.
    Once,
    /// Everything, from the start again at the end.
    All,
    /// The last so many offsets of each partition.
    Last(i64),
}

/// How fast it went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Consumed {
    /// From the first request to the last answer.
    pub seconds: f64,
    /// Bytes of the batches read.
    pub bytes: u64,
}

/// Reads with so many connections, the partitions dealt out among them, for so long (with [`Span::Once`]: to the end).
pub fn consume(
    env: Env,
    target: &Target,
    connections: i32,
    span: Span,
    length: Duration,
) -> io::Result<Consumed> {
    let mut fetchers = Vec::new();
    for connection in 0..connections {
        let mine = (0..target.partitions).filter(|partition| partition % connections == connection);
        fetchers.push(Fetcher::of(target, mine)?);
    }
    let begin = env.monotonic();
    let readers: Vec<_> = fetchers
        .into_iter()
        .map(|fetcher| {
            std::thread::spawn(move || read(&env, fetcher, span, begin.saturating_add(length)))
        })
        .collect();
    let mut consumed = Consumed::default();
    for reader in readers {
        consumed.bytes += reader
            .join()
            .map_err(|_| failed("a load thread panicked"))??;
    }
    consumed.seconds = (env.monotonic() - begin).as_secs_f64();
    Ok(consumed)
}

fn read(env: &Env, mut fetcher: Fetcher, span: Span, end: Duration) -> io::Result<u64> {
    let before_end = match span {
        Span::Last(count) => Some(count),
        Span::Once | Span::All => None,
    };
    fetcher.rewind(before_end);
    let mut bytes = 0;
    loop {
        if fetcher.at_known_end() {
            if matches!(span, Span::Once) {
                return Ok(bytes);
            }
            fetcher.rewind(before_end);
        }
        bytes += fetcher.fetch(|_, _, _| ())?;
        if !matches!(span, Span::Once) && env.monotonic() >= end {
            return Ok(bytes);
        }
    }
}
