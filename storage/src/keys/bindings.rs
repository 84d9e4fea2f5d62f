//! Which handle a partition has: the counter and the bindings, which sort before every partition.

use uuid::Uuid;

use super::u32_at;

/// A partition's number in this data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(pub u32);

impl Handle {
    /// The handle of the metadata partition.
    pub const METADATA: Handle = Handle(1);
}

/// A partition by the id of its topic; never by name, which may be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionId {
    /// The topic's id.
    pub topic_id: Uuid,
    /// The partition's index in the topic.
    pub partition: i32,
}

impl PartitionId {
    /// The metadata partition. Kafka reserves this topic id for it (`Uuid.METADATA_TOPIC_ID`).
    pub const METADATA: PartitionId = PartitionId {
        topic_id: Uuid::from_u128(1),
        partition: 0,
    };
}

/// Key of the next-handle counter; sorts before every binding.
pub fn next_handle() -> Vec<u8> {
    vec![0; 4]
}

/// Key that binds a partition to its handle.
pub fn binding(id: PartitionId) -> Vec<u8> {
    let mut key = vec![0; 4];
    key.extend_from_slice(id.topic_id.as_bytes());
    key.extend_from_slice(&id.partition.to_be_bytes());
    key
}

/// All bindings: `from..to`.
pub fn bindings() -> (Vec<u8>, Vec<u8>) {
    (vec![0, 0, 0, 0, 0], vec![0, 0, 0, 1])
}

/// The partition of a binding's key.
pub fn parse_binding(key: &[u8]) -> Option<PartitionId> {
    if key.len() != 24 || key[..4] != [0; 4] {
        return None;
    }
    Some(PartitionId {
        topic_id: Uuid::from_slice(&key[4..20]).ok()?,
        partition: u32_at(key, 20)? as i32,
    })
}

/// Value of a binding and of the counter.
pub fn handle_value(handle: Handle) -> Vec<u8> {
    handle.0.to_be_bytes().to_vec()
}

/// Reads a binding's value.
pub fn parse_handle(value: &[u8]) -> Option<Handle> {
    (value.len() == 4)
        .then(|| u32_at(value, 0))
        .flatten()
        .map(Handle)
}
