//! The Fetch response as a list of segments: encoded fields, and batch bytes as they are, for a vectored write.
//!
//! Used by the connection writer in place of the codec's encoder, which copies every batch. It never looks into the
//! batches and copies none of their bytes. Invariant: the segments together are, byte for byte, what the codec writes
//! for the same response with the same bytes as `records`, at every version from 4 to 18; the small structures
//! inside are left to the codec. A partition without batches has empty records, not null, as Kafka answers.
//!
//! Versions: 5 log start offset; 7 top-level error and session id; 11 preferred read replica; 12 flexible, with
//! diverging epoch, current leader and snapshot id as tags; 13 topic id for the name; 16 node endpoints as a tag.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::FetchResponse;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::protocol::{Encodable, HeaderVersion, Message};

use crate::header::put_response_header;
use crate::varint::put_unsigned;

/// A part of a response: encoded fields, or batches wherever they are.
pub trait Segment: Clone + From<Bytes> {
    /// Its length in bytes.
    fn size(&self) -> usize;
}

impl Segment for Bytes {
    fn size(&self) -> usize {
        self.len()
    }
}

/// Why a response cannot be written. All are mistakes of the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Below 4 or above 18.
    #[error("fetch response version {0} is not supported")]
    Version(i16),
    /// The list of records does not have an entry per partition.
    #[error("records for {records} partitions, response with {partitions}")]
    PartitionCount {
        /// Partitions of the response.
        partitions: usize,
        /// Entries of the list.
        records: usize,
    },
    /// Records belong into the list.
    #[error("response holds records of its own")]
    RecordsInResponse,
    /// Lengths are 32 bits with a sign.
    #[error("fetch response of {0} bytes is too large")]
    TooLarge(usize),
    /// What the codec says, for instance of a field that the version does not have.
    #[error("fetch response cannot be encoded: {0}")]
    Codec(String),
}

/// Encodes a whole frame: 4 bytes of size, response header, body.
///
/// `records` has an entry per partition, in the order of `response.responses` and of the partitions in each; the
/// batches of a partition may be in any number of pieces.
pub fn encode<S: Segment>(
    correlation_id: i32,
    response: &FetchResponse,
    records: &[Vec<S>],
    version: i16,
) -> Result<Vec<S>, EncodeError> {
    let versions = FetchResponse::VERSIONS;
    if version < versions.min || version > versions.max {
        return Err(EncodeError::Version(version));
    }
    let partitions: usize = response
        .responses
        .iter()
        .map(|topic| topic.partitions.len())
        .sum();
    if partitions != records.len() {
        return Err(EncodeError::PartitionCount {
            partitions,
            records: records.len(),
        });
    }
    let mut writer = Writer {
        version,
        fields: BytesMut::with_capacity(128 + 96 * partitions),
        cuts: Vec::new(),
    };
    writer.fields.put_i32(0);
    put_response_header(
        &mut writer.fields,
        correlation_id,
        FetchResponse::header_version(version),
    );
    writer.response(response, records)?;
    writer.finish()
}

/// The fields so far, and where batches come in between.
struct Writer<'r, S> {
    version: i16,
    fields: BytesMut,
    cuts: Vec<(usize, &'r [S])>,
}

impl<'r, S: Segment> Writer<'r, S> {
    fn flexible(&self) -> bool {
        self.version >= 12
    }

    fn response(
        &mut self,
        response: &FetchResponse,
        records: &'r [Vec<S>],
    ) -> Result<(), EncodeError> {
        self.fields.put_i32(response.throttle_time_ms);
        if self.version >= 7 {
            self.fields.put_i16(response.error_code);
            self.fields.put_i32(response.session_id);
        } else if response.session_id != 0 {
            return Err(not_available("session_id"));
        }
        self.array_len(response.responses.len())?;
        let mut records = records.iter();
        for topic in &response.responses {
            self.topic(topic, &mut records)?;
        }
        if self.flexible() {
            let endpoints = self.version >= 16 && !response.node_endpoints.is_empty();
            self.unsigned(usize::from(endpoints) + response.unknown_tagged_fields.len())?;
            if endpoints {
                let mut array = Writer::<S> {
                    version: self.version,
                    fields: BytesMut::new(),
                    cuts: Vec::new(),
                };
                array.array(&response.node_endpoints)?;
                self.unsigned(0)?;
                self.unsigned(array.fields.len())?;
                self.fields.put_slice(&array.fields);
            }
            self.unknown_tags(&response.unknown_tagged_fields)?;
        }
        Ok(())
    }

    fn topic(
        &mut self,
        topic: &FetchableTopicResponse,
        records: &mut std::slice::Iter<'r, Vec<S>>,
    ) -> Result<(), EncodeError> {
        match self.version {
            ..=12 => self.name(&topic.topic.0)?,
            13.. => self.fields.put_slice(topic.topic_id.as_bytes()),
        }
        self.array_len(topic.partitions.len())?;
        for (partition, records) in topic.partitions.iter().zip(records) {
            self.partition(partition, records)?;
        }
        if self.flexible() {
            self.unsigned(topic.unknown_tagged_fields.len())?;
            self.unknown_tags(&topic.unknown_tagged_fields)?;
        }
        Ok(())
    }

    fn partition(
        &mut self,
        partition: &PartitionData,
        records: &'r [S],
    ) -> Result<(), EncodeError> {
        if partition
            .records
            .as_ref()
            .is_some_and(|records| !records.is_empty())
        {
            return Err(EncodeError::RecordsInResponse);
        }
        self.fields.put_i32(partition.partition_index);
        self.fields.put_i16(partition.error_code);
        self.fields.put_i64(partition.high_watermark);
        self.fields.put_i64(partition.last_stable_offset);
        if self.version >= 5 {
            self.fields.put_i64(partition.log_start_offset);
        }
        match &partition.aborted_transactions {
            Some(aborted) => self.array(aborted)?,
            None if self.flexible() => self.unsigned(0)?,
            None => self.fields.put_i32(-1),
        }
        if self.version >= 11 {
            self.fields.put_i32(partition.preferred_read_replica.0);
        } else if partition.preferred_read_replica.0 != -1 {
            return Err(not_available("preferred_read_replica"));
        }

        let len: usize = records.iter().map(S::size).sum();
        let wire_len = i32::try_from(len).map_err(|_| EncodeError::TooLarge(len))?;
        if self.flexible() {
            self.unsigned(len + 1)?;
        } else {
            self.fields.put_i32(wire_len);
        }
        if len > 0 {
            self.cuts.push((self.fields.len(), records));
        }
        if self.flexible() {
            self.partition_tags(partition)?;
        }
        Ok(())
    }

    fn partition_tags(&mut self, partition: &PartitionData) -> Result<(), EncodeError> {
        let diverging_epoch = set(&partition.diverging_epoch);
        let current_leader = set(&partition.current_leader);
        let snapshot_id = set(&partition.snapshot_id);
        let known = [
            diverging_epoch.is_some(),
            current_leader.is_some(),
            snapshot_id.is_some(),
        ];
        let known = known.into_iter().filter(|set| *set).count();
        self.unsigned(known + partition.unknown_tagged_fields.len())?;
        self.tag(0, diverging_epoch)?;
        self.tag(1, current_leader)?;
        self.tag(2, snapshot_id)?;
        self.unknown_tags(&partition.unknown_tagged_fields)
    }

    fn tag(&mut self, tag: usize, value: Option<&impl Encodable>) -> Result<(), EncodeError> {
        let Some(value) = value else { return Ok(()) };
        self.unsigned(tag)?;
        self.unsigned(value.compute_size(self.version).map_err(codec_error)?)?;
        value
            .encode(&mut self.fields, self.version)
            .map_err(codec_error)
    }

    fn unknown_tags(
        &mut self,
        tags: &std::collections::BTreeMap<i32, Bytes>,
    ) -> Result<(), EncodeError> {
        for (tag, value) in tags {
            self.unsigned(
                usize::try_from(*tag).map_err(|_| EncodeError::Codec(format!("tag {tag}")))?,
            )?;
            self.unsigned(value.len())?;
            self.fields.put_slice(value);
        }
        Ok(())
    }

    fn name(&mut self, name: &str) -> Result<(), EncodeError> {
        let len = i16::try_from(name.len()).map_err(|_| EncodeError::TooLarge(name.len()))?;
        if self.flexible() {
            self.unsigned(name.len() + 1)?;
        } else {
            self.fields.put_i16(len);
        }
        self.fields.put_slice(name.as_bytes());
        Ok(())
    }

    fn array(&mut self, elements: &[impl Encodable]) -> Result<(), EncodeError> {
        self.array_len(elements.len())?;
        elements
            .iter()
            .try_for_each(|element| element.encode(&mut self.fields, self.version))
            .map_err(codec_error)
    }

    fn array_len(&mut self, len: usize) -> Result<(), EncodeError> {
        if self.flexible() {
            self.unsigned(len + 1)
        } else {
            self.fields
                .put_i32(i32::try_from(len).map_err(|_| EncodeError::TooLarge(len))?);
            Ok(())
        }
    }

    fn unsigned(&mut self, value: usize) -> Result<(), EncodeError> {
        let value = u32::try_from(value).map_err(|_| EncodeError::TooLarge(value))?;
        put_unsigned(&mut self.fields, u64::from(value));
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<S>, EncodeError> {
        let batches = self.cuts.iter().flat_map(|(_, records)| *records);
        let frame = self.fields.len() - 4 + batches.map(S::size).sum::<usize>();
        let size = i32::try_from(frame).map_err(|_| EncodeError::TooLarge(frame))?;
        self.fields[..4].copy_from_slice(&size.to_be_bytes());

        let mut fields = self.fields.freeze();
        let pieces: usize = self.cuts.iter().map(|(_, records)| records.len() + 1).sum();
        let mut segments = Vec::with_capacity(pieces + 1);
        let mut written = 0;
        for (at, records) in self.cuts {
            segments.push(fields.split_to(at - written).into());
            written = at;
            segments.extend(records.iter().filter(|piece| piece.size() > 0).cloned());
        }
        if !fields.is_empty() {
            segments.push(fields.into());
        }
        Ok(segments)
    }
}

/// A tagged field that is not at its default.
fn set<T: Default + PartialEq>(value: &T) -> Option<&T> {
    (*value != T::default()).then_some(value)
}

fn not_available(field: &str) -> EncodeError {
    EncodeError::Codec(format!("{field} is set but not available in this version"))
}

fn codec_error(error: impl std::fmt::Display) -> EncodeError {
    EncodeError::Codec(error.to_string())
}

#[cfg(test)]
#[path = "fetch_response_tests.rs"]
mod tests;
