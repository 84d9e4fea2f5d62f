//! The metadata machine's decisions about topics: create, delete, add partitions.
//!
//! Called by `MetadataMachine::decide` only. Texts are those Kafka's controller gives, because tools
//! and tests match on them.

use std::collections::BTreeMap;
use std::ops::Bound;

use uuid::Uuid;

use super::{
    ConfigResource, Decision, MAX_PARTITIONS_PER_REQUEST, MetadataError, MetadataMachine,
    NO_LEADER, Partition, Reply, TopicRef, assignment, topic_name,
};
use crate::record::MetadataRecord;

impl MetadataMachine {
    pub(super) fn create_topic(
        &self,
        name: String,
        id: Uuid,
        assignments: Option<Vec<Vec<i32>>>,
        num_partitions: i32,
        replication_factor: i16,
        configs: BTreeMap<String, String>,
    ) -> Decision {
        self.check_new_topic(&name, id)?;
        let assignments = match assignments {
            Some(assignments) => {
                self.check_assigned_topic(&assignments, num_partitions, replication_factor)?;
                assignments
            }
            None => self.place_topic(id, num_partitions, replication_factor)?,
        };
        let created = Reply::TopicCreated {
            id,
            num_partitions: count_i32(assignments.len()),
            replication_factor: i16::try_from(assignments.first().map_or(0, Vec::len)).map_err(
                |_| {
                    MetadataError::InvalidReplicationFactor(
                        "A partition has at most 32767 replicas.".to_owned(),
                    )
                },
            )?,
        };
        let mut records = vec![MetadataRecord::Topic {
            name: name.clone(),
            topic_id: id,
        }];
        for (key, value) in configs {
            records.push(MetadataRecord::Config {
                resource: ConfigResource::Topic(name.clone()),
                name: key,
                value: Some(value),
            });
        }
        records.extend(
            (0..)
                .zip(assignments)
                .map(|(index, replicas)| new_partition(replicas).to_record(id, index)),
        );
        Ok((records, created))
    }

    fn check_new_topic(&self, name: &str, id: Uuid) -> Result<(), MetadataError> {
        topic_name::validate(name)?;
        if name == topic_name::CLUSTER_METADATA {
            return Err(MetadataError::InvalidRequest(format!(
                "Creation of internal topic {name} is prohibited."
            )));
        }
        if self.image.names.contains_key(name) {
            return Err(MetadataError::TopicAlreadyExists(name.to_owned()));
        }
        if let Some(existing) = self.colliding_topic(name) {
            return Err(MetadataError::InvalidTopicName(format!(
                "Topic '{name}' collides with existing topic: {existing}"
            )));
        }
        // Zero means "no id" on the wire, and one is the metadata topic's (Kafka's Uuid.RESERVED).
        if id.as_u128() <= 1 || self.image.topics.contains_key(&id) {
            return Err(MetadataError::InvalidRequest(format!(
                "The topic ID {id} is not free."
            )));
        }
        Ok(())
    }

    fn colliding_topic(&self, name: &str) -> Option<&str> {
        let prefix = topic_name::collision_prefix(name)?;
        let mut same_prefix = self
            .image
            .names
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .map(|(other, _)| &**other)
            .take_while(|other| other.starts_with(prefix));
        same_prefix.find(|other| topic_name::collide(name, other))
    }

    fn check_assigned_topic(
        &self,
        assignments: &[Vec<i32>],
        num_partitions: i32,
        replication_factor: i16,
    ) -> Result<(), MetadataError> {
        let unwanted = if replication_factor != -1 {
            Some("replication factor")
        } else if num_partitions != -1 {
            Some("numPartitions")
        } else {
            None
        };
        if let Some(unwanted) = unwanted {
            return Err(MetadataError::InvalidRequest(format!(
                "A manual partition assignment was specified, but {unwanted} was not set to -1."
            )));
        }
        check_partitions_per_request(assignments.len())?;
        assignment::check_manual(assignments, &self.image.brokers, None)?;
        Ok(())
    }

    fn place_topic(
        &self,
        id: Uuid,
        num_partitions: i32,
        replication_factor: i16,
    ) -> Result<Vec<Vec<i32>>, MetadataError> {
        let replication_factor = match replication_factor {
            -1 => 1,
            1.. => replication_factor as usize,
            _ => {
                return Err(MetadataError::InvalidReplicationFactor(
                    "Replication factor must be larger than 0, or -1 to use the default value."
                        .to_owned(),
                ));
            }
        };
        let num_partitions = match num_partitions {
            -1 => 1,
            1.. => num_partitions as usize,
            _ => {
                return Err(MetadataError::InvalidPartitions(
                    "Number of partitions was set to an invalid non-positive value.".to_owned(),
                ));
            }
        };
        check_partitions_per_request(num_partitions)?;
        assignment::place(
            &self.image.brokers,
            id.as_u128(),
            0,
            num_partitions,
            replication_factor,
        )
    }

    pub(super) fn delete_topic(&self, topic: &TopicRef) -> Decision {
        let topic = match topic {
            TopicRef::Name(name) => self
                .image
                .topic(name)
                .ok_or(MetadataError::UnknownTopicOrPartition)?,
            TopicRef::Id(id) => self
                .image
                .topic_by_id(id)
                .ok_or(MetadataError::UnknownTopicId)?,
        };
        let deleted = Reply::TopicDeleted {
            id: topic.id,
            name: topic.name.to_string(),
        };
        Ok((
            vec![MetadataRecord::RemoveTopic { topic_id: topic.id }],
            deleted,
        ))
    }

    pub(super) fn create_partitions(
        &self,
        name: &str,
        new_count: i32,
        assignments: Option<Vec<Vec<i32>>>,
    ) -> Result<Vec<MetadataRecord>, MetadataError> {
        let topic = self
            .image
            .topic(name)
            .ok_or(MetadataError::UnknownTopicOrPartition)?;
        let present = topic.partitions.len();
        let wanted = usize::try_from(new_count).unwrap_or(0);
        if wanted == present {
            return Err(MetadataError::InvalidPartitions(format!(
                "Topic already has {present} partition(s)."
            )));
        }
        if wanted < present {
            return Err(MetadataError::InvalidPartitions(format!(
                "The topic {name} currently has {present} partition(s); {new_count} would not be an increase."
            )));
        }
        let added = wanted - present;
        check_partitions_per_request(added)?;
        let replication_factor = topic
            .partitions
            .first()
            .map_or(1, |partition| partition.replicas.len());
        let assignments = match assignments {
            Some(assignments) if assignments.len() != added => {
                return Err(MetadataError::InvalidReplicaAssignment(format!(
                    "Attempted to add {added} additional partition(s), but only {} assignment(s) were specified.",
                    assignments.len()
                )));
            }
            Some(assignments) => {
                assignment::check_manual(
                    &assignments,
                    &self.image.brokers,
                    Some(replication_factor),
                )?;
                assignments
            }
            None => {
                let spread = topic.id.as_u128();
                assignment::place(
                    &self.image.brokers,
                    spread,
                    present,
                    added,
                    replication_factor,
                )?
            }
        };
        let record =
            |(index, replicas)| new_partition(replicas).to_record(topic.id, count_i32(index));
        Ok((present..).zip(assignments).map(record).collect())
    }
}

fn check_partitions_per_request(count: usize) -> Result<(), MetadataError> {
    if count > MAX_PARTITIONS_PER_REQUEST {
        return Err(MetadataError::PolicyViolation(
            "Excessively large number of partitions per request.".to_owned(),
        ));
    }
    Ok(())
}

/// A partition at its creation: led by its preferred replica, all replicas in sync.
fn new_partition(replicas: Vec<i32>) -> Partition {
    Partition {
        isr: replicas.clone(),
        leader: replicas.first().copied().unwrap_or(NO_LEADER),
        leader_epoch: 0,
        partition_epoch: 0,
        replicas,
    }
}

fn count_i32(count: usize) -> i32 {
    i32::try_from(count).expect("partition counts are checked to fit an int32")
}
