//! What `consume` reads: one fetch from every leader, its batches checked and printed record by record.
//!
//! Positions move here only. A batch that is damaged ends the command; one that is cut off at the end of an answer
//! comes whole with the next.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest, TopicName};
use ottla_protocol::batch;
use ottla_protocol::error_code::ErrorCode;
use ottla_protocol::records::for_each_record;
use tokio::time::sleep;

use super::places::{bounds, not_there};
use super::{Consumer, Print};
use crate::cli::client::{Node, text};
use crate::cli::failure::{Failure, Kind, Result};
use crate::cli::format::{Record, to_json};
use crate::cli::output::{Out, remark};
use crate::cli::run::Session;

/// How long a broker may hold a fetch back when there is nothing new.
const FETCH_WAIT: Duration = Duration::from_millis(500);
const FETCH_BYTES: i32 = 8 * 1024 * 1024;
const PARTITION_BYTES: i32 = 1024 * 1024;
/// What one batch may unpack to.
const BATCH_MAX: usize = 256 * 1024 * 1024;

impl Consumer {
    /// Asks all leaders for what follows, and prints it.
    pub(super) async fn fetch(&mut self, session: &mut Session) -> Result<()> {
        let wanted = self.positions.iter().filter(|(index, position)| {
            let ends = self.ends.as_ref().and_then(|ends| ends.get(*index));
            ends.is_none_or(|end| *position < end)
        });
        let mut by_leader: BTreeMap<i32, Vec<FetchPartition>> = BTreeMap::new();
        for (index, position) in wanted {
            let Some(Node::Id(leader)) = session.client.leader(&self.topic, *index) else {
                return Err(Failure::told(
                    format_args!("topic {}, partition {index}", self.topic),
                    ErrorCode::LeaderNotAvailable.code(),
                    None,
                ));
            };
            let partition = FetchPartition::default()
                .with_partition(*index)
                .with_fetch_offset(*position)
                .with_partition_max_bytes(PARTITION_BYTES);
            by_leader.entry(leader).or_default().push(partition);
        }
        if by_leader.is_empty() {
            // A member without a partition.
            sleep(FETCH_WAIT).await;
            return Ok(());
        }
        let requests = by_leader.into_iter().map(|(leader, partitions)| {
            let topic = FetchTopic::default()
                .with_topic(TopicName(text(&self.topic)))
                .with_partitions(partitions);
            let request = FetchRequest::default()
                .with_replica_id(BrokerId(-1))
                .with_max_wait_ms(FETCH_WAIT.as_millis() as i32)
                .with_min_bytes(1)
                .with_max_bytes(FETCH_BYTES)
                .with_session_epoch(-1)
                .with_topics(vec![topic]);
            (Node::Id(leader), request)
        });
        let answers = session.client.ask_each(4..=12, requests.collect()).await;
        let mut failed = None;
        let mut out_of_range = Vec::new();
        for answer in answers {
            let response = match answer {
                Ok(response) => response,
                Err(failure) => {
                    failed = Some(failure);
                    continue;
                }
            };
            for partition in response
                .responses
                .into_iter()
                .flat_map(|topic| topic.partitions)
            {
                let index = partition.partition_index;
                let what = format_args!("topic {}, partition {index}", self.topic);
                match ErrorCode::from_code(partition.error_code) {
                    Some(ErrorCode::None) => {
                        let records = partition.records.unwrap_or_default();
                        self.print(&mut session.out, index, &records)?;
                    }
                    Some(ErrorCode::OffsetOutOfRange) => out_of_range.push(index),
                    _ => failed = Some(Failure::told(what, partition.error_code, None)),
                }
            }
        }
        self.step_back(session, out_of_range).await?;
        match failed {
            Some(failure) if failure.retriable() || failure.kind == Kind::Unreachable => {
                // The leader may have moved.
                session.client.pause().await;
                session.client.topic(&self.topic, false).await?;
                if failure.kind == Kind::Unreachable {
                    Err(failure)
                } else {
                    Ok(())
                }
            }
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    /// Partitions whose position the broker does not have any more go on at the first offset there is.
    async fn step_back(&mut self, session: &mut Session, indexes: Vec<i32>) -> Result<()> {
        for index in indexes {
            let (first, end) = bounds(&mut session.client, &self.topic, index).await?;
            let position = self.positions.get(&index).copied().unwrap_or(0);
            // Behind the end: the log was cut, and what was there is read already.
            let to = if position > end { end } else { first };
            remark(format_args!(
                "{}; going on at {to}",
                not_there(&self.topic, index, position, (first, end))
            ));
            self.positions.insert(index, to);
        }
        Ok(())
    }

    /// Prints the records of one partition from its position on, and moves the position.
    fn print(&mut self, out: &mut Out, index: i32, batches: &[u8]) -> Result<()> {
        let end = self
            .ends
            .as_ref()
            .and_then(|ends| ends.get(&index).copied());
        let bad = |why: &dyn std::fmt::Display| {
            Failure::refused(format_args!(
                "topic {}, partition {index}: a batch cannot be read: {why}",
                self.topic
            ))
        };
        let mut position = self.positions.get(&index).copied().unwrap_or(0);
        let mut outcome = Ok(());
        for step in batch::walk(batches) {
            // A batch cut off at the end comes whole with the next fetch.
            let Ok((header, bytes)) = step else { break };
            if !batch::crc_matches(bytes) {
                return Err(bad(&"its checksum does not match"));
            }
            let past_the_end = |offset: i64| end.is_some_and(|end| offset >= end);
            if past_the_end(header.base_offset) || self.left == Some(0) {
                break;
            }
            if header.is_control() {
                position = position.max(header.next_offset());
                continue;
            }
            let (print, scratch, left, topic) =
                (&self.print, &mut self.scratch, &mut self.left, &self.topic);
            let printed = &mut self.printed;
            let mut stopped = false;
            let visited = for_each_record(bytes, BATCH_MAX, |view| {
                let offset = header.base_offset + i64::from(view.offset_delta);
                if offset < position {
                    return ControlFlow::Continue(());
                }
                if past_the_end(offset) || *left == Some(0) {
                    stopped = true;
                    return ControlFlow::Break(());
                }
                let record = Record {
                    topic,
                    partition: index,
                    offset,
                    timestamp: header.timestamp_of(view.timestamp_delta).unwrap_or(-1),
                    key: view.key,
                    value: view.value,
                    headers: view.headers.iter().collect(),
                };
                let written = match print {
                    Print::Json => out.object(&to_json(&record)),
                    Print::Template(template) => {
                        scratch.clear();
                        template.write(&record, scratch);
                        out.bytes(scratch)
                    }
                };
                if written.is_err() {
                    outcome = written;
                    stopped = true;
                    return ControlFlow::Break(());
                }
                position = offset + 1;
                *printed += 1;
                if let Some(left) = left {
                    *left -= 1;
                }
                ControlFlow::Continue(())
            });
            visited.map_err(|error| bad(&error))?;
            if stopped {
                break;
            }
            position = position.max(header.next_offset());
        }
        self.positions.insert(index, position);
        outcome
    }
}
