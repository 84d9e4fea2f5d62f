//! Names of topics by their ids, from the metadata partition of a store that is only looked at. Called by `check`.
//!
//! Where the metadata cannot be read, as may be in a damaged directory, a topic goes by its id.

use std::ops::ControlFlow;

use ottla_coordinator::metadata::Image;
use ottla_coordinator::record::MetadataRecord;
use ottla_protocol::records;
use ottla_storage::engine::{Engine, Family, Start};
use ottla_storage::keys::{self, Handle, PartitionId};

/// A batch of the metadata partition is far smaller than this once decompressed.
const LOAD_BYTES: usize = 1 << 20;

/// What the metadata partition calls itself in Kafka.
const METADATA_TOPIC: &str = "__cluster_metadata";

/// The metadata image, as far as it could be read.
#[derive(Debug, Default)]
pub(super) struct Names(Image);

impl Names {
    /// Reads what can be read.
    pub(super) fn read(engine: &dyn Engine) -> Self {
        let mut image = Image::default();
        let (from, to) = keys::batches(Handle::METADATA, 0);
        let scanned = engine.scan(Family::Log, Start::At(&from), &to, &mut |_, value| {
            let each = records::for_each_record(value, LOAD_BYTES.max(value.len()), |record| {
                let applied = record
                    .value
                    .and_then(|value| MetadataRecord::decode(value).ok())
                    .map(|record| image.apply(&record).is_ok());
                match applied {
                    Some(false) => ControlFlow::Break(()),
                    _ => ControlFlow::Continue(()),
                }
            });
            match each {
                Ok(_) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        });
        if let Err(error) = scanned {
            super::remark(format_args!("not all names of topics can be read: {error}"));
        }
        Self(image)
    }

    /// The name of a partition's topic.
    pub(super) fn topic(&self, id: PartitionId) -> String {
        if id == PartitionId::METADATA {
            return METADATA_TOPIC.to_owned();
        }
        match self.0.topics.get(&id.topic_id) {
            Some(topic) => topic.name.to_string(),
            None => id.topic_id.to_string(),
        }
    }
}
