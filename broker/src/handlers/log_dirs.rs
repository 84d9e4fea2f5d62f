//! The data directory shown: DescribeLogDirs.
//!
//! Called by the router. Sizes are what the partitions' logs count, room on the disk comes from the operating system.
//! Nothing here changes anything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use ottla_protocol::error_code::ErrorCode;
use ottla_storage::error::EngineError;

use super::apart;
use crate::Broker;
use crate::partitions::LocalTopic;
use crate::router::Ctx;

/// The first version with the room on the disk (KIP-827).
const ROOM_SINCE: i16 = 4;

/// What a size is where it is not known (Kafka's `UNKNOWN_VOLUME_BYTES`).
const UNKNOWN_BYTES: i64 = -1;

/// DescribeLogDirs, versions 1 to 4.
///
/// - v3: an error of the whole request, which only access control would need
/// - v4: size and room of the volume
///
/// There is one directory. Null topics ask for all partitions; of those that are named, the ones that do not
/// exist are left out, as in Kafka. No replica lags or is about to move here. A directory that can no longer be
/// written to safely is told as KAFKA_STORAGE_ERROR, without partitions; one that is full is not.
pub async fn describe_log_dirs(
    ctx: Ctx,
    request: DescribeLogDirsRequest,
) -> DescribeLogDirsResponse {
    let broker = ctx.broker.clone();
    let version = ctx.api_version;
    let described = apart(move || described(&broker, request, version)).await;
    let mut response = DescribeLogDirsResponse::default();
    match described {
        Ok(result) => response.results = vec![result],
        Err(code) => response.error_code = code.code(),
    }
    response
}

fn described(
    broker: &Broker,
    request: DescribeLogDirsRequest,
    version: i16,
) -> DescribeLogDirsResult {
    let dir = &broker.config.log_dir;
    let mut result = DescribeLogDirsResult::default();
    let shown = std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
    result.log_dir = StrBytes::from_string(shown.display().to_string());
    if version >= ROOM_SINCE {
        (result.total_bytes, result.usable_bytes) = room(dir);
    }
    let offline = match broker.log.failure() {
        None | Some(EngineError::Full(_)) => false,
        Some(EngineError::Io(_) | EngineError::Corruption(_) | EngineError::Failed(_)) => true,
    };
    if offline {
        result.error_code = ErrorCode::KafkaStorageError.code();
    } else {
        result.topics = topics(wanted(broker, request));
    }
    result
}

/// Topics by name, each with the partitions asked for that it has.
type Wanted = BTreeMap<Arc<str>, (Arc<LocalTopic>, BTreeSet<i32>)>;

fn wanted(broker: &Broker, request: DescribeLogDirsRequest) -> Wanted {
    let mut wanted = Wanted::new();
    let Some(topics) = request.topics else {
        for topic in broker.partitions.all() {
            let all = (0..).zip(&topic.partitions).map(|(index, _)| index);
            let all = all.collect();
            wanted.insert(topic.name.clone(), (topic, all));
        }
        return wanted;
    };
    for named in topics {
        let Some(topic) = broker.partitions.by_name(&named.topic) else {
            continue;
        };
        let indexes = named.partitions.into_iter();
        let held = indexes.filter(|index| topic.partition(*index).is_some());
        let (_, indexes) = wanted
            .entry(topic.name.clone())
            .or_insert_with(|| (topic.clone(), BTreeSet::new()));
        indexes.extend(held);
    }
    wanted.retain(|_, (_, indexes)| !indexes.is_empty());
    wanted
}

fn topics(wanted: Wanted) -> Vec<DescribeLogDirsTopic> {
    wanted
        .into_values()
        .map(|(topic, indexes)| {
            let partitions = indexes.into_iter().filter_map(|index| {
                let bytes = topic.partition(index)?.size_bytes();
                let mut answer = DescribeLogDirsPartition::default();
                answer.partition_index = index;
                answer.partition_size = i64::try_from(bytes).unwrap_or(i64::MAX);
                Some(answer)
            });
            let mut answer = DescribeLogDirsTopic::default();
            answer.name = TopicName(StrBytes::from_string(topic.name.to_string()));
            answer.partitions = partitions.collect();
            answer
        })
        .collect()
}

/// Bytes of the volume, and those that this process may still use.
fn room(dir: &Path) -> (i64, i64) {
    let Ok(space) = crate::disk::space(dir) else {
        return (UNKNOWN_BYTES, UNKNOWN_BYTES);
    };
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    (bytes(space.total_bytes), bytes(space.free_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_volume_has_a_size_and_a_missing_one_has_none() {
        let (total, usable) = room(&std::env::temp_dir());
        assert!(0 < usable && usable < total, "{usable} of {total}");
        assert_eq!(room(Path::new("/no/such/folder")), (-1, -1));
    }
}
