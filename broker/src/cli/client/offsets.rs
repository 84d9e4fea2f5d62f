//! Where partitions begin and end, and what groups have committed: ListOffsets, OffsetFetch, OffsetCommit.
//!
//! Used by `consume`, `group` and `topic`. Questions go to the partitions' leaders, answers come back as one map; a
//! leader that has moved is looked up once more.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::{
    BrokerId, GroupId, ListOffsetsRequest, OffsetCommitRequest, OffsetFetchRequest, TopicName,
};

use super::{Client, Node, text};
use crate::cli::failure::{Failure, Result};

/// A topic and the index of a partition.
pub type Partition = (String, i32);

/// A place in a partition that only its leader knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The log start offset.
    Earliest,
    /// The high watermark.
    Latest,
    /// The first record with this timestamp or a later one.
    Time(i64),
}

impl At {
    /// As ListOffsets has it.
    fn timestamp(self) -> i64 {
        match self {
            Self::Latest => -1,
            Self::Earliest => -2,
            Self::Time(ms) => ms,
        }
    }
}

/// Who commits, where members do.
#[derive(Debug, Clone)]
pub struct Committer<'a> {
    /// The member's id; empty from outside of the group.
    pub member_id: &'a str,
    /// Its generation; -1 from outside.
    pub generation: i32,
}

impl Client {
    /// The offsets of one place in each of these partitions; `None` where there is no record so late.
    pub async fn offsets(
        &mut self,
        partitions: &[Partition],
        at: At,
    ) -> Result<BTreeMap<Partition, Option<i64>>> {
        let mut found = BTreeMap::new();
        match self.offsets_once(partitions, at, &mut found).await {
            Err(failure) if failure.retriable() => {
                self.pause().await;
                let topics: BTreeSet<&str> =
                    partitions.iter().map(|(topic, _)| topic.as_str()).collect();
                self.metadata(Some(&topics.into_iter().collect::<Vec<_>>()), false)
                    .await?;
                self.offsets_once(partitions, at, &mut found).await?;
            }
            outcome => outcome?,
        }
        Ok(found)
    }

    async fn offsets_once(
        &mut self,
        partitions: &[Partition],
        at: At,
        found: &mut BTreeMap<Partition, Option<i64>>,
    ) -> Result<()> {
        let mut by_leader: BTreeMap<i32, BTreeMap<&str, Vec<i32>>> = BTreeMap::new();
        for (topic, partition) in partitions {
            let Some(Node::Id(leader)) = self.leader(topic, *partition) else {
                return Err(Failure::told(
                    format_args!("topic {topic}, partition {partition}"),
                    5,
                    None,
                ));
            };
            let topics = by_leader.entry(leader).or_default();
            topics.entry(topic).or_default().push(*partition);
        }
        let requests = by_leader.into_iter().map(|(leader, topics)| {
            let topics = topics.into_iter().map(|(topic, partitions)| {
                let partitions = partitions.into_iter().map(|partition| {
                    ListOffsetsPartition::default()
                        .with_partition_index(partition)
                        .with_timestamp(at.timestamp())
                });
                ListOffsetsTopic::default()
                    .with_name(TopicName(text(topic)))
                    .with_partitions(partitions.collect())
            });
            let request = ListOffsetsRequest::default()
                .with_replica_id(BrokerId(-1))
                .with_topics(topics.collect());
            (Node::Id(leader), request)
        });
        let requests = requests.collect();
        for answer in self.ask_each(1..=6, requests).await {
            for topic in answer?.topics {
                for partition in topic.partitions {
                    let index = partition.partition_index;
                    if partition.error_code != 0 {
                        return Err(Failure::told(
                            format_args!(
                                "offsets of topic {}, partition {index}",
                                topic.name.as_str()
                            ),
                            partition.error_code,
                            None,
                        ));
                    }
                    let offset = Some(partition.offset).filter(|offset| *offset >= 0);
                    found.insert((topic.name.to_string(), index), offset);
                }
            }
        }
        Ok(())
    }

    /// What a group has committed: for these partitions, or for all it has. A partition without a commit is left out.
    pub async fn committed(
        &mut self,
        group: &str,
        partitions: Option<&[Partition]>,
    ) -> Result<BTreeMap<Partition, i64>> {
        let topics = partitions.map(|partitions| {
            let topics = by_topic(partitions.iter().map(|partition| (partition, ())));
            let topics = topics.into_iter().map(|(topic, partitions)| {
                OffsetFetchRequestTopic::default()
                    .with_name(TopicName(text(topic)))
                    .with_partition_indexes(
                        partitions.into_iter().map(|(index, ())| index).collect(),
                    )
            });
            topics.collect()
        });
        let request = OffsetFetchRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_topics(topics);
        let coordinator = self.coordinator(group).await?;
        let response = self
            .ask_settled(coordinator, 2..=7, &request, |response| response.error_code)
            .await?;
        let failed = |code| Failure::told(format_args!("offsets of group {group}"), code, None);
        if response.error_code != 0 {
            return Err(failed(response.error_code));
        }
        let mut committed = BTreeMap::new();
        for topic in response.topics {
            for partition in topic.partitions {
                if partition.error_code != 0 {
                    return Err(failed(partition.error_code));
                }
                if partition.committed_offset >= 0 {
                    let key = (topic.name.to_string(), partition.partition_index);
                    committed.insert(key, partition.committed_offset);
                }
            }
        }
        Ok(committed)
    }

    /// Commits offsets for a group.
    pub async fn commit(
        &mut self,
        group: &str,
        committer: Committer<'_>,
        offsets: &BTreeMap<Partition, i64>,
    ) -> Result<()> {
        let topics = by_topic(
            offsets
                .iter()
                .map(|(partition, offset)| (partition, *offset)),
        );
        let topics = topics.into_iter().map(|(topic, partitions)| {
            let partitions = partitions.into_iter().map(|(partition, offset)| {
                OffsetCommitRequestPartition::default()
                    .with_partition_index(partition)
                    .with_committed_offset(offset)
                    .with_committed_metadata(Some(text("")))
            });
            OffsetCommitRequestTopic::default()
                .with_name(TopicName(text(topic)))
                .with_partitions(partitions.collect())
        });
        let request = OffsetCommitRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_generation_id_or_member_epoch(committer.generation)
            .with_member_id(text(committer.member_id))
            .with_topics(topics.collect());
        let coordinator = self.coordinator(group).await?;
        let first_error = |response: &kafka_protocol::messages::OffsetCommitResponse| {
            let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
            partitions
                .map(|partition| partition.error_code)
                .find(|code| *code != 0)
                .unwrap_or(0)
        };
        let response = self
            .ask_settled(coordinator, 2..=8, &request, first_error)
            .await?;
        match first_error(&response) {
            0 => Ok(()),
            code => Err(Failure::told(
                format_args!("commit for group {group}"),
                code,
                None,
            )),
        }
    }
}

fn by_topic<'a, T>(
    partitions: impl Iterator<Item = (&'a Partition, T)>,
) -> BTreeMap<&'a str, Vec<(i32, T)>> {
    let mut topics: BTreeMap<&str, Vec<(i32, T)>> = BTreeMap::new();
    for ((topic, partition), what) in partitions {
        topics.entry(topic).or_default().push((*partition, what));
    }
    topics
}
