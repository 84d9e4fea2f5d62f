//! The metadata machine: topics, partitions, configurations, broker registrations, producer ids and
//! features. Run by the broker's metadata log; handlers reach it through `propose` only.
//!
//! | command | what it may answer | records |
//! |---|---|---|
//! | RegisterBroker | BrokerRegistered | RegisterBroker |
//! | CreateTopic | TopicCreated, name / partitions / replication / assignment errors | Topic, Config..., Partition... |
//! | DeleteTopic | TopicDeleted, UnknownTopicOrPartition, UnknownTopicId | RemoveTopic |
//! | CreatePartitions | PartitionsCreated, UnknownTopicOrPartition, partitions / assignment errors | Partition... |
//! | AllocateProducerIds | ProducerIds, StaleBrokerEpoch, ProducerIdsExhausted | ProducerIds |
//! | AlterConfigs | Done, UnknownTopicOrPartition, ConfigsChanged, InvalidRequest | Config... for what really changes |
//! | ChangePartition | Done, UnknownTopicId, UnknownTopicOrPartition, InvalidUpdateVersion, InvalidRequest | PartitionChange |
//! | SetFeature | Done, InvalidRequest | FeatureLevel |
//!
//! `handle` decides from the image and never changes it; `replay` changes it and decides nothing.
//! Whether a configuration value is sensible is the caller's matter: the tables live in the broker.

mod assignment;
mod command;
mod image;
pub mod topic_name;
mod topics;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use uuid::Uuid;

use crate::machine::{Machine, Millis, Outcome, ReplyId};
pub use crate::record::ConfigResource;
use crate::record::MetadataRecord;
pub use assignment::in_partition_order;
pub use command::{Command, MetadataError, Reply, TopicRef};
pub use image::{Broker, Image, NO_LEADER, Partition, ReplayError, Topic};

/// The most partitions one request may create, as Kafka's `MAX_PARTITIONS_PER_BATCH`.
pub const MAX_PARTITIONS_PER_REQUEST: usize = 10_000;

/// The metadata machine. It has no timers and no effects: the broker follows the image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MetadataMachine {
    image: Image,
}

/// Records to write and the answer once they are durable.
type Decision = Result<(Vec<MetadataRecord>, Reply), MetadataError>;

impl Machine for MetadataMachine {
    type Command = Command;
    type Reply = Reply;
    type Record = MetadataRecord;
    type Timer = Infallible;
    type Effect = Infallible;

    fn handle(&mut self, _now: Millis, id: ReplyId, command: Command) -> Outcome<Self> {
        match self.decide(command) {
            Ok((records, reply)) => Outcome::answer(id, reply, records),
            Err(error) => Outcome::answer(id, Reply::Failed(error), Vec::new()),
        }
    }

    fn expire(&mut self, _now: Millis, timer: Infallible) -> Outcome<Self> {
        match timer {}
    }

    fn replay(&mut self, record: &MetadataRecord) {
        if let Err(error) = self.image.apply(record) {
            panic!("the metadata log contradicts itself: {error}");
        }
    }
}

impl MetadataMachine {
    /// A machine that goes on from `image`.
    pub fn new(image: Image) -> Self {
        Self { image }
    }

    /// The present state.
    pub fn image(&self) -> &Image {
        &self.image
    }

    fn decide(&self, command: Command) -> Decision {
        match command {
            Command::RegisterBroker {
                broker_id,
                incarnation,
                unclean,
            } => self.register_broker(broker_id, incarnation, unclean),
            Command::CreateTopic {
                name,
                id,
                partitions,
                num_partitions,
                replication_factor,
                configs,
                validate_only,
            } => {
                let (records, reply) = self.create_topic(
                    name,
                    id,
                    partitions,
                    num_partitions,
                    replication_factor,
                    configs,
                )?;
                Ok((unless(validate_only, records), reply))
            }
            Command::DeleteTopic { topic } => self.delete_topic(&topic),
            Command::CreatePartitions {
                name,
                new_count,
                assignments,
                validate_only,
            } => {
                let records = self.create_partitions(&name, new_count, assignments)?;
                Ok((unless(validate_only, records), Reply::PartitionsCreated))
            }
            Command::AllocateProducerIds {
                broker_id,
                broker_epoch,
                count,
            } => self.allocate_producer_ids(broker_id, broker_epoch, count),
            Command::AlterConfigs {
                resource,
                changes,
                seen,
                validate_only,
            } => {
                let records = self.alter_configs(&resource, changes, &seen)?;
                Ok((unless(validate_only, records), Reply::Done))
            }
            Command::ChangePartition {
                topic_id,
                partition,
                expected_partition_epoch,
                leader,
                isr,
            } => self.change_partition(topic_id, partition, expected_partition_epoch, leader, isr),
            Command::SetFeature { name, level } => self.set_feature(name, level),
        }
    }

    fn register_broker(&self, broker_id: i32, incarnation: Uuid, unclean: bool) -> Decision {
        let last = self
            .image
            .brokers
            .get(&broker_id)
            .map_or(0, |broker| broker.epoch);
        let epoch = last + 1;
        let record = MetadataRecord::RegisterBroker {
            broker_id,
            incarnation,
            broker_epoch: epoch,
            unclean,
        };
        Ok((vec![record], Reply::BrokerRegistered { epoch }))
    }

    fn allocate_producer_ids(&self, broker_id: i32, broker_epoch: i64, count: i32) -> Decision {
        if self
            .image
            .brokers
            .get(&broker_id)
            .map(|broker| broker.epoch)
            != Some(broker_epoch)
        {
            return Err(MetadataError::StaleBrokerEpoch);
        }
        if count < 1 {
            return Err(MetadataError::InvalidRequest(format!(
                "A block of {count} producer ids cannot be given."
            )));
        }
        let first = self.image.next_producer_id;
        let next_producer_id = first
            .checked_add(i64::from(count))
            .ok_or(MetadataError::ProducerIdsExhausted)?;
        let record = MetadataRecord::ProducerIds {
            broker_id,
            broker_epoch,
            next_producer_id,
        };
        Ok((vec![record], Reply::ProducerIds { first, count }))
    }

    fn alter_configs(
        &self,
        resource: &ConfigResource,
        changes: Vec<(String, Option<String>)>,
        seen: &BTreeMap<String, String>,
    ) -> Result<Vec<MetadataRecord>, MetadataError> {
        self.check_config_resource(resource)?;
        let mut names = BTreeSet::new();
        if !changes.iter().all(|(name, _)| names.insert(name)) {
            return Err(MetadataError::InvalidRequest(
                "Error due to duplicate config keys".to_owned(),
            ));
        }
        let present = self.image.resource_configs(resource);
        if *present != *seen {
            return Err(MetadataError::ConfigsChanged);
        }
        let changed = changes
            .into_iter()
            .filter(|(name, value)| present.get(name) != value.as_ref());
        let record = |(name, value)| MetadataRecord::Config {
            resource: resource.clone(),
            name,
            value,
        };
        Ok(changed.map(record).collect())
    }

    fn check_config_resource(&self, resource: &ConfigResource) -> Result<(), MetadataError> {
        match resource {
            ConfigResource::Topic(name) if !self.image.names.contains_key(name.as_str()) => {
                Err(MetadataError::UnknownTopicOrPartition)
            }
            ConfigResource::Broker(id) if !id.is_empty() && id.parse::<i32>().is_err() => Err(
                MetadataError::InvalidRequest(format!("'{id}' is not a broker id.")),
            ),
            ConfigResource::ClientMetrics(name) | ConfigResource::Group(name)
                if name.is_empty() =>
            {
                Err(MetadataError::InvalidRequest(
                    "The name of the resource is empty.".to_owned(),
                ))
            }
            _ => Ok(()),
        }
    }

    fn change_partition(
        &self,
        topic_id: Uuid,
        partition_id: i32,
        expected_partition_epoch: i32,
        leader: i32,
        isr: Vec<i32>,
    ) -> Decision {
        let topic = self
            .image
            .topic_by_id(&topic_id)
            .ok_or(MetadataError::UnknownTopicId)?;
        let partition = usize::try_from(partition_id)
            .ok()
            .and_then(|index| topic.partitions.get(index))
            .ok_or(MetadataError::UnknownTopicOrPartition)?;
        if partition.partition_epoch != expected_partition_epoch {
            return Err(MetadataError::InvalidUpdateVersion);
        }
        let distinct: BTreeSet<&i32> = isr.iter().collect();
        let isr_is_possible = !isr.is_empty()
            && distinct.len() == isr.len()
            && isr.iter().all(|id| partition.replicas.contains(id));
        if !isr_is_possible {
            return Err(MetadataError::InvalidRequest(format!(
                "The in-sync replicas {isr:?} are not a choice of the replicas {:?}.",
                partition.replicas
            )));
        }
        if leader != NO_LEADER && !isr.contains(&leader) {
            return Err(MetadataError::InvalidRequest(format!(
                "The leader {leader} is not one of the in-sync replicas {isr:?}."
            )));
        }
        let changed_isr = (isr != partition.isr).then_some(isr);
        let changed_leader = (leader != partition.leader).then_some(leader);
        if changed_isr.is_none() && changed_leader.is_none() {
            return Ok((Vec::new(), Reply::Done));
        }
        let record = MetadataRecord::PartitionChange {
            topic_id,
            partition_id,
            isr: changed_isr,
            leader: changed_leader,
        };
        Ok((vec![record], Reply::Done))
    }

    fn set_feature(&self, name: String, level: i16) -> Decision {
        if name.is_empty() || level < 0 {
            return Err(MetadataError::InvalidRequest(format!(
                "The feature '{name}' cannot have the level {level}."
            )));
        }
        if self.image.features.get(&name).copied().unwrap_or(0) == level {
            return Ok((Vec::new(), Reply::Done));
        }
        Ok((
            vec![MetadataRecord::FeatureLevel { name, level }],
            Reply::Done,
        ))
    }
}

fn unless(validate_only: bool, records: Vec<MetadataRecord>) -> Vec<MetadataRecord> {
    if validate_only { Vec::new() } else { records }
}

#[cfg(test)]
mod tests;
