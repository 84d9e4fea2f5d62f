//! Record batches and Produce frames, encoded before the clock starts.
//!
//! Values are random bytes: nothing on the way can make them smaller. The batches go round and round, so what tells
//! two of them apart is their place in the log and their bytes, not a counter in each.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ApiKey, ProduceRequest, TopicName};
use kafka_protocol::protocol::{Encodable, HeaderVersion, StrBytes};
use ottla_protocol::batch::BatchBuilder;

use super::failed;
use crate::wire::frame;

/// The version of Produce used: the newest but three that names topics instead of their ids.
pub const PRODUCE_VERSION: i16 = 9;

/// Where the correlation id stands in a frame: behind size, key and version.
const CORRELATION_ID_AT: usize = 8;

/// What one batch looks like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// The most bytes of a batch, its header included.
    pub batch_bytes: usize,
    /// Bytes of each record's value; there is no key.
    pub value_bytes: usize,
}

impl Shape {
    /// Batches of exactly one record.
    pub fn single(value_bytes: usize) -> Shape {
        Shape {
            batch_bytes: 0,
            value_bytes,
        }
    }

    /// A batch with as many records as fit, at least one.
    pub fn batch(&self, random: &mut fastrand::Rng, now_ms: i64) -> Bytes {
        let mut value = vec![0; self.value_bytes];
        let mut builder = BatchBuilder::new(now_ms);
        // Length, attributes, timestamp and offset deltas, key and value lengths, header count: at most this.
        let record_bytes = self.value_bytes + 20;
        while builder.record_count() == 0
            || builder.encoded_len() + record_bytes <= self.batch_bytes
        {
            random.fill(&mut value);
            builder = builder.record(now_ms, None, Some(&value), &[]);
        }
        builder.build()
    }
}

/// A whole Produce request with one batch for one partition, `acks=all`.
#[derive(Clone, Debug)]
pub struct ProduceFrame {
    /// Where it goes.
    pub partition: i32,
    /// What it carries.
    pub batch: Bytes,
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
        Ok(ProduceFrame {
            partition,
            batch,
            bytes,
        })
    }

    /// Gives it the correlation id it is sent with next.
    pub fn number(&mut self, correlation_id: i32) {
        self.bytes[CORRELATION_ID_AT..CORRELATION_ID_AT + 4]
            .copy_from_slice(&correlation_id.to_be_bytes());
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
            };
            let batch = shape.batch(&mut random, 1_700_000_000_000);
            assert!(batch.len() <= batch_bytes && batch.len() + value_bytes + 20 > batch_bytes);
            assert!(crc_matches(&batch));
        }
        let single = Shape::single(1024).batch(&mut random, 1_700_000_000_000);
        assert_eq!(BatchHeader::parse(&single).unwrap().record_count, 1);
    }

    #[test]
    fn a_numbered_frame_decodes_to_its_batch() {
        let batch = Shape::single(10).batch(&mut fastrand::Rng::with_seed(1), 1_700_000_000_000);
        let mut frame = ProduceFrame::new("topic", 3, batch.clone()).unwrap();
        frame.number(77);
        let mut bytes = Bytes::copy_from_slice(&frame.bytes()[4..]);
        let header = RequestHeader::decode(&mut bytes, 2).unwrap();
        assert_eq!(header.correlation_id, 77);
        let request = ProduceRequest::decode(&mut bytes, PRODUCE_VERSION).unwrap();
        let data = &request.topic_data[0].partition_data[0];
        assert_eq!((data.index, data.records.as_ref()), (3, Some(&batch)));
    }
}
