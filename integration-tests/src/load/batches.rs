//! Record batches and Produce frames, encoded before the clock starts.
//!
//! Values are random bytes: nothing on the way can make them smaller. The batches go round and round; each time one is
//! sent it gets the time of its sending, as a producer's batches have growing timestamps, and with it a new CRC. That
//! is computed from the header and from what is known of the records, without reading them again.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ApiKey, ProduceRequest, TopicName};
use kafka_protocol::protocol::{Encodable, HeaderVersion, StrBytes};
use ottla_protocol::batch::{BatchBuilder, HEADER_LEN};

use super::failed;
use crate::wire::frame;

/// The version of Produce used: the newest but three that names topics instead of their ids.
pub const PRODUCE_VERSION: i16 = 9;

/// Where the correlation id stands in a frame: behind size, key and version.
const CORRELATION_ID_AT: usize = 8;
/// Three empty tag sections follow the batch: of the partition, the topic and the request.
const AFTER_BATCH: usize = 3;

/// Where fields stand in a batch.
pub(super) const CRC_AT: usize = 17;
pub(super) const ATTRIBUTES_AT: usize = 21;
pub(super) const TIMESTAMPS_AT: usize = 27;
pub(super) const PRODUCER_ID_AT: usize = 43;

/// What one batch looks like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// The most bytes of a batch, its header included.
    pub batch_bytes: usize,
    /// Bytes of each record's value.
    pub value_bytes: usize,
    /// Of how many keys each record takes one; 0: records have no key.
    pub keys: u32,
}

impl Shape {
    /// Batches of exactly one record.
    pub fn single(value_bytes: usize) -> Shape {
        Shape {
            batch_bytes: 0,
            value_bytes,
            keys: 0,
        }
    }

    /// A batch with as many records as fit, at least one.
    pub fn batch(&self, random: &mut fastrand::Rng, now_ms: i64) -> Bytes {
        // Length, attributes, timestamp and offset deltas, a key, key and value lengths, header count: at most this.
        let record_bytes = self.value_bytes + 24;
        self.fill(random, now_ms, |batch| {
            batch.encoded_len() + record_bytes <= self.batch_bytes
        })
    }

    /// A batch with so many records, whatever its size.
    pub fn batch_of(&self, records: usize, random: &mut fastrand::Rng, now_ms: i64) -> Bytes {
        self.fill(random, now_ms, |batch| {
            (batch.record_count() as usize) < records
        })
    }

    fn fill(
        &self,
        random: &mut fastrand::Rng,
        now_ms: i64,
        wants_more: impl Fn(&BatchBuilder) -> bool,
    ) -> Bytes {
        let mut value = vec![0; self.value_bytes];
        let mut builder = BatchBuilder::new(now_ms);
        while builder.record_count() == 0 || wants_more(&builder) {
            random.fill(&mut value);
            let key = (self.keys > 0).then(|| random.u32(..self.keys).to_be_bytes());
            let key = key.as_ref().map(<[u8; 4]>::as_slice);
            builder = builder.record(now_ms, key, Some(&value), &[]);
        }
        builder.build()
    }
}

/// What the records of a batch make of the CRC-32C of the bytes before them.
///
/// A CRC is linear: that of two parts is that of the second part, and a product of the first part's with a matrix over
/// GF(2) that depends on the second part's length only.
#[derive(Clone, Copy, Debug)]
struct CrcOfRecords {
    own: u32,
    columns: [u32; 32],
}

impl CrcOfRecords {
    fn new(records: &[u8]) -> CrcOfRecords {
        let column = |bit: usize| crc32c::crc32c_combine(1_u32 << bit, 0, records.len());
        CrcOfRecords {
            own: crc32c::crc32c(records),
            columns: std::array::from_fn(column),
        }
    }

    fn behind(&self, header: &[u8]) -> u32 {
        let before = crc32c::crc32c(header);
        let bits = (0..32).filter(|bit| before >> bit & 1 == 1);
        bits.fold(self.own, |crc, bit| crc ^ self.columns[bit])
    }
}

/// A whole Produce request with one batch for one partition, `acks=all`.
#[derive(Clone, Debug)]
pub struct ProduceFrame {
    /// Where it goes.
    pub partition: i32,
    /// What it carries, but for timestamps and CRC.
    pub batch: Bytes,
    crc: CrcOfRecords,
    bytes: Vec<u8>,
}

impl ProduceFrame {
    /// Encodes it.
    pub fn new(topic: &str, partition: i32, batch: Bytes) -> std::io::Result<ProduceFrame> {
        let data = PartitionProduceData::default()
            .with_index(partition)
            .with_records(Some(batch.clone()));
        let topic = TopicProduceData::default()
            .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
            .with_partition_data(vec![data]);
        let request = ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(30_000)
            .with_topic_data(vec![topic]);
        let mut body = BytesMut::new();
        request
            .encode(&mut body, PRODUCE_VERSION)
            .map_err(|error| failed(format!("a Produce request is not encoded: {error}")))?;
        let header_version = ProduceRequest::header_version(PRODUCE_VERSION);
        let key = ApiKey::Produce as i16;
        let bytes = frame(key, PRODUCE_VERSION, 0, header_version, &body).to_vec();
        let frame = ProduceFrame {
            partition,
            crc: CrcOfRecords::new(&batch[HEADER_LEN..]),
            batch,
            bytes,
        };
        let at = frame.batch_at();
        assert_eq!(
            frame.bytes[at..at + frame.batch.len()],
            frame.batch,
            "the batch stands before three empty tag sections"
        );
        Ok(frame)
    }

    fn batch_at(&self) -> usize {
        self.bytes.len() - AFTER_BATCH - self.batch.len()
    }

    /// Makes it ready to be sent again.
    pub fn prepare(&mut self, correlation_id: i32, timestamp_ms: i64) {
        self.bytes[CORRELATION_ID_AT..CORRELATION_ID_AT + 4]
            .copy_from_slice(&correlation_id.to_be_bytes());
        let at = self.batch_at();
        let header = &mut self.bytes[at..at + HEADER_LEN];
        // Base and largest timestamp: the deltas of the records are 0.
        header[TIMESTAMPS_AT..TIMESTAMPS_AT + 8].copy_from_slice(&timestamp_ms.to_be_bytes());
        header[TIMESTAMPS_AT + 8..PRODUCER_ID_AT].copy_from_slice(&timestamp_ms.to_be_bytes());
        let crc = self.crc.behind(&header[ATTRIBUTES_AT..]);
        header[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
    }

    /// What goes over the wire, size included.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::RequestHeader;
    use kafka_protocol::protocol::Decodable;
    use ottla_protocol::batch::{BatchHeader, crc_matches};

    #[test]
    fn a_batch_is_as_full_as_its_shape_allows() {
        let mut random = fastrand::Rng::with_seed(1);
        for (batch_bytes, value_bytes) in [(1 << 20, 1024), (64 << 10, 1024), (4096, 100)] {
            let shape = Shape {
                batch_bytes,
                value_bytes,
                keys: 0,
            };
            let batch = shape.batch(&mut random, 1_700_000_000_000);
            assert!(batch.len() <= batch_bytes && batch.len() + value_bytes + 20 > batch_bytes);
            assert!(crc_matches(&batch));
        }
        for records in [1, 2, 15] {
            let batch = Shape::single(1024).batch_of(records, &mut random, 1_700_000_000_000);
            let header = BatchHeader::parse(&batch).unwrap();
            assert_eq!(header.record_count as usize, records);
        }
        let single = Shape::single(1024).batch(&mut random, 1_700_000_000_000);
        assert_eq!(BatchHeader::parse(&single).unwrap().record_count, 1);
    }

    #[test]
    fn a_prepared_frame_decodes_to_its_batch_at_another_time() {
        let mut random = fastrand::Rng::with_seed(1);
        for value_bytes in [10, 1_000, 60_000] {
            let batch = Shape::single(value_bytes).batch(&mut random, 1_700_000_000_000);
            let mut frame = ProduceFrame::new("topic", 3, batch.clone()).unwrap();
            for timestamp in [1_700_000_000_001, 1_800_000_000_000] {
                frame.prepare(77, timestamp);
                let mut bytes = Bytes::copy_from_slice(&frame.bytes()[4..]);
                let header = RequestHeader::decode(&mut bytes, 2).unwrap();
                assert_eq!(header.correlation_id, 77);
                let request = ProduceRequest::decode(&mut bytes, PRODUCE_VERSION).unwrap();
                let data = &request.topic_data[0].partition_data[0];
                assert_eq!(data.index, 3);
                let sent = data.records.as_ref().unwrap();
                assert!(crc_matches(sent));
                let header = BatchHeader::parse(sent).unwrap();
                assert_eq!(
                    (header.base_timestamp, header.max_timestamp),
                    (timestamp, timestamp)
                );
                assert_eq!(sent[PRODUCER_ID_AT..], batch[PRODUCER_ID_AT..]);
            }
        }
    }
}
