//! The records of `__consumer_offsets`, byte for byte as Kafka 4.3 writes them.
//!
//! A key is its kind as int16 (`CoordinatorRecordType`; 0 and 1 are both an offset, 2 a group), then plain fields;
//! a value is its version as int16, then the fields of that version (`common/message/*.json` of Kafka); no value
//! is a tombstone. Written by the group machine through the driver, read back at start, and by Kafka's own
//! console formatters. All value versions are read; written are those that Kafka's
//! `GroupCoordinatorRecordHelpers` chooses: groups at 3, offsets at 4, or at 1 when they carry their own expiry.
//! Decoding never panics and never allocates more than the bytes at hand justify.

use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;
use uuid::Uuid;

use crate::wire::{self, Reader, WireError};

/// The longest string a key can carry; what comes in by a flexible request may be longer.
pub const MAX_STRING: usize = i16::MAX as usize;

mod key_type {
    pub const LEGACY_OFFSET_COMMIT: i16 = 0;
    pub const OFFSET_COMMIT: i16 = 1;
    pub const GROUP_METADATA: i16 = 2;
}

const OFFSET_VERSION: i16 = 4;
const OFFSET_VERSION_WITH_EXPIRY: i16 = 1;
const GROUP_VERSION: i16 = 3;
/// The highest version of both values.
const NEWEST_VERSION: i16 = 4;
/// The first flexible version of both values.
const FLEXIBLE_VERSION: i16 = 4;

/// One change of the hard state of groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupRecord {
    /// An offset is committed, or forgotten when there is no value.
    OffsetCommit {
        /// The group.
        group: Arc<str>,
        /// The topic.
        topic: Arc<str>,
        /// The partition of the topic.
        partition: i32,
        /// What is committed.
        value: Option<OffsetCommitValue>,
    },
    /// A group has a new generation or membership, or is gone when there is no value.
    GroupMetadata {
        /// The group.
        group: Arc<str>,
        /// All of it.
        value: Option<Arc<GroupMetadataValue>>,
    },
}

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetCommitValue {
    /// The offset.
    pub offset: i64,
    /// The leader epoch of the last consumed record, -1 if unknown.
    pub leader_epoch: i32,
    /// What the client wants to keep with it.
    pub metadata: Arc<str>,
    /// When it was committed, in milliseconds.
    pub commit_timestamp: i64,
    /// When it expires, in milliseconds, if the commit itself said so (OffsetCommit 2-4).
    pub expire_timestamp: Option<i64>,
    /// The topic's id; nil if the commit named the topic only.
    pub topic_id: Uuid,
}

/// A classic group at the end of a rebalance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMetadataValue {
    /// The protocol type, such as `consumer`; empty for a group that never had members.
    pub protocol_type: String,
    /// The generation.
    pub generation: i32,
    /// The selected protocol; none without members.
    pub protocol: Option<String>,
    /// The leader's member id; none without members.
    pub leader: Option<String>,
    /// When the group came into its state, in milliseconds, -1 if unknown.
    pub current_state_timestamp: i64,
    /// The members, each with its assignment.
    pub members: Vec<MemberMetadata>,
}

/// A member of a group at the end of a rebalance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberMetadata {
    /// Its member id.
    pub member_id: String,
    /// Its instance id, if it is a static member.
    pub group_instance_id: Option<String>,
    /// The client's id.
    pub client_id: String,
    /// The client's host.
    pub client_host: String,
    /// In milliseconds; -1 in version 0, where the session timeout counts.
    pub rebalance_timeout: i32,
    /// In milliseconds.
    pub session_timeout: i32,
    /// Its metadata for the selected protocol.
    pub subscription: Bytes,
    /// What the leader assigned to it.
    pub assignment: Bytes,
}

/// Why bytes are not a record of `__consumer_offsets` that this version knows.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GroupRecordError {
    /// There is no key.
    #[error("a record of __consumer_offsets without a key")]
    NoKey,
    /// The key is of a kind this version does not know.
    #[error("record key type {0} of __consumer_offsets is not known")]
    UnknownKeyType(i16),
    /// The value was written by a newer version.
    #[error("record value version {version} of key type {key_type} is not known")]
    UnknownVersion {
        /// The kind of the key.
        key_type: i16,
        /// The value's version.
        version: i16,
    },
    /// The bytes are damaged.
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl GroupRecord {
    /// The group it is about.
    pub fn group(&self) -> &Arc<str> {
        match self {
            Self::OffsetCommit { group, .. } | Self::GroupMetadata { group, .. } => group,
        }
    }

    /// The key and the value of the record in the log.
    pub fn encode(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        let mut key = Vec::with_capacity(64);
        match self {
            Self::OffsetCommit {
                group,
                topic,
                partition,
                value,
            } => {
                key.extend_from_slice(&key_type::OFFSET_COMMIT.to_be_bytes());
                wire::put_plain_string(&mut key, group);
                wire::put_plain_string(&mut key, topic);
                key.extend_from_slice(&partition.to_be_bytes());
                (key, value.as_ref().map(OffsetCommitValue::encode))
            }
            Self::GroupMetadata { group, value } => {
                key.extend_from_slice(&key_type::GROUP_METADATA.to_be_bytes());
                wire::put_plain_string(&mut key, group);
                (key, value.as_ref().map(|value| value.encode()))
            }
        }
    }

    /// Reads a record's key and value.
    ///
    /// # Errors
    /// What is unknown or damaged.
    pub fn decode(key: Option<&[u8]>, value: Option<&[u8]>) -> Result<Self, GroupRecordError> {
        let mut reader = Reader::new(key.ok_or(GroupRecordError::NoKey)?);
        let key_type = reader.i16()?;
        let record = match key_type {
            key_type::LEGACY_OFFSET_COMMIT | key_type::OFFSET_COMMIT => Self::OffsetCommit {
                group: reader.plain_string()?.into(),
                topic: reader.plain_string()?.into(),
                partition: reader.i32()?,
                value: decode_value(key_type, value, OffsetCommitValue::decode)?,
            },
            key_type::GROUP_METADATA => Self::GroupMetadata {
                group: reader.plain_string()?.into(),
                value: decode_value(key_type, value, GroupMetadataValue::decode)?.map(Arc::new),
            },
            other => return Err(GroupRecordError::UnknownKeyType(other)),
        };
        reader.finish()?;
        Ok(record)
    }
}

fn decode_value<T>(
    key_type: i16,
    value: Option<&[u8]>,
    decode: impl FnOnce(&mut Reader<'_>, i16) -> Result<T, WireError>,
) -> Result<Option<T>, GroupRecordError> {
    let Some(value) = value else {
        return Ok(None);
    };
    let mut reader = Reader::new(value);
    let version = reader.i16()?;
    if !(0..=NEWEST_VERSION).contains(&version) {
        return Err(GroupRecordError::UnknownVersion { key_type, version });
    }
    let decoded = decode(&mut reader, version)?;
    reader.finish()?;
    Ok(Some(decoded))
}

impl OffsetCommitValue {
    fn encode(&self) -> Vec<u8> {
        let mut buf = Vec::with_capacity(48 + self.metadata.len());
        match self.expire_timestamp {
            // A client that sets an expiry cannot send a leader epoch, so nothing is lost at version 1.
            Some(expire_timestamp) => {
                buf.extend_from_slice(&OFFSET_VERSION_WITH_EXPIRY.to_be_bytes());
                buf.extend_from_slice(&self.offset.to_be_bytes());
                wire::put_plain_string(&mut buf, &self.metadata);
                buf.extend_from_slice(&self.commit_timestamp.to_be_bytes());
                buf.extend_from_slice(&expire_timestamp.to_be_bytes());
            }
            None => {
                buf.extend_from_slice(&OFFSET_VERSION.to_be_bytes());
                buf.extend_from_slice(&self.offset.to_be_bytes());
                buf.extend_from_slice(&self.leader_epoch.to_be_bytes());
                wire::put_string(&mut buf, &self.metadata);
                buf.extend_from_slice(&self.commit_timestamp.to_be_bytes());
                let mut tags = Vec::new();
                if !self.topic_id.is_nil() {
                    tags.push((0, self.topic_id.as_bytes().to_vec()));
                }
                wire::put_tags(&mut buf, &tags);
            }
        }
        buf
    }

    fn decode(reader: &mut Reader<'_>, version: i16) -> Result<Self, WireError> {
        let offset = reader.i64()?;
        let leader_epoch = if version >= 3 { reader.i32()? } else { -1 };
        let metadata = if version >= FLEXIBLE_VERSION {
            reader.string()?
        } else {
            reader.plain_string()?
        };
        let commit_timestamp = reader.i64()?;
        let expire_timestamp = if version == 1 { reader.i64()? } else { -1 };
        let mut topic_id = Uuid::nil();
        if version >= FLEXIBLE_VERSION {
            reader.tags(|tag, mut field| {
                if tag == 0 {
                    topic_id = field.uuid()?;
                }
                Ok::<(), WireError>(())
            })?;
        }
        Ok(Self {
            offset,
            leader_epoch,
            metadata: metadata.into(),
            commit_timestamp,
            expire_timestamp: Some(expire_timestamp).filter(|at| *at != -1),
            topic_id,
        })
    }
}

impl GroupMetadataValue {
    fn encode(&self) -> Vec<u8> {
        let mut buf = Vec::with_capacity(128);
        buf.extend_from_slice(&GROUP_VERSION.to_be_bytes());
        wire::put_plain_string(&mut buf, &self.protocol_type);
        buf.extend_from_slice(&self.generation.to_be_bytes());
        wire::put_plain_nullable_string(&mut buf, self.protocol.as_deref());
        wire::put_plain_nullable_string(&mut buf, self.leader.as_deref());
        buf.extend_from_slice(&self.current_state_timestamp.to_be_bytes());
        let count = i32::try_from(self.members.len()).expect("a group has fewer than 2^31 members");
        buf.extend_from_slice(&count.to_be_bytes());
        for member in &self.members {
            wire::put_plain_string(&mut buf, &member.member_id);
            wire::put_plain_nullable_string(&mut buf, member.group_instance_id.as_deref());
            wire::put_plain_string(&mut buf, &member.client_id);
            wire::put_plain_string(&mut buf, &member.client_host);
            buf.extend_from_slice(&member.rebalance_timeout.to_be_bytes());
            buf.extend_from_slice(&member.session_timeout.to_be_bytes());
            wire::put_plain_bytes(&mut buf, &member.subscription);
            wire::put_plain_bytes(&mut buf, &member.assignment);
        }
        buf
    }

    fn decode(reader: &mut Reader<'_>, version: i16) -> Result<Self, WireError> {
        let protocol_type = string(reader, version)?;
        let generation = reader.i32()?;
        let protocol = nullable_string(reader, version)?;
        let leader = nullable_string(reader, version)?;
        let current_state_timestamp = if version >= 2 { reader.i64()? } else { -1 };
        // The fewest bytes of a member: three strings, a timeout and two byte fields.
        let members = if version >= FLEXIBLE_VERSION {
            reader.array_len(15)?
        } else {
            reader.plain_array_len(18)?
        };
        let members = (0..members)
            .map(|_| MemberMetadata::decode(reader, version))
            .collect::<Result<_, _>>()?;
        skip_tags(reader, version)?;
        Ok(Self {
            protocol_type,
            generation,
            protocol,
            leader,
            current_state_timestamp,
            members,
        })
    }
}

impl MemberMetadata {
    fn decode(reader: &mut Reader<'_>, version: i16) -> Result<Self, WireError> {
        let member = Self {
            member_id: string(reader, version)?,
            group_instance_id: if version >= 3 {
                nullable_string(reader, version)?
            } else {
                None
            },
            client_id: string(reader, version)?,
            client_host: string(reader, version)?,
            rebalance_timeout: if version >= 1 { reader.i32()? } else { -1 },
            session_timeout: reader.i32()?,
            subscription: bytes(reader, version)?,
            assignment: bytes(reader, version)?,
        };
        skip_tags(reader, version)?;
        Ok(member)
    }
}

fn string(reader: &mut Reader<'_>, version: i16) -> Result<String, WireError> {
    nullable_string(reader, version)?.ok_or(WireError::UnexpectedNull)
}

fn nullable_string(reader: &mut Reader<'_>, version: i16) -> Result<Option<String>, WireError> {
    let text = if version >= FLEXIBLE_VERSION {
        reader.nullable_string()?
    } else {
        reader.plain_nullable_string()?
    };
    // Written back at version 3 they must fit a plain string.
    if let Some(text) = text.filter(|text| text.len() > MAX_STRING) {
        return Err(WireError::LengthTooLarge(text.len() as u32));
    }
    Ok(text.map(str::to_owned))
}

fn bytes(reader: &mut Reader<'_>, version: i16) -> Result<Bytes, WireError> {
    let bytes = if version >= FLEXIBLE_VERSION {
        reader.bytes()?
    } else {
        reader.plain_bytes()?
    };
    Ok(Bytes::copy_from_slice(bytes))
}

fn skip_tags(reader: &mut Reader<'_>, version: i16) -> Result<(), WireError> {
    if version >= FLEXIBLE_VERSION {
        reader.skip_tags()?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "group_record_tests.rs"]
mod tests;
