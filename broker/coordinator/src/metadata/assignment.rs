//! Which brokers hold which partition: placement, and the rules for assignments a client gives.
//! Pure functions, used by the metadata machine; [`in_partition_order`] also by handlers.

use std::collections::{BTreeMap, BTreeSet};

use super::MetadataError;
use super::image::Broker;

/// Orders the (partition, replicas) pairs of a CreateTopics request: they must number the partitions
/// from 0 without a gap or a double.
pub fn in_partition_order(
    assignments: impl IntoIterator<Item = (i32, Vec<i32>)>,
) -> Result<Vec<Vec<i32>>, MetadataError> {
    let mut by_partition = BTreeMap::new();
    for (partition, replicas) in assignments {
        if by_partition.insert(partition, replicas).is_some() {
            return Err(MetadataError::InvalidReplicaAssignment(format!(
                "Found multiple manual partition assignments for partition {partition}"
            )));
        }
    }
    if !(0..)
        .zip(by_partition.keys())
        .all(|(expected, partition)| *partition == expected)
    {
        return Err(MetadataError::InvalidReplicaAssignment(
            "partitions should be a consecutive 0-based integer sequence".to_owned(),
        ));
    }
    Ok(by_partition.into_values().collect())
}

/// Checks assignments a client gave: known brokers, each at most once, the same number everywhere
/// (`replication_factor`, if the topic exists already). Returns that number.
pub(super) fn check_manual(
    assignments: &[Vec<i32>],
    brokers: &BTreeMap<i32, Broker>,
    mut replication_factor: Option<usize>,
) -> Result<usize, MetadataError> {
    let invalid = |message: String| Err(MetadataError::InvalidReplicaAssignment(message));
    for replicas in assignments {
        if replicas.is_empty() {
            return invalid(
                "The manual partition assignment includes an empty replica list.".to_owned(),
            );
        }
        let mut seen = BTreeSet::new();
        for broker in replicas {
            if !brokers.contains_key(broker) {
                return invalid(format!(
                    "The manual partition assignment includes broker {broker}, but no such broker is registered."
                ));
            }
            if !seen.insert(broker) {
                return invalid(format!(
                    "The manual partition assignment includes the broker {broker} more than once."
                ));
            }
        }
        let expected = *replication_factor.get_or_insert(replicas.len());
        if replicas.len() != expected {
            return invalid(format!(
                "The manual partition assignment includes a partition with {} replica(s), but this is not \
                 consistent with previous partitions, which have {expected} replica(s).",
                replicas.len()
            ));
        }
    }
    replication_factor.ok_or_else(|| {
        MetadataError::InvalidReplicaAssignment(
            "The manual partition assignment names no partition.".to_owned(),
        )
    })
}

/// Places the partitions `first..first + count` on brokers in turn. `spread` moves the start, so that
/// not every topic begins at the same broker.
pub(super) fn place(
    brokers: &BTreeMap<i32, Broker>,
    spread: u128,
    first: usize,
    count: usize,
    replication_factor: usize,
) -> Result<Vec<Vec<i32>>, MetadataError> {
    let ids: Vec<i32> = brokers.keys().copied().collect();
    if replication_factor > ids.len() {
        return Err(MetadataError::InvalidReplicationFactor(format!(
            "Unable to replicate the partition {replication_factor} time(s): The target replication factor of \
             {replication_factor} cannot be reached because only {} broker(s) are registered.",
            ids.len()
        )));
    }
    let start = (spread % ids.len().max(1) as u128) as usize;
    let replicas_of = |partition: usize| {
        (0..replication_factor)
            .map(|replica| ids[(start + partition + replica) % ids.len()])
            .collect()
    };
    Ok((first..first + count).map(replicas_of).collect())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn brokers(ids: &[i32]) -> BTreeMap<i32, Broker> {
        let broker = Broker {
            epoch: 1,
            incarnation: Uuid::from_u128(7),
        };
        ids.iter().map(|id| (*id, broker.clone())).collect()
    }

    #[test]
    fn assignments_are_put_in_partition_order() {
        let ordered = in_partition_order([(1, vec![2]), (0, vec![1])]);
        assert_eq!(ordered, Ok(vec![vec![1], vec![2]]));
        for bad in [&[0, 0][..], &[0, 2], &[1], &[-1, 0]] {
            let given = bad.iter().map(|partition| (*partition, vec![1]));
            assert!(
                matches!(
                    in_partition_order(given),
                    Err(MetadataError::InvalidReplicaAssignment(_))
                ),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn manual_assignments_name_known_brokers_once_and_equally_often() {
        let brokers = brokers(&[1, 2, 3]);
        assert_eq!(
            check_manual(&[vec![1, 2], vec![3, 1]], &brokers, None),
            Ok(2)
        );
        assert_eq!(check_manual(&[vec![2]], &brokers, Some(1)), Ok(1));
        for bad in [
            vec![vec![]],
            vec![vec![4]],
            vec![vec![1, 1]],
            vec![vec![1], vec![1, 2]],
            vec![],
        ] {
            assert!(check_manual(&bad, &brokers, None).is_err(), "{bad:?}");
        }
        assert!(check_manual(&[vec![1, 2]], &brokers, Some(1)).is_err());
    }

    #[test]
    fn placement_takes_brokers_in_turn_and_never_twice() {
        let brokers = brokers(&[1, 2, 3]);
        let placed = place(&brokers, 1, 0, 4, 2).unwrap();
        assert_eq!(placed, [vec![2, 3], vec![3, 1], vec![1, 2], vec![2, 3]]);
        // Partitions added later go on where the others ended.
        assert_eq!(place(&brokers, 1, 3, 1, 2).unwrap(), [vec![2, 3]]);
        assert!(matches!(
            place(&brokers, 0, 0, 1, 4),
            Err(MetadataError::InvalidReplicationFactor(_))
        ));
    }
}
