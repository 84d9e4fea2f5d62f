//! The records of the metadata partition, in the encoding of Kafka's own metadata records.
//!
//! Each record is a frame version (1), an API key and a record version as unsigned varints, then the
//! flexible body of that schema (`common/metadata/*.json` of Kafka). Written by the metadata machine
//! through the driver, read back at start. Decoding never panics and never allocates more than the
//! bytes at hand justify; unknown tagged fields are skipped, anything else unknown is an error,
//! because a record that is half understood is damage.

use std::fmt;

use thiserror::Error;
use uuid::Uuid;

use crate::wire::{self, Reader, WireError};

/// Kafka's `AbstractApiMessageSerde` writes this before every record.
const FRAME_VERSION: u32 = 1;

/// Tag of our own field of RegisterBroker: far above the tags Kafka hands out one by one.
const UNCLEAN_SHUTDOWN_TAG: u32 = 10_000;

/// In a PartitionChange: the leader is not changed.
const NO_LEADER_CHANGE: i32 = -2;

mod api_key {
    pub const REGISTER_BROKER: u32 = 0;
    pub const TOPIC: u32 = 2;
    pub const PARTITION: u32 = 3;
    pub const CONFIG: u32 = 4;
    pub const PARTITION_CHANGE: u32 = 5;
    pub const REMOVE_TOPIC: u32 = 9;
    pub const FEATURE_LEVEL: u32 = 12;
    pub const PRODUCER_IDS: u32 = 15;
}

/// One change of the cluster's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataRecord {
    /// A topic exists from here on; its Partition records follow in the same append.
    Topic {
        /// Its name.
        name: String,
        /// Its id.
        topic_id: Uuid,
    },
    /// A partition is added; partitions of a topic come in order from 0.
    Partition {
        /// The topic it belongs to.
        topic_id: Uuid,
        /// Its index in the topic.
        partition_id: i32,
        /// Broker ids, the preferred leader first.
        replicas: Vec<i32>,
        /// The replicas in sync.
        isr: Vec<i32>,
        /// The leader, -1 for none.
        leader: i32,
        /// Raised at every change of leader and after an unclean start.
        leader_epoch: i32,
        /// Raised at every change.
        partition_epoch: i32,
    },
    /// A partition's leader or in-sync replicas change. Raises the partition epoch by one.
    PartitionChange {
        /// The topic it belongs to.
        topic_id: Uuid,
        /// Its index in the topic.
        partition_id: i32,
        /// The new in-sync replicas, if they change.
        isr: Option<Vec<i32>>,
        /// The new leader (-1: none), if it changes. Raises the leader epoch by one.
        leader: Option<i32>,
    },
    /// A configuration entry is set, or removed when there is no value.
    Config {
        /// Whose configuration.
        resource: ConfigResource,
        /// The property.
        name: String,
        /// Its value.
        value: Option<String>,
    },
    /// A topic with its partitions and configuration is gone.
    RemoveTopic {
        /// Which one.
        topic_id: Uuid,
    },
    /// A block of producer ids was given out.
    ProducerIds {
        /// To which broker.
        broker_id: i32,
        /// At which of its epochs.
        broker_epoch: i64,
        /// The first id of the next block.
        next_producer_id: i64,
    },
    /// A broker has started.
    RegisterBroker {
        /// Its node id.
        broker_id: i32,
        /// Fresh at every start of the process.
        incarnation: Uuid,
        /// Raised at every start.
        broker_epoch: i64,
        /// Its last stop was not clean, so a tail of its logs may be lost: the leader epoch and the
        /// partition epoch of every partition it leads are raised (KIP-320).
        unclean: bool,
    },
    /// A feature is finalized at a level; 0 removes it.
    FeatureLevel {
        /// The feature.
        name: String,
        /// Its level.
        level: i16,
    },
}

/// What can have a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConfigResource {
    /// A topic, by name.
    Topic(String),
    /// A broker, by its id in decimal; the empty string is the default of all brokers.
    Broker(String),
    /// A client metrics subscription, by name.
    ClientMetrics(String),
    /// A group, by id.
    Group(String),
}

impl ConfigResource {
    /// The code of the kind, as in Kafka's `ConfigResource.Type`.
    pub fn type_code(&self) -> i8 {
        match self {
            Self::Topic(_) => 2,
            Self::Broker(_) => 4,
            Self::ClientMetrics(_) => 16,
            Self::Group(_) => 32,
        }
    }

    /// Its name; may be empty.
    pub fn name(&self) -> &str {
        match self {
            Self::Topic(name)
            | Self::Broker(name)
            | Self::ClientMetrics(name)
            | Self::Group(name) => name,
        }
    }

    fn from_code(code: i8, name: String) -> Result<Self, RecordError> {
        match code {
            2 => Ok(Self::Topic(name)),
            4 => Ok(Self::Broker(name)),
            16 => Ok(Self::ClientMetrics(name)),
            32 => Ok(Self::Group(name)),
            other => Err(RecordError::UnknownResourceType(other)),
        }
    }
}

impl fmt::Display for ConfigResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Topic(_) => "topic",
            Self::Broker(_) => "broker",
            Self::ClientMetrics(_) => "client-metrics",
            Self::Group(_) => "group",
        };
        write!(f, "{kind} '{}'", self.name())
    }
}

/// Why bytes are not a metadata record of this version.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RecordError {
    /// The frame has another version.
    #[error("metadata record frame version {0} is not known")]
    UnknownFrame(u32),
    /// A record of a kind this version does not know.
    #[error("metadata record api key {0} is not known")]
    UnknownApiKey(u32),
    /// A record written by a newer version.
    #[error(
        "metadata record api key {api_key} has version {version}, which is newer than this broker"
    )]
    UnknownVersion {
        /// The kind.
        api_key: u32,
        /// Its version.
        version: u32,
    },
    /// A Config record for a kind of resource this version does not know.
    #[error("config resource type {0} is not known")]
    UnknownResourceType(i8),
    /// A field of Kafka's schema that this version never writes and must not ignore.
    #[error("metadata record carries {0}, which this broker does not implement")]
    Unsupported(&'static str),
    /// The bytes are damaged.
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl MetadataRecord {
    fn api_key(&self) -> u32 {
        match self {
            Self::Topic { .. } => api_key::TOPIC,
            Self::Partition { .. } => api_key::PARTITION,
            Self::PartitionChange { .. } => api_key::PARTITION_CHANGE,
            Self::Config { .. } => api_key::CONFIG,
            Self::RemoveTopic { .. } => api_key::REMOVE_TOPIC,
            Self::ProducerIds { .. } => api_key::PRODUCER_IDS,
            Self::RegisterBroker { .. } => api_key::REGISTER_BROKER,
            Self::FeatureLevel { .. } => api_key::FEATURE_LEVEL,
        }
    }

    /// The record's bytes, the value of a record in the metadata partition.
    pub fn encode(&self) -> Vec<u8> {
        let mut buf = Vec::with_capacity(64);
        wire::put_uvarint(&mut buf, FRAME_VERSION);
        wire::put_uvarint(&mut buf, self.api_key());
        wire::put_uvarint(&mut buf, 0); // every kind is written at version 0
        self.put_body(&mut buf);
        buf
    }

    fn put_body(&self, buf: &mut Vec<u8>) {
        let mut tags: Vec<(u32, Vec<u8>)> = Vec::new();
        match self {
            Self::Topic { name, topic_id } => {
                wire::put_string(buf, name);
                buf.extend_from_slice(topic_id.as_bytes());
            }
            Self::Partition {
                topic_id,
                partition_id,
                replicas,
                isr,
                leader,
                leader_epoch,
                partition_epoch,
            } => {
                buf.extend_from_slice(&partition_id.to_be_bytes());
                buf.extend_from_slice(topic_id.as_bytes());
                wire::put_i32_array(buf, replicas);
                wire::put_i32_array(buf, isr);
                wire::put_i32_array(buf, &[]); // removing replicas
                wire::put_i32_array(buf, &[]); // adding replicas
                buf.extend_from_slice(&leader.to_be_bytes());
                buf.extend_from_slice(&leader_epoch.to_be_bytes());
                buf.extend_from_slice(&partition_epoch.to_be_bytes());
            }
            Self::PartitionChange {
                topic_id,
                partition_id,
                isr,
                leader,
            } => {
                buf.extend_from_slice(&partition_id.to_be_bytes());
                buf.extend_from_slice(topic_id.as_bytes());
                if let Some(isr) = isr {
                    let mut bytes = Vec::new();
                    wire::put_i32_array(&mut bytes, isr);
                    tags.push((0, bytes));
                }
                if let Some(leader) = leader {
                    tags.push((1, leader.to_be_bytes().to_vec()));
                }
            }
            Self::Config {
                resource,
                name,
                value,
            } => {
                buf.extend_from_slice(&resource.type_code().to_be_bytes());
                wire::put_string(buf, resource.name());
                wire::put_string(buf, name);
                wire::put_nullable_string(buf, value.as_deref());
            }
            Self::RemoveTopic { topic_id } => buf.extend_from_slice(topic_id.as_bytes()),
            Self::ProducerIds {
                broker_id,
                broker_epoch,
                next_producer_id,
            } => {
                buf.extend_from_slice(&broker_id.to_be_bytes());
                buf.extend_from_slice(&broker_epoch.to_be_bytes());
                buf.extend_from_slice(&next_producer_id.to_be_bytes());
            }
            Self::RegisterBroker {
                broker_id,
                incarnation,
                broker_epoch,
                unclean,
            } => {
                buf.extend_from_slice(&broker_id.to_be_bytes());
                buf.extend_from_slice(incarnation.as_bytes());
                buf.extend_from_slice(&broker_epoch.to_be_bytes());
                wire::put_uvarint(buf, 1); // no endpoints: listeners are the broker's own matter on one node
                wire::put_uvarint(buf, 1); // no feature ranges
                wire::put_nullable_string(buf, None); // rack, likewise
                buf.push(0); // not fenced
                if *unclean {
                    tags.push((UNCLEAN_SHUTDOWN_TAG, vec![1]));
                }
            }
            Self::FeatureLevel { name, level } => {
                wire::put_string(buf, name);
                buf.extend_from_slice(&level.to_be_bytes());
            }
        }
        wire::put_tags(buf, &tags);
    }

    /// The record in `bytes`, which must hold it and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut reader = Reader::new(bytes);
        let frame = reader.uvarint()?;
        if frame != FRAME_VERSION {
            return Err(RecordError::UnknownFrame(frame));
        }
        let api_key = reader.uvarint()?;
        let version = reader.uvarint()?;
        let decode_body = match api_key {
            api_key::TOPIC => decode_topic,
            api_key::PARTITION => decode_partition,
            api_key::PARTITION_CHANGE => decode_partition_change,
            api_key::CONFIG => decode_config,
            api_key::REMOVE_TOPIC => decode_remove_topic,
            api_key::PRODUCER_IDS => decode_producer_ids,
            api_key::REGISTER_BROKER => decode_register_broker,
            api_key::FEATURE_LEVEL => decode_feature_level,
            other => return Err(RecordError::UnknownApiKey(other)),
        };
        if version != 0 {
            return Err(RecordError::UnknownVersion { api_key, version });
        }
        let record = decode_body(&mut reader)?;
        reader.finish()?;
        Ok(record)
    }
}

fn decode_topic(reader: &mut Reader<'_>) -> Result<MetadataRecord, RecordError> {
    let name = reader.string()?.to_owned();
    let topic_id = reader.uuid()?;
    reader.skip_tags()?;
    Ok(MetadataRecord::Topic { name, topic_id })
}

fn decode_partition(reader: &mut Reader<'_>) -> Result<MetadataRecord, RecordError> {
    let partition_id = reader.i32()?;
    let topic_id = reader.uuid()?;
    let replicas = reader.i32_array()?;
    let isr = reader.i32_array()?;
    let removing = reader.i32_array()?;
    let adding = reader.i32_array()?;
    if !removing.is_empty() || !adding.is_empty() {
        return Err(RecordError::Unsupported("a partition reassignment"));
    }
    let leader = reader.i32()?;
    let leader_epoch = reader.i32()?;
    let partition_epoch = reader.i32()?;
    reader.tags(|tag, _| match tag {
        0 => Err(RecordError::Unsupported("a leader recovery state")),
        _ => Ok(()),
    })?;
    Ok(MetadataRecord::Partition {
        topic_id,
        partition_id,
        replicas,
        isr,
        leader,
        leader_epoch,
        partition_epoch,
    })
}

fn decode_partition_change(reader: &mut Reader<'_>) -> Result<MetadataRecord, RecordError> {
    let partition_id = reader.i32()?;
    let topic_id = reader.uuid()?;
    let (mut isr, mut leader) = (None, None);
    reader.tags(|tag, mut field| {
        match tag {
            0 => isr = field.nullable_i32_array()?,
            1 => leader = Some(field.i32()?).filter(|leader| *leader != NO_LEADER_CHANGE),
            2..=4 => return Err(RecordError::Unsupported("a partition reassignment")),
            5 => return Err(RecordError::Unsupported("a leader recovery state")),
            _ => {}
        }
        Ok(())
    })?;
    Ok(MetadataRecord::PartitionChange {
        topic_id,
        partition_id,
        isr,
        leader,
    })
}

fn decode_config(reader: &mut Reader<'_>) -> Result<MetadataRecord, RecordError> {
    let type_code = reader.i8()?;
    let resource = ConfigResource::from_code(type_code, reader.string()?.to_owned())?;
    let name = reader.string()?.to_owned();
    let value = reader.nullable_string()?.map(str::to_owned);
    reader.skip_tags()?;
    Ok(MetadataRecord::Config {
        resource,
        name,
        value,
    })
}

fn decode_remove_topic(reader: &mut Reader<'_>) -> Result<MetadataRecord, RecordError> {
    let topic_id = reader.uuid()?;
    reader.skip_tags()?;
    Ok(MetadataRecord::RemoveTopic { topic_id })
}

fn decode_producer_ids(reader: &mut Reader<'_>) -> Result<MetadataRecord, RecordError> {
    let broker_id = reader.i32()?;
    let broker_epoch = reader.i64()?;
    let next_producer_id = reader.i64()?;
    reader.skip_tags()?;
    Ok(MetadataRecord::ProducerIds {
        broker_id,
        broker_epoch,
        next_producer_id,
    })
}

fn decode_register_broker(reader: &mut Reader<'_>) -> Result<MetadataRecord, RecordError> {
    let broker_id = reader.i32()?;
    let incarnation = reader.uuid()?;
    let broker_epoch = reader.i64()?;
    // Endpoints, feature ranges, rack and the fenced flag say nothing yet; Kafka's layout is kept.
    for _ in 0..reader.array_len(7)? {
        reader.string()?; // name
        reader.string()?; // host
        reader.i16()?; // port
        reader.i16()?; // security protocol
        reader.skip_tags()?;
    }
    for _ in 0..reader.array_len(6)? {
        reader.string()?; // name
        reader.i16()?; // min supported version
        reader.i16()?; // max supported version
        reader.skip_tags()?;
    }
    reader.nullable_string()?; // rack
    reader.bool()?; // fenced
    let mut unclean = false;
    reader.tags(|tag, mut field| {
        if tag == UNCLEAN_SHUTDOWN_TAG {
            unclean = field.bool()?;
        }
        Ok::<(), WireError>(())
    })?;
    Ok(MetadataRecord::RegisterBroker {
        broker_id,
        incarnation,
        broker_epoch,
        unclean,
    })
}

fn decode_feature_level(reader: &mut Reader<'_>) -> Result<MetadataRecord, RecordError> {
    let name = reader.string()?.to_owned();
    let level = reader.i16()?;
    reader.skip_tags()?;
    Ok(MetadataRecord::FeatureLevel { name, level })
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
