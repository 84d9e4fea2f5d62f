//! Committed offsets of one group: commit, fetch, expiry, deletion. Called by the group machine, which checks
//! who may commit. Hard state: [`Offsets::apply`] is called by replay alone; everything else only reads it or
//! makes records. Offsets of open transactions are not kept yet: they will stand beside `topics`, by producer id,
//! and become ordinary commits when the transaction's marker is replayed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::command::{GroupConfig, OffsetCommit, TopicPartitions};
use super::reply::{CommittedOffset, FetchedTopic, GroupError, PartitionResults, SummaryOffset};
use crate::group_record::{GroupRecord, MAX_STRING, OffsetCommitValue};
use crate::machine::Millis;

/// What is committed, by topic and partition; no topic is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Offsets {
    topics: BTreeMap<Arc<str>, BTreeMap<i32, OffsetCommitValue>>,
}

/// From when an offset's retention is counted, as Kafka's `Group.offsetExpirationCondition`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retention {
    /// Nothing expires: members may still want everything.
    Keep,
    /// From the commit.
    SinceCommit,
    /// From the moment the group became empty.
    Since(Millis),
}

impl Offsets {
    pub(super) const NONE: Self = Self {
        topics: BTreeMap::new(),
    };

    pub(super) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    pub(super) fn apply(
        &mut self,
        topic: &Arc<str>,
        partition: i32,
        value: Option<&OffsetCommitValue>,
    ) {
        if let Some(value) = value {
            let partitions = self.topics.entry(topic.clone()).or_default();
            partitions.insert(partition, value.clone());
        } else if let Some(partitions) = self.topics.get_mut(topic) {
            partitions.remove(&partition);
            if partitions.is_empty() {
                self.topics.remove(topic);
            }
        }
    }

    /// What is committed for the given partitions, or for all.
    pub(super) fn fetch(&self, topics: Option<Vec<TopicPartitions>>) -> Vec<FetchedTopic> {
        let Some(topics) = topics else {
            let all = self.topics.iter().map(|(topic, partitions)| FetchedTopic {
                topic: topic.clone(),
                partitions: partitions
                    .iter()
                    .map(|(partition, value)| (*partition, Some(committed(value))))
                    .collect(),
            });
            return all.collect();
        };
        let asked = topics.into_iter().map(|asked| {
            let known = self.topics.get(asked.topic.as_str());
            let look_up = |partition| {
                let value = known.and_then(|partitions| partitions.get(&partition));
                (partition, value.map(committed))
            };
            FetchedTopic {
                partitions: asked.partitions.into_iter().map(look_up).collect(),
                topic: asked.topic.into(),
            }
        });
        asked.collect()
    }

    /// How many partitions have an offset.
    pub(super) fn count(&self) -> usize {
        self.topics.values().map(BTreeMap::len).sum()
    }

    /// All of it, in order.
    pub(super) fn summary(&self) -> Vec<SummaryOffset> {
        let all = self.topics.iter().flat_map(|(topic, partitions)| {
            partitions.iter().map(|(partition, value)| SummaryOffset {
                topic: topic.clone(),
                partition: *partition,
                offset: value.offset,
                commit_timestamp: value.commit_timestamp,
            })
        });
        all.collect()
    }

    /// Tombstones for all offsets.
    pub(super) fn forget_all(&self, group: &Arc<str>) -> Vec<GroupRecord> {
        let topics = self.topics.iter();
        topics
            .flat_map(|(topic, partitions)| {
                let each = partitions.keys();
                each.map(|partition| tombstone(group, topic, *partition))
            })
            .collect()
    }

    /// Tombstones for all offsets of topics that are gone.
    pub(super) fn forget_topics(
        &self,
        group: &Arc<str>,
        is_gone: impl Fn(&str) -> bool,
    ) -> Vec<GroupRecord> {
        let gone = self.topics.iter().filter(|(topic, _)| is_gone(topic));
        gone.flat_map(|(topic, partitions)| {
            let each = partitions.keys();
            each.map(|partition| tombstone(group, topic, *partition))
        })
        .collect()
    }

    /// Tombstones for the offsets asked for, and an outcome for each: a topic the group reads is refused, an
    /// offset that is not there is as good as deleted.
    pub(super) fn delete(
        &self,
        group: &Arc<str>,
        asked: Vec<TopicPartitions>,
        is_subscribed: impl Fn(&str) -> bool,
    ) -> (Vec<GroupRecord>, Vec<PartitionResults>) {
        let mut records = Vec::new();
        let mut results = Vec::with_capacity(asked.len());
        for TopicPartitions { topic, partitions } in asked {
            let refused = is_subscribed(&topic);
            let known = self.topics.get_key_value(topic.as_str());
            let mut deleted = BTreeSet::new();
            let outcomes = partitions.into_iter().map(|partition| {
                if refused {
                    return (partition, Err(GroupError::GroupSubscribedToTopic));
                }
                if let Some((topic, offsets)) = known
                    && offsets.contains_key(&partition)
                    && deleted.insert(partition)
                {
                    records.push(tombstone(group, topic, partition));
                }
                (partition, Ok(()))
            });
            let partitions = outcomes.collect();
            results.push(PartitionResults { topic, partitions });
        }
        (records, results)
    }

    /// Tombstones for what has expired, and whether that is everything.
    pub(super) fn expire(
        &self,
        group: &Arc<str>,
        now: Millis,
        retention_ms: Millis,
        retention: Retention,
        is_subscribed: impl Fn(&str) -> bool,
    ) -> (Vec<GroupRecord>, bool) {
        let mut records = Vec::new();
        let mut all = true;
        for (topic, partitions) in &self.topics {
            let kept = retention == Retention::Keep || is_subscribed(topic);
            for (partition, value) in partitions {
                if !kept && has_expired(value, now, retention_ms, retention) {
                    records.push(tombstone(group, topic, *partition));
                } else {
                    all = false;
                }
            }
        }
        (records, all)
    }
}

/// As Kafka's `OffsetExpirationConditionImpl`: an expiry of its own wins over the broker's retention.
fn has_expired(
    value: &OffsetCommitValue,
    now: Millis,
    retention_ms: Millis,
    retention: Retention,
) -> bool {
    if retention == Retention::Keep {
        return false;
    }
    if let Some(at) = value.expire_timestamp {
        return now >= at;
    }
    let since = match retention {
        // An administrator may commit to a group that is empty for long; Kafka would forget that at once.
        Retention::Since(at) => at.max(value.commit_timestamp),
        Retention::SinceCommit | Retention::Keep => value.commit_timestamp,
    };
    now.saturating_sub(since) >= retention_ms
}

/// Records for a commit, and an outcome for each partition of it.
pub(super) fn commit(
    group: &Arc<str>,
    commit: OffsetCommit,
    now: Millis,
    config: &GroupConfig,
) -> (Vec<GroupRecord>, Vec<PartitionResults>) {
    let expire_timestamp = commit.retention_ms.map(|ms| now.saturating_add(ms));
    let mut records = Vec::new();
    let mut results = Vec::with_capacity(commit.topics.len());
    for topic in commit.topics {
        let name: Arc<str> = topic.name.as_str().into();
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in topic.partitions {
            let metadata = asked.metadata.unwrap_or_default();
            let too_large = utf16_len(&metadata) > config.offset_metadata_max_bytes
                || metadata.len() > MAX_STRING;
            let outcome = if name.len() > MAX_STRING {
                Err(GroupError::InvalidRequest("The topic name is too long."))
            } else if too_large {
                Err(GroupError::OffsetMetadataTooLarge)
            } else {
                records.push(GroupRecord::OffsetCommit {
                    group: group.clone(),
                    topic: name.clone(),
                    partition: asked.partition,
                    value: Some(OffsetCommitValue {
                        offset: asked.offset,
                        leader_epoch: asked.leader_epoch,
                        metadata: metadata.into(),
                        commit_timestamp: now,
                        expire_timestamp,
                        topic_id: topic.topic_id,
                    }),
                });
                Ok(())
            };
            partitions.push((asked.partition, outcome));
        }
        results.push(PartitionResults {
            topic: topic.name,
            partitions,
        });
    }
    (records, results)
}

/// Kafka measures a string by its UTF-16 units.
fn utf16_len(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}

fn committed(value: &OffsetCommitValue) -> CommittedOffset {
    CommittedOffset {
        offset: value.offset,
        leader_epoch: value.leader_epoch,
        metadata: value.metadata.clone(),
        commit_timestamp: value.commit_timestamp,
    }
}

fn tombstone(group: &Arc<str>, topic: &Arc<str>, partition: i32) -> GroupRecord {
    GroupRecord::OffsetCommit {
        group: group.clone(),
        topic: topic.clone(),
        partition,
        value: None,
    }
}
