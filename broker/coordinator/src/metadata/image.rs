//! The metadata image: what the records of the metadata partition add up to.
//!
//! Held by the metadata machine; the broker reads clones of it (topics and configurations are shared,
//! so a clone costs two small entries a topic). It changes by [`Image::apply`] only.
//!
//! Invariants: `names` and `topics` are inverse to each other; partitions of a topic are numbered from
//! 0 without a gap; leader epochs, partition epochs, broker epochs and the next producer id never go
//! back; a configuration belongs to something and is never empty.

use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;
use uuid::Uuid;

use crate::record::{ConfigResource, MetadataRecord};

/// The leader of a partition that has none.
pub const NO_LEADER: i32 = -1;

/// All metadata at one point of the metadata log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Image {
    /// Every topic by id.
    pub topics: BTreeMap<Uuid, Arc<Topic>>,
    /// The id of every topic name.
    pub names: BTreeMap<Arc<str>, Uuid>,
    /// What is configured away from the defaults.
    pub configs: BTreeMap<ConfigResource, Arc<BTreeMap<String, String>>>,
    /// Every broker that ever registered.
    pub brokers: BTreeMap<i32, Broker>,
    /// The first producer id that was never given out.
    pub next_producer_id: i64,
    /// Finalized features and their levels, all above 0.
    pub features: BTreeMap<String, i16>,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its id, never used again after its deletion.
    pub id: Uuid,
    /// Its name.
    pub name: Arc<str>,
    /// Its partitions; the index is the partition id.
    pub partitions: Vec<Partition>,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Broker ids, the preferred leader first.
    pub replicas: Vec<i32>,
    /// The replicas in sync.
    pub isr: Vec<i32>,
    /// The leader, or [`NO_LEADER`].
    pub leader: i32,
    /// Raised at every change of leader and after an unclean start of the leader.
    pub leader_epoch: i32,
    /// Raised at every change.
    pub partition_epoch: i32,
}

/// A broker as it registered last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Raised at every start.
    pub epoch: i64,
    /// Fresh at every start of the process.
    pub incarnation: Uuid,
}

/// A record that contradicts the image: the metadata log is damaged.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReplayError {
    /// A second topic with the same name or id.
    #[error("topic '{name}' with id {topic_id} exists already, by name or by id")]
    DuplicateTopic {
        /// Its name.
        name: String,
        /// Its id.
        topic_id: Uuid,
    },
    /// A topic id that no Topic record announced.
    #[error("no topic has the id {0}")]
    UnknownTopic(Uuid),
    /// A configuration of a topic that does not exist.
    #[error("no topic has the name '{0}', which a configuration entry names")]
    UnknownTopicName(String),
    /// A change of a partition that does not exist.
    #[error("topic {topic_id} has no partition {partition_id}")]
    UnknownPartition {
        /// The topic.
        topic_id: Uuid,
        /// The partition.
        partition_id: i32,
    },
    /// A new partition that is not the next one.
    #[error("partition {partition_id} of topic {topic_id} does not follow the {partitions} it has")]
    PartitionOutOfOrder {
        /// The topic.
        topic_id: Uuid,
        /// The partition.
        partition_id: i32,
        /// How many partitions the topic has.
        partitions: usize,
    },
    /// A broker epoch at or below the last one.
    #[error("broker {broker_id} registers with epoch {epoch} after epoch {last}")]
    BrokerEpochWentBack {
        /// The broker.
        broker_id: i32,
        /// The epoch of the record.
        epoch: i64,
        /// The epoch of the image.
        last: i64,
    },
    /// A next producer id below the last one.
    #[error("next producer id {next} is below {last}")]
    ProducerIdWentBack {
        /// The id of the record.
        next: i64,
        /// The id of the image.
        last: i64,
    },
}

impl Image {
    /// The topic of this name.
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(self.names.get(name)?)
    }

    /// The topic with this id.
    pub fn topic_by_id(&self, id: &Uuid) -> Option<&Arc<Topic>> {
        self.topics.get(id)
    }

    /// How many partitions all topics have.
    pub fn partition_count(&self) -> usize {
        self.topics
            .values()
            .map(|topic| topic.partitions.len())
            .sum()
    }

    /// What is configured for a topic; empty if nothing is.
    pub fn topic_configs(&self, name: &str) -> Arc<BTreeMap<String, String>> {
        self.resource_configs(&ConfigResource::Topic(name.to_owned()))
    }

    /// What is configured for a resource; empty if nothing is.
    pub fn resource_configs(&self, resource: &ConfigResource) -> Arc<BTreeMap<String, String>> {
        self.configs.get(resource).cloned().unwrap_or_default()
    }

    /// Applies one record. On an error the image is unchanged.
    pub fn apply(&mut self, record: &MetadataRecord) -> Result<(), ReplayError> {
        match record {
            MetadataRecord::Topic { name, topic_id } => self.add_topic(name, *topic_id),
            MetadataRecord::Partition {
                topic_id,
                partition_id,
                replicas,
                isr,
                leader,
                leader_epoch,
                partition_epoch,
            } => {
                let topic = self.topic_mut(topic_id)?;
                if usize::try_from(*partition_id) != Ok(topic.partitions.len()) {
                    return Err(ReplayError::PartitionOutOfOrder {
                        topic_id: *topic_id,
                        partition_id: *partition_id,
                        partitions: topic.partitions.len(),
                    });
                }
                topic.partitions.push(Partition {
                    replicas: replicas.clone(),
                    isr: isr.clone(),
                    leader: *leader,
                    leader_epoch: *leader_epoch,
                    partition_epoch: *partition_epoch,
                });
                Ok(())
            }
            MetadataRecord::PartitionChange {
                topic_id,
                partition_id,
                isr,
                leader,
            } => {
                let partition = self.partition_mut(topic_id, *partition_id)?;
                if let Some(isr) = isr {
                    partition.isr.clone_from(isr);
                }
                if let Some(leader) = leader {
                    partition.leader = *leader;
                    partition.leader_epoch += 1;
                }
                partition.partition_epoch += 1;
                Ok(())
            }
            MetadataRecord::Config {
                resource,
                name,
                value,
            } => self.set_config(resource, name, value.as_ref()),
            MetadataRecord::RemoveTopic { topic_id } => {
                let topic = self
                    .topics
                    .remove(topic_id)
                    .ok_or(ReplayError::UnknownTopic(*topic_id))?;
                self.names.remove(&topic.name);
                self.configs
                    .remove(&ConfigResource::Topic(topic.name.to_string()));
                Ok(())
            }
            MetadataRecord::ProducerIds {
                next_producer_id, ..
            } => {
                if *next_producer_id < self.next_producer_id {
                    return Err(ReplayError::ProducerIdWentBack {
                        next: *next_producer_id,
                        last: self.next_producer_id,
                    });
                }
                self.next_producer_id = *next_producer_id;
                Ok(())
            }
            MetadataRecord::RegisterBroker {
                broker_id,
                incarnation,
                broker_epoch,
                unclean,
            } => {
                self.register_broker(*broker_id, *incarnation, *broker_epoch)?;
                if *unclean {
                    self.raise_epochs_led_by(*broker_id);
                }
                Ok(())
            }
            MetadataRecord::FeatureLevel { name, level } => {
                if *level > 0 {
                    self.features.insert(name.clone(), *level);
                } else {
                    self.features.remove(name);
                }
                Ok(())
            }
        }
    }

    /// The records that lead from an empty image to this one: a snapshot.
    pub fn to_records(&self) -> Vec<MetadataRecord> {
        let mut records = Vec::new();
        // Features first, as in Kafka: a reader learns what it must know before it reads on.
        for (name, level) in &self.features {
            records.push(MetadataRecord::FeatureLevel {
                name: name.clone(),
                level: *level,
            });
        }
        for (broker_id, broker) in &self.brokers {
            records.push(MetadataRecord::RegisterBroker {
                broker_id: *broker_id,
                incarnation: broker.incarnation,
                broker_epoch: broker.epoch,
                unclean: false, // its effect is in the partitions below
            });
        }
        for topic in self.topics.values() {
            records.push(MetadataRecord::Topic {
                name: topic.name.to_string(),
                topic_id: topic.id,
            });
            records.extend(
                (0..)
                    .zip(&topic.partitions)
                    .map(|(index, partition)| partition.to_record(topic.id, index)),
            );
        }
        for (resource, entries) in &self.configs {
            records.extend(entries.iter().map(|(name, value)| MetadataRecord::Config {
                resource: resource.clone(),
                name: name.clone(),
                value: Some(value.clone()),
            }));
        }
        if self.next_producer_id > 0 {
            // Who got the last block is history, not state.
            records.push(MetadataRecord::ProducerIds {
                broker_id: -1,
                broker_epoch: -1,
                next_producer_id: self.next_producer_id,
            });
        }
        records
    }

    fn add_topic(&mut self, name: &str, topic_id: Uuid) -> Result<(), ReplayError> {
        if self.names.contains_key(name) || self.topics.contains_key(&topic_id) {
            return Err(ReplayError::DuplicateTopic {
                name: name.to_owned(),
                topic_id,
            });
        }
        let name: Arc<str> = name.into();
        self.names.insert(name.clone(), topic_id);
        self.topics.insert(
            topic_id,
            Arc::new(Topic {
                id: topic_id,
                name,
                partitions: Vec::new(),
            }),
        );
        Ok(())
    }

    fn topic_mut(&mut self, topic_id: &Uuid) -> Result<&mut Topic, ReplayError> {
        let topic = self
            .topics
            .get_mut(topic_id)
            .ok_or(ReplayError::UnknownTopic(*topic_id))?;
        Ok(Arc::make_mut(topic))
    }

    fn partition_mut(
        &mut self,
        topic_id: &Uuid,
        partition_id: i32,
    ) -> Result<&mut Partition, ReplayError> {
        let index = usize::try_from(partition_id).unwrap_or(usize::MAX);
        let unknown = ReplayError::UnknownPartition {
            topic_id: *topic_id,
            partition_id,
        };
        self.topic_mut(topic_id)?
            .partitions
            .get_mut(index)
            .ok_or(unknown)
    }

    fn set_config(
        &mut self,
        resource: &ConfigResource,
        name: &str,
        value: Option<&String>,
    ) -> Result<(), ReplayError> {
        if let ConfigResource::Topic(topic) = resource
            && !self.names.contains_key(topic.as_str())
        {
            return Err(ReplayError::UnknownTopicName(topic.clone()));
        }
        match value {
            Some(value) => {
                let entries = self.configs.entry(resource.clone()).or_default();
                Arc::make_mut(entries).insert(name.to_owned(), value.clone());
            }
            None => {
                if let Some(entries) = self.configs.get_mut(resource) {
                    Arc::make_mut(entries).remove(name);
                    if entries.is_empty() {
                        self.configs.remove(resource);
                    }
                }
            }
        }
        Ok(())
    }

    fn register_broker(
        &mut self,
        broker_id: i32,
        incarnation: Uuid,
        epoch: i64,
    ) -> Result<(), ReplayError> {
        if let Some(broker) = self.brokers.get(&broker_id)
            && epoch <= broker.epoch
        {
            return Err(ReplayError::BrokerEpochWentBack {
                broker_id,
                epoch,
                last: broker.epoch,
            });
        }
        self.brokers
            .insert(broker_id, Broker { epoch, incarnation });
        Ok(())
    }

    fn raise_epochs_led_by(&mut self, broker_id: i32) {
        for topic in self.topics.values_mut() {
            if !topic
                .partitions
                .iter()
                .any(|partition| partition.leader == broker_id)
            {
                continue; // do not copy what stays as it is
            }
            for partition in &mut Arc::make_mut(topic).partitions {
                if partition.leader == broker_id {
                    partition.leader_epoch += 1;
                    partition.partition_epoch += 1;
                }
            }
        }
    }
}

impl Partition {
    /// The record that creates a partition in this state.
    pub(super) fn to_record(&self, topic_id: Uuid, partition_id: i32) -> MetadataRecord {
        MetadataRecord::Partition {
            topic_id,
            partition_id,
            replicas: self.replicas.clone(),
            isr: self.isr.clone(),
            leader: self.leader,
            leader_epoch: self.leader_epoch,
            partition_epoch: self.partition_epoch,
        }
    }
}
