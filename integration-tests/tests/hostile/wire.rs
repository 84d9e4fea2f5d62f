//! Requests built by hand, byte by byte, and the error codes of the answers. Used by every table of this test.
//!
//! Requests are not made with the codec: most of them could not be. Answers are read with the codec, so an answer that
//! is itself malformed fails the test.

use bytes::Bytes;
use ottla_protocol::codec::messages::{
    ApiVersionsResponse, CreateTopicsResponse, DeleteRecordsResponse, FetchResponse,
    InitProducerIdResponse, ListOffsetsResponse, MetadataResponse, OffsetForLeaderEpochResponse,
    ProduceResponse,
};
use ottla_protocol::codec::protocol::{Decodable, HeaderVersion};

pub const PRODUCE: i16 = 0;
pub const FETCH: i16 = 1;
pub const LIST_OFFSETS: i16 = 2;
pub const METADATA: i16 = 3;
pub const API_VERSIONS: i16 = 18;
pub const CREATE_TOPICS: i16 = 19;
pub const DELETE_RECORDS: i16 = 21;
pub const INIT_PRODUCER_ID: i16 = 22;
pub const OFFSET_FOR_LEADER_EPOCH: i16 = 23;

/// The correlation id of every request of the tables.
pub const CORRELATION_ID: i32 = 0x0bad_cafe;

/// Bytes in the making, big-endian as Kafka's.
#[derive(Clone, Debug, Default)]
pub struct Wire(pub Vec<u8>);

impl Wire {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn i8(self, value: i8) -> Self {
        self.raw(&value.to_be_bytes())
    }

    pub fn i16(self, value: i16) -> Self {
        self.raw(&value.to_be_bytes())
    }

    pub fn i32(self, value: i32) -> Self {
        self.raw(&value.to_be_bytes())
    }

    pub fn i64(self, value: i64) -> Self {
        self.raw(&value.to_be_bytes())
    }

    /// A string of the versions that are not flexible.
    pub fn string(self, text: &str) -> Self {
        let length = i16::try_from(text.len()).expect("short text");
        self.i16(length).raw(text.as_bytes())
    }

    /// A string of the flexible versions.
    pub fn compact(self, text: &str) -> Self {
        let length = u64::try_from(text.len()).expect("short text");
        self.unsigned(length + 1).raw(text.as_bytes())
    }

    /// Bytes with a length before them; `None` is null.
    pub fn bytes(self, bytes: Option<&[u8]>) -> Self {
        match bytes {
            None => self.i32(-1),
            Some(bytes) => self
                .i32(i32::try_from(bytes.len()).expect("below 2 GiB"))
                .raw(bytes),
        }
    }

    pub fn unsigned(mut self, mut value: u64) -> Self {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    /// A zigzag varint, as inside records.
    pub fn varint(self, value: i64) -> Self {
        self.unsigned(((value << 1) ^ (value >> 63)) as u64)
    }

    /// Puts the size in front.
    pub fn framed(self) -> Vec<u8> {
        let size = i32::try_from(self.0.len()).expect("below 2 GiB");
        Wire::new().i32(size).raw(&self.0).0
    }
}

/// A header as far as the correlation id.
pub fn head(api_key: i16, version: i16) -> Wire {
    Wire::new().i16(api_key).i16(version).i32(CORRELATION_ID)
}

/// A whole header of a version that is not flexible, with a client id.
pub fn header(api_key: i16, version: i16) -> Wire {
    head(api_key, version).string("hostile")
}

/// A whole header of a flexible version.
pub fn flexible_header(api_key: i16, version: i16) -> Wire {
    header(api_key, version).unsigned(0)
}

/// ApiVersions v0: what the probe asks.
pub fn api_versions() -> Vec<u8> {
    header(API_VERSIONS, 0).framed()
}

/// Metadata v4 for these topics; unknown ones may be created.
pub fn metadata(topics: &[&str]) -> Vec<u8> {
    let count = i32::try_from(topics.len()).expect("few topics");
    let wire = topics
        .iter()
        .fold(header(METADATA, 4).i32(count), |wire, topic| {
            wire.string(topic)
        });
    wire.i8(1).framed()
}

/// One Produce request of a version below 9.
pub struct Produce<'a> {
    pub version: i16,
    pub transactional_id: Option<&'a str>,
    pub acks: i16,
    pub topic: &'a str,
    /// Index and record bytes.
    pub partitions: Vec<(i32, Option<&'a [u8]>)>,
}

impl<'a> Produce<'a> {
    /// Version 7, acks 1, one partition 0.
    pub fn of(topic: &'a str, records: &'a [u8]) -> Self {
        Self {
            version: 7,
            transactional_id: None,
            acks: 1,
            topic,
            partitions: vec![(0, Some(records))],
        }
    }

    pub fn framed(&self) -> Vec<u8> {
        let wire = header(PRODUCE, self.version);
        let wire = match self.transactional_id {
            None => wire.i16(-1),
            Some(id) => wire.string(id),
        };
        let count = i32::try_from(self.partitions.len()).expect("few partitions");
        let wire = wire
            .i16(self.acks)
            .i32(30_000)
            .i32(1)
            .string(self.topic)
            .i32(count);
        let wire = self.partitions.iter().fold(wire, |wire, (index, records)| {
            wire.i32(*index).bytes(*records)
        });
        wire.framed()
    }
}

/// A Fetch of version 11 for one topic.
pub struct Fetch<'a> {
    pub replica_id: i32,
    pub max_wait_ms: i32,
    pub min_bytes: i32,
    pub max_bytes: i32,
    pub isolation_level: i8,
    pub session: (i32, i32),
    pub topic: &'a str,
    /// Index and offset.
    pub partitions: Vec<(i32, i64)>,
    pub partition_max_bytes: i32,
    /// Sent after the request's end.
    pub trailing: usize,
}

impl<'a> Fetch<'a> {
    /// A consumer's fetch without a session that does not wait.
    pub fn of(topic: &'a str, offset: i64) -> Self {
        Self {
            replica_id: -1,
            max_wait_ms: 0,
            min_bytes: 1,
            max_bytes: 50 << 20,
            isolation_level: 0,
            session: (0, -1),
            topic,
            partitions: vec![(0, offset)],
            partition_max_bytes: 1 << 20,
            trailing: 0,
        }
    }

    pub fn framed(&self) -> Vec<u8> {
        let count = i32::try_from(self.partitions.len()).expect("fits");
        let mut wire = header(FETCH, 11)
            .i32(self.replica_id)
            .i32(self.max_wait_ms)
            .i32(self.min_bytes)
            .i32(self.max_bytes)
            .i8(self.isolation_level)
            .i32(self.session.0)
            .i32(self.session.1);
        wire = if count == 0 {
            wire.i32(0)
        } else {
            wire.i32(1).string(self.topic).i32(count)
        };
        for (index, offset) in &self.partitions {
            wire = wire
                .i32(*index)
                .i32(-1)
                .i64(*offset)
                .i64(-1)
                .i32(self.partition_max_bytes);
        }
        wire.i32(0).string("").raw(&vec![0; self.trailing]).framed()
    }
}

/// ListOffsets v1.
pub fn list_offsets(topic: &str, timestamp: i64) -> Vec<u8> {
    header(LIST_OFFSETS, 1)
        .i32(-1)
        .i32(1)
        .string(topic)
        .i32(1)
        .i32(0)
        .i64(timestamp)
        .framed()
}

/// A topic to create: name, partitions, replication factor, configs.
pub type NewTopic<'a> = (&'a str, i32, i16, &'a [(&'a str, &'a str)]);

/// CreateTopics v4.
pub fn create_topics(topics: &[NewTopic<'_>]) -> Vec<u8> {
    let count = |length: usize| i32::try_from(length).expect("few");
    let mut wire = header(CREATE_TOPICS, 4).i32(count(topics.len()));
    for (name, partitions, replication_factor, configs) in topics {
        wire = wire
            .string(name)
            .i32(*partitions)
            .i16(*replication_factor)
            .i32(0)
            .i32(count(configs.len()));
        for (key, value) in *configs {
            wire = wire.string(key).string(value);
        }
    }
    wire.i32(30_000).i8(0).framed()
}

/// InitProducerId v1.
pub fn init_producer_id(transactional_id: Option<&str>, timeout_ms: i32) -> Vec<u8> {
    let wire = header(INIT_PRODUCER_ID, 1);
    let wire = match transactional_id {
        None => wire.i16(-1),
        Some(id) => wire.string(id),
    };
    wire.i32(timeout_ms).framed()
}

/// Decodes an answer (without its size); panics unless it is exactly one well-formed response.
pub fn decode<R: Decodable + HeaderVersion>(answer: &[u8], version: i16) -> R {
    let correlation_id = answer.first_chunk().expect("an answer has a header");
    assert_eq!(i32::from_be_bytes(*correlation_id), CORRELATION_ID);
    let header = if R::header_version(version) == 0 {
        4
    } else {
        5
    };
    let mut body = Bytes::copy_from_slice(&answer[header..]);
    let response = R::decode(&mut body, version).expect("the answer can be decoded");
    assert!(body.is_empty(), "bytes after the answer");
    response
}

/// The error codes of an answer, by API key, in the order in which they stand there.
pub fn codes(api_key: i16, version: i16, answer: &[u8]) -> Vec<i16> {
    match api_key {
        PRODUCE => {
            let response: ProduceResponse = decode(answer, version);
            let topics = response.responses.iter();
            topics
                .flat_map(|topic| &topic.partition_responses)
                .map(|partition| partition.error_code)
                .collect()
        }
        FETCH => {
            let response: FetchResponse = decode(answer, version);
            if response.error_code != 0 {
                return vec![response.error_code];
            }
            let topics = response.responses.iter();
            topics
                .flat_map(|topic| &topic.partitions)
                .map(|partition| partition.error_code)
                .collect()
        }
        LIST_OFFSETS => {
            let response: ListOffsetsResponse = decode(answer, version);
            let topics = response.topics.iter();
            topics
                .flat_map(|topic| &topic.partitions)
                .map(|partition| partition.error_code)
                .collect()
        }
        METADATA => {
            let response: MetadataResponse = decode(answer, version);
            response
                .topics
                .iter()
                .map(|topic| topic.error_code)
                .collect()
        }
        API_VERSIONS => {
            let response: ApiVersionsResponse = decode(answer, version);
            vec![response.error_code]
        }
        CREATE_TOPICS => {
            let response: CreateTopicsResponse = decode(answer, version);
            response
                .topics
                .iter()
                .map(|topic| topic.error_code)
                .collect()
        }
        DELETE_RECORDS => {
            let response: DeleteRecordsResponse = decode(answer, version);
            let topics = response.topics.iter();
            topics
                .flat_map(|topic| &topic.partitions)
                .map(|partition| partition.error_code)
                .collect()
        }
        INIT_PRODUCER_ID => {
            let response: InitProducerIdResponse = decode(answer, version);
            vec![response.error_code]
        }
        OFFSET_FOR_LEADER_EPOCH => {
            let response: OffsetForLeaderEpochResponse = decode(answer, version);
            let topics = response.topics.iter();
            topics
                .flat_map(|topic| &topic.partitions)
                .map(|partition| partition.error_code)
                .collect()
        }
        other => crate::groups::codes(other, version, answer),
    }
}
